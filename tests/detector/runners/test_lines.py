"""Lines come out whole, with the offsets at which they stand, however the bytes were cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.runners.lines import LineBatch, LineSplitter


def split(chunks: list[bytes], max_line: int) -> list[tuple[int, bytes | int]]:
    """(offset, line), or (offset, length) for a dropped line."""
    splitter = LineSplitter("log", max_line=max_line)
    batches: list[LineBatch] = []
    for chunk in chunks:
        batches += splitter.feed(chunk)
    batches += splitter.finish()
    found: list[tuple[int, bytes | int]] = []
    for batch in batches:
        found += [(batch.offset_of(i), line) for i, line in enumerate(batch.lines)]
        if batch.dropped:
            found.append((batch.offset_of(len(batch.lines)), batch.dropped))
    return found


def test_a_last_line_without_a_line_end_counts() -> None:
    assert split([b"ab\nc"], 10) == [(0, b"ab"), (3, b"c")]


def test_a_dropped_line_keeps_its_place_between_its_neighbours() -> None:
    assert split([b"a\n", b"123", b"45", b"6\nb\n"], 4) == [(0, b"a"), (2, 6), (9, b"b")]


def test_an_over_long_line_is_never_held_in_memory() -> None:
    splitter = LineSplitter("log", max_line=1000)
    for _ in range(1000):
        assert splitter.feed(b"x" * 1000) == []
    assert len(splitter._rest) <= 1000
    assert splitter.pending == 1_000_000
    (batch,) = splitter.feed(b"\n")
    assert (batch.start, batch.lines, batch.dropped) == (0, [], 1_000_000)
    assert splitter.offset == 1_000_001


@pytest.mark.parametrize("text", [b"", b"\n", b"\n\n", b"a", b"a\n\nb\n"])
def test_empty_lines_are_lines(text: bytes) -> None:
    assert [line for _, line in split([text], 10)] == text.splitlines()


@given(
    lines=st.lists(st.text("ab", max_size=12).map(str.encode), max_size=20),
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=10),
)
def test_the_cut_into_chunks_does_not_matter(lines: list[bytes], cuts: list[int]) -> None:
    text = b"".join(line + b"\n" for line in lines)
    chunks, at, turn = [], 0, 0
    while at < len(text):
        size = cuts[turn % len(cuts)]
        chunks.append(text[at : at + size])
        at, turn = at + size, turn + 1
    expected: list[tuple[int, bytes | int]] = []
    offset = 0
    for line in lines:
        expected.append((offset, line if len(line) <= 8 else len(line)))
        offset += len(line) + 1
    assert split(chunks, 8) == expected
