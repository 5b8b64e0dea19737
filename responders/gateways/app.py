"""The verdict API (contract 5) as one Starlette application."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send
from velvetrope_client import rewriter_settings
from velvetrope_client.guard import Guard
from velvetrope_client.rewriting import Rewriter

from responders.actions.throttle import Limiter, MemoryLimiter
from responders.gateways import challenge, envoy, forward, litellm, nginx, opa, settling
from responders.gateways.answer import Answer, Answers
from responders.gateways.caller import Caller
from responders.gateways.challenge import ChallengeDesk
from responders.gateways.feed import Feed
from responders.gateways.litellm import Exchange
from responders.gateways.view import View
from responders.metrics import Metrics
from responders.settings import ApiSettings
from responders.stores.base import DecisionStore, StoreUnavailable
from responders.stores.redis import RedisLimiter, RedisStore

__all__ = ["SECRET_HEADER", "create_app", "has_secret"]

SECRET_HEADER = "X-Velvetrope-Secret"  # noqa: S105  a name, not a secret

_log = logging.getLogger(__name__)
_Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    store: DecisionStore,
    settings: ApiSettings,
    *,
    clock: Callable[[], float] = time.time,
    routes: Sequence[BaseRoute] = (),
    metrics: Metrics | None = None,
    limiter: Limiter | None = None,
    lifespan: Callable[[Starlette], Any] | None = None,
) -> Starlette:
    """The verdict API over a store.

    `clock` is event time: what decisions' expiries compare with. `routes` are mounted beside;
    `limiter` defaults to one in Redis over a RedisStore, else to one in this process. Raises
    ValueError when it would listen off loopback without a secret; velvetrope_client's BadKeys when
    the challenges' keyring cannot be used, and its BadSettings when poison's file, or one that it
    names, cannot.
    """
    if settings.secret is None and not _is_loopback(settings.host):
        raise ValueError(
            f"api.host is {settings.host}: off loopback api.secret must be set "
            f"(gateways send it as {SECRET_HEADER})"
        )
    if metrics is None:
        metrics = Metrics()
    if limiter is None:
        limiter = RedisLimiter(store.settings) if isinstance(store, RedisStore) else MemoryLimiter()
    api = _Api(store, settings, clock, metrics, limiter)
    own: list[BaseRoute] = [
        _AnyMethod("/authorize/nginx", api.by_headers("nginx", nginx.caller, nginx.respond)),
        _AnyMethod(envoy.PREFIX, api.by_headers("envoy", envoy.caller, envoy.respond), prefix=True),
        _AnyMethod(
            "/authorize/forward", api.by_headers("forward", forward.caller, forward.respond)
        ),
        Route("/authorize/opa", api.opa, methods=["POST"]),
        Route(litellm.PATH, api.litellm, methods=["POST"]),
        Route(challenge.PATH, api.challenge, methods=["GET", "POST"]),
        Route(challenge.SCRIPT_PATH, api.challenge_script, methods=["GET"]),
        Route("/v1/settle", api.settle, methods=["POST"]),
        Route("/v1/decisions", api.feed, methods=["GET"]),
        Route("/v1/identities", api.identities, methods=["GET"]),
        Route("/healthz", _healthz, methods=["GET"]),
        Route("/readyz", api.readyz, methods=["GET"]),
        Route("/metrics", api.metrics, methods=["GET"]),
    ]
    handlers = {Exception: _ill}
    return Starlette(routes=[*own, *routes], lifespan=lifespan, exception_handlers=handlers)


def has_secret(request: Request, settings: ApiSettings, *, bearer: bool = True) -> bool:
    """Whether a request carries the shared secret, or none is needed.

    It comes as X-Velvetrope-Secret, as `x-api-key` (LiteLLM), or with `bearer` as Authorization,
    which on /authorize/* is the caller's own.
    """
    if settings.secret is None:
        return True
    secret = settings.secret.get_secret_value().encode()
    given = [request.headers.get(SECRET_HEADER), request.headers.get("x-api-key")]
    if bearer:
        given.append(request.headers.get("authorization", "").removeprefix("Bearer ").strip())
    return any(
        hmac.compare_digest(one.encode("latin-1", "replace"), secret)
        for one in given
        if one is not None
    )


class _Api:
    """The handlers, over what they share."""

    def __init__(
        self,
        store: DecisionStore,
        settings: ApiSettings,
        clock: Callable[[], float],
        metrics: Metrics,
        limiter: Limiter,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        poison = rewriter_settings.RewriterSettings()
        if settings.poison is not None:
            poison = rewriter_settings.load(settings.poison)
        self._rewriter = Rewriter(poison)
        self._guard = Guard(poison.guard)
        self._limiter = limiter
        self._clock = clock
        self._view = View(store, settings, clock)
        self._feed = Feed(store, self._view, settings.refresh_s / 5, clock)
        self._desk = ChallengeDesk(store, self._view, limiter, settings, metrics, clock)
        self._answers = Answers(self._view, limiter, settings, clock, self._desk)

    def by_headers(
        self,
        gateway: str,
        caller: Callable[[Request, ApiSettings], Caller],
        respond: Callable[[Answer], Response],
    ) -> _Handler:
        """A handler for a gateway that names its caller in headers."""

        async def handle(request: Request) -> Response:
            if not has_secret(request, self._settings, bearer=False):
                return self._bad_secret(gateway, 503)
            return await self._answer(gateway, caller(request, self._settings), respond)

        return handle

    async def opa(self, request: Request) -> Response:
        """See gateways.opa."""
        if not has_secret(request, self._settings):
            return self._bad_secret("opa", 503)
        try:
            await _sized(request, self._settings.max_body_bytes)
            caller = await opa.caller(request, self._settings)
        except _TooLarge as error:
            return _problem(413, str(error))
        except ValueError as error:
            return _problem(422, str(error))
        return await self._answer("opa", caller, opa.respond)

    async def litellm(self, request: Request) -> Response:
        """See gateways.litellm."""
        if not has_secret(request, self._settings):
            return self._bad_secret("litellm", 503)
        try:
            await _sized(request, self._settings.max_body_bytes)
            exchange = await litellm.read(request, self._settings)
        except _TooLarge as error:
            return _problem(413, str(error))
        except ValueError as error:
            return _problem(422, str(error))
        if exchange.is_response:
            return await self._litellm_response(exchange)
        try:
            answer = await self._answers.answer(exchange.caller)
            if answer.allowed and self._guard.is_on and await self._may_guard(exchange.caller):
                guarded = litellm.guarded(exchange, self._guard, answer)
                if guarded is not None:
                    self._metrics.verdict("litellm", "guarded")
                    return guarded
        except StoreUnavailable as error:
            return self._unavailable("litellm", error)
        self._metrics.verdict("litellm", answer.outcome)
        return litellm.respond(answer)

    async def _litellm_response(self, exchange: Exchange) -> Response:
        """Answers pass as they are when decisions cannot be read, whatever LiteLLM is set to."""
        try:
            answer = await self._answers.answer(exchange.caller, count=False)
        except StoreUnavailable:
            answer = Answer(account=exchange.caller.account or "")
        if answer.action != "poison":
            return litellm.respond(Answer(account=answer.account))
        return litellm.rewritten(exchange, self._rewriter, answer)

    async def _may_guard(self, caller: Caller) -> bool:
        """Kill switch and allowlist hold for the guard as for decisions."""
        if self._view.mode != "enforce":
            return False
        return await self._view.allows(await self._view.identity(caller)) is None

    async def challenge(self, request: Request) -> Response:
        """See gateways.challenge. Tokens speak for themselves, identity headers need the secret."""
        trusted = has_secret(request, self._settings, bearer=False)
        try:
            if request.method == "POST":
                await _sized(request, challenge.MOST_BYTES)
                return await self._desk.submit(request, trusted=trusted)
            return await self._desk.issue(request, trusted=trusted)
        except _TooLarge as error:
            return _problem(413, str(error))
        except ValueError as error:
            return _problem(422, str(error))
        except StoreUnavailable as error:
            return self._unavailable("challenge", error)

    async def challenge_script(self, request: Request) -> Response:
        """See gateways.challenge."""
        return await self._desk.script(request)

    async def feed(self, request: Request) -> Response:
        """See gateways.feed."""
        return await self._for_followers(request, lambda: self._feed.respond(request))

    async def settle(self, request: Request) -> Response:
        """See gateways.settling."""
        if not has_secret(request, self._settings):
            return self._bad_secret("settle", 401)
        try:
            await _sized(request, self._settings.max_body_bytes)
            return await settling.settle(request, self._limiter, self._clock())
        except _TooLarge as error:
            return _problem(413, str(error))
        except ValueError as error:
            return _problem(422, str(error))
        except StoreUnavailable as error:
            return self._unavailable("settle", error)

    async def identities(self, request: Request) -> Response:
        """See gateways.feed."""
        return await self._for_followers(request, self._feed.identities)

    async def _for_followers(
        self, request: Request, respond: Callable[[], Awaitable[Response]]
    ) -> Response:
        if not has_secret(request, self._settings):
            return self._bad_secret("feed", 401)
        try:
            return await respond()
        except StoreUnavailable as error:
            return self._unavailable("feed", error)

    async def readyz(self, request: Request) -> Response:
        """200 when answers rest on decisions that were read lately."""
        try:
            await self._view.current()
        except StoreUnavailable as error:
            return PlainTextResponse(f"not ready: {error}\n", 503)
        return PlainTextResponse("ready\n")

    async def metrics(self, request: Request) -> Response:
        """The Prometheus text format."""
        self._metrics.view(len(self._view), self._view.age_s, self._view.mode)
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _answer(
        self, gateway: str, caller: Caller, respond: Callable[[Answer], Response]
    ) -> Response:
        try:
            answer = await self._answers.answer(caller)
        except StoreUnavailable as error:
            return self._unavailable(gateway, error)
        self._metrics.verdict(gateway, answer.outcome)
        return respond(answer)

    def _unavailable(self, gateway: str, error: Exception) -> Response:
        self._metrics.verdict(gateway, "unavailable")
        _log.warning("no answer for %s: %s", gateway, error)
        return _problem(503, "decisions cannot be read")

    def _bad_secret(self, gateway: str, status: int) -> Response:
        """A gateway without the secret is misconfigured: 5xx, so that it fails as it is set to.

        A 4xx would refuse every customer behind it.
        """
        self._metrics.verdict(gateway, "bad_secret")
        _log.error("%s sent no %s, or a wrong one", gateway, SECRET_HEADER)
        return _problem(status, f"{SECRET_HEADER} is missing or wrong")


class _TooLarge(ValueError):
    """A body past the limit."""


class _AnyMethod(BaseRoute):
    """A route for any method, by the raw path: Starlette's own decode and split it.

    With `prefix`, whatever follows the path belongs to it, a slash first or not.
    """

    def __init__(self, path: str, handler: _Handler, *, prefix: bool = False) -> None:
        self._path = path.encode()
        self._handler = handler
        self._prefix = prefix

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Full or none."""
        if scope["type"] != "http":
            return Match.NONE, {}
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        raw = raw.partition(b"?")[0]
        hit = raw.startswith(self._path) if self._prefix else raw == self._path
        return (Match.FULL if hit else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        response = await self._handler(Request(scope, receive))
        await response(scope, receive, send)


async def _ill(request: Request, error: Exception) -> Response:
    """A fault of ours, which the server logs: LiteLLM fails as it is set to on 503, not on 500."""
    return _problem(503, "the service is ill")


async def _healthz(request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _sized(request: Request, most: int) -> None:
    """Read the body once. Raises _TooLarge past a size, ValueError when it ends early."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise _TooLarge(f"the body is larger than {most} bytes")
    except ClientDisconnect as error:
        raise ValueError("the body ended early") from error
    request._body = bytes(body)


def _problem(status: int, detail: str) -> Response:
    document = {"type": "about:blank", "status": status, "detail": detail}
    return Response(msgspec.json.encode(document), status, media_type="application/problem+json")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
