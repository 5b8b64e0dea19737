"""Who writes: the subjects someone cares about, the names around them, and how they type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from detector.sample.dice import Dice
from detector.sample.grammar import load

__all__ = ["Persona", "Style", "all_subjects", "name_from", "vocabulary"]


@dataclass(frozen=True, slots=True)
class Style:
    """How someone types: shares of 1, and habits."""

    lower: bool  # never a capital
    bare: bool  # no full stop at the end
    typo: float  # of the words
    filler: float  # of the messages
    greeting: str
    fillers: tuple[str, ...]

    def apply(self, text: str, dice: Dice) -> str:
        """The text as this person would have typed it."""
        if self.filler and dice.chance(self.filler):
            words = text.split(" ")
            words.insert(dice.integer(0, min(6, len(words))), dice.pick(self.fillers))
            text = " ".join(words)
        if self.typo:
            text = " ".join(
                _typo(w, dice) if dice.chance(self.typo) else w for w in text.split(" ")
            )
        if self.greeting and dice.chance(0.3):
            text = f"{self.greeting} {text}"
        if self.lower:
            text = text.lower()
        elif text[:1].islower() and dice.chance(0.7):
            text = text[0].upper() + text[1:]
        if self.bare:
            text = text.rstrip(".?! ")
        return text.strip() or "hm"


@dataclass(frozen=True)
class Persona:
    """One customer's words, the same every day."""

    subjects: tuple[Mapping[str, Sequence[str]], ...]
    style: Style

    @classmethod
    def of(cls, dice: Dice, subjects: int) -> Persona:
        """Somebody who cares about that many subjects, the first ones most."""
        general = _general()
        own = {
            "friend": dice.some(general["first_names"], dice.integer(2, 6)),
            "place": dice.some(general["places"], dice.integer(1, 4)),
            "project": [name_from(dice).capitalize() for _ in range(dice.integer(1, 3))],
            "surname": [name_from(dice).capitalize() for _ in range(8)],
        }
        chosen = dice.some(sorted(_subjects()), subjects)
        style = Style(
            lower=dice.chance(0.3),
            bare=dice.chance(0.35),
            typo=dice.pick((0.0, 0.0, 0.005, 0.015, 0.04)),
            filler=dice.pick((0.0, 0.0, 0.1, 0.3)),
            greeting=dice.pick(("", "", "", "hi,", "hello!", "hey", "good morning,")),
            fillers=tuple(dice.some(general["fillers"], 4)),
        )
        return cls(
            tuple(vocabulary(name, own, dice, 0.55) for name in chosen),
            style,
        )

    def subject(self, dice: Dice) -> Mapping[str, Sequence[str]]:
        """The words of one of the subjects; earlier ones come up more often."""
        rank = int(len(self.subjects) * dice.random() ** 1.8)
        return self.subjects[rank]


def vocabulary(
    subject: str, own: Mapping[str, Sequence[str]], dice: Dice, share: float
) -> dict[str, Sequence[str]]:
    """The part of a subject's words that somebody uses, and their own names."""
    words: dict[str, Sequence[str]] = {}
    for slot, known in _subjects()[subject].items():
        words[slot] = dice.some(known, max(3, round(share * len(known))))
    words["trouble2"] = words["trouble"]
    words.update(own)
    return words


def all_subjects(own: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Every word of every subject at once: what somebody uses who asks about everything."""
    words: dict[str, list[str]] = {}
    for subject in _subjects().values():
        for slot, known in subject.items():
            words.setdefault(slot, []).extend(known)
    general = _general()
    return {
        **words,
        "trouble2": words["trouble"],
        "friend": general["first_names"],
        "place": general["places"],
        **own,
    }


def name_from(dice: Dice) -> str:
    """A name that means nothing: two or three syllables."""
    return "".join(dice.some(_general()["syllables"], dice.integer(2, 3)))


@cache
def _subjects() -> dict[str, dict[str, list[str]]]:
    singular = {"things": "thing", "acts": "act", "traits": "trait", "troubles": "trouble"}
    return {
        name: {singular[slot]: words.split(", ") for slot, words in subject.items()}
        for name, subject in load("words")["subjects"].items()
    }


@cache
def _general() -> dict[str, list[str]]:
    return {slot: words.split(", ") for slot, words in load("words")["general"].items()}


def _typo(word: str, dice: Dice) -> str:
    """A letter dropped, doubled, or swapped with the next."""
    if len(word) < 4 or not word.isalpha():
        return word
    at = dice.integer(1, len(word) - 2)
    kind = dice.integer(0, 2)
    if kind == 0:
        return word[:at] + word[at + 1 :]
    if kind == 1:
        return word[:at] + word[at] + word[at:]
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
