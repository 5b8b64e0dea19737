"""The verdict: what the evidence says about one (scope, value), before the policy looks at it."""

from __future__ import annotations

import msgspec

from responders.decisions import Reason, Scope, Signal, Tie

__all__ = ["Verdict"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the evidence says about one (scope, value) at a tick.

    `false_per_1000`: nominal false alarms per 1,000 customers a week at this evidence; smaller is
    stronger, infinity is none. `evidence`: running maximum of the log-odds; `base`, `counted` and
    `ties` are handed on to the decision's evidence. `fresh`: new evidence
    (a block) arrived in this tick. `identity`: scope to value, what allowlist entries match; `plan`
    is what the account pays for.
    """

    scope: Scope
    value: str
    false_per_1000: float
    e_value: float
    evidence: float
    n_events: int
    campaign: str | None = None
    reason: Reason
    signals: tuple[Signal, ...] = ()
    base: float | None = None
    counted: bool | None = None
    ties: tuple[Tie, ...] = ()
    fresh: bool = True
    identity: dict[str, str] = {}
    plan: str | None = None
