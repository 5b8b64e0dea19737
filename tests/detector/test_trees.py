"""Trees give what scikit-learn gives, explain it, and are never read outside their arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from detector.trees import Trees
from tests.detector.small_models import staircase


@pytest.fixture(scope="module")
def data() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(1500, 6))
    y = (x[:, 0] * x[:, 1] + 0.5 * x[:, 4] + 0.3 * rng.normal(size=1500) > 0).astype(np.int64)
    return x, y


@pytest.fixture(scope="module")
def fitted(data: tuple[NDArray[np.float64], NDArray[np.int64]]) -> Any:
    model = HistGradientBoostingClassifier(max_leaf_nodes=8, max_iter=60, random_state=0)
    return model.fit(*data)


def test_log_odds_are_those_of_the_fitted_classifier(
    fitted: Any, data: tuple[NDArray[np.float64], NDArray[np.int64]]
) -> None:
    trees = Trees.of(fitted)
    found = [trees.log_odds(row) for row in data[0]]
    assert found == pytest.approx(fitted.decision_function(data[0]), abs=1e-9)


def test_a_row_on_a_threshold_goes_where_scikit_learn_sends_it(fitted: Any) -> None:
    trees = Trees.of(fitted)
    rows = []
    for node in np.flatnonzero(trees.left >= 0):
        row = np.zeros(6)
        row[trees.feature[node]] = trees.threshold[node]
        rows.append(row)
    found = [trees.log_odds(row) for row in rows]
    assert found == pytest.approx(fitted.decision_function(np.array(rows)), abs=1e-9)


def test_shares_add_up_to_the_distance_from_the_mean(
    fitted: Any, data: tuple[NDArray[np.float64], NDArray[np.int64]]
) -> None:
    trees = Trees.of(fitted)
    usual = trees.bias + float(trees.value[trees.root].sum())
    for row in data[0][:50]:
        assert usual + trees.shares(row).sum() == pytest.approx(trees.log_odds(row))
    # Of the training rows, each node's value being the mean of those that reached it.
    mean = np.mean([trees.log_odds(row) for row in data[0]])
    assert usual == pytest.approx(mean, abs=0.02)


def test_a_stump_can_be_recomputed_by_hand() -> None:
    trees = staircase(1, 0.0, 3.0, 1.0)
    assert [trees.log_odds(np.array([9.0, x])) for x in (-1.0, 0.0, 0.5, 2.0, 7.0)] == [
        0.0, 0.0, 1.0, 2.0, 3.0,
    ]  # fmt: skip
    assert trees.shares(np.array([9.0, 1.5])).tolist() == [0.0, 2.0]
    assert trees.width == 2


def test_arrays_come_back(fitted: Any, data: tuple[NDArray[np.float64], Any]) -> None:
    trees = Trees.of(fitted)
    again = Trees(trees.bias, trees.arrays())
    assert [again.log_odds(row) for row in data[0][:20]] == [
        trees.log_odds(row) for row in data[0][:20]
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("left", np.array([3, -1, -1])),  # outside
        ("left", np.array([0, -1, -1])),  # a circle
        ("right", np.array([-1, -1, -1])),  # half a split
        ("left", np.array([-5, -1, -1])),
        ("feature", np.array([-1, 0, 0])),
        ("feature", np.array([2**31 - 1, 0, 0])),  # would take all memory
        ("threshold", np.zeros(2)),  # too short
        ("value", np.zeros(4)),
        ("root", np.array([3])),
        ("root", np.array([-1])),
        ("root", np.array([], np.int32)),
    ],
)
def test_damaged_arrays_are_refused(name: str, value: NDArray[Any]) -> None:
    arrays = staircase(0, 0.0, 1.0, 1.0).arrays()
    with pytest.raises(ValueError, match="do not fit together"):
        Trees(0.0, {**arrays, name: value})


def test_no_trees_at_all_are_refused() -> None:
    empty = {name: np.zeros(0) for name in staircase(0, 0.0, 1.0, 1.0).arrays()}
    with pytest.raises(ValueError, match="do not fit together"):
        Trees(0.0, empty)


def test_nodes_with_two_parents_are_refused() -> None:
    """Written out as a tree they would take any amount of memory."""
    arrays = {
        "feature": np.zeros(5),
        "threshold": np.zeros(5),
        "left": np.array([1, 2, 3, -1, -1]),
        "right": np.array([2, 3, 4, -1, -1]),
        "value": np.zeros(5),
        "root": np.zeros(1),
    }
    with pytest.raises(ValueError, match="do not fit together"):
        Trees(0.0, arrays)


def test_rows_however_extreme_end_at_a_leaf(fitted: Any) -> None:
    trees = Trees.of(fitted)
    rows = np.array([np.full(6, x) for x in (np.inf, -np.inf, 1e300, -1e300)])
    found = [trees.log_odds(row) for row in rows]
    clipped = fitted.decision_function(np.clip(rows, -1e300, 1e300))
    assert found == pytest.approx(clipped, abs=1e-9)


@pytest.mark.parametrize("leaves", [2, 8, 32])
def test_log_odds_are_to_the_bit_what_walking_the_trees_gives(
    leaves: int, data: tuple[NDArray[np.float64], NDArray[np.int64]]
) -> None:
    x = np.round(data[0], 1)  # thresholds that trees share
    model = HistGradientBoostingClassifier(max_leaf_nodes=leaves, max_iter=70, random_state=0)
    trees = Trees.of(model.fit(x, data[1]))
    edges = np.unique(trees.threshold)  # rows on them too
    rows = [*x[:200], *np.random.default_rng(1).choice(edges, (200, 6)), np.full(6, np.inf)]
    assert [trees.log_odds(row) for row in rows] == [_walked(trees, row) for row in rows]


def _walked(trees: Trees, x: NDArray[np.float64]) -> float:
    total = trees.bias
    for node in trees.root:
        while trees.left[node] >= 0:
            left = x[trees.feature[node]] <= trees.threshold[node]
            node = trees.left[node] if left else trees.right[node]
        total += float(trees.value[node])
    return total


def test_nodes_of_no_tree_say_nothing() -> None:
    one = staircase(0, 0.0, 2.0, 1.0)
    trees = Trees(0.0, {**one.arrays(), "root": one.root[1:]})
    assert [trees.log_odds(np.array([x])) for x in (0.5, 1.5)] == [0.0, 1.0]


def test_a_tree_of_too_many_leaves_is_refused() -> None:
    splits = 32
    left = np.concatenate([np.arange(splits) + 1, np.full(splits + 1, -1)])
    right = np.concatenate([np.arange(splits) + splits + 1, np.full(splits + 1, -1)])
    nodes = np.zeros(2 * splits + 1)
    arrays = {"feature": nodes, "threshold": nodes, "value": nodes, "left": left, "right": right}
    with pytest.raises(ValueError, match="more than 32 leaves"):
        Trees(0.0, {**arrays, "root": np.zeros(1)})
