"""Accounts that send alike: nearest mean sketches, exact and independent of the order of sums."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["centre_one", "centred", "nearest", "similarities"]


@njit(cache=True)
def _dots(sketches, rows, query, out):  # type: ignore[no-untyped-def]
    # int8 times int8 in int32 is exact: no order of summation, no SIMD width changes a result.
    for r in range(rows):
        total = np.int32(0)
        for j in range(sketches.shape[1]):
            total += np.int32(sketches[r, j]) * np.int32(query[j])
        out[r] = total


@njit(cache=True)
def _centre(mean, centre, out):  # type: ignore[no-untyped-def]
    norm2 = 0.0
    for j in range(len(out)):
        away = float(mean[j]) - centre[j]
        norm2 += away * away
    norm = max(np.sqrt(norm2), 1e-9)
    for j in range(len(out)):
        out[j] = np.int8(np.rint(127.0 * (float(mean[j]) - centre[j]) / norm))


@njit(cache=True)
def _centre_all(means, centre, out):  # type: ignore[no-untyped-def]
    for r in range(len(means)):
        _centre(means[r], centre, out[r])


@njit(cache=True)
def centre_one(first, rest, count, centre, out):  # type: ignore[no-untyped-def]
    """`centred` of the mean of `count` sketches whose sum is `first + rest`, into `out`."""
    mean = np.empty(len(out), np.float32)
    for j in range(len(out)):
        mean[j] = np.float32((np.int32(first[j]) + rest[j]) / count)
    _centre(mean, centre, out)


def centred(means: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.int8]:
    """Directions of mean sketches from the population's median sketch, as int8 of norm 127.

    Args:
        means: float32 (A, 128), mean of each account's block sketches.
        centre: float32 (128,).
    """
    out = np.empty(means.shape, np.int8)
    _centre_all(np.ascontiguousarray(means), centre, out)
    return out


def similarities(
    sketches: NDArray[np.int8], rows: int, query: NDArray[np.int8]
) -> NDArray[np.int32]:
    """Dot products of the first `rows` sketches with the query: cosines times 127²."""
    dots = np.empty(rows, np.int32)
    _dots(sketches, rows, query, dots)
    return dots


def nearest(
    dots: NDArray[np.int32], count: int, eligible: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The `count` eligible rows with the highest similarity; ties go to the lower row.

    Returns:
        Row numbers and cosines, the nearest first; fewer than `count` when fewer are eligible.
    """
    candidates = np.flatnonzero(eligible)
    values = dots[candidates]
    if len(candidates) > count:
        bar = np.partition(values, len(values) - count)[len(values) - count]
        keep = values >= bar
        candidates, values = candidates[keep], values[keep]
    order = np.argsort(-values, kind="stable")[:count]
    return candidates[order], values[order] / (127.0 * 127.0)
