"""Contract 1: which records are events, what they become, and why the others are not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from velvetrope_client.sketch import Sketcher

from detector.events import (
    MAX_RECORD_BYTES,
    BadRecord,
    EndOfInput,
    Event,
    Output,
    check,
    decode,
    redact,
)

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
DAY = 86_400.0
SKETCH = Sketcher(bytes(32)).sketch("hello")


def record(**fields: Any) -> bytes:
    return json.dumps({"ts": NOW, "account": "acct-1", **fields}).encode()


def event(**fields: Any) -> Event:
    decoded = decode(record(**fields), NOW)
    assert isinstance(decoded, Event)
    return decoded


def error(data: bytes) -> str:
    with pytest.raises(BadRecord) as caught:
        decode(data, NOW)
    return str(caught.value)


def test_a_time_and_an_account_are_enough() -> None:
    assert event() == Event(ts=NOW, account="acct-1", status=200, served=True)


def test_every_field_of_the_contract() -> None:
    fields = {
        "request_id": "r-1",
        "api_key": "sha256:00",
        "org": "o",
        "plan": "pro",
        "ip": "192.0.2.1",
        "user_agent": "curl/8",
        "ja4": "t13d",
        "endpoint": "/v1/chat",
        "model": "small",
        "links": {"payment": "p1"},
        "status": 201,
        "served": True,
        "latency_ms": 12.5,
        "input_tokens": 3.0,
        "output_tokens": 4.0,
        "input": "hello",
        "input_sketch": SKETCH,
        "params": {"temperature": 0.5, "logit_bias": {"5": -100}},
    }
    decoded = event(**fields, output={"label": 3, "confidence": 0.5, "logprobs": True})
    assert decoded.output == Output(label=3, confidence=0.5, logprobs=True)
    assert {name: getattr(decoded, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"ts": 5}, "ts", 5.0),
        ({"ts": 0}, "ts", 0.0),
        ({"ts": NOW + DAY}, "ts", NOW + DAY),
        ({"account": "a" * 256}, "account", "a" * 256),
        ({"account": "é" * 128}, "account", "é" * 128),
        ({"account": "名\u0000"}, "account", "名\u0000"),
        ({"input": [1, 2.5, -3e10]}, "input", [1.0, 2.5, -3e10]),
        ({"input": []}, "input", []),
        ({"input": ""}, "input", ""),
        ({"latency_ms": 0}, "latency_ms", 0.0),
        ({"latency_ms": 1000.0 * DAY}, "latency_ms", 1000.0 * DAY),
        ({"org": None}, "org", None),
        ({"output": {"label": "cat"}}, "output", Output(label="cat")),
        ({"output": {"extra": 1}}, "output", Output()),
        ({"unknown": {"deep": [1, {"x": None}]}, "org": "o"}, "org", "o"),
    ],
)
def test_good_records(fields: dict[str, Any], name: str, expected: Any) -> None:
    assert getattr(event(**fields), name) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2027-01-15T08:00:00Z", NOW),
        ("2027-01-15t08:00:00z", NOW),
        ("2027-01-15 08:00:00Z", NOW),
        ("2027-01-15T08:00:00.25Z", NOW + 0.25),
        ("2027-01-15T08:00:00.123456789Z", NOW + 0.123456),
        ("2027-01-15T09:30:00+01:30", NOW),
        ("2027-01-14T20:00:00-12:00", NOW),
        ("2027-01-15T08:00:00-00:00", NOW),
        ("1970-01-01T00:00:00Z", 0.0),
    ],
)
def test_rfc_3339_times(text: str, seconds: float) -> None:
    assert event(ts=text).ts == seconds


@pytest.mark.parametrize(
    ("fields", "served"),
    [
        ({}, True),
        ({"status": 200}, True),
        ({"status": 399}, True),
        ({"status": 400}, False),
        ({"status": 429}, False),
        ({"status": 500}, False),
        ({"status": 429, "served": True}, True),
        ({"status": 200, "served": False}, False),
    ],
)
def test_served_follows_the_status_unless_it_is_said(fields: dict[str, Any], served: bool) -> None:
    assert event(**fields).served is served


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (b'{"ts": 5, "account": "a"', "truncated"),
        (b"null", "Expected `object`, got `null`"),
        (b"[1]", "Expected `object`, got `array`"),
        (b'{"ts": 5, "account": "a"} {}', "trailing characters"),
        (b"ts=5 account=a", "malformed"),
        (b"\x00\x01\x02", "malformed"),
        (b'{"account": "a"}', "missing required field `ts`"),
        (b'{"ts": 5}', "missing required field `account`"),
        (b'{"ts": true, "account": "a"}', "$.ts"),
        (b'{"ts": null, "account": "a"}', "$.ts"),
        (b'{"ts": NaN, "account": "a"}', "malformed"),
        (b'{"ts": Infinity, "account": "a"}', "malformed"),
        (b'{"ts": 1e999, "account": "a"}', "out of range - at `$.ts`"),
        (record(account=5), "$.account"),
        (record(status="200"), "$.status"),
        (record(links={"a": 1}), "$.links[...]"),
        (record(input={"role": "user"}), "$.input"),
        (record(input=[1, "2"]), "$.input[1]"),
        (b'{"ts": 5, "account": "a", "input": [1, NaN]}', "malformed"),
        (b'{"ts": 5, "account": "a", "input": [1, 1e999]}', "out of range - at `$.input[1]`"),
        (b'{"ts": 5, "account": "a", "params": {"n": -1e999}}', "out of range - at `$.params"),
        (b'{"ts": 5, "account": "a", "latency_ms": 1e999}', "out of range - at `$.latency_ms`"),
        (b'{"ts": 5, "account": "\xff"}', "'utf-8' codec can't decode byte 0xff"),
        (b'{"ts": 5, "account": "a", "unknown": "\xff"}', "'utf-8' codec can't decode byte 0xff"),
        (b'{"ts": 5, "account": "\\ud800"}', ""),
        (b'{"ts": 5, "account": "a", "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "recursion"),
    ],
)
def test_records_that_are_not_events(data: bytes, message: str) -> None:
    assert message in error(data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ts": -1}, "ts -1.0 is not a time between 1970 and a day from now"),
        ({"ts": NOW + DAY + 1}, "is not a time between 1970 and a day from now"),
        ({"ts": 3.8e9}, "ts 3800000000.0 is not a time between 1970 and a day from now"),
        ({"ts": NOW * 1000}, "is not a time between"),  # milliseconds
        ({"ts": "2090-01-01T00:00:00Z"}, "is not a time between"),
        ({"ts": "1969-12-31T23:59:59Z"}, "is not a time between"),
        ({"ts": "0001-01-01T00:00:00+23:59"}, "is not a time between"),
        ({"ts": "9999-12-31T23:59:59-23:59"}, "is not a time between"),
        ({"ts": ""}, "ts '' is neither a number nor an RFC 3339 time"),
        ({"ts": "yesterday"}, "ts 'yesterday' is neither a number nor an RFC 3339 time"),
        ({"ts": "1800000000"}, "is neither a number nor an RFC 3339 time"),
        ({"ts": "2027-02-30T00:00:00Z"}, "is neither a number nor an RFC 3339 time"),
        ({"ts": "2027-01-15T08:00:00"}, "ts '2027-01-15T08:00:00' has no time zone"),
        ({"ts": "2027-01-15"}, "ts '2027-01-15' has no time zone"),
        ({"account": ""}, "account is 0 bytes; it must be 1 to 256"),
        ({"account": "a" * 257}, "account is 257 bytes; it must be 1 to 256"),
        ({"account": "é" * 129}, "account is 258 bytes; it must be 1 to 256"),
        ({"status": -1}, "status -1 is not an HTTP status"),
        ({"status": 1000}, "status 1000 is not an HTTP status"),
        ({"latency_ms": -0.1}, "latency_ms -0.1 is not a finite number ≥ 0"),
        ({"latency_ms": 1001.0 * DAY}, "latency_ms 86486400.0 ends the request more than a day"),
        ({"latency_ms": 1e308}, "latency_ms 1e+308 ends the request more than a day"),
    ],
)
def test_events_that_break_a_bound(fields: dict[str, Any], message: str) -> None:
    assert message in error(record(**fields))


def test_what_a_day_ahead_means_follows_when_it_was_read() -> None:
    data = record(ts=NOW + DAY + 0.5)
    assert "a day from now" in error(data)
    assert isinstance(decode(data, NOW + 0.5), Event)


def test_a_record_of_one_mebibyte_is_the_largest() -> None:
    spare = MAX_RECORD_BYTES - len(record(input=""))
    assert len(record(input="x" * spare)) == MAX_RECORD_BYTES
    assert event(input="x" * spare).input == "x" * spare
    assert error(record(input="x" * (spare + 1))) == "record is 1048577 bytes; the limit is 1048576"
    assert error(b"\xff" * (2 << 20)) == "record is 2097152 bytes; the limit is 1048576"


@pytest.mark.parametrize("data", [b'{"control":"end"}', b' { "control" : "end" } '])
def test_the_end_record(data: bytes) -> None:
    assert decode(data, NOW) == EndOfInput()


@pytest.mark.parametrize("data", [b'{"control":"stop"}', b'{"control":1}', b'"control"'])
def test_other_control_records_are_bad(data: bytes) -> None:
    error(data)


def test_an_event_that_mentions_control_is_an_event() -> None:
    assert event(control="end").account == "acct-1"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_an_end_or_a_bad_record(data: bytes) -> None:
    try:
        decoded = decode(data, NOW)
    except BadRecord:
        return
    assert isinstance(decoded, Event | EndOfInput)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["ts", "latency_ms"])
def test_check_refuses_numbers_that_json_cannot_hold(name: str, value: float) -> None:
    made = Event(ts=NOW, account="a")
    setattr(made, name, value)
    with pytest.raises(BadRecord, match=name):
        check(made, NOW)


def test_check_refuses_an_account_that_is_no_text() -> None:
    with pytest.raises(BadRecord, match="account has a lone surrogate"):
        check(Event(ts=NOW, account="a\ud800"), NOW)


_SECRET = "the secret prompt"


@pytest.mark.parametrize("name", ["input", "messages", "body", "response", "request_body"])
def test_dead_letters_do_not_hold_the_input(name: str) -> None:
    redacted = redact(record(**{name: [_SECRET, {"content": _SECRET}]}))
    assert json.loads(redacted) == {"ts": NOW, "account": "acct-1", name: "[redacted]"}


@pytest.mark.parametrize(
    "data",
    [
        record(input=_SECRET)[:-1],
        b"\xff" + _SECRET.encode(),
        json.dumps([{"input": _SECRET}]).encode(),
        json.dumps(_SECRET).encode(),
        b'{"x": ' + b"[" * 50_000 + _SECRET.encode(),
    ],
)
def test_dead_letters_do_not_hold_what_cannot_be_searched_for_the_input(data: bytes) -> None:
    redacted = redact(data)
    assert _SECRET.encode() not in redacted
    assert str(len(data)).encode() in redacted


def test_dead_letters_are_short() -> None:
    assert len(redact(record(user_agent="x" * 100_000))) == 2048
