"""A day of the sample API, made rough: whatever makes decisions hard to repeat happens in it.

Requests come out of order and twice, some were refused, some clocks are wrong, accounts fall silent
and come back, records are broken, decisions end and are made again, and people interfere.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from detector.events import Event, encode
from detector.sample.clocks import DAY_S
from detector.sample.day import FIRST_DAY, Sample

__all__ = ["RoughLog", "rough_log"]

_SEED: Final = 11
_DAY: Final = 1


class RoughLog(NamedTuple):
    """Records in the order of the log, each with its account, and who harvests."""

    records: list[tuple[str, bytes]]
    thieves: list[str]
    broken: int  # records that are none


def rough_log(start: float) -> RoughLog:
    """The day that begins at `start`, Unix seconds: always the same but for that.

    Some 27,000 records of 50 customers and 20 thieves.
    """
    sample = Sample(_SEED, customers=50, thieves=20)
    moved = start - (FIRST_DAY + _DAY * DAY_S)
    rng = Random(_SEED)
    records = []
    broken = 0
    for event in _mishaps(rng, sample.events(_DAY)):
        record = encode(_but(event, ts=round(float(event.ts) + moved, 3)))
        if rng.random() < 0.001:
            record = record[: rng.randrange(len(record))]
            broken += 1
        records.append((event.account, record))
    thieves = [m.account for m in sample.members(_DAY) if m.harvesting]
    return RoughLog(records, thieves, broken)


def _mishaps(rng: Random, events: Iterator[Event]) -> Iterator[Event]:
    """Refusals, repeats by a gateway that logs again, late lines, and clocks that are wrong."""
    held: list[Event] = []
    for event in events:
        luck = rng.random()
        if luck < 0.02:
            event = _but(event, status=429, served=False)
        elif luck < 0.023:
            event = _but(event, ts=float(event.ts) + 4000.0)
        elif luck < 0.04:
            held.append(event)
            continue
        yield event
        if rng.random() < 0.02:
            yield _but(event)
        if held and rng.random() < 0.05:
            yield held.pop(0)
    yield from held


def _but(event: Event, **fields: Any) -> Event:
    return msgspec.structs.replace(event, **fields)
