"""Elicitation: shares of a block's requests that show a sign, and how long its answers are."""

from __future__ import annotations

from math import inf, log1p

import pytest

from features.elicitation import Elicitation
from features.kernels import OPENS_UP
from features.signs import SIGNS
from tests.features.battery import measured
from tests.features.slots import Request, block, of_requests

NOTHING = dict.fromkeys([feature.name for feature in Elicitation.features], 0.0)


def scores(*texts: str) -> dict[str, float]:
    return measured(Elicitation(), of_requests([Request(text=text) for text in texts]))


def test_its_features_are_the_signs_in_order_and_the_answers_length() -> None:
    assert [feature.name for feature in Elicitation.features] == [*SIGNS, "answer_length"]


@pytest.mark.parametrize("bit", range(8))
def test_each_sign_is_counted_by_itself(bit: int) -> None:
    found = measured(Elicitation(), block(signs=[1 << bit, 0, 255 - (1 << bit), 1 << bit]))
    expected = {**dict.fromkeys(SIGNS, 0.25), SIGNS[bit]: 0.5, "answer_length": 0.0}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([""], {}),
        (["", "日本語", "xyzzy"], {}),
        (["Explain tides", "List the moons", "xyzzy", "xyzzy"], {"instructs": 0.5}),
        (["xyzzy explain"], {}),
        (["Why tides", "tides?", "tides? xyzzy", "xyzzy"], {"asks": 0.5}),
        (["ok", "xyzzy ok", "Thanks!", "xyzzy"], {"refers_back": 0.5}),
        (["xyzzy my cat", "xyzzy", "xyzzy", "xyzzy"], {"personal": 0.25}),
        (["xyzzy step by step", "xyzzy by step"], {"reasons": 1.0}),
        (["xyzzy by the step", "xyzzy"], {}),
        (["xyzzy set of", "xyzzy"], {"generates": 0.5}),
        (["xyzzy system prompt", "xyzzy", "xyzzy", "xyzzy"], {"probes": 0.25}),
        (
            ["Write a rubric, then show your reasoning", "So what is my language model?"],
            {
                "instructs": 0.5, "generates": 0.5, "reasons": 0.5,
                "refers_back": 0.5, "asks": 0.5, "personal": 0.5, "probes": 0.5,
            },
        ),
    ],
)  # fmt: skip
def test_texts(texts: list[str], expected: dict[str, float]) -> None:
    assert scores(*texts) == pytest.approx({**NOTHING, **expected})


def test_repeating_a_sign_in_one_input_counts_once() -> None:
    assert scores("xyzzy my my my", "xyzzy")["personal"] == 0.5


def test_what_a_request_asks_by_its_parameters() -> None:
    requests = [Request(text="xyzzy", opens_up=i < 3) for i in range(12)]
    assert measured(Elicitation(), of_requests(requests)) == pytest.approx(
        {**NOTHING, "opens_up": 0.25}
    )
    assert measured(Elicitation(), block(signs=[OPENS_UP]))["opens_up"] == 1.0


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([0.0, 0.0], 0.0),  # not logged
        ([9.0, 99.0], (log1p(9) + log1p(99)) / 2),
        ([9.0, 0.0, 0.0], log1p(9)),  # those that are not logged are left out
        ([-5.0, 9.0], log1p(9)),
        ([1e9], log1p(1e9)),
        ([inf, 1e30], log1p(1e9)),  # no answer is longer
    ],
)
def test_the_length_of_answers(answers: list[float], expected: float) -> None:
    found = measured(Elicitation(), block(answer=answers))
    assert found == pytest.approx({**NOTHING, "answer_length": expected})
