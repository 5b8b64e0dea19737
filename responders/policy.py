"""The policy: from verdicts to decisions. Pure: event time only, no I/O, no randomness.

The ladder (settings) is climbed one rung at a time, and only on new evidence; a decision that is
not renewed expires, and the standing of its account then decays. How it moves:

- **first**: an account without standing gets the rung that its evidence deserves, but at most
  the first rung that enforces (throttle 1);
- **escalation**: a fresh verdict that deserves more than the standing rung, and whose evidence is
  new (its running maximum rose, or the account sent `new_evidence_events` more events), goes up
  by exactly one;
- **campaigns**: members are one actor, who has one standing as he has one bucket: a fresh verdict
  with new evidence about one of them goes one rung above the highest that any of them stands on,
  if its own evidence deserves that;
- **renewal**: a fresh verdict that still deserves the standing rung, in the second half of the
  decision's life, issues it again; at once when the mode changed since;
- **probation**: at expiry the standing stays where it is for one more life, without a decision: who
  was refused everything sent nothing that could speak for or against him. A fresh verdict in this
  time resumes there, one up with new evidence, and is one more **offence**: each doubles the
  lives of what follows, up to `longest_ttl_s`;
- **decay**: after the probation the standing falls by one rung per life, and resumes from there;
- what enforces more than before waits for its delay, and, if it is the first against its campaign,
  for a place under the cap (see `waiting`);
- nothing is ever issued for the allowlisted, within the grace after a clear, past the ceiling,
  or for a verdict that is not fresh.

`stage` limits who is enforced against, by a share of accounts, plans, endpoints and models: for
everybody else decisions are made as ever, in shadow.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from responders.actions.challenge import challenge_params
from responders.actions.throttle import bucket_of, throttle_params
from responders.allowlist import AllowEntry, Allowlist
from responders.decisions import (
    ACTIONS,
    AppliesTo,
    Decision,
    Evidence,
    Mode,
    Reason,
    Scope,
    decision_id,
    is_enforcement,
)
from responders.feedback import Allow, Clear, Disallow, Feedback, RunMode, SetMode
from responders.settings import PolicySettings, RungSettings
from responders.verdict import Verdict
from responders.waiting import Step, Waiting

__all__ = ["Policy"]

_FORMAT: Final = 2
# Format 1 had no offences, and nothing that waited.
_READS: Final = (1, 2)
_COUNTER_BITS: Final = 32

_Key = tuple[str, str]


class _Standing(msgspec.Struct, kw_only=True):
    """Where one (scope, value) stands on the ladder."""

    rung: int
    live: bool  # a decision is in force; False once it expired: probation, then decay
    issued_at: float
    expires_at: float  # of the decision, or of the decayed standing
    evidence: float
    n_events: int
    mode: Mode
    campaign: str | None
    identity: dict[str, str]
    reached: int = 0  # the highest rung issued since it stands
    held: bool = False  # its evidence deserved more, were it not for `max_false_share`
    offences: int = 0  # how often it came back after a decision that enforced had expired


class _State(msgspec.Struct, kw_only=True):
    """Everything a policy remembers, as it is exported."""

    format: int
    counter: int
    mode: RunMode
    standings: list[tuple[str, str, _Standing]]
    grace: list[tuple[str, str, float]]
    allowed: list[Any]
    waiting: Any = None
    campaigns: list[tuple[str, int, float]] = []


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
        stage = settings.stage
        self._applies_to = AppliesTo(endpoints=stage.endpoints, models=stage.models)
        self._waiting = Waiting(
            self._key,
            delay_s=settings.delay_s,
            jitter_s=settings.jitter_s,
            per_min=settings.new_enforcements_per_min,
        )
        self._counter = 0
        self._mode: RunMode = settings.mode
        self._standings: dict[tuple[str, str], _Standing] = {}
        self._grace: dict[tuple[str, str], float] = {}
        self._allowed = Allowlist()
        self._campaigns: dict[str, tuple[int, float]] = {}  # → highest rung of a member, until when
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
        """Decisions of the tick that ends at `now`: what waited first, then by the verdicts' order.

        Args:
            verdicts: of this tick.
            now: Unix seconds.
            scorer: stamped on the decisions.
            baseline: likewise.
            limits: for each of `rungs`, what `false_per_1000` must be at or below at present;
                None for the ladder's own. Tighter ones take nobody down who is up already.
        """
        # What is issued now; of a step that waits, what is issued unless it is released now.
        plan: dict[_Key, tuple[Verdict, int, bool] | None] = {}
        for verdict in verdicts:
            rung = self._reached(verdict, now, limits)
            if rung is None:
                continue
            key: _Key = (verdict.scope, verdict.value)
            held = self._deserved(verdict, None) > self._deserved(verdict, limits)
            standing = self._standings.get(key)
            # In shadow nobody was hurt yet: to enforce what stands there is a step like the first.
            hurts = standing is not None and standing.live and self._as_strict(standing, verdict)
            at = standing.rung if standing is not None and hurts else -1
            unit = self._unit(verdict)
            if not self._enforces(rung) or at >= rung:
                plan[key] = (verdict, rung, held)
                continue
            enforced = at >= self._first
            self._waiting.add(key, verdict, rung, now, unit=unit, counts=not enforced, held=held)
            # Meanwhile: what its campaign has already, or what is in force and would end.
            base = self._of_campaign(verdict, now)
            if max(at, self._first - 1) < base < rung and self._waiting.enforced(unit, now):
                plan[key] = (verdict, base, held)
            elif enforced and standing is not None and _half_over(standing, now):
                plan[key] = (verdict, at, held)
            else:
                plan[key] = None
        released = self._waiting.release(now)
        decisions = []
        for key in [*(key for key in released if key not in plan), *plan]:
            issue, step = plan.get(key), released.get(key)
            if step is not None and (to := self._still(key, step, now)) is not None:
                issue = (step.verdict, to, step.held)
            if issue is not None:
                decisions.append(self._issue(*issue, now=now, scorer=scorer, baseline=baseline))
        return decisions

    def would_issue(
        self, verdict: Verdict, now: float, limits: Sequence[float] | None = None
    ) -> bool:
        """Whether `decide` would issue on this verdict, now or later: only then is it explained."""
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
            self._waiting.drop(key)
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
        for name in [name for name, (_, until) in self._campaigns.items() if until <= now]:
            del self._campaigns[name]
        return sorted(ended)

    @property
    def held_back(self) -> int:
        """Campaigns and lone accounts that the cap keeps waiting, as of the last `decide`."""
        return self._waiting.held_back

    @property
    def waits(self) -> bool:
        """Whether some step waits for its delay or for a place."""
        return self._waiting.next_due < math.inf

    def next_due(self) -> float:
        """Event time at which `expire` or `decide` next has something to do; infinity: none."""
        while self._expiries:
            time, scope, value = self._expiries[0]
            standing = self._standings.get((scope, value))
            if self._grace.get((scope, value)) == time or (
                standing is not None and standing.expires_at == time
            ):
                return min(time, self._waiting.next_due)
            heapq.heappop(self._expiries)
        return self._waiting.next_due

    def export(self) -> dict[str, Any]:
        """Everything it remembers, as builtins that msgpack can carry."""
        state = _State(
            format=_FORMAT,
            counter=self._counter,
            mode=self._mode,
            standings=[(s, v, x) for (s, v), x in sorted(self._standings.items())],
            grace=[(s, v, until) for (s, v), until in sorted(self._grace.items())],
            allowed=self._allowed.export(),
            waiting=self._waiting.export(),
            campaigns=[(name, *stands) for name, stands in sorted(self._campaigns.items())],
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
        if state.format not in _READS:
            raise ValueError(f"policy state of format {state.format}; this reads {_READS}")
        policy = cls(settings, generation=generation)
        policy._counter = state.counter
        policy._mode = state.mode
        policy._standings = {(s, v): x for s, v, x in state.standings}
        policy._grace = {(s, v): until for s, v, until in state.grace}
        policy._allowed = Allowlist.restore(state.allowed)
        if state.waiting is not None:
            policy._waiting.restore(state.waiting)
        top = len(policy._ladder) - 1
        policy._campaigns = {name: (min(rung, top), until) for name, rung, until in state.campaigns}
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
        # What waits on evidence that another week or baseline has taken back does not happen.
        self._waiting.drop_above(key, self._deserved(verdict, None) - 1)
        deserved = self._deserved(verdict, limits)
        if standing is not None:
            # What was reached under a wider limit is kept for as long as the evidence is.
            deserved = max(deserved, min(self._deserved(verdict, None), standing.reached + 1))
        if deserved == 0 or self._allowed.match(_identity(verdict), now) is not None:
            return None
        deserved -= 1
        above = self._of_campaign(verdict, now) + 1
        if standing is None:
            return min(deserved, max(self._first, above))
        new_evidence = (
            standing.held
            or verdict.evidence > standing.evidence
            or verdict.n_events >= standing.n_events + self._settings.new_evidence_events
        )
        target = min(deserved, max(standing.rung + 1, above) if new_evidence else standing.rung)
        if not standing.live or target > standing.rung:
            return target
        if target == standing.rung and (
            _half_over(standing, now) or standing.mode != self._stamp(verdict)
        ):
            return target
        return None

    def _still(self, key: _Key, step: Step, now: float) -> int | None:
        """The rung to issue for a step that waited, or None when it has no place any more."""
        standing = self._standings.get(key)
        if standing is not None:
            self._settle(key, standing, now)
        if self._grace.get(key, -math.inf) > now:
            return None
        if self._allowed.match(_identity(step.verdict), now) is not None:
            return None
        above = self._of_campaign(step.verdict, now) + 1
        if standing is None or standing.rung < 0:
            return min(step.rung, max(self._first, above))
        strict = standing.live and self._as_strict(standing, step.verdict)
        if strict and standing.rung >= step.rung:
            return None
        return min(step.rung, max(standing.rung + 1, above))

    def _of_campaign(self, verdict: Verdict, now: float) -> int:
        """The highest rung on which a member of its campaign stands; -1 for none."""
        rung, until = self._campaigns.get(verdict.campaign or "", (-1, now))
        return rung if until > now else -1

    def _deserved(self, verdict: Verdict, limits: Sequence[float] | None) -> int:
        """How many rungs the evidence is enough for."""
        if limits is None:
            limits = [rung.false_per_1000_week for rung in self._ladder]
        return sum(verdict.false_per_1000 <= limit for limit in limits)

    def _issue(
        self, verdict: Verdict, rung: int, held: bool, *, now: float, scorer: str, baseline: str
    ) -> Decision:
        key = (verdict.scope, verdict.value)
        step = self._ladder[rung]
        before = self._standings.get(key)
        offences = 0 if before is None else before.offences
        if before is not None and not before.live and before.reached >= self._first:
            offences += self._enforces(rung)
        expires_at = now + self._life(rung, offences)
        # Evidence restarts each week: the mark to beat is the last decision's, not the highest.
        self._standings[key] = _Standing(
            rung=rung,
            live=True,
            issued_at=now,
            expires_at=expires_at,
            evidence=verdict.evidence,
            n_events=verdict.n_events,
            mode=self._stamp(verdict),
            campaign=verdict.campaign,
            identity=_identity(verdict),
            reached=rung if before is None else max(rung, before.reached),
            held=held,
            offences=offences,
        )
        if self._enforces(rung):
            self._waiting.issued(self._unit(verdict), now, expires_at)
            if verdict.campaign is not None and rung >= self._of_campaign(verdict, now):
                # The decision's life, and that of its probation.
                self._campaigns[verdict.campaign] = (rung, 2 * expires_at - now)
        if before is None or before.expires_at != expires_at:
            heapq.heappush(self._expiries, (expires_at, *key))
        return Decision(
            id=decision_id(self._key, *key, now, step.action, step.level),
            version=self._next_version(),
            scope=verdict.scope,
            value=verdict.value,
            action=step.action,
            level=step.level,
            mode=self._stamp(verdict),
            params=self._params(rung, verdict),
            applies_to=self._applies_to,
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
        self._waiting.drop_covered(lambda v: covers.match(_identity(v), now) is not None)
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
        # Whoever found this one innocent doubts what was concluded of the others from it.
        self._campaigns.pop(standing.campaign or "", None)
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

    def _settle(self, key: _Key, standing: _Standing, now: float) -> None:
        """Let time pass over a standing: a life of probation, then one rung down per life."""
        while standing.expires_at <= now:
            if standing.live and self._enforces(standing.rung):
                standing.live = False
            else:
                standing.live = False
                standing.rung -= 1
            if standing.rung < 0:
                self._standings.pop(key, None)
                return
            standing.expires_at += self._life(standing.rung, standing.offences)
            heapq.heappush(self._expiries, (standing.expires_at, *key))

    def _enforces(self, rung: int) -> bool:
        return is_enforcement(self._ladder[rung].action)

    def _life(self, rung: int, offences: int) -> float:
        """Seconds that a decision lives: twice as long after each offence, up to a bound."""
        own = self._ladder[rung].ttl_s
        if not self._enforces(rung):
            return own
        return max(own, min(own * 2.0 ** min(offences, 32), self._settings.longest_ttl_s))

    def _as_strict(self, standing: _Standing, verdict: Verdict) -> bool:
        """Whether what stands is enforced, or would be issued in shadow now as well."""
        return standing.mode == "enforce" or self._stamp(verdict) == "shadow"

    def _unit(self, verdict: Verdict) -> str:
        """What the cap counts, and a delay is drawn for: the campaign, or who has none, by mode."""
        who = f"{verdict.scope}:{verdict.value}"
        if verdict.campaign is not None:
            who = f"campaign:{verdict.campaign}"
        return f"{self._stamp(verdict)}:{who}"

    def _stamp(self, verdict: Verdict) -> Mode:
        """Enforce or shadow: by the mode, and for whom it is that the stage lets it be enforced."""
        stage = self._settings.stage
        if self._mode != "enforce" or not any(
            fnmatchcase(verdict.plan or "", plan) for plan in stage.plans
        ):
            return "shadow"
        if stage.share >= 1.0:
            return "enforce"
        text = f"stage\x1f{verdict.scope}\x1f{verdict.value}".encode("utf-8", "surrogatepass")
        digest = hmac.new(self._key, text, hashlib.sha256).digest()
        return "enforce" if int.from_bytes(digest[:8], "big") / 2**64 < stage.share else "shadow"

    def _next_version(self) -> int:
        self._counter += 1
        return self._generation << _COUNTER_BITS | self._counter


def _below_ceiling(settings: PolicySettings) -> tuple[RungSettings, ...]:
    strength = ACTIONS.index(settings.ceiling)
    return tuple(rung for rung in settings.rungs() if ACTIONS.index(rung.action) <= strength)


def _half_over(standing: _Standing, now: float) -> bool:
    return now >= (standing.issued_at + standing.expires_at) / 2


def _identity(verdict: Verdict) -> dict[str, str]:
    return {**verdict.identity, verdict.scope: verdict.value}


def _said(by: str, reason: str) -> str:
    return f"{by}: {reason}" if reason else by
