"""When requests arrive: people's sessions, applications' bursts, jobs' loops, and their disguises.

Every clock gives the arrivals of one account in one day, as seconds since the day's midnight, with
the turn within the session. Times lie in [0, 86,400).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.sample.dice import Dice

__all__ = ["DAY_S", "Arrivals", "bursts", "fixed", "jittered", "loop", "poisson", "sessions"]

DAY_S: Final = 86_400.0
_MINUTES: Final = 1440

Floats = NDArray[np.float64]


class Arrivals(NamedTuple):
    """float64 (N,) seconds, ascending, and int (N,) turns, 0 at the start of a session."""

    at: Floats
    turn: NDArray[np.int64]


def sessions(dice: Dice, per_day: float, turns: float, peak_hour: float) -> Arrivals:
    """A person: sessions at waking hours, log-normal think times, some sessions very long.

    Args:
        per_day: mean number of sessions.
        turns: median number of requests in one.
        peak_hour: of the day, UTC, around which the sessions lie.
    """
    count = int(dice.generator.poisson(per_day))
    starts = _waking(dice, count, peak_hour)
    at: list[float] = []
    turn: list[int] = []
    busy_until = 0.0
    for start in starts:
        now = max(start, busy_until)
        for n in range(min(400, max(1, round(dice.lognormal(turns, 0.9))))):
            at.append(now)
            turn.append(n)
            now += 4.0 + dice.lognormal(38.0, 1.2)
        busy_until = now + 60.0
    return _within_day(np.array(at), np.array(turn, np.int64))


def bursts(dice: Dice, count: float, cv: float, peak_hour: float, night: float) -> Arrivals:
    """An application: a renewal process of Gamma gaps with this CV, on its users' daily rhythm.

    Args:
        count: expected requests of the day.
        cv: coefficient of variation of the gaps; 1 is Poisson, 3 comes in bursts.
        night: its lowest rate as a share of its highest.
    """
    if count <= 0:
        return _within_day(np.zeros(0), np.zeros(0, np.int64))
    shape = 1.0 / (cv * cv)
    gaps = dice.generator.gamma(shape, 1.0 / (shape * count), int(1.5 * count) + 50)
    share = np.cumsum(gaps)
    minute = np.arange(_MINUTES + 1)
    wave = 0.5 + 0.5 * np.cos(2 * np.pi * (minute[:-1] / 60.0 - peak_hour) / 24.0)
    passed = np.concatenate(([0.0], np.cumsum(night + (1 - night) * wave**1.5)))
    at = np.interp(share[share < 1.0], passed / passed[-1], minute * 60.0)
    return _within_day(at, np.arange(len(at)))


def poisson(dice: Dice, count: int, first: float, last: float) -> Arrivals:
    """`count` requests at uniform times between two moments: no memory at all."""
    at = np.sort(dice.generator.uniform(first, last, count))
    return _within_day(at, np.arange(count))


def loop(dice: Dice, count: int, start: float, latency: float, workers: int) -> Arrivals:
    """A job that asks again as soon as an answer is there, `workers` at a time.

    Args:
        latency: median seconds that an answer takes.
    """
    lanes = [
        start + lane * 0.05 + np.cumsum(latency * np.exp(0.35 * dice.generator.standard_normal(n)))
        for lane, n in enumerate(_shares(count, workers))
    ]
    at = np.sort(np.concatenate(lanes))
    return _within_day(at, np.arange(len(at)))


def fixed(dice: Dice, every: float) -> Arrivals:
    """A monitor: every so many seconds, give or take milliseconds."""
    at = np.arange(dice.uniform(0.0, every), DAY_S, every)
    return _within_day(at + dice.generator.exponential(0.02, len(at)), np.arange(len(at)))


def jittered(dice: Dice, count: int, first: float, last: float, jitter: float) -> Arrivals:
    """A script that sleeps between requests: an even pace, each gap off by a share of itself."""
    gaps = 1.0 + jitter * dice.generator.uniform(-1.0, 1.0, count)
    at = first + (last - first) * np.cumsum(gaps) / gaps.sum()
    return _within_day(at, np.arange(count))


def _waking(dice: Dice, count: int, peak_hour: float) -> list[float]:
    hours = dice.generator.normal(peak_hour, 3.6, count) % 24.0
    return sorted(3600.0 * float(hour) for hour in hours)


def _shares(count: int, workers: int) -> list[int]:
    return [count // workers + (lane < count % workers) for lane in range(workers)]


def _within_day(at: Floats, turn: NDArray[np.int64]) -> Arrivals:
    kept = (at >= 0.0) & (at < DAY_S)
    return Arrivals(at[kept], turn[kept])
