"""The substitute's gradient, against the slope that differences show."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from detector.attack.substitute import Substitute


@pytest.mark.parametrize("classes", [2, 3])
def test_the_substitutes_gradient_is_its_slope(classes: int) -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(60, 4))
    y = np.argmax(x[:, :classes], axis=1).astype(np.int64)
    substitute = Substitute(x, y)
    step = 1e-5
    for d in range(4):
        ahead, behind = x.copy(), x.copy()
        ahead[:, d] += step
        behind[:, d] -= step
        rise = (substitute.logits(ahead, y) - substitute.logits(behind, y)) / (2 * step)
        assert_allclose(substitute.gradient(x, y)[:, d], rise, rtol=1e-3, atol=1e-5)


def test_one_class_has_no_slope_to_follow() -> None:
    x = np.ones((5, 3))
    assert Substitute(x, np.zeros(5)).gradient(x, np.zeros(5)).tolist() == x.tolist()
