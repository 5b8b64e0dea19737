"""Access events of an application's requests, as the middleware posts them (contract 1).

While a request runs this only keeps pieces of it; events are made of them in the queue's thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from fnmatch import fnmatchcase
from itertools import count
from typing import Any, Final

from velvetrope_client.client import EventQueue
from velvetrope_client.copy import Caller
from velvetrope_client.requests import read_request
from velvetrope_client.sketch import Sketcher
from velvetrope_client.usage import Tail, tokens_out

__all__ = ["Annotate", "Record", "Recorder"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Annotate = Callable[[dict[str, Any], bytes, bytes], None]

_MOST_REQUEST: Final = 128 << 10
_MOST_TEXT: Final = 256


class Recorder:
    """Makes records of requests, and has their events posted.

    Args:
        queue: what posts them.
        at: endpoints whose requests become events, as glob patterns.
        sketcher: for sketches in place of texts.
        annotate: may add to an event, given the request's body and the answer's last 16 KiB.
    """

    def __init__(
        self,
        queue: EventQueue,
        at: Collection[str],
        sketcher: Sketcher | None,
        annotate: Annotate | None,
    ) -> None:
        self.queue = queue
        self._at = tuple(at)
        self.sketcher = sketcher
        self.annotate = annotate
        self._name = f"{os.urandom(8).hex()}-%x"
        self._numbers = count()

    def wants(self, path: str) -> bool:
        """Whether a request to `path` becomes an event."""
        return "*" in self._at or any(fnmatchcase(path, pattern) for pattern in self._at)

    def begin(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> Record:
        """The record of a request that arrives now."""
        return Record(self, self._name % next(self._numbers), caller, scope, receive, send)


class Record:
    """One request: `receive` and `send` pass the application's messages on and keep of them."""

    __slots__ = (
        "_arrived",
        "_began",
        "_caller",
        "_ended",
        "_name",
        "_receive",
        "_recorder",
        "_request",
        "_scope",
        "_status",
        "_tail",
        "counts",
        "refused",
    )

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        caller: Caller,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self.refused = False
        self.counts = True  # as a request of the model
        self._recorder = recorder
        self._name = name
        self._caller = caller
        self._scope = scope
        self._receive = receive
        self._tail = Tail(send)
        self._arrived = time.time()
        self._began = time.perf_counter()
        self._ended = 0.0
        self._request = b""
        self._status = 500  # what a server makes of an application that ends without an answer

    async def receive(self) -> Message:
        """The server's next message."""
        message = await self._receive()
        if message["type"] == "http.request" and len(self._request) < _MOST_REQUEST:
            self._request += message.get("body", b"")
        return message

    async def send(self, message: Message) -> None:
        """Pass on a message of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
        await self._tail.send(message)

    def end(self) -> None:
        """The request has ended: have its events posted."""
        self._ended = time.perf_counter()
        if self.counts and self._caller.account is not None:
            self._recorder.queue.put(self.events)

    def events(self) -> list[dict[str, Any]]:
        """The events: one, or one for each row that was asked about."""
        recorder, caller = self._recorder, self._caller
        request = self._request if len(self._request) <= _MOST_REQUEST else b""
        answer = self._tail.bytes
        asked = read_request(request)
        agent = next((v for k, v in self._scope["headers"] if k == b"user-agent"), b"")
        event: dict[str, Any] = {
            "ts": round(self._arrived, 6),
            "account": _cut(caller.account or ""),
            "request_id": self._name,
            "api_key": caller.api_key,
            "org": caller.org,
            "ip": caller.ip,
            "user_agent": _cut(agent.decode("latin-1")) or None,
            "endpoint": _cut(caller.endpoint or self._scope["path"]),
            "model": caller.model or asked.model,
            "status": self._status,
            "served": not self.refused and self._status < 400,
            "latency_ms": round((self._ended - self._began) * 1000.0, 3),
            "params": asked.params or None,
        }
        if (tokens := tokens_out(answer)) is not None:
            event["output_tokens"] = tokens
        event = {name: value for name, value in event.items() if value is not None}
        if recorder.annotate is not None:
            recorder.annotate(event, request, answer)
        events = []
        for row, content in enumerate(asked.inputs or [None]):
            one = dict(event)
            if row:
                one["request_id"] = f"{self._name}#{row}"
            if isinstance(content, str) and recorder.sketcher is not None:
                one["input_sketch"] = recorder.sketcher.sketch(content)
            elif content is not None:
                one["input"] = content
            events.append(one)
        return events


def _cut(text: str) -> str:
    """At most 256 bytes, and UTF-8: what came in a header may hold other bytes."""
    raw = text.encode("utf-8", "replace")[:_MOST_TEXT]
    return raw.decode("utf-8", "ignore")
