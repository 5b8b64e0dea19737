"""Wrong answers: where they are given, that they are the same again, and that they tell nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from velvetrope_client.keys import Key
from velvetrope_client.wrong_answers import (
    WrongAnswers,
    WrongAnswerSettings,
    perturbed,
    swapped,
    words,
)

KEY = Key("k", bytes(range(32)))
CLASSES = tuple("abcde")
CHANCES = {"a": 0.6, "b": 0.2, "c": 0.1, "d": 0.06, "e": 0.04}
PROBABILITIES = st.lists(st.floats(0.001, 1), min_size=2, max_size=8).map(
    lambda weights: {str(place): w / sum(weights) for place, w in enumerate(weights)}
)


class Far:
    """A profile that finds texts far and has rows on their own scale."""

    def __init__(self, far: bool = True) -> None:
        self._far = far

    def is_far(self, given: object) -> bool:
        return self._far

    def coordinates(self, given: Any) -> list[float]:
        return list(given)


def wrong(key: Key = KEY, far: bool = True, **settings: Any) -> WrongAnswers:
    chosen = {"wrong_from": 2, "profile": Far(far)} | settings
    return WrongAnswers(WrongAnswerSettings(**chosen), key)


def told(answers: WrongAnswers, text: Any, subject: str = "acct", level: int = 2) -> str:
    return answers.answer(subject, level, text, "a", CHANCES, CLASSES)[0]


def test_only_far_inputs_at_the_level_are_answered_wrong() -> None:
    texts = [f"word{n}" for n in range(40)]
    assert {told(wrong(), text) for text in texts} == set(CLASSES)
    assert {told(wrong(), text, level=1) for text in texts} == {"a"}
    assert {told(wrong(far=False), text) for text in texts} == {"a"}


def test_the_draw_says_nothing_of_the_models_answer() -> None:
    answers = wrong()
    for text in ("one", "two", "three"):
        drawn = {answers.answer("s", 2, text, own, {}, CLASSES)[0] for own in CLASSES}
        assert len(drawn) == 1


def test_no_probability_stays_where_the_model_put_it() -> None:
    answers = wrong()
    own = {name: dict.fromkeys(CLASSES, 0.1) | {name: 0.6} for name in CLASSES}
    given = [answers.answer("s", 2, "one", name, own[name], CLASSES) for name in CLASSES]
    assert all(answer == given[0] for answer in given)
    assert sorted(given[0][1].values()) == [0.1, 0.1, 0.1, 0.1, 0.6]
    assert given[0][1][given[0][0]] == 0.6


def test_a_confidence_alone_goes_with_the_draw() -> None:
    label, chances = wrong().answer("s", 2, "one", "a", {"a": 0.7}, CLASSES)
    assert chances == {label: 0.7}


def test_every_class_is_drawn_as_often() -> None:
    counts = Counter(told(wrong(), f"word{n}") for n in range(1000))
    assert max(counts.values()) < 260  # 200 expected, deviation 13


@pytest.mark.parametrize("again", ["Alarm at six", "alarm, at SIX!", "at six alarm alarm"])
def test_a_text_put_otherwise_is_the_same_question(again: str) -> None:
    assert told(wrong(), again) == told(wrong(), "alarm at six")


def test_a_word_more_seldom_changes_the_draw() -> None:
    texts = [" ".join(f"w{n}{k}" for k in range(6)) for n in range(300)]
    same = [told(wrong(), text) == told(wrong(), f"{text} please") for text in texts]
    assert np.mean(same) > 0.8  # the least of 7 words is the new one once in 7 times


def test_noise_seldom_changes_the_draw() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(300, 12))
    near = rows + rng.normal(0, 0.05, rows.shape)
    same = [
        told(wrong(), row) == told(wrong(), other)
        for row, other in zip(rows.tolist(), near.tolist(), strict=True)
    ]
    assert np.mean(same) > 0.8


def test_subjects_and_keys_are_drawn_apart() -> None:
    texts = [f"word{n}" for n in range(200)]
    own = [told(wrong(), text) for text in texts]
    for others in (
        [told(wrong(), text, subject="other") for text in texts],
        [told(wrong(Key("l", bytes(32))), text) for text in texts],
    ):
        assert np.mean([x == y for x, y in zip(own, others, strict=True)]) < 0.35  # 0.2 expected


def test_a_mark_takes_its_probability_along() -> None:
    assert swapped(CHANCES, "a", "e") == CHANCES | {"a": 0.04, "e": 0.6}
    assert swapped({"a": 0.9}, "a", "b") == {"b": 0.9}


@given(PROBABILITIES, st.floats(0.01, 2.0), st.integers(1, 7))
def test_a_perturbation_keeps_label_sum_and_bound(
    chances: dict[str, float], bound: float, place: int
) -> None:
    label = max(chances, key=lambda name: chances[name])
    others = [name for name in chances if name != label]
    moved = perturbed(chances, label, others[place % len(others)], bound)
    assert max(moved, key=lambda name: moved[name]) == label
    assert sum(moved.values()) == pytest.approx(1.0)
    assert sum(abs(moved[name] - chances[name]) for name in chances) <= bound + 1e-9


def test_a_perturbed_answer_is_the_same_again_and_keeps_its_label() -> None:
    answers = wrong(wrong_from=0, perturb_from=1)
    label, moved = answers.answer("s", 1, "some text", "a", CHANCES, CLASSES)
    assert label == "a"
    assert moved != CHANCES
    assert answers.answer("s", 1, "Some TEXT", "a", CHANCES, CLASSES) == (label, moved)


@pytest.mark.parametrize("text", ["", "...", "\ud800", "ünïcode"])
def test_any_text_has_a_draw(text: str) -> None:
    assert told(wrong(), text) in CLASSES


def test_words_are_blind_to_case_order_and_width() -> None:
    assert words("Ｈello, World hello") == {"hello", "world"}


def test_wrong_answers_without_a_profile_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a `profile`"):
        WrongAnswerSettings(wrong_from=1)


@pytest.mark.parametrize("bound", [0.0, 2.1, float("nan")])
def test_a_bound_out_of_range_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match=r"wrong_answers\.bound: above 0 and at most 2"):
        WrongAnswerSettings(bound=bound)
