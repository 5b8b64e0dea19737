"""Requests an hour: what a ring holds, and whose rise and fall together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector.rhythm import HOURS, correlation, count, ring, turn

FIRST = 500_000  # an hour in 2027


def of_hours(events: NDArray[np.int64]) -> NDArray[np.int32]:
    made = ring()
    for hour, n in enumerate(events.tolist()):
        made[(FIRST + hour) % HOURS] += n
    return made


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 9)), min_size=1, max_size=60))
@settings(deadline=None)  # the first example compiles
def test_a_ring_holds_the_last_week(said: list[tuple[int, int]]) -> None:
    hours, last = ring(), 0
    for hour, events in said:
        last = count(hours, last, FIRST + hour, events)
    newest = max(hour for hour, _ in said)
    assert last == FIRST + newest
    # What came when it was over a week old is not counted; what has become so is forgotten.
    expected = 0
    top = -1
    for hour, events in said:
        if hour > top - HOURS and hour > newest - HOURS:
            expected += events
        top = max(top, hour)
    assert hours.sum() == expected
    turn(hours, last, last + HOURS)
    assert hours.sum() == 0


def test_bytes_of_a_ring_are_the_ring() -> None:
    made = of_hours(np.arange(100))
    assert ring(made.tobytes()).tolist() == made.tolist()


def test_who_shares_out_one_load_rises_and_falls_together() -> None:
    rng = np.random.default_rng(4)
    load = rng.gamma(0.4, 50.0, 48)
    day = 30.0 * (1.0 + np.sin(np.arange(48) / 24 * 2 * np.pi))
    parts = [rng.poisson(load / 5) for _ in range(5)]
    customers = [rng.poisson(day / 5) for _ in range(5)]
    everybody = of_hours(np.array(rng.poisson(40 * day)))
    last = FIRST + 47
    together = correlation(
        of_hours(parts[0]), of_hours(np.sum(parts[1:], axis=0)), everybody, FIRST, last, False
    )
    office_hours = correlation(
        of_hours(customers[0]), of_hours(np.sum(customers[1:], axis=0)), everybody, FIRST, last,
        False,
    )  # fmt: skip
    assert together > 0.7
    # Two customers who work the same hours are alike in nothing that everybody is not.
    assert abs(office_hours) < 0.35
    within = correlation(
        of_hours(parts[0]), of_hours(np.sum(parts, axis=0)), everybody, FIRST, last, True
    )
    assert within == pytest.approx(together)


def test_silence_is_no_rhythm() -> None:
    some = of_hours(np.ones(48, np.int64))
    for own, others in ((ring(), some), (some, ring()), (some, some)):
        among = own is others
        assert correlation(own, others, some, FIRST, FIRST + 47, among) == 0.0
