"""Boosted trees as plain arrays: evaluated the same everywhere, and nothing in them can execute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["Trees"]

_NAMES: Final = ("feature", "threshold", "left", "right", "value", "root")


@njit(cache=True)
def _packed(feature, threshold, left, right, value, root):  # type: ignore[no-untyped-def]
    # Trees node by node with siblings side by side: a step is `child + (x > threshold)`. A leaf is
    # its own child, so that walking on changes nothing and trees can be walked several at once.
    nodes = len(feature)
    features = np.zeros(nodes, np.int32)
    thresholds = np.full(nodes, np.inf)
    children = np.zeros(nodes, np.int32)
    values = np.zeros(nodes)
    roots = np.zeros(len(root), np.int32)
    depths = np.zeros(len(root), np.int32)
    origin = np.zeros(nodes, np.int32)
    depth = np.zeros(nodes, np.int32)
    end = 0
    for t in range(len(root)):
        if end == nodes:
            return False, features, thresholds, children, values, roots, depths
        at = end
        roots[t] = at
        origin[at] = root[t]
        depth[at] = 0
        end += 1
        while at < end:
            node = origin[at]
            values[at] = value[node]
            children[at] = at
            depths[t] = max(depths[t], depth[at])
            if left[node] >= 0:
                if end + 2 > nodes:
                    return False, features, thresholds, children, values, roots, depths
                features[at] = feature[node]
                thresholds[at] = threshold[node]
                children[at] = end
                origin[end], origin[end + 1] = left[node], right[node]
                depth[end] = depth[end + 1] = depth[at] + 1
                end += 2
            at += 1
    return True, features, thresholds, children, values, roots, depths


@njit(cache=True)
def _log_odds(x, bias, feature, threshold, child, value, root, depth):  # type: ignore[no-untyped-def]
    # Four trees at a time: their loads do not wait for one another. Leaves add up in order.
    total = bias
    t = 0
    while t + 4 <= len(root):
        a, b, c, d = root[t], root[t + 1], root[t + 2], root[t + 3]
        for _ in range(max(max(depth[t], depth[t + 1]), max(depth[t + 2], depth[t + 3]))):
            a = child[a] + (x[feature[a]] > threshold[a])
            b = child[b] + (x[feature[b]] > threshold[b])
            c = child[c] + (x[feature[c]] > threshold[c])
            d = child[d] + (x[feature[d]] > threshold[d])
        total += value[a]
        total += value[b]
        total += value[c]
        total += value[d]
        t += 4
    while t < len(root):
        a = root[t]
        for _ in range(depth[t]):
            a = child[a] + (x[feature[a]] > threshold[a])
        total += value[a]
        t += 1
    return total


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
            or self.feature.min() < 0
            or len(self.root) == 0
            or not 0 <= self.root.min() <= self.root.max() < nodes
        ):
            raise ValueError("the nodes of the trees do not fit together")
        whole, *self._walked = _packed(*self._arrays())
        if not whole:  # two parents have a child in common
            raise ValueError("the nodes of the trees do not fit together")

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
        return float(_log_odds(x, self.bias, *self._walked))

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
