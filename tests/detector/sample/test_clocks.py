"""Arrivals: within the day, ascending, and shaped as their kind is."""

from __future__ import annotations

import numpy as np
import pytest

from detector.sample import clocks
from detector.sample.clocks import DAY_S, Arrivals
from detector.sample.dice import Dice

KINDS = {
    "sessions": lambda dice: clocks.sessions(dice, 6.0, 6.0, 14.0),
    "bursts": lambda dice: clocks.bursts(dice, 2000, 3.0, 14.0, 0.1),
    "poisson": lambda dice: clocks.poisson(dice, 2000, 0.0, DAY_S),
    "loop": lambda dice: clocks.loop(dice, 2000, 7_200.0, 2.0, 4),
    "fixed": lambda dice: clocks.fixed(dice, 60.0),
    "jittered": lambda dice: clocks.jittered(dice, 2000, 0.0, DAY_S, 0.4),
}


def cv(arrivals: Arrivals) -> float:
    gaps = np.diff(arrivals.at)
    return float(gaps.std() / gaps.mean())


@pytest.mark.parametrize("kind", KINDS)
def test_arrivals_ascend_within_the_day(kind: str) -> None:
    arrivals = KINDS[kind](Dice(kind))
    assert len(arrivals.at) == len(arrivals.turn) > 0
    assert (np.diff(arrivals.at) >= 0.0).all()
    assert (arrivals.at >= 0.0).all()
    assert (arrivals.at < DAY_S).all()


def test_poisson_gaps_have_a_cv_of_one_bursts_more_and_jitter_less() -> None:
    assert cv(KINDS["poisson"](Dice(1))) == pytest.approx(1.0, abs=0.1)
    assert cv(KINDS["bursts"](Dice(1))) > 2.0
    assert cv(KINDS["jittered"](Dice(1))) < 0.3


def test_applications_follow_their_users_day() -> None:
    hours = clocks.bursts(Dice(2), 20_000, 1.0, 14.0, 0.1).at / 3600.0
    day, night = ((hours > lo) & (hours < lo + 4) for lo in (12.0, 0.0))
    assert day.sum() > 3 * night.sum()


def test_a_session_counts_its_turns_from_zero() -> None:
    turn = KINDS["sessions"](Dice(3)).turn
    steps = np.diff(turn)
    assert turn[0] == 0
    assert set(steps[turn[1:] != 0].tolist()) == {1}
