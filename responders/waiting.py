"""Steps up the ladder that wait: for their delay, or for a place under the cap. Pure, event time.

A step is a decision that would hurt somebody more than what is in force. It is due at a time drawn
for its campaign (or its account, which has none) and its rung, so that no member's own requests
say what brought it on. A step that newly enforces against a campaign also needs a place: only so
many a minute are there, and the strongest evidence goes first. Members of a campaign that is
enforced against already, escalations and renewals need none.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable
from typing import Any, Final

import msgspec

from responders.verdict import Verdict

__all__ = ["Step", "Waiting"]

_MINUTE_S: Final = 60.0
# A draw holds for a day, and a step that waited a day begins anew with its next verdict.
_DAY_S: Final = 86_400.0

Key = tuple[str, str]


class Step(msgspec.Struct, kw_only=True):
    """One step that waits."""

    verdict: Verdict
    rung: int
    unit: str  # what the cap counts: the campaign, or the account
    since: float
    due: float
    counts: bool  # it would be a new enforcement: needs a place unless its unit is enforced
    held: bool  # see Policy: its evidence deserves more than `max_false_share` gives


class _State(msgspec.Struct, kw_only=True):
    """Everything it remembers, as it is exported."""

    steps: list[tuple[str, str, Step]]
    enforced: list[tuple[str, float]]
    started: list[float]
    drawn: list[tuple[str, int, float, float]]
    look_at: float
    held_back: int


class Waiting:
    """What waits.

    `key` is the HMAC key of the draws; `delay_s` and `jitter_s` are the shortest wait and the
    longest addition to it; `per_min` campaigns are newly enforced a minute at most (None: any).
    """

    def __init__(self, key: bytes, *, delay_s: float, jitter_s: float, per_min: int | None) -> None:
        self._key = key
        self._delay_s = delay_s
        self._jitter_s = jitter_s
        self._per_min = per_min
        self._steps: dict[Key, Step] = {}
        self._enforced: dict[str, float] = {}  # unit → when its last decision in force ends
        self._started: list[float] = []  # new enforcements of the last minute
        self._drawn: dict[tuple[str, int], tuple[float, float]] = {}  # → when drawn, and due
        self._sweep_at = 1024
        self._look_at = math.inf  # when `release` next has something to do
        self._held_back = 0

    @property
    def next_due(self) -> float:
        """Event time at which `release` next has something to do; infinity when nothing."""
        return self._look_at

    @property
    def held_back(self) -> int:
        """Campaigns and lone accounts that were due at the last `release`, without a place."""
        return self._held_back

    def add(
        self,
        key: Key,
        verdict: Verdict,
        rung: int,
        now: float,
        *,
        unit: str,
        counts: bool,
        held: bool,
    ) -> None:
        """Let a step wait, in place of one of the same (scope, value)."""
        before = self._steps.pop(key, None)
        since = now if before is None else before.since
        due = self._due(unit, rung, now)
        self._steps[key] = Step(
            verdict=verdict, rung=rung, unit=unit, since=since, due=due, counts=counts, held=held
        )
        self._look_at = min(self._look_at, due)

    def drop(self, key: Key) -> None:
        """Let it wait no longer, and not happen either."""
        self._steps.pop(key, None)

    def drop_above(self, key: Key, rung: int) -> None:
        """Drop it if it would lead higher than this."""
        step = self._steps.get(key)
        if step is not None and step.rung > rung:
            del self._steps[key]

    def drop_covered(self, covered: Callable[[Verdict], bool]) -> None:
        """Drop every step whose verdict is one of these."""
        for key in [key for key, step in self._steps.items() if covered(step.verdict)]:
            del self._steps[key]

    def release(self, now: float) -> dict[Key, Step]:
        """The steps whose time has come, taken out, in the order in which they came in."""
        if now < self._look_at:
            return {}
        for key in [k for k, step in self._steps.items() if step.since + _DAY_S <= now]:
            del self._steps[key]
        self._started = [time for time in self._started if time + _MINUTE_S > now]
        due = [key for key, step in self._steps.items() if step.due <= now]
        begun: set[str] = set()
        # What needs no place goes in any case; who is first only matters where one is free.
        steps = self._steps
        go = {k for k in due if not steps[k].counts or self.enforced(steps[k].unit, now)}
        full = self._per_min is not None and len(self._started) >= self._per_min
        rest = [] if full else [key for key in due if key not in go]
        for key in sorted(rest, key=self._strongest_first):
            step = steps[key]
            if step.unit not in begun:
                if self._per_min is not None and len(self._started) >= self._per_min:
                    continue
                self._started.append(now)
                begun.add(step.unit)
            go.add(key)
        released = {key: self._steps.pop(key) for key in due if key in go}
        self._held_back = len({self._steps[key].unit for key in due if key not in go})
        self._look_at = min((step.due for step in self._steps.values()), default=math.inf)
        if self._look_at <= now:
            later = [step.due for step in self._steps.values() if step.due > now]
            self._look_at = min([self._started[0] + _MINUTE_S, *later])
        return released

    def enforced(self, unit: str, now: float) -> bool:
        """Whether a decision about it is in force."""
        return self._enforced.get(unit, -math.inf) > now

    def issued(self, unit: str, now: float, expires_at: float) -> None:
        """A decision that enforces is in force until then: its unit's others need no place."""
        self._enforced[unit] = max(expires_at, self._enforced.get(unit, expires_at))
        if len(self._enforced) + len(self._drawn) >= self._sweep_at:
            self._enforced = {u: until for u, until in self._enforced.items() if until > now}
            self._drawn = {k: v for k, v in self._drawn.items() if v[0] + _DAY_S > now}
            self._sweep_at = max(1024, 2 * (len(self._enforced) + len(self._drawn)))

    def export(self) -> Any:
        """Builtins for a checkpoint."""
        return msgspec.to_builtins(
            _State(
                steps=[(*key, step) for key, step in self._steps.items()],
                enforced=sorted(self._enforced.items()),
                started=self._started,
                drawn=[(*key, *drawn) for key, drawn in sorted(self._drawn.items())],
                look_at=self._look_at,
                held_back=self._held_back,
            )
        )

    def restore(self, exported: Any) -> None:
        """Take the place of what `export` gave."""
        state = msgspec.convert(exported, _State)
        self._steps = {(scope, value): step for scope, value, step in state.steps}
        self._enforced = dict(state.enforced)
        self._started = state.started
        self._drawn = {(unit, rung): (at, due) for unit, rung, at, due in state.drawn}
        self._look_at = state.look_at
        self._held_back = state.held_back

    def _due(self, unit: str, rung: int, now: float) -> float:
        """When the unit's step to the rung is due: drawn once, and kept for a day."""
        at, due = self._drawn.get((unit, rung), (-math.inf, now))
        if at + _DAY_S > now:
            return due
        if not self._delay_s and not self._jitter_s:
            return now
        text = f"delay\x1f{unit}\x1f{rung}\x1f{now!r}".encode("utf-8", "surrogatepass")
        digest = hmac.new(self._key, text, hashlib.sha256).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        due = now + self._delay_s + share * self._jitter_s
        self._drawn[unit, rung] = (now, due)
        return due

    def _strongest_first(self, key: Key) -> tuple[float, float, float, Key]:
        verdict = self._steps[key].verdict
        return verdict.false_per_1000, -verdict.e_value, -verdict.evidence, key
