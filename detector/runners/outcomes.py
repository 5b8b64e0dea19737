"""What the decisions of a run came to, account by account."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from responders.decisions import ACTIONS, Action, Decision, is_enforcement

__all__ = ["AccountOutcome", "Outcomes"]


class AccountOutcome(msgspec.Struct):
    """The decisions about one account so far."""

    action: Action
    e_value: float
    first_enforced_at: float | None = None
    events_before_enforcement: int | None = None
    campaign: str | None = None


class Outcomes:
    """Keeps the highest action, the first enforcement and the like; constant space per account."""

    def __init__(self) -> None:
        self.accounts: dict[str, AccountOutcome] = {}
        self.enforced: set[str] = set()
        self.decisions = 0

    def add(self, decisions: Iterable[Decision]) -> None:
        """Take decisions in event time."""
        for decision in decisions:
            self.decisions += 1
            if decision.scope == "account" and decision.action != "clear":
                self._account(decision)

    def _account(self, decision: Decision) -> None:
        e_value = decision.evidence.e_value if decision.evidence is not None else 0.0
        outcome = self.accounts.get(decision.value)
        if outcome is None:
            outcome = self.accounts[decision.value] = AccountOutcome(decision.action, e_value)
        outcome.action = _stronger(outcome.action, decision.action)
        outcome.e_value = max(outcome.e_value, e_value)
        outcome.campaign = decision.campaign or outcome.campaign
        if is_enforcement(decision.action) and outcome.first_enforced_at is None:
            outcome.first_enforced_at = decision.issued_at
            outcome.events_before_enforcement = decision.n_events
            self.enforced.add(decision.value)


def _stronger(one: Action, other: Action) -> Action:
    return one if ACTIONS.index(one) >= ACTIONS.index(other) else other
