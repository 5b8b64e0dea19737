"""When requests arrive within the week: the same processes for customers and for thieves.

Every function returns `n` (or fewer) sorted times in seconds from the start of the week. Timing
says little of the kind on purpose: a batch job may be as regular as a naive script, and a thief
replays a person's gaps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.sources import Client, Person

__all__ = [
    "DAY",
    "PATTERNS",
    "WEEK",
    "closed_loop",
    "diurnal",
    "folded",
    "human",
    "paced",
    "production",
    "sessions",
]

Floats = NDArray[np.float64]
Rng = np.random.Generator
DAY: Final = 86_400.0
WEEK: Final = 7 * DAY
_HOURS: Final = 168
# How a script can pace itself over a given time; `paced` says what each means.
PATTERNS: Final = ("fixed", "jittered", "poisson", "closed_loop")


def paced(rng: Rng, pattern: str, n: int, start: float, duration: float) -> Floats:
    """`n` times over `duration` from `start`: at a fixed interval, jittered, Poisson, or closed.

    A closed loop sends the next request when an answer is back; its time follows the answers'.
    """
    gap = duration / max(n, 1)
    if pattern == "fixed":
        noise = rng.exponential(min(0.03, 0.02 * gap), n)  # the network's milliseconds
        times = start + gap * np.arange(n) + noise
    elif pattern == "jittered":
        width = rng.uniform(0.1, 0.9)
        times = start + np.cumsum(gap * rng.uniform(1 - width, 1 + width, n))
    elif pattern == "poisson":
        times = start + np.cumsum(rng.exponential(gap, n))
    elif pattern == "closed_loop":
        times = closed_loop(rng, n, start, duration)
    else:
        raise ValueError(f"no such pattern: {pattern!r}")
    return _within(times)


def closed_loop(rng: Rng, n: int, start: float, duration: float) -> Floats:
    """Workers that each wait for an answer before they ask again, and idle between runs."""
    workers = int(min(rng.choice([1, 1, 2, 4, 8, 16]), max(n // 4, 1)))
    # Answers take seconds: what is left of the duration lies between runs, not between requests.
    mean = min(rng.lognormal(math.log(3.0), 0.9), workers * duration / max(n, 1))
    spread = rng.uniform(0.15, 0.8)
    per_worker = -(-n // workers)
    gaps = rng.lognormal(math.log(mean) - spread * spread / 2, spread, (workers, per_worker))
    times = np.sort((np.cumsum(gaps, axis=1) - gaps * rng.random((workers, 1))).ravel()[:n])
    span = float(times[-1]) if n else 0.0
    runs = int(rng.choice([1, 1, 2, 3, 5, 7])) if span < duration / 2 else 1
    if runs > 1:
        pause = (duration - span) / runs
        times = times + np.floor(np.arange(n) * runs / n) * pause * rng.uniform(0.7, 1.0)
    return _within(start + times)


def diurnal(rng: Rng, times: Floats, depth: float | None = None) -> Floats:
    """Warp times that are even over the week to a day and night and a weekend of some client."""
    depth = rng.uniform(0.2, 0.97) if depth is None else depth
    phase, sharpness = rng.uniform(0, 24), rng.uniform(1.0, 3.0)
    hours = np.arange(_HOURS)
    wave = (0.5 + 0.5 * np.cos(2 * np.pi * (hours - phase) / 24)) ** sharpness
    weight = 1 - depth + depth * wave
    weight[(hours // 24) >= 5] *= rng.uniform(0.05, 1.2)
    weight *= rng.lognormal(0.0, 0.25, _HOURS)
    edges = np.concatenate([[0.0], np.cumsum(weight)])
    return _within(np.interp(times / WEEK, edges / edges[-1], np.arange(_HOURS + 1) * 3600.0))


def production(
    rng: Rng, client: Client, n: int, start: float = 0.0, duration: float = WEEK
) -> Floats:
    """`n` arrivals shaped as a production client's: its windows' rates, its gaps' distribution."""
    # A trace of two weeks: take one of them; a client seen only now and then gives all it has.
    week = (client.start // WEEK).astype(int)
    at = np.flatnonzero(week == int(rng.integers(week.max() + 1)))
    if len(at) < 24:
        at = np.arange(len(client.start))
    offset, window = np.unique(client.start[at] % WEEK, return_index=True)
    at = at[window]
    rate = client.rate[at]
    edges = np.concatenate([[0.0], np.cumsum(rate)])
    shape = client.shape[at][np.searchsorted(edges[1:-1] / edges[-1], np.linspace(0, 1, n))]
    weibull = client.weibull[at][np.searchsorted(edges[1:-1] / edges[-1], np.linspace(0, 1, n))]
    shape = np.clip(shape, 0.08, 1e3)
    gaps = np.where(
        weibull,
        rng.weibull(shape)
        / np.array([math.gamma(1 + 1 / s) for s in np.unique(shape)])[
            np.unique(shape, return_inverse=True)[1]
        ],
        rng.standard_gamma(shape) / shape,
    )
    total = np.cumsum(gaps)
    share = total / max(float(total[-1]), 1e-9) * rng.uniform(0.97, 1.0)
    seconds = np.interp(
        share, edges / edges[-1], np.concatenate([[0.0], np.cumsum(np.full(len(at), 600.0))])
    )
    slot = np.minimum((seconds // 600.0).astype(int), len(at) - 1)
    clock = offset[slot] + seconds - slot * 600.0
    clock = (clock + rng.integers(24) * 3600.0) % WEEK
    return _within(start + np.sort(clock) * (duration / WEEK))


def folded(rng: Rng, person: Person, least: int) -> tuple[Floats, list[str]]:
    """A person's own messages at their own times of day, their active days laid into one week.

    Takes up to seven of the days; the fullest when a random choice has fewer than `least`.
    """
    day = np.floor(person.times / DAY).astype(np.int64)
    days = np.unique(day)
    if len(days) > 7:
        first = int(rng.integers(len(days) - 6))
        chosen = days[first : first + 7]
        if int(np.isin(day, chosen).sum()) < least:
            counts = np.array([int((day == d).sum()) for d in days])
            chosen = np.sort(days[np.argsort(-counts, kind="stable")[:7]])
    else:
        chosen = days
    slots = np.sort(rng.choice(7, size=len(chosen), replace=False))
    keep = np.flatnonzero(np.isin(day, chosen))
    place = slots[np.searchsorted(chosen, day[keep])]
    times = place * DAY + person.times[keep] % DAY
    times = times + rng.uniform(0, 1.0, len(times))  # seconds, not thirtieths of a minute
    order = np.argsort(times, kind="stable")
    return times[order], [person.texts[i] for i in keep[order]]


def human(rng: Rng, people: Sequence[Person], n: int, start: float, duration: float) -> Floats:
    """People's gaps one after another, until `n` requests fit over about `duration`."""
    pieces: list[Floats] = []
    have = 0
    while have < n:
        person = people[int(rng.integers(len(people)))]
        gaps = np.diff(person.times)
        gaps = np.minimum(gaps[gaps > 0], rng.uniform(0.2, 1.0) * 8 * 3600)
        if len(gaps):
            pieces.append(gaps)
            have += len(gaps)
    gaps = np.concatenate(pieces)[:n] * rng.uniform(0.9, 1.1)
    times = np.cumsum(gaps)
    if times[-1] > duration:
        times *= duration / times[-1]
    return _within(start + times)


def sessions(
    rng: Rng, turns: Sequence[Floats], n: int, pace: float = 1.0
) -> tuple[Floats, NDArray[np.int64]]:
    """Multi-turn sessions over the week until `n` requests: their times and session numbers."""
    times: list[Floats] = []
    have = 0
    while have < n:
        turn = turns[int(rng.integers(len(turns)))]
        turn = turn + np.sort(rng.uniform(0, 3.0, len(turn)))  # the trace's clock has 3 s
        times.append(turn * pace)
        have += len(turn)
    starts = diurnal(rng, np.sort(rng.uniform(0, WEEK * 0.995, len(times))))
    number = np.repeat(np.arange(len(times)), [len(t) for t in times])[:n]
    every = np.concatenate([start + t for start, t in zip(starts, times, strict=True)])[:n]
    order = np.argsort(every, kind="stable")
    return np.minimum(every[order], WEEK - 0.001), number[order]


def _within(times: Floats) -> Floats:
    times = np.sort(times)
    return times[: int(np.searchsorted(times, WEEK))]
