"""Accounts that send alike: nearest mean sketches, exact and independent of the order of sums."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["centred", "nearest", "similarities"]


@njit(cache=True)
def _dots(sketches, rows, query, out):  # type: ignore[no-untyped-def]
    # int8 times int8 in int32 is exact: no order of summation, no SIMD width changes a result.
    for r in range(rows):
        total = np.int32(0)
        for j in range(sketches.shape[1]):
            total += np.int32(sketches[r, j]) * np.int32(query[j])
        out[r] = total


def centred(mean: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.int8]:
    """Directions of mean sketches from the population's median sketch, as int8 of norm 127.

    Args:
        mean: float32 (..., 128), mean of the block sketches.
        centre: float32 (128,).
    """
    away = mean.astype(np.float64) - centre
    norm = np.sqrt(np.sum(away * away, axis=-1, keepdims=True))
    scaled: NDArray[np.int8] = np.rint(127.0 * away / np.maximum(norm, 1e-9)).astype(np.int8)
    return scaled


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
