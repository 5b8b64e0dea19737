"""One run: accounts take turns, wait as they are told, and note what the gateway did to them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import numpy as np

from detector.attack.api import Account, Api, Outcome
from detector.attack.strategies import Input, Strategy

__all__ = ["REACHED", "Plan", "Run", "Unreachable", "run"]

# What may become of an account, in the order of the ladder.
REACHED: Final = ("throttled", "challenged", "poisoned", "blocked")
# Where no Retry-After is given, an account is tried again after this long, and twice as long each
# time, at most that long.
_AGAIN_S, _AGAIN_MOST_S = 60.0, 3600.0
_PROBE_EVERY: Final = 25  # requests of an account from one probe to the next
_FAILURES: Final = 10  # in a row, without any answer before: then nothing is there


class Unreachable(Exception):
    """The target never answered. The text says what it did."""


@dataclass(frozen=True)
class Plan:
    """What the thief is ready to spend.

    Attributes:
        answers: as many are enough.
        requests: no more than these, refused ones included.
        gap_s: mean of exponential gaps between requests, whichever account sends them.
        seconds: the run's length at most.
    """

    answers: int
    requests: int
    gap_s: float
    seconds: float


@dataclass
class Run:
    """What came of it. Requests and answers are counted from the run's start."""

    inputs: list[Input] = field(default_factory=list)  # that were answered, in order
    labels: list[str] = field(default_factory=list)
    before: int | None = None  # answers when the gateway first did something to any account
    sent: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    # What → account's number → requests it had sent when that first befell it.
    reached: dict[str, dict[int, int]] = field(
        default_factory=lambda: {what: {} for what in REACHED}
    )

    def requests_until(self, what: str) -> float | None:
        """Median over the accounts that came so far, or None when none did."""
        counts = self.reached[what].values()
        return float(median(counts)) if counts else None

    def document(self) -> dict[str, Any]:
        """The figures, for a file."""
        return {
            "requests": self.sent,
            "answers": len(self.labels),
            "answers_before_first_response": self.before,
            "seconds": round(self.seconds, 3),
            "outcomes": dict(self.outcomes),
            "reached": {
                what: {
                    "accounts": len(accounts),
                    "requests_until_median": self.requests_until(what),
                    "requests_until": {str(number): n for number, n in sorted(accounts.items())},
                }
                for what, accounts in self.reached.items()
            },
        }


@dataclass
class _Member:
    """One account in a run."""

    account: Account
    sent: int = 0
    answered: int = 0
    rests_until: float = 0.0
    pause_s: float = _AGAIN_S
    probes: int = 0


class _Probe:
    """One input that every account asks from time to time: its answer must stay what it was."""

    def __init__(self, given: Input) -> None:
        self.given = given
        self._first: Outcome | None = None

    def changed(self, outcome: Outcome) -> bool:
        """Whether an answer is not the first one: another label, or a field that is missing."""
        if self._first is None:
            self._first = outcome
            return False
        return outcome.label != self._first.label or not self._first.shape <= outcome.shape


def run(
    api: Api,
    accounts: Sequence[Account],
    strategy: Strategy,
    plan: Plan,
    *,
    seed: int = 0,
    labels_repeat: bool = True,
    told: Callable[[Run], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Run:
    """Ask what the strategy wants to know, through the accounts in turn, until the plan is spent.

    A refused input is asked again, by the next account that may. `labels_repeat` says that the same
    input has the same answer, so that a changed one is the gateway's doing; else only fields that
    are missing show it.

    Raises:
        Unreachable: nothing was ever answered or refused.
        BadAnswer: an answer is not where it was said to be.
    """
    rng = np.random.default_rng([seed, 0xA77])
    found = Run()
    members = [_Member(account) for account in accounts]
    batch = list(next(strategy))
    probe = _Probe(batch[0])
    begun = clock()
    waiting, answers, turn, failures = list(batch), list[str](), 0, 0
    due = begun
    while len(found.labels) < plan.answers and found.sent < plan.requests:
        turn, at = _whose_turn(members, turn, max(due, clock()))
        if at - begun >= plan.seconds:
            break
        if at > clock():
            sleep(at - clock())
        member = members[turn]
        probing = member.answered >= member.probes * _PROBE_EVERY
        given = probe.given if probing else waiting[0]
        outcome = api.ask(member.account, given)
        found.sent += 1
        member.sent += 1
        found.outcomes[outcome.kind] += 1
        if outcome.kind == "answered":
            failures = 0
            member.answered += 1
            member.pause_s = _AGAIN_S
            if probing:
                member.probes += 1
                shown = outcome if labels_repeat else Outcome("answered", 200, "", outcome.shape)
                if probe.changed(shown):
                    _note(found, "poisoned", member)
            else:
                waiting.pop(0)
                answers.append(outcome.label)
                found.inputs.append(given)
                found.labels.append(outcome.label)
        elif outcome.kind == "failed":
            failures += 1
            if failures >= _FAILURES and not found.labels and len(found.outcomes) == 1:
                raise Unreachable(
                    f"status {outcome.status} each time" if outcome.status else "no connection"
                )
            member.rests_until = clock() + 1.0
        else:
            failures = 0
            _note(found, outcome.kind, member)
            wait = outcome.wait_s
            if wait is None:
                wait = member.pause_s
                member.pause_s = min(2 * wait, _AGAIN_MOST_S)
            member.rests_until = clock() + wait
        turn = (turn + 1) % len(members)
        due = max(due, clock() - 1.0) + rng.exponential(plan.gap_s)
        found.seconds = clock() - begun
        told(found)
        if not waiting:
            waiting, answers = list(strategy.send(answers)), []
    return found


def _note(found: Run, what: str, member: _Member) -> None:
    found.reached[what].setdefault(member.account.number, member.sent)
    if found.before is None:
        found.before = len(found.labels)


def _whose_turn(members: Sequence[_Member], turn: int, at: float) -> tuple[int, float]:
    """The first member from `turn` on that may ask at `at`; if none, the one that may first."""
    order = [*range(turn, len(members)), *range(turn)]
    for number in order:
        if members[number].rests_until <= at:
            return number, at
    soonest = min(order, key=lambda number: members[number].rests_until)
    return soonest, members[soonest].rests_until
