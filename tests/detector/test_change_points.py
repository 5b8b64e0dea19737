"""Change points: a stolen key is a new customer, and nobody gains by pretending to be one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from detector.blocks import Block, Identity
from detector.change_points import SETTLED_BLOCKS
from detector.evidence import TextEvidence
from features import NAMES
from tests.detector.small_models import models, text_block

MODELS = models().text
WEEK = 604_800.0
HOME = Identity(ip="192.0.2.7", user_agent="app/1.0")
ABROAD = Identity(ip="198.51.100.7", user_agent="curl/8")
QUIET, LOUD = -2.0, 6.0


def block(index: int, score: float, *, topic: float = 0.1, **fields: Any) -> Block:
    made = text_block("a", 100.0 * index, score=score, index=index, **{"identity": HOME, **fields})
    features = np.frombuffer(made.features, np.float32).copy()
    features[NAMES.index("drift.topic")] = topic if index else 0.0
    features[NAMES.index("drift.has_past")] = float(index > 0)
    return text_block(
        "a", 100.0 * index, index=index,
        **{"identity": HOME, **fields, "features": features.tobytes()},
    )  # fmt: skip


def course(blocks: list[Block]) -> list[float]:
    """The account's evidence after each of them."""
    texts = TextEvidence(MODELS, WEEK)
    found = []
    for one in blocks:
        row = texts.add(one, MODELS.block.log_odds(MODELS.row(one)))
        found.append(texts.judge(row))
    return found


def evidence(blocks: list[Block]) -> float:
    """The account's after all of them."""
    return course(blocks)[-1]


OWNER = [block(i, QUIET) for i in range(30)]


def stolen(**fields: Any) -> list[Block]:
    """The owner's blocks, and two of a thief whose first differs by these fields."""
    return [*OWNER, block(30, LOUD, **fields), block(31, LOUD, **{**fields, "topic": 0.1})]


def test_without_a_change_honest_history_dilutes() -> None:
    assert evidence(stolen()) == -math.inf


def test_a_new_network_with_a_new_client_is_a_new_customer() -> None:
    assert evidence(stolen(identity=ABROAD)) == evidence([block(0, LOUD), block(1, LOUD)])


@pytest.mark.parametrize(
    "identity",
    [
        Identity(ip="198.51.100.7", user_agent="app/1.0"),
        Identity(ip="192.0.2.200", user_agent="app/2.0"),
        Identity(user_agent="app/2.0"),
        Identity(ip="198.51.100.7"),
        Identity(),
    ],
)
def test_travelling_and_updating_change_nobody(identity: Identity) -> None:
    assert evidence(stolen(identity=identity)) == -math.inf


def test_texts_far_from_ones_own_are_a_new_customers() -> None:
    assert evidence(stolen(topic=0.9)) == evidence([block(0, LOUD), block(1, LOUD)])
    assert evidence(stolen(topic=0.25)) == -math.inf


def test_far_is_measured_by_ones_own_spread() -> None:
    varied = [block(i, QUIET, topic=(0.1, 0.7)[i % 2]) for i in range(30)]
    assert evidence([*varied, *stolen(topic=0.9)[-2:]]) == -math.inf


def test_an_account_that_is_hardly_known_does_not_change_by_its_texts() -> None:
    late = SETTLED_BLOCKS + 1
    for blocks, found in ((late, True), (late - 1, False)):
        thief = [block(blocks, LOUD, topic=0.9), block(blocks + 1, LOUD)]
        fresh = evidence([block(0, LOUD), block(1, LOUD)])
        assert (evidence([*OWNER[:blocks], *thief]) == fresh) is found


def test_one_strange_block_makes_no_other_customer() -> None:
    assert evidence(stolen(identity=ABROAD)[:-1]) == -math.inf
    few = stolen(n=12, topic=0.9)
    assert evidence(few) == -math.inf


CHANGES = st.lists(
    st.tuples(
        st.floats(-3.0, 6.0),
        st.sampled_from([0.05, 0.1, 0.9]),
        st.sampled_from([HOME, ABROAD]),
    ),
    min_size=1,
    max_size=40,
)


@given(CHANGES)
@hypothesis(max_examples=50, deadline=None)
def test_provoking_changes_gains_nothing(said: list[tuple[float, float, Identity]]) -> None:
    """After each block the evidence is at least that of the same scores without any change."""
    moving = [block(i, s, topic=t, identity=who) for i, (s, t, who) in enumerate(said)]
    still = [block(i, s) for i, (s, _, _) in enumerate(said)]
    assert all(a >= b for a, b in zip(course(moving), course(still), strict=True))


def test_a_change_survives_a_restart_of_the_program() -> None:
    blocks = stolen(identity=ABROAD)
    for cut in (len(OWNER) - 1, len(OWNER), len(OWNER) + 1):
        first, second = TextEvidence(MODELS, WEEK), TextEvidence(MODELS, WEEK)
        for one in blocks[:cut]:
            first.add(one, MODELS.block.log_odds(MODELS.row(one)))
        second.restore(first.export(changes=False))
        for one in blocks[cut:]:
            row = second.add(one, MODELS.block.log_odds(MODELS.row(one)))
            second.judge(row)
        assert float(second["evidence"][0]) == evidence(blocks)


def test_a_new_week_forgets_the_change() -> None:
    later = [block(32 + i, QUIET, identity=ABROAD, time=1.8e9 + WEEK + 100.0 * i) for i in range(3)]
    assert evidence([*stolen(identity=ABROAD), *later]) == -math.inf
