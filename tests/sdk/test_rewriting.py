"""The rewriter: what it reads is rewritten, whole or streamed alike; what it does not passes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from velvetrope_client.keys import Keyring
from velvetrope_client.rewriter_settings import EndpointSettings, RewriterSettings
from velvetrope_client.rewriting import Rewriter
from velvetrope_client.wrong_answers import WrongAnswerSettings

KEYS = Keyring.parse(
    '{"format": 1, "keys": [{"id": "k", "secret": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}]}'
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "delta", "content", "label", "scores", "index", "text", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
CHUNKS = st.lists(
    st.tuples(st.integers(0, 1), st.text("ab<think>/ ", max_size=12)), min_size=1, max_size=8
)


class Nowhere:
    """A profile from which everything is far."""

    def is_far(self, given: object) -> bool:
        return True

    def coordinates(self, given: object) -> None:
        return None


def call(
    body: Any,
    rewriter: Rewriter | None = None,
    *,
    level: int = 1,
    action: str = "poison",
    request: Any = None,
    content_type: str = "application/json",
    endpoint: str = "/v1/x",
) -> bytes:
    return (rewriter or Rewriter()).rewrite(
        action=action,
        level=level,
        subject="acct-1",
        endpoint=endpoint,
        request=json.dumps(request).encode(),
        body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        content_type=content_type,
    )


def wrong_for_all(**settings: Any) -> Rewriter:
    own = WrongAnswerSettings(wrong_from=1, profile=Nowhere())
    return Rewriter(
        RewriterSettings((EndpointSettings("/v1/*", wrong_answers=own, **settings),), KEYS)
    )


@pytest.mark.parametrize("action", ["allow", "throttle", "challenge", "block"])
def test_only_poison_changes_answers(action: str) -> None:
    body = b'{"label": "a", "confidence": 0.123}'
    assert call(body, action=action) == body


def test_a_classifiers_answer_is_shaped_in_its_place() -> None:
    body = {"id": 7, "label": "a", "probabilities": {"a": 0.62, "b": 0.38}, "confidence": 0.62}
    shaped = {"id": 7, "label": "a", "probabilities": {"a": 0.6, "b": 0.4}, "confidence": 0.6}
    assert json.loads(call(body)) == shaped


def test_bytes_in_which_nothing_changes_stay_as_they_are() -> None:
    body = b'{ "label" : "a",  "confidence": 0.5 }'
    assert call(body) == body


@pytest.mark.parametrize("kind", ["text/html", "", "image/png"])
def test_other_content_passes(kind: str) -> None:
    body = b'{"label": "a", "confidence": 0.123}'
    assert call(body, content_type=kind) == body


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"label": "a", "score": 1e999}']
)
def test_what_cannot_be_read_passes(body: bytes) -> None:
    assert call(body) == body


@given(JSON, JSON, st.integers(0, 4))
def test_no_document_raises(body: Any, request: Any, level: int) -> None:
    for rewriter in (Rewriter(), wrong_for_all()):
        call(body, rewriter, level=level, request=request)
        call(
            b"data: " + json.dumps(body).encode() + b"\n\n",
            rewriter,
            level=level,
            request=request,
            content_type="text/event-stream",
        )


def test_an_answer_past_the_limit_passes_unchanged() -> None:
    body = json.dumps({"label": "a", "confidence": 0.123, "pad": "x" * 100}).encode()
    assert call(body, Rewriter(RewriterSettings(max_body_bytes=100))) == body


def test_the_first_endpoint_that_matches_counts() -> None:
    settings = RewriterSettings(
        (
            EndpointSettings("/v1/*"),
            EndpointSettings(
                "*", wrong_answers=WrongAnswerSettings(wrong_from=1, profile=Nowhere())
            ),
        ),
        KEYS,
    )
    body = {
        "label": "a",
        "probabilities": dict.fromkeys(map(str, range(99)), 0.01) | {"a": 0.01},
    }
    request = {"text": "hello"}
    rewriter = Rewriter(settings)
    assert json.loads(call(body, rewriter, request=request))["label"] == "a"
    other = json.loads(call(body, rewriter, request=request, endpoint="/v2/x"))
    assert other["label"] != "a"  # one draw of a hundred would be


def test_wrong_answers_without_keys_are_refused() -> None:
    wrong = WrongAnswerSettings(perturb_from=1)
    with pytest.raises(ValueError, match="need `keys`"):
        RewriterSettings((EndpointSettings(wrong_answers=wrong),))


def test_a_wrong_answer_needs_an_input_to_be_keyed_by() -> None:
    body = {"label": "a", "probabilities": {"a": 0.4, "b": 0.3, "c": 0.3}}
    assert json.loads(call(body, wrong_for_all(), request={"nonce": 3}))["label"] == "a"


def test_each_row_of_a_batch_gets_its_own_draw() -> None:
    row = {"label": "0", "probabilities": {str(k): 0.05 for k in range(20)}}
    body = {"predictions": [row] * 30}
    request = {"instances": [[float(x), -float(x * x), 7.0 - x] for x in range(30)]}
    labels = [
        p["label"] for p in json.loads(call(body, wrong_for_all(), request=request))["predictions"]
    ]
    assert len(set(labels)) > 1
    alone = json.loads(call(row, wrong_for_all(), request={"input": request["instances"][17]}))
    assert alone["label"] == labels[17]


def chunk(index: int, text: str, end: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": end}]}


def said(events: bytes) -> dict[int, tuple[str, str | None]]:
    """Text and finish reason of each choice of a stream."""
    found: dict[int, tuple[str, str | None]] = {}
    for line in events.splitlines():
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:])["choices"]:
                text, end = found.get(choice["index"], ("", None))
                more = choice["delta"].get("content") or ""
                found[choice["index"]] = (text + more, choice["finish_reason"] or end)
    return found


@given(CHUNKS, st.integers(1, 4), st.integers(1, 40))
def test_a_stream_says_what_the_whole_would(
    pieces: list[tuple[int, str]], level: int, size: int
) -> None:
    indices = sorted({index for index, _ in pieces})
    events = [chunk(*piece) for piece in pieces] + [chunk(i, "", "stop") for i in indices]
    raw = b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events)
    raw += b"data: [DONE]\n\n"
    whole = {
        "choices": [
            {
                "index": i,
                "message": {"content": "".join(t for at, t in pieces if at == i)},
                "finish_reason": "stop",
            }
            for i in indices
        ]
    }
    stream = Rewriter().stream(
        action="poison",
        level=level,
        subject="a",
        endpoint="/",
        request=b"{}",
        content_type="text/event-stream",
    )
    got = b"".join(stream.feed(raw[at : at + size]) for at in range(0, len(raw), size))
    expected = json.loads(call(whole, level=level))["choices"]
    assert said(got + stream.close()) == {
        c["index"]: (c["message"]["content"], c["finish_reason"]) for c in expected
    }
    assert got.endswith(b"data: [DONE]\n\n")


def test_each_event_leaves_at_once() -> None:
    stream = Rewriter().stream(
        action="poison",
        level=3,
        subject="a",
        endpoint="/",
        request=b"{}",
        content_type="text/event-stream; charset=utf-8",
    )
    for word in ("one ", "two ", "three"):
        event = b"data: " + json.dumps(chunk(0, word)).encode() + b"\n\n"
        assert said(stream.feed(event)) == {0: (word, None)}


def test_a_long_text_ends_as_one_cut_by_length() -> None:
    body = {"choices": [{"message": {"content": "x" * 5000}, "finish_reason": "stop"}]}
    choice = json.loads(call(body, level=3))["choices"][0]
    assert (len(choice["message"]["content"]), choice["finish_reason"]) == (1200, "length")


def test_an_answer_asked_for_as_json_is_not_cut() -> None:
    body = {"choices": [{"message": {"content": "x" * 5000}, "finish_reason": "stop"}]}
    request = {"response_format": {"type": "json_object"}}
    assert json.loads(call(body, level=3, request=request)) == body


def test_completions_without_messages_are_shaped_too() -> None:
    body = {"choices": [{"text": "<think>t</think>Hi", "logprobs": {"tokens": ["Hi"]}}]}
    assert json.loads(call(body)) == {"choices": [{"text": "Hi", "logprobs": None}]}
