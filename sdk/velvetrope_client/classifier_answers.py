"""Answers of classifiers in JSON: where the label, the probabilities and the inputs stand.

Understood without being told: `{"label": …, "probabilities": {…}}` and the like, one or many of
them in a list or under `predictions`, and lists of `{"label", "score"}`, the likeliest first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from velvetrope_client.cells import Input
from velvetrope_client.json_paths import MISSING, JsonPath

__all__ = ["ClassifierAnswer", "ClassifierPaths", "read_answers", "read_inputs"]

_MAX_DEPTH: Final = 4
_SUM_OFF: Final = 0.02  # of 1, by which rounded probabilities may be off


@dataclass(frozen=True, slots=True)
class ClassifierPaths:
    """Where things stand; of several paths the first that leads somewhere counts.

    Attributes:
        answers: to the answers, in the response; `` is the response itself.
        label: in an answer.
        probabilities: in an answer; an object by class, an array, or `{"label", "score"}` objects.
        confidence: in an answer; the probability of its label.
        inputs: to the inputs, in the request, in the order of the answers.
        classes: names in the order of an array of probabilities; else their places are their names.
    """

    answers: tuple[str, ...] = ("predictions.*", "results.*", "outputs.*", "*", "")
    label: tuple[str, ...] = ("label", "class", "prediction", "predicted_label")
    probabilities: tuple[str, ...] = ("probabilities", "scores", "probs", "")
    confidence: tuple[str, ...] = ("confidence", "score", "probability")
    inputs: tuple[str, ...] = (
        "instances",
        "inputs",
        "input",
        "texts",
        "text",
        "features",
        "data",
        "query",
    )
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for paths in (self.answers, self.label, self.probabilities, self.confidence, self.inputs):
            for path in paths:
                JsonPath(path)


@dataclass(slots=True)
class ClassifierAnswer:
    """One answer, and where to write it back: `label` by its text, `chances` by class."""

    label: str
    chances: dict[str, float]
    _document: Any = field(repr=False)
    _label_at: JsonPath | None
    _label_is_number: bool
    _chances_at: JsonPath | None
    _form: str  # of the probabilities: "object", "array", "ranking" or "none"
    _classes: tuple[str, ...]
    _confidence_at: JsonPath | None

    def write(self, label: str, chances: Mapping[str, float], *, only_top: bool = False) -> None:
        """Put another label and other probabilities in the place of those that were read."""
        if self._label_at is not None:
            self._label_at.set(self._document, _as_written(label, self._label_is_number))
        if self._confidence_at is not None and label in chances:
            self._confidence_at.set(self._document, chances[label])
        if self._chances_at is None:
            return
        held = self._chances_at.get(self._document)
        if self._form == "object":
            held.update({name: chances[name] for name in held if name in chances})
        elif self._form == "array":
            held[:] = [chances[name] for name in self._classes]
        else:
            ranked = sorted(chances.items(), key=lambda pair: (pair[0] != label, -pair[1]))
            if only_top:
                ranked = ranked[:1]
            number = isinstance(held[0]["label"], int)
            held[:] = [
                {**like, "label": _as_written(name, number), "score": chance}
                for like, (name, chance) in zip(held, ranked, strict=False)
            ]

    def drawn_from(self, paths: ClassifierPaths) -> tuple[str, ...]:
        """The classes that a wrong answer may name: those shown, or all where few or none are."""
        if paths.classes and self._form in ("none", "ranking"):
            return paths.classes
        return tuple(self.chances) if len(self.chances) > 1 else ()


def read_answers(document: Any, paths: ClassifierPaths) -> list[ClassifierAnswer]:
    """The answers in a response, in order; none when it holds something else."""
    for path in paths.answers:
        items = JsonPath(path).all(document)
        if items and len(found := [a for item in items if (a := _answer(item, paths))]) == len(
            items
        ):
            return found
    return []


def read_inputs(document: Any, paths: ClassifierPaths, count: int) -> list[Input | None]:
    """The inputs of a request, one for each of `count` answers; None where one cannot be told.

    >>> read_inputs({"instances": [[1, 2], [3, 4]]}, ClassifierPaths(), 2)
    [[1.0, 2.0], [3.0, 4.0]]
    """
    for path in paths.inputs:
        values = JsonPath(path).all(document)
        if not values:
            continue
        if len(values) == 1:
            value = values[0]
            if (
                isinstance(value, list)
                and len(value) == count
                and not (count == 1 and _input(value) is not None)
            ):
                return [_input(item) for item in value]
            values = [value]
        if len(values) == count:
            return [_input(value) for value in values]
    return [None] * count


def _answer(item: Any, paths: ClassifierPaths) -> ClassifierAnswer | None:
    label_at, label = _first(item, paths.label)
    form, chances_at, chances, classes = _probabilities(item, paths)
    confidence_at, confidence = _first(item, paths.confidence)
    if not _is_number(confidence):
        confidence_at = None
    if isinstance(label, bool) or not isinstance(label, str | int):
        label_at = None
        if form == "none":
            return None
        named = max(chances, key=lambda name: chances[name])
    else:
        named = _named(label)
        if form == "array" and not paths.classes and named not in chances:
            return None
    if not chances and confidence_at is not None:
        chances = {named: float(confidence)}
    return ClassifierAnswer(
        named,
        chances,
        item,
        label_at,
        isinstance(label, int),
        chances_at,
        form,
        classes,
        confidence_at,
    )


def _probabilities(
    item: Any, paths: ClassifierPaths
) -> tuple[str, JsonPath | None, dict[str, float], tuple[str, ...]]:
    for path in paths.probabilities:
        at = JsonPath(path)
        held = at.get(item)
        if isinstance(held, dict) and path and _are_chances(list(held.values()), whole=True):
            return "object", at, {name: float(p) for name, p in held.items()}, ()
        if not isinstance(held, list) or not held:
            continue
        if _are_chances(held, whole=True):
            classes = paths.classes or tuple(str(place) for place in range(len(held)))
            if len(classes) == len(held):
                return "array", at, dict(zip(classes, map(float, held), strict=True)), classes
        elif all(map(_is_ranked, held)) and _are_chances([r["score"] for r in held], whole=False):
            chances = {_named(one["label"]): float(one["score"]) for one in held}
            if len(chances) == len(held):
                return "ranking", at, chances, ()
    return "none", None, {}, ()


def _first(item: Any, paths: tuple[str, ...]) -> tuple[JsonPath | None, Any]:
    if isinstance(item, dict):
        for path in paths:
            at = JsonPath(path)
            value = at.get(item)
            if value is not MISSING:
                return at, value
    return None, MISSING


def _is_ranked(one: Any) -> bool:
    return (
        isinstance(one, dict)
        and isinstance(one.get("label"), str | int)
        and _is_number(one.get("score"))
    )


def _are_chances(values: list[Any], *, whole: bool) -> bool:
    """Whether numbers can be the probabilities of all classes, or of some: an embedding is not."""
    if not values or not all(_is_number(value) and 0.0 <= value <= 1.0 for value in values):
        return False
    total = sum(values)
    return total <= 1.0 + _SUM_OFF and (not whole or total >= 1.0 - _SUM_OFF)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond floats
        return False


def _named(label: str | int) -> str:
    return label if isinstance(label, str) else str(label)


def _as_written(label: str, number: bool) -> str | int:
    return int(label) if number and label.lstrip("-").isdigit() else label


def _input(value: Any) -> Input | None:
    if isinstance(value, str):
        return value
    numbers = list(_numbers(value, 0))
    if numbers and all(number is not None for number in numbers):
        return [float(number) for number in numbers if number is not None]
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return "\n".join(value)
    if isinstance(value, dict):
        return _input(value.get("text"))
    return None


def _numbers(value: Any, depth: int) -> Iterator[float | None]:
    """The numbers in lists and objects, objects by name; None for anything else on the way."""
    if _is_number(value):
        yield float(value)
    elif isinstance(value, list) and depth < _MAX_DEPTH:
        for item in value:
            yield from _numbers(item, depth + 1)
    elif isinstance(value, dict) and depth < _MAX_DEPTH:
        for name in sorted(value):
            yield from _numbers(value[name], depth + 1)
    else:
        yield None
