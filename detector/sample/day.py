"""One day of the API: who its accounts are, and every request of theirs in the order of the log."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np

from detector.events import Event, Output
from detector.sample import clocks
from detector.sample.authors import (
    App,
    Author,
    BatchJob,
    Evaluation,
    Harvester,
    LongPrompts,
    Monitor,
    Person,
)
from detector.sample.clocks import DAY_S, Arrivals
from detector.sample.dice import Dice
from detector.sample.sensors import ConditionModel, Plant, Prober

__all__ = ["FIRST_DAY", "Member", "Sample"]

FIRST_DAY: Final = 1_772_409_600.0  # Monday 2026-03-02 00:00 UTC: any day does, if it is past

# Shares of 1,000 customers by group.
_CUSTOMERS: Final = {
    "people": 560,
    "apps": 160,
    "batch": 65,
    "evaluation": 35,
    "long_prompts": 50,
    "monitors": 30,
    "sensors": 100,
}
# Shares of 1,000 thieves by group. All but the last are one crew.
_THIEVES: Final = {"instruction": 450, "reasoning": 250, "wrapped": 125, "probing": 175}
_MODELS: Final = ("chat-large", "chat-small")
_SENSOR_MODEL: Final = "condition-2"
_NEW_TODAY: Final = 0.07  # of the customers, those whom the day before had not seen
_ABSENT: Final = 0.05  # of the people, those who do not call on a given day
_CLIENTS: Final = (
    "velvet-python/2.4", "velvet-node/3.1", "python-requests/2.32", "okhttp/4.12",
    "axios/1.7", "Go-http-client/2.0", "Java/21 HttpClient", "curl/8.5",
)  # fmt: skip


class Member(NamedTuple):
    """One account: its number among its kind, and what the labels say of it."""

    account: str
    group: str
    number: int
    harvesting: bool


class _Pace(NamedTuple):
    """What an account's requests cost: medians of a log-normal."""

    output_tokens: float
    max_tokens: int
    temperature: float


_PACES: Final = {
    "people": _Pace(280, 2048, 0.7),
    "apps": _Pace(120, 512, 0.2),
    "batch": _Pace(40, 256, 0.0),
    "evaluation": _Pace(110, 1024, 0.0),
    "long_prompts": _Pace(420, 4096, 0.3),
    "monitors": _Pace(4, 16, 0.0),
    "instruction": _Pace(330, 1024, 0.7),
    "reasoning": _Pace(520, 2048, 0.7),
    "wrapped": _Pace(460, 2048, 0.9),
}


@dataclass(frozen=True)
class Sample:
    """An API with some 400 customers, and from day 1 on with thieves.

    Attributes:
        seed: everything follows from it.
        customers: how many there are on any day.
        thieves: accounts that harvest from day 1 on; day 0 has none.
    """

    seed: int
    customers: int = 400
    thieves: int = 40

    def labels(self, day: int) -> dict[str, dict[str, Any]]:
        """Account → {"harvesting": bool, "group": str}, for every account that the day may have."""
        return {
            member.account: {"harvesting": member.harvesting, "group": member.group}
            for member in self.members(day)
        }

    def members(self, day: int) -> list[Member]:
        """Who may call on that day. A few customers come anew each day, a few have left."""
        changed = round(_NEW_TODAY * self.customers)
        members = [
            self._member("customer", group, number, False)
            for number, group in enumerate(_spread(_CUSTOMERS, self.customers))
            if number >= changed or day == 0
        ]
        if day > 0:
            groups = _spread(_CUSTOMERS, self.customers)
            members += [
                self._member(f"customer of day {day}", groups[number], number, False)
                for number in range(changed)
            ]
            members += [
                self._member("thief", group, number, True)
                for number, group in enumerate(_spread(_THIEVES, self.thieves))
            ]
        return members

    def events(self, day: int) -> Iterator[Event]:
        """The day's requests in the order in which a gateway logs them: when they end."""
        start = FIRST_DAY + day * DAY_S
        accounts = [self._account(member, day) for member in self.members(day)]
        plans = [account.plan() for account in accounts]
        ends = np.concatenate([plan.at + plan.latency for plan in plans])
        owner = np.repeat(np.arange(len(plans)), [len(plan.at) for plan in plans])
        place = np.concatenate([np.arange(len(plan.at)) for plan in plans])
        # An account writes its requests in the order of their arrival, whatever ends first.
        written = [list[Any]() for _ in plans]
        for index in np.argsort(ends, kind="stable").tolist():
            who, nth = int(owner[index]), int(place[index])
            while len(written[who]) <= nth:
                written[who].append(accounts[who].write(plans[who], len(written[who])))
            yield accounts[who].event(plans[who], nth, written[who][nth], start)
            written[who][nth] = None

    @cached_property
    def _sensor_model(self) -> ConditionModel:
        return ConditionModel(self.seed)

    def _member(self, role: str, group: str, number: int, harvesting: bool) -> Member:
        digest = hashlib.sha256(f"{self.seed} {role} {number}".encode()).hexdigest()
        return Member(f"acct-{digest[:8]}", group, number, harvesting)

    def _account(self, member: Member, day: int) -> _Account:
        return _Account(member, self.seed, day, self._sensor_model)


class _Plan(NamedTuple):
    """One account's day: arrivals, seconds each; latency, seconds; tokens written; statuses."""

    at: np.ndarray[Any, np.dtype[np.float64]]
    turn: np.ndarray[Any, np.dtype[np.int64]]
    latency: np.ndarray[Any, np.dtype[np.float64]]
    tokens: np.ndarray[Any, np.dtype[np.float64]]
    status: np.ndarray[Any, np.dtype[np.int64]]


class _Account:
    """One account on one day: its habits, its clock, its author, and what identifies it."""

    def __init__(self, member: Member, seed: int, day: int, sensor_model: ConditionModel) -> None:
        self._member = member
        self._habit = Dice(seed, member.account)
        self._today = Dice(seed, member.account, day)
        self._sensor_model = sensor_model
        self._identity = self._identify(seed)
        self._author = self._make_author()

    def plan(self) -> _Plan:
        """When it calls, and what that costs."""
        group, habit, today = self._member.group, self._habit, self._today
        arrivals = self._arrivals()
        count = len(arrivals.at)
        draw = today.generator
        if group in ("sensors", "probing"):
            tokens = np.ones(count)
            latency = 0.012 * np.exp(0.4 * draw.standard_normal(count))
        else:
            pace = _PACES[group]
            level = pace.output_tokens * habit.lognormal(1.0, 0.4)
            tokens = np.minimum(
                np.round(level * np.exp(0.6 * draw.standard_normal(count))) + 1.0, pace.max_tokens
            )
            latency = 0.25 + tokens / 85.0 * np.exp(0.2 * draw.standard_normal(count))
        status = np.where(draw.random(count) < 0.004, draw.choice((429, 500, 503), count), 200)
        return _Plan(arrivals.at, arrivals.turn, latency, tokens, status)

    def write(self, plan: _Plan, nth: int) -> str | list[float]:
        """The input of its nth request."""
        return self._author.write(int(plan.turn[nth]))

    def event(self, plan: _Plan, nth: int, written: str | list[float], start: float) -> Event:
        """The nth request as the log has it."""
        status = int(plan.status[nth])
        served = status < 400
        output = None
        params: dict[str, Any] | None = None
        if isinstance(written, str):
            read = float(len(written) // 4 + 1)
            pace = _PACES[self._member.group]
            params = {"temperature": pace.temperature, "max_tokens": pace.max_tokens}
        else:
            read = float(len(written))
            if served:
                label, confidence = self._sensor_model.answer(np.array(written))
                output = Output(label=label, confidence=confidence)
        at = round(start + float(plan.at[nth]), 3)
        ids = f"{self._member.account} {at} {nth}".encode()
        return Event(
            ts=at,
            account=self._member.account,
            request_id="req-" + hashlib.sha256(ids).hexdigest()[:16],
            status=status,
            served=served,
            latency_ms=round(1000.0 * float(plan.latency[nth]), 1),
            input_tokens=read,
            output_tokens=float(plan.tokens[nth]) if served else 0.0,
            input=written,
            output=output,
            params=params,
            **self._identity,
        )

    def _make_author(self) -> Author | Plant | Prober:
        habit, today = self._habit, self._today
        match self._member.group:
            case "people":
                return Person(habit, today)
            case "apps":
                return App(habit, today)
            case "batch":
                return BatchJob(habit, today)
            case "evaluation":
                return Evaluation(habit, today)
            case "long_prompts":
                return LongPrompts(habit, today)
            case "monitors":
                return Monitor(habit, today)
            case "sensors":
                return Plant(habit, today, self._sensor_model)
            case "probing":
                return Prober(today, self._sensor_model)
            case way:
                return Harvester(way, habit.pick((0.0, 0.1, 0.25)), today)

    def _arrivals(self) -> Arrivals:
        habit, today = self._habit, self._today
        peak = habit.uniform(8.0, 20.0)
        match self._member.group:
            case "people":
                often = min(12.0, habit.lognormal(2.5, 0.8))
                if today.chance(_ABSENT):
                    often = 0.0
                return clocks.sessions(today, often, habit.lognormal(6.0, 0.6), peak)
            case "long_prompts":
                return clocks.sessions(today, habit.uniform(2.0, 7.0), 7.0, peak)
            case "apps":
                count = min(9_000.0, habit.lognormal(380.0, 1.1))
                cv = habit.uniform(0.9, 4.0)
                return clocks.bursts(today, count, cv, peak, habit.uniform(0.05, 0.6))
            case "sensors":
                if habit.chance(0.4):
                    return clocks.fixed(today, habit.pick((180.0, 300.0, 600.0)))
                count = min(1_500.0, habit.lognormal(220.0, 0.7))
                return clocks.bursts(today, count, habit.uniform(0.8, 2.0), peak, 0.3)
            case "batch":
                count = round(min(4_000.0, habit.lognormal(500.0, 0.8)))
                return self._job(count, workers=habit.pick((1, 2, 4, 8)))
            case "evaluation":
                count = round(min(1_500.0, habit.lognormal(300.0, 0.6)))
                return self._job(count, workers=habit.pick((1, 1, 4)))
            case "monitors":
                return clocks.fixed(today, habit.pick((60.0, 120.0, 300.0, 300.0, 600.0)))
            case "probing":
                count = round(min(1_200.0, habit.lognormal(260.0, 0.5)))
                return self._campaign(count)
            case _:
                count = round(min(1_500.0, habit.lognormal(600.0, 0.5)))
                return self._campaign(count)

    def _job(self, count: int, workers: int) -> Arrivals:
        """A job in a loop, or one that keeps to a rate, at some hour of the day."""
        habit, today = self._habit, self._today
        count = max(1, round(count * today.lognormal(1.0, 0.25)))
        start = 3600.0 * today.uniform(0.0, 20.0)
        if habit.chance(0.3):
            last = min(DAY_S, start + count * habit.uniform(1.0, 6.0))
            return clocks.jittered(today, count, start, last, 0.05)
        return clocks.loop(today, count, start, habit.lognormal(1.6, 0.4), workers)

    def _campaign(self, count: int) -> Arrivals:
        """A thief's day: no memory, a jittered sleep, or a person's rhythm, over many hours."""
        habit, today = self._habit, self._today
        first = 3600.0 * today.uniform(0.2, 7.0)
        last = min(DAY_S - 60.0, first + 3600.0 * today.uniform(6.0, 17.0))
        way = habit.integer(0, 2)
        if way == 0:
            return clocks.poisson(today, count, first, last)
        if way == 1:
            return clocks.jittered(today, count, first, last, habit.uniform(0.3, 0.9))
        return clocks.sessions(today, count / 16.0, 12.0, habit.uniform(9.0, 18.0))

    def _identify(self, seed: int) -> dict[str, Any]:
        """Key, organisation, plan, network, client and payer; a crew shares some of these."""
        member, habit = self._member, self._habit
        crew = Dice(seed, "crew")
        crew_networks = [_network(crew) for _ in range(4)]
        network, payer, org = _network(habit), f"payer {member.account}", None
        if member.harvesting:
            if habit.chance(0.8):
                network = habit.pick(crew_networks)
            if habit.chance(0.75):
                payer = f"crew payer {member.group == 'probing'} {member.number % 6}"
        elif habit.chance(0.35):
            # Colleagues: the same office, often the same payer.
            office = Dice(seed, "office", habit.integer(0, 24))
            network = _network(office)
            org = f"org-{office.integer(1000, 9999)}"
            if habit.chance(0.6):
                payer = f"payer of {org}"
        vector = member.group in ("sensors", "probing")
        plans = ("pro", "enterprise") if member.group in ("apps", "batch") else ("free", "pro")
        return {
            "api_key": "sha256:" + hashlib.sha256(f"key of {member.account}".encode()).hexdigest(),
            "org": org,
            "plan": habit.pick(plans),
            "ip": f"{network}.{habit.integer(1, 254)}",
            "user_agent": habit.pick(_CLIENTS),
            "endpoint": "/v1/condition" if vector else "/v1/chat/completions",
            "model": _SENSOR_MODEL if vector else habit.pick(_MODELS),
            "links": {"payment": hashlib.sha256(f"{seed} {payer}".encode()).hexdigest()[:16]},
        }


def _network(dice: Dice) -> str:
    """The first three bytes of an address, of RFC 2544's range for tests."""
    return f"198.{dice.integer(18, 19)}.{dice.integer(0, 255)}"


def _spread(shares: dict[str, int], count: int) -> list[str]:
    """A group for each of `count` numbers, evenly mixed, by largest remaining claim."""
    groups: list[str] = []
    given = dict.fromkeys(shares, 0)
    total = sum(shares.values())
    for number in range(1, count + 1):
        claims = {group: share * number / total - given[group] for group, share in shares.items()}
        group = max(claims, key=lambda name: claims[name])
        given[group] += 1
        groups.append(group)
    return groups
