"""The reference: rates that are counted where customers were seen, and careful beyond."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.baseline import (
    BadBaseline,
    Baseline,
    KindBaseline,
    Reference,
    _tail_of,
    e_value,
)

RNG = np.random.default_rng(8)
NORMAL = RNG.normal(size=5000)


def test_no_evidence_is_the_rate_of_everybody() -> None:
    assert Reference(NORMAL, 5000).rate(-math.inf) == 1.0


def test_within_the_customers_the_rate_is_the_rank() -> None:
    reference = Reference(np.arange(1.0, 101.0), 999)
    # 11 of the 999 reach 90, and the account itself is one more of 1,000.
    assert reference.rate(90.0) == pytest.approx(12 / 1000)
    assert reference.counted(90.0)
    assert reference.rate(1.0) == pytest.approx(101 / 1000)
    assert not reference.counted(95.0)


def test_customers_without_evidence_count() -> None:
    seen = np.concatenate([np.full(900, -np.inf), np.arange(1.0, 101.0)])
    assert Reference(seen, 1000).rate(50.0) == Reference(np.arange(1.0, 101.0), 1000).rate(50.0)


def test_order_does_not_matter() -> None:
    shuffled = RNG.permutation(NORMAL)
    for x in (-1.0, 0.0, 2.0, 4.0, 9.0):
        assert Reference(shuffled, 5000).rate(x) == Reference(NORMAL, 5000).rate(x)


@pytest.mark.parametrize("values", [NORMAL, np.exp(NORMAL), np.linspace(0, 1, 60), [1.0] * 40])
def test_more_evidence_never_has_a_higher_rate(values: list[float]) -> None:
    reference = Reference(values, len(values))
    fallback = Reference(values, len(values), Reference(NORMAL, 5000))
    for one in (reference, fallback):
        rates = [one.rate(x) for x in np.linspace(-5.0, 50.0, 4000)]
        assert all(later <= earlier for earlier, later in pairwise(rates))
        assert rates[0] > rates[-1] > 0.0


def test_the_rate_does_not_rise_where_the_tail_takes_over() -> None:
    for seed in range(100):
        values = np.random.default_rng(seed).standard_t(3, size=500)
        reference = Reference(values, 500)
        rates = [reference.rate(x) for x in np.sort(values)[-30:]]
        assert all(later <= earlier for earlier, later in pairwise(rates))


def test_where_the_tail_takes_over_it_is_near_the_truth() -> None:
    near = 0
    for seed in range(40):
        reference = Reference(np.random.default_rng(seed).exponential(size=2000), 2000)
        # One in 1,000 customers reaches this: two of the 2,000.
        near += 1e-3 / 3 < reference.rate(math.log(1000)) < 3e-3
    assert near >= 36


def test_what_customers_reached_is_never_called_rarer_than_half_of_it() -> None:
    for seed in range(40):
        values = np.sort(np.random.default_rng(seed).exponential(size=2000))
        reference = Reference(values, 2000)
        for rank in range(1, 11):
            assert reference.rate(values[-rank]) >= 0.5 * rank / 2001


def test_beyond_everything_seen_it_is_rare_and_never_impossible() -> None:
    assert Reference(NORMAL, len(NORMAL)).rate(1e9) == 1e-6
    # Without a model of the tail, no rarer than one of all.
    assert Reference(np.linspace(0.0, 1.0, 4000), 4000).rate(1e9) == 1 / 4001


HUMPS = np.concatenate([RNG.exponential(size=1000), RNG.normal(30.0, 0.1, size=30)])


@pytest.mark.parametrize(
    "values", [np.linspace(0.0, 1.0, 4000), np.repeat([1.0, 2.0, 3.0], 200), HUMPS]
)
def test_a_tail_that_no_model_fits_is_counted_and_says_so(values: list[float]) -> None:
    reference = Reference(values, 5000)
    assert reference.tail is None
    assert reference.describe()["beyond"] == "counted: no generalized Pareto tail fits"
    for rank in (1, 2, 5):
        x = float(np.sort(values)[-rank])
        assert reference.rate(x) == ((np.asarray(values) >= x).sum() + 1) / 5001


def test_a_tail_that_fits_is_turned_down_as_seldom_as_said() -> None:
    """With four lengths to try, one in ten of the longest and few of all."""
    tails = [
        Reference(np.random.default_rng(seed).exponential(size=1000), 1000).tail
        for seed in range(200)
    ]
    longest = sum(tail is not None and tail.values == 100 for tail in tails)
    assert 0.82 <= longest / 200 <= 0.97
    assert sum(tail is None for tail in tails) / 200 <= 0.1


def test_a_shorter_tail_is_tried_where_the_longer_does_not_fit() -> None:
    # A gap within the longest tail, none in the shorter ones.
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.uniform(0, 1, 1940), 4.0 + rng.exponential(size=60)])
    tail = Reference(values, 2000).tail
    assert tail is not None
    assert tail.values <= 60
    assert tail.start >= 4.0


def test_the_fit_depends_on_the_values_alone() -> None:
    values = np.random.default_rng(7).exponential(size=500)
    first = Reference(values, 500).tail
    _tail_of.cache_clear()
    assert Reference(values[::-1], 500).tail == first


def test_an_own_tail_that_fits_is_believed_beside_the_shipped_one() -> None:
    shipped = Reference(np.linspace(0.0, 1.0, 500), 1000)
    own = np.random.default_rng(3).exponential(size=2000)
    both = Reference(own, 2000, shipped)
    assert both.tail is not None
    x = float(own.max()) + 3.0
    assert both.rate(x) == pytest.approx(
        (2000 * Reference(own, 2000).rate(x) + 1000 * shipped.rate(x)) / 3000
    )
    # Counted, the own customers would say nothing that far out.
    crowd = np.repeat(own[:100], 20)
    counted = Reference(crowd, 2000, shipped)
    assert counted.tail is None
    assert counted.rate(1e9) == 1000 * shipped.rate(1e9) / 3000


def test_a_baseline_says_what_it_lacks() -> None:
    week = small(last_ts=1.0 + 7 * 86_400.0)
    assert not week.missing("text", 3, 7.0)
    assert str(week.missing("text", 1500, 7.0)) == "1,497 more customers"
    assert str(week.missing("vector", 10, 8.5)) == "10 more customers and 1.5 more days"


def test_a_tail_of_few_is_only_ranked() -> None:
    reference = Reference([1.0, 2.0, 3.0], 500)
    assert reference.rate(2.5) == pytest.approx(2 / 501)
    assert reference.rate(99.0) == pytest.approx(1 / 501)


def test_nobody_with_evidence_is_a_rate_of_one_in_all() -> None:
    assert Reference([], 400).rate(3.0) == pytest.approx(1 / 401)


def test_an_own_history_counts_by_its_size_beside_the_shipped_one() -> None:
    shipped = Reference(np.linspace(0.0, 1.0, 500), 1000)
    strict = [5.0] * 200
    x = 2.0
    few, many = (Reference(strict, n, shipped).rate(x) for n in (200, 100_000))
    own_few, own_many = (Reference(strict, n).rate(x) for n in (200, 100_000))
    assert few == pytest.approx((200 * own_few + 1000 * shipped.rate(x)) / 1200)
    assert many == pytest.approx(own_many, rel=0.02)


def test_it_says_what_the_promise_rests_on() -> None:
    about = Reference(NORMAL, 5000, Reference(NORMAL, 999)).describe()
    assert about["customers"] == about["with_evidence"] == 5000
    assert about["counted_down_to_per_1000"] == pytest.approx(2.2, rel=0.01)
    assert about["shipped"]["customers"] == 999


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_smaller_rate_never_has_a_smaller_e_value(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert e_value(low) >= e_value(high) >= 0.0


def test_the_e_value_of_a_customer_is_1_on_average() -> None:
    """Weights that add up to 1, exactly: ∫ e(p) dp over [0, 1] by its steps."""
    edges = sorted({0.0, 1.0, *(10.0**k for k in range(-7, 0)), 3e-4, 3e-5})
    mean = sum(e_value((a + b) / 2) * (b - a) for a, b in pairwise(edges))
    assert mean == pytest.approx(1.0)
    drawn = np.random.default_rng(0).uniform(size=400_000)
    found = np.array([e_value(p) for p in drawn])
    assert found.mean() < 1.0 + 4 * found.std() / math.sqrt(len(found))
    for k in (10.0, 100.0, 1000.0):
        assert (found >= k).mean() <= 1.3 / k


def test_ranks_of_new_customers_keep_the_e_values_promise() -> None:
    """Through the reference, tail and all: customers like its own bet no more than evenly."""
    rng = np.random.default_rng(1)
    reference = Reference(rng.normal(size=3000), 3000)
    found = np.array([e_value(reference.rate(x)) for x in rng.normal(size=100_000)])
    assert found.mean() < 1.5
    assert (found >= 100.0).mean() < 1.5 / 100.0


def small(**fields: object) -> Baseline:
    given: dict[str, object] = {
        "name": "july",
        "scorer": "s",
        "events": 10,
        "first_ts": 1.0,
        "last_ts": 2.0,
        "kinds": {"text": KindBaseline(accounts=3, evidence=[1.0], sketches=b"\x01" * 128)},
        "vectors": {"vector:m": b"\x00\xff"},
    }
    return Baseline(**{**given, **fields})  # type: ignore[arg-type]


def test_a_baseline_comes_back_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    small().save(file)
    assert Baseline.load(file) == small()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a baseline made by `calibrate`"),
        (b"\xff\xfe", "not a baseline made by `calibrate`"),
        (b"[]", "not a baseline made by `calibrate`"),
        (b'{"name": 3}', "not a baseline made by `calibrate`"),
    ],
)
def test_what_is_no_baseline_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "baseline.json"
    file.write_bytes(content)
    with pytest.raises(BadBaseline, match=message):
        Baseline.load(file)


def test_another_schema_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    with pytest.raises(BadBaseline, match="No such file"):
        Baseline.load(file)
    small(schema=2).save(file)
    with pytest.raises(BadBaseline, match="schema 2; this program reads 1"):
        Baseline.load(file)
