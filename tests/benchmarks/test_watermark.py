"""Marks on models that are really trained: the figures of docs/watermark.md in small."""

from __future__ import annotations

import random

import numpy as np
import pytest
from threadpoolctl import threadpool_limits
from velvetrope_client.canary import Canaries
from velvetrope_client.keys import Key

from benchmarks.fidelity import watermark
from benchmarks.fidelity.canaries import SURVIVAL, Babbler, traced
from benchmarks.fidelity.watermark import CLONES, Theft, accused, clone, innocents, steal

KEY = Key("k", b"\x01" * 32)
PROSE = (
    "The tide of the {n} rises and falls because of the pull of the moon on the water of the "
    "oceans. When it is in line with the sun, the pull is at its strongest and the tide is at its "
    "highest. This happens twice in a month, at the new moon and at the full moon of the {n}."
)


@pytest.fixture(scope="module")
def theft() -> Theft:
    with threadpool_limits(1):
        victim = watermark.digits(np.random.default_rng(0))
        return steal(victim, KEY, np.random.default_rng(1), 4_000)


@pytest.mark.parametrize("kind", ["random forest", "nearest neighbour"])
def test_a_clone_that_learned_ten_marks_of_ten_classes_is_recognised_below_1e_9(
    theft: Theft, kind: str
) -> None:
    claim = accused(theft, clone(theft, CLONES[kind]))
    assert claim.learned >= 10
    assert claim.p_value < 1e-9


def test_innocent_models_are_not_accused(theft: Theft) -> None:
    found = [accused(theft, m).p_value for m in innocents(theft, np.random.default_rng(2), 20)]
    assert min(found) > 1e-3


def test_answers_are_marked_in_under_half_a_percent(theft: Theft) -> None:
    assert 0 < theft.marks < 0.005 * len(theft.x)


def test_a_model_that_repeats_what_it_read_names_whose_answers_it_read() -> None:
    canaries = Canaries(KEY)
    texts = [canaries.apply("acct-3", PROSE.format(n=n)) for n in range(100)]
    model = Babbler(texts)
    rng = random.Random(1)
    said = [model.says(rng) for _ in range(300)]
    accounts = [f"acct-{n}" for n in range(1_000)]
    assert [found.account for found in traced(said, accounts, KEY)] == ["acct-3"]


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("lower case, spaces collapsed", True),
        ("wrapped at 80 columns", True),
        ("without punctuation", True),
        ("the last sentence removed", False),
    ],
)
def test_a_remark_survives_what_does_not_cut_it(change: str, read: bool) -> None:
    text = SURVIVAL[change](Canaries(KEY, share=1.0).apply("acct-3", PROSE.format(n=1)))
    assert bool(traced([text], ["acct-3"], KEY)) is read
