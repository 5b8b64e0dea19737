"""The decision: what a gateway enforces, with an expiry (contract 2)."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final, Literal

import msgspec

__all__ = [
    "ACTIONS",
    "SCOPES",
    "AppliesTo",
    "Decision",
    "Evidence",
    "Reason",
    "Signal",
    "Tie",
    "decision_id",
    "is_enforcement",
    "strongest",
]

Scope = Literal["account", "api_key", "ip", "cidr", "org"]
Action = Literal["clear", "observe", "throttle", "challenge", "poison", "block"]
Mode = Literal["shadow", "enforce"]

SCOPES: Final[tuple[Scope, ...]] = ("account", "api_key", "ip", "cidr", "org")
# In order of strength: precedence at a gateway compares positions in this tuple.
ACTIONS: Final[tuple[Action, ...]] = (
    "clear",
    "observe",
    "throttle",
    "challenge",
    "poison",
    "block",
)
_STRENGTH: Final[dict[str, int]] = {action: i for i, action in enumerate(ACTIONS)}


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why, in one code, one sentence and the MITRE ATLAS technique that it matches."""

    code: str
    text: str
    technique: str | None = None


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """One named measurement: its value, the range of typical customers, its share of evidence.

    `log_odds` is what it adds; `weight` is the share of that in what all signals add. A signal that
    speaks for the customer has negative ones.
    """

    name: str
    value: float
    typical: tuple[float, float]
    weight: float
    text: str
    log_odds: float = 0.0


class Tie(msgspec.Struct, frozen=True, kw_only=True):
    """What ties the account to its campaign: so many members share `plane` with it."""

    plane: str
    weight: float
    members: int


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the decision rests on. Never shown to a caller, never in a gateway's key."""

    e_value: float
    signals: tuple[Signal, ...] = ()
    # Log-odds that the account harvests: `base`, of one of which nothing is known, and what the
    # signals add, add up to it.
    log_odds: float | None = None
    base: float | None = None
    false_per_1000_week: float | None = None  # nominal, of customers whose evidence reaches this
    counted: bool | None = None  # among customers of the reference; else modelled by its tail
    ties: tuple[Tie, ...] = ()


class AppliesTo(msgspec.Struct, frozen=True, kw_only=True):
    """Endpoints and models that the decision covers, as glob patterns."""

    endpoints: tuple[str, ...] = ("*",)
    models: tuple[str, ...] = ("*",)


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision about one (scope, value). Times are Unix seconds of event time."""

    schema: Literal[1] = 1
    id: str
    version: int
    scope: Scope
    value: str
    action: Action
    level: int
    mode: Mode
    params: dict[str, Any] = {}
    applies_to: AppliesTo = AppliesTo()
    reason: Reason
    evidence: Evidence | None = None
    campaign: str | None = None
    n_events: int = 0
    issued_at: float
    expires_at: float
    scorer: str = ""
    baseline: str = ""


def is_enforcement(action: str) -> bool:
    """Whether the action touches a customer: throttle or stronger."""
    return _STRENGTH[action] >= _STRENGTH["throttle"]


def strongest(decisions: list[Decision], now: float) -> Decision | None:
    """The strongest live decision over all matching scopes, or None. Ties go to the newer."""
    live = [d for d in decisions if d.expires_at > now and d.action != "clear"]
    return max(live, key=lambda d: (_STRENGTH[d.action], d.level, d.version), default=None)


def decision_id(key: bytes, *parts: object) -> str:
    """`d-` and 128 bits of HMAC-SHA256 over the parts: the same decision has the same id again."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return "d-" + hmac.new(key, text, hashlib.sha256).hexdigest()[:32]
