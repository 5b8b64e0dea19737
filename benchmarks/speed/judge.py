"""What judging costs as the population grows: CPU, memory, and what the neighbour index misses.

Run: python -m benchmarks.speed.judge [--accounts 1000 10000 100000] [--data DIR]

A composed week (of the project's own sources, or of DIR) is measured into blocks. A population of
so many accounts is made of them: each repeats one of the week's accounts under the name, links and
templates of its copy, with sketches bent a little. All send `--known` blocks over three days; then
`--minutes` of traffic at 1,000 requests a second are judged tick by tick on one core, and CPU time
is counted by part. What is due once an hour, or every six, is done apart and added in proportion.
The index is compared with an exact product in numpy, and with usearch (HNSW), on the same sketches.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import ipaddress
import os
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from benchmarks.detection.compose import Settings as Week
from benchmarks.detection.compose import compose
from detector.blocks import SKETCH_DIMS, Block, Identity
from detector.campaigns import Campaigns
from detector.evidence import MIN_EVENTS, TextEvidence
from detector.judge import Judge
from detector.measure import PartitionMeasure
from detector.neighbours import NeighbourIndex, centred
from detector.score import TextModels, shipped
from detector.settings import MeasureSettings, Settings

__all__ = ["main"]

RATE: Final = 1000.0  # requests a second
_START: Final = 1_800_000_000.0
_TICK: Final = 0.2
_HOUR: Final = 3600.0
_QUERIES: Final = 300
_CALIBRATING: Final = 20_000  # calls
_NEAREST: Final = 20
_EVIDENCE: Final = "scores and evidence"
_LINKING: Final = "neighbours and campaigns"
# What is timed, and which part it belongs to. What one calls of another counts for the other.
_PARTS: Final[dict[tuple[type, str], str]] = {
    (TextEvidence, "add"): _EVIDENCE,
    (TextEvidence, "judge"): _EVIDENCE,
    (TextEvidence, "others"): _LINKING,
    (TextEvidence, "watch"): _LINKING,
    (NeighbourIndex, "put"): _LINKING,
    (NeighbourIndex, "nearest"): _LINKING,
    (Campaigns, "passed"): _LINKING,
    (Campaigns, "watch"): _LINKING,
}


class Meter:
    """CPU time by part, each without what it calls of another, and without most of what metering
    costs.

    A clock of a thread's own CPU time is a call into the kernel, a microsecond or two; metering a
    part of ten would otherwise show more of the clock than of the part.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]
        self._calls = 0
        self._within = self._around = 0.0  # ns that metering adds to a call, and to its caller
        empty = self._timed(lambda: None, "empty")
        start = time.thread_time_ns()
        for _ in range(_CALIBRATING):
            empty()
        whole = (time.thread_time_ns() - start) / _CALIBRATING
        self._within = 1e9 * self.seconds.pop("empty") / _CALIBRATING
        self._around = whole - self._within
        self._inner, self._calls = [0.0], 0

    @property
    def cost(self) -> float:
        """Seconds that metering has taken so far, about."""
        return self._calls * (self._within + self._around) / 1e9

    @contextmanager
    def on(self, parts: Mapping[tuple[type, str], str]) -> Iterator[None]:
        """Count the calls of these methods."""
        originals = {place: getattr(*place) for place in parts}
        for (owner, name), part in parts.items():
            setattr(owner, name, self._timed(originals[owner, name], part))
        try:
            yield
        finally:
            for (owner, name), original in originals.items():
                setattr(owner, name, original)

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            self._calls += 1
            self._inner.append(0.0)
            start = time.thread_time_ns()
            try:
                return function(*arguments, **named)
            finally:
                spent = time.thread_time_ns() - start - self._within
                self.seconds[part] += (spent - self._inner.pop()) / 1e9
                self._inner[-1] += spent + self._within + self._around

        return timed


class Population:
    """Accounts that repeat those of a week."""

    def __init__(self, week: Sequence[Sequence[Block]], accounts: int, seed: int = 0) -> None:
        self._week = week
        self._rng = np.random.default_rng(seed)
        self._sent = np.zeros(accounts, np.int64)
        self._events = np.zeros(accounts, np.int64)
        self._sketches = np.ones((accounts, SKETCH_DIMS), np.int32)  # sums
        sizes = np.array([sum(block.n for block in blocks) for blocks in week], np.float64)
        self._weights = np.resize(sizes, accounts)
        self._weights /= self._weights.sum()

    def everybody(self, blocks: int) -> Iterator[int]:
        """Each account so many times, in turns."""
        for _ in range(blocks):
            yield from self._rng.permutation(len(self._sent)).tolist()

    def drawn(self, blocks: int) -> list[int]:
        """Accounts as they send, the busy ones often."""
        drawn: list[int] = self._rng.choice(len(self._sent), blocks, p=self._weights).tolist()
        return drawn

    def directions(self) -> NDArray[np.int8]:
        """Centred mean sketches of all accounts, int8 (accounts, 128)."""
        means = (self._sketches / np.maximum(self._sent, 1)[:, None]).astype(np.float32)
        return centred(means, np.median(means, axis=0).astype(np.float32))

    def block(self, account: int, at: float, seq: int) -> Block:
        """The next block of an account."""
        copy, number = divmod(account, len(self._week))
        nth = int(self._sent[account])
        original = self._week[number][nth % len(self._week[number])]
        bent = np.frombuffer(original.sketch, np.int8) + self._rng.normal(size=SKETCH_DIMS) * 3.0
        bent *= 127.0 / max(float(np.linalg.norm(bent)), 1e-9)
        sketch = np.rint(bent).astype(np.int8)
        self._sketches[account] += sketch
        self._sent[account] += 1
        self._events[account] += original.n
        return msgspec.structs.replace(
            original,
            partition=0,
            seq=seq,
            time=at,
            account=f"{original.account}-{copy}",
            index=nth,
            revision=2,
            events=int(self._events[account]),
            first_ts=at - (original.last_ts - original.first_ts),
            last_ts=at,
            sketch=sketch.tobytes(),
            heads=tuple((head ^ copy << 8, n, texts) for head, n, texts in original.heads),
            identity=_renamed(original.identity, copy),
        )


def _renamed(identity: Identity, copy: int) -> Identity:
    ip = identity.ip
    if ip is not None and "." in ip:
        mask = int.from_bytes(hashlib.blake2b(str(copy).encode(), digest_size=3).digest(), "big")
        ip = str(ipaddress.IPv4Address(int(ipaddress.IPv4Address(ip)) ^ mask << 8))
    return msgspec.structs.replace(
        identity, ip=ip, links={name: f"{value}-{copy}" for name, value in identity.links.items()}
    )


def week(data: Path | None) -> list[list[Block]]:
    """Blocks of each account of a composed week of text."""
    composed = Week(customers=900, thieves=0.09, max_events=250_000)
    events, _ = compose("calibrate", 5, data, composed)
    measure = PartitionMeasure(0, MeasureSettings())
    blocks: dict[str, list[Block]] = defaultdict(list)
    for start in range(0, len(events), 5000):
        batch = events[start : start + 5000]
        for event in batch:
            event.served = event.status < 400 if event.served is None else event.served
        for block in measure.feed(batch):
            if block.kind == "text" and block.n >= MIN_EVENTS and block.revision == 2:
                blocks[block.account].append(block)
    return list(blocks.values())


def of_judge(blocks: Sequence[Sequence[Block]], accounts: int, known: int, minutes: float) -> None:
    """Print a row about judging a population's traffic."""
    population = Population(blocks, accounts)
    before = _resident()
    judge = Judge(Settings(measure=MeasureSettings(partitions=1)))
    seq, at = 0, _START
    for account in population.everybody(known):
        at += 3.0 * 86_400.0 / (known * accounts)
        _judged(judge, [population.block(account, at, seq)], at)
        seq += 1
    memory = _resident() - before
    size = float(np.mean([block.n for account in blocks for block in account]))
    drawn = population.drawn(round(minutes * 60.0 * RATE / size))
    step = minutes * 60.0 / len(drawn)
    judge.campaigns.advance(at + _HOUR)  # so that it falls into none of the minutes
    ticks: dict[int, list[Block]] = defaultdict(list)
    for account in drawn:
        at += step
        ticks[int(at / _TICK)].append(population.block(account, at, seq))
        seq += 1
    meter = Meter()
    with meter.on(_PARTS):
        whole = sum(_judged(judge, tick, tick[-1].time) for tick in ticks.values()) - meter.cost
    scored = shipped()
    meter.seconds[_EVIDENCE] += _cpu(lambda: _score(scored, ticks.values()))
    events = sum(block.n for tick in ticks.values() for block in tick)
    hourly = _cpu(lambda: judge.campaigns.advance(at + 2 * _HOUR))
    late = population.block(0, at + 6 * _HOUR, seq)
    six_hourly = _judged(judge, [late], late.time)
    served_minutes = events / (60.0 * RATE)
    linking = meter.seconds[_LINKING] / served_minutes + hourly / 60.0 + six_hourly / 360.0
    print(
        f"{accounts:9,} {whole / served_minutes + hourly / 60.0 + six_hourly / 360.0:10.2f}"
        f" {1e6 * meter.seconds[_EVIDENCE] / events:12.2f}"
        f" {1e6 * meter.seconds[_EVIDENCE] / len(drawn):12.0f}"
        f" {linking:14.2f} {hourly:9.2f} {six_hourly:9.2f}"
        f" {memory / 1e6:9.0f} {len(judge.campaigns.all()):10,}",
        flush=True,
    )


def of_index(blocks: Sequence[Sequence[Block]], accounts: int) -> None:
    """Print a row about the nearest sketches of a population."""
    population = Population(blocks, accounts)
    for account in population.everybody(1):
        population.block(account, 0.0, 0)
    directions = population.directions()
    index = NeighbourIndex(SKETCH_DIMS)
    index.put_all(directions)
    graph = Index(ndim=SKETCH_DIMS, metric="cos", dtype="i8")
    built = _cpu(lambda: graph.add(np.arange(accounts), directions, threads=1))
    rows = np.random.default_rng(1).choice(accounts, min(_QUERIES, accounts), replace=False)
    hits, graph_hits = 0, 0
    times: dict[str, list[float]] = defaultdict(list)
    for row in rows.tolist():
        start = time.perf_counter()
        # float32 holds these sums exactly: 128 products below 2^14.
        dots = directions.astype(np.float32) @ directions[row].astype(np.float32)
        dots[row] = -np.inf
        best = np.argpartition(-dots, _NEAREST)[:_NEAREST]
        times["numpy"].append(time.perf_counter() - start)
        bar = dots[best].min()
        start = time.perf_counter()
        found, _ = index.nearest(row, _NEAREST)
        times["index"].append(time.perf_counter() - start)
        start = time.perf_counter()
        matches = graph.search(directions[row], _NEAREST + 1, threads=1)
        times["usearch"].append(time.perf_counter() - start)
        others = [int(key) for key in matches.keys if int(key) != row][:_NEAREST]
        hits += int(np.sum(dots[found] >= bar))
        graph_hits += int(np.sum(dots[others] >= bar))
        start = time.perf_counter()
        index.put(row, directions[row])
        times["put"].append(time.perf_counter() - start)
    asked = len(rows) * _NEAREST
    micros = {name: 1e6 * float(np.median(values)) for name, values in times.items()}
    print(
        f"{accounts:9,} {hits / asked:10.3f} {micros['index']:9.0f} {micros['put']:9.1f}"
        f" {index.nbytes / 1e6:7.1f} {micros['numpy']:9.0f}"
        f" {graph_hits / asked:9.3f} {micros['usearch']:9.0f} {1e6 * built / accounts:9.0f}",
        flush=True,
    )


def _score(models: TextModels, ticks: Iterable[Sequence[Block]]) -> None:
    for tick in ticks:
        for block in tick:
            models.block.log_odds(models.row(block))


def _judged(judge: Judge, blocks: Sequence[Block], now: float) -> float:
    """CPU seconds that it takes to judge these."""

    def work() -> None:
        judge.blocks(0, blocks, now)
        judge.advance()

    return _cpu(work)


def _cpu(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def _resident() -> int:
    """Bytes of memory that the process holds now."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--accounts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--data", type=Path, help="sources of the week; its own if not given")
    parser.add_argument("--known", type=int, default=2, help="blocks of each account before")
    parser.add_argument("--minutes", type=float, default=2.0)
    given = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    blocks = week(given.data)
    of_judge(blocks, 200, 1, 0.05)  # compiles
    print("\nThe judge at 1,000 requests/s: CPU of one core. The line of 200 is a warm-up.")
    print(
        " accounts   s/minute  evidence µs  evidence µs      linking   forming  recentre    memory"
        "  campaigns\n"
        "                        an event      a block     s/minute      s/1 h     s/6 h        MB"
    )
    for accounts in given.accounts:
        of_judge(blocks, accounts, given.known, given.minutes)
    print("\nThe 20 nearest of one, by sketch; medians, µs.")
    print(" accounts  recall@20     query       put      MB     numpy  usearch@20  query     build")
    for accounts in given.accounts:
        of_index(blocks, accounts)


if __name__ == "__main__":
    main()
