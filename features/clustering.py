"""Cross-account fingerprints: what links an account to others that send alike.

The numbers say how much of the block is a template; the fingerprints (template heads, quantised
mean sketch) are what the judge looks up among other accounts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numba import njit

from features.base import Array, Feature, Slots, StateColumn

__all__ = ["HEADS_KEPT", "Clustering", "fingerprints"]

HEADS_KEPT: Final = 4


@njit(cache=True)
def _shares(hashes, n):  # type: ignore[no-untyped-def]
    # Distinct values and the count of the most common, of n hashes.
    ranked = np.sort(hashes[:n])
    distinct = run = best = 1
    for i in range(1, n):
        if ranked[i] == ranked[i - 1]:
            run += 1
        else:
            distinct += 1
            run = 1
        best = max(best, run)
    return distinct, best


@njit(cache=True)
def _measure(n_events, head, tail, out):  # type: ignore[no-untyped-def]
    for b in range(len(n_events)):
        n = n_events[b]
        distinct, best = _shares(head[b], n)
        out[b, 0] = distinct / n
        out[b, 1] = best / n
        distinct, best = _shares(tail[b], n)
        out[b, 2] = distinct / n
        out[b, 3] = best / n


@njit(cache=True)
def _fingerprints(n_events, head, text, sketch_sum, sketches, heads):  # type: ignore[no-untyped-def]
    for b in range(len(n_events)):
        n = n_events[b]
        norm2 = 0.0
        for j in range(sketch_sum.shape[1]):
            norm2 += float(sketch_sum[b, j]) * sketch_sum[b, j]
        for j in range(sketch_sum.shape[1]):
            # A norm of 127 keeps every entry in int8 and dot products exact in int32.
            sketches[b, j] = 0
            if norm2 > 0.0:
                sketches[b, j] = np.int8(np.rint(127.0 * sketch_sum[b, j] / np.sqrt(norm2)))
        # Most common heads first, ties by hash, with how many different texts each begins.
        heads[b, :, :] = 0
        done = np.zeros(n, dtype=np.bool_)
        for slot in range(heads.shape[1]):
            best_count = 0
            best_hash = np.uint32(0)
            for i in range(n):
                if done[i]:
                    continue
                count = 0
                for k in range(n):
                    if head[b, k] == head[b, i]:
                        count += 1
                if count > best_count or (count == best_count and head[b, i] < best_hash):
                    best_count = count
                    best_hash = head[b, i]
            if best_count < 2:
                break
            distinct = 0
            for i in range(n):
                if head[b, i] != best_hash:
                    continue
                done[i] = True
                new = True
                for k in range(i):
                    if head[b, k] == best_hash and text[b, k] == text[b, i]:
                        new = False
                if new:
                    distinct += 1
            heads[b, slot, 0] = best_hash
            heads[b, slot, 1] = best_count
            heads[b, slot, 2] = distinct


def fingerprints(slots: Slots) -> tuple[Array, Array]:
    """What the judge links accounts by.

    Returns:
        sketches: int8 (B, 128), direction of the mean sketch, norm 127 (0 without words).
        heads: int64 (B, 4, 3), the most common 40-byte heads that two or more of the inputs
            share: hash, inputs, distinct inputs; zeros where there are fewer.
    """
    sketches = np.empty((len(slots), slots.sketch_sum.shape[1]), dtype=np.int8)
    heads = np.empty((len(slots), HEADS_KEPT, 3), dtype=np.int64)
    _fingerprints(slots.n, slots.head, slots.text, slots.sketch_sum, sketches, heads)
    return sketches, heads


class Clustering:
    """Four numbers of how much of the block comes from templates."""

    name = "clustering"
    version = 1
    features = (
        Feature("distinct_heads", "share of the inputs whose first 40 bytes differ"),
        Feature("top_head", "share of the inputs with the most common first 40 bytes"),
        Feature("distinct_tails", "share of the inputs whose last 24 bytes differ"),
        Feature("top_tail", "share of the inputs with the most common last 24 bytes"),
    )
    state: tuple[StateColumn, ...] = ()

    def measure(self, slots: Slots, rows: Array, state: Mapping[str, Array], out: Array) -> None:
        """See `features.base.Family`."""
        _measure(slots.n, slots.head, slots.tail, out)
