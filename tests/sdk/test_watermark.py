"""Marks: how many, which, and that nothing a caller sends can break an answer."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from velvetrope_client.keys import Key
from velvetrope_client.watermark import CONTROLS, RATE, Draw, Question, Watermark, draw, mark

KEY = Key("test", b"k" * 32)
CLASSES = [str(digit) for digit in range(10)]


def marked(key: Key, subject: str, count: int, classes: list[str] = CLASSES) -> dict[int, str]:
    """The wrong labels given to `count` texts whose true label is the first class."""
    given_ = ((n, mark(key, subject, f"text {n}", classes[0], classes)) for n in range(count))
    return {n: label for n, label in given_ if label is not None}


class Kept:
    def __init__(self) -> None:
        self.questions: list[Question] = []

    def record(self, question: Question) -> None:
        self.questions.append(question)


class FullDisk:
    def record(self, question: Question) -> None:
        raise OSError(28, "No space left on device")


def test_four_in_a_thousand_queries_are_marked() -> None:
    # 50,000 draws of 0.004: 200, standard deviation 14.
    assert 150 < len(marked(KEY, "acct-1", 50_000)) < 250


def test_nine_controls_are_kept_for_each_mark() -> None:
    drawn = Counter(draw(KEY, "acct-1", str(n)) for n in range(100_000))
    # 3,600, standard deviation 59.
    assert 3_360 < drawn[Draw.CONTROL] < 3_840
    assert pytest.approx(0.036) == CONTROLS * RATE


def test_a_mark_is_never_the_true_label() -> None:
    assert "0" not in marked(KEY, "acct-1", 20_000).values()


def test_wrong_labels_are_spread_evenly() -> None:
    counts = Counter(marked(KEY, "acct-1", 100_000).values())
    expected = sum(counts.values()) / 9
    chi_squared = sum((counts[label] - expected) ** 2 / expected for label in CLASSES[1:])
    assert chi_squared < 26.1  # 8 degrees of freedom, p = 0.001


def test_the_same_query_gets_the_same_mark() -> None:
    again = [mark(KEY, "acct-1", "TEXT  7!", "0", CLASSES, rate=1.0) for _ in range(3)]
    assert again == [mark(KEY, "acct-1", "text 7", "0", CLASSES, rate=1.0)] * 3


def test_the_order_of_classes_does_not_matter() -> None:
    assert mark(KEY, "a", "x", "0", CLASSES, rate=1.0) == mark(
        KEY, "a", "x", "0", CLASSES[::-1], rate=1.0
    )


def test_another_subject_is_marked_elsewhere() -> None:
    one, other = marked(KEY, "acct-1", 20_000), marked(KEY, "acct-2", 20_000)
    assert len(one.keys() & other.keys()) < 5  # 0.3 expected by chance


def test_another_key_marks_elsewhere() -> None:
    one, other = marked(KEY, "a", 20_000), marked(Key("k2", b"2" * 32), "a", 20_000)
    assert len(one.keys() & other.keys()) < 5


@pytest.mark.parametrize("classes", [[], ["0"], ["0", "0"]])
def test_without_a_second_class_nothing_is_marked(classes: list[str]) -> None:
    assert mark(KEY, "a", "x", "0", classes, rate=1.0) is None


def test_answer_gives_what_mark_gives() -> None:
    watermark = Watermark(KEY)
    answered = {n: watermark.answer("a", f"text {n}", "0", CLASSES) for n in range(20_000)}
    assert {n: label for n, label in answered.items() if label != "0"} == marked(KEY, "a", 20_000)


def test_the_register_gets_marks_and_controls_alone() -> None:
    kept = Kept()
    watermark = Watermark(KEY, register=kept)
    for n in range(2_000):
        watermark.answer("a", f"text {n}", "0", CLASSES)
    drawn = [draw(KEY, "a", f"t:text {n}") for n in range(2_000)]
    assert [q.draw(KEY) for q in kept.questions] == [d for d in drawn if d is not Draw.NEITHER]


def test_a_full_disk_costs_a_record_and_no_answer() -> None:
    watermark = Watermark(KEY, register=FullDisk())
    answers = [watermark.answer("a", f"text {n}", "0", CLASSES) for n in range(2_000)]
    assert Counter(a != "0" for a in answers)[True] == len(marked(KEY, "a", 2_000))


@given(st.lists(st.floats() | st.integers()) | st.text(), st.text(), st.lists(st.text()))
def test_any_query_has_an_answer(value: str | list[float], label: str, classes: list[str]) -> None:
    watermark = Watermark(KEY, scale=[1.0, 2.0])
    assert watermark.answer("a", value, label, classes) in {label, *classes}


@pytest.mark.parametrize("rate", [0.0, 0.005, 1.0, math.nan])
def test_a_rate_outside_its_bounds_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        Watermark(KEY, rate=rate)
