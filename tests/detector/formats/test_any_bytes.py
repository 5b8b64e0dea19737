"""Whatever the bytes: events or BadRecord, and nothing else."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.events import BadRecord, Event, redact
from detector.formats import get, names
from tests.detector.formats.golden import READ_AT, cases, record_of

RECORDS = {case: record_of(case) for case in cases()}
OBJECTS = {case: json.loads(r.decode(errors="replace")) for case, r in RECORDS.items()}

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**400, max_value=10**401)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["user", "text", "function_call", "\ud800", "\x00", "redacted-by-litellm"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                (
                    *("role", "content", "type", "text", "parts", "data", "shape", "datatype"),
                    *("messages", "input", "inputs", "instances", "prompt", "system"),
                    *("tool_calls", "function", "name", "arguments", "contents"),
                    *("dataframe_split", "parameters"),
                )
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


def check(name: str, record: bytes) -> None:
    """Both ways of decoding agree, raise only BadRecord, and give events within the contract."""
    log_format = get(name)
    events, bad = log_format.decode_lines([record], READ_AT)
    if bad:
        assert all(index == 0 and error for index, error in bad)
        with pytest.raises(BadRecord, match=r"(?s)."):
            log_format.decode(record, READ_AT)
    else:
        assert log_format.decode(record, READ_AT) == events
    for event in events:
        if isinstance(event, Event):
            assert isinstance(event.ts, float)
            assert 0 <= event.ts <= READ_AT + 86_400
            assert 1 <= len(event.account.encode()) <= 256
            assert isinstance(event.served, bool)
            assert 0 <= event.status < 1000
            if isinstance(event.input, str):
                event.input.encode()
            elif event.input is not None:
                assert all(type(x) is float and math.isfinite(x) for x in event.input)
    assert len(redact(record)) <= 2048


@pytest.mark.parametrize("name", names())
@given(record=st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes(name: str, record: bytes) -> None:
    check(name, record)


@pytest.mark.parametrize("name", names())
@given(
    data=st.data(),
    at=st.floats(0, 1),
    cut=st.integers(0, 40),
    splice=st.binary(max_size=8),
)
@settings(deadline=None)
def test_damaged_records(
    name: str, data: st.DataObject, at: float, cut: int, splice: bytes
) -> None:
    record = RECORDS[data.draw(st.sampled_from([c for c in RECORDS if c.startswith(name)]))]
    start = int(at * len(record))
    check(name, record[:start] + splice + record[start + cut :])


@pytest.mark.parametrize("name", names())
@given(data=st.data(), value=json_values)
@settings(deadline=None)
def test_any_value_in_any_field(name: str, data: st.DataObject, value: Any) -> None:
    record = OBJECTS[data.draw(st.sampled_from([c for c in OBJECTS if c.startswith(name)]))]
    field = data.draw(st.sampled_from(sorted(record)))
    check(name, json.dumps(record | {field: value}).encode())


@given(body=json_values | st.text() | st.binary().map(lambda b: b.decode(errors="replace")))
@settings(deadline=None, max_examples=300)
def test_any_body_through_nginx_is_counted(body: Any) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    record = json.dumps(OBJECTS["nginx/chat"] | {"body": text}).encode()
    check("nginx", record)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"messages":[', b'{"params":{"x":'])
@pytest.mark.parametrize("depth", [500, 900, 1000, 1100, 100_000])
def test_deep_nesting(name: str, opening: bytes, depth: int) -> None:
    check(name, (opening * depth)[: 1 << 20])
    check(name, b'{"ts": 1, "account": "a", "x": ' + (opening * depth)[: 1 << 20])


@pytest.mark.parametrize("depth", [100, 300, 490, 900, 995, 1000, 50_000])
def test_a_body_nested_deep_is_counted(depth: int) -> None:
    for inside in ('{"messages":', '{"input":'):
        for left, right, middle in (("[", "]", "1"), ('{"content":', "}", '"x"')):
            body = inside + left * depth + middle + right * depth + "}"
            record = json.dumps(OBJECTS["nginx/chat"] | {"body": body}).encode()
            events, bad = get("nginx").decode_lines([record], READ_AT)
            assert (len(events), bad) == (1, [])
