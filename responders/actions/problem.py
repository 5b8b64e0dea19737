"""What a refused client is told: RFC 9457 problem documents and RateLimit fields.

Fields and problem types are those of draft-ietf-httpapi-ratelimit-headers-10. A document says what
the client may do next and nothing of why: no score, signal, threshold or campaign, and a throttled
client is not told of suspicion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from responders.actions.throttle import Limit, Taken, short_of

__all__ = [
    "ABNORMAL_USAGE",
    "PROBLEM_JSON",
    "QUOTA_EXCEEDED",
    "Refusal",
    "block",
    "challenge",
    "rate_limit",
    "throttle",
    "two_keys",
    "whole_quota",
]

PROBLEM_JSON: Final = "application/problem+json"
QUOTA_EXCEEDED: Final = "https://iana.org/assignments/http-problem-types#quota-exceeded"
ABNORMAL_USAGE: Final = "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"
_POLICY: Final = "requests"
_SPANS_S: Final = (60, 3600, 86_400)


class Refusal(msgspec.Struct, frozen=True):
    """A refusal as the client should see it: status, header fields, problem document."""

    status: int
    headers: dict[str, str]
    document: dict[str, Any]

    @property
    def body(self) -> bytes:
        """The document as JSON."""
        return msgspec.json.encode(self.document)


def throttle(limits: Sequence[Limit], taken: Taken, retry_after: int) -> Refusal:
    """429: over a quota; come back in `retry_after` seconds."""
    return Refusal(
        429,
        {"Retry-After": str(retry_after), **rate_limit(limits, taken)},
        {
            "type": QUOTA_EXCEEDED,
            "title": "Request cannot be satisfied as assigned quota has been exceeded",
            "status": 429,
            "violated-policies": [limit.name for limit in short_of(limits, taken)],
        },
    )


def challenge(authenticate_at: str | None, answer_at: str | None = None) -> Refusal:
    """401 (RFC 9470): authenticate again at a page, or answer a challenge, where there are such."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "Please authenticate again.",
    }
    if authenticate_at is not None:
        document["authenticate_at"] = authenticate_at
    if answer_at is not None:
        document["challenge"] = answer_at
    fields = {"WWW-Authenticate": 'Bearer error="insufficient_user_authentication"'}
    return Refusal(401, fields, document)


def block(status: int) -> Refusal:
    """The operator's status (403): abnormal usage, nothing more."""
    return Refusal(
        status,
        {},
        {
            "type": ABNORMAL_USAGE,
            "title": "Request not satisfied due to detection of abnormal request pattern",
            "status": status,
            "violated-policies": [_POLICY],
        },
    )


def two_keys() -> Refusal:
    """400: there is no telling whose request it is."""
    document = {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "There is more than one key.",
    }
    return Refusal(400, {}, document)


def rate_limit(limits: Sequence[Limit], taken: Taken) -> dict[str, str]:
    """RateLimit-Policy and RateLimit, an item for each limit.

    A quota is told in whole units of the shortest span in which it is whole. Tokens have the unit
    `tokens`, which the draft's registry lacks: without one they would be read as requests.
    """
    policies, states = [], []
    for limit, left in zip(limits, taken.left, strict=True):
        quota, span = whole_quota(limit)
        unit = "" if limit.unit == "requests" else f';qu="{limit.unit}"'
        policies.append(f'"{limit.name}";q={quota};w={span}{unit}')
        states.append(f'"{limit.name}";r={left.remaining};t={math.ceil(left.reset_s)}')
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}


def whole_quota(limit: Limit) -> tuple[int, int]:
    """Quota and span: whole units, at least 1, in whole seconds."""
    if not limit.burst:
        return max(1, int(limit.quota)), int(limit.window_s)
    for span in _SPANS_S:
        quota = limit.quota * span / limit.window_s
        if quota >= 1 and quota == int(quota):
            break
    return max(1, int(quota)), span
