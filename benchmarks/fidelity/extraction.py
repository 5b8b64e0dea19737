"""A thief's week: asks, waits, moves on to the next account, and fits a copy to what it got."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from benchmarks.fidelity.customers import Crowd
from benchmarks.fidelity.gateway import LOG_START, Api, Request
from benchmarks.fidelity.strategies import Strategy
from benchmarks.fidelity.victims import (
    Labels,
    Matrix,
    Requests,
    Rng,
    Victim,
    fitted,
    joined,
)

__all__ = [
    "Extraction",
    "Haul",
    "Plan",
    "Street",
    "agreement",
    "baseline",
    "extract",
    "undefended",
]

WEEK: Final = 7 * 86_400.0
# Where no Retry-After is given (challenged, blocked), an account is tried again after this long,
# twice as long each time, at most that long.
_AGAIN_S, _AGAIN_MOST_S = 900.0, 6 * 3600.0


@dataclass(frozen=True)
class Plan:
    """What a thief is ready to spend.

    `gap_s` is the mean of exponential gaps between requests, whichever account sends them.
    """

    accounts: int
    gap_s: float = 10.0
    seconds: float = WEEK


@dataclass(frozen=True)
class Haul:
    """What a strategy asks and learns when every request is answered, in order."""

    requests: Requests
    labels: Labels
    confidence: list[float]


@dataclass
class Extraction:
    """What came of a thief's plan. Answers are counted from 0, in the order of the haul."""

    sent: int = 0
    given_at: list[int] = field(default_factory=list)  # requests sent when each answer came
    given_hours: list[float] = field(default_factory=list)  # hours from the start to each answer
    early: list[bool] = field(default_factory=list)  # answers from accounts not yet enforced
    hours: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)  # by the action that refused
    given: Counter[str] = field(default_factory=Counter)  # by the action in force, `allow` mostly
    before: list[int | None] = field(default_factory=list)  # an account's answers until enforced

    def answers_after(self, sent: int) -> int:
        """Answers given when so many requests had been sent."""
        return bisect_right(self.given_at, sent)

    def answers_within(self, hours: float) -> int:
        """Answers given in so many hours."""
        return bisect_right(self.given_hours, hours)


class Street:
    """Customers who pass by the same gateway."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._next = 0
        self.answered = 0
        self.refused = 0
        self.seen: set[str] = set()

    def until(self, api: Api, seconds: float) -> None:
        """Let everything that customers send before a time pass the gateway."""
        crowd = self._crowd
        while self._next < len(crowd) and crowd.times[self._next] < seconds:
            i = self._next
            account = crowd.accounts[crowd.who[i]]
            outcome = api.ask(
                Request(
                    LOG_START + crowd.times[i],
                    account,
                    crowd.requests.sent[i],
                    crowd.labels[i],
                    crowd.confidence[i],
                )
            )
            self.seen.add(account)
            self.answered += outcome.given
            self.refused += not outcome.given
            self._next += 1

    def copied(self) -> Street:
        """The same, to go on from more than once."""
        street = Street(self._crowd)
        street._next, street.answered, street.refused = self._next, self.answered, self.refused
        street.seen = set(self.seen)
        return street


def undefended(victim: Victim, strategy: Strategy, answers: int) -> Haul:
    """Run a strategy against the bare model."""
    batch = next(strategy)
    batches, labels, confidence = [], [], []
    while True:
        own, sure = victim.answers(batch.features)
        batches.append(batch)
        labels.append(own)
        confidence += sure.tolist()
        if len(confidence) >= answers:
            break
        batch = strategy.send(own)
    requests = joined(batches)
    return Haul(
        requests.at(np.arange(answers)), np.concatenate(labels)[:answers], confidence[:answers]
    )


def extract(
    api: Api, street: Street, haul: Haul, plan: Plan, start: float, rng: Rng, prefix: str
) -> Extraction:
    """Run a thief through the gateway from `start` (seconds of the log) until the plan is spent.

    Accounts take turns. A refused request is asked again, by the next account that may; an account
    that was refused rests for its Retry-After. Since no action changes an answer, and what a
    strategy asks next depends on the answers alone, the thief asks the undefended haul in its
    order, as far as he comes.
    """
    accounts = [f"{prefix}-{i}" for i in range(plan.accounts)]
    rests_until = [start] * plan.accounts
    pause = [_AGAIN_S] * plan.accounts
    answers_of = [0] * plan.accounts
    found = Extraction(before=[None] * plan.accounts)
    turn, at = 0, start
    while len(found.given_at) < len(haul.labels):
        turn, at = _whose_turn(rests_until, turn, at)
        if at >= start + plan.seconds:
            break
        street.until(api, at)
        i, account = len(found.given_at), accounts[turn]
        label, confidence = int(haul.labels[i]), haul.confidence[i]
        outcome = api.ask(
            Request(LOG_START + at, account, haul.requests.sent[i], label, confidence)
        )
        ended_at = outcome.ended_at - LOG_START
        found.sent += 1
        found.hours = (ended_at - start) / 3600.0
        if account in api.enforced and found.before[turn] is None:
            found.before[turn] = answers_of[turn]
        if outcome.given:
            answers_of[turn] += 1
            found.given_at.append(found.sent)
            found.given_hours.append(found.hours)
            found.early.append(found.before[turn] is None)
            found.given[outcome.action] += 1
            rests_until[turn], pause[turn] = ended_at, _AGAIN_S
        else:
            found.refused[outcome.action] += 1
            wait = outcome.wait_s
            if wait is None:
                wait = pause[turn]
                pause[turn] = min(2 * wait, _AGAIN_MOST_S)
            rests_until[turn] = ended_at + wait
        turn = (turn + 1) % plan.accounts
        at = max(at + rng.exponential(plan.gap_s), ended_at)
    api.until(LOG_START + at)
    for i, name in enumerate(accounts):
        if name in api.enforced and found.before[i] is None:
            found.before[i] = answers_of[i]
    return found


def agreement(victim: Victim, features: Matrix, labels: Labels) -> float:
    """Share of held-out rows on which a copy of these answers says what the victim says.

    Without an answer there is no copy but the baseline.
    """
    if not len(labels):
        return baseline(victim)
    held_out, expected = victim.held_out
    return float(np.mean(fitted(victim.copy, features, labels).predict(held_out) == expected))


def baseline(victim: Victim) -> float:
    """Without a query: always the commonest answer."""
    _, expected = victim.held_out
    return float(np.bincount(expected).max() / len(expected))


def _whose_turn(rests_until: Sequence[float], turn: int, at: float) -> tuple[int, float]:
    """The first account from `turn` on that may ask at `at`; if none, the first that may, then."""
    order = [*range(turn, len(rests_until)), *range(turn)]
    for account in order:
        if rests_until[account] <= at:
            return account, at
    soonest = min(order, key=lambda account: rests_until[account])
    return soonest, math.nextafter(rests_until[soonest], math.inf)
