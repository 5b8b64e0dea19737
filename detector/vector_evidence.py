"""Evidence about accounts that send vectors: one population a model, one history an account."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.blocks import Block
from detector.vector_alike import Alike, squashed
from detector.vector_kernels import FEATURES
from detector.vector_model import VectorModel, account_inputs
from detector.vectors import VectorPopulation

__all__ = ["VectorEvidence"]

Floats = NDArray[np.float64]

_SCORES_KEPT: Final = 512


class _History(msgspec.Struct):
    """One account's block scores since its evidence began, and what they amount to."""

    start: float
    events_before: int
    scores: list[float]
    answered: list[bool]  # of each of these blocks: whether its answers are known
    first: bool = False  # whether scores[0] is of the first block, which revisions replace
    evidence: float = -math.inf
    suspected: bool = False
    signals: list[tuple[str, float, float, float, float, str]] = []
    best: float = -math.inf
    # Sum over blocks of squashed standardised features; of the first block, which revisions
    # replace, apart.
    total: list[float] = []
    first_total: list[float] = []
    blocks: int = 0


class VectorEvidence:
    """The accounts of one vector population.

    Args:
        dims: of its vectors.
        model: what was learned elsewhere.
        restart_s: seconds after which an account's evidence restarts.
        whole_weeks: `evidence` is of each account's last whole week, where there was one.
    """

    def __init__(
        self, dims: int, model: VectorModel, restart_s: float, *, whole_weeks: bool = False
    ) -> None:
        self._model = model
        self._restart_s = restart_s
        self.population = VectorPopulation(dims, model)
        self._histories: dict[str, _History] = {}
        self._alike = Alike()
        # Account → evidence of its last whole week; not stored, as it is of use in one pass only.
        self._weeks: dict[str, float] | None = {} if whole_weeks else None

    @property
    def evidence(self) -> list[float]:
        """Highest evidence in a week of every account with a scored block."""
        now = {name: h.evidence for name, h in self._histories.items() if h.scores}
        return list((now if self._weeks is None else now | self._weeks).values())

    def take(self, block: Block) -> float | None:
        """Judge a block: its log-odds, or None when it cannot be said. The evidence moves."""
        history = self._histories.get(block.account)
        if history is None:
            history = _History(block.first_ts, block.events - block.n, [], [])
            self._histories[block.account] = history
        elif block.time >= history.start + self._restart_s:
            weeks = (block.time - history.start) // self._restart_s
            if self._weeks is not None and history.scores:
                self._weeks[block.account] = history.evidence
            start = history.start + weeks * self._restart_s
            history = _History(start, block.events - block.n, [], [])
            self._histories[block.account] = history
        score = self.population.score(block)
        standard = self.population.standardise(block)
        if score is not None and standard is not None:
            place = squashed(standard)
            answered = self.population.labelled(block)
            if block.index == 0 and history.first:
                history.scores[0], history.answered[0] = score, answered
            else:
                history.first = history.first or (block.index == 0 and not history.scores)
                history.scores.append(score)
                history.answered.append(answered)
                del history.scores[:-_SCORES_KEPT], history.answered[:-_SCORES_KEPT]
                history.blocks += 1
            if block.index == 0:
                history.first_total = place.tolist()
            else:
                total = place if not history.total else place + np.array(history.total)
                history.total = total.tolist()
            mean = math.fsum(history.scores) / len(history.scores)
            lies = self._place(history)
            self._alike.put(block.account, lies, mean, block.time)
            inputs = account_inputs(
                history.scores,
                block.events - history.events_before,
                sum(history.answered) / len(history.answered),
                lies,
            )
            odds = self._model.account_log_odds(inputs, self._alike.around(block.account))
            history.evidence = max(history.evidence, odds)
            if score > history.best:
                history.best = score
                history.signals = self.population.signals(block)
        return score

    @staticmethod
    def _place(history: _History) -> Floats:
        """Mean over the account's blocks (F,)."""
        total = np.zeros(len(FEATURES))
        for part in (history.first_total, history.total):
            if part:
                total += np.array(part)
        return total / history.blocks

    def learn(self, block: Block) -> None:
        """Take the block of an unsuspected account into the population, and note any."""
        if not self._histories[block.account].suspected:
            self.population.observe(block)
        self.population.remember(block)

    def suspect(self, account: str) -> None:
        """From now on the account says nothing about what customers are like."""
        history = self._histories[account]
        if not history.suspected:
            history.suspected = True
            self.population.trim([account])

    def of(self, account: str) -> float:
        """The account's evidence, log-odds; -inf without."""
        return self._histories[account].evidence

    def signals(self, account: str) -> list[tuple[str, float, float, float, float, str]]:
        """The strongest signals of its worst block: see `VectorPopulation.signals`."""
        return self._histories[account].signals

    def export(self) -> dict[str, Any]:
        """Everything, as builtins."""
        return {
            "population": self.population.export(),
            "alike": self._alike.export(),
            "histories": {name: msgspec.to_builtins(h) for name, h in self._histories.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take in what `export` gave."""
        self.population = VectorPopulation.restore(state["population"], self._model)
        self._alike.restore(state["alike"])
        self._histories = {
            name: msgspec.convert(history, _History) for name, history in state["histories"].items()
        }

    def start_population(self, state: dict[str, Any]) -> None:
        """Begin with a baseline's population instead of none."""
        self.population = VectorPopulation.restore(state, self._model)
