"""Where in a JSON document something stands: `predictions.*.label`, `0.score`, or `` for all of it.

Steps are separated by dots: a name of an object, a place in a list, or `*` for every item of one.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["MISSING", "JsonPath"]


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


class JsonPath:
    """One path, read once."""

    __slots__ = ("steps", "text")

    def __init__(self, text: str) -> None:
        """Raises ValueError for a path with an empty step in it."""
        self.text = text
        self.steps = tuple(text.split(".")) if text else ()
        if "" in self.steps:
            raise ValueError(f"path {text!r}: a step is empty")

    def all(self, document: Any) -> list[Any]:
        """Every value at the path, in order; none where it leads nowhere.

        >>> JsonPath("rows.*.x").all({"rows": [{"x": 1}, {"y": 2}, {"x": 3}]})
        [1, 3]
        """
        found = [document]
        for step in self.steps:
            if step == "*":
                found = [item for value in found if isinstance(value, list) for item in value]
            else:
                found = [got for value in found if (got := _step(value, step)) is not MISSING]
        return found

    def get(self, document: Any) -> Any:
        """The first value at the path, or MISSING."""
        found = self.all(document)
        return found[0] if found else MISSING

    def set(self, document: Any, value: Any) -> bool:
        """Put a value where one is; False where none is, or for the document itself."""
        if not self.steps:
            return False
        holders = JsonPath(".".join(self.steps[:-1])).all(document)
        last = self.steps[-1]
        for holder in holders:
            if isinstance(holder, dict) and last in holder:
                holder[last] = value
                return True
            if isinstance(holder, list) and _place(holder, last) is not None:
                holder[int(last)] = value
                return True
        return False

    def __repr__(self) -> str:
        return f"JsonPath({self.text!r})"


def _step(value: Any, step: str) -> Any:
    if isinstance(value, dict):
        return value.get(step, MISSING)
    if isinstance(value, list):
        place = _place(value, step)
        return MISSING if place is None else value[place]
    return MISSING


def _place(items: list[Any], step: str) -> int | None:
    return int(step) if step.isascii() and step.isdigit() and int(step) < len(items) else None
