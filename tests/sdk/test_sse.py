"""Server-sent events: rewritten when whole, however the bytes were cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from velvetrope_client.sse import EventStream

EVENTS = st.lists(
    st.sampled_from(
        [
            b"data: a",
            b"data:b",
            b"data: c\ndata: d",
            b": note",
            b"event: x\ndata: e\nid: 4",
            b"data",
        ]
    ),
    max_size=6,
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def doubled(data: bytes) -> bytes | None:
    return data.replace(b"\n", b"+") * 2


def run(stream: EventStream, pieces: list[bytes]) -> bytes:
    return b"".join(stream.feed(piece) for piece in pieces) + stream.close()


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(raw), *(place % (len(raw) + 1) for place in places)})
    return [raw[a:b] for a, b in itertools.pairwise(at)]


@given(EVENTS, ENDS, st.lists(st.integers(0, 200)))
def test_the_cuts_change_nothing(events: list[bytes], end: bytes, places: list[int]) -> None:
    raw = b"".join(event.replace(b"\n", end) + end + end for event in events)
    whole = run(EventStream(doubled), [raw])
    assert run(EventStream(doubled), cut(raw, places)) == whole


@given(st.binary(max_size=60), st.lists(st.integers(0, 60)))
def test_bytes_that_are_not_rewritten_leave_as_they_came(raw: bytes, places: list[int]) -> None:
    assert run(EventStream(lambda data: None, limit=16), cut(raw, places)) == raw


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_leaves_with_its_last_byte(end: bytes) -> None:
    stream = EventStream(doubled)
    assert stream.feed(b"data: a" + end) == b""
    assert stream.feed(end) == b"data: aa" + end + end


def test_lines_beside_the_data_stay() -> None:
    raw = b": hi\nevent: x\ndata: a\ndata: b\nid: 4\n\n"
    assert run(EventStream(doubled), [raw]) == b": hi\nevent: x\ndata: a+ba+b\nid: 4\n\n"


def test_an_event_without_its_end_is_rewritten_all_the_same() -> None:
    assert run(EventStream(doubled), [b"data: a"]) == b"data: aa"


def test_an_event_past_the_limit_passes_unread_and_is_not_kept() -> None:
    stream = EventStream(doubled, limit=100)
    long = b"data: " + b"x" * 1000
    given_at_once = stream.feed(long)
    assert len(long) - len(given_at_once) <= 3
    rest = stream.feed(b"x" * 50 + b"\n\ndata: a\n\n")
    assert given_at_once + rest == long + b"x" * 50 + b"\n\ndata: aa\n\n"
