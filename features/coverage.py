"""Breadth and novelty: how much of the input space a block's requests cover."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from features.base import Array, Feature, Slots, StateColumn

__all__ = ["Coverage"]


@njit(cache=True)
def _measure(n_events, text, words, fresh, sketch_sum, sketched, out):  # type: ignore[no-untyped-def]
    for b in range(len(n_events)):
        n = n_events[b]
        # Mean cosine over pairs of different requests: |Σx|² holds each pair twice and each
        # request once with itself (norm 1), which is taken off.
        k = sketched[b]
        out[b, 0] = 0.0
        if k > 1:
            norm2 = 0.0
            for j in range(sketch_sum.shape[1]):
                norm2 += float(sketch_sum[b, j]) * sketch_sum[b, j]
            out[b, 0] = (norm2 - k) / (k * (k - 1.0))
        hashes = np.sort(text[b, :n])
        distinct = 1
        for i in range(1, n):
            if hashes[i] != hashes[i - 1]:
                distinct += 1
        out[b, 1] = distinct / n
        # Growth of the vocabulary: the second half's new words a word, over the whole block's.
        half = n // 2
        late = late_words = new = total = 0.0
        for i in range(n):
            new += fresh[b, i]
            total += words[b, i]
            if i >= half:
                late += fresh[b, i]
                late_words += words[b, i]
        out[b, 2] = late / max(late_words, 1.0)
        out[b, 3] = (late / max(late_words, 1.0)) / max(new / max(total, 1.0), 1e-3)


class Coverage:
    """Four numbers of a block's breadth."""

    name = "coverage"
    version = 1
    features = (
        Feature("self_similarity", "mean cosine between the inputs; 0 when no two share a word"),
        Feature("distinct_texts", "share of the inputs that differ from one another"),
        Feature("late_words", "share of new words in the second half of the block"),
        Feature("vocabulary_growth", "that share over the whole block's; near 1 when all is new"),
    )
    state: tuple[StateColumn, ...] = ()

    def measure(self, slots: Slots, rows: Array, state: Mapping[str, Array], out: Array) -> None:
        """See `features.base.Family`."""
        _measure(
            slots.n,
            slots.text,
            slots.words,
            slots.fresh_words,
            slots.sketch_sum,
            slots.sketched,
            out,
        )
