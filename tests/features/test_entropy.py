"""Entropy: bytes, lengths and words of inputs whose answer can be worked out."""

from __future__ import annotations

from math import log, log1p, sqrt

import numpy as np
import pytest

from features.entropy import Entropy
from tests.features.battery import measured
from tests.features.slots import Request, block, of_requests


def test_two_short_and_two_long_inputs() -> None:
    # Lengths 0 and 99: logs of 1 and 100, so mean log 10 and deviation log 10; the lengths
    # themselves have mean and deviation 49.5.
    slots = block(
        entropy=[3.0, 5.0, 3.0, 5.0],
        length=[0, 99, 0, 99],
        words=[0, 3, 0, 3],
        fresh_words=[0, 3, 0, 0],
        function_words=[0, 2, 0, 2],
        odd_pairs=[0, 1, 0, 0],
    )
    assert measured(Entropy(), slots) == pytest.approx(
        {
            "bytes": 4.0,
            "bytes_spread": 1.0,
            "length": log(10),
            "length_spread": log(10),
            "length_cv": log(2),
            "length_iqr": log(100),
            "words": log1p(3) / 2,
            "unique_words": 0.5,  # 3 new ones of 6
            "function_words": 2 / 3,
            "odd_pairs": log(26),  # 1 of 4 function words: 25 of 100
        },
        abs=1e-6,
    )


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([7], 0.0),
        ([0, 99], 0.0),  # ranks (n - 1) // 4 and 3 (n - 1) // 4 are both the first
        ([99, 0, 9], log(10)),  # ranks 0 and 1: 0 and 9
        ([999, 0, 99, 9, 9], log(10)),  # ranks 1 and 3 of 0, 9, 9, 99, 999
    ],
)
def test_the_interquartile_range_is_of_order_statistics(
    lengths: list[int], expected: float
) -> None:
    assert measured(Entropy(), block(length=lengths))["length_iqr"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("texts", "feature", "expected"),
    [
        (["aaaa"], "bytes", 0.0),
        (["abab"], "bytes", 1.0),
        (["abcd", "aaaa"], "bytes", 1.0),  # 2 and 0
        (["abcd", "aaaa"], "bytes_spread", 1.0),
        ([""], "bytes", 0.0),
        (["one two three", "three two one"], "unique_words", 0.5),
        (["One two THREE", "three, two; one!"], "unique_words", 0.5),  # case and marks apart
        (["same"] * 4, "unique_words", 0.25),
        (["", "!?"], "unique_words", 0.0),  # no words at all
        (["one two three", ""], "words", log(4) / 2),
        (["ab", "abcd"], "length_cv", log1p(1 / 3)),  # mean 3, deviation 1
        (["the cat and the hat", "?"], "function_words", 3 / 5),
        (["words", ""], "function_words", 0.0),
        (["The cat. And a hat"], "odd_pairs", 0.0),
        (["the, of", "of the"], "odd_pairs", log(26)),  # across marks, not across inputs
        (["the the the the"], "odd_pairs", log(76)),
        (["the cat of"], "odd_pairs", 0.0),
    ],
)
def test_texts(texts: list[str], feature: str, expected: float) -> None:
    scores = measured(Entropy(), of_requests([Request(text=text) for text in texts]))
    assert scores[feature] == pytest.approx(expected, abs=1e-6)


def test_english_prose_has_the_byte_entropy_that_its_text_promises() -> None:
    prose = (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was "
        "the age of foolishness, it was the epoch of belief, it was the epoch of incredulity."
    )
    assert 3.8 < measured(Entropy(), of_requests([Request(text=prose)]))["bytes"] < 4.5


def test_an_outlier_of_two_gibibytes_keeps_its_size() -> None:
    # 31 empty inputs and one of 2³¹ - 1 bytes: deviation over mean is √31.
    scores = measured(Entropy(), block(length=[0] * 31 + [2**31 - 1]))
    assert scores["length_cv"] == pytest.approx(log1p(sqrt(31)), rel=1e-6)


def test_prose_has_the_grammar_that_words_drawn_at_random_do_not() -> None:
    prose = (
        "It is a truth universally acknowledged, that a single man in possession of a good "
        "fortune, must be in want of a wife. However little known the feelings or views of such a "
        "man may be on his first entering a neighbourhood, this truth is so well fixed in the "
        "minds of the surrounding families, that he is considered as the rightful property of "
        "some one or other of their daughters."
    )
    words = prose.replace(",", "").replace(".", "").split()
    rng = np.random.default_rng(1)
    shuffled = [" ".join(rng.permutation(words)) for _ in range(16)]
    rare = [" ".join(rng.choice([w for w in words if len(w) > 5], 60)) for _ in range(16)]

    def scores(texts: list[str]) -> dict[str, float]:
        return measured(Entropy(), of_requests([Request(text=text) for text in texts]))

    found, mixed, dictionary = scores([prose] * 16), scores(shuffled), scores(rare)
    assert 0.35 < found["function_words"] < 0.6
    assert mixed["function_words"] == pytest.approx(found["function_words"])  # the same words
    assert dictionary["function_words"] < 0.1
    assert found["odd_pairs"] == 0.0
    assert mixed["odd_pairs"] > log1p(3.0)
