"""What a thief asks. Each strategy is a generator: it yields inputs and is sent their labels.

What comes next depends on the labels of what was answered, never on when they came, so that a thief
who is held up asks what one before the bare model asks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detector.attack.copies import copy_of_rows
from detector.attack.substitute import Substitute
from detector.sample.authors import Harvester
from detector.sample.dice import Dice

__all__ = ["TEXT", "VECTOR", "Input", "Strategy", "text_strategy", "vector_strategy"]

Input: TypeAlias = str | list[float]
Strategy: TypeAlias = Generator[Sequence[Input], Sequence[str], None]
Matrix: TypeAlias = NDArray[np.float64]
Rng: TypeAlias = np.random.Generator

_BATCH: Final = 50
_POOL: Final = 2000  # candidates among which active learning picks its next batch
_STEP: Final = 0.1  # of a column's range: Papernot et al. 2017 step 0.1 in pixels of 0 to 1
# The sample's names for what its thieves ask.
TEXT: Final = {"instructions": "instruction", "reasoning": "reasoning", "templates": "wrapped"}


def text_strategy(name: str, seed: int) -> Strategy:
    """One of TEXT: synthetic instructions, chains of thought drawn out, a distiller's templates."""
    author = Harvester(TEXT[name], 0.0, Dice(seed, "attack", name))
    turn = 0
    while True:
        yield [author.write(turn + i) for i in range(_BATCH)]
        turn += _BATCH


def vector_strategy(name: str, seeds: Matrix, seed: int) -> Strategy:
    """One of VECTOR, from some ordinary rows.

    Args:
        name: of the strategy.
        seeds: float64 (n, d), rows such as customers send; their columns' ranges are the bounds.
        seed: everything follows from it.
    """
    return VECTOR[name](seeds, np.random.default_rng(seed))


def _shuffled(seeds: Matrix, rng: Rng) -> Strategy:
    """Knockoff Nets' random strategy (Orekondy et al. 2019) where there are no public inputs:
    every column is a real one, and they do not belong together."""
    while True:
        rows = rng.integers(len(seeds), size=(_BATCH, seeds.shape[1]))
        yield np.take_along_axis(seeds, rows, axis=0).tolist()


def _uniform(seeds: Matrix, rng: Rng) -> Strategy:
    """Anything within the ranges (Tramer et al. 2016)."""
    low, high = seeds.min(axis=0), seeds.max(axis=0)
    while True:
        yield rng.uniform(low, high, (_BATCH, seeds.shape[1])).tolist()


def _active(seeds: Matrix, rng: Rng) -> Strategy:
    """Margin sampling (Scheffer et al. 2001) with the copy, among rows between and near others."""
    known = seeds[rng.permutation(len(seeds))[:_BATCH]]
    labels = list((yield known.tolist()))
    while True:
        one, other = (known[rng.integers(len(known), size=_POOL)] for _ in range(2))
        weight = rng.uniform(0.0, 1.0, (_POOL, 1))
        noise = rng.normal(0.0, 0.1, one.shape) * (seeds.std(axis=0) + 1e-9)
        pool = weight * one + (1.0 - weight) * other + noise
        chances = np.sort(copy_of_rows(known, labels).predict_proba(pool), axis=1)
        margin = chances[:, -1] - (chances[:, -2] if chances.shape[1] > 1 else 0.0)
        # Of the least sure every other, at random: the very least sure are all alike.
        unsure = np.argsort(margin, kind="stable")[: 2 * _BATCH]
        asked = pool[rng.choice(unsure, _BATCH, replace=False)]
        labels += yield asked.tolist()
        known = np.concatenate([known, asked])


def _jbda(seeds: Matrix, rng: Rng) -> Strategy:
    """Jacobian-based dataset augmentation (Papernot et al. 2017), doubling in each round."""
    span = seeds.max(axis=0) - seeds.min(axis=0)
    x = seeds[rng.permutation(len(seeds))[: 2 * _BATCH]]
    labels = list((yield x.tolist()))
    side = 1.0
    while True:
        y = np.array(labels)
        step = side * _STEP * span * np.sign(Substitute(x, y).gradient(x, y))
        asked = (x + step)[rng.permutation(len(x))]
        labels += yield asked.tolist()
        x = np.concatenate([x, asked])
        side = -side


VECTOR: Final[dict[str, Callable[[Matrix, Rng], Strategy]]] = {
    "random": _shuffled,
    "uniform": _uniform,
    "active": _active,
    "jbda": _jbda,
}
