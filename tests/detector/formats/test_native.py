from __future__ import annotations

import msgspec
import pytest

from detector.events import BadRecord, Event
from detector.formats import get
from detector.settings import FormatSettings

NOW = 1_781_000_000.0
native = get("native")

# Each of these is one thing wrong with an otherwise good event, and a word of what is said of it.
BAD = {
    "truncated": (b'{"ts": 1, "account": "a"', "truncated"),
    "no ts": (b'{"account": "a"}', "ts"),
    "no account": (b'{"ts": 1}', "account"),
    "empty account": (b'{"ts": 1, "account": ""}', "account is 0 bytes"),
    "long account": (b'{"ts": 1, "account": "%s"}' % (b"a" * 257), "257 bytes"),
    "wide account": (b'{"ts": 1, "account": "%s"}' % ("ä" * 129).encode(), "258 bytes"),
    "wrong type": (b'{"ts": 1, "account": 7}', r"\$.account"),
    "not a number": (b'{"ts": NaN, "account": "a"}', "byte"),
    "infinite": (b'{"ts": 1, "account": "a", "latency_ms": 1e999}', "latency_ms"),
    "negative latency": (b'{"ts": 1, "account": "a", "latency_ms": -1}', "latency_ms"),
    "endless latency": (b'{"ts": 1, "account": "a", "latency_ms": 1e308}', "latency_ms"),
    "invalid UTF-8": (b'{"ts": 1, "account": "a", "x": "\xff"}', "utf-8"),
    "year 2090": (b'{"ts": 3786912000, "account": "a"}', "a day from now"),
    "before 1970": (b'{"ts": -1, "account": "a"}', "1970"),
    "no time zone": (b'{"ts": "2026-01-01T00:00:00", "account": "a"}', "time zone"),
    "no time": (b'{"ts": "yesterday", "account": "a"}', "RFC 3339"),
    "status": (b'{"ts": 1, "account": "a", "status": 99999999999999999999}', "status"),
    "binary": (bytes(range(256)), "utf-8"),
    "empty": (b"", "truncated"),
    "two in one": (b'{"ts": 1, "account": "a"}{"ts": 1, "account": "a"}', "trailing"),
    "too big": (b'{"ts": 1, "account": "a", "input": "%s"}' % (b"x" * (2 << 20)), "limit"),
    "nested in a skipped field": (b'{"ts": 1, "account": "a", "x": ' + b"[" * 100_000, "recursion"),
    "nested in params": (b'{"ts":1,"account":"a","params":{"a":' + b"[" * 100_000, "recursion"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_refused_with_its_reason(case: str) -> None:
    record, reason = BAD[case]
    with pytest.raises(BadRecord, match=f"(?i){reason}"):
        native.decode(record, NOW)


def test_a_batch_keeps_the_good_in_order_and_says_where_the_bad_are() -> None:
    good = [b'{"ts": %d, "account": "a", "input": "gr\xc3\xbc\xc3\x9fe"}' % i for i in range(3)]
    bad = [record for record, _ in BAD.values()]
    events, refused = native.decode_lines([good[0], *bad, good[1], bad[0], good[2]], NOW)
    assert [event.ts for event in events if isinstance(event, Event)] == [0.0, 1.0, 2.0]
    assert [index for index, _ in refused] == [*range(1, len(bad) + 1), len(bad) + 2]


GOOD = [
    b'{"ts": 5, "account": "a"}',
    b'{"ts": 5.5, "account": "\xc3\xa4", "served": false, "latency_ms": 0}',
    b'{"ts": "2026-01-01T00:00:00Z", "account": "a", "status": 500}',
    b'{"ts": 1781086400, "account": "a", "status": 200, "input": [1, 2.5]}',
    b'{"control": "end"}',
]


@pytest.mark.parametrize("record", GOOD)
def test_one_by_one_and_in_a_batch_are_the_same(record: bytes) -> None:
    assert native.decode_lines([record], NOW) == (native.decode(record, NOW), [])


@pytest.mark.parametrize(("status", "served"), [(200, True), (399, True), (400, False)])
def test_served_follows_from_the_status_when_nobody_says(status: int, served: bool) -> None:
    record = msgspec.json.encode({"ts": 1, "account": "a", "status": status})
    events, _ = native.decode_lines([record], NOW)
    assert [event.served for event in events if isinstance(event, Event)] == [served]


def test_anonymous_traffic_is_keyed_by_address_when_the_operator_wants_it() -> None:
    by_ip = get("native", FormatSettings(anonymous_by_ip=True))
    records = [
        b'{"ts": 1, "ip": "192.0.2.1"}',
        b'{"ts": 1, "account": "", "ip": "192.0.2.2"}',
        b'{"ts": 1, "account": "a", "ip": "192.0.2.3"}',
        b'{"ts": 1}',
        b'{"ts": 1, "account": 7, "ip": "192.0.2.1"}',
    ]
    events, bad = by_ip.decode_lines(records, NOW)
    accounts = [event.account for event in events if isinstance(event, Event)]
    assert accounts == ["ip:192.0.2.1", "ip:192.0.2.2", "a"]
    assert [index for index, _ in bad] == [3, 4]
    assert native.decode_lines(records[:2], NOW)[0] == []
