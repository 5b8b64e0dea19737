"""Bytes to lines, in bounded memory: an over-long line is dropped as it is read, and said so."""

from __future__ import annotations

from typing import Final

import msgspec

from detector.events import MAX_RECORD_BYTES

__all__ = ["READ_BYTES", "LineBatch", "LineSplitter"]

READ_BYTES: Final = 1 << 20


class LineBatch(msgspec.Struct, frozen=True, gc=False):
    """Consecutive lines of one source, without their line ends."""

    source: str
    start: int  # byte offset of the first line in the source
    lines: list[bytes]
    # Length in bytes of the over-long line that follows `lines` and was dropped; 0: there is none.
    dropped: int = 0

    def offset_of(self, index: int) -> int:
        """Byte offset of line `index`; `len(lines)` is where the dropped line started."""
        return self.start + sum(map(len, self.lines[:index])) + index


class LineSplitter:
    """Cuts the chunks of one source into lines.

    `offset` is the byte after the last line given out: what follows it is a line's beginning, kept
    until the rest of it comes.
    """

    def __init__(self, source: str, offset: int = 0, max_line: int = MAX_RECORD_BYTES) -> None:
        self.source = source
        self.offset = offset
        self._max_line = max_line
        self._rest = b""
        self._dropping = 0  # bytes of an over-long line that were dropped so far

    @property
    def pending(self) -> int:
        """Bytes after `offset` that were read and wait for their line to end."""
        return self._dropping or len(self._rest)

    def feed(self, chunk: bytes) -> list[LineBatch]:
        """The lines that `chunk` completes, in order; a line counts once its end was read."""
        batches: list[LineBatch] = []
        if self._dropping:
            head, newline, chunk = chunk.partition(b"\n")
            self._dropping += len(head)
            if not newline:
                return batches
            batches.append(self._batch([], self._dropping))
            self._dropping = 0
        elif self._rest:
            chunk = self._rest + chunk
        lines = chunk.split(b"\n")
        self._rest = lines.pop()
        while lines and max(map(len, lines)) > self._max_line:
            long = next(i for i, line in enumerate(lines) if len(line) > self._max_line)
            batches.append(self._batch(lines[:long], len(lines[long])))
            lines = lines[long + 1 :]
        if lines:
            batches.append(self._batch(lines, 0))
        if len(self._rest) > self._max_line:
            self._dropping, self._rest = len(self._rest), b""
        return batches

    def finish(self) -> list[LineBatch]:
        """The last line, when the source ended without a line end after it."""
        batches: list[LineBatch] = []
        if self._dropping:
            batches.append(self._batch([], self._dropping))
            self.offset -= 1
        elif self._rest:
            batches.append(self._batch([self._rest], 0))
            self.offset -= 1
        self._dropping, self._rest = 0, b""
        return batches

    def _batch(self, lines: list[bytes], dropped: int) -> LineBatch:
        batch = LineBatch(self.source, self.offset, lines, dropped)
        self.offset = batch.offset_of(len(lines)) + (dropped + 1 if dropped else 0)
        return batch
