"""Coverage: how alike a block's inputs are, and how much of each is new."""

from __future__ import annotations

from math import exp, sqrt

import numpy as np
import pytest

from features.base import Array
from features.coverage import Coverage
from tests.features.battery import measured, new_state, run
from tests.features.slots import Request, block, of_requests, stack


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
            "repeats": 0.0,  # of earlier blocks, and there are none
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


# Texts that were sent before

REPEATS = [feature.name for feature in Coverage.features].index("repeats")


def hashes(*numbers: int) -> list[int]:
    """Hashes of texts of these numbers, spread as the kernels' are (SplitMix64)."""
    found = []
    for number in numbers:
        h = (number + 1) * 0x9E3779B97F4A7C15 % 2**64
        h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        h = (h ^ h >> 27) * 0x94D049BB133111EB % 2**64
        found.append(h ^ h >> 31)
    return found


def repeats(*blocks: list[int]) -> Array:
    """`repeats` of each block of one account."""
    slots = stack([block(index=i, text=texts) for i, texts in enumerate(blocks)])
    return run(Coverage(), slots, np.zeros(len(blocks), np.int64), new_state(Coverage(), 1))[
        :, REPEATS
    ]


def by_the_rule(*blocks: list[int]) -> list[float]:
    """The same in plain Python, with sets of places instead of bits."""
    newer: set[int] = set()
    older: set[int] = set()
    held = [0, 0]
    found = []
    for texts in blocks:
        places = [text % 2048 for text in texts]
        hits = sum(place in newer or place in older for place in places)
        chance = 1.0 - exp(-sum(held) / 2048)
        found.append(max(hits / len(texts) - chance, 0.0) / (1.0 - chance))
        distinct = len(set(texts))
        if held[0] + distinct > 500:
            newer, older, held = set(), newer, [0, held[0]]
        newer.update(places)
        held[0] += distinct
    return found


def test_a_suite_that_is_sent_again_and_again_is_all_repeats() -> None:
    suite = hashes(*range(320))
    rounds = [suite[lo : lo + 32] for _ in range(8) for lo in range(0, 320, 32)]
    found = repeats(*rounds)
    assert found[:10].max() < 0.15
    assert found[10:] == pytest.approx(1.0)


def test_new_texts_are_hardly_ever_taken_for_repeats() -> None:
    """After thousands the filters are as full as they get, and no fuller."""
    found = repeats(*(hashes(*range(32 * i, 32 * i + 32)) for i in range(300)))
    assert found.mean() < 0.1
    assert found[-100:].mean() < 0.1
    assert found.max() < 0.5


def test_half_repeated_is_about_half() -> None:
    rng = np.random.default_rng(1)
    blocks = [hashes(*range(100_000 + 32 * i, 100_032 + 32 * i)) for i in range(5)]
    known = [text for texts in blocks for text in texts]
    for i in range(40):
        again = rng.choice(len(known), 16, replace=False)
        new = hashes(*range(16 * i, 16 * i + 16))
        blocks.append([*(known[k] for k in again.tolist()), *new])
        known += new
        known = known[-200:]
    assert repeats(*blocks)[5:].mean() == pytest.approx(0.5, abs=0.1)


def test_repeats_are_those_of_the_rule() -> None:
    rng = np.random.default_rng(2)
    blocks = [
        hashes(*rng.integers(0, most, int(rng.integers(1, 33))).tolist())
        for most in (40, 300, 2000, 10**9)
        for _ in range(60)
    ]
    assert repeats(*blocks) == pytest.approx(by_the_rule(*blocks), abs=1e-6)


def test_a_text_is_forgotten_after_a_thousand_others() -> None:
    old = hashes(*range(32))
    others = [hashes(*range(32 * i, 32 * i + 32)) for i in range(1, 40)]
    assert repeats(old, *others[:8], old)[-1] == pytest.approx(1.0)
    assert repeats(old, *others, old)[-1] < 0.5


def test_a_first_block_begins_without_texts() -> None:
    texts = hashes(*range(32))
    slots = stack([block(index=i, text=texts) for i in (0, 1, 0, 1)])
    found = run(Coverage(), slots, np.zeros(4, np.int64), new_state(Coverage(), 1))[:, REPEATS]
    assert found.tolist() == pytest.approx([0.0, 1.0, 0.0, 1.0])


def test_revisions_of_a_block_do_not_repeat_it() -> None:
    texts = hashes(*range(32))
    slots = stack(
        [block(index=0, final=n == 32, text=texts[:n]) for n in (8, 16, 32)]
        + [block(index=1, text=texts)]
    )
    found = run(Coverage(), slots, np.zeros(4, np.int64), new_state(Coverage(), 1))[:, REPEATS]
    assert found.tolist() == pytest.approx([0.0, 0.0, 0.0, 1.0])
