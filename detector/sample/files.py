"""A sampled day as files: the log in native JSON lines, and the labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import msgspec

from detector.events import encode
from detector.sample.day import Sample

__all__ = ["Written", "write_day"]


class Written(NamedTuple):
    """What was written, and how much."""

    log: Path
    labels: Path
    events: int
    accounts: int
    first_ts: float  # Unix seconds, of the earliest and the latest arrival
    last_ts: float


def write_day(sample: Sample, day: int, out: Path) -> Written:
    """Write `day<N>.jsonl` and `labels<N>.json` into the folder, which is made if it is missing.

    The labels are those of `velvetrope replay --labels`, of the accounts that the log has.

    Raises:
        OSError: a file cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    log, labels = out / f"day{day}.jsonl", out / f"labels{day}.json"
    seen: set[str] = set()
    count, first, last = 0, math.inf, -math.inf
    with log.open("wb") as file:
        for event in sample.events(day):
            file.write(encode(event))
            file.write(b"\n")
            seen.add(event.account)
            count += 1
            first, last = min(first, float(event.ts)), max(last, float(event.ts))
    known = {name: label for name, label in sample.labels(day).items() if name in seen}
    labels.write_bytes(msgspec.json.format(msgspec.json.encode(known)) + b"\n")
    return Written(log, labels, count, len(seen), first, last)
