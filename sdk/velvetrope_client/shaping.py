"""What an answer may reveal, in steps by level: less, and nothing that is wrong.

Level 1 rounds probabilities and withholds log-probabilities and reasoning; level 2 also leaves one
class and one alternative; level 3 also withholds how sure the model is, and shortens. The label and
the text that remain are the model's own at every level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Shape", "ShapingSettings", "TextFilter", "shape_choices", "shape_probabilities"]

_REASONING: Final = ("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks")
_OPEN: Final = "<think>"
_CLOSE: Final = "</think>"
_MAX_SPACE: Final = 64  # characters before a tag


@dataclass(frozen=True, slots=True)
class ShapingSettings:
    """The level from which each step is taken; 0 never takes it."""

    round_from: int = 1
    logprobs_from: int = 1
    reasoning_from: int = 1
    top_one_from: int = 2
    confidence_from: int = 3
    shorten_from: int = 3
    digits: int = 1
    max_chars: int = 1200

    def __post_init__(self) -> None:
        if not 0 <= self.digits <= 6:
            raise ValueError(f"shaping.digits: 0 to 6, not {self.digits}")
        if self.max_chars < 1:
            raise ValueError(f"shaping.max_chars: at least 1, not {self.max_chars}")

    def at(self, level: int) -> Shape:
        """What is done at a level."""

        def taken(first: int) -> bool:
            return 0 < first <= level

        return Shape(
            digits=self.digits if taken(self.round_from) else None,
            logprobs=taken(self.logprobs_from),
            reasoning=taken(self.reasoning_from),
            top_one=taken(self.top_one_from),
            confidence=taken(self.confidence_from),
            max_chars=self.max_chars if taken(self.shorten_from) else None,
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """The steps taken at one level: `digits` of probabilities, `max_chars` of a text."""

    digits: int | None = None
    logprobs: bool = False
    reasoning: bool = False
    top_one: bool = False
    confidence: bool = False
    max_chars: int | None = None


def shape_probabilities(shape: Shape, chances: Mapping[str, float], top: str) -> dict[str, float]:
    """Probabilities by class as they may be shown; `top` stays the strict maximum.

    With `top_one` the other classes share what is left evenly, and without confidence the top has
    all of it: an application that looks a class up by name, or adds them up, still can.

    >>> shape_probabilities(Shape(digits=1), {"a": 0.36, "b": 0.34, "c": 0.30}, "a")
    {'a': 0.4, 'b': 0.3, 'c': 0.3}
    >>> shape_probabilities(Shape(digits=1, top_one=True), {"a": 0.8, "b": 0.15, "c": 0.05}, "a")
    {'a': 0.8, 'b': 0.1, 'c': 0.1}
    """
    if top not in chances:
        return dict(chances)
    if shape.confidence:
        return {name: float(name == top) for name in chances}
    shown = dict(chances)
    if shape.top_one and len(shown) > 1:
        rest = max(0.0, 1.0 - shown[top]) / (len(shown) - 1)
        shown = {name: chance if name == top else rest for name, chance in shown.items()}
    if shape.digits is None:
        return shown
    step = 10.0**-shape.digits
    rounded = {name: round(chance, shape.digits) for name, chance in shown.items()}
    rounded[top] = max(rounded[top], step)
    most = round(rounded[top] - step, shape.digits)
    return {
        name: chance if name == top else max(0.0, min(chance, most))
        for name, chance in rounded.items()
    }


class TextFilter:
    """One text as it may be shown, given in pieces of any size: `feed` each, then `close`.

    What comes out does not depend on where the pieces are cut, and what is held back is never more
    than a tag. `shortened` says whether the end was cut off.
    """

    __slots__ = ("_held", "_left", "_state", "shortened")

    def __init__(self, shape: Shape, *, prose: bool = True) -> None:
        """`prose` False leaves the length alone: half a JSON document is none."""
        self._state = "opening" if shape.reasoning else "text"
        self._held = ""
        self._left = shape.max_chars if prose else None
        self.shortened = False

    def feed(self, piece: str) -> str:
        """What of the text may be shown by now and was not yet."""
        if self._state == "text":
            return self._cut(piece)
        self._held += piece
        if self._state == "opening":
            start = self._held.lstrip()
            begun = len(start) < len(_OPEN) and _OPEN.startswith(start)
            if begun and len(self._held) <= _MAX_SPACE:
                return ""
            if not start.startswith(_OPEN):
                return self._as_text()
            self._state, self._held = "thinking", start[len(_OPEN) :]
        if self._state == "thinking":
            end = self._held.find(_CLOSE)
            if end < 0:
                self._held = self._held[1 - len(_CLOSE) :]
                return ""
            self._state, self._held = "after", self._held[end + len(_CLOSE) :]
        self._held = self._held.lstrip()
        return self._as_text() if self._held else ""

    def close(self) -> str:
        """The rest, at the end of the text."""
        held, self._held = self._held, ""
        return self._cut(held) if self._state == "opening" else ""

    def _as_text(self) -> str:
        held, self._held, self._state = self._held, "", "text"
        return self._cut(held)

    def _cut(self, text: str) -> str:
        if self._left is None:
            return text
        shown = text[: self._left]
        self._left -= len(shown)
        self.shortened |= len(shown) < len(text)
        return shown


def shape_choices(shape: Shape, document: dict[str, Any]) -> None:
    """Withhold from an OpenAI answer, or a chunk of one, all that is not its text."""
    choices = [c for c in document["choices"] if isinstance(c, dict)]
    if shape.top_one and any(_index(choice) for choice in choices):
        choices = [choice for choice in choices if not _index(choice)]
        document["choices"] = choices
    if shape.logprobs and document.get("prompt_logprobs") is not None:
        document["prompt_logprobs"] = None
    for choice in choices:
        if shape.logprobs:
            for name in ("logprobs", "prompt_logprobs"):
                if choice.get(name) is not None:
                    choice[name] = None
        if shape.reasoning:
            for part in ("message", "delta"):
                said = choice.get(part)
                if isinstance(said, dict):
                    for name in _REASONING:
                        said.pop(name, None)


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0
