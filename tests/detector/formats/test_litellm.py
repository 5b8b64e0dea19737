from __future__ import annotations

import json
from typing import Any

import pytest

from detector.events import BadRecord, Event
from detector.formats import get
from detector.settings import FormatSettings
from tests.detector.formats.golden import READ_AT, record_of


def payload(case: str = "chat", **changes: Any) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads(record_of(f"litellm/{case}"))
    return recorded | changes


def event(record: dict[str, Any], **options: Any) -> Event:
    log_format = get("litellm", FormatSettings(**options))
    (decoded,) = log_format.decode(json.dumps(record).encode(), READ_AT)
    assert isinstance(decoded, Event)
    return decoded


def test_the_request_arrived_at_its_start_and_took_until_its_end() -> None:
    # A stream's response_time is the first token's: .1 s of .8 here.
    decoded = event(payload("stream", startTime=100.0, endTime=100.8, response_time=0.1))
    assert (decoded.ts, decoded.latency_ms) == (100.0, 800.0)


@pytest.mark.parametrize(
    ("setting", "account"),
    [
        ("user", "ada"),
        ("team", "team-3"),
        ("org", "org-9"),
        ("end_user", "end-5"),
        ("key", "sha256:b66df6d705ffc25e95b5517f2fa87caf3a1b142ce53d75afba4fe5b0d9f5d13a"),
    ],
)
def test_the_operator_says_who_is_billed(setting: str, account: str) -> None:
    assert event(payload(), litellm_account=setting).account == account


def test_without_a_user_the_keys_hash_is_billed() -> None:
    decoded = event(payload("no_user"))
    assert decoded.account == decoded.api_key


def test_without_user_and_key_the_address_is_billed_or_nobody() -> None:
    anonymous = payload(metadata={})
    assert event(anonymous, anonymous_by_ip=True).account == "ip:127.0.0.1"
    with pytest.raises(BadRecord, match="account: none"):
        event(anonymous)


def test_a_key_that_was_not_hashed_is_hashed_here() -> None:
    # sha256 of "sk-ada", as LiteLLM itself hashes it.
    decoded = event(payload(metadata={"user_api_key_hash": "sk-ada"}))
    assert decoded.api_key == (
        "sha256:b66df6d705ffc25e95b5517f2fa87caf3a1b142ce53d75afba4fe5b0d9f5d13a"
    )


def test_redacted_messages_are_no_input() -> None:
    assert event(payload("redacted")).input is None
    assert event(payload(messages="redacted-by-litellm")).input is None


@pytest.mark.parametrize(
    ("code", "status"), [("429", 429), (503, 503), ("", 500), ("200", 500), (None, 500), ("x", 500)]
)
def test_a_failure_has_its_code_and_is_not_served(code: Any, status: int) -> None:
    decoded = event(payload("upstream_error", error_information={"error_code": code}))
    assert (decoded.status, decoded.served) == (status, False)


def test_a_refusal_by_a_guardrail_without_a_code_is_400() -> None:
    decoded = event(payload("guardrail_blocked", error_information=None))
    assert (decoded.status, decoded.served) == (400, False)


def test_tool_calls_of_the_responses_api_are_input() -> None:
    output = [{"type": "function_call", "name": "add", "arguments": '{"a": 1}'}]
    decoded = event(payload("responses", response={"output": output}))
    assert decoded.input == (
        'system: be terse\nuser: what is two and two?\nassistant: add({"a": 1})'
    )


@pytest.mark.parametrize("response", [None, "text", [], {"choices": "x"}, {"choices": [1]}, 7])
def test_an_answer_of_another_shape_costs_only_what_it_would_say(response: Any) -> None:
    decoded = event(payload(response=response))
    assert decoded.input == "system: be terse\nuser: hello, wörld"
    assert decoded.output is None


def test_one_bad_payload_of_a_batch_costs_only_itself() -> None:
    batch = [payload(litellm_call_id="a"), payload(startTime=None), payload(litellm_call_id="c")]
    record = json.dumps(batch).encode()
    events, bad = get("litellm").decode_lines([b"{", record], READ_AT)
    assert [e.request_id for e in events if isinstance(e, Event)] == ["a", "c"]
    assert [index for index, _ in bad] == [0, 1]
    assert "item 1" in bad[1][1]
    assert "$.startTime" in bad[1][1]
    with pytest.raises(BadRecord, match="item 1"):
        get("litellm").decode(record, READ_AT)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"", "empty"),
        (b"{}", "startTime"),
        (b'{"startTime": 1, "status": "success", "metadata": [', "metadata"),
        (b'"text"', "payload"),
        (b"\xff\xfe", "payload"),
        (b"[" * 100_000, "array"),
        (
            b'{"startTime":1,"status":"success","metadata":{},"messages":' + b"[" * 100_000,
            "payload",
        ),
        (json.dumps(payload(startTime=3786912000)).encode(), "a day from now"),
        (json.dumps(payload(messages="x" * (1 << 20))).encode(), "limit"),
    ],
    ids=["empty", "object", "cut", "string", "binary", "deep", "deep messages", "2090", "too big"],
)
def test_a_bad_payload_is_refused_with_its_reason(record: bytes, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        get("litellm").decode(record, READ_AT)
