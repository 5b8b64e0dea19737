"""The apply stage: `decisions` and `feedback` to Redis, where gateways read them.

Redis is a view. Every process that applies reads both topics from their start, keeps the newest
decision of each (scope, value), and writes by compare-and-set, so that any number of them may run
and none has state to lose. A Redis that comes back empty is filled again.

The kill switch, an allow and a clear act at once, before the judge has journalled them: a clear
ends what is there one version later, and the judge's own clear, later still, replaces it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from detector.kafka.connection import consumer, read_to_end, wait_for_broker
from detector.kafka.topics import Topics
from detector.settings import Settings
from responders.allowlist import AllowEntry
from responders.decisions import Decision, Reason
from responders.feedback import (
    Allow,
    BadFeedback,
    Clear,
    Disallow,
    Feedback,
    RunMode,
    SetMode,
    decode_feedback,
)
from responders.limits import StaticPolicy
from responders.stores.base import GUARD_S, StoreUnavailable, as_clear, decode_decision
from responders.stores.redis import AsyncRedisStore

__all__ = ["ApplyStage"]

log: Final = logging.getLogger(__name__)

_POLL_MS: Final = 200
_LOOK_AT_EPOCH_S: Final = 1.0
_FORGET_S: Final = 3600.0
_FIRST_BACKOFF_S: Final = 0.1
_LONGEST_BACKOFF_S: Final = 1.0  # a Redis that is back must be whole within 5 s

_T = TypeVar("_T")
_Key = tuple[str, str]


class ApplyStage:
    """Keeps Redis in step with the topics."""

    def __init__(
        self,
        settings: Settings,
        fail: Callable[[BaseException], Any],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            settings: of the deployment.
            fail: ends the process; called on anything but a broker or Redis that is away.
            clock: event time, Unix seconds.
        """
        self._settings = settings
        self._fail = fail
        self._clock = clock
        topics = Topics.under(settings.kafka.prefix)
        self._decisions = TopicPartition(topics.decisions, 0)
        self._feedback = TopicPartition(topics.feedback, 0)
        self._store = AsyncRedisStore(settings.redis, clock=clock)
        # What Redis is a view of.
        self._latest: dict[_Key, Decision] = {}
        self._allowed: dict[_Key, AllowEntry] = {}
        self._mode: RunMode = settings.policy.mode
        self._policy = StaticPolicy.of(settings.policy).encode()
        self._taken: set[str] = set()  # ids of feedback
        self._task: asyncio.Task[None] | None = None
        self._away = False
        self._filled: str | None = None  # the server that is known to hold everything

    async def start(self) -> None:
        """Begin to read; Redis may come later."""
        self._task = asyncio.create_task(self._guarded())

    async def stop(self) -> None:
        """Stop where it is: the next start reads everything again."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._store.close()

    async def _guarded(self) -> None:
        try:
            while True:
                try:
                    await self._serve()
                except KafkaError as error:
                    log.warning("applying was interrupted: %r", error)
                    await wait_for_broker(self._settings.kafka)
        except Exception as error:
            self._fail(error)
            raise

    async def _serve(self) -> None:
        reader = consumer(self._settings.kafka)
        await reader.start()
        try:
            await self._read_all(reader)
            await self._available(self._fill)
            await self._follow(reader)
        finally:
            await reader.stop()

    async def _read_all(self, reader: AIOKafkaConsumer) -> None:
        """Both topics to their end, before anything is written: no state of the past shows."""
        for partition, take in (
            (self._decisions, self._take_decision),
            (self._feedback, self._take_feedback),
        ):
            reader.assign([partition])
            async for record in read_to_end(reader, partition):
                take(record)
            end = await reader.position(partition)
            if partition == self._decisions:
                decisions_end = end
        reader.assign([self._decisions, self._feedback])
        reader.seek(self._decisions, decisions_end)
        reader.seek(self._feedback, end)

    async def _follow(self, reader: AIOKafkaConsumer) -> None:
        looked_at = forgot_at = time.monotonic()
        while True:
            found = await reader.getmany(timeout_ms=_POLL_MS)
            changed: dict[_Key, Decision] = {}
            acts: list[Feedback] = []
            for record in found.get(self._feedback, ()):
                feedback = self._take_feedback(record)
                if feedback is not None:
                    acts.append(feedback)
                    if isinstance(feedback, Clear):
                        key = (feedback.scope, feedback.value)
                        if key in self._latest:
                            changed[key] = self._latest[key]
            for record in found.get(self._decisions, ()):
                decision = self._take_decision(record)
                if decision is not None:
                    changed[(decision.scope, decision.value)] = decision
            now = time.monotonic()
            if changed or acts or now - looked_at >= _LOOK_AT_EPOCH_S:
                looked_at = now
                await self._available(lambda: self._write(list(changed.values()), acts))  # noqa: B023
            if now - forgot_at >= _FORGET_S:
                forgot_at = now
                self._forget()

    # What the topics say

    def _take_decision(self, record: ConsumerRecord) -> Decision | None:
        """The decision, if it is the newest of its key."""
        if record.value is None:
            return None
        decision = decode_decision(record.value)
        key = (decision.scope, decision.value)
        known = self._latest.get(key)
        if known is not None and known.version >= decision.version:
            return None
        self._latest[key] = decision
        return decision

    def _take_feedback(self, record: ConsumerRecord) -> Feedback | None:
        """The feedback, if it has something to do at once."""
        try:
            feedback = decode_feedback(record.value or b"")
        except BadFeedback:
            return None  # the judge writes the dead letter
        if isinstance(feedback, Clear) and self._clears(feedback):
            return feedback
        # The journalled copy of what has acted already changes nothing, least of all the mode.
        if feedback.id in self._taken:
            return None
        if feedback.at is not None and feedback.tick is None and feedback.at > self._clock():
            return None  # acts when its time comes, through the judge
        self._taken.add(feedback.id)
        if isinstance(feedback, SetMode):
            self._mode = feedback.mode
        elif isinstance(feedback, Disallow):
            self._allowed.pop((feedback.scope, feedback.value), None)
        elif isinstance(feedback, Allow):
            self._allowed[(feedback.scope, feedback.value)] = AllowEntry(
                scope=feedback.scope,
                value=feedback.value,
                reason=feedback.reason,
                expires_at=feedback.expires_at,
            )
        return feedback

    def _clears(self, feedback: Clear) -> bool:
        """End what the clear is about, until the judge's own decision comes; whether it did."""
        key = (feedback.scope, feedback.value)
        known = self._latest.get(key)
        if known is None or known.action == "clear":
            return False
        if feedback.tick is None:
            # Once it is journalled, its place among the decisions is known; before, it is now.
            if feedback.at is not None and feedback.at > self._clock():
                return False
        elif known.issued_at >= feedback.tick * self._settings.judge.tick_s:
            return False
        self._latest[key] = msgspec.structs.replace(
            as_clear(known),
            mode=known.mode,
            version=known.version + 1,
            reason=Reason(code="cleared", text=feedback.reason),
        )
        return True

    def _forget(self) -> None:
        """Drop what has no effect any more, and guards against nobody."""
        before = self._clock() - GUARD_S
        for key in [k for k, d in self._latest.items() if d.expires_at < before]:
            del self._latest[key]

    # Redis

    async def _fill(self) -> None:
        """Bring Redis up to all that was read, whatever it holds."""
        server = await self._store.instance()
        if await self._store.epoch() is None:
            await self._rebuild()
        else:
            await self._store.apply(list(self._latest.values()))
            await self._set_rest()
        self._filled = server

    async def _rebuild(self) -> None:
        log.info("Redis has no view: filling it with %d decisions", len(self._latest))
        await self._set_rest()
        await self._store.rebuild(list(self._latest.values()))

    async def _set_rest(self) -> None:
        await self._store.set_mode(self._mode)
        await self._store.set_policy(self._policy)
        now = self._clock()
        for entry in self._allowed.values():
            if entry.live(now):
                await self._store.allow(entry)

    async def _write(self, changed: list[Decision], acts: list[Feedback]) -> None:
        # The mode first: nothing may be enforced a moment longer than the kill switch says.
        if await self._store.epoch() is None:
            await self._rebuild()
            return
        if await self._store.instance() != self._filled:
            # Started again, or failed over: what was written last may not have come along.
            log.info("another Redis answers: applying %d decisions", len(self._latest))
            await self._fill()
        for feedback in acts:
            if isinstance(feedback, SetMode):
                await self._store.set_mode(self._mode)
            elif isinstance(feedback, Allow):
                entry = self._allowed.get((feedback.scope, feedback.value))
                if entry is not None:
                    await self._store.allow(entry)
            elif isinstance(feedback, Disallow):
                await self._store.disallow(feedback.scope, feedback.value)
        if changed:
            await self._store.apply(changed)

    async def _available(self, write: Callable[[], Awaitable[_T]]) -> _T:
        """Do it, and until Redis is there try again; say so once when it goes and when it comes."""
        backoff = _FIRST_BACKOFF_S
        while True:
            try:
                done = await write()
            except StoreUnavailable as error:
                if not self._away:
                    log.warning("Redis is away (%s); decisions wait in Kafka", error)
                    self._away = True
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, _LONGEST_BACKOFF_S)
            else:
                if self._away:
                    log.warning("Redis is back")
                    self._away = False
                return done
