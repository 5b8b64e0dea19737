"""The judge stage on Kafka: `blocks` and `feedback` to `decisions` and `alerts`.

Whoever owns the one partition of `blocks` is the judge; the others of its group stand by. What a
step decided, the commands that it journalled, the checkpoint and the offsets that it covers are one
transaction, under one transactional id, so a judge that wakes up after its successor is fenced.

A new judge starts from the newest checkpoint and judges on from there. What the one before had
decided after that checkpoint is decided again, the same, and dropped: a mark in every transaction
says up to which tick everything is out. Commands come in again where they came in before: each is
journalled with its tick and with the offset in `blocks` at which it was taken.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError

from detector.baseline import Baseline
from detector.dead_letters import dead_letter
from detector.judge import Judge, Judgement, Models
from detector.kafka import checkpoints
from detector.kafka.connection import consumer, producer, read_to_end, wait_for_broker
from detector.kafka.records import decode_blocks
from detector.kafka.topics import Topics
from detector.settings import Settings
from responders.alerts.ocsf import Activity, Alert
from responders.decisions import Decision
from responders.feedback import (
    BadFeedback,
    Feedback,
    decode_feedback,
    encode_feedback,
    with_tick,
)
from responders.stores.base import encode_decision

__all__ = ["JudgeStage"]

log: Final = logging.getLogger(__name__)

_NAME: Final = "judge"
_MARK: Final = "judge-mark"
_TAKEN_AT: Final = "blocks-offset"  # header of a journalled command
_POLL_MS: Final = 50
_BACKOFF_S: Final = 1.0
_STAND_BY_S: Final = 1.0
_MAX_POLL_INTERVAL_MS: Final = 3_600_000
_STEP_DOWN_WITHIN_S: Final = 30.0


class _Mark(msgspec.Struct, frozen=True):
    """Everything up to this tick is out; the last judge was of this generation."""

    generation: int
    tick: int


_encode: Final = msgspec.msgpack.encode
_decode_mark: Final = msgspec.msgpack.Decoder(_Mark).decode


class _Ownership(ConsumerRebalanceListener):  # type: ignore[misc]
    """Which partitions of `blocks` this process owns, and whether it is to let go of them."""

    def __init__(self) -> None:
        self.owned = asyncio.Event()
        self.leaving = asyncio.Event()
        self.left = asyncio.Event()
        self.left.set()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        if assigned:
            self.leaving.clear()
            self.left.clear()
            self.owned.set()

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        if self.owned.is_set():
            self.owned.clear()
            self.leaving.set()
            # The last checkpoint spares the next judge the work since the one before it.
            try:
                await asyncio.wait_for(self.left.wait(), _STEP_DOWN_WITHIN_S)
            except TimeoutError:
                log.warning("did not step down in %.0f s", _STEP_DOWN_WITHIN_S)


class JudgeStage:
    """Judges while it owns `blocks`, and stands by while another does."""

    def __init__(self, settings: Settings, fail: Callable[[BaseException], Any]) -> None:
        """
        Args:
            settings: of the deployment.
            fail: ends the process; called on anything but a broker that is away.
        """
        self._settings = settings
        self._fail = fail
        self._topics = Topics.under(settings.kafka.prefix)
        self._blocks = TopicPartition(self._topics.blocks, 0)
        self._feedback = TopicPartition(self._topics.feedback, 0)
        self._group = f"{settings.kafka.prefix}velvetrope-judge"
        self._models: Models | None = None
        self._baseline: Baseline | None = None
        self._ownership = _Ownership()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the models, then stand by."""
        self._models = await asyncio.to_thread(Models.of, self._settings.judge)
        if self._settings.judge.baseline is not None:
            self._baseline = await asyncio.to_thread(Baseline.load, self._settings.judge.baseline)
        self._task = asyncio.create_task(self._guarded())

    async def stop(self) -> None:
        """Checkpoint if this is the judge, and leave the group."""
        self._stopping.set()
        self._ownership.leaving.set()
        if self._task is not None:
            await self._task

    async def _guarded(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    await self._serve()
                except KafkaError as error:
                    # Fenced, or the broker went away in the middle of a transaction. What was not
                    # committed did not happen; join anew, and go on from the checkpoint if it is
                    # still ours to go on.
                    log.warning("judging was interrupted: %r", error)
                    await _first(self._stopping.wait(), wait_for_broker(self._settings.kafka))
                    await _first(self._stopping.wait(), asyncio.sleep(_BACKOFF_S))
        except Exception as error:
            self._fail(error)
            raise

    async def _serve(self) -> None:
        """Join the group, and judge for as long as `blocks` is ours."""
        kafka = self._settings.kafka
        ownership = self._ownership = _Ownership()
        reader = consumer(
            kafka,
            group_id=self._group,
            session_timeout_ms=int(kafka.session_timeout_s * 1000),
            heartbeat_interval_ms=int(kafka.session_timeout_s * 250),
            max_poll_interval_ms=_MAX_POLL_INTERVAL_MS,
            rebalance_timeout_ms=int((_STEP_DOWN_WITHIN_S + 10) * 1000),
        )
        reader.subscribe([self._topics.blocks], listener=ownership)
        await reader.start()
        try:
            while not self._stopping.is_set():
                await _first(
                    ownership.owned.wait(), self._stopping.wait(), asyncio.sleep(_STAND_BY_S)
                )
                if not ownership.owned.is_set():
                    # Standing by: without a poll now and then, it would not join the next round.
                    await reader.getmany(timeout_ms=0)
                    continue
                try:
                    await self._judge(reader, ownership)
                finally:
                    ownership.left.set()
                await _first(self._stopping.wait(), asyncio.sleep(0))
        finally:
            ownership.left.set()
            await reader.stop()

    async def _judge(self, reader: AIOKafkaConsumer, ownership: _Ownership) -> None:
        kafka = self._settings.kafka
        # Starting a transactional producer fences whoever judged before, and ends what that one
        # had begun; only then is the checkpoint read.
        sender = producer(kafka, transactional_id=self._group)
        commands = consumer(kafka)
        await sender.start()
        try:
            await commands.start()
            commands.assign([self._feedback])
            turn = await self._take_over(reader, commands, sender)
            await turn.run(lambda: ownership.leaving.is_set() or self._stopping.is_set())
        finally:
            await commands.stop()
            await sender.stop()

    async def _take_over(
        self, reader: AIOKafkaConsumer, commands: AIOKafkaConsumer, sender: AIOKafkaProducer
    ) -> _Turn:
        settings = self._settings
        partition = settings.measure.partitions  # of `checkpoints`: the one after the last
        found = await checkpoints.load(settings.kafka, self._topics.checkpoints, partition, _NAME)
        mark = _Mark(0, -1)
        if _MARK in found.others:
            mark = _decode_mark(found.others[_MARK])
        checkpoint = found.checkpoint
        generation = max(mark.generation, checkpoint.epoch if checkpoint else 0) + 1
        blocks_offset, feedback_offset = 0, 0
        if checkpoint is None:
            judge = Judge(settings, self._baseline, generation=generation, models=self._models)
        else:
            judge = Judge.restore(
                settings,
                self._baseline,
                checkpoint.full,
                checkpoint.changes,
                generation=generation,
                models=self._models,
            )
            blocks_offset = int(checkpoint.meta["blocks"])
            feedback_offset = int(checkpoint.meta["feedback"])
        first = (await reader.beginning_offsets([self._blocks]))[self._blocks]
        if blocks_offset < first and (checkpoint is not None or mark.tick >= 0):
            raise RuntimeError(
                f"{self._topics.blocks} begins at offset {first}, but the judge has come only to "
                f"{blocks_offset}: retention removed blocks that were not judged"
            )
        reader.seek(self._blocks, max(blocks_offset, first))
        turn = _Turn(
            settings,
            self._topics,
            judge,
            reader,
            commands,
            sender,
            checkpoints.Writer(self._topics.checkpoints, partition, _NAME, generation, found),
            mark,
            generation,
            (max(blocks_offset, first), feedback_offset),
            self._group,
        )
        await turn.begin()
        log.info(
            "judging, generation %d, from blocks offset %d", generation, max(blocks_offset, first)
        )
        return turn


class _Turn:
    """One judge's time in office."""

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        judge: Judge,
        reader: AIOKafkaConsumer,
        commands: AIOKafkaConsumer,
        sender: AIOKafkaProducer,
        writer: checkpoints.Writer,
        mark: _Mark,
        generation: int,
        offsets: tuple[int, int],
        group: str,
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._tick_s = settings.judge.tick_s
        self._judge = judge
        self._reader = reader
        self._commands = commands
        self._sender = sender
        self._writer = writer
        self._out_to = mark.tick
        self._generation = generation
        self._blocks_offset, self._feedback_offset = offsets
        self._group = group
        self._blocks = TopicPartition(topics.blocks, 0)
        self._feedback = TopicPartition(topics.feedback, 0)
        # Commands journalled before this turn, to be taken where they were taken then.
        self._again: deque[tuple[int, Feedback]] = deque()
        self._epochs = [0] * settings.measure.partitions
        self._heard = [time.monotonic()] * settings.measure.partitions
        self._missed: set[int] = set()
        self._checkpointed_at = time.monotonic()
        self._covered = offsets
        # What the next transaction holds.
        self._judgement = Judgement()
        self._journal: list[tuple[Feedback, int]] = []
        self._letters: list[bytes] = []
        self._told: list[Alert] = []  # of the deployment's own health: outside of event time

    async def begin(self) -> None:
        """Read the commands to their end, and put the new generation on record."""
        journalled: dict[str, tuple[int, Feedback]] = {}
        fresh: list[tuple[ConsumerRecord, Feedback]] = []
        async for record in read_to_end(
            self._commands, self._feedback, start=self._feedback_offset
        ):
            feedback = self._decoded(record)
            if feedback is None:
                continue
            if feedback.tick is None:
                fresh.append((record, feedback))
            else:
                journalled.setdefault(feedback.id, (_taken_at(record), feedback))
        self._again.extend(sorted(journalled.values(), key=lambda taken: taken[0]))
        self._take_again(self._blocks_offset)
        for _, feedback in fresh:
            if feedback.id not in journalled:
                self._take(feedback)
        self._feedback_offset = await self._commands.position(self._feedback)
        await self._commit(checkpoint=False, always=True)

    async def run(self, over: Callable[[], bool]) -> None:
        """Judge until `over`; then leave a checkpoint."""
        while not over():
            found = await self._commands.getmany(self._feedback, timeout_ms=0)
            for record in found.get(self._feedback, ()):
                feedback = self._decoded(record)
                if feedback is not None:
                    self._take(feedback)
                self._feedback_offset = record.offset + 1
            if found:
                self._advance()
            found = await self._reader.getmany(self._blocks, timeout_ms=_POLL_MS)
            for record in found.get(self._blocks, ()):
                self._take_blocks(record)
                # After each record, not each fetch: then what a silence lets pass depends on the
                # order of the records alone.
                self._advance()
                self._blocks_offset = record.offset + 1
                self._take_again(self._blocks_offset)
            self._miss()
            await self._commit(checkpoint=self._checkpoint_due())
        await self._commit(checkpoint=True)

    def _take(self, feedback: Feedback) -> None:
        fresh = feedback.tick is None
        if fresh and self._judge.tick < self._out_to:
            # What these ticks decided is out already: it must not be decided otherwise now.
            due = 0 if feedback.at is None else math.ceil(feedback.at / self._tick_s)
            feedback = with_tick(feedback, max(self._out_to + 1, due))
        feedback = self._judge.command(feedback)
        if fresh:
            self._journal.append((feedback, self._blocks_offset))

    def _take_again(self, offset: int) -> None:
        """Take the journalled commands that had been taken before this offset was read."""
        taken = False
        while self._again and self._again[0][0] <= offset:
            self._judge.command(self._again.popleft()[1])
            taken = True
        if taken:
            self._advance()

    def _take_blocks(self, record: ConsumerRecord) -> None:
        said = decode_blocks(record.value)
        partition = said.partition
        self._heard[partition] = time.monotonic()
        if partition in self._missed:
            self._missed.remove(partition)
            log.warning("partition %d has an owner again", partition)
            self._tell(partition, "close")
        self._epochs[partition] = max(self._epochs[partition], said.epoch)
        if said.silent:
            # A former owner that wakes up must not speak for the present one. Its blocks may come:
            # they are the same that the present one makes.
            if said.epoch == self._epochs[partition]:
                self._judge.silence(partition)
            return
        self._judge.blocks(partition, said.blocks, said.watermark)
        if said.end:
            self._judge.end(partition)

    def _advance(self) -> None:
        judgement = self._judge.advance()
        tick_s = self._tick_s
        if judgement.decisions or judgement.alerts:
            self._judgement.extend(
                Judgement(
                    [d for d in judgement.decisions if round(d.issued_at / tick_s) > self._out_to],
                    [a for a in judgement.alerts if round(a.time / tick_s) > self._out_to],
                )
            )

    def _miss(self) -> None:
        """Say which partitions nobody has spoken for, once."""
        now = time.monotonic()
        after = self._settings.kafka.owner_missing_after_s
        for partition, heard in enumerate(self._heard):
            if now - heard > after and partition not in self._missed:
                self._missed.add(partition)
                self._tell(partition, "create")
                log.warning(
                    "partition %d of %s has had no owner for %.0f s: nothing is judged until a "
                    "worker measures it",
                    partition,
                    self._topics.access_logs,
                    after,
                )

    def _tell(self, partition: int, activity: Activity) -> None:
        """Alert on a partition without an owner, or on its end."""
        uid = f"{self._topics.access_logs}-{partition}:no-owner"
        now = time.time()
        self._told.append(
            Alert(
                id=f"{uid}:{activity}:{self._generation}:{int(now)}",
                uid=uid,
                version=self._generation << 32,
                activity=activity,
                time=now,
                finding=_no_owner(self._topics.access_logs, partition, uid, activity, now),
            )
        )

    def _decoded(self, record: ConsumerRecord) -> Feedback | None:
        try:
            return decode_feedback(record.value or b"")
        except BadFeedback as error:
            log.warning("feedback at offset %d: %s", record.offset, error)
            letter = dead_letter(
                record.value or b"",
                str(error),
                source=f"{record.topic}-{record.partition}",
                position=record.offset,
                read_at=time.time(),
            )
            self._letters.append(msgspec.json.encode(letter))
            return None

    def _checkpoint_due(self) -> bool:
        since = time.monotonic() - self._checkpointed_at
        every = self._settings.kafka.checkpoint_every_s
        return checkpoints.due(since, every, self._writer.took_s)

    async def _commit(self, *, checkpoint: bool, always: bool = False) -> None:
        """One transaction of everything since the one before; none if there is nothing."""
        offsets = (self._blocks_offset, self._feedback_offset)
        if checkpoint:
            self._checkpointed_at = time.monotonic()
            # While commands wait to be taken again, the offsets would leave them out.
            checkpoint = offsets != self._covered and not self._again
        judgement, self._judgement = self._judgement, Judgement()
        journal, self._journal = self._journal, []
        letters, self._letters = self._letters, []
        alerts, self._told = [*judgement.alerts, *self._told], []
        out = judgement.decisions or alerts or journal or letters
        if not (out or checkpoint or always):
            return
        planned = None
        if checkpoint:
            meta = {"blocks": offsets[0], "feedback": offsets[1], "tick": self._judge.tick}
            planned = self._writer.plan(self._judge, meta)
        self._out_to = max(self._out_to, self._judge.tick)
        send = self._sender.send
        async with self._sender.transaction():
            for decision in judgement.decisions:
                await send(self._topics.decisions, encode_decision(decision), key=_key(decision))
            for alert in alerts:
                await send(self._topics.alerts, msgspec.json.encode(alert), key=alert.uid.encode())
            for feedback, taken_at in journal:
                await send(
                    self._topics.feedback,
                    encode_feedback(feedback),
                    headers=[(_TAKEN_AT, str(taken_at).encode())],
                )
            for letter in letters:
                await send(self._topics.dead_letters, letter)
            await send(
                self._topics.checkpoints,
                _encode(_Mark(self._generation, self._out_to)),
                key=_MARK.encode(),
                partition=self._settings.measure.partitions,
            )
            if planned is not None:
                await self._writer.write(self._sender, planned, wait=False)
            # For those who watch the lag; a judge goes by its checkpoint.
            await self._sender.send_offsets_to_transaction(
                {self._blocks: offsets[0], self._feedback: offsets[1]}, self._group
            )
        if planned is not None:
            self._covered = offsets


def _no_owner(
    topic: str, partition: int, uid: str, activity: Activity, now: float
) -> dict[str, Any]:
    """The OCSF document of a partition that nobody measures, in the class that all alerts have."""
    number = {"create": 1, "update": 2, "close": 3}[activity]
    title = f"Partition {partition} of {topic} has no owner: nothing is judged"
    return {
        "activity_id": number,
        "activity_name": activity.capitalize(),
        "category_uid": 2,
        "class_uid": 2004,
        "class_name": "Detection Finding",
        "type_uid": 200400 + number,
        "time": int(now * 1000),
        "message": title,
        "metadata": {
            "version": "1.4.0",
            "product": {"name": "velvetrope", "vendor_name": "velvetrope"},
        },
        "severity_id": 4 if activity == "create" else 1,
        "status_id": 4 if activity == "close" else 1,
        "finding_info": {
            "uid": uid,
            "title": title,
            "desc": "Every tick waits for all partitions. Start a worker that measures.",
            "types": ["Detection outage"],
        },
    }


def _taken_at(record: ConsumerRecord) -> int:
    return next((int(value) for name, value in record.headers if name == _TAKEN_AT), 0)


def _key(decision: Decision) -> bytes:
    return f"{decision.scope}:{decision.value}".encode()


async def _first(*awaitables: Awaitable[Any]) -> None:
    """Until one of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
