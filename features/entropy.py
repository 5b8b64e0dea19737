"""Input entropy and complexity: how rich, how long and how even a block's inputs are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from features.base import Array, Feature, Slots, StateColumn

__all__ = ["Entropy"]


@njit(cache=True)
def _measure(n_events, entropy, length, words, fresh, function, odd, out):  # type: ignore[no-untyped-def]
    for b in range(len(n_events)):
        n = n_events[b]
        mean = mean2 = log_length = log_length2 = size = size2 = total = new = 0.0
        log_words = grammar = strange = 0.0
        logs = np.empty(n)
        for i in range(n):
            mean += entropy[b, i]
            mean2 += entropy[b, i] * entropy[b, i]
            logs[i] = np.log1p(length[b, i])
            log_length += logs[i]
            log_length2 += logs[i] * logs[i]
            size += length[b, i]
            size2 += float(length[b, i]) * length[b, i]
            total += words[b, i]
            new += fresh[b, i]
            grammar += function[b, i]
            strange += odd[b, i]
            log_words += np.log1p(words[b, i])
        mean /= n
        log_length /= n
        out[b, 0] = mean
        out[b, 1] = np.sqrt(max(mean2 / n - mean * mean, 0.0))
        out[b, 2] = log_length
        out[b, 3] = np.sqrt(max(log_length2 / n - log_length * log_length, 0.0))
        size /= n
        out[b, 4] = np.log1p(np.sqrt(max(size2 / n - size * size, 0.0)) / max(size, 1.0))
        logs.sort()
        out[b, 5] = logs[(3 * (n - 1)) // 4] - logs[(n - 1) // 4]
        out[b, 6] = log_words / n
        out[b, 7] = new / max(total, 1.0)
        out[b, 8] = grammar / max(total, 1.0)
        out[b, 9] = np.log1p(100.0 * strange / max(grammar, 1.0))


class Entropy:
    """Ten numbers of the inputs' bytes, lengths and words."""

    name = "entropy"
    version = 2
    features = (
        Feature("bytes", "mean byte entropy of an input, bits; English prose has 4.1 to 4.5"),
        Feature("bytes_spread", "standard deviation of the byte entropy over the block"),
        Feature("length", "mean log length of an input (bytes)"),
        Feature("length_spread", "standard deviation of the log length"),
        Feature("length_cv", "log(1 + coefficient of variation of the length)"),
        Feature("length_iqr", "interquartile range of the log length"),
        Feature("words", "mean log number of words of an input"),
        Feature("unique_words", "share of the block's words that the block had not used before"),
        Feature(
            "function_words", "share of the words that are articles, prepositions and the like"
        ),
        Feature("odd_pairs", "how often such a word follows an article; near 0 in prose"),
    )
    state: tuple[StateColumn, ...] = ()

    def measure(self, slots: Slots, rows: Array, state: Mapping[str, Array], out: Array) -> None:
        """See `features.base.Family`."""
        _measure(
            slots.n,
            slots.entropy,
            slots.length,
            slots.words,
            slots.fresh_words,
            slots.function_words,
            slots.odd_pairs,
            out,
        )
