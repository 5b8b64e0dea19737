"""The nearest sketches: exact, and in an order that nothing but the sketches decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.neighbours import centre_one, centred, nearest, similarities


def test_directions_are_from_the_centre_at_a_norm_of_127() -> None:
    centre = np.zeros(128, np.float32)
    mean = np.zeros((2, 128), np.float32)
    mean[0, 3], mean[1, :2] = 40.0, (3.0, -4.0)
    found = centred(mean, centre)
    assert found.dtype == np.int8
    assert found[0, 3] == 127
    assert found[1, :3].tolist() == [76, -102, 0]  # 127 · 3/5, 127 · -4/5
    assert centred(mean[:1], mean[0]).tolist() == [[0] * 128]  # no direction at the centre itself


def test_one_account_s_direction_is_what_all_get_together() -> None:
    rng = np.random.default_rng(2)
    first = rng.integers(-127, 128, 128).astype(np.int8)
    rest = rng.integers(-500, 500, 128).astype(np.int32)
    centre = rng.normal(size=128).astype(np.float32)
    out = np.empty(128, np.int8)
    centre_one(first, rest, 5, centre, out)
    mean = ((first + rest) / 5).astype(np.float32)
    assert out.tolist() == centred(mean[None, :], centre)[0].tolist()


def test_similarities_are_the_exact_dot_products_of_the_used_rows() -> None:
    rng = np.random.default_rng(1)
    sketches = rng.integers(-127, 128, (50, 128)).astype(np.int8)
    query = np.full(128, -127, np.int8)
    expected = sketches[:40].astype(np.int64) @ query.astype(np.int64)
    assert similarities(sketches, 40, query).tolist() == expected.tolist()


@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=40),
    st.integers(1, 25),
    st.data(),
)
def test_the_nearest_are_the_eligible_with_the_highest_similarity(
    dots: list[int], count: int, data: st.DataObject
) -> None:
    eligible = data.draw(st.lists(st.booleans(), min_size=len(dots), max_size=len(dots)))
    rows, cosines = nearest(np.array(dots, np.int32), count, np.array(eligible))
    by_hand = sorted((r for r in range(len(dots)) if eligible[r]), key=lambda r: (-dots[r], r))
    assert rows.tolist() == by_hand[:count]
    assert cosines == pytest.approx([dots[r] / 127**2 for r in by_hand[:count]])
