"""Sources: a played log keeps its pace; a followed file remembers its place."""

from __future__ import annotations

from pathlib import Path

from detector.runners.sources import FileSource, Paced
from tests.detector.runners.fakes import native_line


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_played_log_gives_out_what_is_due(tmp_path: Path) -> None:
    log, clock = tmp_path / "log", Clock()
    log.write_bytes(b"".join(native_line("a", 1000.0 + i) for i in range(5)))
    source = Paced(log, speed=2.0, clock=clock)
    assert source.now() == 1000.0
    assert [len(batch.lines) for batch in source.poll()] == [1]
    clock.now += 1.0
    (batch,) = source.poll()
    assert len(batch.lines) == 2
    assert batch.start == len(native_line("a", 1000.0))
    assert source.now() == 1002.0
    assert (source.poll(), source.at_end) == ([], False)
    clock.now += 60.0
    assert [len(batch.lines) for batch in source.poll()] == [2]
    assert source.at_end


def test_a_line_without_a_time_goes_along_with_the_one_before(tmp_path: Path) -> None:
    log, clock = tmp_path / "log", Clock()
    log.write_bytes(native_line("a", 1000.0) + b"{broken\n" + native_line("a", 1010.0))
    source = Paced(log, speed=1.0, clock=clock)
    assert [len(batch.lines) for batch in source.poll()] == [2]


def test_a_followed_file_goes_on_where_its_position_says(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"1\n2\n")
    first = FileSource(log)
    assert [batch.lines for batch in first.poll()] == [[b"1", b"2"]]
    position = first.position()
    first.close()
    with log.open("ab") as file:
        file.write(b"3\n")
    assert [batch.lines for batch in FileSource(log, position).poll()] == [[b"3"]]
