"""Shaping: what each level leaves of an answer, and that it is the model's own."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from velvetrope_client.shaping import (
    Shape,
    ShapingSettings,
    TextFilter,
    shape_choices,
    shape_probabilities,
)

LEVELS = st.integers(0, 6).map(ShapingSettings().at)
CHANCES = st.lists(st.floats(0, 1), min_size=1, max_size=8).map(
    lambda weights: {str(place): w / (sum(weights) or 1) for place, w in enumerate(weights)}
)
TEXT = "<think>the user wants a greeting</think>\n\nHello, I am glad to meet you."


def filtered(shape: Shape, pieces: list[str], **options: bool) -> str:
    text = TextFilter(shape, **options)
    return "".join(text.feed(piece) for piece in pieces) + text.close()


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (0, {"a": 0.62, "b": 0.27, "c": 0.11}),
        (1, {"a": 0.6, "b": 0.3, "c": 0.1}),
        (2, {"a": 0.6, "b": 0.2, "c": 0.2}),
        (3, {"a": 1.0, "b": 0.0, "c": 0.0}),
    ],
)
def test_probabilities_by_level(level: int, shown: dict[str, float]) -> None:
    chances = {"a": 0.62, "b": 0.27, "c": 0.11}
    assert shape_probabilities(ShapingSettings().at(level), chances, "a") == shown


@given(LEVELS, CHANCES)
def test_the_label_leads_alone_and_classes_stay(shape: Shape, chances: dict[str, float]) -> None:
    top = max(chances, key=lambda name: chances[name])
    shown = shape_probabilities(shape, chances, top)
    assert list(shown) == list(chances)
    if shape.digits is not None:
        assert all(shown[top] > other for name, other in shown.items() if name != top)


def test_the_order_of_steps_can_be_changed() -> None:
    shape = ShapingSettings(round_from=0, confidence_from=1).at(1)
    assert (shape.digits, shape.confidence) == (None, True)


@given(LEVELS, st.lists(st.integers(0, len(TEXT))))
def test_the_cuts_of_a_text_change_nothing(shape: Shape, places: list[int]) -> None:
    at = sorted({0, len(TEXT), *places})
    pieces = [TEXT[a:b] for a, b in itertools.pairwise(at)]
    assert filtered(shape, pieces) == filtered(shape, [TEXT])


def test_reasoning_at_the_head_of_a_text_is_withheld() -> None:
    assert filtered(Shape(reasoning=True), [TEXT]) == "Hello, I am glad to meet you."


@pytest.mark.parametrize("text", ["", "  ", "<thi", " <thinking aloud", "a <think>b</think>"])
def test_a_text_without_reasoning_at_its_head_stays(text: str) -> None:
    assert filtered(Shape(reasoning=True), [text]) == text


def test_a_text_is_cut_at_the_limit_and_a_document_is_not() -> None:
    shape = Shape(max_chars=5)
    assert filtered(shape, ["Hel", "lo, you"]) == "Hello"
    assert filtered(shape, ["Hel", "lo, you"], prose=False) == "Hello, you"


@given(st.text(" <think/>", max_size=300))
def test_little_is_held_back(text: str) -> None:
    shown = TextFilter(Shape(reasoning=True))
    for character in text:
        shown.feed(character)
        assert len(shown._held) <= 64


def answer() -> dict[str, Any]:
    return {
        "prompt_logprobs": [1],
        "choices": [
            {"index": 0, "message": {"content": "a", "reasoning_content": "r"}, "logprobs": {}},
            {"index": 1, "message": {"content": "b"}},
        ],
    }


def test_level_1_withholds_log_probabilities_and_reasoning() -> None:
    shaped = answer()
    shape_choices(ShapingSettings().at(1), shaped)
    assert shaped == {
        "prompt_logprobs": None,
        "choices": [
            {"index": 0, "message": {"content": "a"}, "logprobs": None},
            {"index": 1, "message": {"content": "b"}},
        ],
    }


def test_level_2_leaves_one_alternative() -> None:
    shaped = answer()
    shape_choices(ShapingSettings().at(2), shaped)
    assert [choice["index"] for choice in shaped["choices"]] == [0]


def test_level_0_leaves_everything() -> None:
    shaped = answer()
    shape_choices(ShapingSettings().at(0), shaped)
    assert shaped == answer()


def test_settings_out_of_range_say_where() -> None:
    with pytest.raises(ValueError, match=r"shaping\.digits: 0 to 6, not 9"):
        ShapingSettings(digits=9)
