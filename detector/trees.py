"""Boosted trees as plain arrays: evaluated the same everywhere, and nothing in them can execute.

Trees are not walked. Each has a bit a leaf, and each split that sends a row to the right clears
those of its left side; the lowest that is left is the row's leaf (QuickScorer, Lucchese et al.
2015). So the splits of a feature, by threshold, are read in order up to the row's value, for all
trees at once; marks on the way say what is left so far, so that most need not be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["Trees"]

_NAMES: Final = ("feature", "threshold", "left", "right", "value", "root")
_MOST_LEAVES: Final = 32  # of one tree
_MOST_COLUMNS: Final = 4096  # more would be a damaged file, which must not take all memory
_ALL_LEAVES: Final = np.uint32(0xFFFFFFFF)
# The lowest bit of a number, times this, has its place in the upper five bits (Leiserson, Prokop
# and Randall 1998).
_DE_BRUIJN: Final = 0x077CB531
_PLACES: Final = np.zeros(32, np.int64)
for _place in range(32):
    _PLACES[((_DE_BRUIJN << _place) & 0xFFFFFFFF) >> 27] = _place


@njit(cache=True)
def _log_odds(x, bias, start, threshold, tree, kept, mark_start, marks, every, values):  # type: ignore[no-untyped-def]
    alive = np.full(len(values), _ALL_LEAVES)
    for c in range(len(start) - 1):
        i, end, mark = start[c], start[c + 1], mark_start[c]
        while mark < mark_start[c + 1] and x[c] > threshold[i + every - 1]:
            i += every
            mark += 1
        if mark > mark_start[c]:
            passed = marks[mark - 1]
            for t in range(len(alive)):
                alive[t] &= passed[t]
        while i < end and x[c] > threshold[i]:
            alive[tree[i]] &= kept[i]
            i += 1
    total = bias
    for t in range(len(values)):
        left = np.int64(alive[t])
        total += values[t, _PLACES[(((left & -left) * _DE_BRUIJN) & 0xFFFFFFFF) >> 27]]
    return total


@njit(cache=True)
def _placed(left, right, root):  # type: ignore[no-untyped-def]
    # Of each node: its tree, -1 for none, its leaves, and those of its tree to the left of it.
    nodes = len(left)
    tree, leaves, before = np.full(nodes, -1), np.ones(nodes, np.int64), np.zeros(nodes, np.int64)
    for node in range(nodes - 1, -1, -1):  # children follow their parent
        if left[node] >= 0:
            leaves[node] = leaves[left[node]] + leaves[right[node]]
    for t in range(len(root)):
        tree[root[t]] = t
    for node in range(nodes):
        if left[node] >= 0:
            tree[left[node]] = tree[right[node]] = tree[node]
            before[left[node]] = before[node]
            before[right[node]] = before[node] + leaves[left[node]]
    return tree, leaves, before


@njit(cache=True)
def _marked(start, tree, kept, every, trees):  # type: ignore[no-untyped-def]
    # What is left of all trees after each `every` splits of a feature, and each feature's first.
    features = len(start) - 1
    mark_start = np.zeros(features + 1, np.int64)
    for c in range(features):
        mark_start[c + 1] = mark_start[c] + (start[c + 1] - start[c]) // every
    marks = np.full((mark_start[-1], trees), _ALL_LEAVES)
    for c in range(features):
        for mark in range(mark_start[c], mark_start[c + 1]):
            if mark > mark_start[c]:
                marks[mark] = marks[mark - 1]
            first = start[c] + (mark - mark_start[c]) * every
            for i in range(first, first + every):
                marks[mark, tree[i]] &= kept[i]
    return mark_start, marks


@njit(cache=True)
def _shares(x, feature, threshold, left, right, value, root, out):  # type: ignore[no-untyped-def]
    for t in range(len(root)):
        node = root[t]
        while left[node] >= 0:
            child = left[node] if x[feature[node]] <= threshold[node] else right[node]
            out[feature[node]] += value[child] - value[node]
            node = child


class Trees:
    """A gradient-boosted classifier: its log-odds are `bias` and one leaf a tree, added up.

    Arrays over all nodes: `feature` and `threshold` of a split (x <= threshold goes left), `left`
    and `right` (-1 for a leaf), `value` (of a leaf; of a split, the mean over the training rows
    that reached it), `root` the first node of each tree.

    Raises:
        ValueError: they do not fit together, or a tree has more than 32 leaves.
    """

    def __init__(self, bias: float, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.bias = float(bias)
        self.feature = np.ascontiguousarray(arrays["feature"], dtype=np.int32)
        self.threshold = np.ascontiguousarray(arrays["threshold"], dtype=np.float64)
        self.left = np.ascontiguousarray(arrays["left"], dtype=np.int32)
        self.right = np.ascontiguousarray(arrays["right"], dtype=np.int32)
        self.value = np.ascontiguousarray(arrays["value"], dtype=np.float64)
        self.root = np.ascontiguousarray(arrays["root"], dtype=np.int32)
        nodes = len(self.feature)
        links = np.concatenate([self.left, self.right])
        ahead = (self.left > np.arange(nodes)) & (self.right > np.arange(nodes))
        # A damaged file must not read outside the arrays, nor walk in a circle.
        if (
            not nodes
            or any(len(a) != nodes for a in (self.threshold, self.left, self.right, self.value))
            or links.max() >= nodes
            or not (ahead | (self.left == -1)).all()
            or not 0 <= self.feature.min() <= self.feature.max() < _MOST_COLUMNS
            or len(self.root) == 0
            or not 0 <= self.root.min() <= self.root.max() < nodes
            # Nodes with two parents could make any number of leaves.
            or np.bincount(np.concatenate([links[links >= 0], self.root])).max() > 1
        ):
            raise ValueError("the nodes of the trees do not fit together")
        self._scored = self._sorted()

    @classmethod
    def silent(cls) -> Trees:
        """One that has learned nothing: its log-odds are 0."""
        arrays: dict[str, NDArray[Any]] = {name: np.zeros(1) for name in _NAMES}
        return cls(0.0, {**arrays, "left": np.full(1, -1), "right": np.full(1, -1)})

    @property
    def width(self) -> int:
        """Columns that the trees look at, at least."""
        return int(self.feature.max()) + 1

    def log_odds(self, x: NDArray[np.float64]) -> float:
        """Log-odds of one row, float64 (F,), without NaN."""
        return float(_log_odds(x, self.bias, *self._scored))

    def shares(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each feature adds to the log-odds of a row, float64 (F,).

        With the mean log-odds of the training rows they add up to the log-odds: the change of a
        node's mean along the path goes to the feature of its split (Saabas 2014).
        """
        out = np.zeros(len(x))
        _shares(x, *self._arrays(), out)
        return out

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the constructor takes, `bias` apart."""
        return dict(zip(_NAMES, self._arrays(), strict=True))

    @classmethod
    def of(cls, model: Any) -> Trees:
        """The trees of a fitted binary `sklearn.ensemble.HistGradientBoostingClassifier`."""
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _NAMES}
        start = 0
        for (predictor,) in model._predictors:
            nodes = predictor.nodes
            leaf = nodes["is_leaf"].astype(bool)
            parts["feature"].append(np.where(leaf, 0, nodes["feature_idx"]))
            parts["threshold"].append(np.where(leaf, 0.0, nodes["num_threshold"]))
            parts["left"].append(np.where(leaf, -1, nodes["left"].astype(np.int64) + start))
            parts["right"].append(np.where(leaf, -1, nodes["right"].astype(np.int64) + start))
            value = np.where(leaf, nodes["value"], 0.0)
            for i in range(len(nodes) - 1, -1, -1):  # children follow their parent
                if not leaf[i]:
                    low, high = nodes["left"][i], nodes["right"][i]
                    weight = nodes["count"][low] / (nodes["count"][low] + nodes["count"][high])
                    value[i] = weight * value[low] + (1.0 - weight) * value[high]
            parts["value"].append(value)
            parts["root"].append(np.array([start]))
            start += len(nodes)
        joined = {name: np.concatenate(part) for name, part in parts.items()}
        return cls(float(np.ravel(model._baseline_prediction)[0]), joined)

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return (self.feature, self.threshold, self.left, self.right, self.value, self.root)

    def _sorted(self) -> tuple[Any, ...]:
        """The splits by feature and threshold, and the leaves by tree: what `_log_odds` takes."""
        tree, leaves, before = _placed(self.left, self.right, self.root)
        if leaves[self.root].max() > _MOST_LEAVES:
            raise ValueError(f"a tree has more than {_MOST_LEAVES} leaves")
        inner = np.flatnonzero((self.left >= 0) & (tree >= 0))
        inner = inner[np.lexsort((self.threshold[inner], self.feature[inner]))]
        start = np.searchsorted(self.feature[inner], np.arange(self.width + 1))
        cleared = ((1 << leaves[self.left[inner]]) - 1) << before[inner]
        kept = (int(_ALL_LEAVES) - cleared).astype(np.uint32)
        # Reading a mark costs as much as an eighth as many splits; more would take more memory.
        every = max(len(self.root) // 8, 1)
        marks = _marked(start, tree[inner], kept, every, len(self.root))
        values = np.zeros((len(self.root), _MOST_LEAVES))
        outer = np.flatnonzero((self.left < 0) & (tree >= 0))
        values[tree[outer], before[outer]] = self.value[outer]
        return (
            start,
            self.threshold[inner],
            tree[inner].astype(np.uint32),
            kept,
            *marks,
            every,
            values,
        )
