"""Timing: what perfect, patterned and random spacings score, by hand."""

from __future__ import annotations

from itertools import accumulate
from math import log, log1p, log10

import numpy as np
import pytest

from features.timing import Timing
from tests.features.battery import measured, new_state, run
from tests.features.slots import block, stack


def arrivals(*gaps: float, start: float = 0.0) -> list[float]:
    return list(accumulate(gaps, initial=start))


def timing(ts: list[float], latency: list[float] | None = None) -> dict[str, float]:
    return measured(Timing(), block(ts=ts, latency=latency or [0.0] * len(ts)))


def test_a_metronome() -> None:
    # 32 requests 2 s apart. In ten equal parts of the 62 s lie 4, 3, 3, 3, 3, 3, 3, 3, 3 and 4 of
    # them: variance (2 · .8² + 8 · .2²) / 10 = .16 about a mean of 3.2.
    assert timing(arrivals(*[2.0] * 31)) == pytest.approx(
        {
            "gap_q25": log10(2),
            "gap_q50": log10(2),
            "gap_q75": log10(2),
            "bowley": 0.0,
            "dispersion": 0.0,
            "gap_cv": 0.0,
            "gap_entropy": 0.0,
            "lag1": 0.0,
            "lattice": 1.0,
            "closed_loop": 0.0,
            "span": log10(62),
            "duty": 1.0,
            "fano": log1p(0.16 / 3.2),
        },
        abs=1e-6,
    )


def test_one_second_and_a_hundred_in_turns() -> None:
    # Gaps 1, 100, 1, 100: log gaps 0, 2, 0, 2 have mean and median 1, all deviations 1; the gaps
    # have mean 50.5 and standard deviation 49.5; products of neighbours' deviations are -1, three
    # of them, over a sum of squares of 4. Requests at 0, 1, 101, 102, 202 s fall into parts 0, 0,
    # 5, 5 and 9 of ten.
    assert timing(arrivals(1, 100, 1, 100)) == pytest.approx(
        {
            "gap_q25": 0.0,
            "gap_q50": 1.0,
            "gap_q75": 2.0,
            "bowley": 0.0,
            "dispersion": 1.0,
            "gap_cv": log1p(49.5 / 50.5),
            "gap_entropy": 0.5,  # two bins, 1 bit, of the log2(4) = 2 that four gaps can have
            "lag1": -0.75,
            "lattice": 0.0,  # no gap is near the median of 10 s
            "closed_loop": 0.0,
            "span": log10(202),
            "duty": 0.3,
            "fano": log1p((2 * 1.5**2 + 0.5**2 + 7 * 0.5**2) / 10 / 0.5),
        },
        abs=1e-6,
    )


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ((1, 1, 1, 100, 100), 1.0),  # quartiles of the log gaps 0, 0, 2
        ((1, 1, 100, 100, 100), -1.0),  # 0, 2, 2
        ((1, 1, 10, 100, 100), 0.0),  # 0, 1, 2
        ((1, 1, 10**0.5, 100, 100), 0.5),  # 0, .5, 2: (2 + 0 - 1) / 2
    ],
)
def test_bowley_is_the_quartile_skew(gaps: tuple[float, ...], expected: float) -> None:
    assert timing(arrivals(*gaps))["bowley"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ((1.0, 1.049, 0.951), 1.0),  # all within 5 % of the median
        ((1.0, 1.051, 0.949), 1 / 3),  # none but the median itself
        ((1.0, 1.0, 1.0, 9.0), 0.75),
    ],
)
def test_lattice_is_the_share_of_gaps_near_the_median(
    gaps: tuple[float, ...], expected: float
) -> None:
    assert timing(arrivals(*gaps))["lattice"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gaps", "latency", "expected"),
    [
        # A second's answer leaves 0.1 · 1 + 0.05 s for the next request to count as its echo.
        ((1.01, 1.14, 1.0), (1.0, 1.0, 1.0, 1.0), 1.0),
        ((1.01, 1.16, 1.0), (1.0, 1.0, 1.0, 1.0), 2 / 3),
        ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0, 1.0), 0.0),  # sent before the answer
        ((1.01, 1.01, 9.0), (1.0, 1.0, 0.0, 0.0), 1.0),  # no latency logged: not counted
        ((1.01, 1.01, 1.01), (0.0, 0.0, 0.0, 9.0), 0.0),  # none logged that a request followed
    ],
)
def test_closed_loop_is_the_share_sent_just_after_an_answer(
    gaps: tuple[float, ...], latency: tuple[float, ...], expected: float
) -> None:
    assert timing(arrivals(*gaps), list(latency))["closed_loop"] == pytest.approx(expected)


def test_poisson_arrivals_have_a_cv_of_one() -> None:
    rng = np.random.default_rng(1)
    blocks = stack([block(ts=arrivals(*rng.exponential(60.0, 31))) for _ in range(2000)])
    out = run(Timing(), blocks, np.zeros(2000, np.int64), new_state(Timing(), 1))
    cv = [feature.name for feature in Timing.features].index("gap_cv")
    lag = [feature.name for feature in Timing.features].index("lag1")
    assert out[:, cv].mean() == pytest.approx(log(2), abs=0.03)
    # Correlations of n values with their own mean lean to -1/n.
    assert out[:, lag].mean() == pytest.approx(-1 / 31, abs=0.02)


@pytest.mark.parametrize("factor", [0.1, 60.0, 3600.0])
def test_shape_does_not_depend_on_speed(factor: float) -> None:
    gaps = np.array([1.0, 4.0, 1.5, 30.0, 2.0, 2.0, 9.0])
    shape = ("bowley", "dispersion", "gap_cv", "lag1", "lattice", "duty", "fano")
    slow, fast = timing(arrivals(*gaps)), timing(arrivals(*(factor * gaps)))
    assert {name: fast[name] for name in shape} == pytest.approx(
        {name: slow[name] for name in shape}, abs=1e-6
    )
    assert fast["gap_q50"] == pytest.approx(slow["gap_q50"] + log10(factor), abs=1e-6)


def test_one_request_has_no_spacing() -> None:
    assert set(timing([1.8e9], [5.0]).values()) == {0.0}


def test_requests_of_one_instant_are_a_millisecond_apart() -> None:
    # Gateways log milliseconds. All 32 lie in the first of ten parts, the mean is 3.2 a part:
    # (28.8² + 9 · 3.2²) / 10 / 3.2 = 28.8.
    scores = timing([1.8e9] * 32)
    assert scores["gap_q50"] == pytest.approx(-3.0)
    assert scores["span"] == pytest.approx(-3.0)
    assert scores["lattice"] == 1.0
    assert scores["gap_cv"] == pytest.approx(0.0, abs=1e-6)
    assert scores["duty"] == pytest.approx(0.1)
    assert scores["fano"] == pytest.approx(log1p(28.8))


def test_the_order_of_the_log_does_not_matter() -> None:
    ts = arrivals(3, 1, 4, 1.5, 9, 2, 6)
    latency = [0.5, 3.0, 1.0, 0.0, 1.4, 2.0, 2.0, 1.0]
    mixed = [5, 2, 7, 0, 4, 1, 6, 3]
    assert timing([ts[i] for i in mixed], [latency[i] for i in mixed]) == timing(ts, latency)
