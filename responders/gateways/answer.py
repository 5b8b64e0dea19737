"""The answer to a gateway: allow, or a refusal for its client. The same for every gateway."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.responses import Response

from responders.actions import problem, throttle
from responders.decisions import Decision
from responders.gateways.caller import Caller, header_value
from responders.gateways.challenge import ChallengeDesk
from responders.gateways.view import View
from responders.settings import ApiSettings

__all__ = ["Answer", "Answers", "allow_response", "refusal_response"]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a request. `refusal` is None when it is allowed.

    `action` is that of the decision in force, `allow` without one; a throttled caller within the
    rate, or a poisoned one, is allowed and still carries it. `headers` are the RateLimit fields.
    `campaign` is the decision's.
    """

    account: str
    campaign: str | None = None
    action: str = "allow"
    level: int = 0
    refusal: problem.Refusal | None = None
    headers: dict[str, str] = {}

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
        return {
            "X-Velvetrope-Action": self.action,
            "X-Velvetrope-Level": str(self.level),
            "X-Velvetrope-Account": header_value(self.account).decode("latin-1"),
        }


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

        Raises StoreUnavailable when it cannot be known.
        """
        await self._view.current()
        identity = await self._view.identity(caller)
        account = identity.get("account", "")
        if self._view.mode == "enforce":
            decision = self._view.strongest(identity, caller)
            if decision is not None and await self._view.allows(identity) is None:
                return await self._enforce(decision, account, caller.answer, count)
        return Answer(account=account)

    async def _enforce(
        self, decision: Decision, account: str, answer: str | None, count: bool
    ) -> Answer:
        refusal: problem.Refusal | None = None
        headers: dict[str, str] = {}
        if decision.action == "block":
            refusal = problem.block(self._settings.status_block)
        elif decision.action == "challenge":
            if not await self._desk.lifted(decision, account, answer):
                refusal = problem.challenge(*self._desk.places(decision, account))
            elif count:
                refusal, headers = await self._pace(decision, account)
        elif count and "rate_per_min" in decision.params:
            refusal, headers = await self._throttle(decision, account)
        return Answer(
            account=account,
            campaign=decision.campaign,
            action=decision.action,
            level=decision.level,
            refusal=refusal,
            headers=headers,
        )

    async def _throttle(
        self, decision: Decision, account: str
    ) -> tuple[problem.Refusal | None, dict[str, str]]:
        return await self._take(throttle.limits_of(decision.params), account)

    async def _pace(
        self, decision: Decision, account: str
    ) -> tuple[problem.Refusal | None, dict[str, str]]:
        """Who passed a challenge goes on at a rate of its own: work can be bought."""
        bucket = throttle.bucket_of(decision.scope, decision.value, decision.campaign)
        settings = self._settings.challenge
        limit = throttle.Limit(
            "requests", f"passed:{bucket}", settings.rate_per_min, 60.0, settings.burst
        )
        return await self._take([limit], account)

    async def _take(
        self, limits: list[throttle.Limit], account: str
    ) -> tuple[problem.Refusal | None, dict[str, str]]:
        now = self._clock()
        taken = await self._limiter.take(limits, throttle.costs_of(limits, None), now)
        if taken.allowed:
            return None, problem.rate_limit(limits, taken)
        bucket = next(
            limit.bucket
            for limit, left in zip(limits, taken.left, strict=True)
            if not left.conforms
        )
        wait = throttle.retry_after(self._jitter_key, bucket, account, taken.retry_after_s, now)
        return problem.throttle(limits, taken, wait), {}


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
