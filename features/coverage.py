"""Breadth and novelty: how much of the input space a block's requests cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numba import njit

from features.base import Array, Feature, Slots, StateColumn

__all__ = ["Coverage"]


_FILTER_WORDS: Final = 32  # 64-bit words of one Bloom filter
_FILTER_MOST: Final = 500  # texts in it: then a fifth of its bits are set


@njit(cache=True)
def _measure(  # type: ignore[no-untyped-def]
    n_events, index, final, text, words, fresh, sketch_sum, sketched, rows, seen, held, out
):
    for b in range(len(n_events)):
        r = rows[b]
        if index[b] == 0:  # what the row holds is of an account forgotten since
            seen[r, :, :] = 0
            held[r, :] = 0
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
        # Texts that the account sent in earlier blocks: two Bloom filters with one hash, the older
        # of which is dropped when the newer is full.
        repeats = 0
        for i in range(n):
            bit = text[b, i] & np.uint64(64 * _FILTER_WORDS - 1)
            mask = np.uint64(1) << (bit & np.uint64(63))
            if (seen[r, 0, bit >> np.uint64(6)] | seen[r, 1, bit >> np.uint64(6)]) & mask:
                repeats += 1
        # Less the share that new texts would show by chance: the share of bits that are set.
        chance = 1.0 - np.exp(-(held[r, 0] + held[r, 1]) / (64.0 * _FILTER_WORDS))
        out[b, 4] = max(repeats / n - chance, 0.0) / (1.0 - chance)
        if final[b]:
            if held[r, 0] + distinct > _FILTER_MOST:
                seen[r, 1, :] = seen[r, 0, :]
                seen[r, 0, :] = 0
                held[r, 1] = held[r, 0]
                held[r, 0] = 0
            for i in range(n):
                bit = text[b, i] & np.uint64(64 * _FILTER_WORDS - 1)
                seen[r, 0, bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))
            held[r, 0] += distinct
        out[b, 3] = (late / max(late_words, 1.0)) / max(new / max(total, 1.0), 1e-3)


class Coverage:
    """Five numbers of a block's breadth."""

    name = "coverage"
    version = 2
    features = (
        Feature("self_similarity", "mean cosine between the inputs; 0 when no two share a word"),
        Feature("distinct_texts", "share of the inputs that differ from one another"),
        Feature("late_words", "share of new words in the second half of the block"),
        Feature("vocabulary_growth", "that share over the whole block's; near 1 when all is new"),
        Feature("repeats", "share of the inputs that the account sent before, word for word"),
    )
    state = (
        StateColumn("seen", (2, _FILTER_WORDS), "uint64"),
        StateColumn("held", (2,), "int32"),
    )

    def measure(self, slots: Slots, rows: Array, state: Mapping[str, Array], out: Array) -> None:
        """See `features.base.Family`."""
        _measure(
            slots.n,
            slots.index,
            slots.final,
            slots.text,
            slots.words,
            slots.fresh_words,
            slots.sketch_sum,
            slots.sketched,
            rows,
            state["seen"],
            state["held"],
            out,
        )
