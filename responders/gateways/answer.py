"""The answer to a gateway: allow, or a refusal for its client. The same for every gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from starlette.responses import Response

from responders.actions import problem, throttle
from responders.decisions import Decision
from responders.gateways.caller import Caller, header_value
from responders.gateways.challenge import ChallengeDesk
from responders.gateways.settling import CHARGE_HEADER, charge_of
from responders.gateways.view import View
from responders.settings import ApiSettings
from responders.stores.base import StoreUnavailable

__all__ = ["Answer", "Answers", "allow_response", "refusal_response"]

_AWAY_S: Final = 5.0  # what a client waits while the limiter's state is away and it fails closed


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a request. `refusal` is None when it is allowed.

    `action` is that of the decision in force, `allow` without one; a throttled caller within the
    rate, or a poisoned one, is allowed and still carries it; `throttle` of level 0 is a static
    limit that refused. `headers` are the RateLimit fields, `charge` is what tokens were charged to,
    `campaign` is the decision's.
    """

    account: str
    campaign: str | None = None
    action: str = "allow"
    level: int = 0
    refusal: problem.Refusal | None = None
    headers: dict[str, str] = {}
    charge: str | None = None

    @property
    def allowed(self) -> bool:
        """Whether the request may go on."""
        return self.refusal is None

    @property
    def subject(self) -> str:
        """Whose answers are rewritten alike: the campaign's, else the account's."""
        return self.campaign or self.account

    @property
    def outcome(self) -> str:
        """For the metrics."""
        if self.refusal is not None:
            return "refused"
        return "throttled" if self.headers else "allow"

    def verdict_headers(self) -> dict[str, str]:
        """X-Velvetrope-*, for the gateway; on every answer that allows, to erase forged ones."""
        headers = {
            "X-Velvetrope-Action": self.action,
            "X-Velvetrope-Level": str(self.level),
            "X-Velvetrope-Account": header_value(self.account).decode("latin-1"),
        }
        return headers if self.charge is None else {**headers, CHARGE_HEADER: self.charge}


class Answers:
    """Answers for callers: kill switch and allowlist first, then the strongest live decision."""

    def __init__(
        self,
        view: View,
        limiter: throttle.Limiter,
        settings: ApiSettings,
        clock: Callable[[], float],
        desk: ChallengeDesk,
    ) -> None:
        self._view = view
        self._desk = desk
        self._limiter = limiter
        self._settings = settings
        self._clock = clock
        self._jitter_key = settings.jitter_key.get_secret_value().encode()

    async def answer(self, caller: Caller, *, count: bool = True) -> Answer:
        """The answer for one request; `count` False takes nothing out of its bucket.

        Raises StoreUnavailable when it cannot be known, and no decision that fails closed is.
        """
        try:
            await self._view.current()
            identity = await self._view.identity(caller)
        except StoreUnavailable:
            return await self._from_an_old_copy(caller, count)
        account = identity.get("account", "")
        if self._view.mode == "enforce":
            if caller.two_keys:
                return Answer(account=account, refusal=problem.two_keys())
            decision = self._view.strongest(identity, caller)
            static = await self._static(account, caller)
            if (decision or static) and await self._view.allows(identity) is None:
                answer = await self._enforce(decision, static, account, caller, count)
                return _of(answer, decision)
        return Answer(account=account)

    async def _from_an_old_copy(self, caller: Caller, count: bool) -> Answer:
        """What fails closed goes on, by what was known last, until it expires."""
        identity = self._view.known_identity(caller)
        decision = self._view.strongest(identity, caller)
        closed = decision is not None and decision.action in self._view.static.fail_closed
        if closed and self._view.mode == "enforce" and not self._view.was_allowed(identity):
            account = identity.get("account", "")
            return _of(await self._enforce(decision, [], account, caller, count), decision)
        raise StoreUnavailable("the decisions could not be read for too long")

    async def _static(self, account: str, caller: Caller) -> list[throttle.Limit]:
        static = self._view.static
        if not static.limits or not account:
            return []
        plan = await self._view.plan(caller)
        return static.limits_for(account, plan, caller.path, caller.model)

    async def _enforce(
        self,
        decision: Decision | None,
        static: list[throttle.Limit],
        account: str,
        caller: Caller,
        count: bool,
    ) -> Answer:
        action = decision.action if decision else "allow"
        if action == "block":
            return Answer(account=account, refusal=problem.block(self._settings.status_block))
        limits = list(static)
        if decision is not None and action == "challenge":
            if not await self._lifted(decision, account, caller):
                refusal = problem.challenge(*self._desk.places(decision, account))
                return Answer(account=account, refusal=refusal)
            limits.append(self._pace(decision))
        elif decision is not None:
            own = throttle.bucket_of(decision.scope, decision.value, decision.campaign)
            limits = throttle.limits_of({"bucket": own, **decision.params}) + limits
        if not count or not limits:
            return Answer(account=account)
        return await self._take(limits, throttle.costs_of(limits, caller.tokens), account, action)

    async def _lifted(self, decision: Decision, account: str, caller: Caller) -> bool:
        try:
            return await self._desk.lifted(decision, account, caller.answer)
        except StoreUnavailable:
            return "challenge" not in self._view.static.fail_closed

    def _pace(self, decision: Decision) -> throttle.Limit:
        """Who passed a challenge goes on at a rate of its own: work can be bought."""
        bucket = throttle.bucket_of(decision.scope, decision.value, decision.campaign)
        settings = self._settings.challenge
        return throttle.Limit(
            "requests", f"passed:{bucket}", settings.rate_per_min, 60.0, settings.burst
        )

    async def _take(
        self, limits: list[throttle.Limit], costs: list[float], account: str, action: str
    ) -> Answer:
        now = self._clock()
        try:
            taken = await self._limiter.take(limits, costs, now)
        except StoreUnavailable:
            held = "throttle" if action == "allow" else action
            if held not in self._view.static.fail_closed:
                return Answer(account=account)
            away = throttle.Left(False, 0, _AWAY_S, _AWAY_S)
            taken = throttle.Taken(False, (away,) * len(limits), now)
        if taken.allowed:
            return Answer(
                account=account,
                headers=problem.rate_limit(limits, taken),
                charge=charge_of(limits, costs, taken),
            )
        bucket = throttle.short_of(limits, taken)[0].bucket
        wait = throttle.retry_after(self._jitter_key, bucket, account, taken.retry_after_s, now)
        return Answer(account=account, refusal=problem.throttle(limits, taken, wait))


def _of(answer: Answer, decision: Decision | None) -> Answer:
    """The answer as one by the decision, or by a static limit, which only refuses with a 429."""
    if decision is not None:
        return msgspec.structs.replace(
            answer, action=decision.action, level=decision.level, campaign=decision.campaign
        )
    return answer if answer.allowed else msgspec.structs.replace(answer, action="throttle")


def allow_response(answer: Answer) -> Response:
    """200 for gateways that take any 2xx, or exactly 200, for leave to go on."""
    return Response(status_code=200, headers={**answer.headers, **answer.verdict_headers()})


def refusal_response(refusal: problem.Refusal) -> Response:
    """The refusal for the client as it is; nothing in it tells of velvetrope."""
    return Response(
        refusal.body,
        refusal.status,
        headers={**refusal.headers, "Cache-Control": "no-store"},
        media_type=problem.PROBLEM_JSON,
    )
