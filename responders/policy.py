"""The policy: from verdicts to decisions. Pure: event time only, no I/O, no randomness.

The ladder (settings) is climbed one rung at a time, and only on new evidence; a decision that is
not renewed expires, and the standing of its account then decays by one rung per life. How it moves:

- **first**: an account without standing gets the rung that its evidence deserves, but at most
  the first rung that enforces (throttle 1);
- **escalation**: a fresh verdict that deserves more than the standing rung, and whose evidence is
  new (its running maximum rose, or the account sent `new_evidence_events` more events), goes up
  by exactly one;
- **renewal**: a fresh verdict that still deserves the standing rung, in the second half of the
  decision's life, issues it again; at once when the mode changed since;
- **decay**: at expiry the standing falls by one rung and lives on, without a decision, for that
  rung's life; a fresh verdict in this time resumes there (one up, with new evidence);
- nothing is ever issued for the allowlisted, within the grace after a clear, past the ceiling,
  or for a verdict that is not fresh.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from responders.actions.challenge import challenge_params
from responders.actions.throttle import bucket_of, throttle_params
from responders.allowlist import AllowEntry, Allowlist
from responders.decisions import (
    ACTIONS,
    Decision,
    Evidence,
    Mode,
    Reason,
    Scope,
    Signal,
    Tie,
    decision_id,
    is_enforcement,
)
from responders.feedback import Allow, Clear, Disallow, Feedback, RunMode, SetMode
from responders.settings import PolicySettings, RungSettings

__all__ = ["Policy", "Verdict"]

_FORMAT: Final = 1
_COUNTER_BITS: Final = 32


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the evidence says about one (scope, value) at a tick.

    `false_per_1000`: nominal false alarms per 1,000 customers a week at this evidence; smaller is
    stronger, infinity is none. `evidence`: running maximum of the log-odds; `base`, `counted` and
    `ties` are handed on to the decision's evidence. `fresh`: new evidence
    (a block) arrived in this tick. `identity`: scope to value, what allowlist entries match.
    """

    scope: Scope
    value: str
    false_per_1000: float
    e_value: float
    evidence: float
    n_events: int
    campaign: str | None = None
    reason: Reason
    signals: tuple[Signal, ...] = ()
    base: float | None = None
    counted: bool | None = None
    ties: tuple[Tie, ...] = ()
    fresh: bool = True
    identity: dict[str, str] = {}


class _Standing(msgspec.Struct, kw_only=True):
    """Where one (scope, value) stands on the ladder."""

    rung: int
    live: bool  # a decision is in force; False once it expired and the standing decays
    issued_at: float
    expires_at: float  # of the decision, or of the decayed standing
    evidence: float
    n_events: int
    mode: Mode
    campaign: str | None
    identity: dict[str, str]
    reached: int = 0  # the highest rung issued since it stands
    held: bool = False  # its evidence deserved more, were it not for `max_false_share`


class _State(msgspec.Struct, kw_only=True):
    """Everything a policy remembers, as it is exported."""

    format: int
    counter: int
    mode: RunMode
    standings: list[tuple[str, str, _Standing]]
    grace: list[tuple[str, str, float]]
    allowed: list[Any]


class Policy:
    """Decides. One for a deployment; the judge feeds it verdicts and feedback in event-time order.

    `generation` is that of the judge's group: versions are generation << 32 | counter, so that
    every decision of a later judge beats those of the one it replaced.
    """

    def __init__(self, settings: PolicySettings, *, generation: int = 0) -> None:
        self._settings = settings
        self._generation = generation
        self._ladder = _below_ceiling(settings)
        self._first = next(
            (i for i, rung in enumerate(self._ladder) if is_enforcement(rung.action)),
            len(self._ladder) - 1,
        )
        self._key = settings.id_key.get_secret_value().encode()
        self._counter = 0
        self._mode: RunMode = settings.mode
        self._standings: dict[tuple[str, str], _Standing] = {}
        self._grace: dict[tuple[str, str], float] = {}
        self._allowed = Allowlist()
        # (time, scope, value) of every expiry to come; entries that were renewed are skipped.
        self._expiries: list[tuple[float, str, str]] = []

    @property
    def mode(self) -> RunMode:
        """What later decisions are stamped with; decisions under `off` are stamped shadow."""
        return self._mode

    @property
    def rungs(self) -> tuple[RungSettings, ...]:
        """The ladder up to the ceiling, with what each rung may wrongly reach."""
        return self._ladder

    def decide(
        self,
        verdicts: Sequence[Verdict],
        now: float,
        *,
        scorer: str,
        baseline: str,
        limits: Sequence[float] | None = None,
    ) -> list[Decision]:
        """Decisions of the tick that ends at `now`, in the order of their verdicts.

        Args:
            verdicts: of this tick.
            now: Unix seconds.
            scorer: stamped on the decisions.
            baseline: likewise.
            limits: for each of `rungs`, what `false_per_1000` must be at or below at present;
                None for the ladder's own. Tighter ones take nobody down who is up already.
        """
        decisions = []
        for verdict in verdicts:
            rung = self._reached(verdict, now, limits)
            if rung is not None:
                decision = self._issue(verdict, rung, now, scorer, baseline)
                standing = self._standings[decision.scope, decision.value]
                standing.held = self._deserved(verdict, None) > self._deserved(verdict, limits)
                decisions.append(decision)
        return decisions

    def would_issue(
        self, verdict: Verdict, now: float, limits: Sequence[float] | None = None
    ) -> bool:
        """Whether `decide` would issue on this verdict: only then is it worth explaining."""
        return self._reached(verdict, now, limits) is not None

    def feedback(self, feedback: Feedback, now: float) -> list[Decision]:
        """Apply a command at the tick that ends at `now`.

        Allow clears every live decision that the entry covers; clear ends one, and starts its
        grace; disallow, mode and a baseline's version issue nothing.
        """
        if isinstance(feedback, Allow):
            return self._allow(feedback, now)
        if isinstance(feedback, Disallow):
            self._allowed.remove(feedback.scope, feedback.value)
            return []
        if isinstance(feedback, Clear):
            key = (feedback.scope, feedback.value)
            grace_s = feedback.grace_s
            until = now + (self._settings.grace_after_clear_s if grace_s is None else grace_s)
            if until > now:
                self._grace[key] = until
                heapq.heappush(self._expiries, (until, *key))
            reason = Reason(code="cleared", text=_said(feedback.by, feedback.reason))
            return self._clear(key, now, reason)
        if isinstance(feedback, SetMode):
            self._mode = feedback.mode
        return []

    def allowed(self, now: float) -> list[AllowEntry]:
        """Live entries of the allowlist."""
        return self._allowed.entries(now)

    def expire(self, now: float) -> list[tuple[str, str]]:
        """Forget what ended at or before `now`: decayed standings, graces, allowlist entries.

        Returns the (scope, value) whose decision ended unrenewed since the last call, sorted.
        When it is called changes no decision: `decide` itself looks at times, this frees memory.
        """
        ended = []
        while self._expiries and self._expiries[0][0] <= now:
            _, scope, value = heapq.heappop(self._expiries)
            key = (scope, value)
            if self._grace.get(key, math.inf) <= now:
                del self._grace[key]
            standing = self._standings.get(key)
            if standing is None:
                continue
            was_live = standing.live
            self._settle(key, standing, now)
            if was_live and not standing.live:
                ended.append(key)
        self._allowed.forget(now)
        return sorted(ended)

    def next_expiry(self) -> float:
        """Event time at which `expire` next has something to do; infinity when nothing."""
        while self._expiries:
            time, scope, value = self._expiries[0]
            standing = self._standings.get((scope, value))
            if self._grace.get((scope, value)) == time or (
                standing is not None and standing.expires_at == time
            ):
                return time
            heapq.heappop(self._expiries)
        return math.inf

    def export(self) -> dict[str, Any]:
        """Everything it remembers, as builtins that msgpack can carry."""
        state = _State(
            format=_FORMAT,
            counter=self._counter,
            mode=self._mode,
            standings=[(s, v, x) for (s, v), x in sorted(self._standings.items())],
            grace=[(s, v, until) for (s, v), until in sorted(self._grace.items())],
            allowed=self._allowed.export(),
        )
        exported: dict[str, Any] = msgspec.to_builtins(state)
        return exported

    @classmethod
    def restore(
        cls, settings: PolicySettings, exported: Mapping[str, Any], *, generation: int = 0
    ) -> Policy:
        """A policy that goes on where the exported one stood, under a generation of its own.

        Raises ValueError when the export is of another format, or of a longer ladder.
        """
        state = msgspec.convert(exported, _State)
        if state.format != _FORMAT:
            raise ValueError(f"policy state of format {state.format}; this reads {_FORMAT}")
        policy = cls(settings, generation=generation)
        policy._counter = state.counter
        policy._mode = state.mode
        policy._standings = {(s, v): x for s, v, x in state.standings}
        policy._grace = {(s, v): until for s, v, until in state.grace}
        policy._allowed = Allowlist.restore(state.allowed)
        top = len(policy._ladder) - 1
        for standing in policy._standings.values():
            standing.rung = min(standing.rung, top)
        policy._expiries = [(x.expires_at, *key) for key, x in policy._standings.items()]
        policy._expiries += [(until, *key) for key, until in policy._grace.items()]
        heapq.heapify(policy._expiries)
        return policy

    def _reached(self, verdict: Verdict, now: float, limits: Sequence[float] | None) -> int | None:
        """The rung to issue, or None."""
        key = (verdict.scope, verdict.value)
        standing = self._standings.get(key)
        if standing is not None:
            self._settle(key, standing, now)
            if standing.rung < 0:
                standing = None
        if not verdict.fresh or self._grace.get(key, -math.inf) > now:
            return None
        deserved = self._deserved(verdict, limits)
        if standing is not None:
            # What was reached under a wider limit is kept for as long as the evidence is.
            deserved = max(deserved, min(self._deserved(verdict, None), standing.reached + 1))
        if deserved == 0 or self._allowed.match(_identity(verdict), now) is not None:
            return None
        deserved -= 1
        if standing is None:
            return min(deserved, self._first)
        new_evidence = (
            standing.held
            or verdict.evidence > standing.evidence
            or verdict.n_events >= standing.n_events + self._settings.new_evidence_events
        )
        target = min(deserved, standing.rung + 1 if new_evidence else standing.rung)
        if not standing.live or target > standing.rung:
            return target
        half_over = now >= (standing.issued_at + standing.expires_at) / 2
        if target == standing.rung and (half_over or standing.mode != self._stamp()):
            return target
        return None

    def _deserved(self, verdict: Verdict, limits: Sequence[float] | None) -> int:
        """How many rungs the evidence is enough for."""
        if limits is None:
            limits = [rung.false_per_1000_week for rung in self._ladder]
        return sum(verdict.false_per_1000 <= limit for limit in limits)

    def _issue(
        self, verdict: Verdict, rung: int, now: float, scorer: str, baseline: str
    ) -> Decision:
        key = (verdict.scope, verdict.value)
        step = self._ladder[rung]
        expires_at = now + step.ttl_s
        before = self._standings.get(key)
        # Evidence restarts each week: the mark to beat is the last decision's, not the highest.
        self._standings[key] = _Standing(
            rung=rung,
            live=True,
            issued_at=now,
            expires_at=expires_at,
            evidence=verdict.evidence,
            n_events=verdict.n_events,
            mode=self._stamp(),
            campaign=verdict.campaign,
            identity=_identity(verdict),
            reached=rung if before is None else max(rung, before.reached),
        )
        if before is None or before.expires_at != expires_at:
            heapq.heappush(self._expiries, (expires_at, *key))
        return Decision(
            id=decision_id(self._key, *key, now, step.action, step.level),
            version=self._next_version(),
            scope=verdict.scope,
            value=verdict.value,
            action=step.action,
            level=step.level,
            mode=self._stamp(),
            params=self._params(rung, verdict),
            reason=verdict.reason,
            evidence=Evidence(
                e_value=verdict.e_value,
                signals=verdict.signals,
                log_odds=verdict.evidence,
                base=verdict.base,
                false_per_1000_week=verdict.false_per_1000,
                counted=verdict.counted,
                ties=verdict.ties,
            ),
            campaign=verdict.campaign,
            n_events=verdict.n_events,
            issued_at=now,
            expires_at=expires_at,
            scorer=scorer,
            baseline=baseline,
        )

    def _params(self, rung: int, verdict: Verdict) -> dict[str, Any]:
        """A challenge's difficulty, or the limiter's parameters; without them poison would free."""
        step = self._ladder[rung]
        if step.action == "challenge":
            return challenge_params(step.level, step.false_per_1000_week, verdict.false_per_1000)
        if step.action not in ("throttle", "poison"):
            return {}
        levels = [r.level for r in self._ladder[: rung + 1] if r.action == "throttle"]
        if not levels:
            return {}
        bucket = bucket_of(verdict.scope, verdict.value, verdict.campaign)
        return throttle_params(self._settings.throttle, levels[-1], bucket)

    def _allow(self, feedback: Allow, now: float) -> list[Decision]:
        entry = AllowEntry(
            scope=feedback.scope,
            value=feedback.value,
            reason=feedback.reason,
            by=feedback.by,
            expires_at=feedback.expires_at,
        )
        if not entry.live(now):
            return []
        self._allowed.add(entry)
        covers = Allowlist()
        covers.add(entry)
        reason = Reason(code="allowlisted", text=_said(feedback.by, feedback.reason))
        decisions = []
        for key in sorted(self._standings):
            if covers.match(self._standings[key].identity, now) is not None:
                decisions += self._clear(key, now, reason)
        return decisions

    def _clear(self, key: tuple[str, str], now: float, reason: Reason) -> list[Decision]:
        """Forget the standing, and end its decision if one is in force."""
        standing = self._standings.get(key)
        if standing is None:
            return []
        self._settle(key, standing, now)
        self._standings.pop(key, None)
        if not standing.live:
            return []
        scope, value = key
        return [
            Decision(
                id=decision_id(self._key, scope, value, now, "clear", 0),
                version=self._next_version(),
                scope=msgspec.convert(scope, Scope),
                value=value,
                action="clear",
                level=0,
                mode=standing.mode,
                reason=reason,
                campaign=standing.campaign,
                n_events=standing.n_events,
                issued_at=now,
                expires_at=standing.expires_at,
            )
        ]

    def _settle(self, key: tuple[str, str], standing: _Standing, now: float) -> None:
        """Let time pass over a standing: one rung down per life; forgotten below the last."""
        while standing.expires_at <= now:
            standing.live = False
            standing.rung -= 1
            if standing.rung < 0:
                self._standings.pop(key, None)
                return
            standing.expires_at += self._ladder[standing.rung].ttl_s
            heapq.heappush(self._expiries, (standing.expires_at, *key))

    def _stamp(self) -> Mode:
        return "enforce" if self._mode == "enforce" else "shadow"

    def _next_version(self) -> int:
        self._counter += 1
        return self._generation << _COUNTER_BITS | self._counter


def _below_ceiling(settings: PolicySettings) -> tuple[RungSettings, ...]:
    strength = ACTIONS.index(settings.ceiling)
    return tuple(rung for rung in settings.rungs() if ACTIONS.index(rung.action) <= strength)


def _identity(verdict: Verdict) -> dict[str, str]:
    return {**verdict.identity, verdict.scope: verdict.value}


def _said(by: str, reason: str) -> str:
    return f"{by}: {reason}" if reason else by
