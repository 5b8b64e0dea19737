"""The worker: measure, judge and apply on Kafka, in one process or in many.

Every process of a deployment runs the same thing. Kafka's groups say which of them measures which
partitions and which one judges; every one of them that applies keeps the same view in Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from collections.abc import Callable, Collection
from multiprocessing.process import BaseProcess
from typing import Final, Protocol

import uvloop

from detector.kafka import topics
from detector.kafka.connection import wait_for_broker
from detector.kafka.topics import TopicMismatch
from detector.settings import Settings

__all__ = ["STAGES", "calm_collector", "run_worker", "run_workers"]

log: Final = logging.getLogger(__name__)

STAGES: Final = ("measure", "judge", "apply")
_END_WITHIN_S: Final = 60.0


class Stage(Protocol):
    """What runs inside a worker."""

    async def start(self) -> None:
        """Begin; returns once it runs by itself."""

    async def stop(self) -> None:
        """Leave everything so that another goes on from here."""


_Maker = Callable[[Settings, Callable[[BaseException], object]], Stage]


def run_worker(settings: Settings, stages: Collection[str] = STAGES) -> int:
    """Run stages in this process until SIGTERM or SIGINT.

    It waits for a broker for as long as it takes. Whatever a stage cannot handle ends the process
    at once with exit code 1, to be started again from its checkpoints.

    Returns:
        The exit code: 0 after a signal.

    Raises:
        TopicMismatch: the topics are missing, or not as they should be.
    """
    unknown = set(stages) - set(STAGES)
    if unknown or not stages:
        raise ValueError(f"stages {sorted(unknown)} are none of {', '.join(STAGES)}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, frozenset(stages)))


def run_workers(settings: Settings, workers: int, stages: Collection[str] = STAGES) -> int:
    """Run `workers` processes of the same group until a signal, or until one of them ends.

    Returns:
        0 after SIGTERM or SIGINT; else the code of the one that ended by itself, never 0.
    """
    if workers == 1:
        return run_worker(settings, stages)
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = [
        context.Process(target=_child, args=(settings, tuple(stages)), name=f"worker-{i}")
        for i in range(workers)
    ]
    stopping = False

    def forward(signum: int, _: object) -> None:
        nonlocal stopping
        stopping = True
        for process in processes:
            if process.is_alive():
                process.terminate()

    before = {sig: signal.signal(sig, forward) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        for process in processes:
            process.start()
        while all(process.is_alive() for process in processes):
            multiprocessing.connection.wait([process.sentinel for process in processes])
        died = None if stopping else next(p for p in processes if not p.is_alive())
        if died is not None:
            log.error("%s ended with code %s; ending the others", died.name, died.exitcode)
            forward(signal.SIGTERM, None)
        for process in processes:
            process.join(_END_WITHIN_S)
            if process.is_alive():
                process.kill()
                process.join()
        if died is None:
            # One that had not begun yet had nothing to leave in order, and died of the signal.
            orderly = (0, -signal.SIGTERM)
            return next((abs(p.exitcode or 0) for p in processes if p.exitcode not in orderly), 0)
        return abs(died.exitcode or 0) or 1
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


def _child(settings: Settings, stages: tuple[str, ...]) -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(processName)s %(levelname)s %(message)s"
    )
    try:
        sys.exit(run_worker(settings, stages))
    except TopicMismatch as error:
        log.error("%s", error)
        sys.exit(1)


async def _run(settings: Settings, stages: frozenset[str]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    stopped = asyncio.create_task(stop.wait())
    ready = asyncio.create_task(_ready(settings))
    await asyncio.wait({stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        ready.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ready
        return 0
    await ready
    running: list[Stage] = []
    try:
        for stage in _made(settings, stages):
            await stage.start()
            running.append(stage)
        calm_collector()
        log.info("working: %s", ", ".join(name for name in STAGES if name in stages))
        await stopped
        for stage in running:
            await stage.stop()
    except Exception as error:
        _fail(error)
    return 0


def calm_collector() -> None:
    """Let Python look for cycles seldom.

    A fetch makes some 10,000 records that live until they are measured: at the usual threshold of
    700 each of them is looked at many times, which costs a fifth of the speed.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


async def _ready(settings: Settings) -> None:
    await wait_for_broker(settings.kafka)
    await asyncio.to_thread(topics.check, settings)


def _made(settings: Settings, stages: frozenset[str]) -> list[Stage]:
    """The stages, in the order of the flow: what is upstream stops first."""
    from detector.kafka.alerting import AlertingStage
    from detector.kafka.applying import ApplyStage
    from detector.kafka.judging import JudgeStage
    from detector.kafka.measuring import MeasureStage

    makers: dict[str, tuple[_Maker, ...]] = {
        "measure": (MeasureStage,),
        "judge": (JudgeStage,),
        "apply": (ApplyStage, AlertingStage),
    }
    return [make(settings, _fail) for name in STAGES if name in stages for make in makers[name]]


def _fail(error: BaseException) -> None:
    """End the process now: nothing may go on from a state that nobody understands."""
    log.critical("%s: %s", type(error).__name__, error, exc_info=error)
    logging.shutdown()
    os._exit(1)
