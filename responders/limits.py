"""Static limits: what each plan may send to each endpoint, that hold without any decision.

They are the operator's settings, carried to gateways in the store (Redis key `policy`, contract 3)
together with what a gateway does when it cannot know:

    {"format": 1, "fail_closed": ["block"], "limits": [{"name": "free", "plans": ["free"],
     "endpoints": ["*"], "models": ["*"], "rate_per_min": 20, "burst": 10, ...}]}

Of the limits of one name the first that matches a request holds; those of different names hold
together. Each account has buckets of its own in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final, Literal

import msgspec

from responders.actions.throttle import Limit, limits_of
from responders.settings import PolicySettings

__all__ = ["NO_LIMITS", "BadPolicy", "StaticLimit", "StaticPolicy", "covers"]

_Action = Literal["throttle", "challenge", "poison", "block"]


class BadPolicy(ValueError):
    """What is kept as static limits is none; the message says why."""


class StaticLimit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an account of these plans may send to these endpoints and models (glob patterns).

    A number that is None does not limit. See settings for the units.
    """

    name: str
    plans: tuple[str, ...] = ("*",)
    endpoints: tuple[str, ...] = ("*",)
    models: tuple[str, ...] = ("*",)
    rate_per_min: float | None = None
    burst: int = 1
    tokens_per_min: float | None = None
    tokens_burst: int = 1
    requests_per_day: int | None = None
    tokens_per_day: int | None = None

    def matches(self, plan: str | None, endpoint: str | None, model: str | None) -> bool:
        """Whether it is about such a request; what is not known only `*` covers."""
        asked = ((self.plans, plan), (self.endpoints, endpoint), (self.models, model))
        return all(covers(patterns, value) for patterns, value in asked)

    def limits(self, account: str) -> list[Limit]:
        """For the limiter, each with the account's own bucket."""
        params = {
            "rate_per_min": self.rate_per_min,
            "burst": self.burst,
            "tokens_per_min": self.tokens_per_min,
            "tokens_burst": self.tokens_burst,
            "requests_per_day": self.requests_per_day,
            "tokens_per_day": self.tokens_per_day,
            "bucket": f"static:{self.name}:account:{account}",
        }
        return limits_of(params, self.name)


class StaticPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What gateways go by beside decisions.

    `fail_closed`: actions that hold on while the store or the limiter's state is out of reach.
    """

    format: Literal[1] = 1
    fail_closed: tuple[_Action, ...] = ()
    limits: tuple[StaticLimit, ...] = ()

    @classmethod
    def of(cls, settings: PolicySettings) -> StaticPolicy:
        """What the settings say."""
        limits = [msgspec.convert(limit.model_dump(), StaticLimit) for limit in settings.limits]
        return cls(fail_closed=settings.fail_closed, limits=tuple(limits))

    @classmethod
    def decode(cls, text: bytes | str) -> StaticPolicy:
        """What `encode` wrote. Raises BadPolicy."""
        try:
            return _decoder.decode(text)
        except msgspec.DecodeError as error:
            raise BadPolicy(f"static limits: {error}") from error

    def encode(self) -> bytes:
        """JSON for the store."""
        return _encoder.encode(self)

    def limits_for(
        self, account: str, plan: str | None, endpoint: str | None, model: str | None
    ) -> list[Limit]:
        """Every limit that holds for a request of the account."""
        found: dict[str, StaticLimit] = {}
        for limit in self.limits:
            if limit.name not in found and limit.matches(plan, endpoint, model):
                found[limit.name] = limit
        return [one for limit in found.values() for one in limit.limits(account)]


def covers(patterns: Sequence[str], value: str | None) -> bool:
    """Whether a value is one of these glob patterns; one that is not known only `*` covers."""
    if "*" in patterns:
        return True
    return value is not None and any(fnmatchcase(value, pattern) for pattern in patterns)


NO_LIMITS: Final = StaticPolicy()
_decoder: Final = msgspec.json.Decoder(StaticPolicy)
_encoder: Final = msgspec.json.Encoder()
