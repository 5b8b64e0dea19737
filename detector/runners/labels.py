"""Recall and false alarms of a replay, by the groups that a labels file names."""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["BadLabels", "Group", "Label", "read_labels", "tally"]


class BadLabels(ValueError):
    """The labels file cannot be used; says why."""


class Label(msgspec.Struct, frozen=True):
    """Whether an account harvests, and the group it is reported in."""

    harvesting: bool
    group: str = ""


class Group(msgspec.Struct, frozen=True):
    """One line of the report. Accounts that the log does not have are not counted."""

    group: str
    harvesting: bool
    accounts: int
    enforced: int

    @property
    def share(self) -> float:
        """Of its accounts, those enforced: recall of a harvesting group, else false alarms."""
        return self.enforced / self.accounts


def read_labels(file: Path) -> dict[str, Label]:
    """Account → label, from JSON: `true`, `false`, or `{"harvesting": bool, "group": str}`.

    Raises:
        BadLabels: the file cannot be read, or is not of this form.
    """
    try:
        raw = msgspec.json.decode(file.read_bytes(), type=dict[str, bool | Label])
    except OSError as error:
        raise BadLabels(f"{file}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadLabels(f"{file}: {error}") from None
    return {
        account: label if isinstance(label, Label) else Label(label)
        for account, label in raw.items()
    }


def tally(
    labels: dict[str, Label], seen: Iterable[str], enforced: Container[str]
) -> tuple[list[Group], dict[str, Any]]:
    """The groups, harvesting ones first, and the totals for summary.json.

    Args:
        labels: account to label.
        seen: the log's accounts.
        enforced: accounts with at least one decision of throttle or stronger.
    """
    counts: dict[tuple[bool, str], list[int]] = {}
    unlabelled = 0
    for account in seen:
        label = labels.get(account)
        if label is None:
            unlabelled += 1
            continue
        name = label.group or ("harvesting" if label.harvesting else "customers")
        count = counts.setdefault((not label.harvesting, name), [0, 0])
        count[0] += 1
        count[1] += account in enforced
    groups = [Group(name, not benign, *count) for (benign, name), count in sorted(counts.items())]
    caught, false = (_total(groups, harvesting) for harvesting in (True, False))
    harvesting_groups = [group.share for group in groups if group.harvesting]
    totals = {
        "recall": caught.share if caught.accounts else None,
        "recall_mean_over_groups": (
            sum(harvesting_groups) / len(harvesting_groups) if harvesting_groups else None
        ),
        "false_per_1000": 1000.0 * false.share if false.accounts else None,
        "harvesting": caught.accounts,
        "customers": false.accounts,
        "unlabelled": unlabelled,
        "groups": [
            {**msgspec.to_builtins(group), "share": round(group.share, 6)} for group in groups
        ],
    }
    return groups, totals


def _total(groups: list[Group], harvesting: bool) -> Group:
    chosen = [group for group in groups if group.harvesting == harvesting]
    return Group("", harvesting, sum(g.accounts for g in chosen), sum(g.enforced for g in chosen))
