"""The network that Jacobian-based augmentation differentiates in the victim's place."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Substitute"]

Matrix = NDArray[np.float64]
Labels = NDArray[Any]


class Substitute:
    """A network of one hidden layer whose gradient is known (Papernot et al. 2017).

    Args:
        x: float64 (n, d), what was asked.
        y: (n,), what was answered.
    """

    def __init__(self, x: Matrix, y: Labels) -> None:
        from sklearn.neural_network import MLPClassifier

        self._mean, self._scale = x.mean(axis=0), x.std(axis=0) + 1e-9
        self._labels = np.unique(y)
        self._network: Any = None
        if len(self._labels) > 1:
            self._network = MLPClassifier((48,), max_iter=60, tol=1e-3, random_state=0)
            with warnings.catch_warnings():
                # Iterations are bounded on purpose, and a batch may be larger than what was
                # answered.
                warnings.simplefilter("ignore", UserWarning)
                self._network.fit(self._scaled(x), y)

    def logits(self, x: Matrix, y: Labels) -> Matrix:
        """The output for the row's label before the last activation, (n,)."""
        if self._network is None:
            return np.zeros(len(x))
        (first, second), (inner, outer) = self._network.coefs_, self._network.intercepts_
        hidden = np.maximum(self._scaled(x) @ first + inner, 0.0)  # ReLU
        one = second.shape[1] == 1
        bias = outer[0] * self._side(y) if one else outer[np.searchsorted(self._labels, y)]
        found: Matrix = (hidden * self._toward(second, y)).sum(axis=1) + bias
        return found

    def gradient(self, x: Matrix, y: Labels) -> Matrix:
        """d logit of the row's label / d x, (n, d)."""
        if self._network is None:
            return np.ones_like(x)
        (first, second), (inner, _) = self._network.coefs_, self._network.intercepts_
        on = (self._scaled(x) @ first + inner) > 0.0
        slope: Matrix = ((on * self._toward(second, y)) @ first.T) / self._scale
        return slope

    def _toward(self, second: Matrix, y: Labels) -> Matrix:
        """Each row's weights from the hidden layer to the output for its label."""
        if second.shape[1] == 1:  # two classes have one output, that of the second
            return self._side(y)[:, None] * second[:, 0]
        toward: Matrix = second.T[np.searchsorted(self._labels, y)]
        return toward

    def _side(self, y: Labels) -> Matrix:
        return np.where(y == self._labels[1], 1.0, -1.0)

    def _scaled(self, x: Matrix) -> Matrix:
        scaled: Matrix = (x - self._mean) / self._scale
        return scaled
