"""A small client of the verdict API, for whatever is not an ASGI application.

with Client("http://127.0.0.1:8470") as client:
    verdict = client.check({"Authorization": "Bearer …"}, path="/v1/chat/completions")
    if verdict.refusal is not None:
        ...  # answer with its status, headers and body
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpx

from velvetrope_client.copy import SECRET_HEADER
from velvetrope_client.refusals import Refusal

__all__ = ["AsyncClient", "Client", "EventQueue", "Posted", "Unavailable", "Verdict"]

Event = Mapping[str, Any] | Callable[[], Iterable[Mapping[str, Any]]]
Headers = Mapping[str, str] | Iterable[tuple[bytes, bytes]]

_CHECK: Final = "/authorize/forward"
_EVENTS: Final = "/v1/events"
_CHALLENGE: Final = "/challenge"
_SETTLE: Final = "/v1/settle"
_ANSWER: Final = b"challenge-answer"
_PROBLEM: Final = "application/problem+json"
# Fields of one connection, and those that a server writes itself.
_NOT_RELAYED: Final = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade host "
    b"content-length content-type accept-encoding date server expect".split()
)
_BATCH: Final = 512
_LONGEST_PAUSE_S: Final = 30.0

_log = logging.getLogger(__name__)


class Unavailable(Exception):
    """The verdict API did not answer, or is ill: fail open or closed, as you have decided."""


class Verdict(NamedTuple):
    """What becomes of a request.

    `action` is that of the decision in force, `allow` without one. `refusal` is what the client
    should be answered; None when the request may go on. `charge` is to be handed to `settle` with
    the tokens that the request took, where tokens were charged.
    """

    action: str = "allow"
    level: int = 0
    account: str = ""
    refusal: Refusal | None = None
    charge: str | None = None


class Posted(NamedTuple):
    """What became of posted events: how many were taken, and what was wrong with the others."""

    accepted: int
    rejected: list[dict[str, Any]]


class Client:
    """Asks for verdicts and posts events. For threads; see AsyncClient for asyncio.

    Args:
        url: of the verdict API.
        secret: what `api.secret` of the service is, if it has one.
        timeout_s: for an answer; the same for a connection.
        tokens_header: as `api.tokens_header` of the service, for limits in tokens.
        relay: the caller's header fields that are passed on, beside its answer to a challenge: as
            `api.key_header`, and what else the service goes by (`api.ip_header`,
            `api.plan_header`) *if something in front sets that over whatever the client sent*.
        transport: an httpx transport in place of the network.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        timeout_s: float = 0.25,
        tokens_header: str | None = None,
        relay: Collection[str] = ("Authorization",),
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._relay = _Relay(relay, tokens_header)
        self._client = httpx.Client(
            base_url=url, headers=_secret(secret), timeout=timeout_s, transport=transport
        )

    def check(
        self,
        headers: Headers,
        *,
        path: str = "/",
        method: str = "GET",
        account: str | None = None,
        tokens: int | None = None,
    ) -> Verdict:
        """The verdict on a request, which counts against its rate.

        `headers` are the request's own; `account` goes in X-Account, over whatever a client sent
        there; an empty one says that it is not known. `tokens` is how many the request may take.
        Raises Unavailable.
        """
        try:
            relayed = self._relay(headers, path, method, account, tokens)
            return _verdict(self._client.get(_CHECK, headers=relayed))
        except httpx.HTTPError as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    def post(self, events: Iterable[Mapping[str, Any]]) -> Posted:
        """Post access events (contract 1). Raises Unavailable: nothing was taken, try again."""
        try:
            return _posted(self._client.post(_EVENTS, content=_lines(events)))
        except httpx.HTTPError as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    def settle(self, charge: str, tokens: int) -> None:
        """Say what a request took, in place of what was charged for it. Raises Unavailable."""
        try:
            _settled(self._client.post(_SETTLE, json={"charge": charge, "tokens": tokens}))
        except httpx.HTTPError as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio and trio; belongs to one event loop."""

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        timeout_s: float = 0.25,
        tokens_header: str | None = None,
        relay: Collection[str] = ("Authorization",),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._relay = _Relay(relay, tokens_header)
        self._client = httpx.AsyncClient(
            base_url=url, headers=_secret(secret), timeout=timeout_s, transport=transport
        )

    async def check(
        self,
        headers: Headers,
        *,
        path: str = "/",
        method: str = "GET",
        account: str | None = None,
        tokens: int | None = None,
    ) -> Verdict:
        """See Client.check."""
        try:
            relayed = self._relay(headers, path, method, account, tokens)
            return _verdict(await self._client.get(_CHECK, headers=relayed))
        except httpx.HTTPError as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    async def challenge(
        self,
        headers: Headers,
        *,
        method: str = "GET",
        query: bytes = b"",
        body: bytes = b"",
        rest: str = "",
        account: str | None = None,
    ) -> Refusal:
        """What the service answers at /challenge (`rest` follows that path). Raises Unavailable."""
        try:
            return _whole(
                await self._client.request(
                    method,
                    f"{_CHALLENGE}{rest}?{query.decode('latin-1')}",
                    content=body,
                    headers=self._relay(headers, _CHALLENGE, method, account),
                )
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    async def post(self, events: Iterable[Mapping[str, Any]]) -> Posted:
        """See Client.post."""
        try:
            return _posted(await self._client.post(_EVENTS, content=_lines(events)))
        except httpx.HTTPError as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    async def settle(self, charge: str, tokens: int) -> None:
        """See Client.settle."""
        try:
            _settled(await self._client.post(_SETTLE, json={"charge": charge, "tokens": tokens}))
        except httpx.HTTPError as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class EventQueue:
    """Posts events from a thread of its own, in batches; `put` never waits.

    When the service is away events wait, up to `room`; what finds no room is dropped and counted.

    Args:
        url, secret: as of Client.
        room: events that may wait.
        every_s: seconds after which what waits is posted, a full batch or not.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        room: int = 10_000,
        every_s: float = 1.0,
        timeout_s: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.posted = 0
        self.rejected = 0
        self.dropped = 0
        self._new_client = partial(
            Client, url, secret=secret, timeout_s=timeout_s, transport=transport
        )
        self._room = room
        self._every_s = every_s
        self._waiting: deque[Event] = deque()
        self._batch: list[Mapping[str, Any]] = []  # taken from those, and not yet posted
        self._wake = threading.Event()
        self._stop = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, event: Event) -> bool:
        """Have an event posted; whether there was room for it.

        What is not an event yet is called in the thread, and gives the events to post.
        """
        if len(self._waiting) >= self._room:
            self.dropped += 1
            return False
        self._waiting.append(event)
        if self._thread is None or not self._thread.is_alive():  # a fork has no threads either
            self._start()
        if len(self._waiting) >= _BATCH:
            self._wake.set()
        return True

    def close(self, timeout_s: float = 5.0) -> None:
        """Post what waits, for as long as `timeout_s`; the rest counts as dropped."""
        self._stop = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        self.dropped += len(self._waiting) + len(self._batch)
        self._waiting.clear()
        self._batch = []

    def _start(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="velvetrope-events", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        # A client of the thread's own: connections must not be shared with a process that forked.
        with self._new_client() as client:
            self._post_with(client)

    def _post_with(self, client: Client) -> None:
        pause = self._every_s
        while not self._stop or self._waiting or self._batch:
            self._wake.wait(pause)
            self._wake.clear()
            while self._fill():
                try:
                    found = client.post(self._batch)
                except Unavailable as error:
                    if pause == self._every_s:
                        _log.warning("events cannot be posted now: %s", error)
                    pause = min(pause * 2, _LONGEST_PAUSE_S)
                    break
                pause = self._every_s
                self.posted += found.accepted
                self.rejected += len(found.rejected)
                if found.rejected:
                    _log.warning("the service refused events, one of them: %s", found.rejected[0])
                self._batch = []

    def _fill(self) -> bool:
        """Whether there is a batch to post."""
        while len(self._batch) < _BATCH and self._waiting:
            event = self._waiting.popleft()
            try:
                self._batch += event() if callable(event) else [event]
            except Exception:  # the caller's own function: one event is not worth all that follow
                self.dropped += 1
                _log.exception("an event could not be made")
        return bool(self._batch)


def _secret(secret: str | None) -> dict[str, str]:
    return {} if secret is None else {SECRET_HEADER: secret}


class _Relay:
    """What the service is told of a request: of the caller's own fields only what it goes by.

    Whatever else a client sends may be a field that the service trusts from its gateways.
    """

    def __init__(self, names: Collection[str], tokens_header: str | None) -> None:
        self._names = {_ANSWER, *(name.lower().encode("latin-1") for name in names)}
        self._tokens_name = (tokens_header or "").lower().encode()

    def __call__(
        self,
        headers: Headers,
        path: str,
        method: str,
        account: str | None,
        tokens: int | None = None,
    ) -> list[tuple[bytes, bytes]]:
        pairs: Iterable[tuple[bytes, bytes]]
        if isinstance(headers, Mapping):
            pairs = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        else:
            pairs = [(name.lower(), value) for name, value in headers]
        names = self._names if account is not None else {*self._names, b"x-account"}
        relayed = [(name, value) for name, value in pairs if name in names]
        if account:
            relayed.append((b"x-account", account.encode("utf-8", "surrogateescape")))
        if self._tokens_name and tokens is not None:
            relayed.append((self._tokens_name, str(tokens).encode()))
        relayed.append((b"x-forwarded-method", method.encode("latin-1", "replace")))
        relayed.append((b"x-forwarded-uri", path.encode("utf-8", "surrogateescape")))
        return relayed


def _verdict(answer: httpx.Response) -> Verdict:
    if answer.status_code >= 500:
        raise Unavailable(f"the verdict API answered {answer.status_code}")
    if answer.status_code < 300:
        level = answer.headers.get("x-velvetrope-level", "0")
        return Verdict(
            answer.headers.get("x-velvetrope-action", "allow"),
            int(level) if level.isdigit() else 0,
            answer.headers.get("x-velvetrope-account", ""),
            charge=answer.headers.get("x-velvetrope-charge"),
        )
    if answer.headers.get("content-type", "").partition(";")[0] != _PROBLEM:
        # Another program at that address, or a server that could not read what it was sent.
        raise Unavailable(f"{answer.status_code} from what is not the verdict API")
    action = {429: "throttle", 401: "challenge"}.get(answer.status_code, "block")
    return Verdict(action, 0, "", _whole(answer))


def _whole(answer: httpx.Response) -> Refusal:
    """An answer of the service, to pass on."""
    headers = [
        (name.lower(), value)
        for name, value in answer.headers.raw
        if name.lower() not in _NOT_RELAYED or name.lower() == b"content-type"
    ]
    headers.append((b"content-length", str(len(answer.content)).encode()))
    return Refusal(answer.status_code, tuple(headers), answer.content)


def _settled(answer: httpx.Response) -> None:
    if answer.status_code != 204:
        raise Unavailable(f"the service answered {answer.status_code}")


def _lines(events: Iterable[Mapping[str, Any]]) -> bytes:
    return b"\n".join(json.dumps(event, separators=(",", ":")).encode() for event in events)


def _posted(answer: httpx.Response) -> Posted:
    if answer.status_code not in (202, 413, 422):
        raise Unavailable(f"the service answered {answer.status_code}")
    if answer.status_code != 202:
        # Never to be taken: trying again would hold up all that come after.
        return Posted(0, [{"index": 0, "error": answer.text[:200]}])
    found = answer.json()
    return Posted(found["accepted"], found["rejected"])
