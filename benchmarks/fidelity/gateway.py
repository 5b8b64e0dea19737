"""velvetrope before a model's API, on the log's clock: detector, store and verdict as shipped.

Requests come in the order of arrival. Each is asked about, answered or refused, and logged when it
ends; the detector reads the log as `serve` does, second by second. Its decisions are in the store
from the moment at which it gave them, never before `issued_at`; the gateway's copy of them is
refreshed as often as the verdict API's.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, NamedTuple

from detector.events import Event, Output
from detector.judge import Judgement, Models
from detector.runners.pipeline import Pipeline
from detector.settings import Settings
from responders.actions.throttle import MemoryLimiter
from responders.decisions import Decision, is_enforcement
from responders.feedback import RunMode
from responders.gateways.answer import Answers
from responders.gateways.caller import Caller
from responders.gateways.challenge import ChallengeDesk
from responders.gateways.view import View
from responders.metrics import Metrics
from responders.settings import PolicySettings
from responders.stores.memory import MemoryStore

__all__ = ["LOG_START", "Api", "Outcome", "Request", "Snapshot"]

LOG_START: Final = 1_740_960_000.0  # Monday 3 March 2025, 00:00 UTC
_REFUSED_IN_S: Final = 0.002
_LATENCY_S: Final = {"vector": 0.012, "text": 0.06}


class Request(NamedTuple):
    """One request: `at` is Unix seconds, and `label` what the model would answer."""

    at: float
    account: str
    sent: str | list[float]
    label: int
    confidence: float


class Outcome(NamedTuple):
    """What became of a request. `wait_s` is the refusal's Retry-After, where it has one."""

    given: bool
    ended_at: float
    status: int = 200
    action: str = "allow"
    wait_s: float | None = None


@dataclass(slots=True)
class _Log:
    """Requests that have not ended yet: (end, number, event), a heap."""

    open: list[tuple[float, int, Event]] = field(default_factory=list)
    count: int = 0

    def copied(self) -> _Log:
        return _Log(list(self.open), self.count)


@dataclass(frozen=True)
class Snapshot:
    """An API at some moment, to go on from more than once."""

    pipeline: bytes
    live: tuple[Decision, ...]
    to_come: tuple[tuple[float, int, Decision], ...]
    buckets: tuple[tuple[str, tuple[float, int, float]], ...]
    log: _Log
    clock: float
    enforced: dict[str, float]
    actions: Counter[str]


class Api:
    """A model's API behind a gateway that asks velvetrope.

    Args:
        model: its name in the log.
        kind: what it takes.
        models: the detector's, loaded once.
        mode: `enforce`, or `off`, the kill switch: decisions are made, and nothing is refused.
    """

    def __init__(self, model: str, kind: str, models: Models, *, mode: RunMode = "enforce") -> None:
        self._settings = Settings(policy=PolicySettings(mode="enforce"))
        self._models = models
        self._model, self._latency = model, _LATENCY_S[kind]
        self._mode = mode
        self._start(Pipeline(self._settings, models=models), LOG_START, ())

    def _start(self, pipeline: Pipeline, clock: float, decisions: Sequence[Decision]) -> None:
        self.clock = clock
        self._pipeline = pipeline
        self._store = MemoryStore(clock=self._now)
        self._store.set_mode(self._mode)
        self._limiter = _Buckets()
        api = self._settings.api
        view = _LogTimeView(self._store, api, self._now)
        desk = ChallengeDesk(self._store, view, self._limiter, api, Metrics(), self._now)
        self._answers = Answers(view, self._limiter, api, self._now, desk)
        self._store.rebuild(decisions)
        self._to_come: list[tuple[float, int, Decision]] = []
        self._log = _Log()
        self.enforced: dict[str, float] = {}  # account → when it was first enforced
        self.actions: Counter[str] = Counter()  # decisions by action
        self._asyncio = asyncio.Runner()

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._asyncio.close()

    def ask(self, request: Request) -> Outcome:
        """Let time pass until the request arrives, and answer or refuse it."""
        self.until(request.at)
        account = request.account
        outcome = Outcome(True, request.at + self._latency)
        # The judge decides about accounts: whoever the store does not know, no answer holds up.
        if self._store.get("account", account) is not None:
            answer = self._asyncio.run(self._answers.answer(Caller(account=account)))
            outcome = outcome._replace(action=answer.action)
            if answer.refusal is not None:
                wait = answer.refusal.headers.get("Retry-After")
                outcome = Outcome(
                    False,
                    request.at + _REFUSED_IN_S,
                    answer.refusal.status,
                    answer.action,
                    None if wait is None else float(wait),
                )
        self._log.count += 1
        event = Event(
            ts=request.at,
            account=account,
            request_id=f"r{self._log.count:x}",
            model=self._model,
            endpoint="/v1/classify",
            status=outcome.status,
            served=outcome.given,
            latency_ms=1000.0 * (outcome.ended_at - request.at),
            input=request.sent,
            output=Output(label=str(request.label), confidence=request.confidence)
            if outcome.given
            else None,
        )
        heapq.heappush(self._log.open, (outcome.ended_at, self._log.count, event))
        return outcome

    def until(self, at: float) -> None:
        """Let time pass: requests end and are logged, the detector reads, decisions arrive."""
        while self._log.open and self._log.open[0][0] <= at:
            ended_at, _, event = heapq.heappop(self._log.open)
            self._quiet(ended_at)
            self._take(self._pipeline.feed([event]))
        self._quiet(at)
        self._arrive()

    def snapshot(self) -> Snapshot:
        """Everything as it is now."""
        return Snapshot(
            pipeline=self._pipeline.export(),
            live=tuple(self._store.live(self.clock)),
            to_come=tuple(self._to_come),
            buckets=self._limiter.export(),
            log=self._log.copied(),
            clock=self.clock,
            enforced=dict(self.enforced),
            actions=Counter(self.actions),
        )

    def go_on(self, snapshot: Snapshot) -> None:
        """Be as the snapshot was."""
        self._asyncio.close()
        pipeline = Pipeline.restore(self._settings, None, snapshot.pipeline, models=self._models)
        self._start(pipeline, snapshot.clock, snapshot.live)
        self._limiter.restore(snapshot.buckets)
        self._to_come = list(snapshot.to_come)
        self._log = snapshot.log.copied()
        self.enforced = dict(snapshot.enforced)
        self.actions = Counter(snapshot.actions)

    def _now(self) -> float:
        return self.clock

    def _quiet(self, at: float) -> None:
        """Seconds without an event: `serve` says each that all was read. Two say everything."""
        first = int(self.clock) + 1
        for second in range(first, min(int(at), first + 1) + 1):
            self.clock = float(second)
            self._arrive()
            self._take(self._pipeline.silence())
        self.clock = max(self.clock, at)

    def _take(self, judgement: Judgement) -> None:
        for decision in judgement.decisions:
            self.actions[decision.action] += 1
            due = max(decision.issued_at, self.clock)
            heapq.heappush(self._to_come, (due, decision.version, decision))

    def _arrive(self) -> None:
        while self._to_come and self._to_come[0][0] <= self.clock:
            due, _, decision = heapq.heappop(self._to_come)
            self._store.apply([decision])
            if is_enforcement(decision.action):
                self.enforced.setdefault(decision.value, due)


class _LogTimeView(View):
    """The verdict API's copy of the decisions, whose age is of the log's clock."""

    _read_on_clock = float("-inf")

    async def current(self) -> None:
        """Refresh what is older than `refresh_s`, as the API does, before the answer."""
        now = self._clock()
        if now - self._read_on_clock >= self._settings.refresh_s:
            await self._refresh()
            self._read_on_clock = now


class _Buckets(MemoryLimiter):
    """A limiter in this process that can be copied."""

    def export(self) -> tuple[tuple[str, tuple[float, int, float]], ...]:
        return tuple(sorted(self._kept.items()))

    def restore(self, buckets: Iterable[tuple[str, tuple[float, int, float]]]) -> None:
        self._kept = dict(buckets)
