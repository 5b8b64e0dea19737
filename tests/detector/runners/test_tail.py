"""A tail gives out every whole line once, whatever happens to the file's name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from detector.runners.tail import Tail, TailPosition


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def drain(tail: Tail) -> list[str]:
    """All lines until the tail says that it is at the end, or only waits."""
    lines: list[str] = []
    while True:
        batches = tail.poll()
        lines += [line.decode() for batch in batches for line in batch.lines]
        if not batches and (tail.at_end or tail._left_at is not None):
            return lines


def test_a_file_that_is_not_there_yet_is_waited_for(log: Path) -> None:
    tail = Tail(log)
    assert tail.poll() == []
    assert tail.at_end
    append(log, "1\n")
    assert drain(tail) == ["1"]


def test_a_partial_last_line_waits_for_its_end(log: Path) -> None:
    tail = Tail(log)
    append(log, "1\n2")
    assert drain(tail) == ["1"]
    assert tail.position is not None
    assert tail.position.offset == 2
    append(log, "2\n")
    assert drain(tail) == ["22"]


def test_finish_gives_the_last_line_without_its_end(log: Path) -> None:
    append(log, "1\n2")
    tail = Tail(log)
    drain(tail)
    assert [batch.lines for batch in tail.finish()] == [[b"2"]]
    assert tail.position is not None
    assert tail.position.offset == 3


def test_rename_and_create_reads_the_old_file_to_its_end_first(log: Path, clock: Clock) -> None:
    tail = Tail(log, clock=clock)
    append(log, "1\n")
    assert drain(tail) == ["1"]
    append(log, "2\n")
    log.rename(log.with_name("access.log.1"))
    append(log, "4\n")
    assert drain(tail) == ["2"]
    # A writer that has not been told yet still writes to the old file.
    append(log.with_name("access.log.1"), "3\n")
    assert drain(tail) == ["3"]
    clock.now += 0.9
    assert drain(tail) == []
    clock.now += 0.2
    assert drain(tail) == ["4"]


def test_a_file_renamed_and_not_yet_created_is_still_followed(log: Path, clock: Clock) -> None:
    tail = Tail(log, clock=clock)
    append(log, "1\n")
    drain(tail)
    log.rename(log.with_name("access.log.1"))
    append(log.with_name("access.log.1"), "2\n")
    assert drain(tail) == ["2"]
    assert tail.at_end


def test_two_rotations_between_two_polls_lose_nothing(log: Path) -> None:
    tail = Tail(log, grace_s=0.0)
    append(log, "1\n")
    drain(tail)
    append(log, "2\n")
    log.rename(log.with_name("access.log.2"))
    append(log.with_name("access.log.1"), "3\n")
    append(log, "4\n")
    assert drain(tail) == ["2", "3", "4"]


def test_dated_rotations_are_read_in_the_order_of_their_dates(log: Path) -> None:
    tail = Tail(log, grace_s=0.0)
    append(log, "1\n")
    drain(tail)
    log.rename(log.with_name("access.log-20260609"))
    append(log.with_name("access.log-20260610"), "2\n")
    append(log.with_name("access.log-20260610-1"), "3\n")
    append(log, "4\n")
    assert drain(tail) == ["2", "3", "4"]


def test_copytruncate_reads_the_rest_from_the_copy(log: Path) -> None:
    tail = Tail(log, grace_s=0.0)
    append(log, "first line\n")
    drain(tail)
    append(log, "2\n")
    shutil.copy(log, log.with_name("access.log.1"))
    log.write_text("3\n")
    assert drain(tail) == ["2", "3"]


def test_copytruncate_is_seen_when_the_file_has_outgrown_the_old_one(log: Path) -> None:
    tail = Tail(log, grace_s=0.0)
    append(log, "first line\n")
    drain(tail)
    shutil.copy(log, log.with_name("access.log.1"))
    log.write_text("second first line, and longer\n")
    assert drain(tail) == ["second first line, and longer"]


def test_truncation_without_a_copy_is_said(log: Path) -> None:
    notices: list[str] = []
    tail = Tail(log, notice=notices.append)
    append(log, "first line\n")
    drain(tail)
    log.write_text("2\n")
    assert drain(tail) == ["2"]
    assert "truncated after byte 11" in notices[0]


@pytest.mark.parametrize("stop_after", range(1, 7))
def test_restart_goes_on_at_the_saved_position(log: Path, stop_after: int) -> None:
    """Stopped anywhere between a rotation's steps, two tails together give each line once."""
    first = Tail(log, grace_s=0.0)
    append(log, "1\n2\n")
    lines: list[str] = []
    steps = [
        lambda: append(log, "3\n"),
        lambda: append(log, "par"),
        lambda: append(log, "tial\n"),
        lambda: log.rename(log.with_name("access.log.1")),
        lambda: append(log, "4\n"),
        lambda: append(log, "5\n"),
    ]
    for step in steps[:stop_after]:
        lines += drain(first)
        step()
    position = first.position
    first.close()
    for step in steps[stop_after:]:
        step()
    lines += drain(Tail(log, position, grace_s=0.0))
    assert lines == ["1", "2", "3", "partial", "4", "5"]


def test_an_inode_used_again_is_not_taken_for_the_old_file(log: Path) -> None:
    append(log, "old old old\n")
    tail = Tail(log)
    drain(tail)
    old = tail.position
    assert old is not None
    log.write_text("new line, longer than the old one\n")
    reused = TailPosition(old.device, log.stat().st_ino, old.offset, old.head_bytes, old.head)
    notices: list[str] = []
    assert drain(Tail(log, reused, notice=notices.append)) == ["new line, longer than the old one"]
    assert "may be missing" in notices[0]


def test_restart_finds_a_copy_made_while_it_was_down(log: Path) -> None:
    append(log, "first line\n")
    tail = Tail(log)
    drain(tail)
    append(log, "2\n")
    shutil.copy(log, log.with_name("access.log.1"))
    log.write_text("3\n")
    assert drain(Tail(log, tail.position, grace_s=0.0)) == ["2", "3"]


def test_an_over_long_line_is_dropped_and_counted(log: Path) -> None:
    append(log, "1\n" + "x" * 5000 + "\n2\n")
    tail = Tail(log, max_line=1000)
    batches = []
    while not tail.at_end:
        batches += tail.poll(512)
    assert [line for batch in batches for line in batch.lines] == [b"1", b"2"]
    assert [(b.offset_of(len(b.lines)), b.dropped) for b in batches if b.dropped] == [(2, 5000)]
