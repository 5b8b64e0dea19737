"""Challenges over HTTP: what a refused client is told, and GET and POST /challenge.

- `GET /challenge?ticket=…` gives an ALTCHA challenge; the ticket is in the refusal. Without one the
  caller is known by the gateway's headers, and must have a challenge to answer.
- `POST /challenge` takes `{"answer": …}`, a proof or the page's signed return; so does
  `GET /challenge?return=…`, for a page that sends a browser back.
- `GET /challenge/client.js` is the browser's client.

A client may instead send its answer as `Challenge-Answer` with the request that it wants answered.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import math
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from velvetrope_client.keys import BadKeys, Keyring

from responders.actions.challenge import (
    Asked,
    Challenges,
    Passed,
    Refused,
    difficulty_of,
    lifts,
)
from responders.actions.problem import PROBLEM_JSON
from responders.actions.throttle import Limit, Limiter
from responders.decisions import Decision
from responders.gateways.caller import Caller, caller_of_headers
from responders.gateways.view import View
from responders.metrics import Metrics
from responders.settings import ApiSettings
from responders.stores.base import DecisionStore

__all__ = [
    "MOST_BYTES",
    "PATH",
    "SCRIPT_PATH",
    "ChallengeDesk",
    "challenge_keys",
    "client_script",
]

PATH: Final = "/challenge"
SCRIPT_PATH: Final = "/challenge/client.js"
MOST_BYTES: Final = 16_384
_BURST: Final = 6
# Beyond a token's own life: clocks of several verdict services may differ.
_KEPT_BEYOND_S: Final = 60.0
_log = logging.getLogger(__name__)
_SAID: Final = {
    "expired": "The challenge has expired: ask for another.",
    "replayed": "The answer was used before: ask for another challenge.",
}
_NOT_VALID: Final = "The answer is not valid: ask for another challenge."


class _Submitted(msgspec.Struct, frozen=True):
    answer: str


_submitted: Final = msgspec.json.Decoder(_Submitted)


def challenge_keys(path: Path) -> Keyring:
    """The keyring that signs challenges. BadKeys when there is none there, or it cannot be read."""
    try:
        return Keyring.load(path)
    except OSError as error:
        raise BadKeys(f"{path}: {error.strerror or error}") from None


@functools.cache
def client_script() -> bytes:
    """The browser's client, as JavaScript."""
    return files("responders.gateways").joinpath("challenge.js").read_bytes()


class ChallengeDesk:
    """Issues challenges and takes answers, over the store that all verdict services share.

    `clock` is event time, on which what was passed ends. Raises BadKeys when the keyring cannot
    be read.
    """

    def __init__(
        self,
        store: DecisionStore,
        view: View,
        limiter: Limiter,
        settings: ApiSettings,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._view = view
        self._limiter = limiter
        self._api = settings
        self._settings = settings.challenge
        self._metrics = metrics
        self._clock = clock
        proof = self._settings.proof
        self._offers_proof = settings.challenge_url is None if proof is None else proof
        keys = self._settings.keys
        self._challenges = None
        if keys is not None:
            self._challenges = Challenges(challenge_keys(keys), self._settings)

    def places(self, decision: Decision, account: str) -> tuple[str | None, str | None]:
        """Where the client authenticates again, and where it gets a challenge; each or none."""
        page = self._api.challenge_url
        if self._challenges is None:
            return page, None
        ticket = self._challenges.ticket(_asked(decision, account))
        return (
            None if page is None else _with_ticket(page, ticket),
            _with_ticket(self._settings.place, ticket) if self._offers_proof else None,
        )

    async def lifted(self, decision: Decision, account: str, answer: str | None) -> bool:
        """Whether the account has passed this challenge, or passes it with the answer it brings.

        An answer that is refused is counted, and changes nothing else. Raises StoreUnavailable.
        """
        if self._challenges is None:
            return False
        passed = await asyncio.to_thread(self._store.passed, account)
        if lifts(passed, decision, self._clock()):
            return True
        if answer is None:
            return False
        try:
            passed = await self._take(answer, account)
        except Refused:
            return False
        return lifts(passed, decision, self._clock())

    async def issue(self, request: Request, *, trusted: bool) -> Response:
        """`GET /challenge`; headers name the caller where they are `trusted`.

        Raises StoreUnavailable.
        """
        if self._challenges is None:
            return _problem(404, "There is no challenge here.")
        if "return" in request.query_params:
            return await self._submit(request, request.query_params["return"], trusted)
        if not self._offers_proof:
            return _problem(404, "There is no challenge here.")
        ticket = request.query_params.get("ticket")
        asked: Asked | None = None
        try:
            if ticket is not None:
                asked = self._challenges.open_ticket(ticket)
            elif trusted:
                asked = await self._asked_of(request)
        except Refused as refused:
            self._metrics.challenge(refused.outcome)
            return _refusal(refused)
        if asked is None:
            return _problem(404, "There is no challenge for you to answer.")
        wait_s = await self._wait_s(asked.account)
        if wait_s:
            return _too_many(wait_s)
        document = await asyncio.to_thread(self._challenges.issue, asked)
        self._metrics.challenge("issued")
        return _answered(document)

    async def submit(self, request: Request, *, trusted: bool) -> Response:
        """`POST /challenge`, its body read already; see `issue`. Raises StoreUnavailable."""
        if self._challenges is None:
            return _problem(404, "There is no challenge here.")
        try:
            submitted = _submitted.decode(await request.body())
        except msgspec.DecodeError as error:
            return _problem(422, f"Not an answer: {error}")
        return await self._submit(request, submitted.answer, trusted)

    async def script(self, request: Request) -> Response:
        """`GET /challenge/client.js`."""
        return Response(
            client_script(),
            media_type="text/javascript",
            headers={"Cache-Control": "max-age=3600", "X-Content-Type-Options": "nosniff"},
        )

    async def _submit(self, request: Request, answer: str, trusted: bool) -> Response:
        account = await self._named(request) if trusted else None
        try:
            passed = await self._take(answer, account, limited=True)
        except Refused as refused:
            return _refusal(refused)
        except _TooMany as error:
            return _too_many(error.wait_s)
        return _answered({"passed": True, "expires_in": self._life_s(passed)})

    async def _named(self, request: Request) -> str | None:
        """The account, if the gateway's header or the key's identity names it.

        Where the accounts are LiteLLM's users, the hash of a key is not who was challenged.
        """
        caller = self._caller(request)
        identity = await self._view.identity(caller)
        account = identity.get("account")
        fallbacks = (caller.api_key, f"ip:{caller.ip}")
        return None if account in fallbacks else account

    async def _take(self, answer: str, account: str | None, *, limited: bool = False) -> Passed:
        """Use an answer up. Raises Refused, counted; _TooMany; StoreUnavailable."""
        assert self._challenges is not None  # noqa: S101  its callers have looked
        try:
            answered = self._challenges.read(answer)
            asked = answered.asked
            if account is not None and asked.account != account:
                raise Refused("other_account")
            if limited:
                wait_s = await self._wait_s(asked.account)
                if wait_s:
                    raise _TooMany(wait_s)
            passed = Passed(
                decision=asked.decision,
                difficulty=asked.difficulty,
                how=answered.how,
                until=self._clock() + self._life_of(answered.how),
            )
            kept_s = max(0.0, answered.expires_at - time.time()) + _KEPT_BEYOND_S
            first = await asyncio.to_thread(
                self._store.pass_challenge, asked.account, passed, answered.id, kept_s
            )
            if not first:
                raise Refused("replayed")
        except Refused as refused:
            self._metrics.challenge(refused.outcome)
            raise
        self._metrics.challenge("passed")
        _log.info("the challenge of %s was passed by %s", asked.decision, answered.how)
        return passed

    async def _asked_of(self, request: Request) -> Asked | None:
        """What the caller named by the gateway is asked; None when nothing is."""
        await self._view.current()
        caller = self._caller(request)
        identity = await self._view.identity(caller)
        if self._view.mode != "enforce":
            return None
        decision = self._view.strongest(identity, caller)
        if decision is None or decision.action != "challenge":
            return None
        return _asked(decision, identity.get("account", ""))

    def _caller(self, request: Request) -> Caller:
        return caller_of_headers(request.headers.raw, self._api, None)

    def _life_of(self, how: str) -> float:
        if how == "proof":
            return self._settings.proof_lifts_s
        return self._settings.return_lifts_s

    def _life_s(self, passed: Passed) -> int:
        return max(0, math.floor(passed.until - self._clock()))

    async def _wait_s(self, account: str) -> int:
        """Seconds until the account may ask or answer again; 0: now."""
        rate = self._settings.asks_per_min
        limit = Limit("challenges", f"challenge:{account}", rate, 60.0, _BURST)
        taken = await self._limiter.take([limit], [1.0], self._clock())
        return 0 if taken.allowed else max(1, math.ceil(taken.retry_after_s))


class _TooMany(Exception):
    def __init__(self, wait_s: int) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


def _asked(decision: Decision, account: str) -> Asked:
    return Asked(account=account, decision=decision.id, difficulty=difficulty_of(decision))


def _with_ticket(url: str, ticket: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}ticket={quote(ticket)}"


def _answered(document: dict[str, Any]) -> Response:
    return Response(
        json.dumps(document, separators=(",", ":")),
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _refusal(refused: Refused) -> Response:
    """403; 422 for what no client of ours makes. Which of the ways it was forged is not said."""
    status = 422 if refused.outcome == "malformed" else 403
    return _problem(status, _SAID.get(refused.outcome, _NOT_VALID))


def _too_many(wait_s: int) -> Response:
    response = _problem(429, "Too many challenges: come back later.")
    response.headers["Retry-After"] = str(wait_s)
    return response


def _problem(status: int, detail: str) -> Response:
    document = {"type": "about:blank", "status": status, "detail": detail}
    return Response(
        msgspec.json.encode(document),
        status,
        media_type=PROBLEM_JSON,
        headers={"Cache-Control": "no-store"},
    )
