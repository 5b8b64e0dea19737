"""Files and stdin as chunks of bytes, gzip unpacked, with how much of them has been read."""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["STDIN", "Inputs", "UnreadableInput"]

STDIN: Final = Path("-")
_CHUNK_BYTES: Final = 4 << 20
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = zlib.MAX_WBITS | 16


class UnreadableInput(Exception):
    """An input cannot be opened, or its bytes end in an error. Says which and why."""


class Inputs:
    """Several inputs, read one after the other.

    `size` is their bytes as stored (None when stdin is among them); `read` how many of these were
    read so far.
    """

    def __init__(self, files: Sequence[Path], stdin: BinaryIO | None = None) -> None:
        self._files = files
        self._stdin = stdin
        self.read = 0
        self.size: int | None = 0
        for file in files:
            if file == STDIN:
                self.size = None
                continue
            try:
                with file.open("rb") as opened:
                    length = opened.seek(0, io.SEEK_END) if opened.seekable() else None
            except OSError as error:
                raise UnreadableInput(f"{file}: {error.strerror}") from None
            self.size = None if self.size is None or length is None else self.size + length

    def __iter__(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """(name, chunks) of each input, in order. The chunks raise UnreadableInput."""
        for file in self._files:
            yield str(file), self._chunks(file)

    def _chunks(self, file: Path) -> Iterator[bytes]:
        try:
            if file == STDIN:
                yield from self._unpacked(self._stdin or sys.stdin.buffer)
            else:
                with file.open("rb") as opened:
                    yield from self._unpacked(opened)
        except OSError as error:
            raise UnreadableInput(f"{file}: {error.strerror or error}") from None
        except (zlib.error, EOFError) as error:
            raise UnreadableInput(f"{file}: damaged gzip data: {error}") from None

    def _unpacked(self, opened: BinaryIO) -> Iterator[bytes]:
        chunk = self._next(opened)
        if not chunk.startswith(_GZIP_MAGIC):
            while chunk:
                yield chunk
                chunk = self._next(opened)
            return
        inflate = zlib.decompressobj(_GZIP_WINDOW)
        while chunk:
            # A gzip file may be several members in a row; a bomb is unpacked a chunk at a time.
            out = inflate.decompress(chunk, _CHUNK_BYTES)
            if out:
                yield out
            if inflate.eof:
                chunk = inflate.unused_data.lstrip(b"\0") or self._next(opened)
                if chunk:
                    inflate = zlib.decompressobj(_GZIP_WINDOW)
            else:
                chunk = inflate.unconsumed_tail or self._next(opened)
        if not inflate.eof:
            raise EOFError("it ends in the middle")

    def _next(self, opened: BinaryIO) -> bytes:
        chunk = opened.read(_CHUNK_BYTES)
        self.read += len(chunk)
        return chunk
