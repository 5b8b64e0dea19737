"""From decisions to findings: which alert is opened, updated or closed. Pure, in event time.

A finding is a campaign's, or an account's that is in none. It opens with the first decision that
enforces, is updated when an account joins it or a decision in it grows stronger, and closes when no
decision in it is left.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from responders.alerts.ocsf import Alert, detection_finding
from responders.decisions import ACTIONS, Decision, is_enforcement

__all__ = ["Findings"]

_MEMBERS_NAMED: Final = 100  # accounts named in one finding; it always says how many there are


class _Finding(msgspec.Struct):
    """One finding: the live decisions in it, by (scope, value)."""

    uid: str
    opened_at: float
    version: int
    campaign: str | None
    strength: tuple[int, int]  # position of the strongest action so far, and its level
    live: dict[str, Decision]  # "scope:value" → decision
    members: dict[str, float]  # "scope:value" → when it was first enforced
    open: bool = True


class Findings:
    """Open findings of a deployment. `key` makes their ids."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._findings: dict[str, _Finding] = {}
        self._of: dict[str, str] = {}  # "scope:value" → the finding its live decision is in

    def decided(self, decisions: Sequence[Decision], now: float) -> list[Alert]:
        """Alerts of a tick's decisions: one a finding at most."""
        changed: dict[str, bool] = {}  # uid → whether somebody reading it learns something new
        for decision in decisions:
            name = f"{decision.scope}:{decision.value}"
            if decision.action == "clear":
                uid = self._of.pop(name, None)
                if uid is not None:
                    self._findings[uid].live.pop(name, None)
                    changed.setdefault(uid, False)
            elif is_enforcement(decision.action):
                uid, new = self._take(name, decision, now)
                changed[uid] = changed.get(uid, False) or new
        return [
            alert
            for uid, new in changed.items()
            if (alert := self._alert(self._findings[uid], new, now)) is not None
        ]

    def ended(self, gone: Sequence[tuple[str, str]], now: float) -> list[Alert]:
        """Alerts of decisions that expired, by (scope, value)."""
        changed = []
        for scope, value in gone:
            uid = self._of.pop(f"{scope}:{value}", None)
            if uid is not None:
                self._findings[uid].live.pop(f"{scope}:{value}", None)
                if uid not in changed:
                    changed.append(uid)
        return [
            alert
            for uid in changed
            if (alert := self._alert(self._findings[uid], False, now)) is not None
        ]

    def export(self) -> dict[str, Any]:
        """Everything, as builtins."""
        return {
            "findings": [msgspec.to_builtins(f) for f in self._findings.values()],
            "of": dict(self._of),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take in what `export` gave."""
        findings = [msgspec.convert(raw, _Finding) for raw in state["findings"]]
        self._findings = {finding.uid: finding for finding in findings}
        self._of = dict(state["of"])

    def _take(self, name: str, decision: Decision, now: float) -> tuple[str, bool]:
        """Put a decision into its finding: the finding's uid, and whether that is news."""
        uid = self._uid(decision.campaign or name)
        before = self._of.get(name)
        if before is not None and before != uid:
            # The account turned out to be part of a campaign: it moves there.
            self._findings[before].live.pop(name, None)
        finding = self._findings.get(uid)
        strength = (ACTIONS.index(decision.action), decision.level)
        if finding is None or not finding.open:
            version = 0 if finding is None else finding.version
            finding = _Finding(uid, now, version, decision.campaign, strength, {}, {})
            self._findings[uid] = finding
            new = True
        else:
            new = strength > finding.strength or name not in finding.members
        finding.strength = max(finding.strength, strength)
        finding.live[name] = decision
        finding.members.setdefault(name, now)
        self._of[name] = uid
        return uid, new

    def _alert(self, finding: _Finding, new: bool, now: float) -> Alert | None:
        activity: Literal["create", "update", "close"]
        if not finding.live:
            if not finding.open:
                return None
            finding.open = False
            activity = "close"
        elif finding.members and min(finding.members.values()) == now and now == finding.opened_at:
            activity = "create"
        elif new:
            activity = "update"
        else:
            return None
        finding.version += 1
        last = max(finding.live.values(), key=lambda d: d.version, default=None)
        alert = Alert(
            id=f"{finding.uid}-{finding.version}",
            uid=finding.uid,
            version=finding.version,
            activity=activity,
            time=now,
            finding=detection_finding(
                uid=finding.uid,
                activity=activity,
                time=now,
                first_seen=finding.opened_at,
                campaign=finding.campaign,
                members=sorted(finding.members)[:_MEMBERS_NAMED],
                member_count=len(finding.members),
                live_count=len(finding.live),
                strongest=(ACTIONS[finding.strength[0]], finding.strength[1]),
                decision=last,
            ),
        )
        if activity == "close":
            # A finding reopens under the same uid, so its version must go on: only its weight goes.
            finding.members = {}
        return alert

    def _uid(self, what: str) -> str:
        digest = hmac.new(self._key, b"finding\x1f" + what.encode(), hashlib.sha256)
        return f"f-{digest.hexdigest()[:32]}"
