"""The running deployment that a command speaks to: serve's state file, or Redis and Kafka."""

from __future__ import annotations

import asyncio
import getpass
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Protocol

import typer

from detector.cli.options import FAILED, USAGE, fail, load_settings, plain

if TYPE_CHECKING:
    from detector.runners.ledger import Ledger
    from detector.settings import Settings
    from responders.decisions import Decision
    from responders.feedback import Feedback
    from responders.stores.base import DecisionStore
    from responders.stores.sqlite import SqliteStore

__all__ = [
    "ByOption",
    "Deployment",
    "KafkaOption",
    "RedisOption",
    "StateOption",
    "deployment",
    "feedback_id",
    "seconds",
    "tell",
    "whoami",
]

StateOption = Annotated[
    Path | None,
    typer.Option("--state", metavar="FILE", help="State file of `velvetrope serve`."),
]
RedisOption = Annotated[
    str | None,
    typer.Option("--redis", metavar="URL", help="Speak to workers: Redis that gateways read."),
]
KafkaOption = Annotated[
    str | None,
    typer.Option("--kafka", metavar="HOST:PORT", help="Speak to workers: a Kafka broker."),
]
ByOption = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who says so; the login name if not given."),
]

_TAKEN_UP_WITHIN_S: Final = 3.0
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


class Deployment(Protocol):
    """What can be asked of, and told to, a running deployment."""

    @property
    def store(self) -> DecisionStore:
        """Decisions, allowlist and mode, as gateways have them."""

    def history(self, scope: str, value: str) -> list[Decision]:
        """Decisions about (scope, value) with their evidence, oldest first, as far as kept."""

    def campaign(self, name: str) -> list[Decision]:
        """Decisions that name a campaign, with their evidence, oldest first, as far as kept."""

    def tell(self, feedback: Feedback) -> str:
        """Leave a command for the judge; one sentence on what became of it."""


@contextmanager
def deployment(
    config: Path | None, state: Path | None, redis: str | None, kafka: str | None
) -> Iterator[Deployment]:
    """The deployment that the options name; what goes wrong is one line and exit code 1."""
    from responders.stores.base import StoreUnavailable

    arguments = {"serve.state": state, "redis.url": redis, "kafka.bootstrap": kafka}
    settings = load_settings(config, arguments).settings
    if state is not None and (redis is not None or kafka is not None):
        fail(
            "--state is for serve, --redis and --kafka are for workers: give one or the other",
            USAGE,
        )
    try:
        if redis is None and kafka is None:
            yield from _of_serve(settings)
        else:
            yield from _of_workers(settings)
    except StoreUnavailable as error:
        fail(str(error), FAILED)


def tell(running: Deployment, command: Feedback, done: str) -> str:
    """Leave a command; what to print: that it is done, and unless at once, when it will be."""
    became = running.tell(command)
    return plain(done if became == "In force." else f"{done} {became}")


def whoami() -> str:
    """Who gives the command, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def feedback_id() -> str:
    """Names a command, so that it counts once however often it is read."""
    return f"f-{uuid.uuid4().hex}"


def seconds(text: str) -> float:
    """`90s`, `30m`, `12h`, `7d` or `2w` in seconds.

    >>> seconds("7d")
    604800.0

    Raises:
        typer.BadParameter: it is none of these.
    """
    unit = _UNITS.get(text[-1:])
    try:
        if unit is not None and float(text[:-1]) > 0:
            return float(text[:-1]) * unit
    except ValueError:
        pass
    raise typer.BadParameter(f"{text!r} is not a time such as 90s, 30m, 12h, 7d or 2w")


def _of_serve(settings: Settings) -> Iterator[Deployment]:
    from detector.runners.ledger import Ledger
    from responders.stores.sqlite import SqliteStore

    path = settings.serve.state
    if not path.is_file():
        fail(
            f"{path}: there is no such state file; name that of the running serve with --state, "
            "or give --redis and --kafka"
        )
    store = SqliteStore(path)
    ledger = Ledger(store, path)
    try:
        yield _OfServe(path, store, ledger)
    finally:
        ledger.close()
        store.close()


class _OfServe:
    def __init__(self, path: Path, store: SqliteStore, ledger: Ledger) -> None:
        self.store = store
        self._path = path
        self._ledger = ledger

    def history(self, scope: str, value: str) -> list[Decision]:
        return self.store.history(scope, value)

    def campaign(self, name: str) -> list[Decision]:
        return self.store.of_campaign(name)

    def tell(self, feedback: Feedback) -> str:
        from responders.stores.lock import StateInUse, StateLock

        with self.store.transaction() as db:
            self._ledger.say(db, feedback)
        try:
            StateLock(self._path).release()
        except StateInUse:
            deadline = time.monotonic() + _TAKEN_UP_WITHIN_S
            while time.monotonic() < deadline:
                if self._ledger.is_journalled(feedback.id):
                    return "In force."
                time.sleep(0.05)
            return "Left for serve, which is busy: it holds as soon as serve looks."
        return "serve is not running on this state: it holds from its next start."


def _of_workers(settings: Settings) -> Iterator[Deployment]:
    from responders.stores.redis import RedisStore

    store = RedisStore(settings.redis)
    try:
        yield _OfWorkers(settings, store)
    finally:
        store.close()


class _OfWorkers:
    def __init__(self, settings: Settings, store: DecisionStore) -> None:
        self.store = store
        self._settings = settings

    def history(self, scope: str, value: str) -> list[Decision]:
        """From the compacted decisions topic: the last one or few."""
        return self._decisions(f"{scope}:{value}")

    def campaign(self, name: str) -> list[Decision]:
        """Likewise."""
        return [d for d in self._decisions(None) if d.campaign == name]

    def _decisions(self, key: str | None) -> list[Decision]:
        from responders.stores.base import StoreUnavailable

        try:
            return asyncio.run(self._read_decisions(key))
        except Exception as error:
            raise StoreUnavailable(f"Kafka at {self._settings.kafka.bootstrap}: {error}") from None

    async def _read_decisions(self, key: str | None) -> list[Decision]:
        from aiokafka import TopicPartition

        from detector.kafka.connection import consumer, read_to_end
        from detector.kafka.topics import Topics
        from responders.stores.base import decode_decision

        topic = Topics.under(self._settings.kafka.prefix).decisions
        wanted = None if key is None else key.encode()
        partition = TopicPartition(topic, 0)
        reader = consumer(self._settings.kafka)
        await reader.start()
        try:
            reader.assign([partition])
            return [
                decode_decision(record.value)
                async for record in read_to_end(reader, partition)
                if wanted in (None, record.key) and record.value is not None
            ]
        finally:
            await reader.stop()

    def tell(self, feedback: Feedback) -> str:
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        from detector.kafka.connection import kafka_python_options
        from detector.kafka.topics import Topics
        from responders.feedback import encode_feedback
        from responders.stores.base import StoreUnavailable

        kafka = self._settings.kafka
        topic = Topics.under(kafka.prefix).feedback
        try:
            producer = KafkaProducer(**kafka_python_options(kafka), acks="all", max_block_ms=10_000)
            try:
                producer.send(topic, encode_feedback(feedback)).get(timeout=10.0)
            finally:
                producer.close(timeout=5.0)
        except (KafkaError, OSError) as error:
            raise StoreUnavailable(f"Kafka at {kafka.bootstrap}: {error}") from None
        return "Sent to the workers."
