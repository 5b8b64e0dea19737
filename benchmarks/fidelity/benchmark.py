"""Every victim, strategy and number of accounts, with and without velvetrope."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.fidelity import strategies, victims
from benchmarks.fidelity.customers import DAY, crowd
from benchmarks.fidelity.extraction import (
    Extraction,
    Haul,
    Plan,
    Street,
    agreement,
    baseline,
    extract,
    undefended,
)
from benchmarks.fidelity.gateway import LOG_START, Api
from benchmarks.fidelity.victims import TableVictim, TextVictim
from detector.blocks import FIRST_BLOCK_REVISIONS
from detector.judge import Models

__all__ = ["HOURS", "MARKS", "Cell", "Point", "Size", "VictimResult", "count", "run"]

MARKS: Final = (16, 32, 64, 100, 250, 500, 1000, 2000)
HOURS: Final = (0.25, 1.0, 2.0, 5.0, 12.0, 24.0, 48.0, 96.0, 168.0)
# Seconds between a thief's requests, over all his accounts: another one each seed.
_GAPS_S: Final = (10.0, 2.0, 50.0)
_SOME_GAIN: Final = 0.05  # below it a strategy has nothing that could be denied


@dataclass(frozen=True)
class Size:
    """How much is run."""

    customers: int = 300
    accounts: tuple[int, ...] = (1, 10, 50)
    answers: int = 2000
    days: float = 9.5  # of the log
    thief_days: float = 7.0
    start_day: float = 2.3


class Point(msgspec.Struct, frozen=True):
    """A copy at some moment: what it was made of, and its agreement with the victim."""

    answers: int
    agreement: float
    gain_share: float | None  # of the undefended gain; None where that is nothing


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One extraction through the gateway, and the same without it."""

    strategy: str
    accounts: int
    seed: int
    gap_s: float
    undefended: dict[int, float]  # requests → agreement
    curve: dict[int, Point]  # requests sent → the copy then; the last one from there on
    undefended_by_hour: dict[float, float]  # hours from the start → agreement
    by_hour: dict[float, Point]
    soonest: Point  # of the answers that accounts get before the detector can say anything
    at_enforcement: Point  # of the answers that accounts got before each was enforced
    at_end: Point
    sent: int
    refused: dict[str, int]  # requests by the action that refused them
    given: dict[str, int]  # requests by the action in force when they were answered
    hours: float
    hours_undefended: float
    enforced_accounts: int
    answers_before: float | None  # of an enforced account, median
    customers_seen: int
    customers_enforced: int
    customers_refused: int  # requests


class VictimResult(msgspec.Struct, frozen=True, kw_only=True):
    """One victim under one seed."""

    victim: str
    seed: int
    kind: str
    classes: int
    accuracy: float
    baseline: float
    customers: int
    customer_events: int
    alone_enforced: int  # customers enforced in the whole log when nobody steals
    cells: list[Cell]


def count(names: Sequence[str], seeds: int, size: Size) -> int:
    """Extractions that `run` will go through."""
    per = {"intents": 3}
    return seeds * sum(per.get(name, 5) * len(size.accounts) for name in names)


def run(
    names: Sequence[str],
    data: Path | None,
    seeds: int,
    size: Size,
    done: Callable[[str], None] = lambda what: None,
) -> Iterator[VictimResult]:
    """Run every victim under every seed; `done` is told after each extraction.

    Raises:
        ValueError: a victim needs data and there is none.
    """
    models = Models.shipped()
    for seed in range(1, seeds + 1):
        for name in names:
            # The fits are small: more threads cost more than they bring (boosting 100 times on two
            # busy cores), and sums in another order would make another copy.
            with threadpool_limits(1):
                result = _victim(_loaded(name, data, seed), seed, size, models, done)
            yield result


def _loaded(name: str, data: Path | None, seed: int) -> TableVictim | TextVictim:
    rng = np.random.default_rng([seed, 0xF1])
    if name == "breast_cancer":
        return victims.breast_cancer(rng)
    if data is None:
        raise ValueError(f"{name} needs --data")
    return victims.load(name, data, rng)


def _victim(
    victim: TableVictim | TextVictim,
    seed: int,
    size: Size,
    models: Models,
    done: Callable[[str], None],
) -> VictimResult:
    traffic = crowd(victim, np.random.default_rng([seed, 0xF2]), size.customers, size.days)
    start = size.start_day * DAY
    cells = []
    with Api(victim.name, victim.kind, models) as api:
        early = Street(traffic)
        early.until(api, start)
        api.until(LOG_START + start)
        snapshot = api.snapshot()
        for strategy, ask in strategies.of(victim).items():
            asked = ask(victim, np.random.default_rng([seed, 0xF3]), size.answers)
            haul = undefended(victim, asked, size.answers)
            copies = _Copies(victim, haul)
            for accounts in size.accounts:
                api.go_on(snapshot)
                street = early.copied()
                plan = Plan(accounts, _GAPS_S[(seed - 1) % 3], size.thief_days * DAY)
                rng = np.random.default_rng([seed, 0xF4])
                found = extract(api, street, haul, plan, start, rng, f"{victim.name}-thief")
                cells.append(_cell(strategy, seed, plan, copies, found, api, street))
                done(f"{victim.name} {strategy} x{accounts}")
        api.go_on(snapshot)
        early.until(api, size.days * DAY + 1.0)
        api.until(LOG_START + (size.days + 1) * DAY)
        alone = len(api.enforced)
    return VictimResult(
        victim=victim.name,
        seed=seed,
        kind=victim.kind,
        classes=len(victim.classes),
        accuracy=victim.accuracy,
        baseline=baseline(victim),
        customers=size.customers,
        customer_events=len(traffic),
        alone_enforced=alone,
        cells=cells,
    )


class _Copies:
    """Copies made of a haul's answers, each fitted once."""

    def __init__(self, victim: TableVictim | TextVictim, haul: Haul) -> None:
        self._victim, self._haul = victim, haul
        self._first: dict[int, float] = {}
        self._baseline = baseline(victim)
        self.total = len(haul.labels)
        self.undefended = {mark: self.first(mark) for mark in MARKS if mark <= self.total}
        self._gain = self.first(self.total) - self._baseline

    def first(self, answers: int) -> float:
        """Agreement of the copy of the first answers."""
        if answers not in self._first:
            self._first[answers] = self._of(np.arange(answers))
        return self._first[answers]

    def point(self, answers: int) -> Point:
        """The same as a point."""
        return self._point(answers, self.first(answers))

    def of(self, chosen: Sequence[bool]) -> Point:
        """The copy of some of the first answers."""
        at = np.flatnonzero(np.asarray(chosen, dtype=bool))
        if len(at) == len(chosen):
            return self.point(len(at))
        return self._point(len(at), self._of(at))

    def _of(self, at: Any) -> float:
        features = self._haul.requests.features[at]
        return agreement(self._victim, features, self._haul.labels[at])

    def _point(self, answers: int, found: float) -> Point:
        share = None
        if self._gain >= _SOME_GAIN:
            share = max(found - self._baseline, 0.0) / self._gain
        return Point(answers, found, share)


def _cell(
    strategy: str,
    seed: int,
    plan: Plan,
    copies: _Copies,
    found: Extraction,
    api: Api,
    street: Street,
) -> Cell:
    before = [n for n in found.before if n is not None]
    return Cell(
        strategy=strategy,
        accounts=plan.accounts,
        seed=seed,
        gap_s=plan.gap_s,
        undefended=copies.undefended,
        curve={
            mark: copies.point(found.answers_after(mark)) for mark in MARKS if mark <= copies.total
        },
        undefended_by_hour={
            hours: copies.first(min(int(3600.0 * hours / plan.gap_s), copies.total))
            for hours in HOURS
            if 3600.0 * hours <= plan.seconds
        },
        by_hour={
            hours: copies.point(found.answers_within(hours))
            for hours in HOURS
            if 3600.0 * hours <= plan.seconds
        },
        soonest=copies.point(min(plan.accounts * FIRST_BLOCK_REVISIONS[0], copies.total)),
        at_enforcement=copies.of(found.early),
        at_end=copies.point(len(found.given_at)),
        sent=found.sent,
        refused=dict(sorted(found.refused.items())),
        given=dict(sorted(found.given.items())),
        hours=found.hours,
        hours_undefended=copies.total * plan.gap_s / 3600.0,
        enforced_accounts=len(before),
        answers_before=float(np.median(before)) if before else None,
        customers_seen=len(street.seen),
        customers_enforced=len(street.seen & api.enforced.keys()),
        customers_refused=street.refused,
    )
