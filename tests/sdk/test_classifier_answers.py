"""Classifiers' answers: the forms that are read, those that are not, and what is written back."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from velvetrope_client.classifier_answers import ClassifierPaths, read_answers, read_inputs

AUTO = ClassifierPaths()
FORMS: list[tuple[Any, Any]] = [
    (
        {"label": "a", "probabilities": {"a": 0.7, "b": 0.3}},
        {"label": "b", "probabilities": {"a": 0.25, "b": 0.75}},
    ),
    ({"label": 0, "scores": [0.7, 0.3]}, {"label": 1, "scores": [0.25, 0.75]}),
    ([{"label": "a", "score": 0.7}], [{"label": "b", "score": 0.75}]),
    (
        [[{"label": "a", "score": 0.7}, {"label": "b", "score": 0.3}]],
        [[{"label": "b", "score": 0.75}, {"label": "a", "score": 0.25}]],
    ),
    ({"predictions": [[0.7, 0.3]]}, {"predictions": [[0.25, 0.75]]}),
    ({"class": "a", "confidence": 0.7, "x": 1}, {"class": "b", "confidence": 0.75, "x": 1}),
]


@pytest.mark.parametrize(("document", "written"), FORMS)
def test_each_form_is_read_and_written_back(document: Any, written: Any) -> None:
    document = deepcopy(document)
    (answer,) = read_answers(document, AUTO)
    first, second = ("a", "b") if answer.label == "a" else ("0", "1")
    assert answer.label == first
    assert answer.chances[first] == 0.7
    answer.write(second, {first: 0.25, second: 0.75})
    assert document == written


@pytest.mark.parametrize(
    "document",
    [
        {"embedding": [0.1, 0.2]},
        [0.3, -0.2, 0.9],
        {"data": [{"embedding": [0.5, 0.5]}]},
        {"predictions": [2.5, 3.5]},
        {"label": "a", "scores": [2.0, -1.0]},
        {"ok": True},
        [],
        "text",
        None,
    ],
)
def test_what_is_no_probability_is_left_alone(document: Any) -> None:
    assert all(not answer.chances for answer in read_answers(document, AUTO))


def test_paths_can_be_told() -> None:
    paths = ClassifierPaths(
        answers=("out.*",),
        label=("best.name",),
        probabilities=("p",),
        inputs=("rows",),
        classes=("a", "b"),
    )
    document = {"out": [{"best": {"name": "a"}, "p": [0.7, 0.3]}]}
    (answer,) = read_answers(document, paths)
    answer.write("b", {"a": 0.2, "b": 0.8})
    assert document == {"out": [{"best": {"name": "b"}, "p": [0.2, 0.8]}]}


def test_what_is_shown_is_what_can_be_drawn() -> None:
    few = {"label": "a", "confidence": 0.7}
    named = ClassifierPaths(classes=("a", "b", "c"))
    assert read_answers(few, AUTO)[0].drawn_from(AUTO) == ()
    assert read_answers(few, named)[0].drawn_from(named) == ("a", "b", "c")
    shown = read_answers(FORMS[0][0], named)[0]
    assert shown.drawn_from(named) == ("a", "b")


@pytest.mark.parametrize(
    ("request_", "count", "inputs"),
    [
        ({"instances": [[1, 2], [3, 4]]}, 2, [[1.0, 2.0], [3.0, 4.0]]),
        ({"input": [1, 2]}, 1, [[1.0, 2.0]]),
        ({"instances": [[1, 2]]}, 1, [[1.0, 2.0]]),
        ({"inputs": "hello"}, 1, ["hello"]),
        ({"inputs": ["a", "b"]}, 2, ["a", "b"]),
        ({"features": {"b": 2, "a": 1}}, 1, [[1.0, 2.0]]),
        ({"text": "a"}, 2, [None, None]),
        ({"input": [1, "x"]}, 1, [None]),
        ({"input": 10**400}, 1, [None]),
        ({}, 1, [None]),
        (None, 1, [None]),
    ],
)
def test_inputs_go_with_answers(request_: Any, count: int, inputs: list[Any]) -> None:
    assert read_inputs(request_, AUTO, count) == inputs
