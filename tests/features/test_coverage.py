"""Coverage: how alike a block's inputs are, and how much of each is new."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from features.base import Array
from features.coverage import Coverage
from tests.features.battery import measured
from tests.features.slots import Request, block, of_requests


def axis(*entries: float) -> Array:
    """A sketch sum with these first entries."""
    return np.pad(np.array(entries), (0, 128 - len(entries)))


def test_the_same_text_again_and_again() -> None:
    repeated = [Request(text="summarise this very ordinary paragraph")] * 32
    assert measured(Coverage(), of_requests(repeated)) == pytest.approx(
        {
            "self_similarity": 1.0,
            "distinct_texts": 1 / 32,
            "late_words": 0.0,
            "vocabulary_growth": 0.0,
        },
        abs=1e-6,
    )


@pytest.mark.parametrize(
    ("sketch_sum", "sketched", "expected"),
    [
        (axis(2.0), 2, 1.0),  # twice the same direction
        (axis(1.0, 1.0), 2, 0.0),  # at right angles
        (axis(0.0), 2, -1.0),  # opposite
        (axis(sqrt(3)), 2, 0.5),  # 60° apart: |x + y|² = 2 + 2 · ½
        (axis(2.0, 1.0), 3, 1 / 3),  # one pair of three alike: (5 - 3) / 6
        (axis(1.0), 1, 0.0),  # no pair
        (axis(0.0), 0, 0.0),
    ],
)
def test_self_similarity_is_the_mean_cosine_of_pairs(
    sketch_sum: object, sketched: int, expected: float
) -> None:
    slots = block(n=max(sketched, 1), sketch_sum=sketch_sum, sketched=sketched)
    assert measured(Coverage(), slots)["self_similarity"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("texts", "expected"), [([5], 1.0), ([5, 5, 5, 5], 0.25), ([5, 6, 5, 6], 0.5), ([4, 5, 6], 1.0)]
)
def test_distinct_texts_counts_hashes(texts: list[int], expected: float) -> None:
    assert measured(Coverage(), block(text=texts))["distinct_texts"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("words", "fresh", "late", "growth"),
    [
        ([10, 10, 10, 10], [10, 10, 10, 10], 1.0, 1.0),  # never a word twice
        ([10, 10, 10, 10], [10, 0, 0, 0], 0.0, 0.0),  # all new words in the first input
        ([10, 10, 10, 10], [10, 5, 3, 2], 0.25, 0.5),  # 5 of 20 late, 20 of 40 over all
        ([10, 10, 10], [0, 2, 3], 0.25, 1.5),  # of three, the last two are the second half: 5 / 20
        ([0, 0], [0, 0], 0.0, 0.0),  # no words
        ([2000, 1], [0, 1], 1.0, 1000.0),  # shares below .001 over the block count as .001
    ],
)
def test_new_words_in_the_second_half(
    words: list[int], fresh: list[int], late: float, growth: float
) -> None:
    scores = measured(Coverage(), block(words=words, fresh_words=fresh))
    assert scores["late_words"] == pytest.approx(late)
    assert scores["vocabulary_growth"] == pytest.approx(growth)


def test_inputs_about_one_topic_are_more_alike_than_inputs_about_many() -> None:
    topic = ["boiling water", "water under pressure", "pressure of boiling steam", "steam pressure"]
    mixed = ["boiling water", "tax returns abroad", "violin fingering", "goalkeeper statistics"]
    alike = measured(Coverage(), of_requests([Request(text=text) for text in topic]))
    apart = measured(Coverage(), of_requests([Request(text=text) for text in mixed]))
    assert alike["self_similarity"] > apart["self_similarity"] + 0.2
