"""The measure stage on Kafka: `access-logs` to `blocks`, with a checkpoint a partition.

The log is the write-ahead log. State lives in memory; every few seconds a partition's state goes to
`checkpoints` together with the offset that it covers, and then, and only then, what it covers is
acknowledged. A new owner loads the newest whole checkpoint, drops records before its offset, and
makes the same blocks with the same numbers again, which the judge knows as repeats.

Anything unexpected ends the process: an agent that went on after an exception would leave its
unacknowledged batches behind (faust-streaming #527).
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

import faust
import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from faust.types import TP

from detector.blocks import Block
from detector.dead_letters import dead_letter
from detector.events import BadRecord, EndOfInput, Event, decode
from detector.kafka import checkpoints, transport
from detector.kafka.connection import (
    broker_urls,
    consumer,
    faust_credentials,
    producer,
    wait_for_broker,
)
from detector.kafka.records import BlocksRecord, split
from detector.kafka.topics import Topics
from detector.measure import PartitionMeasure
from detector.partition import partition_of
from detector.settings import Settings

__all__ = ["LostRecords", "MeasureStage", "StuckPartition"]

log: Final = logging.getLogger(__name__)

# So many records are decoded and measured before other tasks get a turn: some 10-30 ms.
_SLICE: Final = 4096
_IN_FLIGHT: Final = 500
_BEAT_S: Final = 0.1
_FRESH_FETCH_S: Final = 5.0

_offset = attrgetter("offset")
_BATCH_BYTES: Final = 4 << 20
_BATCHES_WAITING: Final = 8  # bounds what a backlog may take in memory


class LostRecords(RuntimeError):
    """Records are missing between what was processed and what came next."""


class StuckPartition(RuntimeError):
    """Records wait, the broker answers, and nothing moves."""


@dataclass(eq=False)
class _Owned:
    """One partition that this process owns, and what is not yet checkpointed of it."""

    partition: int
    writer: checkpoints.Writer
    measure: PartitionMeasure
    expected: int  # offset of the next record
    fresh: bool  # nothing was ever processed: retention may have moved the start
    unacked: list[Any] = field(default_factory=list)  # Faust messages, values dropped
    sent: list[asyncio.Future[Any]] = field(default_factory=list)
    said_tick: int = -1
    said_silent: bool = False
    said_at: float = 0.0
    caught_up_at: float | None = None
    moved_at: float = field(default_factory=time.monotonic)
    covered: int = -1  # offset of the last checkpoint
    checkpointed_at: float = field(default_factory=time.monotonic)
    # Held while state moves and what follows from it goes out: a checkpoint or a heartbeat in
    # between would speak of blocks that nobody has sent.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


class MeasureStage:
    """A Faust app whose one agent takes batches.

    Attributes:
        app: the Faust app; the caller starts and stops it through `start` and `stop`.
    """

    def __init__(self, settings: Settings, fail: Callable[[BaseException], Any]) -> None:
        """
        Args:
            settings: of the deployment.
            fail: ends the process; called on anything unexpected, and never returns in production.
        """
        self._settings = settings
        self._fail = fail
        self._topics = Topics.under(settings.kafka.prefix)
        self._owned: dict[int, _Owned] = {}
        self._arriving: dict[int, asyncio.Task[_Owned]] = {}
        self._producer = producer(settings.kafka)
        self._probe: AIOKafkaConsumer = consumer(settings.kafka)
        self._beats: list[asyncio.Task[None]] = []
        self._stopping = False
        self.app = self._faust_app()

    async def start(self) -> None:
        """Join the group. Returns once the app runs; partitions come later."""
        # Compiling the kernels takes seconds in which no heartbeat would be sent.
        await asyncio.to_thread(_warm_up, self._settings)
        await self._producer.start()
        await self._probe.start()
        self.app.finalize()
        await self.app.start()
        self._beats = [
            asyncio.create_task(self._guarded(self._beat)),
            asyncio.create_task(self._guarded(self._watch)),
        ]

    async def stop(self) -> None:
        """Checkpoint, commit, leave the group."""
        self._stopping = True
        for task in self._beats:
            task.cancel()
        await self._let_go()
        await self.app.stop()
        await self._probe.stop()
        await self._producer.stop()

    @property
    def partitions(self) -> list[int]:
        """What this process owns now."""
        return sorted(self._owned)

    def _faust_app(self) -> faust.App:
        kafka = self._settings.kafka
        transport.register()
        app = faust.App(
            f"{kafka.prefix}velvetrope-measure",
            broker=broker_urls(kafka, transport.SCHEME),
            broker_credentials=faust_credentials(kafka),
            broker_session_timeout=kafka.session_timeout_s,
            broker_heartbeat_interval=kafka.session_timeout_s / 4,
            broker_commit_interval=1.0,
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=_BATCH_BYTES,
            stream_buffer_maxsize=_BATCHES_WAITING,
            # Acknowledgements wait for checkpoints, so there is nothing to wait for.
            stream_wait_empty=False,
            store="memory://",
            table_standby_replicas=0,
            autodiscover=False,
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
        )
        app.on_partitions_assigned.connect(self._on_assigned)
        app.on_partitions_revoked.connect(self._on_revoked)
        topic = app.topic(self._topics.access_logs, schema=transport.BatchSchema())
        app.agent(topic, name="measure", concurrency=1)(self._agent)
        return app

    # Ownership

    async def _on_assigned(self, app: Any, assigned: set[Any], **_: Any) -> None:
        for tp in assigned:
            if tp.topic == self._topics.access_logs:
                generation = app.consumer_generation_id
                # Not awaited here: aiokafka sends no heartbeats while this runs, and a large
                # checkpoint takes its time.
                self._arriving[tp.partition] = asyncio.create_task(
                    self._take_over(tp.partition, generation)
                )

    async def _on_revoked(self, app: Any, revoked: set[Any], **_: Any) -> None:
        try:
            await self._let_go()
        except Exception as error:
            self._fail(error)

    async def _take_over(self, partition: int, generation: int) -> _Owned:
        topic = self._topics.checkpoints
        name = f"measure:{partition}"
        kafka = self._settings.kafka
        while True:
            try:
                found = await checkpoints.load(kafka, topic, partition, name)
                break
            except KafkaError as error:
                log.warning("could not load %s (%r); trying on", name, error)
                await wait_for_broker(kafka)
        settings = self._settings.measure
        checkpoint = found.checkpoint
        if checkpoint is None:
            tp = TopicPartition(self._topics.access_logs, partition)
            start = (await self._probe.beginning_offsets([tp]))[tp]
            owned = _Owned(
                partition,
                checkpoints.Writer(topic, partition, name, generation, found),
                PartitionMeasure(partition, settings),
                start,
                fresh=True,
            )
        else:
            # A group that was deleted counts its generations anew; a checkpoint remembers.
            epoch = max(generation, checkpoint.epoch + 1)
            offset = int(checkpoint.meta["offset"])
            owned = _Owned(
                partition,
                checkpoints.Writer(topic, partition, name, epoch, found),
                PartitionMeasure.restore(partition, settings, checkpoint.full, checkpoint.changes),
                offset,
                fresh=False,
                covered=offset,
            )
        self._owned[partition] = owned
        # At once, so that the judge holds what this partition has not come to, and learns that the
        # owner before is one no more.
        async with owned.turn:
            await self._say(owned, self._record(owned, []))
        log.info("measuring partition %d from offset %d", partition, owned.expected)
        return owned

    async def _let_go(self) -> None:
        """Checkpoint everything owned, commit what that covers, and own nothing."""
        arriving, self._arriving = self._arriving, {}
        for task in arriving.values():
            task.cancel()
        await asyncio.gather(*arriving.values(), return_exceptions=True)
        # From here on the agent finds no owner, and drops what it has in hand.
        owned, self._owned = self._owned, {}
        await asyncio.gather(*(self._checkpoint(one) for one in owned.values()))
        offsets = {
            TP(self._topics.access_logs, one.partition): one.covered
            for one in owned.values()
            if one.covered > 0
        }
        if offsets:
            # Only a convenience, for those who watch the lag: a new owner trusts the checkpoint.
            await self.app.consumer._commit(offsets)

    # Records

    async def _agent(self, stream: Any) -> None:
        try:
            async for event in stream.noack().events():
                await self._take(event.message)
        except Exception as error:
            self._fail(error)
            raise

    async def _take(self, message: Any) -> None:
        records: Sequence[ConsumerRecord] = message.value
        message.value = None  # it may wait for its acknowledgement without its megabytes
        if message.generation_id != self.app.consumer_generation_id:
            return  # of an assignment that is over; whoever owns the partition reads it again
        arriving = self._arriving.get(message.partition)
        if arriving is None:
            return
        try:
            owned = await asyncio.shield(arriving)
        except asyncio.CancelledError:
            if arriving.cancelled():
                return
            raise
        if owned.fresh:
            self._check_fresh(owned, message)
            owned.expected = records[0].offset
            owned.fresh = False
        if records[0].offset > owned.expected:
            raise LostRecords(
                f"partition {owned.partition} goes on at offset {records[0].offset}, but "
                f"{owned.expected} is next: retention removed what was not yet processed, or a "
                f"transactional producer writes to {self._topics.access_logs}"
            )
        position = bisect_left(records, owned.expected, key=_offset)
        while position < len(records):
            if self._owned.get(message.partition) is not owned:
                return
            part = records[position : position + _SLICE]
            position += len(part)
            async with owned.turn:
                await self._measure(owned, part)
            await asyncio.sleep(0)
        owned.unacked.append(message)

    def _check_fresh(self, owned: _Owned, message: Any) -> None:
        committed = self.app.consumer._committed_offset.get(message.tp)
        if committed:
            raise LostRecords(
                f"partition {owned.partition} was processed up to offset {committed}, but "
                f"{self._topics.checkpoints} has no whole checkpoint of it"
            )

    async def _measure(self, owned: _Owned, records: Sequence[ConsumerRecord]) -> None:
        """Take a slice: state, position and what goes out move together, before anything waits."""
        read_at = time.time()
        before = owned.measure.watermark
        events: list[Event] = []
        letters: list[bytes] = []
        out: list[BlocksRecord] = []
        add = events.append
        partitions = self._settings.measure.partitions
        for record in records:
            try:
                event = decode(record.value or b"", read_at)
                if isinstance(event, EndOfInput):
                    blocks = [*owned.measure.feed(events), *owned.measure.end()]
                    events.clear()
                    out.append(self._record(owned, blocks, end=True))
                    continue
                right = partition_of(event.account, partitions)
                if right != owned.partition:
                    raise BadRecord(f"the account belongs in partition {right}, by murmur2")
            except BadRecord as error:
                letters.append(self._letter(record, str(error), read_at))
            else:
                add(event)
        if events:
            blocks = owned.measure.feed(events)
            tick = int(owned.measure.watermark / self._settings.judge.tick_s)
            # A watermark that passes no tick's end is no news for the judge.
            if blocks or tick > owned.said_tick or owned.said_silent:
                out.append(self._record(owned, blocks))
        owned.expected = records[-1].offset + 1
        owned.moved_at = time.monotonic()
        owned.caught_up_at = None
        for letter in letters:
            owned.sent.append(await self._producer.send(self._topics.dead_letters, letter))
        for one in out:
            await self._say(owned, one, before)
        if len(owned.sent) > _IN_FLIGHT:
            for future in owned.sent:
                await future
            owned.sent = []

    def _record(
        self, owned: _Owned, blocks: list[Block], *, silent: bool = False, end: bool = False
    ) -> BlocksRecord:
        watermark = owned.measure.watermark
        epoch = owned.writer.epoch
        return BlocksRecord(owned.partition, epoch, watermark, tuple(blocks), silent, end)

    def _letter(self, record: ConsumerRecord, error: str, read_at: float) -> bytes:
        return msgspec.json.encode(
            dead_letter(
                record.value or b"",
                error,
                source=f"{record.topic}-{record.partition}",
                position=record.offset,
                read_at=read_at,
            )
        )

    async def _say(self, owned: _Owned, record: BlocksRecord, before: float = -1.0) -> None:
        owned.said_at = time.monotonic()
        owned.said_silent = record.silent
        owned.said_tick = int(record.watermark / self._settings.judge.tick_s)
        for value in split(record, before):
            owned.sent.append(await self._producer.send(self._topics.blocks, value, partition=0))

    # Checkpoints

    async def _checkpoint(self, owned: _Owned) -> None:
        async with owned.writing:
            owned.checkpointed_at = time.monotonic()
            if owned.fresh or owned.expected == owned.covered:
                return
            async with owned.turn:  # one moment's state, with what was said until then
                offset = owned.expected
                sent, owned.sent = owned.sent, []
                unacked, owned.unacked = owned.unacked, []
                meta = {"offset": offset, "watermark": owned.measure.watermark}
                planned = owned.writer.plan(owned.measure, meta)
            for future in sent:
                await future
            await owned.writer.write(self._producer, planned)
            owned.covered = offset
            if self._owned.get(owned.partition) is owned:
                for message in unacked:
                    message.ack(self.app.consumer)

    # What time brings

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Exception as error:
            self._fail(error)

    async def _beat(self) -> None:
        """Checkpoints and heartbeats, as they fall due."""
        kafka = self._settings.kafka
        while True:
            await asyncio.sleep(_BEAT_S)
            now = time.monotonic()
            for task in self._arriving.values():
                if task.done() and not task.cancelled():
                    task.result()  # a checkpoint that cannot be loaded ends the process
            for owned in list(self._owned.values()):
                took = sum(one.writer.took_s for one in self._owned.values())
                since = now - owned.checkpointed_at
                if checkpoints.due(since, kafka.checkpoint_every_s, took):
                    await self._checkpoint(owned)
                if self._owned.get(owned.partition) is not owned:
                    continue
                if not self._caught_up(owned):
                    owned.caught_up_at = None
                elif owned.caught_up_at is None:
                    owned.caught_up_at = now
                silent = (
                    owned.caught_up_at is not None
                    and now - owned.caught_up_at >= kafka.heartbeat_after_s
                )
                if now - owned.said_at >= kafka.heartbeat_after_s and not owned.turn.locked():
                    async with owned.turn:
                        await self._say(owned, self._record(owned, [], silent=silent))

    def _caught_up(self, owned: _Owned) -> bool:
        """Whether the last fetch, a moment ago, found nothing past what was processed."""
        reader = self.app.consumer._thread._consumer
        subscription = reader._subscription.subscription if reader is not None else None
        assignment = subscription.assignment if subscription is not None else None
        tp = TopicPartition(self._topics.access_logs, owned.partition)
        if assignment is None or tp not in assignment.tps:
            return False
        state = assignment.state_value(tp)
        if state.highwater is None or state.timestamp is None:
            return False
        fetched_ago = time.time() - state.timestamp / 1000.0
        at_end: bool = state.highwater <= owned.expected
        return at_end and fetched_ago < _FRESH_FETCH_S

    async def _watch(self) -> None:
        """End the process when records wait and nothing moves (faust-streaming #175)."""
        stuck_after = self._settings.kafka.stuck_after_s
        while True:
            await asyncio.sleep(min(10.0, stuck_after / 4))
            tps = {
                partition: TopicPartition(self._topics.access_logs, partition)
                for partition in self._owned
            }
            try:
                # A connection of its own: what is stuck may be the other one.
                ends = await self._probe.end_offsets(list(tps.values())) if tps else {}
            except KafkaError:
                for owned in self._owned.values():
                    owned.moved_at = time.monotonic()  # no broker: nothing can move
                continue
            for owned in self._owned.values():
                tp = tps.get(owned.partition)
                if tp is None or ends[tp] <= owned.expected:
                    owned.moved_at = time.monotonic()
                elif time.monotonic() - owned.moved_at > stuck_after:
                    raise StuckPartition(
                        f"partition {owned.partition} has stood at offset {owned.expected} for "
                        f"{stuck_after:.0f} s, with records up to {ends[tp]}"
                    )


def _warm_up(settings: Settings) -> None:
    for content in ("a few words", [0.5, 0.25], None):
        measure = PartitionMeasure(0, settings.measure)
        event = Event(ts=1.0, account="a", request_id="1", served=True, input=content)
        measure.feed([event] * 40)
        measure.end()
