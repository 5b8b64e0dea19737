"""What a benchmark counted, from the judged accounts of many weeks."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from benchmarks.detection.statistics import (
    Share,
    clustered,
    mean_of_rows,
    pooled,
    upper_bound,
)
from benchmarks.detection.weeks import Judged

__all__ = [
    "TRAITS",
    "Detection",
    "FalseAlarms",
    "Observed",
    "Row",
    "by_form",
    "by_kind",
    "by_row",
    "by_trait",
    "detection",
    "false_alarms",
    "natural",
    "quick_campaigns",
]

Observed = Sequence[tuple[int, Sequence[Judged]]]  # (seed of the week, its accounts)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Harvesting accounts that were drawn alike."""

    name: str
    accounts: Share  # enforced, clustered by campaign
    campaigns: Share  # of which at least half of the accounts were enforced
    requests_before: float | None  # median of the enforced accounts
    hours_before: float | None  # the same, since the account's first request
    denied: float  # share of all their answers that came after the enforcement


class FalseAlarms(msgspec.Struct, frozen=True, kw_only=True):
    """Customers enforced: `share` of account-weeks, and the exact upper bound of 95 %."""

    name: str
    share: Share
    upper: float


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """One detector at one operating point."""

    name: str
    point: str
    false: FalseAlarms
    rows_mean: Share  # mean of the rows without natural harvesting
    accounts: Share  # all harvesting accounts, clustered by campaign
    campaigns: Share
    worst_row: str
    worst: float
    natural: Share  # natural harvesting over at least 50 accounts
    rows: dict[str, float]


Trait = Callable[[Mapping[str, str | float]], str | None]


def _band(name: str, bounds: Sequence[float], words: Sequence[str]) -> Trait:
    def band(traits: Mapping[str, str | float]) -> str | None:
        if name not in traits:
            return None
        value = float(traits[name])
        return next(
            (word for bound, word in zip(bounds, words, strict=False) if value <= bound), words[-1]
        )

    return band


def _named(name: str) -> Trait:
    return lambda traits: str(traits[name]) if name in traits else None


def _flag(name: str) -> Trait:
    return lambda traits: ("yes" if traits[name] else "no") if name in traits else None


def _links(traits: Mapping[str, str | float]) -> str | None:
    shared = sorted(key.removeprefix("shared_") for key in traits if key.startswith("shared_"))
    return " + ".join(shared) or "nothing"


_DAY: Final = 86_400.0
TRAITS: Final[dict[str, Trait]] = {
    "timing": _named("timing"),
    "assignment": _named("assignment"),
    "cover traffic": _band(
        "cover", (0.0, 0.3, 0.6), ("none", "up to 30 %", "up to 60 %", "60 to 90 %")
    ),
    "joining": _band("joining", (0.0, 600.0, _DAY), ("at once", "minutes", "a day", "days")),
    "length-matched": _flag("length_matched"),
    "low and slow": _flag("low_and_slow"),
    "shares": _links,
}


def natural(one: Judged) -> bool:
    """Whether an account harvests with what ordinary customers send."""
    return one.label.group.startswith("natural")


def _campaigns(seen: Observed, keep: Callable[[Judged], bool]) -> dict[str, list[Judged]]:
    """Campaign of a week → its accounts; one that was judged several times counts once, wholly."""
    found: dict[str, list[Judged]] = defaultdict(list)
    for seed, accounts in seen:
        for one in accounts:
            if one.label.harvesting and keep(one):
                found[f"{seed}/{one.label.campaign}"].append(one)
    return found


def _counts(campaigns: Iterable[Sequence[Judged]]) -> list[tuple[float, int]]:
    return [(sum(one.enforced for one in accounts), len(accounts)) for accounts in campaigns]


def _halves(campaigns: Iterable[Sequence[Judged]]) -> Share:
    return pooled([2 * hits >= of for hits, of in _counts(campaigns)])


def _row(name: str, campaigns: Mapping[str, Sequence[Judged]]) -> Row:
    every = [one for accounts in campaigns.values() for one in accounts]
    caught = [one for one in every if one.enforced]
    return Row(
        name=name,
        accounts=clustered(_counts(campaigns.values())),
        campaigns=_halves(campaigns.values()),
        requests_before=statistics.median(o.asked_before for o in caught) if caught else None,
        hours_before=(
            statistics.median((o.enforced_at - o.first) / 3600.0 for o in caught)
            if caught
            else None
        ),
        denied=sum(o.denied for o in every) / max(sum(o.asked for o in every), 1),
    )


def by_row(seen: Observed) -> list[Row]:
    """One row for each family and size, in the order of their names."""
    rows: dict[str, dict[str, list[Judged]]] = defaultdict(dict)
    for campaign, accounts in _campaigns(seen, lambda one: True).items():
        rows[accounts[0].label.group][campaign] = accounts
    return [_row(name, rows[name]) for name in sorted(rows, key=_group_order)]


def _group_order(name: str) -> tuple[str, int, str]:
    family, _, size = name.rpartition(" x")
    return (family, int(size), name) if size.isdigit() else (name, 0, name)


def by_trait(seen: Observed) -> dict[str, list[Row]]:
    """Trait → a row for each of its values; natural harvesting is left out."""
    found: dict[str, list[Row]] = {}
    campaigns = _campaigns(seen, lambda one: not natural(one))
    for trait, read in TRAITS.items():
        values: dict[str, dict[str, list[Judged]]] = defaultdict(dict)
        for campaign, accounts in campaigns.items():
            value = read(accounts[0].label.traits)
            if value is not None:
                values[value][campaign] = accounts
        if len(values) > 1:
            found[trait] = [_row(value, values[value]) for value in sorted(values)]
    return found


def by_form(seen: Observed) -> list[Row]:
    """One row for each form of campaign (adversaries.FORMS), without natural harvesting."""
    forms: dict[str, dict[str, list[Judged]]] = defaultdict(dict)
    for campaign, accounts in _campaigns(seen, lambda one: not natural(one)).items():
        forms[str(accounts[0].label.traits.get("form", "plain"))][campaign] = accounts
    return [_row(form, forms[form]) for form in sorted(forms)]


def quick_campaigns(seen: Observed) -> Row:
    """Campaigns over at least 50 accounts with 60 to 120 requests each, natural ones left out."""
    campaigns = {
        name: accounts
        for name, accounts in _campaigns(seen, lambda one: not natural(one)).items()
        if float(accounts[0].label.traits.get("size", 0)) >= 50
        and 60 <= statistics.median(one.asked for one in accounts) <= 120
    }
    return _row("50 accounts and more, 60-120 requests each", campaigns)


def false_alarms(seen: Observed, name: str = "all") -> FalseAlarms:
    """Customers enforced, over all weeks."""
    hits = [one.enforced for _, accounts in seen for one in accounts if not one.label.harvesting]
    return FalseAlarms(name=name, share=pooled(hits), upper=upper_bound(sum(hits), len(hits)))


def by_kind(seen: Observed) -> list[FalseAlarms]:
    """The same for each kind of customer."""
    kinds = sorted(
        {one.label.group for _, week in seen for one in week if not one.label.harvesting}
    )
    return [
        false_alarms(
            [(seed, [one for one in week if one.label.group == kind]) for seed, week in seen], kind
        )
        for kind in kinds
    ]


def detection(name: str, point: str, seen: Observed) -> Detection:
    """What a detector caught, and whom it took for a thief."""
    campaigns = _campaigns(seen, lambda one: True)
    rows: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for accounts in campaigns.values():
        rows[accounts[0].label.group] += _counts([accounts])
    shares = {
        row: sum(hits for hits, _ in counts) / sum(of for _, of in counts)
        for row, counts in sorted(rows.items())
    }
    counted = {row: c for row, c in rows.items() if not row.startswith("natural")}
    worst = min(counted, key=lambda row: (shares[row], row), default="")
    wide = _campaigns(
        seen, lambda one: natural(one) and float(one.label.traits.get("size", 0)) >= 50
    )
    return Detection(
        name=name,
        point=point,
        false=false_alarms(seen),
        rows_mean=mean_of_rows(counted),
        accounts=clustered(_counts(campaigns.values())),
        campaigns=_halves(campaigns.values()),
        worst_row=worst,
        worst=shares.get(worst, 0.0),
        natural=clustered(_counts(wide.values())),
        rows=shares,
    )
