"""Grammars expand completely, and everything that they mention has words."""

from __future__ import annotations

import pytest

from detector.sample.authors import (
    App,
    Author,
    BatchJob,
    Evaluation,
    Harvester,
    LongPrompts,
    Monitor,
    Person,
)
from detector.sample.dice import Dice
from detector.sample.grammar import Grammar

WAYS = ("instruction", "reasoning", "wrapped")


def test_slots_are_filled_from_rules_and_words() -> None:
    grammar = Grammar({"start": ["{a} {{kept}} {b}"], "a": ["<{b}>"]})
    assert grammar.write("start", Dice(1), {"b": ["x"]}) == "<x> {kept} x"
    assert grammar.names() == {"b"}


def test_a_name_without_words_is_an_error() -> None:
    with pytest.raises(KeyError, match="missing"):
        Grammar({"start": ["{missing}"]}).write("start", Dice(1), {})


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize(
    "kind", [Person, App, BatchJob, Evaluation, LongPrompts, Monitor, *WAYS], ids=str
)
def test_nothing_is_left_unfilled(kind: type[Author] | str, number: int) -> None:
    habit, today = Dice("habit", number), Dice("today", number)
    author = Harvester(kind, 0.2, today) if isinstance(kind, str) else kind(habit, today)  # type: ignore[call-arg]
    texts = [author.write(turn) for turn in range(130)]
    assert all(text.strip() for text in texts)
    assert not any("{thing}" in text or "{number}" in text for text in texts)


def test_two_people_do_not_talk_alike() -> None:
    words = []
    for number in (1, 2):
        person = Person(Dice("habit", number), Dice("today", number))
        words.append({w for turn in range(200) for w in person.write(turn % 9).lower().split()})
    shared = len(words[0] & words[1]) / len(words[0] | words[1])
    assert shared < 0.5
