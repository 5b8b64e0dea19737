"""Small neural networks as plain arrays: the same everywhere, and nothing in them can execute.

Several networks that were started differently are averaged. Each column first goes through a
piecewise linear map that makes it normally distributed among the training rows, so that what is
farther out than any of them counts as the farthest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["Networks", "Scale"]

_LAYERS: Final = ("w1", "b1", "w2", "b2", "w3", "b3")
_STEPS: Final = 16  # of the path along which shares are integrated


@njit(cache=True)
def _scaled(x, knots, levels, out):  # type: ignore[no-untyped-def]
    last = knots.shape[1] - 1
    for c in range(len(out)):
        value = x[c]
        # Counted, not bisected: fewer steps of many knots each, and no branch to mispredict.
        high = 0
        for k in range(last + 1):
            high += knots[c, k] <= value
        if high == 0:
            out[c] = levels[c, 0]
        elif high > last:
            out[c] = levels[c, last]
        else:
            low = high - 1
            part = (value - knots[c, low]) / (knots[c, high] - knots[c, low])
            out[c] = levels[c, low] + part * (levels[c, high] - levels[c, low])


@njit(cache=True)
def _layer(values, weight, bias, some, out):  # type: ignore[no-untyped-def]
    # Rectified. `some` is room for the inputs that are not 0. Four of them at a time, so that sums
    # are seldom stored; each sum adds its inputs up in order, so that no machine's width of
    # vectors changes a decision.
    count = 0
    for i in range(len(values)):
        some[count] = i
        count += values[i] != 0.0
    for j in range(len(bias)):
        out[j] = bias[j]
    whole = count - count % 4
    for k in range(0, whole, 4):
        a, b, c, d = some[k], some[k + 1], some[k + 2], some[k + 3]
        va, vb, vc, vd = values[a], values[b], values[c], values[d]
        wa, wb, wc, wd = weight[a], weight[b], weight[c], weight[d]
        for j in range(len(bias)):
            out[j] = (((out[j] + va * wa[j]) + vb * wb[j]) + vc * wc[j]) + vd * wd[j]
    for k in range(whole, count):
        value, weights = values[some[k]], weight[some[k]]
        for j in range(len(bias)):
            out[j] += value * weights[j]
    for j in range(len(bias)):
        out[j] = max(out[j], 0.0)


@njit(cache=True)
def _forward(z, w1, b1, w2, b2, w3, b3):  # type: ignore[no-untyped-def]
    total = 0.0
    first, second = np.empty(b1.shape[1], np.float32), np.empty(b2.shape[1], np.float32)
    some = np.empty(max(len(z), len(first)), np.uint32)
    for m in range(len(b3)):
        _layer(z, w1[m], b1[m], some, first)
        _layer(first, w2[m], b2[m], some, second)
        odds = np.float64(b3[m])
        for j in range(len(second)):
            odds += second[j] * w3[m, j]
        total += odds
    return total / len(b3)


@njit(cache=True)
def _log_odds(x, knots, levels, w1, b1, w2, b2, w3, b3):  # type: ignore[no-untyped-def]
    z = np.empty(len(knots), np.float32)
    _scaled(x, knots, levels, z)
    return _forward(z, w1, b1, w2, b2, w3, b3)


@njit(cache=True)
def _slopes(z, w1, b1, w2, b2, w3, back2, back1, out):  # type: ignore[no-untyped-def]
    # The gradient of the mean log-odds at `z` is added to `out`; `back` are weights transposed.
    first, second = np.empty(b1.shape[1], np.float32), np.empty(b2.shape[1], np.float32)
    slope = np.empty(b1.shape[1])
    some = np.empty(max(len(z), len(first)), np.uint32)
    for m in range(len(w3)):
        _layer(z, w1[m], b1[m], some, first)
        _layer(first, w2[m], b2[m], some, second)
        slope[:] = 0.0
        for j in range(len(second)):
            if second[j] > 0.0:
                for i in range(len(first)):
                    slope[i] += back2[m, j, i] * w3[m, j]
        for i in range(len(first)):
            if first[i] > 0.0:
                for c in range(len(z)):
                    out[c] += back1[m, i, c] * slope[i] / len(w3)


@njit(cache=True)
def _integrated(x, knots, levels, usual, w1, b1, w2, b2, w3, back2, back1, steps):  # type: ignore[no-untyped-def]
    z = np.empty(len(knots), np.float32)
    _scaled(x, knots, levels, z)
    away = z.astype(np.float64) - usual
    out = np.zeros(len(z))
    for k in range(steps):
        at = (usual + away * ((k + 0.5) / steps)).astype(np.float32)
        _slopes(at, w1, b1, w2, b2, w3, back2, back1, out)
    return out * away / steps


class Scale:
    """The map of each column, made from training rows.

    Attributes:
        knots: float64 (C, K), ascending values of each column, then infinity where they are fewer.
        levels: float64 (C, K), what they become, the last one repeated there.
    """

    def __init__(self, knots: NDArray[np.float64], levels: NDArray[np.float64]) -> None:
        self.knots = np.ascontiguousarray(knots, dtype=np.float64)
        self.levels = np.ascontiguousarray(levels, dtype=np.float64)

    @classmethod
    def of(cls, x: NDArray[Any], points: int = 96) -> Scale:
        """From training rows, (N, C): `points` quantiles of each column, to normal quantiles."""
        from scipy.stats import norm

        at = np.linspace(0.0, 1.0, points)
        normal = norm.ppf(np.clip(at, 1.0 / (2 * points), 1.0 - 1.0 / (2 * points)))
        knots, levels = np.empty((x.shape[1], points)), np.empty((x.shape[1], points))
        for c in range(x.shape[1]):
            values, place = np.unique(np.quantile(x[:, c], at), return_inverse=True)
            # A value that many rows have becomes the middle of their levels.
            middle = np.bincount(place, normal) / np.bincount(place)
            knots[c] = np.pad(values, (0, points - len(values)), constant_values=np.inf)
            levels[c] = np.pad(middle, (0, points - len(values)), mode="edge")
        return cls(knots, levels)

    def all(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """The map of many rows, (N, C), without NaN, to float32 (N, C)."""
        out = np.empty(x.shape, np.float32)
        for c in range(x.shape[1]):
            known = np.isfinite(self.knots[c])
            out[:, c] = np.interp(x[:, c], self.knots[c][known], self.levels[c][known])
        return out


class Networks:
    """Perceptrons of two hidden layers of rectified units: their log-odds are averaged.

    Arrays of M networks: `knots` and `levels` of a `Scale`, `usual` (C,), the mapped row that
    shares are measured from, weights `w1` (M, C, H), `w2` (M, H, G), `w3` (M, G), and biases `b1`
    (M, H), `b2` (M, G), `b3` (M,).

    Raises:
        ValueError: they do not fit together.
    """

    ARRAYS: Final = ("knots", "levels", "usual", *_LAYERS)

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.scale = Scale(arrays["knots"], arrays["levels"])
        self.usual = np.ascontiguousarray(arrays["usual"], dtype=np.float32)
        w1, b1, w2, b2, w3, b3 = (
            np.ascontiguousarray(arrays[name], dtype=np.float32) for name in _LAYERS
        )
        knots = self.scale.knots.shape
        count, columns, hidden = w1.shape if w1.ndim == 3 else (0, 0, 0)
        shapes = (
            (knots, (columns, knots[-1])),
            (self.scale.levels.shape, knots),
            (self.usual.shape, (columns,)),
            (w2.shape, (count, hidden, b2.shape[-1])),
            (w3.shape, b2.shape),
            (b1.shape, (count, hidden)),
            (b2.shape, (count, b2.shape[-1])),
            (b3.shape, (count,)),
        )
        # A damaged file must not read outside the arrays.
        if any(found != wanted for found, wanted in shapes) or not count or knots[-1] < 2:
            raise ValueError("the layers of the networks do not fit together")
        steps = self.scale.knots
        # Nor divide by nothing between two knots.
        if not np.isfinite(steps[:, 0]).all() or not (steps[:, 1:] >= steps[:, :-1]).all():
            raise ValueError("the knots of the networks are not in order")
        self._back = tuple(np.ascontiguousarray(w.transpose(0, 2, 1)) for w in (w2, w1))
        self._layers = (w1, b1, w2, b2, w3, b3)

    @classmethod
    def of(cls, scale: Scale, usual: NDArray[Any], models: Sequence[Any]) -> Networks:
        """Fitted binary `sklearn.neural_network.MLPClassifier`s of two hidden layers each.

        Args:
            scale: of the rows that they were fitted to.
            usual: (C,), mapped.
            models: one at least.
        """
        weights = [np.stack([model.coefs_[i] for model in models]) for i in range(3)]
        biases = [np.stack([model.intercepts_[i] for model in models]) for i in range(3)]
        weights[2], biases[2] = weights[2][:, :, 0], biases[2][:, 0]
        layers = [array for pair in zip(weights, biases, strict=True) for array in pair]
        of_scale = {"knots": scale.knots, "levels": scale.levels}
        return cls({**of_scale, "usual": usual, **dict(zip(_LAYERS, layers, strict=True))})

    @property
    def width(self) -> int:
        """Columns that the networks look at."""
        return len(self.usual)

    @cached_property
    def _base(self) -> float:
        return float(_forward(self.usual, *self._layers))

    def log_odds(self, x: NDArray[np.float64]) -> float:
        """Mean log-odds of one row, float64 (C,), without NaN."""
        return float(_log_odds(x, self.scale.knots, self.scale.levels, *self._layers))

    def all_log_odds(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Mean log-odds of many rows, (N, C), to float64 (N,): fast, and equal but for rounding."""
        w1, b1, w2, b2, w3, b3 = self._layers
        z = self.scale.all(x)
        total = np.zeros(len(z))
        for m in range(len(b3)):
            hidden = np.maximum(np.maximum(z @ w1[m] + b1[m], 0.0) @ w2[m] + b2[m], 0.0)
            total += hidden @ w3[m] + b3[m]
        return total / len(b3)

    def shares(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each column adds to the log-odds of the usual row, float64 (C,).

        Integrated gradients (Sundararajan, Taly and Yan 2017) on the line from the usual row. What
        the steps of the sum leave is spread over the columns as they are.
        """
        shares: NDArray[np.float64] = _integrated(
            x,
            *(self.scale.knots, self.scale.levels, self.usual),
            *self._layers[:-1],
            *self._back,
            _STEPS,
        )
        left = self.log_odds(x) - self._base - float(shares.sum())
        size = np.abs(shares)
        total = float(size.sum())
        return shares + left * size / total if total > 0.0 else shares

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the constructor takes. Weights are float32: that is what was learned."""
        return {
            "knots": self.scale.knots,
            "levels": self.scale.levels,
            "usual": self.usual,
            **dict(zip(_LAYERS, self._layers, strict=True)),
        }
