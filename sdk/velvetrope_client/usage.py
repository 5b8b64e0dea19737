"""Tokens of a request: what it may take, by its body, and what it took, by its answer's usage."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from velvetrope_client.requests import read_request

__all__ = ["TAIL_BYTES", "Tail", "tokens_asked", "tokens_out", "tokens_used"]

Message = MutableMapping[str, Any]

TAIL_BYTES: Final = 16 << 10
_BYTES_A_TOKEN: Final = 4
_MOST: Final = 10_000_000
# Inside of a text these would have a backslash before each quotation mark.
_OUT: Final = re.compile(rb'"(?:completion_tokens|output_tokens)"\s*:\s*(\d{1,9})')
_IN: Final = re.compile(rb'"(?:prompt_tokens|input_tokens)"\s*:\s*(\d{1,9})')


class Tail:
    """Passes an answer's messages on, and keeps its last 16 KiB."""

    __slots__ = ("_kept", "_send")

    def __init__(self, send: Callable[[Message], Awaitable[None]]) -> None:
        self._send = send
        self._kept = b""

    async def send(self, message: Message) -> None:
        """Pass on a message."""
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            self._kept = body if len(body) >= TAIL_BYTES else self._kept[-TAIL_BYTES:] + body
        await self._send(message)

    @property
    def bytes(self) -> bytes:
        """The end of the answer."""
        return self._kept[-TAIL_BYTES:]


def tokens_asked(request: bytes) -> int:
    """About how many tokens a request may take: a quarter of its bytes, and its `max_tokens`.

    >>> tokens_asked(b'{"prompt": "twenty-five bytes here", "max_tokens": 100}')
    113
    """
    most = read_request(request).params.get("max_tokens", 0)
    out = int(most) if isinstance(most, int | float) and 0 < most < _MOST else 0
    return len(request) // _BYTES_A_TOKEN + out


def tokens_out(tail: bytes) -> int | None:
    """Tokens of the answer, as its usage says; None when it does not."""
    found = _OUT.findall(tail)
    return int(found[-1]) if found else None


def tokens_used(tail: bytes) -> int | None:
    """Tokens of request and answer together; None when the usage does not say both.

    >>> tokens_used(b'{"usage": {"prompt_tokens": 5, "completion_tokens": 7}}')
    12
    """
    asked, out = _IN.findall(tail), tokens_out(tail)
    return None if not asked or out is None else int(asked[-1]) + out
