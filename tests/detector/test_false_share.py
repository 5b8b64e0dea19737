"""The share of enforcements that may be false: Benjamini and Hochberg's threshold, by the week."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.false_share import FalseShare

RATES = [1e-3, 5e-4, 3e-5]


def made(share: float, rates: list[float], customers: int, day: int = 0) -> FalseShare:
    """Accounts with these rates among so many others."""
    one = FalseShare(share, RATES[0])
    for i in range(customers):
        one.seen(f"customer-{i}", 1.0, day)
    for i, rate in enumerate(rates):
        one.seen(f"suspect-{i}", rate, day)
    return one


def test_many_thieves_leave_the_thresholds_as_they_are() -> None:
    assert made(0.2, [1e-6] * 50, 2550).limits(RATES, 0) == RATES


def test_among_customers_alone_hardly_anybody_is_reached() -> None:
    # Of 3,000 customers three reach 1e-3 by chance.
    assert made(0.2, [2e-4, 5e-4, 9e-4], 2997).limits(RATES, 0) == [0.0, 0.0, 0.0]


def test_one_account_far_beyond_all_customers_is_reached() -> None:
    limits = made(0.2, [1e-6, 9e-4], 2998).limits(RATES, 0)
    assert limits == pytest.approx([0.2 / 3000, 0.2 / 3000, 3e-5])


def test_few_customers_are_not_blinded() -> None:
    """At 1 in 1,000, 100 accounts expect a tenth of a false one: one thief is enough."""
    assert made(0.2, [1e-3], 99).limits(RATES, 0)[0] == 1e-3


def test_a_share_of_one_tightens_nothing() -> None:
    assert made(1.0, [], 3000).limits(RATES, 0) == RATES


@given(
    st.lists(st.floats(1e-7, 1e-3), max_size=30),
    st.integers(0, 20_000),
    st.sampled_from([0.05, 0.2, 0.9]),
)
@settings(deadline=None)
def test_the_expected_false_ones_are_few_enough_and_no_wider_threshold_has_this(
    rates: list[float], customers: int, share: float
) -> None:
    one = made(share, rates, customers)
    accounts = customers + len(rates)
    limits = one.limits(RATES, 0)
    assert limits == sorted(limits, reverse=True)
    for rung, limit in zip(RATES, limits, strict=True):
        assert limit <= rung
        if limit:
            passing = sum(p <= limit for p in rates)
            assert accounts * limit <= share * passing * (1 + 1e-9)
        for rate in [p for p in rates if limit < p <= rung]:
            assert accounts * rate > share * sum(p <= rate for p in rates) * (1 - 1e-9)


def test_what_is_reached_by_chance_alone_is_reached_in_few_weeks() -> None:
    """Without a thief, any enforcement is false: that a week has one is as rare as the share."""
    rng = np.random.default_rng(5)
    weeks = 400
    bad = 0
    for _ in range(weeks):
        drawn = rng.uniform(size=2600)
        limit = made(0.2, [r for r in drawn.tolist() if r <= 1e-3], 2598).limits(RATES, 0)[0]
        bad += bool((drawn <= limit).any())
    assert bad / weeks <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / weeks)


def test_an_account_counts_once_with_its_latest_rate() -> None:
    one = made(0.2, [1e-6], 999)
    one.seen("suspect-0", 1e-6, 3)
    assert one.accounts == 1000
    assert one.limits(RATES, 3)[0] == pytest.approx(2e-4)
    one.seen("suspect-0", 0.5, 4)
    assert one.limits(RATES, 4) == [0.0, 0.0, 0.0]
    assert one.accounts == 1000


def test_who_was_silent_for_a_week_is_forgotten() -> None:
    one = made(0.2, [1e-6] * 50, 2550)
    one.seen("late", 1e-6, 5)
    assert one.limits(RATES, 6) == RATES
    assert not one.forgot("customer-1")
    assert one.limits(RATES, 7) == RATES  # of one account
    assert one.accounts == 1
    assert one.forgot("customer-1")
    assert not one.forgot("late")


def test_given_again_it_says_the_same() -> None:
    one = made(0.2, [1e-6, 1e-4, 3e-4], 900)
    again = FalseShare(0.2, RATES[0])
    for i in reversed(range(900)):
        again.seen(f"customer-{i}", 1.0, 0)
    for i, rate in enumerate([1e-6, 1e-4, 3e-4]):
        again.seen(f"suspect-{i}", rate, 0)
    assert again.limits(RATES, 2) == one.limits(RATES, 2)


def test_days_are_those_of_the_calendar() -> None:
    assert FalseShare.day(86_399.9) == 0
    assert FalseShare.day(86_400.0) == 1
