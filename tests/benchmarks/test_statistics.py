"""Intervals: known values, and that they hold what they estimate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.detection.statistics import (
    clustered,
    exceeded,
    mean_of_rows,
    pooled,
    upper_bound,
    wilson,
)

CLUSTERS = st.lists(
    st.integers(1, 50).flatmap(lambda of: st.tuples(st.integers(0, of).map(float), st.just(of))),
    min_size=1,
    max_size=20,
)


def test_wilson_of_ten_in_a_hundred_is_the_textbooks() -> None:
    assert wilson(0.1, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)


def test_nothing_seen_says_nothing() -> None:
    assert wilson(0.0, 0) == (0.0, 1.0)
    assert (pooled([]).low, pooled([]).high) == (0.0, 1.0)
    assert (clustered([]).low, clustered([]).high) == (0.0, 1.0)


def test_the_upper_bound_of_none_in_3000_is_the_rule_of_three() -> None:
    assert upper_bound(0, 3000) == pytest.approx(1 - 0.05 ** (1 / 3000))
    assert upper_bound(5, 5) == 1.0


def test_the_upper_bound_is_where_so_few_become_improbable() -> None:
    from scipy.stats import binom

    assert binom.cdf(4, 1000, upper_bound(4, 1000)) == pytest.approx(0.05)


@given(CLUSTERS)
def test_intervals_hold_their_estimate(clusters: list[tuple[float, int]]) -> None:
    for share in (clustered(clusters), mean_of_rows({"row": clusters, "other": clusters[:1]})):
        assert 0.0 <= share.low <= share.estimate <= share.high <= 1.0


def test_clusters_that_fall_together_say_less_than_their_accounts() -> None:
    apart = pooled([True] * 50 + [False] * 50)
    together = clustered([(10.0, 10)] * 5 + [(0.0, 10)] * 5)
    assert together.estimate == apart.estimate
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_clusters_that_all_fell_are_not_taken_for_certain() -> None:
    assert clustered([(40.0, 40)] * 12).low == pytest.approx(wilson(1.0, 12)[0])


def test_the_mean_of_rows_weighs_rows_and_not_accounts() -> None:
    share = mean_of_rows({"large": [(0.0, 1000)], "small": [(1.0, 1)], "none": []})
    assert share.estimate == 0.5
    assert share.of == 2


def test_the_threshold_lets_the_rate_through_and_no_more() -> None:
    scores = np.arange(100.0)
    assert int((scores > exceeded(scores, 0.05)).sum()) == 5
    tied = np.array([1.0] * 50 + [2.0] * 50)
    assert int((tied > exceeded(tied, 0.05)).sum()) == 0
