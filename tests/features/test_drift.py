"""Drift: the distance of a block to the account's earlier ones."""

from __future__ import annotations

from itertools import combinations
from math import cos, log, radians, sin, sqrt
from statistics import mean
from typing import Any

import numpy as np
import pytest

from features.base import Slots
from features.drift import Drift
from tests.features.battery import measured, new_state, run
from tests.features.slots import Request, block, of_requests, stack


def towards(index: int, *entries: float, **columns: Any) -> Slots:
    """The account's block of this index, with a sketch sum of these first entries."""
    sketch = np.pad(np.array(entries), (0, 128 - len(entries)))
    return block(index=index, sketch_sum=sketch, sketched=1, **columns)


def test_the_first_block_has_no_past() -> None:
    assert set(measured(Drift(), towards(0, 1.0)).values()) == {0.0}


def test_a_block_like_the_one_before_has_not_drifted() -> None:
    requests = [Request(text="what is the capital of france")] * 32
    first, second = of_requests(requests), of_requests(requests, index=1)
    assert measured(Drift(), first, second) == pytest.approx(
        {"topic": 0.0, "vocabulary": 0.0, "length": 0.0, "has_past": 1.0, "sessions": 0.0},
        abs=1e-6,
    )


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        ((1.0,), (5.0,), 0.0),  # the same direction, whatever the length
        ((1.0, 0.0), (0.0, 1.0), 1.0),  # at right angles
        ((1.0,), (-1.0,), 2.0),  # opposite
        ((1.0, 0.0), (1.0, sqrt(3)), 0.5),  # 60° apart
        ((0.0,), (1.0,), 0.0),  # no words before: no direction to compare with
        ((1.0,), (0.0,), 0.0),  # no words now
    ],
)
def test_topic_is_one_minus_the_cosine(
    then: tuple[float, ...], now: tuple[float, ...], expected: float
) -> None:
    scores = measured(Drift(), towards(0, *then), towards(1, *now))
    assert scores["topic"] == pytest.approx(expected, abs=1e-6)


def test_a_new_block_weighs_a_fifth_of_the_past() -> None:
    # Blocks along x, then y: the past is .8 x + .2 y, of length √.68; its cosine to y is .2 / √.68.
    scores = measured(Drift(), towards(0, 1.0), towards(1, 0.0, 1.0), towards(2, 0.0, 1.0))
    assert scores["topic"] == pytest.approx(1 - 0.2 / sqrt(0.68), abs=1e-6)


@pytest.mark.parametrize("differing", [0, 1, 4, 16])
def test_vocabulary_is_the_share_of_the_minhash_that_changed(differing: int) -> None:
    then = np.arange(16)
    now = then + np.where(np.arange(16) < differing, 100, 0)
    scores = measured(Drift(), towards(0, 1.0, minhash=then), towards(1, 1.0, minhash=now))
    assert scores["vocabulary"] == pytest.approx(differing / 16)


def test_vocabulary_compares_with_the_block_just_before() -> None:
    blocks = [towards(i, 1.0, minhash=[value] * 16) for i, value in enumerate((1, 2, 2))]
    assert measured(Drift(), *blocks)["vocabulary"] == 0.0


def test_length_is_the_change_of_the_mean_log_length() -> None:
    # Logs of length + 1: log 10 then log 100; then .8 log 10 + .2 log 100 = 1.2 log 10 against 0.
    short, long, none = (
        towards(i, 1.0, length=[bytes_, bytes_]) for i, bytes_ in enumerate((9, 99, 0))
    )
    assert measured(Drift(), short, long)["length"] == pytest.approx(log(10), abs=1e-6)
    assert measured(Drift(), short, long, none)["length"] == pytest.approx(1.2 * log(10), abs=1e-6)


def test_accounts_do_not_share_a_past() -> None:
    slots = stack([towards(0, 1.0), towards(0, 0.0, 1.0), towards(1, 1.0), towards(1, 0.0, 1.0)])
    out = run(Drift(), slots, np.array([0, 1, 0, 1]), new_state(Drift(), 2))
    topic = [feature.name for feature in Drift.features].index("topic")
    assert out[:, topic].tolist() == pytest.approx([0.0, 0.0, 0.0, 0.0], abs=1e-6)


def direction(angle: float) -> tuple[float, float]:
    """A sketch of norm 1 in the plane, degrees."""
    return cos(radians(angle)), sin(radians(angle))


def of_directions(index: int, *angles: float) -> Slots:
    """A block of inputs whose sketches point there."""
    x, y = zip(*(direction(angle) for angle in angles), strict=True)
    sketch = np.pad(np.array([sum(x), sum(y)]), (0, 126))
    return block(index=index, n=len(angles), sketch_sum=sketch, sketched=len(angles))


def cosine(*angles: float) -> float:
    """Mean cosine between two different ones."""
    return mean(cos(radians(a - b)) for a, b in combinations(angles, 2))


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ((0.0, 90.0), (0.0, 90.0)),  # drawn from one pool
        ((0.0, 0.0), (90.0, 90.0)),  # another session: alike within, unlike what was before
        ((0.0, 0.0), (0.0, 180.0)),
        ((10.0, 20.0, 70.0), (130.0, 140.0, 200.0)),
    ],
)
def test_sessions_are_likeness_within_less_likeness_to_the_past(
    then: tuple[float, ...], now: tuple[float, ...]
) -> None:
    across = mean(cos(radians(a - b)) for a in then for b in now)
    scores = measured(Drift(), of_directions(0, *then), of_directions(1, *now))
    assert scores["sessions"] == pytest.approx(cosine(*now) - across, abs=1e-6)


def test_the_past_of_sessions_is_a_mean_that_forgets() -> None:
    # .8 of the first block's mean, .2 of the second's, however many inputs each has.
    first, second, now = (0.0, 0.0), (90.0, 90.0, 90.0), (90.0, 90.0)
    blocks = [of_directions(i, *angles) for i, angles in enumerate((first, second, now))]
    assert measured(Drift(), *blocks)["sessions"] == pytest.approx(1.0 - 0.2, abs=1e-6)


def test_one_input_alone_has_no_sessions() -> None:
    assert measured(Drift(), of_directions(0, 0.0), of_directions(1, 90.0))["sessions"] == 0.0


def test_inputs_drawn_at_random_from_a_pool_have_no_sessions() -> None:
    rng = np.random.default_rng(4)
    pool = [f"topic{i} word{i} thing{i} place{i}" for i in range(400)]

    def sessions(blocks: list[list[str]]) -> float:
        slots = stack(
            [
                of_requests([Request(text=text) for text in texts], index=index)
                for index, texts in enumerate(blocks)
            ]
        )
        out = run(Drift(), slots, np.zeros(len(slots), np.int64), new_state(Drift(), 1))
        return float(out[3:, [f.name for f in Drift.features].index("sessions")].mean())

    drawn = [rng.choice(pool, 32).tolist() for _ in range(20)]
    # A person stays with a few of the topics for a while.
    stayed = [rng.choice(pool[4 * i : 4 * i + 4], 32).tolist() for i in range(20)]
    assert abs(sessions(drawn)) < 0.02
    assert sessions(stayed) > 0.15
