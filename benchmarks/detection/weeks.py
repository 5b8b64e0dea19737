"""Measured weeks: composed once, reduced to blocks, and judged as often as a question needs.

A block depends on its own account's events and on how far its partition's time had come, so the
blocks of a week serve every subset of its accounts: 2 % of thieves instead of 23 %, one campaign
alone, customers only. What a subset changes is the watermark by the moment between two requests of
other accounts; `tests/benchmarks/test_benchmark.py` holds that the whole week's decisions are those
of `detector.runners.pipeline.Pipeline`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

import features
from benchmarks.detection import compose as composing
from benchmarks.detection.arrivals import WEEK
from benchmarks.detection.compose import WEEK_START, Label, Settings, compose_from, sources_of
from benchmarks.detection.sources import Sources, Split
from detector import measure as measuring
from detector.baseline import Baseline
from detector.blocks import Block
from detector.events import Event
from detector.judge import Judge, Models
from detector.measure import PartitionMeasure
from detector.partition import partition_of
from detector.runners.outcomes import Outcomes
from detector.settings import Settings as Program

__all__ = ["NEVER", "Judged", "Measured", "Request", "calibrated", "evidence_over_time", "judged"]
__all__ += ["in_shadow", "keeping", "measured"]

Floats = NDArray[np.float64]

NEVER: Final = float("inf")
_BATCH: Final = 5000
_STEP_S: Final = 900.0  # between two looks at the evidence over time
# Files beside the composer, by how their names begin, that a measured week does not depend on.
_JUDGING: Final = (
    "baselines",
    "benchmark",
    "minilm",
    "plots",
    "report",
    "results",
    "statistics",
    "tables",
    "train_",
    "weeks",
)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A week to compose and measure."""

    split: Split
    seed: int
    data: str | None  # folder of the sources; None: the built-in one
    settings: Settings


class Measured(msgspec.Struct):
    """A week's blocks by partition, its labels, and when each account was served."""

    partitions: list[list[Block]]
    watermarks: list[float]
    labels: dict[str, Label]
    times: dict[str, bytes]  # float64 arrival of each served request, ascending
    events: int

    def served(self, account: str) -> Floats:
        """Arrivals of an account's served requests, Unix seconds, ascending."""
        return np.frombuffer(self.times[account], np.float64)


class Judged(msgspec.Struct, frozen=True):
    """What the product made of one account in one week."""

    account: str
    label: Label
    rate: float  # false-alarm rate of its evidence at the end; 1 for none
    enforced_at: float  # Unix seconds of the first throttle or stronger; NEVER
    action: str  # the strongest, "" for none
    asked_before: int  # served requests until the enforcement; all of them when there was none
    asked: int
    first: float  # Unix seconds of its first request

    @property
    def enforced(self) -> bool:
        """Whether a throttle or stronger was decided."""
        return self.enforced_at < NEVER

    @property
    def denied(self) -> int:
        """Served requests that came after the first enforcement."""
        return self.asked - self.asked_before


def measured(
    request: Request,
    cache: Path | None = None,
    look: Callable[[Sequence[Event], Mapping[str, Label]], bytes] | None = None,
) -> tuple[Measured, bytes]:
    """Compose and measure a week, or read it from the cache.

    Args:
        request: which week.
        cache: a folder; kept there under a name that depends on the request and on the code that
            composes and measures.
        look: called with the events and the labels; its bytes are returned, and cached, beside
            the week.
    """
    path = None
    if cache is not None:
        seen = "" if look is None else getattr(look, "__qualname__", "look")
        path = cache / f"{request.split}-{request.seed}-{_name(request, seen)}.msgpack"
        if path.exists():
            return msgspec.msgpack.decode(path.read_bytes(), type=tuple[Measured, bytes])
    events, labels = compose_from(
        _sources(request.data, request.split, request.settings.traffic == "vectors"),
        request.seed,
        request.settings,
    )
    for event in events:
        event.served = event.status < 400 if event.served is None else event.served
    looked = look(events, labels) if look is not None else b""
    week = _measure(events, labels)
    if path is not None:
        waiting = path.with_suffix(".part")
        waiting.write_bytes(msgspec.msgpack.encode((week, looked)))
        waiting.rename(path)
    return week, looked


def _measure(events: Sequence[Event], labels: dict[str, Label]) -> Measured:
    settings = Program().measure
    measures = [PartitionMeasure(p, settings) for p in range(settings.partitions)]
    blocks: list[list[Block]] = [[] for _ in measures]
    times: dict[str, list[float]] = defaultdict(list)
    for start in range(0, len(events), _BATCH):
        parts: list[list[Event]] = [[] for _ in measures]
        for event in events[start : start + _BATCH]:
            parts[partition_of(event.account, settings.partitions)].append(event)
            if event.served:
                times[event.account].append(float(event.ts))
        for number, part in enumerate(parts):
            if part:
                blocks[number] += measures[number].feed(part)
    for number, one in enumerate(measures):
        blocks[number] += one.end()
    return Measured(
        blocks,
        [one.watermark for one in measures],
        {name: label for name, label in labels.items() if name in times},
        {name: np.array(stamps).tobytes() for name, stamps in times.items()},
        len(events),
    )


def keeping(week: Measured, accounts: Collection[str]) -> Measured:
    """The week as if only these accounts had been there."""
    kept = set(accounts)
    partitions = [
        [
            msgspec.structs.replace(block, seq=seq)
            for seq, block in enumerate(b for b in blocks if b.account in kept)
        ]
        for blocks in week.partitions
    ]
    return Measured(
        partitions,
        week.watermarks,
        {name: label for name, label in week.labels.items() if name in kept},
        {name: times for name, times in week.times.items() if name in kept},
        sum(len(week.times[name]) // 8 for name in kept if name in week.times),
    )


def judged(week: Measured, models: Models, baseline: Baseline | None = None) -> dict[str, Judged]:
    """The week through the product's judge, with the settings it is shipped with."""
    judge = Judge(Program(), baseline, models=models)
    outcomes = Outcomes()
    outcomes.add(_run(judge, week).decisions)
    summaries = dict(judge.accounts())
    found = {}
    for name, label in week.labels.items():
        times = week.served(name)
        outcome = outcomes.accounts.get(name)
        at = (
            NEVER
            if outcome is None or outcome.first_enforced_at is None
            else (outcome.first_enforced_at)
        )
        rates = summaries[name].rates if name in summaries else {}
        found[name] = Judged(
            name,
            label,
            min(1.0, min(rates.values(), default=1.0) * max(len(rates), 1)),
            at,
            outcome.action if outcome is not None else "",
            int(np.searchsorted(times, at, side="right")),
            len(times),
            float(times[0]),
        )
    return found


def _run(judge: Judge, week: Measured):  # type: ignore[no-untyped-def]
    for number, (blocks, watermark) in enumerate(
        zip(week.partitions, week.watermarks, strict=True)
    ):
        judge.blocks(number, blocks, watermark)
        judge.end(number)
    return judge.advance()


def calibrated(week: Measured, models: Models, name: str) -> Baseline:
    """The operator's baseline that `velvetrope calibrate` would make of this week's customers.

    Its history is the whole week that was composed, though the last request comes a little before
    the week's end.
    """
    clean = keeping(week, [a for a, label in week.labels.items() if not label.harvesting])
    judge = Judge(Program(), models=models, calibrating=True)
    _run(judge, clean)
    return judge.calibrated(name, clean.events, WEEK_START, WEEK_START + WEEK)


def in_shadow(baseline: Baseline, models: Models, kind: str) -> str:
    """What a baseline needs before it decides about "text" or "vector"; "" when it does."""
    about = Judge(Program(), baseline, models=models).promise()[kind]
    return str(about.get("own_in_shadow", {}).get("needs", ""))


def evidence_over_time(
    week: Measured, models: Models, accounts: Sequence[str]
) -> dict[str, list[tuple[float, float]]]:
    """For each account, (hours since its first request, false-alarm rate) after each change."""
    judge = Judge(Program(), models=models)
    at = [0] * len(week.partitions)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in accounts}
    first = {name: float(week.served(name)[0]) for name in accounts}
    until = min(float(week.served(name)[0]) for name in week.times)
    while until < max(week.watermarks):
        until += _STEP_S
        for number, blocks in enumerate(week.partitions):
            start = at[number]
            while at[number] < len(blocks) and blocks[at[number]].time <= until:
                at[number] += 1
            judge.blocks(number, blocks[start : at[number]], until)
        judge.advance()
        summaries = dict(judge.accounts())
        for name, series in found.items():
            if name not in summaries:
                continue
            rate = min(summaries[name].rates.values(), default=1.0)
            if not series or series[-1][1] != rate:
                series.append((max(until - first[name], 0.0) / 3600.0, rate))
    return found


@lru_cache(maxsize=3)
def _sources(data: str | None, split: Split, tables: bool) -> Sources:
    return sources_of(split, Path(data) if data is not None else None, tables)


@lru_cache(maxsize=1)
def _code() -> bytes:
    """A digest of the code that a measured week depends on."""
    here = Path(composing.__file__).parent
    files = [file for file in sorted(here.glob("*.py")) if not file.name.startswith(_JUDGING)]
    files += sorted(Path(features.__file__).parent.glob("*.py"))
    detector = Path(measuring.__file__).parent
    files += [detector / f"{name}.py" for name in ("measure", "columns", "blocks", "partition")]
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(file.read_bytes())
    return digest.digest()


def _name(request: Request, look: str) -> str:
    digest = hashlib.blake2b(_code(), digest_size=8)
    digest.update(msgspec.json.encode((request, look)))
    return digest.hexdigest()
