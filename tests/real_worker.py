"""Real worker processes for tests and benchmarks, and a look at what they leave on the topics."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from detector.judge import Models
from detector.kafka.connection import kafka_python_options
from detector.partition import partition_of
from detector.runners.worker import STAGES, run_worker, run_workers
from detector.settings import KafkaSettings, Settings

__all__ = ["WorkerProcess", "eventually", "produce", "read_topic", "wary_models", "worker"]

_T = TypeVar("_T")


class WorkerProcess:
    """`velvetrope worker` as a process of its own."""

    def __init__(
        self, settings: Settings, stages: Collection[str], workers: int, wary: bool
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="velvetrope-worker-")
        folder = Path(self._folder.name)
        (folder / "settings").write_bytes(pickle.dumps((settings, tuple(stages), workers, wary)))
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.real_worker", str(folder / "settings")],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).resolve().parents[1],
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        """What it wrote so far."""
        return self._log.read_text(errors="replace")

    def alive(self) -> bool:
        return self._process.poll() is None

    def says(self, text: str, *, within_s: float = 120.0) -> None:
        """Wait until its log has `text`; raises AssertionError if it ends before or never says."""

        def said() -> bool:
            alive = self.alive()
            found = text in self.log()
            assert found or alive, f"the worker ended: {self.log()[-2000:]}"
            return found

        eventually(said, within_s=within_s, what=f"{text!r} in the worker's log")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def end(self, timeout_s: float = 120.0) -> int:
        """SIGTERM, and the exit code."""
        if self.alive():
            self.signal(signal.SIGTERM)
        return self._process.wait(timeout_s)

    def wait(self, timeout_s: float = 120.0) -> int:
        """The exit code, once it ends by itself."""
        return self._process.wait(timeout_s)

    def close(self) -> None:
        if self.alive():
            self.kill()
        self._folder.cleanup()


@contextlib.contextmanager
def worker(
    settings: Settings,
    stages: Collection[str] = STAGES,
    *,
    workers: int = 1,
    wary: bool = False,
) -> Iterator[WorkerProcess]:
    """A running worker, killed at the end if it still runs; `wary`: see `wary_models`."""
    process = WorkerProcess(settings, stages, workers, wary)
    try:
        yield process
    finally:
        process.close()


def wary_models() -> Models:
    """The shipped models, with a bar so low that ordinary traffic brings many decisions."""
    models = Models.shipped()
    low = np.linspace(-6.0, 0.0, 1000)
    return replace(models, text=replace(models.text, own_bar=-9.0, reference=low))


def eventually(
    look: Callable[[], _T], *, within_s: float = 120.0, what: str = "it", every_s: float = 0.1
) -> _T:
    """What `look` finds, once that is true; raises AssertionError when it never is."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {within_s:.0f} s")
        time.sleep(every_s)


def produce(settings: Settings, records: Sequence[tuple[str, bytes]], *, end: bool = False) -> None:
    """Write (account, record) to `access-logs`, keyed as every producer must; wait for the acks."""
    partitions = settings.measure.partitions
    topic = f"{settings.kafka.prefix}access-logs"
    sender = KafkaProducer(
        **kafka_python_options(settings.kafka), linger_ms=5, batch_size=1 << 18, acks="all"
    )
    try:
        sent = [
            sender.send(
                topic, record, key=account.encode(), partition=partition_of(account, partitions)
            )
            for account, record in records
        ]
        if end:
            sent += [
                sender.send(topic, b'{"control": "end"}', partition=partition)
                for partition in range(partitions)
            ]
        sender.flush(60)
        for one in sent:
            one.get(1)
    finally:
        sender.close()


def read_topic(
    settings: KafkaSettings, topic: str, *, partition: int = 0
) -> list[tuple[bytes | None, bytes | None]]:
    """(key, value) of everything committed on a partition, from its start to its end now."""
    tp = TopicPartition(topic, partition)
    reader = KafkaConsumer(
        **kafka_python_options(settings),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        reader.assign([tp])
        reader.seek_to_beginning(tp)
        end = reader.end_offsets([tp])[tp]
        found: list[tuple[bytes | None, bytes | None]] = []
        while reader.position(tp) < end:
            for record in reader.poll(200).get(tp, ()):
                found.append((record.key, record.value))
        return found
    finally:
        reader.close()


def _main() -> int:
    settings, stages, workers, wary = pickle.loads(Path(sys.argv[1]).read_bytes())
    if wary:
        models = wary_models()
        Models.shipped = lambda: models  # type: ignore[method-assign]
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s"
    )
    logging.getLogger("kafka").setLevel(logging.WARNING)
    if workers > 1:
        return run_workers(settings, workers, stages)
    return run_worker(settings, stages)


if __name__ == "__main__":
    sys.exit(_main())
