"""Follows a growing log file through rotation, truncation and restarts."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Final

import msgspec

from detector.events import MAX_RECORD_BYTES
from detector.runners.lines import READ_BYTES, LineBatch, LineSplitter

__all__ = ["Tail", "TailPosition"]

_HEAD_BYTES: Final = 1024
# Rotated names end in a count (access.log.1: lower is newer) or a date (access.log-20260610).
_SMALLEST_DATE: Final = 1_000_000


class TailPosition(msgspec.Struct, frozen=True):
    """How far a file was read: enough to find the place again under another name.

    An inode number is used again soon after a file is deleted, so the first bytes of the file
    (a BLAKE2b of them) must agree as well.
    """

    device: int
    inode: int
    offset: int  # bytes; the start of the first line that was not given out
    head_bytes: int
    head: str


class Tail:
    """Polls one path for new whole lines.

    * Renamed and created anew: the old file is read to its end, and for `grace_s` more since
      writers are told of a rotation only after it, then the files between, then the new one.
    * Truncated (`copytruncate`): what was not read yet is read from the copy, then from the start.
    * Started again from a saved position: goes on there, under whatever name the file has now.
    * A last line without its end waits for it. A line over `max_line` bytes is dropped unread.

    Calls return at once. `OSError` is raised for anything but a file that is not there (yet).
    """

    def __init__(
        self,
        path: Path,
        position: TailPosition | None = None,
        *,
        max_line: int = MAX_RECORD_BYTES,
        grace_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.path = path
        self.at_end = False  # the last poll found nothing more to read
        self._max_line = max_line
        self._grace_s = grace_s
        self._clock = clock
        self._notice = notice
        self._file: FileIO | None = None
        self._lines = LineSplitter(str(path), max_line=max_line)
        self._head = b""
        self._position = position
        self._resume_from = position
        self._left_at: float | None = None  # when the path was first seen to be another file

    @property
    def position(self) -> TailPosition | None:
        """Where to go on after the lines given out so far; None before the first file was seen."""
        return self._position

    def poll(self, max_bytes: int = READ_BYTES) -> list[LineBatch]:
        """The whole lines among the next `max_bytes`; an empty list when there is nothing new."""
        self.at_end = False
        if self._file is None and not self._open_first():
            self.at_end = True
            return []
        if self._was_truncated():
            self._after_truncation()
        assert self._file is not None  # noqa: S101
        chunk = self._file.read(max_bytes)
        if chunk:
            self._left_at = None
            batches = self._lines.feed(chunk)
            self._note_position()
            return batches
        if not self._left():
            self.at_end = True
            return []
        # The writer has gone over to another file: nothing completes the last line any more.
        batches = self._lines.finish()
        self._note_position()
        self._open_next()
        return batches

    def finish(self) -> list[LineBatch]:
        """The last line although its end is missing; for an input that has ended."""
        batches = self._lines.finish()
        if batches and self._file is not None:
            self._note_position()
        return batches

    def close(self) -> None:
        """Let the file go; `position` stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # Opening

    def _open(self, path: Path, offset: int) -> bool:
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            return False
        self.close()
        file.seek(offset)
        self._file = file
        self._lines = LineSplitter(str(path), offset, self._max_line)
        self._left_at = None
        self._head = b""
        self._note_position()
        return True

    def _open_first(self) -> bool:
        saved = self._resume_from
        if saved is None:
            return self._open(self.path, 0)
        place = _find(saved, [self.path, *self._rotated()])
        if place is None:
            if not self._open(self.path, 0):
                return False
            if saved.offset:
                self._notice(
                    f"{self.path} is not the file that was read to byte {saved.offset}, and no "
                    "rotated file beside it is: what was logged in between may be missing"
                )
        elif not self._open(place, saved.offset):
            return False
        self._resume_from = None
        return True

    def _open_next(self) -> None:
        """Go on to the file that was written after this one."""
        assert self._file is not None  # noqa: S101
        now = os.fstat(self._file.fileno())
        rotated = self._rotated()
        ours = next((i for i, path in enumerate(rotated) if _is(path, now)), None)
        newer = rotated[ours + 1 :] if ours is not None else []
        for path in [*newer, self.path]:
            if self._open(path, 0):
                return

    def _rotated(self) -> list[Path]:
        """Rotated files beside the path, oldest first."""
        pattern = re.compile(re.escape(self.path.name) + r"[.-](\d+)(?:-(\d+))?")
        found: list[tuple[tuple[int, ...], Path]] = []
        if not self.path.parent.is_dir():
            return []
        for path in self.path.parent.iterdir():
            match = pattern.fullmatch(path.name)
            if match:
                number = int(match[1])
                age = (0, -number) if number < _SMALLEST_DATE else (1, number, int(match[2] or 0))
                found.append((age, path))
        return [path for _, path in sorted(found)]

    # What happened to the file

    def _left(self) -> bool:
        """Whether the path has been another file for the grace time."""
        assert self._file is not None  # noqa: S101
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False  # renamed, and not created yet: the writer still has the old one
        here = os.fstat(self._file.fileno())
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
            return False
        if self._left_at is None:
            self._left_at = self._clock()
        return self._clock() - self._left_at >= self._grace_s

    def _was_truncated(self) -> bool:
        assert self._file is not None  # noqa: S101
        number = self._file.fileno()
        if os.fstat(number).st_size < self._lines.offset + self._lines.pending:
            return True
        return bool(self._head) and os.pread(number, len(self._head), 0) != self._head

    def _after_truncation(self) -> None:
        """Read on in the copy that was made before truncating, else from the start."""
        place = self._position
        if place is not None and place.head_bytes:
            copy = _find(place, self._rotated())
            if copy is not None and self._open(copy, place.offset):
                return
            self._notice(
                f"{self.path} was truncated after byte {place.offset} and no copy is beside it: "
                "what was logged just before may be missing"
            )
        self._open(self.path, 0)

    def _note_position(self) -> None:
        assert self._file is not None  # noqa: S101
        number = self._file.fileno()
        offset = self._lines.offset
        if len(self._head) < min(offset, _HEAD_BYTES):
            self._head = os.pread(number, min(offset, _HEAD_BYTES), 0)
        status = os.fstat(number)
        self._position = TailPosition(
            status.st_dev, status.st_ino, offset, len(self._head), _digest(self._head)
        )


def _digest(head: bytes) -> str:
    return hashlib.blake2b(head, digest_size=16).hexdigest()


def _is(path: Path, status: os.stat_result) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)


def _find(saved: TailPosition, candidates: list[Path]) -> Path | None:
    """The file that was read to `saved`: by inode and first bytes, else by first bytes alone."""
    copies: list[Path] = []
    for path in candidates:
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_size < saved.offset:
                    continue
                if _digest(file.read(saved.head_bytes)) != saved.head:
                    continue
        except FileNotFoundError:
            continue
        if (status.st_dev, status.st_ino) == (saved.device, saved.inode):
            return path
        if saved.head_bytes:
            copies.append(path)
    return copies[0] if copies else None
