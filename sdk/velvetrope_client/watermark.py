"""Marks: a few consistent wrong labels that a clone learns, and by which it can be recognised.

After DAWN (Szyller, Atli, Marchal, Asokan, ACM Multimedia 2021): an HMAC of the input says whether
the answer is marked, and which wrong label is given. There only the input counts; here the subject
does too, so that a clone says whose answers it learned from.

Who is marked is decided before: only answers to suspects go through here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from velvetrope_client.cells import Input, cell
from velvetrope_client.keys import Key

__all__ = ["CONTROLS", "RATE", "Draw", "Question", "Register", "Watermark", "draw", "mark"]

RATE: Final = 0.004  # share of a suspect's queries that are marked; the design says under 0.5 %
CONTROLS: Final = 9  # unmarked queries kept for each marked one, to compare with (`prove`)
_log: Final = logging.getLogger(__name__)


class Draw(Enum):
    """What the key says about an input of a subject."""

    MARKED = "marked"
    CONTROL = "control"  # answered truly, and kept where there is a register
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class Question:
    """What `prove` needs to know of one answer.

    `cell` names the input up to near-duplicates, `label` is the model's own answer, `classes` all
    that it can give, `rate` the share that was marked.
    """

    key_id: str
    subject: str
    cell: str
    value: Input
    label: str
    classes: tuple[str, ...]
    rate: float = RATE

    @property
    def drawn(self) -> tuple[str, str, str]:
        """What the draw depends on: two questions alike in it are one."""
        return self.key_id, self.subject, self.cell

    def place(self, key: Key) -> float:
        """Where this key places the question, 0 to 1: marked if below the rate."""
        return _place(key, self.subject, self.cell)

    def draw(self, key: Key) -> Draw:
        """Marked, control or neither, under this key."""
        return draw(key, self.subject, self.cell, self.rate)

    def wrong_label(self, key: Key) -> str:
        """The wrong label that this key would give here, were the input marked."""
        return _wrong_label(key, self.subject, self.cell, self.label, self.classes)


class Register(Protocol):
    """Keeps what `prove` must know later."""

    def record(self, question: Question) -> None:
        """Keep a question; OSError when it cannot be written."""


def mark(
    key: Key,
    subject: str,
    value: Input,
    label: str,
    classes: Sequence[str],
    *,
    rate: float = RATE,
    scale: float | Sequence[float] | None = None,
) -> str | None:
    """The wrong label to give instead of `label`, or None when the answer stays as it is.

    The same (key, subject, input) always gives the same; `cell` says which inputs count as the
    same. With fewer than two classes nothing is marked.
    """
    name = cell(key, value, scale)
    if draw(key, subject, name, rate) is not Draw.MARKED or not set(classes) - {label}:
        return None
    return _wrong_label(key, subject, name, label, classes)


def draw(key: Key, subject: str, cell_name: str, rate: float = RATE) -> Draw:
    """Whether an input's cell is marked (probability `rate`), a control (9 x `rate`) or neither."""
    place = _place(key, subject, cell_name)
    if place < rate:
        return Draw.MARKED
    return Draw.CONTROL if place < rate * (1 + CONTROLS) else Draw.NEITHER


class Watermark:
    """Marks answers with one key, and keeps what `prove` needs if given a register."""

    __slots__ = ("_key", "_rate", "_register", "_scale")

    def __init__(
        self,
        key: Key,
        *,
        rate: float = RATE,
        scale: float | Sequence[float] | None = None,
        register: Register | None = None,
    ) -> None:
        """`rate`: share of queries marked, above 0 and below 0.005. `scale`: see `cell`."""
        if not 0.0 < rate < 0.005:
            raise ValueError(f"rate {rate}: above 0 and below 0.005")
        self._key = key
        self._rate = rate
        self._scale = scale
        self._register = register

    def answer(self, subject: str, value: Input, label: str, classes: Sequence[str]) -> str:
        """The label to give: the model's own, or now and then a wrong one.

        Never raises for what a caller sent or for a full disk: an answer matters more than a mark.
        """
        try:
            name = cell(self._key, value, self._scale)
        except ValueError:  # another number of columns than the scale has
            name = cell(self._key, value)
        drawn = draw(self._key, subject, name, self._rate)
        if drawn is Draw.NEITHER or not set(classes) - {label}:
            return label
        question = Question(self._key.id, subject, name, value, label, tuple(classes), self._rate)
        if self._register is not None:
            try:
                self._register.record(question)
            except OSError as error:
                _log.warning("a mark was given and not kept: %s", error.strerror or error)
        return question.wrong_label(self._key) if drawn is Draw.MARKED else label


def _place(key: Key, subject: str, cell_name: str) -> float:
    return int.from_bytes(key.derive("watermark", subject, cell_name)[:8], "big") / 2.0**64


def _wrong_label(key: Key, subject: str, cell_name: str, label: str, classes: Sequence[str]) -> str:
    others = sorted(set(classes) - {label})
    drawn = key.derive("watermark label", subject, cell_name, label)
    return others[int.from_bytes(drawn[:16], "big") % len(others)]
