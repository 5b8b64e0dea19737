"""Prose that comes with the project's own libraries: the manuals of NumPy and SciPy.

Grammars have few words. What a thief reads out of an encyclopedia has many, and so have these; the
lock file fixes their versions, so that they are the same everywhere.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections import Counter
from functools import cache
from typing import Final

from benchmarks.detection.sources import Split, third

__all__ = ["articles"]

_MODULES: Final = (
    "numpy",
    "numpy.linalg",
    "scipy.interpolate",
    "scipy.linalg",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.signal",
    "scipy.stats",
)
_LEAST_CHARACTERS: Final = 80
_LETTERS: Final = 0.88  # share of letters and spaces, below which it is a formula or a listing


def articles(split: Split) -> dict[str, list[str]]:
    """A split's share of the manuals: documented name → its paragraphs, two or more."""
    every = _every()
    return {name: every[name] for name in sorted(third(every, split))}


@cache
def _every() -> dict[str, list[str]]:
    documented: dict[str, str] = {}  # several names may have one text
    for module in map(importlib.import_module, _MODULES):
        for name in sorted(dir(module)):
            thing = getattr(module, name)
            if callable(thing) and not name.startswith("_") and (text := inspect.getdoc(thing)):
                documented.setdefault(text, f"{module.__name__}.{name}")
    found = {name: _paragraphs(text) for text, name in documented.items()}
    seen = Counter(paragraph for paragraphs in found.values() for paragraph in paragraphs)
    once = {name: [p for p in paragraphs if seen[p] == 1] for name, paragraphs in found.items()}
    return {name: paragraphs for name, paragraphs in once.items() if len(paragraphs) >= 2}


def _paragraphs(text: str) -> list[str]:
    """The paragraphs of sentences: no headings, lists of parameters, examples or formulas."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        said = re.sub(r"(?::\w+:)?`+~?([^`]*)`+", r"\1", " ".join(block.split()))
        letters = sum(c.isalpha() or c.isspace() for c in said)
        marked = any(mark in said for mark in (">>>", "----", ".. ", "::"))
        if len(said) > _LEAST_CHARACTERS and not marked and letters > _LETTERS * len(said):
            found.append(said)
    return found
