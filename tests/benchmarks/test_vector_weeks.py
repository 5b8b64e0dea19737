"""What weeks of vector APIs are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.detection.generated import generated, images
from benchmarks.detection.sources import VectorSource


@pytest.mark.parametrize("make", [generated, images])
@pytest.mark.parametrize("seed", range(6))
def test_a_made_up_table_is_finite_and_has_a_class_for_every_row(
    make: Callable[[np.random.Generator, str], VectorSource], seed: int
) -> None:
    rows = make(np.random.default_rng(seed), "made-up").benign
    assert np.isfinite(rows.x).all()
    assert len(rows.x) == len(rows.y)
    assert len(np.unique(rows.y)) >= 2
    again = make(np.random.default_rng(seed), "made-up").benign
    assert np.array_equal(rows.x, again.x)
