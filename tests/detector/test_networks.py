"""Networks give what scikit-learn gives, explain it, and are never read outside their arrays."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier

from detector.networks import Networks, Scale

COLUMNS = 5


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float64]:
    x = np.random.default_rng(4).normal(size=(1200, COLUMNS))
    x[:, 3] = np.round(x[:, 3])  # a column of few values
    x[:, 4] = 2.5  # and one of a single value
    return x


@pytest.fixture(scope="module")
def fitted(rows: NDArray[np.float64]) -> tuple[Networks, list[Any]]:
    y = rows[:, 0] * rows[:, 1] + rows[:, 3] > 0
    scale = Scale.of(rows)
    mapped = scale.all(rows)
    models = []
    for seed in range(2):
        model = MLPClassifier((16, 8), max_iter=80, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models.append(model.fit(mapped, y))
    return Networks.of(scale, np.zeros(COLUMNS), models), models


def test_log_odds_are_the_mean_of_the_fitted_classifiers(
    fitted: tuple[Networks, list[Any]], rows: NDArray[np.float64]
) -> None:
    networks, models = fitted
    mapped = networks.scale.all(rows)
    chances = [model.predict_proba(mapped)[:, 1].astype(np.float64) for model in models]
    wanted = np.mean([np.log(p / (1 - p)) for p in chances], axis=0)
    found = [networks.log_odds(row) for row in rows]
    assert found == pytest.approx(wanted.tolist(), rel=1e-3, abs=1e-3)
    assert networks.all_log_odds(rows).tolist() == pytest.approx(found, abs=1e-4)
    assert np.std(found) > 0.8


def test_log_odds_are_to_the_bit_what_adding_up_input_by_input_gives(
    fitted: tuple[Networks, list[Any]], rows: NDArray[np.float64]
) -> None:
    networks, _ = fitted
    knots = np.where(np.isfinite(networks.scale.knots), networks.scale.knots, 0.0)
    outside = [np.full(COLUMNS, x) for x in (np.inf, -np.inf, 0.0)]
    for row in [*rows[:200], *knots.T, *outside]:
        assert networks.log_odds(row) == _plain(networks, row)


def _plain(networks: Networks, x: NDArray[np.float64]) -> float:
    arrays = networks.arrays()
    z = np.array(
        [_level(*column) for column in zip(x, arrays["knots"], arrays["levels"], strict=True)],
        np.float32,
    )
    total = 0.0
    for m, bias in enumerate(arrays["b3"]):
        values = z
        for layer in ("1", "2"):
            out = arrays["b" + layer][m].copy()
            for value, weights in zip(values, arrays["w" + layer][m], strict=True):
                out += value * weights
            values = np.maximum(out, np.float32(0.0))
        odds = float(bias)
        for product in (values * arrays["w3"][m]).tolist():
            odds += product
        total += odds
    return total / len(arrays["b3"])


def _level(x: float, knots: NDArray[np.float64], levels: NDArray[np.float64]) -> float:
    if x <= knots[0]:
        return float(levels[0])
    if x >= knots[-1]:
        return float(levels[-1])
    low = int(np.searchsorted(knots, x, side="right")) - 1
    part = (x - knots[low]) / (knots[low + 1] - knots[low])
    return float(levels[low] + part * (levels[low + 1] - levels[low]))


def test_a_column_becomes_normally_distributed_and_stays_in_order(
    rows: NDArray[np.float64],
) -> None:
    mapped = Scale.of(rows).all(rows)
    assert mapped[:, 0].mean() == pytest.approx(0.0, abs=0.02)
    assert mapped[:, 0].std() == pytest.approx(1.0, abs=0.03)
    assert np.all(np.diff(mapped[np.argsort(rows[:, 0]), 0]) >= 0.0)
    assert len(np.unique(mapped[:, 3])) == len(np.unique(rows[:, 3]))
    assert np.all(mapped[:, 4] == mapped[0, 4])


def test_what_is_farther_out_than_any_training_row_counts_as_the_farthest(
    fitted: tuple[Networks, list[Any]], rows: NDArray[np.float64]
) -> None:
    networks, _ = fitted
    for way in (min, max):
        edge = np.array([way(column) for column in rows.T])
        beyond = edge + np.array([1e9 if way is max else -1e9] * COLUMNS)
        assert networks.log_odds(beyond) == networks.log_odds(edge)


def test_shares_add_up_to_the_distance_from_the_usual_row(
    fitted: tuple[Networks, list[Any]], rows: NDArray[np.float64]
) -> None:
    networks, _ = fitted
    middle = np.array([np.interp(0.0, lv, kn) for kn, lv in _finite(networks.scale)])
    base = [networks.log_odds(row) - networks.shares(row).sum() for row in rows[:40]]
    assert base == pytest.approx([base[0]] * 40, abs=1e-9)
    assert abs(networks.shares(rows[0])[4]) < 1e-9  # a column that never differs says nothing
    # The usual row is mapped to zeros; the columns of few values have no value that is.
    middle[3:] = rows[0, 3:]
    assert abs(networks.shares(middle)[:3]).max() < 1e-6


def _finite(scale: Scale) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    kept = []
    for knots, levels in zip(scale.knots, scale.levels, strict=True):
        known = np.isfinite(knots)
        kept.append((knots[known], levels[known]))
    return kept


def test_arrays_make_the_same_networks(
    fitted: tuple[Networks, list[Any]], rows: NDArray[np.float64]
) -> None:
    networks, _ = fitted
    again = Networks(networks.arrays())
    assert set(networks.arrays()) == set(Networks.ARRAYS)
    assert [again.log_odds(row) for row in rows[:20]] == [
        networks.log_odds(row) for row in rows[:20]
    ]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("w1", lambda a: a[:, :-1]),
        ("w2", lambda a: a[:, :, :-1]),
        ("w3", lambda a: a[:1]),
        ("b1", lambda a: a[:, :-1]),
        ("b2", lambda a: a[0]),
        ("b3", lambda a: a[:0]),
        ("usual", lambda a: a[:-1]),
        ("knots", lambda a: a[:, :1]),
        ("levels", lambda a: a[:, :-1]),
        ("knots", lambda a: a[:, 0]),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_together_are_refused(
    fitted: tuple[Networks, list[Any]], name: str, change: Any
) -> None:
    arrays = fitted[0].arrays()
    with pytest.raises(ValueError, match="do not fit together"):
        Networks({**arrays, name: change(arrays[name])})


@pytest.mark.parametrize("knots", [[3.0, 1.0, 1.0], [1.0, np.nan, 2.0], [-np.inf, 0.0, 1.0]])
def test_knots_out_of_order_are_refused(
    fitted: tuple[Networks, list[Any]], knots: list[float]
) -> None:
    arrays = fitted[0].arrays()
    damaged = arrays["knots"].copy()
    damaged[0, :3] = knots
    with pytest.raises(ValueError, match="not in order"):
        Networks({**arrays, "knots": damaged})
