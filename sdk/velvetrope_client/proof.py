"""Answers a challenge that a refusal asks for, with a proof of work, and sends the request again.

    client = httpx.Client(transport=ProofTransport())
    client = OpenAI(http_client=httpx.Client(transport=ProofTransport()))

Only a 401 whose problem document names a challenge is touched; whatever cannot be answered comes
back as the 401 that it was, and so does a request whose body can be sent only once. The challenge
is ALTCHA's, version 2, with PBKDF2.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from typing import Any, Final

import altcha
import httpx

__all__ = ["AsyncProofTransport", "ChallengeFailed", "ProofTransport", "solve"]

ALGORITHM: Final = "PBKDF2/SHA-256"
# A server must not make its clients burn whole cores: ten times what velvetrope asks for.
MOST_COST: Final = 50_000
MOST_SECONDS: Final = 120.0
_MOST_BYTES: Final = 65_536
_PROBLEM: Final = "application/problem+json"


class ChallengeFailed(Exception):
    """The challenge could not be had or solved, or its answer was refused."""


def solve(challenge: Mapping[str, Any], *, most_seconds: float = MOST_SECONDS) -> str:
    """The answer to an ALTCHA challenge, as `Challenge-Answer` and POST /challenge take it.

    Computes on one core, for about 1.2 ms a try, and without holding the interpreter's lock.
    Raises ChallengeFailed: not a challenge of this kind, or not solved in `most_seconds`.
    """
    try:
        parsed = altcha.Challenge.from_dict(dict(challenge))
        parameters = parsed.parameters
        known = parameters.algorithm == ALGORITHM and 0 < parameters.cost <= MOST_COST
        solution = altcha.solve_challenge(parsed, timeout=most_seconds) if known else None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ChallengeFailed(f"not an ALTCHA challenge: {error!r}") from error
    if not known:
        raise ChallengeFailed(f"cannot solve {parameters.algorithm} at cost {parameters.cost}")
    if solution is None:
        raise ChallengeFailed(f"not solved in {most_seconds:g} s")
    answer: str = altcha.Payload(parsed, solution).to_base64()
    return answer


class ProofTransport(httpx.BaseTransport):
    """An httpx transport that answers challenges, over another (a plain one unless given)."""

    def __init__(
        self, transport: httpx.BaseTransport | None = None, *, most_seconds: float = MOST_SECONDS
    ) -> None:
        self._inner = httpx.HTTPTransport() if transport is None else transport
        self._most_seconds = most_seconds
        self._lock = threading.Lock()
        self._answered: dict[str, int] = {}  # by key: how often it was asked, and answered or not

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, after a challenge at most."""
        twice = isinstance(request.stream, httpx.ByteStream)
        who = request.headers.get("Authorization", "")
        before = self._answered.get(who, 0)
        response = self._inner.handle_request(request)
        if not twice or not _may_ask(response):
            return response
        response.read()
        place = _place(request, response)
        if place is None:
            return response
        # Of many requests that are refused at once the first pays, and for all.
        with self._lock:
            if self._answered.get(who, 0) == before:
                self._answered[who] = before + 1
                try:
                    self._pass(request, place)
                except (ChallengeFailed, httpx.HTTPError):
                    return response
        response.close()
        return self._inner.handle_request(request)

    def close(self) -> None:
        """Close the other."""
        self._inner.close()

    def _pass(self, request: httpx.Request, place: httpx.URL) -> None:
        issued = self._inner.handle_request(_get(request, place))
        try:
            issued.read()
        finally:
            issued.close()
        answer = solve(_document(issued), most_seconds=self._most_seconds)
        submitted = self._inner.handle_request(_post(request, place, answer))
        try:
            submitted.read()
        finally:
            submitted.close()
        _document(submitted)


class AsyncProofTransport(httpx.AsyncBaseTransport):
    """The same for httpx.AsyncClient; it solves in a thread, and the event loop goes on."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        most_seconds: float = MOST_SECONDS,
    ) -> None:
        self._inner = httpx.AsyncHTTPTransport() if transport is None else transport
        self._most_seconds = most_seconds
        self._lock = asyncio.Lock()
        self._answered: dict[str, int] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, after a challenge at most."""
        twice = isinstance(request.stream, httpx.ByteStream)
        who = request.headers.get("Authorization", "")
        before = self._answered.get(who, 0)
        response = await self._inner.handle_async_request(request)
        if not twice or not _may_ask(response):
            return response
        await response.aread()
        place = _place(request, response)
        if place is None:
            return response
        # Of many requests that are refused at once the first pays, and for all.
        async with self._lock:
            if self._answered.get(who, 0) == before:
                self._answered[who] = before + 1
                try:
                    await self._pass(request, place)
                except (ChallengeFailed, httpx.HTTPError):
                    return response
        await response.aclose()
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the other."""
        await self._inner.aclose()

    async def _pass(self, request: httpx.Request, place: httpx.URL) -> None:
        issued = await self._inner.handle_async_request(_get(request, place))
        try:
            await issued.aread()
        finally:
            await issued.aclose()
        answer = await asyncio.to_thread(solve, _document(issued), most_seconds=self._most_seconds)
        submitted = await self._inner.handle_async_request(_post(request, place, answer))
        try:
            await submitted.aread()
        finally:
            await submitted.aclose()
        _document(submitted)


def _may_ask(response: httpx.Response) -> bool:
    """Whether a refusal may name a challenge."""
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return response.status_code == 401 and media_type == _PROBLEM


def _place(request: httpx.Request, response: httpx.Response) -> httpx.URL | None:
    try:
        named = json.loads(response.content)["challenge"]
        place = request.url.join(named)
    except (ValueError, KeyError, TypeError, httpx.InvalidURL):
        return None
    return place if place.scheme in ("http", "https") and place.host else None


def _get(request: httpx.Request, place: httpx.URL) -> httpx.Request:
    return httpx.Request(
        "GET", place, headers=_identity(request, place), extensions=request.extensions
    )


def _post(request: httpx.Request, place: httpx.URL, answer: str) -> httpx.Request:
    return httpx.Request(
        "POST",
        place,
        headers=_identity(request, place),
        json={"answer": answer},
        extensions=request.extensions,
    )


def _identity(request: httpx.Request, place: httpx.URL) -> dict[str, str]:
    """The caller's key goes to the origin that it was sent to already, and nowhere else."""
    own = (request.url.scheme, request.url.host, request.url.port)
    if own != (place.scheme, place.host, place.port) or "Authorization" not in request.headers:
        return {}
    return {"Authorization": request.headers["Authorization"]}


def _document(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a 200. Raises ChallengeFailed."""
    if response.status_code != 200 or len(response.content) > _MOST_BYTES:
        raise ChallengeFailed(f"answered {response.status_code}")
    try:
        document = json.loads(response.content)
    except ValueError as error:
        raise ChallengeFailed("not JSON") from error
    if not isinstance(document, dict):
        raise ChallengeFailed("not a JSON object")
    return document
