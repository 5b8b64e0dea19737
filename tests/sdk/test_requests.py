"""Bodies of requests: read as the service reads them in an access log."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from velvetrope_client.requests import read_request

from detector.formats.body import read_body

USER = {"role": "user", "content": "hello"}
BODIES: dict[str, Any] = {
    "a lone message": {"model": "m", "messages": [USER], "n": 2},
    "a conversation": {
        "messages": [{"role": "system", "content": "be brief"}, USER, {"role": "assistant"}]
    },
    "parts": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}]
    },
    "tool calls": {
        "messages": [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}],
            }
        ]
    },
    "Anthropic's system": {"system": "be brief", "messages": [USER], "max_tokens": 5},
    "responses": {"input": "hello", "instructions": "be brief"},
    "a prompt": {"prompt": "once upon", "temperature": 0.5, "logit_bias": {"50256": -100}},
    "texts": {"input": ["one", "two"]},
    "a row": {"inputs": [1, 2.5, 3]},
    "rows": {"instances": [[1, 2], [3, 4]]},
    "bare rows": [[0.5, 1], [2, 3]],
    "a classifier's text": {"text": "is this spam?"},
    "nothing known": {"audio": "…"},
    "nothing at all": {},
    "parameters that are too large": {"prompt": "x", "temperature": 1e300, "seed": 7},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_is_read_as_the_service_reads_it(body: Any) -> None:
    expected = read_body(json.dumps(body))
    found = read_request(json.dumps(body).encode())
    assert found == (expected.inputs, expected.params or {}, expected.model)


@pytest.mark.parametrize("text", ["plain text, no JSON", '{"prompt": ', "  ", "\x00\x01binary"])
def test_what_is_no_json_is_text_or_nothing(text: str) -> None:
    assert read_request(text.encode()).inputs == read_body(text).inputs


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "content", "role", "input", "prompt", "text", "n", "data"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_a_client_sends_gives_an_event_that_is_valid_json(body: Any) -> None:
    asked = read_request(json.dumps(body).encode())
    json.dumps(asked, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "body", [b'{"prompt": ' + b"[" * 5000, b'{"prompt": "\\ud800"}', b"\xff\xfe"]
)
def test_hostile_bytes_raise_nothing(body: bytes) -> None:
    read_request(body)
