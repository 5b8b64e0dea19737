"""Requests an hour over the last week, and whether two of them rise and fall together.

An hour is a whole number of hours since 1970; a ring holds hour `h` in element `h % HOURS`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["HOURS", "HOUR_S", "correlation", "count", "ring", "turn"]

HOUR_S: Final = 3600.0
HOURS: Final = 168


def ring(packed: bytes = b"") -> NDArray[np.int32]:
    """An empty ring, int32 (HOURS,), or the one with these bytes."""
    return np.frombuffer(packed, np.int32).copy() if packed else np.zeros(HOURS, np.int32)


@njit(cache=True)
def turn(hours, last, hour):  # type: ignore[no-untyped-def]
    """Go on from hour `last` to `hour`: those in between begin with nothing."""
    for h in range(max(last + 1, hour - HOURS + 1), hour + 1):
        hours[h % HOURS] = 0


@njit(cache=True)
def count(hours, last, hour, events):  # type: ignore[no-untyped-def]
    """Add the events of an hour, unless it is over a week old; the ring's last hour from then."""
    if hour <= last - HOURS:
        return last
    turn(hours, last, hour)
    hours[hour % HOURS] += events
    return max(last, hour)


@njit(cache=True)
def correlation(own, others, traffic, first, last, among):  # type: ignore[no-untyped-def]
    """Correlation of two rings from hour `first` to `last`, beyond what everybody does.

    Compared are the differences from what the traffic's rhythm lets expect, in standard
    deviations of a Poisson count, so that office hours alone make nobody alike.

    Args:
        own, others, traffic: int32 (HOURS,).
        first, last: hours, at most HOURS - 1 apart.
        among: `others` counts `own` too, which is left out.

    Returns:
        -1 to 1; 0 where somebody sent nothing.
    """
    own_sum, others_sum, traffic_sum = 0.0, 0.0, 0.0
    for hour in range(first, last + 1):
        h = hour % HOURS
        own_sum += own[h]
        others_sum += others[h] - own[h] if among else others[h]
        traffic_sum += traffic[h]
    if own_sum == 0.0 or others_sum == 0.0 or traffic_sum == 0.0:
        return 0.0
    both, one2, other2 = 0.0, 0.0, 0.0
    for hour in range(first, last + 1):
        h = hour % HOURS
        share = traffic[h] / traffic_sum
        theirs = others[h] - own[h] if among else others[h]
        one = (own[h] - own_sum * share) / np.sqrt(own_sum * share + 1.0)
        other = (theirs - others_sum * share) / np.sqrt(others_sum * share + 1.0)
        both += one * other
        one2 += one * one
        other2 += other * other
    return both / np.sqrt(one2 * other2) if one2 > 0.0 and other2 > 0.0 else 0.0
