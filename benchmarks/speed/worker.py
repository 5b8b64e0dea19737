"""Events/s of the worker's measure stage from real Kafka, against a plain Faust agent.

Run: python -m benchmarks.speed.worker [--events 400000] [--plain-events 40000] [--runs 5]

One broker holds one log of 400-byte events on 8 partitions. In turn, a plain Faust agent (its
transport as Faust ships it, decoding each record with msgspec and counting it) and the worker's
measure stage (the whole of it: decoding, blocks, their records, checkpoints, commits) read it from
the start, each in a process of its own. The clock runs from the first processed record to the last,
so it leaves starting and joining out. Figures are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import faust
import uvloop

from benchmarks.speed.replay import write_log
from detector.events import decode
from detector.kafka import topics
from detector.kafka.transport import BatchSchema
from detector.runners.worker import calm_collector
from detector.settings import KafkaSettings, Settings
from tests.real_kafka import kafka
from tests.real_worker import produce

__all__ = ["fill", "main"]

_LOOK_EVERY_S = 0.02


def fill(settings: Settings, events: int) -> None:
    """Create the topics and write the log to `access-logs`."""
    topics.create(settings)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        write_log(log, events, 2_000, 400)
        records = []
        for line in log.read_bytes().splitlines():
            event = decode(line, time.time())
            records.append((event.account, line))  # type: ignore[union-attr]
            if len(records) == 20_000:
                produce(settings, records)
                records = []
        produce(settings, records)


async def _rate(count: Callable[[], int], total: int) -> float:
    """Events/s from the first look that found one to the one that found all."""
    first_count, first_at = 0, 0.0
    while True:
        now, counted = time.perf_counter(), count()
        if counted and not first_count:
            first_count, first_at = counted, now
        if counted >= total:
            return (counted - first_count) / max(now - first_at, 1e-9)
        await asyncio.sleep(_LOOK_EVERY_S)


async def _plain(settings: Settings, run: int, total: int) -> float:
    app = faust.App(
        f"bench-plain-{run}",
        broker=f"kafka://{settings.kafka.bootstrap}",
        consumer_auto_offset_reset="earliest",
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
    )
    counted = 0

    async def agent(stream: Any) -> None:
        nonlocal counted
        async for value in stream:
            decode(value, time.time())
            counted += 1

    topic = app.topic(f"{settings.kafka.prefix}access-logs", schema=BatchSchema())
    app.agent(topic, name="count")(agent)
    app.finalize()
    await app.start()
    rate = await _rate(lambda: counted, total)
    await app.stop()
    return rate


async def _worker(settings: Settings, run: int, total: int) -> float:
    from detector.kafka import measuring

    log = topics.Topics.under(settings.kafka.prefix).access_logs
    own = settings.model_copy(
        update={"kafka": settings.kafka.model_copy(update={"prefix": f"run{run}."})}
    )
    topics.create(own)

    class SharedLog:
        """Topics of this run, except for the log, which all runs read."""

        @staticmethod
        def under(prefix: str) -> topics.Topics:
            return dataclasses.replace(topics.Topics.under(prefix), access_logs=log)

    measuring.Topics = SharedLog  # type: ignore[assignment,misc]

    def failed(error: BaseException) -> None:
        raise SystemExit(str(error))

    stage = measuring.MeasureStage(own, failed)
    await stage.start()
    calm_collector()  # as the worker does
    rate = await _rate(lambda: sum(one.expected for one in stage._owned.values()), total)
    await stage.stop()
    return rate


def _child(kind: str, settings: Settings, run: int, total: int, answer: Connection) -> None:
    task = {"plain": _plain, "worker": _worker}[kind](settings, run, total)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answer.send(runner.run(task))


def _measured(kind: str, settings: Settings, run: int, total: int) -> float:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(kind, settings, run, total, theirs))
    process.start()
    theirs.close()
    rate: float = ours.recv()
    process.join()
    return rate


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--plain-events", type=int, default=40_000)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    with kafka(heap_mb=1000) as broker:
        settings = Settings(kafka=KafkaSettings(bootstrap=broker.bootstrap, prefix="bench."))
        fill(settings, given.events)
        totals = {"plain": given.plain_events, "worker": given.events}
        rates: dict[str, list[float]] = {kind: [] for kind in totals}
        for run in range(given.runs):
            for kind, total in totals.items():
                rates[kind].append(_measured(kind, settings, run, total))
                print(f"run {run + 1}: {kind} {rates[kind][-1]:,.0f} events/s", flush=True)
    plain, worker = (statistics.median(rates[kind]) for kind in totals)
    ratios = [w / p for w, p in zip(rates["worker"], rates["plain"], strict=True)]
    print(
        f"measure stage {worker:,.0f} events/s, plain Faust agent {plain:,.0f} events/s, "
        f"{statistics.median(ratios):.1f}x (medians of {given.runs})"
    )


if __name__ == "__main__":
    main()
