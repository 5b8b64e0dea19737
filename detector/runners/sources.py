"""Where serve's lines come from: a followed file, or a log played at a chosen speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from detector.runners.lines import LineBatch
from detector.runners.tail import Tail, TailPosition

__all__ = ["FileSource", "Paced", "Source"]


class Source(Protocol):
    """Polled for lines; calls return at once. `position` belongs to the lines given out so far."""

    name: str

    @property
    def at_end(self) -> bool:
        """Whether the last poll found nothing more to read."""

    def poll(self) -> list[LineBatch]:
        """The next whole lines; an empty list when there are none now."""

    def finish(self) -> list[LineBatch]:
        """The last line although its end is missing: the input has ended."""

    def position(self) -> bytes | None:
        """What to start from after a restart; None when nothing was read."""

    def close(self) -> None:
        """Let go of what is open."""


class FileSource:
    """A file followed through rotation and truncation."""

    def __init__(
        self,
        path: Path,
        position: bytes | None = None,
        *,
        grace_s: float = 1.0,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        saved = None if position is None else msgspec.json.decode(position, type=TailPosition)
        self.name = str(path)
        self._tail = Tail(path, saved, grace_s=grace_s, notice=notice)

    @property
    def at_end(self) -> bool:
        """See Source."""
        return self._tail.at_end

    def poll(self) -> list[LineBatch]:
        """See Source."""
        return self._tail.poll()

    def finish(self) -> list[LineBatch]:
        """See Source."""
        return self._tail.finish()

    def position(self) -> bytes | None:
        """See Source."""
        position = self._tail.position
        return None if position is None else msgspec.json.encode(position)

    def close(self) -> None:
        """See Source."""
        self._tail.close()


class _Stamp(msgspec.Struct):
    ts: float | int = 0.0


class Paced:
    """A native log played at `speed` times its own pace, from its first line on.

    Lines whose time cannot be read go along with the one before.
    """

    def __init__(
        self,
        path: Path,
        speed: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        batch_lines: int = 500,
    ) -> None:
        self.name = str(path)
        self.at_end = False
        self._lines = path.read_bytes().split(b"\n")
        if self._lines and not self._lines[-1]:
            self._lines.pop()
        self._speed = speed
        self._clock = clock
        self._batch_lines = batch_lines
        self._decoder = msgspec.json.Decoder(_Stamp)
        self._next = 0
        self._offset = 0
        self._first_ts = self._ts(0, 0.0) if self._lines else 0.0
        self._began: float | None = None

    def now(self) -> float:
        """The log's time now, Unix seconds: what its clock would show."""
        if self._began is None:
            return self._first_ts
        return self._first_ts + (self._clock() - self._began) * self._speed

    def poll(self) -> list[LineBatch]:
        """The lines that are due."""
        if self._began is None:
            self._began = self._clock()
        now, first, ts = self.now(), self._next, self._first_ts
        last = min(first + self._batch_lines, len(self._lines))
        while self._next < last:
            ts = self._ts(self._next, ts)
            if ts > now:
                break
            self._next += 1
        self.at_end = self._next == len(self._lines)
        lines = self._lines[first : self._next]
        if not lines:
            return []
        batch = LineBatch(self.name, self._offset, lines)
        self._offset = batch.offset_of(len(lines))
        return [batch]

    def finish(self) -> list[LineBatch]:
        """Nothing: the file was read whole."""
        return []

    def position(self) -> None:
        """None: a restart plays from the start."""

    def close(self) -> None:
        """Nothing is open."""

    def _ts(self, index: int, before: float) -> float:
        try:
            return float(self._decoder.decode(self._lines[index]).ts)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return before
