"""Harvest tells: how requests are put, and what of the answer they ask for.

Words are looked up by hash in two small tables (single words, and pairs that follow one another),
in the pass over the bytes that the other families share; this family counts the requests of a
block that show each sign.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from features.base import Array, Feature, Slots, StateColumn
from features.kernels import SIGNS

__all__ = ["Elicitation"]


@njit(cache=True)
def _measure(n_events, signs, answer, out, kinds):  # type: ignore[no-untyped-def]
    for b in range(len(n_events)):
        n = n_events[b]
        out[b, :] = 0.0
        answered = 0
        tokens = 0.0
        for i in range(n):
            for k in range(kinds):
                if (signs[b, i] >> k) & 1:
                    out[b, k] += 1.0
            if answer[b, i] > 0.0:
                answered += 1
                tokens += np.log1p(min(answer[b, i], 1e9))
        for k in range(kinds):
            out[b, k] /= n
        if answered:
            out[b, kinds] = tokens / answered


class Elicitation:
    """Eight shares of the block's requests, and the length of the answers they got."""

    name = "elicitation"
    version = 1
    features = (
        Feature("instructs", "share of the inputs that open with an instruction (write, list, …)"),
        Feature("asks", "share of the inputs that open or end as a question"),
        Feature("refers_back", "share of the inputs that open by referring to what went before"),
        Feature("personal", "share of the inputs that speak of their author (I, my, we)"),
        Feature("reasons", "share of the inputs that ask for reasoning or steps"),
        Feature("generates", "share of the inputs that ask for examples, rubrics or formats"),
        Feature("probes", "share of the inputs that probe the model, its prompt or its limits"),
        Feature("opens_up", "share of the requests that ask for log-probabilities or many answers"),
        Feature("answer_length", "mean log number of tokens of the answers; 0 if not logged"),
    )
    state: tuple[StateColumn, ...] = ()

    def measure(self, slots: Slots, rows: Array, state: Mapping[str, Array], out: Array) -> None:
        """See `features.base.Family`."""
        _measure(slots.n, slots.signs, slots.answer, out, len(SIGNS))
