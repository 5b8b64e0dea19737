"""Baselines that are fitted to customers first; see `baselines.py` for what a score means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.baselines import Detector, Traffic
from features import NAMES

__all__ = ["HalfSpaceTrees", "IsolationForest", "TenSignals", "modified_z"]

Floats = NDArray[np.float64]

_FITTED_BLOCKS: Final = 20_000


def _blocks(traffic: Traffic) -> tuple[list[str], Floats]:
    """Accounts and features of the week's whole blocks of text, in the order of time."""
    found = [
        block
        for blocks in traffic.week.partitions
        for block in blocks
        if block.kind == "text" and block.revision == 2
    ]
    found.sort(key=lambda block: (block.time, block.id))
    joined = b"".join(block.features for block in found)
    matrix = np.frombuffer(joined, np.float32).reshape(len(found), len(NAMES))
    return [block.account for block in found], matrix.astype(np.float64)


def _worst(traffic: Traffic, accounts: Iterable[str], scores: Iterable[float]) -> dict[str, float]:
    worst = dict.fromkeys(traffic.week.labels, -math.inf)
    for account, score in zip(accounts, scores, strict=True):
        worst[account] = max(worst[account], float(score))
    return worst


class IsolationForest(Detector):
    """Isolation forest (Liu, Ting and Zhou 2008) on all block features, fitted to customers."""

    name = "isolation forest"
    reads = "text"

    def __init__(self) -> None:
        from sklearn.ensemble import IsolationForest as Forest

        self._forest: Any = Forest(n_estimators=200, random_state=0, n_jobs=1)

    def fit(self, customers: Sequence[Traffic]) -> None:
        """Fit to at most 20,000 blocks."""
        x = np.concatenate([_blocks(traffic)[1] for traffic in customers])
        step = max(1, math.ceil(len(x) / _FITTED_BLOCKS))
        self._forest.fit(x[::step])

    def scores(self, traffic: Traffic) -> dict[str, float]:
        """The anomaly score 2^(-E[h]/c) of the worst block."""
        accounts, x = _blocks(traffic)
        return _worst(traffic, accounts, -self._forest.score_samples(x))


_SIGNALS: Final = (
    "timing.gap_cv",
    "timing.gap_entropy",
    "timing.bowley",
    "timing.lattice",
    "entropy.bytes",
    "entropy.length",
    "entropy.unique_words",
    "coverage.self_similarity",
    "coverage.distinct_texts",
    "clustering.top_head",
)
_MAD_TO_SIGMA: Final = 0.6745


def modified_z(x: Floats, middle: Floats, mad: Floats) -> Floats:
    """The modified z-score 0.6745·|x - median|/MAD (Iglewicz and Hoaglin 1993).

    Where the MAD is 0 their second form serves: |x - median| over 1.253314 times the mean absolute
    deviation, which the caller passes as MAD·0.6745.
    """
    return _MAD_TO_SIGMA * np.abs(x - middle) / mad


class TenSignals(Detector):
    """A rule as operations write it: ten signals, 3.5 sigma each, two votes make an alarm.

    An account's score is the second largest of a block's ten modified z-scores: at 3.5 it is the
    rule, and its threshold is what is calibrated.
    """

    name = "ten signals, two votes"
    reads = "text"

    def fit(self, customers: Sequence[Traffic]) -> None:
        """Medians and deviations of customers' blocks."""
        x = self._signals(np.concatenate([_blocks(traffic)[1] for traffic in customers]))
        self._middle = np.median(x, axis=0)
        far = np.abs(x - self._middle)
        mad = np.median(far, axis=0)
        mean = 1.253314 * _MAD_TO_SIGMA * far.mean(axis=0)
        self._mad = np.maximum(np.where(mad > 0, mad, mean), 1e-9)

    def published(self, rate: float) -> float | None:
        """Three and a half sigma, whatever comes of it."""
        return 3.5

    def scores(self, traffic: Traffic) -> dict[str, float]:
        """The second largest modified z-score of the worst block."""
        accounts, x = _blocks(traffic)
        z = modified_z(self._signals(x), self._middle, self._mad)
        return _worst(traffic, accounts, np.sort(z, axis=1)[:, -2])

    def _signals(self, x: Floats) -> Floats:
        return x[:, [NAMES.index(name) for name in _SIGNALS]]


class HalfSpaceTrees(Detector):
    """Half-Space Trees (Tan, Ting and Liu 2011) by River, on block features scaled to [0, 1].

    25 trees of height 8, windows of 250 blocks; scores each block before learning it, as a stream
    detector runs. It has seen customers' weeks before the one that it is asked about.
    """

    name = "Half-Space Trees"
    reads = "text"

    def fit(self, customers: Sequence[Traffic]) -> None:
        """Learn the customers' weeks as a stream."""
        from river.anomaly import HalfSpaceTrees as Trees

        x = np.concatenate([_blocks(traffic)[1] for traffic in customers])
        self._low, self._high = np.quantile(x, (0.001, 0.999), axis=0)
        trees: Any = Trees(n_trees=25, height=8, window_size=250, seed=0)
        step = max(1, math.ceil(len(x) / _FITTED_BLOCKS))
        for row in self._scaled(x[::step]):
            trees.learn_one(row)
        self._trees = trees

    def scores(self, traffic: Traffic) -> dict[str, float]:
        """The score of the worst block."""
        from copy import deepcopy

        trees = deepcopy(self._trees)
        accounts, x = _blocks(traffic)
        scored = []
        for row in self._scaled(x):
            scored.append(trees.score_one(row))
            trees.learn_one(row)
        return _worst(traffic, accounts, scored)

    def _scaled(self, x: Floats) -> list[dict[str, float]]:
        width = np.maximum(self._high - self._low, 1e-9)
        scaled = np.clip((x - self._low) / width, 0.0, 1.0)
        return [dict(zip(NAMES, row, strict=True)) for row in scaled.tolist()]
