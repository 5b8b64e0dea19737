"""`POST /v1/events` (contract 5): posted log records, accepted once they are on the disk."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from detector.dead_letters import dead_letter
from detector.events import BadRecord
from detector.formats import Format, split_records
from detector.runners.ledger import Ledger
from responders.gateways.app import has_secret
from responders.settings import ApiSettings
from responders.stores.base import StoreUnavailable
from responders.stores.sqlite import SqliteStore

__all__ = ["Ingest"]

_SOURCE: Final = "POST /v1/events"
_FULL_RETRY_S: Final = 2
_ILL_RETRY_S: Final = 5


class _LiteLLMShape(msgspec.Struct):
    """What tells a LiteLLM payload from a native event."""

    startTime: float | str  # noqa: N815 - LiteLLM's name
    status: str


_shape: Final = msgspec.json.Decoder(_LiteLLMShape)


class Ingest:
    """Takes posts into the inbox that the engine reads.

    A 202 means that the records are committed and synced; a 503 that none of them were taken, so
    that the same body can be posted again.
    """

    def __init__(
        self,
        store: SqliteStore,
        ledger: Ledger,
        formats: Mapping[str, Format],
        *,
        max_waiting: int,
        api: ApiSettings,
        wake: Callable[[], None],
        dead_letters_kept: int,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._formats = formats
        self._max_waiting = max_waiting
        self._api = api
        self._max_body_bytes = api.max_body_bytes
        self._wake = wake
        self._kept = dead_letters_kept
        self._count = threading.Lock()
        self._waiting = ledger.waiting()

    def route(self) -> Route:
        """To be mounted before the verdict API."""
        return Route("/v1/events", self.post, methods=["POST"])

    def taken_out(self, records: int) -> None:
        """The engine has made this many records part of the state."""
        with self._count:
            self._waiting -= records

    async def post(self, request: Request) -> Response:
        """Answer one POST."""
        refused = self._not_allowed(request)
        if refused is not None:
            return refused
        if request.headers.get("content-encoding", "identity") != "identity":
            return _problem(415, "The body must not be compressed.")
        try:
            body = await self._body(request)
        except ClientDisconnect:
            return Response(status_code=400)
        if body is None:
            return _problem(413, f"The body is larger than {self._max_body_bytes} bytes.")
        return await asyncio.to_thread(self._take, body, request.query_params.get("format"))

    def _not_allowed(self, request: Request) -> Response | None:
        # Logs are not posted by pages in a browser, not even from this machine.
        if "origin" in request.headers:
            return _problem(403, "Events are not accepted from browsers.")
        if not has_secret(request, self._api):
            return _problem(401, "The shared secret is missing or wrong.")
        return None

    async def _body(self, request: Request) -> bytes | None:
        """The body, or None when it is too large; never more than the limit in memory."""
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > self._max_body_bytes:
            return None
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > self._max_body_bytes:
                return None
            chunks.append(chunk)
        return b"".join(chunks)

    def _take(self, body: bytes, name: str | None) -> Response:
        read_at = time.time()
        try:
            records = split_records(body)
        except BadRecord as error:
            return _problem(422, str(error))
        if name is None:
            name = _format_of(records)
        log_format = self._formats.get(name)
        if log_format is None:
            known = ", ".join(self._formats)
            return _problem(422, f"Unknown format {name[:40]!r}; known: {known}.")
        if self._waiting + len(records) > self._max_waiting:
            return _problem(503, "The inbox is full.", _FULL_RETRY_S)
        _, bad = log_format.decode_lines(records, read_at)
        refused = dict(bad)
        good = [record for index, record in enumerate(records) if index not in refused]
        letters = [
            dead_letter(records[i], error, source=_SOURCE, position=i, read_at=read_at)
            for i, error in refused.items()
        ]
        try:
            with self._store.transaction() as db:
                if good:
                    self._ledger.post(db, name, read_at, good)
                if letters:
                    self._ledger.bury(db, letters, self._kept)
        except StoreUnavailable:
            return _problem(503, "The events cannot be stored now.", _ILL_RETRY_S)
        with self._count:
            self._waiting += len(good)
        self._wake()
        answer = {
            "accepted": len(good),
            "rejected": [{"index": i, "error": error} for i, error in refused.items()],
        }
        return _json(202 if good else 422, answer)


def _format_of(records: list[bytes]) -> str:
    """By the shape of the first record."""
    try:
        _shape.decode(records[0])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "native"
    return "litellm"


def _json(status: int, content: object, **headers: str) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def _problem(status: int, detail: str, retry_after: int | None = None) -> Response:
    """An RFC 9457 problem document."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Response(
        msgspec.json.encode({"status": status, "detail": detail}),
        status,
        headers,
        media_type="application/problem+json",
    )
