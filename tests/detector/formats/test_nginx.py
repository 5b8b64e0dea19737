from __future__ import annotations

import json
from typing import Any

import pytest

from detector.events import BadRecord, Event
from detector.formats import get
from detector.settings import FormatSettings

NOW = 1_781_000_000.0
HASH = "sha256:" + "0a" * 32


def line(**changes: Any) -> bytes:
    fields = {
        "msec": 1780999999.5,
        "request_time": 0.25,
        "status": "200",
        "upstream_status": "200",
        "request_id": "r",
        "account": "acct-1",
        "ip": "192.0.2.1",
        "uri": "/v1/x",
        "body": "",
    }
    return json.dumps(fields | changes).encode()


def event(record: bytes, **options: Any) -> Event:
    (decoded,) = get("nginx", FormatSettings(**options)).decode(record, NOW)
    assert isinstance(decoded, Event)
    return decoded


def test_a_request_arrived_when_it_ended_less_what_it_took() -> None:
    decoded = event(line(msec=1780999999.512, request_time=0.25))
    assert (decoded.ts, decoded.latency_ms) == (1780999999.262, 250.0)


@pytest.mark.parametrize(
    ("status", "upstream_status", "served"),
    [
        ("200", "200", True),
        ("200", "", True),  # from a cache
        ("429", "", False),
        ("500", "500", False),
        ("200", "502, 200", True),
        ("200", "500 : 200", True),
        ("200", "500", False),  # the client got a page in place of the error
        ("499", "-", False),
    ],
)
def test_served_means_that_the_model_answered(
    status: str, upstream_status: str, served: bool
) -> None:
    assert event(line(status=status, upstream_status=upstream_status)).served is served


def test_the_account_is_the_verdicts_then_the_fronts_then_the_keys() -> None:
    named: dict[str, str] = {"caller": "acct-2", "api_key": HASH}
    assert event(line(**named)).account == "acct-1"
    assert event(line(account="", **named)).account == "acct-2"
    assert event(line(account="", api_key=HASH)).account == HASH
    assert event(line(account=""), anonymous_by_ip=True).account == "ip:192.0.2.1"
    with pytest.raises(BadRecord, match="account: none"):
        event(line(account=""))


def test_only_a_hash_passes_for_a_key() -> None:
    assert event(line(api_key=HASH)).api_key == HASH
    assert event(line(api_key="sk-secret")).api_key is None
    assert event(line(account=HASH)).api_key == HASH


def test_a_label_for_each_row_or_none() -> None:
    def labels(body: str, label: str) -> list[object]:
        record = line(body=body, label=label)
        events = get("nginx").decode(record, NOW)
        outputs = [e.output for e in events if isinstance(e, Event)]
        return [None if output is None else output.label for output in outputs]

    assert labels("[[1], [2]]", "cat, dog") == ["cat", "dog"]
    assert labels("[[1], [2]]", "cat") == [None, None]
    assert labels("[[1]]", "cat, big") == ["cat, big"]
    assert labels("[[1]]", "") == [None]


def test_rows_of_a_request_are_events_with_ids_of_their_own() -> None:
    events = get("nginx").decode(line(body='{"instances": [[1], [2]]}'), NOW)
    assert [(e.request_id, e.input) for e in events if isinstance(e, Event)] == [
        ("r#0", [1.0]),
        ("r#1", [2.0]),
    ]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b'203.0.113.9 - - [09/Jun/2026] "GET / HTTP/1.1" 200', "log_format velvetrope"),
        (line(msec="x"), r"\$.msec"),
        (line(body=7), r"\$.body"),
        (line(status="twohundred"), "HTTP status"),
        (b"{}", "msec"),
        (line(msec=3786912000), "a day from now"),
        (line(request_time=-1.0), "latency_ms"),
        (b"[" * 100_000, "log_format velvetrope"),
        (line(body="x" * (1 << 20)), "limit"),
    ],
    ids=["combined", "msec", "body", "status", "empty", "2090", "latency", "deep", "too big"],
)
def test_a_bad_line_is_refused_with_its_reason(record: bytes, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        event(record)
