"""From decisions to findings: which alert is opened, updated or closed. Pure, in event time.

A finding is a campaign's, or an account's that is in none. It opens with the first decision that
enforces (in shadow: would enforce), is updated when the response grows stronger, when the mode
changes and each time its members double, and closes when no decision in it is left. A tick says
one thing of a finding at most, unless it also closes it.

New enforcements that wait for the cap are a finding too: opened when the first waits, updated each
time their number doubles, closed when none waits any more.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from responders.alerts.ocsf import Activity, Alert, cap_finding, detection_finding
from responders.decisions import ACTIONS, Decision, is_enforcement

__all__ = ["Findings"]


class _Open(msgspec.Struct, kw_only=True):
    """An open finding: since when, its strongest decision, who is in it."""

    created_at: float
    strongest: Decision
    version: int  # the highest of its decisions
    members: dict[tuple[str, str], None]
    announced: int  # members when it was last said


class _Exported(msgspec.Struct, kw_only=True):
    uid: str
    created_at: float
    strongest: Decision
    version: int
    members: list[tuple[str, str]]
    announced: int


class _Held(msgspec.Struct, kw_only=True):
    """An open finding about the cap."""

    created_at: float
    announced: int  # how many waited when it was last said


class _State(msgspec.Struct, kw_only=True):
    open: list[_Exported]
    held: _Held | None = None


class Findings:
    """What is open. One for a deployment, fed by the judge in event-time order.

    `key` is the HMAC key of uids and alerts' ids.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._open: dict[str, _Open] = {}
        self._of: dict[tuple[str, str], str] = {}  # (scope, value) → uid
        self._held: _Held | None = None

    def __len__(self) -> int:
        return len(self._open)

    def decided(self, decisions: Sequence[Decision], now: float) -> list[Alert]:
        """Alerts for the decisions of the tick that ends at `now`."""
        alerts: list[Alert] = []
        news: dict[str, tuple[Activity, Decision]] = {}  # by uid, to be said at the end
        for decision in decisions:
            key = (decision.scope, decision.value)
            if decision.action == "clear":
                self._leave(key, now, decision.reason.text, decision, news, alerts)
            elif is_enforcement(decision.action):
                self._join(key, decision, now, news, alerts)
        for uid, (activity, decision) in news.items():
            alerts.append(self._alert(uid, self._open[uid], activity, decision, now, decision.id))
        return alerts

    def ended(self, keys: Iterable[tuple[str, str]], now: float) -> list[Alert]:
        """Alerts for (scope, value) whose decision expired without another."""
        alerts: list[Alert] = []
        for key in keys:
            self._leave(key, now, "expired", None, {}, alerts)
        return alerts

    def held_back(self, waiting: int, per_min: int, now: float) -> list[Alert]:
        """Alerts for the number of campaigns that wait at `now` for the cap of `per_min`."""
        if self._held is None:
            if not waiting:
                return []
            activity: Activity = "create"
            self._held = _Held(created_at=now, announced=waiting)
        elif not waiting:
            activity = "close"
        elif waiting >= 2 * self._held.announced:
            activity = "update"
            self._held.announced = waiting
        else:
            return []
        created_at = self._held.created_at
        uid = self._hmac("f-", "cap", repr(created_at))
        alert_id = self._hmac("a-", uid, activity, repr(now))
        if activity == "close":
            self._held = None
        return [
            Alert(
                id=alert_id,
                uid=uid,
                version=round(now * 1000),
                activity=activity,
                time=now,
                finding=cap_finding(
                    alert_id=alert_id,
                    uid=uid,
                    activity=activity,
                    now=now,
                    created_at=created_at,
                    waiting=waiting,
                    per_min=per_min,
                ),
            )
        ]

    def export(self) -> Any:
        """Builtins for a checkpoint."""
        found = [
            _Exported(
                uid=uid,
                created_at=finding.created_at,
                strongest=finding.strongest,
                version=finding.version,
                members=list(finding.members),
                announced=finding.announced,
            )
            for uid, finding in sorted(self._open.items())
        ]
        return msgspec.to_builtins(_State(open=found, held=self._held))

    def restore(self, exported: Any) -> None:
        """Take the place of what `export` gave, also before there was a cap."""
        if isinstance(exported, list):
            exported = {"open": exported}
        state = msgspec.convert(exported, _State)
        self._held = state.held
        self._open = {}
        self._of = {}
        for kept in state.open:
            self._open[kept.uid] = _Open(
                created_at=kept.created_at,
                strongest=kept.strongest,
                version=kept.version,
                members=dict.fromkeys(kept.members),
                announced=kept.announced,
            )
            self._of.update(dict.fromkeys(kept.members, kept.uid))

    def _join(
        self,
        key: tuple[str, str],
        decision: Decision,
        now: float,
        news: dict[str, tuple[Activity, Decision]],
        alerts: list[Alert],
    ) -> None:
        """An enforced decision puts its (scope, value) into a finding, perhaps out of another."""
        about = ("campaign", decision.campaign) if decision.campaign else key
        uid = self._hmac("f-", "finding", *about)
        if self._of.get(key, uid) != uid:
            self._leave(key, now, "became part of a campaign", decision, news, alerts)
        self._of[key] = uid
        finding = self._open.get(uid)
        if finding is None:
            self._open[uid] = _Open(
                created_at=now,
                strongest=_kept(decision),
                version=decision.version,
                members={key: None},
                announced=1,
            )
            news[uid] = ("create", decision)
            return
        finding.version = max(finding.version, decision.version)
        finding.members[key] = None
        stronger = _strength(decision) > _strength(finding.strongest)
        switched = decision.mode != finding.strongest.mode
        if stronger or switched:
            finding.strongest = _kept(decision)
        elif len(finding.members) < 2 * finding.announced:
            return
        news[uid] = (news[uid][0] if uid in news else "update", decision)

    def _leave(
        self,
        key: tuple[str, str],
        now: float,
        why: str,
        decision: Decision | None,
        news: dict[str, tuple[Activity, Decision]],
        alerts: list[Alert],
    ) -> None:
        """One member leaves; with the last one the finding closes."""
        uid = self._of.pop(key, None)
        if uid is None:
            return
        finding = self._open[uid]
        if decision is not None:
            finding.version = max(finding.version, decision.version)
        if len(finding.members) > 1:
            del finding.members[key]
            return
        # The last member stays in it, to be named in the closing document.
        if uid in news:
            activity, caused_by = news.pop(uid)
            alerts.append(self._alert(uid, finding, activity, caused_by, now, caused_by.id))
        del self._open[uid]
        cause = f"{why}\x1f{now!r}" if decision is None else decision.id
        alerts.append(self._alert(uid, finding, "close", finding.strongest, now, cause, why))

    def _alert(
        self,
        uid: str,
        finding: _Open,
        activity: Activity,
        newest: Decision,
        now: float,
        cause: str,
        why: str = "",
    ) -> Alert:
        alert_id = self._hmac("a-", uid, activity, cause)
        finding.announced = max(finding.announced, len(finding.members))
        return Alert(
            id=alert_id,
            uid=uid,
            version=finding.version,
            activity=activity,
            time=now,
            finding=detection_finding(
                alert_id=alert_id,
                uid=uid,
                activity=activity,
                now=now,
                created_at=finding.created_at,
                strongest=finding.strongest,
                newest=newest,
                members=list(finding.members),
                why=why,
            ),
        )

    def _hmac(self, prefix: str, *parts: str) -> str:
        text = "\x1f".join(parts).encode("utf-8", "surrogatepass")
        return prefix + hmac.new(self._key, text, hashlib.sha256).hexdigest()[:32]


def _strength(decision: Decision) -> tuple[int, int]:
    return ACTIONS.index(decision.action), decision.level


def _kept(decision: Decision) -> Decision:
    """What an open finding remembers of a decision."""
    return msgspec.structs.replace(decision, evidence=None, params={})
