"""`POST /v1/settle`: tokens that a request really took, in place of what was charged for it.

A request's tokens are known when it has been answered. Until then its estimate is charged, and the
answer that lets it pass carries `X-Velvetrope-Charge`: what was charged, to be handed back here,
by the gateway, with the tokens: `{"charge": "...", "tokens": 812}`. Nothing is kept meanwhile.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from responders.actions.throttle import Limit, Limiter, Taken

__all__ = ["CHARGE_HEADER", "BadCharge", "charge_of", "settle"]

CHARGE_HEADER: Final = "X-Velvetrope-Charge"
_MOST_LIMITS: Final = 32

_Amount = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
_Positive = Annotated[float, msgspec.Meta(gt=0, le=1e12)]


class BadCharge(ValueError):
    """What is to be settled is not what was handed out; the message says why."""


class _Charged(msgspec.Struct, array_like=True, frozen=True):
    """One limit that tokens were charged to."""

    bucket: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    quota: _Positive
    window_s: _Positive
    burst: _Amount


class _Charge(msgspec.Struct, array_like=True, frozen=True):
    limits: Annotated[list[_Charged], msgspec.Meta(min_length=1, max_length=_MOST_LIMITS)]
    tokens: _Amount
    at: _Amount


class _Settled(msgspec.Struct, frozen=True):
    charge: Annotated[str, msgspec.Meta(max_length=65_536)]
    tokens: _Amount


def charge_of(limits: Sequence[Limit], costs: Sequence[float], taken: Taken) -> str | None:
    """What to hand out for a request that was charged; None when it cost no tokens."""
    charged = [
        _Charged(limit.bucket, limit.quota, limit.window_s, limit.burst)
        for limit, cost in zip(limits, costs, strict=True)
        if limit.unit == "tokens" and cost > 0
    ]
    if not charged:
        return None
    tokens = next(c for x, c in zip(limits, costs, strict=True) if x.unit == "tokens")
    packed = msgspec.msgpack.encode(_Charge(charged, tokens, taken.at))
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


async def settle(request: Request, limiter: Limiter, now: float) -> Response:
    """204 when it is settled. Raises BadCharge, StoreUnavailable."""
    try:
        settled = msgspec.json.decode(await request.body(), type=_Settled)
        text = settled.charge + "=" * (-len(settled.charge) % 4)
        charge = msgspec.msgpack.decode(
            base64.b64decode(text, altchars=b"-_", validate=True), type=_Charge
        )
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise BadCharge(f"not a charge to settle: {error}") from error
    limits = [
        Limit("tokens", x.bucket, x.quota, x.window_s, x.burst, "tokens") for x in charge.limits
    ]
    correction = settled.tokens - charge.tokens
    if correction:
        await limiter.settle(limits, [correction] * len(limits), charge.at, now)
    return Response(status_code=204)
