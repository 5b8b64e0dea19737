"""Drift of an account from its own past: topic, vocabulary and length.

Drift from the population needs the population, and belongs to the judge.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from features.base import Array, Feature, Slots, StateColumn

__all__ = ["Drift"]

_KEEP = 0.8  # weight of the past against a new block: half of it is 3 blocks old


@njit(cache=True)
def _measure(  # type: ignore[no-untyped-def]
    n_events,
    index,
    final,
    length,
    sketch_sum,
    sketched,
    minhash,
    rows,
    past,
    past_minhash,
    past_stats,
    out,
):
    for b in range(len(n_events)):
        r = rows[b]
        n = n_events[b]
        norm2 = 0.0
        for j in range(sketch_sum.shape[1]):
            norm2 += float(sketch_sum[b, j]) * sketch_sum[b, j]
        log_length = 0.0
        for i in range(n):
            log_length += np.log1p(length[b, i])
        log_length /= n
        # A first block has no past: what the row holds is of an account forgotten since.
        blocks = past_stats[r, 0] if index[b] > 0 else 0.0
        out[b, :] = 0.0
        if blocks > 0:
            dot = past2 = 0.0
            for j in range(sketch_sum.shape[1]):
                dot += float(past[r, j]) * sketch_sum[b, j]
                past2 += float(past[r, j]) * past[r, j]
            if norm2 > 0.0 and past2 > 0.0:
                out[b, 0] = 1.0 - dot / np.sqrt(norm2 * past2)
            same = 0
            for j in range(minhash.shape[1]):
                if minhash[b, j] == past_minhash[r, j]:
                    same += 1
            out[b, 1] = 1.0 - same / minhash.shape[1]
            out[b, 2] = abs(log_length - past_stats[r, 1])
            out[b, 3] = 1.0
            # Mean cosine between pairs of inputs within the block, less that between the block's
            # and earlier ones: near 0 when requests are drawn at random from one pool.
            k = sketched[b]
            if k > 1:
                out[b, 4] = (norm2 - k) / (k * (k - 1.0)) - dot / k
        if final[b]:
            scale = 1.0 / sketched[b] if sketched[b] > 0 else 0.0
            keep = _KEEP if blocks > 0 else 0.0
            for j in range(sketch_sum.shape[1]):
                past[r, j] = keep * past[r, j] + (1.0 - keep) * scale * sketch_sum[b, j]
            for j in range(minhash.shape[1]):
                past_minhash[r, j] = minhash[b, j]
            past_stats[r, 0] = blocks + 1
            past_stats[r, 1] = keep * past_stats[r, 1] + (1.0 - keep) * log_length


class Drift:
    """Five numbers of the distance to the account's earlier blocks; zeros for its first."""

    name = "drift"
    version = 2
    features = (
        Feature("topic", "1 - cosine to the account's earlier inputs; 0 when it stays on topic"),
        Feature("vocabulary", "share of the MinHash that differs from the block before"),
        Feature("length", "change of the mean log length"),
        Feature("has_past", "1 when the account had an earlier block"),
        Feature("sessions", "likeness of the block's inputs to one another less that to earlier"),
    )
    state = (
        StateColumn("past", (128,), "float32"),
        StateColumn("past_minhash", (16,), "uint32"),
        StateColumn("past_stats", (2,), "float32"),
    )

    def measure(self, slots: Slots, rows: Array, state: Mapping[str, Array], out: Array) -> None:
        """See `features.base.Family`."""
        _measure(
            slots.n,
            slots.index,
            slots.final,
            slots.length,
            slots.sketch_sum,
            slots.sketched,
            slots.minhash,
            rows,
            state["past"],
            state["past_minhash"],
            state["past_stats"],
            out,
        )
