"""Directions of accounts: two halves of equal weight, the same one by one and all at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector.directions import direct, direct_all
from detector.neighbours import centred

F = 7


_RECORD = np.dtype(
    [
        ("first_sketch", np.int8, (128,)),
        ("rest_sketch", np.int32, (128,)),
        ("sketches", np.int32),
        ("first_features", np.float32, (F,)),
        ("rest_features", np.float64, (F,)),
        ("firsts", np.int32),
    ],
    align=True,
)


def accounts(seed: int, count: int) -> NDArray[Any]:
    """Sums of sketches and features of accounts with one to five blocks."""
    rng = np.random.default_rng(seed)
    rest = rng.integers(0, 5, count).astype(np.int32)
    made = np.zeros(count, _RECORD)
    made["first_sketch"] = rng.integers(-127, 128, (count, 128))
    made["rest_sketch"] = rng.integers(-127, 128, (count, 128)) * rest[:, None]
    made["sketches"] = rest
    made["first_features"] = rng.normal(size=(count, F))
    made["rest_features"] = rng.normal(size=(count, F)) * rest[:, None]
    made["firsts"] = 1
    return made


CENTRE = np.random.default_rng(9).normal(size=128).astype(np.float32)
MIDDLE = np.linspace(-1.0, 1.0, F).astype(np.float32)
SCALE = np.linspace(0.5, 2.0, F).astype(np.float32)


def one(
    given: NDArray[Any],
    row: int,
    *,
    centre: NDArray[np.float32] = CENTRE,
    scale: NDArray[np.float32] = SCALE,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sketch direction and joint direction of one account, in memory that held something else."""
    sketch, joint = np.full(128, 77, np.int8), np.full(128 + F, 77, np.int8)
    direct(given, row, centre, MIDDLE, scale, sketch, joint)
    return sketch.astype(np.int64), joint.astype(np.int64)


def features_of(given: NDArray[Any], row: int) -> NDArray[np.float64]:
    """Mean features from the middle, in scales, none further than 3."""
    blocks = given["sketches"][row] + given["firsts"][row]
    mean = (given["first_features"][row] + given["rest_features"][row]) / blocks
    found: NDArray[np.float64] = np.clip((mean - MIDDLE) / SCALE, -3.0, 3.0)
    return found


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_a_direction_has_a_norm_of_127_and_two_equal_halves(seed: int) -> None:
    sketch, joint = one(accounts(seed, 1), 0)
    # Each of up to 135 entries is rounded by at most a half: √135 / 2 = 5.8 of norm.
    assert np.linalg.norm(sketch) == pytest.approx(127.0, abs=5.8)
    assert np.linalg.norm(joint) == pytest.approx(127.0, abs=5.8)
    for half in (joint[:128], joint[128:]):
        assert np.linalg.norm(half) == pytest.approx(127.0 / np.sqrt(2.0), abs=5.8)


def test_the_sketch_direction_is_the_mean_sketch_from_the_centre() -> None:
    given = accounts(1, 30)
    total = given["first_sketch"].astype(np.int64) + given["rest_sketch"]
    means = total / (given["sketches"] + 1)[:, None]
    expected = centred(means.astype(np.float32), CENTRE)
    for row in range(30):
        assert one(given, row)[0].tolist() == expected[row].tolist()


def test_the_halves_are_the_sketch_and_the_features_each_by_its_own_norm() -> None:
    given = accounts(2, 30)
    for row in range(30):
        total = given["first_sketch"][row].astype(np.int64) + given["rest_sketch"][row]
        away = (total / (given["sketches"][row] + 1)).astype(np.float32) - CENTRE.astype(np.float64)
        far = features_of(given, row)
        expected = [half / np.linalg.norm(half) * 127.0 / np.sqrt(2.0) for half in (away, far)]
        assert one(given, row)[1] == pytest.approx(np.concatenate(expected), abs=0.5 + 1e-6)


def test_a_cosine_of_two_is_the_mean_of_their_cosines_by_sketch_and_by_features() -> None:
    given = accounts(3, 20)
    for a in range(19):
        (sketch_a, joint_a), (sketch_b, joint_b) = one(given, a), one(given, a + 1)
        far_a, far_b = features_of(given, a), features_of(given, a + 1)
        by_sketch = float(sketch_a @ sketch_b) / 127**2
        by_features = float(far_a @ far_b) / float(np.linalg.norm(far_a) * np.linalg.norm(far_b))
        joint = float(joint_a @ joint_b) / 127**2
        assert joint == pytest.approx((by_sketch + by_features) / 2, abs=0.03)


def test_a_scale_of_0_leaves_a_feature_out() -> None:
    given = accounts(4, 10)
    scale = SCALE.copy()
    scale[[2, 5]] = 0.0
    for row in range(10):
        _, joint = one(given, row, scale=scale)
        changed = given.copy()
        changed["first_features"][row, [2, 5]] = 1e30
        assert joint[[128 + 2, 128 + 5]].tolist() == [0, 0]
        assert one(changed, row, scale=scale)[1].tolist() == joint.tolist()
        kept = np.delete(features_of(given, row), [2, 5])
        assert np.delete(joint[128:], [2, 5]) == pytest.approx(
            kept / np.linalg.norm(kept) * 127.0 / np.sqrt(2.0), abs=0.5 + 1e-6
        )


def test_far_features_say_no_more_than_three_scales() -> None:
    given = accounts(5, 1)
    given["sketches"][0] = 0
    given["rest_features"][0] = 0.0
    given["rest_sketch"][0] = 0
    found = []
    for away in (3.0, 30.0, 1e20):
        given["first_features"][0] = MIDDLE
        given["first_features"][0, 1] = MIDDLE[1] - SCALE[1]
        given["first_features"][0, 0] = MIDDLE[0] + np.float32(away) * SCALE[0]
        found.append(one(given, 0)[1].tolist())
    assert found[0] == found[1] == found[2]
    assert found[0][128] == round(127.0 / 2**0.5 * 3.0 / 10.0**0.5)
    assert found[0][129] == round(-127.0 / 2**0.5 * 1.0 / 10.0**0.5)


def test_who_is_at_the_centre_has_no_direction() -> None:
    given = accounts(6, 1)
    given["first_sketch"][0], given["rest_sketch"][0], given["sketches"][0] = 5, 0, 0
    given["first_features"][0], given["rest_features"][0] = MIDDLE, 0.0
    sketch, joint = one(given, 0, centre=np.full(128, 5.0, np.float32))
    assert not sketch.any()
    assert not joint.any()


@pytest.mark.parametrize("count", [0, 1, 50])
def test_all_at_once_is_one_by_one(count: int) -> None:
    given = accounts(7, count)
    sketches, joints = np.full((count, 128), 77, np.int8), np.full((count, 128 + F), 77, np.int8)
    direct_all(given, CENTRE, MIDDLE, SCALE, sketches, joints)
    for row in range(count):
        sketch, joint = one(given, row)
        assert sketches[row].tolist() == sketch.tolist()
        assert joints[row].tolist() == joint.tolist()
