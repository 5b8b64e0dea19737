"""Throttling: what a caller may still send, and the limiter that holds it to that.

A limit is either GCRA in its leaky-bucket form (ITU-T I.371: the same as virtual scheduling), of
requests or tokens with a burst, or a fixed window, such as a day's quota. A request is charged to
all of its limits or to none. `gcra.lua` does the same in Redis, for gateways that count together.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

from responders.settings import ThrottleSettings

__all__ = [
    "Left",
    "Limit",
    "Limiter",
    "MemoryLimiter",
    "Taken",
    "bucket_of",
    "costs_of",
    "limits_of",
    "retry_after",
    "short_of",
    "throttle_params",
]

Unit = Literal["requests", "tokens"]

DAY_S: Final = 86_400.0
_PRUNE_AT: Final = 65_536
_JITTER_MOST_S: Final = 600
_MOST: Final = 1e12  # of a quota or burst: doubles are exact well beyond
_NUMBERS: Final = ("rate_per_min", "tokens_per_min", "requests_per_day", "tokens_per_day")


class Limit(NamedTuple):
    """`quota` units in `window_s` seconds: GCRA with `burst` units at once, or with 0 a window.

    `name` is the policy's in RateLimit fields, `bucket` what is charged: callers who share it
    share the quota.
    """

    name: str
    bucket: str
    quota: float
    window_s: float
    burst: float
    unit: Unit = "requests"


class Left(NamedTuple):
    """How one limit stands after a request."""

    conforms: bool  # whether it had room
    remaining: int  # whole units that would pass at once
    retry_after_s: float  # until the same cost conforms; 0 when it does
    reset_s: float  # until the bucket is empty of charges, or the window ends


class Taken(NamedTuple):
    """What became of one request against its limits; `at` is the limiter's time, Unix seconds."""

    allowed: bool
    left: tuple[Left, ...]
    at: float

    @property
    def retry_after_s(self) -> float:
        """Seconds until every limit has room for the same request; 0 when allowed."""
        return max((left.retry_after_s for left in self.left), default=0.0)


class Limiter(Protocol):
    """Charges requests to limits. Raises StoreUnavailable when its state is out of reach."""

    async def take(self, limits: Sequence[Limit], costs: Sequence[float], now: float) -> Taken:
        """Charge `costs` (units, one for each limit) to all limits, or to none.

        0 charges nothing and is never refused. A cost beyond a whole burst or quota passes when
        nothing is charged: it could never pass otherwise.
        """

    async def settle(
        self, limits: Sequence[Limit], corrections: Sequence[float], charged_at: float, now: float
    ) -> None:
        """Correct what an estimate charged at `charged_at` (Taken.at): actual less estimated units.

        A refund gives back at most what is charged now, and nothing of a window that is over.
        """


def throttle_params(settings: ThrottleSettings, level: int, bucket: str) -> dict[str, Any]:
    """`params` of a throttle decision: each level halves rates, bursts and quotas.

    >>> throttle_params(ThrottleSettings(rate_per_min=6, burst=3), 2, "account:a")
    {'rate_per_min': 3.0, 'burst': 1, 'bucket': 'account:a'}
    """
    share = 2 ** (level - 1)
    params: dict[str, Any] = {
        "rate_per_min": settings.rate_per_min / share,
        "burst": max(1, settings.burst // share),
        "bucket": bucket,
    }
    if settings.tokens_per_min is not None:
        params["tokens_per_min"] = settings.tokens_per_min / share
        params["tokens_burst"] = max(1, settings.tokens_burst // share)
    if settings.requests_per_day is not None:
        params["requests_per_day"] = max(1, settings.requests_per_day // share)
    if settings.tokens_per_day is not None:
        params["tokens_per_day"] = max(1, settings.tokens_per_day // share)
    return params


def limits_of(params: Mapping[str, Any], name: str = "") -> list[Limit]:
    """The limits that a decision's `params`, or an entry of the static limits, ask for.

    `name` goes before the policies' own names. Each has a bucket of its own beside the others.
    A quota that is no positive number limits nothing, and a burst that is none is 1: other programs
    write decisions too, and none of theirs may be an error for whoever it is about.

    >>> [limit.name for limit in limits_of({"rate_per_min": 6, "burst": 3, "bucket": "b"})]
    ['requests']
    """
    before = f"{name}-" if name else ""
    bucket = str(params.get("bucket", ""))
    limits = []
    for number in _NUMBERS:
        quota = _positive(params.get(number))
        if quota is None:
            continue
        unit: Unit = "tokens" if number.startswith("tokens") else "requests"
        if number.endswith("_day"):
            own = f"{unit}-day"
            limits.append(
                Limit(before + own, f"{bucket}:{own}", quota, DAY_S, 0.0, unit),
            )
        else:
            # Of requests it is the bucket itself, as gateways of before know it.
            key = bucket if unit == "requests" else f"{bucket}:{unit}"
            burst = _positive(params.get("burst" if unit == "requests" else "tokens_burst")) or 1.0
            limits.append(Limit(before + unit, key, quota, 60.0, burst, unit))
    return limits


def _positive(value: Any) -> float | None:
    """A finite number above 0, or None."""
    if type(value) not in (int, float) or not 0 < value <= _MOST:
        return None
    return float(value)


def costs_of(limits: Sequence[Limit], tokens: float | None) -> list[float]:
    """What one request costs each limit; those in tokens nothing when they are not known."""
    return [1.0 if limit.unit == "requests" else tokens or 0.0 for limit in limits]


def short_of(limits: Sequence[Limit], taken: Taken) -> list[Limit]:
    """The limits that had no room for the request."""
    return [limit for limit, left in zip(limits, taken.left, strict=True) if not left.conforms]


def bucket_of(scope: str, value: str, campaign: str | None) -> str:
    """A campaign shares one bucket: 10,000 members at 6 a minute each would still be a flood."""
    return f"{scope}:{value}" if campaign is None else f"campaign:{campaign}"


def retry_after(key: bytes, bucket: str, caller: str, wait_s: float, now: float) -> int:
    """Whole seconds for `Retry-After`: the wait, plus up to half of it (2 s to 10 min) of jitter.

    The jitter is an HMAC of the bucket, the second in which it has room again, and the caller:
    members of a campaign who were refused together do not come back together, and the same state
    always gives the same answer.
    """
    wait = max(1, math.ceil(wait_s))
    window = math.floor(now + wait_s)
    digest = hmac.new(key, f"{bucket}\x1f{window}\x1f{caller}".encode(), hashlib.sha256).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return wait + int(share * (min(_JITTER_MOST_S, max(2, wait // 2)) + 1))


class MemoryLimiter:
    """Buckets in this process: right when one verdict service answers for all gateways."""

    def __init__(self) -> None:
        # bucket → units in it, microseconds (of a window: its number), and when it ends
        self._kept: dict[str, tuple[float, int, float]] = {}
        self._prune_at = _PRUNE_AT

    async def take(self, limits: Sequence[Limit], costs: Sequence[float], now: float) -> Taken:
        """See Limiter."""
        at = _micros(now)
        states = [self._state(limit, at) for limit in limits]
        waits = [
            _wait(limit, cost, units, number, at)
            for limit, cost, (units, number) in zip(limits, costs, states, strict=True)
        ]
        allowed = all(wait == 0 for wait in waits)
        left = []
        for limit, cost, (units, number), wait in zip(limits, costs, states, waits, strict=True):
            if allowed and cost > 0:
                units += cost
                self._keep(limit, units, number, at)
            left.append(
                Left(wait == 0, _room(limit, units), wait / 1e6, _reset(limit, units, number, at))
            )
        self._prune(at)
        return Taken(allowed, tuple(left), at / 1e6)

    async def settle(
        self, limits: Sequence[Limit], corrections: Sequence[float], charged_at: float, now: float
    ) -> None:
        """See Limiter."""
        at = _micros(now)
        for limit, correction in zip(limits, corrections, strict=True):
            units, number = self._state(limit, at)
            window = limit.window_s * 1e6
            if not limit.burst and math.floor(_micros(charged_at) / window) != number:
                continue
            self._keep(limit, max(0.0, units + correction), number, at)

    def _state(self, limit: Limit, at: int) -> tuple[float, int]:
        """Units in it now, and the time or the window that they are of."""
        units, number, _ = self._kept.get(limit.bucket, (0.0, 0, 0.0))
        if limit.burst:
            rate = limit.quota / (limit.window_s * 1e6)
            return max(0.0, units - max(0, at - number) * rate), max(number, at)
        current = math.floor(at / (limit.window_s * 1e6))
        return (units, number) if number >= current else (0.0, current)

    def _keep(self, limit: Limit, units: float, number: int, at: int) -> None:
        self._kept[limit.bucket] = (units, number, at + 1e6 * _reset(limit, units, number, at))

    def _prune(self, at: int) -> None:
        if len(self._kept) > self._prune_at:
            self._kept = {name: kept for name, kept in self._kept.items() if kept[2] > at}
            self._prune_at = max(_PRUNE_AT, 2 * len(self._kept))


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)


def _slack(limit: Limit) -> float:
    # 10 us of what drains: clients wait in whole microseconds, and doubles round.
    return 10 * limit.quota / (limit.window_s * 1e6) + 1e-9 * limit.burst


def _wait(limit: Limit, cost: float, units: float, number: int, at: int) -> float:
    """Microseconds until the cost conforms; 0 when it does."""
    if cost <= 0:
        return 0.0
    if limit.burst:
        slack = _slack(limit)
        if units <= slack or units + cost <= limit.burst + slack:
            return 0.0
        over = units if cost > limit.burst else units + cost - limit.burst
        return over / (limit.quota / (limit.window_s * 1e6))
    if units <= 0 or units + cost <= limit.quota:
        return 0.0
    return (number + 1) * limit.window_s * 1e6 - at


def _room(limit: Limit, units: float) -> int:
    if limit.burst:
        return max(0, math.floor(limit.burst - units + _slack(limit)))
    return max(0, math.floor(limit.quota - units))


def _reset(limit: Limit, units: float, number: int, at: int) -> float:
    """Seconds until nothing is charged any more, or the window ends."""
    if limit.burst:
        return units / (limit.quota / (limit.window_s * 1e6)) / 1e6
    return ((number + 1) * limit.window_s * 1e6 - at) / 1e6
