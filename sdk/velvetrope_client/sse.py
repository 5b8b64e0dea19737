"""Server-sent events, given in pieces of any size: each event is rewritten as soon as it is whole.

Bytes that are not rewritten leave as they came, line ends and comments too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

__all__ = ["MAX_EVENT_BYTES", "EventStream"]

MAX_EVENT_BYTES: Final = 1 << 20
_EOL: Final = rb"(?:\r\n|\n|\r(?!\n))"
_END: Final = re.compile(_EOL + _EOL)
_LINE: Final = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r|$)")
_LOOK_BACK: Final = 3  # of an end that began in the piece before


class EventStream:
    """A stream of events whose data pass through `rewrite`.

    Args:
        rewrite: from an event's data to what stands in its place, or None to leave it.
        limit: bytes; an event that is longer passes unread, so that no client fills the memory.
    """

    __slots__ = ("_held", "_limit", "_rewrite", "_skipping")

    def __init__(
        self, rewrite: Callable[[bytes], bytes | None], limit: int = MAX_EVENT_BYTES
    ) -> None:
        self._rewrite = rewrite
        self._limit = limit
        self._held = bytearray()
        self._skipping = False  # inside an event that is too long

    def feed(self, piece: bytes) -> bytes:
        """Every event that is whole by now, rewritten."""
        start = max(0, len(self._held) - _LOOK_BACK)
        self._held += piece
        out = bytearray()
        done = 0
        while (end := _END.search(self._held, max(start, done))) is not None:
            out += self._event(bytes(self._held[done : end.end()]))
            done = end.end()
        del self._held[:done]
        if len(self._held) > self._limit or (self._skipping and self._held):
            self._skipping = True
            # What may be the beginning of the end stays.
            passed = len(self._held) - _LOOK_BACK
            if passed > 0:
                out += self._held[:passed]
                del self._held[:passed]
        return bytes(out)

    def close(self) -> bytes:
        """What is left when the stream ends, an event without its end."""
        left = self._event(bytes(self._held))
        self._held.clear()
        return left

    def _event(self, raw: bytes) -> bytes:
        if self._skipping:
            self._skipping = False
            return raw
        data: list[bytes] = []
        for line in _LINE.findall(raw):
            if line.startswith(b"data:"):
                value = line[5:].rstrip(b"\r\n")
                data.append(value[1:] if value.startswith(b" ") else value)
        if not data:
            return raw
        rewritten = self._rewrite(b"\n".join(data))
        return raw if rewritten is None else _with_data(raw, rewritten)


def _with_data(raw: bytes, data: bytes) -> bytes:
    """The event with other data, in its first data line; a line of JSON has no line end in it."""
    lines = []
    first = True
    for line in _LINE.findall(raw):
        if not line.startswith(b"data:"):
            lines.append(line)
        elif first:
            first = False
            lines.append(b"data: " + data + line[len(line.rstrip(b"\r\n")) :])
    return b"".join(lines)
