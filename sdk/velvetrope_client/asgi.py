"""ASGI middleware: enforces decisions in front of an application, from a local copy.

    app = Velvetrope(app, "http://127.0.0.1:8470")

Nothing is asked of anybody while nothing is wrong. A caller under a decision is refused here, or
answered poisoned; throttles and challenges are taken from the verdict API, which counts for all
processes and knows the proofs, and from this process alone when it does not answer.

The application finds `scope["velvetrope"]`, a `Verdict`: the action in force and the account.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final, Protocol

from velvetrope_client.client import AsyncClient, EventQueue, Unavailable, Verdict
from velvetrope_client.copy import Caller, Copy, Decision
from velvetrope_client.generic import generic_answer
from velvetrope_client.guard import Guard, GuardSettings, asked
from velvetrope_client.records import Annotate, Record, Recorder
from velvetrope_client.refusals import (
    Limiter,
    Refusal,
    answered,
    block,
    challenge,
    not_answered,
    two_keys,
    unavailable,
)
from velvetrope_client.requests import read_request
from velvetrope_client.rewriting import Rewriter
from velvetrope_client.sketch import Sketcher
from velvetrope_client.usage import Tail, tokens_asked, tokens_used

__all__ = ["Headers", "Rewrites", "Stream", "TwoKeys", "Velvetrope"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OURS: Final = b"x-velvetrope"
_SHARED: Final = frozenset(("account", "api_key"))  # scopes that the verdict API sees as well
_MAPPED: Final = "::ffff:"  # before an IPv4 address, where a server listens for both kinds
_LIMITS: Final = ("rate_per_min", "tokens_per_min", "requests_per_day", "tokens_per_day")
_ASK_AGAIN_S: Final = 1.0
_MAX_REQUEST: Final = 4 << 20
_MAX_ANSWER: Final = 16 << 20
# What would keep an answer from being read: compression, parts of it, files sent past the server.
_HIDES_ANSWERS: Final = frozenset((b"accept-encoding", b"range", b"if-range"))
_PAST_SEND: Final = ("http.response.pathsend", "http.response.zerocopysend")
_OF_BODY: Final = frozenset((b"content-length", b"etag", b"content-md5", b"digest"))


class Stream(Protocol):
    """A streaming answer being rewritten."""

    def feed(self, chunk: bytes) -> bytes: ...
    def close(self) -> bytes: ...


class Rewrites(Protocol):
    """What rewrites answers to poisoned callers: `velvetrope_client.rewriting.Rewriter`."""

    def rewrite(
        self,
        *,
        action: str,
        level: int,
        subject: str,
        endpoint: str,
        request: bytes,
        body: bytes,
        content_type: str,
    ) -> bytes: ...

    def stream(
        self,
        *,
        action: str,
        level: int,
        subject: str,
        endpoint: str,
        request: bytes,
        content_type: str,
    ) -> Stream: ...


_SHAPING: Final[Rewrites] = Rewriter()


class TwoKeys(Exception):
    """A request with two keys: we might go by one and the application by the other."""


class Headers:
    """Identity from header fields: the key's hash, and the account if something in front sets it.

    Args:
        key: field with the caller's bearer key.
        account: field that a gateway in front sets, over whatever the client sent. None: there is
            none, and a client's own says nothing.

    The account of a key that velvetrope knows counts before the field; without either a caller is
    known by the hash of its key, else by its address. Raises TwoKeys.
    """

    def __init__(self, key: str = "authorization", account: str | None = None) -> None:
        self.key = key
        self._key = key.lower().encode()
        self._account = None if account is None else account.lower().encode()

    def __call__(self, scope: Scope) -> Caller:
        key = account = None
        for name, value in scope["headers"]:
            if name == self._key:
                one = _key_scope(value)
                if key is not None and one != key:
                    raise TwoKeys
                key = one
            elif name == self._account:
                account = value.decode("utf-8", "backslashreplace") or None
        client = scope.get("client")
        ip = client[0] if client else None
        if ip is not None and ip.startswith(_MAPPED) and "." in ip:
            ip = ip[len(_MAPPED) :]
        return Caller(account, key, None, ip, scope["path"])


class Velvetrope:
    """The middleware.

    Args:
        app: the application behind it.
        url, secret: of the verdict API.
        identify: from the ASGI scope to a Caller; the default is `Headers()`. While the mode is
            enforce, a request of which it raises TwoKeys is answered 400.
        rewriter: for answers to poisoned callers; the default shapes them, and None leaves them to
            the application.
        guard: what becomes of requests that probe the model, whoever sends them. It looks at POST,
            and only while the mode is enforce.
        static_limits: ask the verdict API about each request that a static limit of the service may
            be about: they hold without a decision. False leaves them out.
        ask: take throttles and challenges from the verdict API; False decides them here, where
            each process counts for itself.
        tokens_header: as `api.tokens_header` of the service, which is then told how many tokens a
            request may take when it is asked, and how many it took when it was answered.
        fail_closed: actions that stay in force when the feed has been silent for too long; the
            others fail open. None: those of the service's policy, as it said last.
        start_within_s: seconds for which the application's start may wait for the first snapshot;
            until that is read everybody passes.
        challenge_path: where the application's clients reach the service's /challenge, as
            `api.challenge.place` says, for it to be passed on there; None passes nothing on.
        events: where to post an access event for each request to one of `events_at` (glob patterns
            of paths); None posts none.
        sketcher: posts sketches in place of texts.
        annotate: gets each event, the request's body and the last bytes of the answer, and may add
            to the event; in the thread that posts.
        challenge_url, status_block: as `api.challenge_url` and `api.status_block` of the service,
            for refusals that are decided here.
        copy, client: in place of those made from `url` and `secret`.
        clock: Unix seconds.
    """

    def __init__(
        self,
        app: App,
        url: str = "http://127.0.0.1:8470",
        *,
        secret: str | None = None,
        identify: Callable[[Scope], Caller] | None = None,
        rewriter: Rewrites | None = _SHAPING,
        guard: GuardSettings | None = None,
        ask: bool = True,
        static_limits: bool = True,
        tokens_header: str | None = None,
        fail_closed: Collection[str] | None = None,
        start_within_s: float = 2.0,
        challenge_path: str | None = None,
        events: EventQueue | None = None,
        events_at: Collection[str] = ("*",),
        sketcher: Sketcher | None = None,
        annotate: Annotate | None = None,
        challenge_url: str | None = None,
        status_block: int = 403,
        copy: Copy | None = None,
        client: AsyncClient | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.copy = Copy(url, secret=secret, clock=clock) if copy is None else copy
        self._app = app
        self._url, self._secret = url, secret
        self._identify = Headers() if identify is None else identify
        self._rewriter = rewriter
        self._guard = Guard(guard or GuardSettings())
        self._ask = ask
        self._static_limits = static_limits
        self._tokens_header = tokens_header
        self._relay = (identify.key if isinstance(identify, Headers) else "Authorization",)
        self._fail_closed = None if fail_closed is None else frozenset(fail_closed)
        self._start_within_s = start_within_s
        self._challenge_path = challenge_path
        self._events = None if events is None else Recorder(events, events_at, sketcher, annotate)
        self._block = block(status_block)
        self._challenge = challenge(challenge_url)
        self._client = client
        self._ask_from = float("-inf")
        self._limiter = Limiter(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI 3."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if kind != "http" and kind != "websocket":
            await self._app(scope, receive, send)
            return
        self.copy.start()
        scope = dict(scope)
        headers = scope["headers"]
        for name, _ in headers:
            if name[:12] == _OURS or b"_" in name:
                scope["headers"] = headers = [h for h in headers if not _is_ours(h[0])]
                break
        try:
            caller = self.copy.resolve(self._identify(scope))
        except TwoKeys:
            if self.copy.mode == "enforce":
                await _answer(two_keys(), scope, send)
                return
            caller = Caller(endpoint=scope["path"])
        record = None
        events = self._events
        if events is not None and kind == "http" and events.wants(scope["path"]):
            record = events.begin(caller, scope, receive, send)
            receive, send = record.receive, record.send
        try:
            decision = self.copy.find(caller)
            if decision is None and caller.model is None and self.copy.depends_on_model(caller):
                request, receive = await _read(receive)
                caller = caller._replace(model=read_request(request).model)
                decision = self.copy.find(caller)
            if decision is None and not self._looks_at(caller, scope):
                scope["velvetrope"] = Verdict("allow", 0, caller.account or "")
                await self._app(scope, receive, send)
            else:
                await self._consider(decision, caller, scope, receive, send, record)
        finally:
            if record is not None:
                record.end()

    def _looks_at(self, caller: Caller, scope: Scope) -> bool:
        """Whether a request needs more than its caller looked up, though nothing is decided."""
        return (
            self._is_asked(caller)
            or (self._challenge_path is not None and self._is_challenge(scope))
            or (self._guard.is_on and self._is_guarded(scope))
        )

    async def _consider(
        self,
        decision: Decision | None,
        caller: Caller,
        scope: Scope,
        receive: Receive,
        send: Send,
        record: Record | None,
    ) -> None:
        if self._is_challenge(scope):
            if record is not None:
                record.counts = False
            await self._pass_on(caller, scope, receive, send)
            return
        tokens = None
        if self._tokens_header is not None and scope["type"] == "http":
            request, receive = await _read(receive)
            tokens = tokens_asked(request)
        verdict = await self._verdict(decision, caller, scope, tokens)
        answer = verdict.refusal
        if answer is None and self._is_guarded(scope) and not self.copy.allows(caller):
            request, receive = await _read(receive)
            answer = self._guarded(request)
        if answer is not None:
            if record is not None:
                record.refused = True
            await _answer(answer, scope, send)
            return
        scope["velvetrope"] = verdict
        tail = None
        if verdict.charge is not None:
            tail = Tail(send)
            send = tail.send
        await self._answered(verdict, decision, scope, receive, send)
        if tail is not None and verdict.charge is not None:
            await self._settle(verdict.charge, tail.bytes)

    async def _answered(
        self,
        verdict: Verdict,
        decision: Decision | None,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Have the application answer, and its answer rewritten where it is to be poisoned."""
        if verdict.action != "poison" or self._rewriter is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, receive = await _read(receive)
        scope["headers"] = [h for h in scope["headers"] if h[0] not in _HIDES_ANSWERS]
        extensions = scope.get("extensions") or {}
        scope["extensions"] = {k: v for k, v in extensions.items() if k not in _PAST_SEND}
        subject = verdict.account if decision is None else decision.subject
        rewriting = _Rewriting(self._rewriter, verdict, subject, scope, request, send)
        await self._app(scope, receive, rewriting.send)

    # -- verdicts -----------------------------------------------------------------------------

    async def _verdict(
        self, decision: Decision | None, caller: Caller, scope: Scope, tokens: int | None
    ) -> Verdict:
        """What holds for this request."""
        allowed = Verdict(account=caller.account or "")
        if decision is None:
            return (self._is_asked(caller) and await self._asked(caller, scope, tokens)) or allowed
        action, level, params = decision.action, decision.level, decision.params
        if self.copy.stale:
            closed = self.copy.fail_closed if self._fail_closed is None else self._fail_closed
            if action not in closed:
                return allowed
        if action == "block":
            return Verdict(action, level, allowed.account, self._block)
        limited = any(number in params for number in _LIMITS)
        counts = action == "challenge" or limited or self._is_asked(caller)
        if self._ask and counts and decision.scope in _SHARED:
            told = await self._asked(caller, scope, tokens)
            if told is not None:
                return told
        refusal = None
        if action == "challenge":
            refusal = self._challenge
        elif (rate := _positive(params.get("rate_per_min"))) is not None:
            refusal = self._limiter.take(
                str(params.get("bucket", decision.subject)),
                rate,
                int(_positive(params.get("burst")) or 1),
            )
        return Verdict(action, level, allowed.account, refusal)

    async def _asked(self, caller: Caller, scope: Scope, tokens: int | None) -> Verdict | None:
        """The verdict API's own answer; None when it gives none, and then for a while."""
        if time.monotonic() < self._ask_from:
            return None
        try:
            # The path as sent would let a client hide its endpoint behind percent signs.
            return await self._service().check(
                scope["headers"],
                path=caller.endpoint or scope["path"],
                method=scope.get("method", "GET"),
                account=caller.account or "",
                tokens=tokens,
            )
        except Unavailable:
            self._ask_from = time.monotonic() + _ASK_AGAIN_S
            return None

    def _service(self) -> AsyncClient:
        if self._client is None:
            self._client = AsyncClient(
                self._url,
                secret=self._secret,
                tokens_header=self._tokens_header,
                relay=self._relay,
            )
        return self._client

    async def _settle(self, charge: str, tail: bytes) -> None:
        """Say what the request took. Where the answer does not say, the estimate stays."""
        tokens = tokens_used(tail)
        if tokens is not None:
            # The limit holds without it, by the estimate.
            with contextlib.suppress(Unavailable):
                await self._service().settle(charge, tokens)

    def _is_asked(self, caller: Caller) -> bool:
        return self._static_limits and self.copy.is_limited(caller)

    # -- the guard ----------------------------------------------------------------------------

    def _is_guarded(self, scope: Scope) -> bool:
        on = self._guard.is_on and scope["type"] == "http" and scope["method"] == "POST"
        return on and self.copy.mode == "enforce"

    def _guarded(self, request: bytes) -> Refusal | None:
        """What is answered in the model's place; None when the request may reach it."""
        found = self._guard.look(asked(request))
        if found is None:
            return None
        _, treatment = found
        generic = None
        if treatment == "generic":
            generic = generic_answer(request, self._guard.settings.generic_text)
        return not_answered() if generic is None else answered(*generic)

    # -- /challenge ---------------------------------------------------------------------------

    def _is_challenge(self, scope: Scope) -> bool:
        place = self._challenge_path
        if place is None or scope["type"] != "http":
            return False
        return scope["path"] in (place, f"{place}/client.js")

    async def _pass_on(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the service answer what is asked of its /challenge."""
        request, _ = await _read(receive)
        # Whoever is known by an address alone may answer from another: the answer says whose it is.
        by_address = caller.account == f"ip:{caller.ip}"
        try:
            answer = await self._service().challenge(
                scope["headers"],
                method=scope["method"],
                query=scope.get("query_string", b""),
                body=request,
                rest=scope["path"].removeprefix(self._challenge_path),
                account="" if by_address else caller.account or "",
            )
        except Unavailable:
            answer = unavailable()
        await _answer(answer, scope, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.copy.start()
        # Nothing is served yet that this could hold up.
        self.copy.wait(self._start_within_s)
        try:
            await self._app(scope, receive, send)
        finally:
            self.copy.close(wait=False)
            if self._client is not None:
                await self._client.close()
                self._client = None


class _Rewriting:
    """Passes an answer on, rewritten: a stream as it comes, any other once it is whole."""

    def __init__(
        self,
        rewriter: Rewrites,
        verdict: Verdict,
        subject: str,
        scope: Scope,
        request: bytes,
        send: Send,
    ) -> None:
        self._rewriter = rewriter
        self._what: dict[str, Any] = {
            "action": verdict.action,
            "level": verdict.level,
            "subject": subject,
            "endpoint": scope["path"],
            "request": request,
        }
        self._head = scope.get("method") == "HEAD"
        self._send = send
        self._start: Message | None = None
        self._content_type = ""
        self._stream: Stream | None = None
        self._body = bytearray()
        self._passing = False

    async def send(self, message: Message) -> None:
        """Takes the application's messages."""
        if message["type"] == "http.response.start" and not self._passing:
            await self._begin(message)
        elif message["type"] == "http.response.body" and not self._passing:
            await self._go_on(message.get("body", b""), message.get("more_body", False))
        else:
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        headers = [(name.lower(), value) for name, value in message.get("headers", ())]
        fields = dict(headers)
        encoded = fields.get(b"content-encoding", b"identity") != b"identity"
        if self._head or encoded or not 200 <= message["status"] < 300:
            self._passing = True
            await self._send(message)
            return
        self._content_type = fields.get(b"content-type", b"").decode("latin-1")
        message = {**message, "headers": [h for h in headers if h[0] not in _OF_BODY]}
        if self._content_type.partition(";")[0].strip().lower() == "text/event-stream":
            self._stream = self._rewriter.stream(content_type=self._content_type, **self._what)
            await self._send(message)
        else:
            self._start = message

    async def _go_on(self, chunk: bytes, more: bool) -> None:
        if self._stream is not None:
            out = self._stream.feed(chunk) if chunk else b""
            if not more:
                out += self._stream.close()
            if out or not more:
                await self._send({"type": "http.response.body", "body": out, "more_body": more})
            return
        self._body += chunk
        start = self._start
        assert start is not None, "a body before its start"  # noqa: S101  the server checks too
        if not more:
            body = self._rewriter.rewrite(
                body=bytes(self._body), content_type=self._content_type, **self._what
            )
            start["headers"].append((b"content-length", str(len(body)).encode()))
            await self._send(start)
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
        elif len(self._body) > _MAX_ANSWER:
            # Nothing that a model answers is as long; it may be a file, which nobody can rewrite.
            self._passing = True
            await self._send(start)
            body = bytes(self._body)
            await self._send({"type": "http.response.body", "body": body, "more_body": True})


async def _read(receive: Receive) -> tuple[bytes, Receive]:
    """The request's body, as far as it is kept, and a `receive` that gives it again."""
    messages: list[Message] = []
    body = bytearray()
    while len(body) <= _MAX_REQUEST:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    messages.reverse()

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return bytes(body), again


async def _answer(refusal: Refusal, scope: Scope, send: Send) -> None:
    start: Message = {"status": refusal.status, "headers": list(refusal.headers)}
    body: Message = {"body": refusal.body if scope.get("method") != "HEAD" else b""}
    if scope["type"] == "http":
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", **body})
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        await send({"type": "websocket.http.response.start", **start})
        await send({"type": "websocket.http.response.body", **body})
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": ""})


def _positive(value: Any) -> float | None:
    """A number above 0, or None: what other programs wrote must be no error for a customer."""
    return float(value) if type(value) in (int, float) and 0 < value <= 1e12 else None


def _is_ours(name: bytes) -> bool:
    # Servers of CGI's kind take an underscore for a dash.
    return name.replace(b"_", b"-").startswith(_OURS)


def _key_scope(value: bytes) -> str | None:
    key = value.strip()
    if key[:6].lower() == b"bearer" and not key[6:7].strip():
        key = key[6:].strip()
    return "sha256:" + hashlib.sha256(key).hexdigest() if key else None
