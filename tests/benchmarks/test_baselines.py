"""Baselines on cases that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.detection.baselines import (
    bowley_skew,
    prada_score,
    rita_score,
    synchronised,
)
from benchmarks.detection.baselines_learned import modified_z

WEEK = 604_800.0


def test_bowley_of_a_skewed_sample_is_the_formulas() -> None:
    # Quartiles 2, 3, 7: (2 + 7 - 2·3) / (7 - 2).
    assert bowley_skew(np.array([1.0, 2.0, 3.0, 7.0, 10.0])) == pytest.approx(0.6)


def test_bowley_where_the_median_is_a_quartile_is_unreliable_and_0() -> None:
    assert bowley_skew(np.array([1.0, 1.0, 1.0, 5.0, 9.0])) == 0.0


def test_a_beacon_that_never_misses_scores_1() -> None:
    assert rita_score(np.arange(0.0, 600.0, 10.0), 600.0) == pytest.approx(1.0)


def test_rita_takes_the_mean_of_skew_spread_and_count() -> None:
    # Gaps 10, 20, 30, 70, 100 s: skew (20 + 70 - 60)/50 = .6; deviations from 30: 0 10 20 40 70,
    # the median 20 s: 1 - 20/30; six connections in 600 s: 6/60.
    times = np.cumsum([0.0, 10.0, 20.0, 30.0, 70.0, 100.0])
    assert rita_score(times, 600.0) == pytest.approx((0.4 + 1 / 3 + 0.1) / 3)


def test_fast_clients_are_not_all_beacons_in_milliseconds() -> None:
    # In whole seconds every gap would be 0 and the skew score 1.
    gaps = np.array([0.010, 0.012, 0.014, 0.095, 0.1])
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    assert bowley_skew(np.round(np.diff(times), 3)) == pytest.approx(
        (0.012 + 0.095 - 0.028) / 0.083
    )


def test_prada_says_nothing_up_to_a_hundred_queries() -> None:
    assert prada_score(np.random.default_rng(0).normal(size=(100, 5)), []) == -math.inf


def test_prada_finds_queries_at_two_distances_less_normal_than_ordinary_ones() -> None:
    rng = np.random.default_rng(1)
    ordinary = rng.normal(size=(256, 40))
    # Every second query repeats the one before at a tiny step, as synthetic samples do.
    stepped = np.repeat(rng.normal(size=(128, 40)), 2, axis=0)
    stepped[1::2] += 1e-3
    assert prada_score(ordinary, []) < 0.1
    assert prada_score(stepped, []) > 0.25


def test_prada_keeps_classes_apart() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(240, 20))
    x[1::2] += 100.0
    labels = ["a", "b"] * 120
    # Two far classes are two ordinary customers' worth of distances when their labels are known.
    assert prada_score(x, labels) < 0.1


def test_jaccard_of_two_of_four_actions_is_a_half() -> None:
    actions = {
        "a": frozenset({(0, 1), (1, 1), (2, 1)}),
        "b": frozenset({(1, 1), (2, 1), (3, 1)}),
        "c": frozenset({(1, 2)}),
    }
    assert synchronised(actions, cluster=2) == {"a": 0.5, "b": 0.5, "c": 0.0}


def test_a_cluster_counts_from_the_link_that_makes_it_large_enough() -> None:
    # a-b are the same; c shares half of them: three are together at .5 only.
    actions = {
        "a": frozenset({(0, 1), (1, 1)}),
        "b": frozenset({(0, 1), (1, 1)}),
        "c": frozenset({(0, 1)}),
    }
    assert synchronised(actions, cluster=3) == {"a": 0.5, "b": 0.5, "c": 0.5}
    assert synchronised(actions, cluster=2) == {"a": 1.0, "b": 1.0, "c": 0.5}


def test_the_modified_z_score_is_the_formulas() -> None:
    one = (np.array([x]) for x in (10.0, 4.0, 2.0))
    assert modified_z(*one)[0] == pytest.approx(0.6745 * 6 / 2)
