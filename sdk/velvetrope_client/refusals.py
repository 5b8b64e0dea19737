"""Refusals for clients: the problem documents and fields that the verdict API answers with.

RFC 9457 documents; fields and problem types of draft-ietf-httpapi-ratelimit-headers-10. The limiter
is the generic cell rate algorithm, and counts within this process.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

__all__ = [
    "Limiter",
    "Refusal",
    "answered",
    "block",
    "challenge",
    "not_answered",
    "two_keys",
    "unavailable",
]

_QUOTA: Final = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_ABNORMAL: Final = "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"
_POLICY: Final = "requests"
_SPANS_S: Final = (60, 3600, 86_400)
_SLACK_S: Final = 1e-5  # sums of doubles near 2e9 must not refuse the last request of a burst
_JITTER_MOST_S: Final = 600
_PRUNE_AT: Final = 16_384


class Refusal(NamedTuple):
    """A refusal as the client sees it: status, header fields in lower case, body."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def block(status: int = 403) -> Refusal:
    """Abnormal usage, nothing more."""
    return _refusal(
        status,
        {},
        {
            "type": _ABNORMAL,
            "title": "Request not satisfied due to detection of abnormal request pattern",
            "status": status,
            "violated-policies": [_POLICY],
        },
    )


def challenge(url: str | None = None) -> Refusal:
    """401: authenticate again, at `url` if there is one (RFC 9470)."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "Please authenticate again.",
    }
    if url is not None:
        document["authenticate_at"] = url
    fields = {"www-authenticate": 'Bearer error="insufficient_user_authentication"'}
    return _refusal(401, fields, document)


def answered(body: bytes, content_type: str) -> Refusal:
    """200 with a body that stands in the place of the model's."""
    return Refusal(
        200,
        (
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
        ),
        body,
    )


def not_answered() -> Refusal:
    """400: a request that the guard keeps from the model."""
    document = {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "This request is not answered.",
    }
    return _refusal(400, {}, document)


def two_keys() -> Refusal:
    """400: there is no telling whose request it is."""
    document = {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "There is more than one key.",
    }
    return _refusal(400, {}, document)


def unavailable() -> Refusal:
    """503: what was asked for cannot be had now."""
    document = {"type": "about:blank", "title": "Service Unavailable", "status": 503}
    return _refusal(503, {"retry-after": "5"}, document)


class Limiter:
    """Buckets of this process: `take` one request, get a refusal or None.

    Several processes each let their own rate through.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._arrival: dict[str, float] = {}  # theoretical arrival time of the next request
        self._prune_at = _PRUNE_AT

    def take(self, bucket: str, rate_per_min: float, burst: int) -> Refusal | None:
        """Take one request out of a bucket; the 429 when there is none left."""
        now = self._clock()
        interval = 60.0 / rate_per_min
        depth = interval * burst
        start = max(self._arrival.get(bucket, 0.0), now)
        filled = start + interval - now
        if filled > depth + _SLACK_S:
            return _throttled(rate_per_min, filled - depth, start - now)
        self._arrival[bucket] = start + interval
        if len(self._arrival) > self._prune_at:
            self._arrival = {name: at for name, at in self._arrival.items() if at > now}
            self._prune_at = max(_PRUNE_AT, 2 * len(self._arrival))
        return None


def _throttled(rate_per_min: float, wait_s: float, reset_s: float) -> Refusal:
    for span in _SPANS_S:
        quota = rate_per_min * span / 60.0
        if quota >= 1 and quota == int(quota):
            break
    wait = max(1, math.ceil(wait_s))
    # Up to half of it more, so that those who were refused together do not come back together.
    wait += random.randint(0, min(_JITTER_MOST_S, max(2, wait // 2)))  # noqa: S311  not a secret
    return _refusal(
        429,
        {
            "retry-after": str(wait),
            "ratelimit-policy": f'"{_POLICY}";q={max(1, int(quota))};w={span}',
            "ratelimit": f'"{_POLICY}";r=0;t={math.ceil(reset_s)}',
        },
        {
            "type": _QUOTA,
            "title": "Request cannot be satisfied as assigned quota has been exceeded",
            "status": 429,
            "violated-policies": [_POLICY],
        },
    )


def _refusal(status: int, fields: Mapping[str, str], document: dict[str, Any]) -> Refusal:
    body = json.dumps(document, separators=(",", ":")).encode()
    return Refusal(
        status,
        (
            *((name.encode(), value.encode("latin-1")) for name, value in fields.items()),
            (b"cache-control", b"no-store"),
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
        ),
        body,
    )
