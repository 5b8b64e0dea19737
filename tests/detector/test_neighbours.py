"""The nearest directions: exact among few, nearly so among many, the same however they came."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector.neighbours import (
    CANDIDATES,
    EXACT_ROWS,
    NeighbourIndex,
    centred,
)

MANY = EXACT_ROWS + 1000


def crowd(rows: int, width: int = 128, groups: int = 40, seed: int = 0) -> NDArray[np.int8]:
    """Directions around `groups` others, at cosines of about .7."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(groups, width))
    means = middles[rng.integers(groups, size=rows)] + rng.normal(size=(rows, width))
    return centred(means.astype(np.float32), np.zeros(width, np.float32))


def by_hand(
    directions: NDArray[np.int8], query: NDArray[np.int8], eligible: NDArray[np.bool_]
) -> list[int]:
    dots = directions.astype(np.int64) @ query.astype(np.int64)
    return sorted(np.flatnonzero(eligible).tolist(), key=lambda r: (-dots[r], r))


def test_directions_are_from_the_centre_at_a_norm_of_127() -> None:
    centre = np.zeros(128, np.float32)
    mean = np.zeros((2, 128), np.float32)
    mean[0, 3], mean[1, :2] = 40.0, (3.0, -4.0)
    found = centred(mean, centre)
    assert found.dtype == np.int8
    assert found[0, 3] == 127
    assert found[1, :3].tolist() == [76, -102, 0]  # 127 · 3/5, 127 · -4/5
    assert centred(mean[:1], mean[0]).tolist() == [[0] * 128]  # no direction at the centre itself


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 25), st.integers(1, 40))
@settings(deadline=None)  # the first example compiles
def test_few_are_compared_one_by_one(seed: int, rows: int, count: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    directions = rng.integers(-2, 3, (rows, width)).astype(np.int8)  # with many equal ones
    eligible = rng.random(rows) < 0.7
    index = NeighbourIndex(width)
    index.put_all(directions)
    query = rng.integers(-127, 128, width).astype(np.int8)
    found, cosines = index.nearest(query, count, eligible)
    assert found.tolist() == by_hand(directions, query, eligible)[:count]
    dots = directions[found].astype(np.int64) @ query.astype(np.int64)
    assert cosines == pytest.approx(dots / 127**2)


def test_a_row_is_not_its_own_neighbour() -> None:
    for rows in (50, MANY):
        directions = crowd(rows)
        index = NeighbourIndex(128)
        index.put_all(directions)
        own, _ = index.nearest(7, 5)
        from_outside, cosines = index.nearest(directions[7], 6)
        assert from_outside.tolist() == [7, *own.tolist()]
        assert cosines[0] == pytest.approx(1.0, abs=0.02)
        assert np.array_equal(index[7], directions[7])


def test_of_many_nearly_all_the_nearest_are_found_with_exact_cosines() -> None:
    directions = crowd(20_000)
    index = NeighbourIndex(128)
    index.put_all(directions)
    everybody = np.ones(len(directions), np.bool_)
    hits = 0
    for row in range(0, 2000, 20):
        found, cosines = index.nearest(row, 20)
        expected = by_hand(directions, directions[row], everybody)
        hits += len({*found.tolist()} & {*expected[1:21]})
        dots = directions[found].astype(np.int64) @ directions[row].astype(np.int64)
        assert cosines == pytest.approx(dots / 127**2)
        assert np.all(np.diff(cosines) <= 0)
    assert hits >= 0.9 * 100 * 20


def test_among_many_only_the_eligible_are_found() -> None:
    directions = crowd(3 * EXACT_ROWS)
    index = NeighbourIndex(128)
    index.put_all(directions)
    most = np.arange(len(directions)) % 2 == 0
    found, _ = index.nearest(8, 20, most)
    assert len(found) == 20
    assert np.all(found % 2 == 0)
    assert 8 not in found
    few = np.arange(len(directions)) % 1000 == 0  # so few that they are all compared
    found, _ = index.nearest(8, 20, few)
    assert found.tolist() == by_hand(directions, directions[8], few)


def test_of_equals_the_lower_rows_are_found_however_many_there_are() -> None:
    index = NeighbourIndex(128)
    index.put_all(np.tile(crowd(1), (MANY, 1)))
    found, cosines = index.nearest(3, 20)
    assert found.tolist() == [0, 1, 2, *range(4, 21)]
    assert len({*cosines.tolist()}) == 1
    found, _ = index.nearest(3, CANDIDATES + 500)
    assert found.tolist() == [r for r in range(CANDIDATES + 501) if r != 3]


@given(st.integers(0, 2**32))
@settings(deadline=None)  # the first example compiles
def test_only_what_the_rows_are_now_counts(seed: int) -> None:
    """One by one, moved about and grown on the way, or all at once: the same is found."""
    rng = np.random.default_rng(seed)
    final = crowd(MANY if seed % 4 == 0 else 200, width=32, seed=seed)
    at_once, moved = NeighbourIndex(32, expected=len(final)), NeighbourIndex(32)
    at_once.put_all(final)
    for row in range(len(final)):
        moved.put(row, final[rng.integers(len(final))])
        if rng.random() < 0.01:
            moved.put_all(final[rng.integers(len(final), size=row + 1)])
    for row in rng.permutation(len(final)).tolist():
        moved.put(row, final[row])
    assert len(moved) == len(at_once) == len(final)
    for row in rng.integers(len(final), size=5).tolist():
        one, other = at_once.nearest(row, 10), moved.nearest(row, 10)
        assert one[0].tolist() == other[0].tolist()
        assert one[1].tolist() == other[1].tolist()


def test_rows_come_without_gaps() -> None:
    index = NeighbourIndex(4)
    row = np.ones(4, np.int8)
    for wrong in (1, -1):
        with pytest.raises(IndexError):
            index.put(wrong, row)
    index.put(0, row)
    with pytest.raises(IndexError):
        index.nearest(1, 1)
    with pytest.raises(ValueError, match="0 eligible flags for 1 rows"):
        index.nearest(0, 1, np.ones(0, np.bool_))


def test_nothing_is_nearest_where_nobody_is_eligible() -> None:
    index = NeighbourIndex(4)
    assert index.nearest(np.ones(4, np.int8), 3)[0].tolist() == []
    index.put(0, np.ones(4, np.int8))
    assert index.nearest(0, 3)[0].tolist() == []


def test_memory_is_the_rows() -> None:
    index = NeighbourIndex(128, expected=100_000)
    assert index.nbytes < 17e6


def test_cosines_are_the_exact_dot_products_of_the_rows() -> None:
    rng = np.random.default_rng(1)
    sketches = rng.integers(-127, 128, (50, 128)).astype(np.int8)
    query = np.full(128, -127, np.int8)
    index = NeighbourIndex(128)
    index.put_all(sketches[:40])
    rows, cosines = index.nearest(query, 40)
    expected = sketches[:40].astype(np.int64) @ query.astype(np.int64)
    assert sorted(rows.tolist()) == list(range(40))
    assert cosines.tolist() == [expected[r] / 127**2 for r in rows.tolist()]


@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=40),
    st.integers(1, 25),
    st.data(),
)
def test_the_nearest_are_the_eligible_with_the_highest_similarity(
    dots: list[int], count: int, data: st.DataObject
) -> None:
    eligible = data.draw(st.lists(st.booleans(), min_size=len(dots), max_size=len(dots)))
    index = NeighbourIndex(1)
    index.put_all(np.array(dots, np.int8)[:, None])
    rows, cosines = index.nearest(np.ones(1, np.int8), count, np.array(eligible))
    expected = sorted((r for r in range(len(dots)) if eligible[r]), key=lambda r: (-dots[r], r))
    assert rows.tolist() == expected[:count]
    assert cosines == pytest.approx([dots[r] / 127**2 for r in expected[:count]])
