"""Drift: the distance of a block to the account's earlier ones."""

from __future__ import annotations

from math import log, sqrt
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
        {"topic": 0.0, "vocabulary": 0.0, "length": 0.0, "has_past": 1.0}, abs=1e-6
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
