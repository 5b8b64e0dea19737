"""Context-free grammars from TOML: rules whose alternatives name other rules in braces."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

from detector.sample.dice import Dice

__all__ = ["Grammar", "load"]

Words = Mapping[str, Sequence[str]]

_SLOT: Final = re.compile(r"\{\{|\}\}|\{(\w+)\}")


class Grammar:
    """Rules by name. An alternative is text in which `{rule}` stands for one of that rule's."""

    def __init__(self, rules: Words) -> None:
        self._rules = {name: [_parts(text) for text in texts] for name, texts in rules.items()}

    def write(self, rule: str, dice: Dice, words: Words) -> str:
        """A sentence of the rule. What the grammar does not define comes from `words`.

        Raises:
            KeyError: neither defines a name that the rule leads to.
        """
        out: list[str] = []
        self._expand(rule, dice, words, out)
        return "".join(out)

    def names(self) -> set[str]:
        """Every name that an alternative mentions and no rule defines: what `words` must have."""
        mentioned = {
            part[0]
            for alternatives in self._rules.values()
            for parts in alternatives
            for part in parts
            if isinstance(part, tuple)
        }
        return mentioned - self._rules.keys()

    def _expand(self, rule: str, dice: Dice, words: Words, out: list[str]) -> None:
        alternatives = self._rules.get(rule)
        if alternatives is None:
            out.append(dice.pick(words[rule]))
            return
        for part in dice.pick(alternatives):
            if isinstance(part, str):
                out.append(part)
            else:
                self._expand(part[0], dice, words, out)


def _parts(text: str) -> list[str | tuple[str]]:
    """Literal text as it is, a slot as a tuple of its name."""
    parts: list[str | tuple[str]] = []
    end = 0
    for slot in _SLOT.finditer(text):
        parts.append(text[end : slot.start()])
        parts.append((slot[1],) if slot[1] else slot[0][0])
        end = slot.end()
    parts.append(text[end:])
    return [part for part in parts if part]


@cache
def load(name: str) -> dict[str, Any]:
    """One of the files in `text/`, parsed."""
    parsed: dict[str, Any] = tomllib.loads((files(__package__) / f"text/{name}.toml").read_text())
    return parsed
