"""Throttling: what a throttled caller may still send, and the limiter that holds it to that.

The generic cell rate algorithm (ITU-T I.371, the virtual scheduling form): a bucket is one
number, the theoretical arrival time of the next conforming request, so that a campaign of any
size costs one key.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from typing import Any, Final, NamedTuple, Protocol

from responders.settings import ThrottleSettings

__all__ = [
    "Limiter",
    "MemoryLimiter",
    "Taken",
    "bucket_of",
    "gcra",
    "retry_after",
    "throttle_params",
]

# Seconds of event time near 2e9 are exact to 2.4e-7 in a double: sums of a few of them must not
# refuse the last request of a burst.
SLACK_S: Final = 1e-5
_PRUNE_AT: Final = 65_536


class Taken(NamedTuple):
    """What became of one request against its bucket."""

    allowed: bool
    remaining: int  # whole requests that would be allowed at once, after this one
    retry_after_s: float  # 0 when allowed: else seconds until one request conforms
    reset_s: float  # seconds until the bucket is full again


class Limiter(Protocol):
    """Takes one request out of a bucket. Raises StoreUnavailable when its state is out of reach."""

    async def take(self, bucket: str, rate_per_min: float, burst: int, now: float) -> Taken: ...


def throttle_params(settings: ThrottleSettings, level: int, bucket: str) -> dict[str, Any]:
    """`params` of a throttle decision: each level halves rate and burst.

    >>> throttle_params(ThrottleSettings(rate_per_min=6, burst=3), 2, "account:a")
    {'rate_per_min': 3.0, 'burst': 1, 'bucket': 'account:a'}
    """
    share = 2 ** (level - 1)
    return {
        "rate_per_min": settings.rate_per_min / share,
        "burst": max(1, settings.burst // share),
        "bucket": bucket,
    }


def bucket_of(scope: str, value: str, campaign: str | None) -> str:
    """A campaign shares one bucket: 10,000 members at 6 a minute each would still be a flood."""
    return f"{scope}:{value}" if campaign is None else f"campaign:{campaign}"


def gcra(tat: float, now: float, rate_per_min: float, burst: int) -> tuple[float, Taken]:
    """One request at `now` against a bucket whose theoretical arrival time is `tat`.

    Returns the new `tat` (unchanged when refused) and what became of the request. A bucket that
    was never used has a `tat` of 0.
    """
    interval = 60.0 / rate_per_min
    depth = interval * burst
    start = max(tat, now)
    filled = start + interval - now
    if filled > depth + SLACK_S:
        return tat, Taken(False, 0, filled - depth, start - now)
    remaining = int((depth - filled + SLACK_S) / interval)
    return start + interval, Taken(True, remaining, 0.0, filled)


def retry_after(key: bytes, bucket: str, caller: str, taken: Taken, now: float) -> int:
    """Whole seconds for `Retry-After`: the wait, plus up to half of it (at least 2 s) of jitter.

    The jitter is an HMAC of the bucket, the second in which the bucket frees its next slot, and
    the caller: members of a campaign who were refused together do not come back together, and
    the same state always gives the same answer.
    """
    wait = max(1, math.ceil(taken.retry_after_s))
    window = math.floor(now + taken.retry_after_s)
    digest = hmac.new(key, f"{bucket}\x1f{window}\x1f{caller}".encode(), hashlib.sha256).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return wait + int(share * (max(2, wait // 2) + 1))


class MemoryLimiter:
    """Buckets in this process: right when one verdict service answers for all gateways."""

    def __init__(self) -> None:
        self._tat: dict[str, float] = {}
        self._prune_at = _PRUNE_AT

    async def take(self, bucket: str, rate_per_min: float, burst: int, now: float) -> Taken:
        """Take one request out of `bucket`."""
        tat, taken = gcra(self._tat.get(bucket, 0.0), now, rate_per_min, burst)
        self._tat[bucket] = tat
        if len(self._tat) > self._prune_at:
            self._tat = {name: t for name, t in self._tat.items() if t > now}
            self._prune_at = max(_PRUNE_AT, 2 * len(self._tat))
        return taken
