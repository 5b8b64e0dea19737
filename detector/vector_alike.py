"""Accounts that lie near one another in the space of block features, and what they score."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.vector_kernels import FEATURES, nearest_figures

__all__ = ["ALIKE", "MOST_ACCOUNTS", "Alike", "squashed"]

Floats = NDArray[np.float64]

ALIKE: Final = 8  # accounts most like one, whose mean score counts for it
MOST_ACCOUNTS: Final = 4096  # among which they are looked for
_FIRST: Final = 64


def squashed(standard: Floats) -> Floats:
    """Standardised features (F,) on a scale on which no single one outweighs all others."""
    squeezed: Floats = np.sign(standard) * np.log1p(np.abs(standard))
    return squeezed


class Alike:
    """Where the accounts of a population lie, and their mean scores."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._places: Floats = np.zeros((_FIRST, len(FEATURES)))
        self._scores: Floats = np.zeros(_FIRST)
        self._times: Floats = np.zeros(_FIRST)

    def put(self, account: str, place: Floats, score: float, time: float) -> None:
        """An account lies at `place` (F,) now and scores this. The longest silent makes room."""
        row = self._rows.get(account)
        if row is None:
            row = len(self._rows)
            if row == MOST_ACCOUNTS:
                row = int(np.argmin(self._times))
                del self._rows[next(name for name, at in self._rows.items() if at == row)]
            elif row == len(self._scores):
                self._places = np.concatenate([self._places, np.zeros_like(self._places)])
                self._scores = np.concatenate([self._scores, np.zeros_like(self._scores)])
                self._times = np.concatenate([self._times, np.zeros_like(self._times)])
            self._rows[account] = row
        self._places[row] = place
        self._scores[row] = score
        self._times[row] = time

    def around(self, account: str) -> Floats | None:
        """Of the accounts most like it: mean and deviation of their scores, and how far away the
        last of them is (3,); None while there are too few others."""
        used = len(self._rows)
        if used <= ALIKE:
            return None
        found: Floats = nearest_figures(
            self._places, self._scores, used, self._rows[account], ALIKE
        )
        return found

    def export(self) -> dict[str, Any]:
        """Everything, as builtins and bytes."""
        used = len(self._rows)
        return {
            "rows": dict(self._rows),
            "places": self._places[:used].tobytes(),
            "scores": self._scores[:used].tobytes(),
            "times": self._times[:used].tobytes(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take in what `export` gave."""
        self._rows = dict(state["rows"])
        room = np.zeros((max(_FIRST, len(self._rows)), len(FEATURES)))
        self._places, self._scores, self._times = room, room[:, 0].copy(), room[:, 0].copy()
        used = len(self._rows)
        self._places[:used] = np.frombuffer(state["places"]).reshape(-1, len(FEATURES))
        self._scores[:used] = np.frombuffer(state["scores"])
        self._times[:used] = np.frombuffer(state["times"])
