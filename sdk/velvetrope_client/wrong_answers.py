"""Wrong answers for a classifier's poisoned callers, where an operator opted in.

Two strengths. **Perturbed**: the label stays, and probability moves from it to a class drawn by the
key, within a bound; only who learns from probabilities is misled. **Wrong**: where the input is far
from what customers send the label is drawn by the key from all classes and so says nothing of the
model; everywhere else answers are right. A customer hardly ever asks there, a thief without
customers' inputs does (docs/poison.md has the figures).

Nothing is drawn by chance. A subject's draw is an HMAC of the cell that the input lies in, and
cells are wide: those of `velvetrope_client.cells` at a coarse scale for numbers, the least word by
HMAC for texts. The same question has the same answer, so has nearly every neighbour of it, and an
average over repeats, over near-duplicates or over accounts averages draws that never knew the
truth.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from velvetrope_client.cells import Input, cell
from velvetrope_client.keys import Key

__all__ = ["Region", "WrongAnswerSettings", "WrongAnswers", "perturbed", "swapped", "words"]

_WIDE: Final = 4.0  # deviations: the noise that hides two questions' likeness is far below
_WORD: Final = re.compile(r"\w+")
_PURPOSE: Final = "wrong answers 1"
_MARGIN: Final = 1e-3  # by which a perturbed answer's label still leads


class Region(Protocol):
    """What customers send, as far as it is known."""

    def is_far(self, given: Input) -> bool:
        """Whether an input is unlike them."""
        ...

    def coordinates(self, given: Sequence[float]) -> list[float] | None:
        """A vector on the scale of customers' own, or None when it has another length."""
        ...


@dataclass(frozen=True, slots=True)
class WrongAnswerSettings:
    """What is opted into at an endpoint, and from which level; level 0 is never.

    Attributes:
        perturb_from: level from which probabilities are perturbed.
        bound: largest L1 distance of perturbed probabilities from the model's, 0 to 2.
        wrong_from: level from which labels of inputs far from customers' are wrong.
        profile: of customers' inputs, as `velvetrope_client.profile` makes them.
    """

    perturb_from: int = 0
    bound: float = 0.5
    wrong_from: int = 0
    profile: Region | None = field(default=None, repr=False)

    @property
    def opted_in(self) -> bool:
        """Whether there is a level from which answers are perturbed or wrong."""
        return bool(self.perturb_from or self.wrong_from)

    def __post_init__(self) -> None:
        if not 0.0 < self.bound <= 2.0:
            raise ValueError(f"wrong_answers.bound: above 0 and at most 2, not {self.bound}")
        if self.wrong_from and self.profile is None:
            raise ValueError(
                "wrong_answers.wrong_from needs a `profile`: without one customers and thieves "
                "would be told wrong alike"
            )


class WrongAnswers:
    """The wrong answers of one endpoint, under one key."""

    def __init__(self, settings: WrongAnswerSettings, key: Key) -> None:
        self._settings = settings
        self._key = key

    def answer(
        self,
        subject: str,
        level: int,
        given: Input,
        label: str,
        chances: Mapping[str, float],
        classes: Sequence[str],
    ) -> tuple[str, dict[str, float]]:
        """Label and probabilities to give in the place of the model's.

        `classes` are all that the model knows: what is drawn from. Both inputs that are the same
        and nearly all that are nearly the same get the same draw.
        """
        own = dict(chances)
        if len(classes) < 2:
            return label, own
        wrong, profile = self._settings.wrong_from, self._settings.profile
        if 0 < wrong <= level and profile is not None and profile.is_far(given):
            order = self._order(subject, given, "label", classes)
            # All probabilities go by the draw: of a runner-up in its place a thief would learn.
            return order[0], dict(zip(order, sorted(own.values(), reverse=True), strict=False))
        perturb = self._settings.perturb_from
        if 0 < perturb <= level and label in own and len(own) > 1:
            others = [name for name in classes if name != label and name in own]
            if others:
                toward = self._order(subject, given, "perturb", others)[0]
                own = perturbed(own, label, toward, self._settings.bound)
        return label, own

    def _order(self, subject: str, given: Input, use: str, classes: Sequence[str]) -> list[str]:
        """The classes in the order of their HMACs for the input's cell."""
        place = self._cell(given)
        return sorted(
            set(classes), key=lambda name: self._key.derive(_PURPOSE, use, subject, place, name)
        )

    def _cell(self, given: Input) -> str:
        if isinstance(given, str):
            return min(
                words(given), key=lambda word: self._key.derive(_PURPOSE, "word", word), default=""
            )
        profile = self._settings.profile
        known = None if profile is None else profile.coordinates(given)
        return cell(self._key, given) if known is None else cell(self._key, known, _WIDE)


def words(text: str) -> frozenset[str]:
    """A text's words, without case, accents' spelling, order, punctuation and repetition.

    >>> sorted(words("Hello,  hello WORLD!"))
    ['hello', 'world']
    """
    plain = unicodedata.normalize("NFKC", text.encode("utf-8", "replace").decode()).casefold()
    return frozenset(_WORD.findall(plain))


def swapped(chances: Mapping[str, float], label: str, other: str) -> dict[str, float]:
    """Probabilities under which another label leads by as much as the label did.

    >>> swapped({"a": 0.7, "b": 0.2, "c": 0.1}, "a", "c")
    {'a': 0.1, 'b': 0.2, 'c': 0.7}
    """
    own = dict(chances)
    if other in own and label in own:
        own[other], own[label] = own[label], own[other]
    elif label in own:
        own[other] = own.pop(label)
    return own


def perturbed(
    chances: Mapping[str, float], label: str, toward: str, bound: float
) -> dict[str, float]:
    """Move probability from the label to `toward`, by at most `bound` in L1; the label leads still.

    >>> perturbed({"a": 0.7, "b": 0.2, "c": 0.1}, "a", "c", 0.2)
    {'a': 0.6, 'b': 0.2, 'c': 0.2}
    """
    third = max((p for name, p in chances.items() if name not in (label, toward)), default=0.0)
    room = min(
        chances[label] - third - _MARGIN,
        (chances[label] - chances[toward] - _MARGIN) / 2.0,
        bound / 2.0,
    )
    if room <= 0.0:
        return dict(chances)
    return {
        name: round(chance - room, 12)
        if name == label
        else round(chance + room, 12)
        if name == toward
        else chance
        for name, chance in chances.items()
    }
