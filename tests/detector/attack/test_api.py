"""How inputs are put, and how answers are read."""

from __future__ import annotations

import json

import httpx
import pytest

from detector.attack.api import CHAT_ANSWER, CHAT_BODY, Account, Api, BadAnswer, Outcome

URL = "http://127.0.0.1:1/v1"
ACCOUNT = Account(1, {"Authorization": "Bearer secret-1"})


def api(response: httpx.Response, body: str = CHAT_BODY, answer: str = CHAT_ANSWER) -> Api:
    def handle(request: httpx.Request) -> httpx.Response:
        response.extensions["asked"] = request
        return response

    return Api(httpx.Client(transport=httpx.MockTransport(handle)), URL, body, answer)


def test_the_input_stands_where_the_body_says() -> None:
    response = httpx.Response(200, json={"predictions": [3]})
    outcome = api(response, '{"instances": ["$INPUT"], "n": 1}', "predictions.0").ask(
        ACCOUNT, [1.0, 2.5]
    )
    request = response.extensions["asked"]
    assert json.loads(request.content) == {"instances": [[1.0, 2.5]], "n": 1}
    assert request.headers["Authorization"] == "Bearer secret-1"
    assert outcome == Outcome("answered", 200, "3", frozenset({".predictions[]"}))


def test_a_chat_s_answer_is_its_message() -> None:
    document = {"choices": [{"message": {"content": "Yes."}, "logprobs": None}]}
    outcome = api(httpx.Response(200, json=document)).ask(ACCOUNT, "Is it?")
    assert outcome.label == "Yes."
    assert outcome.shape == {".choices[].message.content"}  # null is as good as withheld


def test_scores_stand_for_their_highest() -> None:
    outcome = api(httpx.Response(200, json={"scores": [0.1, 0.7, 0.2]}), '"$INPUT"', "scores").ask(
        ACCOUNT, [0.0]
    )
    assert outcome.label == "1"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, "throttled"), (401, "challenged"), (403, "blocked"), (500, "failed"), (302, "failed")],
)
def test_a_refusal_is_told_by_its_status(status: int, kind: str) -> None:
    outcome = api(httpx.Response(status, headers={"Retry-After": "30"})).ask(ACCOUNT, "x")
    assert outcome == Outcome(kind, status, wait_s=30.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "wait"), [("-5", 0.0), ("1e9", 86_400.0), ("nan", None), ("tomorrow", None)]
)
def test_a_strange_retry_after_holds_nobody_up(value: str, wait: float | None) -> None:
    outcome = api(httpx.Response(429, headers={"Retry-After": value})).ask(ACCOUNT, "x")
    assert outcome.wait_s == wait


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (httpx.Response(200, text="<html>"), "no JSON"),
        (httpx.Response(200, text="[" * 200_000), "no JSON"),
        (httpx.Response(200, json={"choices": []}), r"no choices\.0\.message\.content"),
        (httpx.Response(200, json=7), r"no choices\.0"),
    ],
)
def test_an_answer_that_is_not_there_is_named(response: httpx.Response, said: str) -> None:
    with pytest.raises(BadAnswer, match=said):
        api(response).ask(ACCOUNT, "x")


@pytest.mark.parametrize(
    ("body", "said"), [("{", "not JSON"), ('{"input": "INPUT"}', r"no string '\$INPUT'")]
)
def test_a_body_without_a_place_for_the_input_is_refused(body: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        api(httpx.Response(200), body)
