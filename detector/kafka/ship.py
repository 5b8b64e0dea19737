"""Ship: a gateway's log, or a topic without keys, to `access-logs`, keyed by account.

At least once: the position is saved, or the offset committed, only after the brokers hold every
record before it, so after a crash some records are sent again. They are the same request to
measure: a record without a `request_id` gets one made of its place and its text, and the same id
among an account's last 64 requests counts once. Within a run the producer is idempotent, so neither
retries nor a broker that goes away and comes back repeat or reorder anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError

from detector.dead_letters import DeadLetter, dead_letter, over_long
from detector.events import BadRecord, EndOfInput, Event, encode
from detector.formats import Format
from detector.kafka import topics
from detector.kafka.connection import kafka_python_options
from detector.partition import partition_of
from detector.runners.tail import Tail, TailPosition
from detector.settings import Settings

__all__ = ["FromFile", "FromTopic", "Shipped", "Shipper", "StateInUse"]

log: Final = logging.getLogger(__name__)

_IDLE_S: Final = 0.2
_SAY_AWAY_AFTER_S: Final = 5.0
_FIRST_BACKOFF_S: Final = 0.2
_LONGEST_BACKOFF_S: Final = 5.0
_DAYS_20_MS: Final = 20 * 86_400_000
_END: Final = b'{"control": "end"}'


class StateInUse(RuntimeError):
    """Another `ship` works from the same state file."""


@dataclass(frozen=True, slots=True)
class Line:
    """One record of a source."""

    value: bytes
    place: str  # names the record within its source, and stays the same on a second reading
    source: str
    position: int
    over_long: int = 0  # bytes of a record that was dropped unread


@dataclass(slots=True)
class Shipped:
    """What came of a run."""

    events: int = 0
    dead_letters: int = 0


class Source(Protocol):
    """Where records come from."""

    def read(self) -> Sequence[Line]:
        """The next ones; none when there is nothing new at the moment."""

    def finish(self) -> Sequence[Line]:
        """What is left of an input that has ended."""

    def ended(self) -> bool:
        """Whether the last read found the end."""

    def done(self) -> None:
        """The brokers hold everything read so far."""

    def close(self) -> None:
        """Let go."""


class FromFile:
    """A log file that grows, followed through rotation and truncation from a saved position."""

    def __init__(self, path: Path, state: Path) -> None:
        """
        Args:
            path: the log.
            state: holds the position; made when it is not there.

        Raises:
            StateInUse: another process has it.
            ValueError: it is not a state file.
        """
        self._state = state
        self._lock = _locked(state)
        position = None
        if state.exists():
            try:
                position = msgspec.json.decode(state.read_bytes(), type=TailPosition)
            except msgspec.MsgspecError as error:
                raise ValueError(f"{state} is not a position of ship: {error}") from None
        self._saved = position
        self._tail = Tail(path, position, notice=log.warning)

    def read(self) -> Sequence[Line]:
        before = self._tail.position
        batches = self._tail.poll()
        file = before or self._tail.position
        return list(self._lines(batches, file.inode if file else 0))

    def finish(self) -> Sequence[Line]:
        file = self._tail.position
        return list(self._lines(self._tail.finish(), file.inode if file else 0))

    def _lines(self, batches: Sequence[Any], inode: int) -> Iterator[Line]:
        for batch in batches:
            offset = batch.start
            for line in batch.lines:
                if line and not line.isspace():
                    yield Line(line, f"{inode}:{offset}", batch.source, offset)
                offset += len(line) + 1
            if batch.dropped:
                yield Line(b"", "", batch.source, offset, batch.dropped)

    def ended(self) -> bool:
        return self._tail.at_end

    def done(self) -> None:
        position = self._tail.position
        if position is None or position == self._saved:
            return
        beside = self._state.with_name(self._state.name + ".new")
        with beside.open("wb") as file:
            file.write(msgspec.json.encode(position))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._state)
        self._saved = position

    def close(self) -> None:
        self._tail.close()
        os.close(self._lock)


class FromTopic:
    """A topic whose records need not be keyed, read by a group."""

    def __init__(self, settings: Settings, topic: str, group: str) -> None:
        """
        Args:
            settings: of the deployment.
            topic: its full name; no prefix is put before it.
            group: that its offsets are committed for.
        """
        self._consumer = KafkaConsumer(
            topic,
            **kafka_python_options(settings.kafka),
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        self._ended = False

    def read(self) -> Sequence[Line]:
        found = self._consumer.poll(timeout_ms=int(_IDLE_S * 1000))
        lines = [
            Line(
                record.value or b"",
                f"{record.topic}:{record.partition}:{record.offset}",
                f"{record.topic}-{record.partition}",
                record.offset,
            )
            for records in found.values()
            for record in records
        ]
        self._ended = not lines and self._at_end()
        return lines

    def _at_end(self) -> bool:
        assigned: set[TopicPartition] = self._consumer.assignment()
        if not assigned:
            return False
        ends = self._consumer.end_offsets(list(assigned))
        return all(self._consumer.position(tp) >= ends[tp] for tp in assigned)

    def finish(self) -> Sequence[Line]:
        return ()

    def ended(self) -> bool:
        return self._ended

    def done(self) -> None:
        if self._consumer.assignment():
            self._consumer.commit()

    def close(self) -> None:
        self._consumer.close(autocommit=False)


class Shipper:
    """Reads a source, decodes it and produces native events."""

    def __init__(self, settings: Settings, log_format: Format, stop: threading.Event) -> None:
        """
        Args:
            settings: of the deployment.
            log_format: of the source's records.
            stop: set by another thread or a signal: leave once what was read is acknowledged.
        """
        self._settings = settings
        self._format = log_format
        self._stop = stop
        self._topics = topics.Topics.under(settings.kafka.prefix)
        self._partitions = settings.measure.partitions
        self.shipped = Shipped()

    def wait_for_topics(self) -> bool:
        """Until a broker answers, or `stop`; False in that case.

        Raises:
            TopicMismatch: the topics are not as they should be.
        """
        backoff = _FIRST_BACKOFF_S
        said = False
        bootstrap = self._settings.kafka.bootstrap
        while not self._stop.is_set():
            try:
                topics.check(self._settings)
            except (KafkaError, OSError) as error:
                if not said:
                    log.warning("no broker at %s (%s); trying on", bootstrap, error)
                    said = True
                self._stop.wait(backoff)
                backoff = min(2 * backoff, _LONGEST_BACKOFF_S)
            else:
                if said:
                    log.warning("broker at %s answers", bootstrap)
                return True
        return False

    def run(self, source: Source, *, once: bool = False, end: bool = False) -> Shipped:
        """Ship until `stop`, or with `once` until the source's end.

        Args:
            source: closed by the caller.
            once: stop at the end instead of waiting for more.
            end: with `once`: send the end record to every partition after the last event.
        """
        sender = self._producer()
        try:
            while not self._stop.is_set():
                lines = source.read()
                if lines:
                    if not self._send(sender, lines):
                        return self.shipped
                    source.done()
                elif source.ended():
                    if once:
                        if self._send(sender, source.finish()):
                            source.done()
                            if end:
                                self._end(sender)
                        return self.shipped
                    self._stop.wait(_IDLE_S)
            return self.shipped
        finally:
            # Nothing that counts is unsent here: what was not acknowledged is read again.
            sender.close(timeout=1)

    def _producer(self) -> KafkaProducer:
        return KafkaProducer(
            **kafka_python_options(self._settings.kafka),
            enable_idempotence=True,
            acks="all",
            compression_type="zstd",
            linger_ms=5,
            batch_size=1 << 18,
            max_request_size=(1 << 20) + (1 << 16),
            # A broker may be away for as long as it likes; the log waits.
            delivery_timeout_ms=_DAYS_20_MS,
            max_block_ms=_DAYS_20_MS,
            reconnect_backoff_max_ms=2_000,
        )

    def _send(self, sender: KafkaProducer, lines: Sequence[Line]) -> bool:
        """Send them and wait for the acknowledgements; False if `stop` came first."""
        read_at = time.time()
        sent = []
        for line in lines:
            if line.over_long:
                letter = over_long(
                    line.over_long, source=line.source, position=line.position, read_at=read_at
                )
                sent.append(self._bury(sender, letter))
                continue
            try:
                events = self._format.decode(line.value, read_at)
            except BadRecord as error:
                letter = dead_letter(
                    line.value,
                    str(error),
                    source=line.source,
                    position=line.position,
                    read_at=read_at,
                )
                sent.append(self._bury(sender, letter))
                continue
            for i, event in enumerate(events):
                if isinstance(event, EndOfInput):
                    sent += self._ends(sender)
                else:
                    sent.append(self._ship(sender, event, line, i))
        return self._acknowledged(sent)

    def _ship(self, sender: KafkaProducer, event: Event, line: Line, index: int) -> Any:
        if event.request_id is None:
            digest = hashlib.blake2b(line.value, digest_size=12)
            digest.update(f"\0{line.place}:{index}".encode())
            event.request_id = f"ship-{digest.hexdigest()}"
        self.shipped.events += 1
        return sender.send(
            self._topics.access_logs,
            encode(event),
            key=event.account.encode(),
            partition=partition_of(event.account, self._partitions),
        )

    def _bury(self, sender: KafkaProducer, letter: DeadLetter) -> Any:
        self.shipped.dead_letters += 1
        return sender.send(self._topics.dead_letters, msgspec.json.encode(letter))

    def _ends(self, sender: KafkaProducer) -> list[Any]:
        return [
            sender.send(self._topics.access_logs, _END, partition=partition)
            for partition in range(self._partitions)
        ]

    def _end(self, sender: KafkaProducer) -> None:
        self._acknowledged(self._ends(sender))

    def _acknowledged(self, sent: Sequence[Any]) -> bool:
        said = False
        waited_since = time.monotonic()
        for future in sent:
            while not future.is_done:
                with contextlib.suppress(KafkaTimeoutError):
                    future.get(timeout=0.5)
                if self._stop.is_set() and not future.is_done:
                    return False
                if not said and time.monotonic() - waited_since > _SAY_AWAY_AFTER_S:
                    said = True
                    log.warning("no broker acknowledges; waiting, and nothing is lost")
            future.get()  # raises what the broker refused it for
        if said:
            log.warning("brokers acknowledge again")
        return True


def _locked(state: Path) -> int:
    lock = os.open(state.with_name(state.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with contextlib.suppress(OSError):
            os.close(lock)
        raise StateInUse(f"another ship works from {state}") from None
    return lock
