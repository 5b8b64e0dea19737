"""GCRA and windows: the limiter in this process and the one in Redis, against exact arithmetic."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responders.actions.throttle import (
    Left,
    Limit,
    Limiter,
    MemoryLimiter,
    Taken,
    bucket_of,
    costs_of,
    limits_of,
    retry_after,
    throttle_params,
)
from responders.settings import RedisSettings, ThrottleSettings
from responders.stores.base import StoreUnavailable
from responders.stores.redis import RedisLimiter
from tests.real_redis import RedisServer, free_port
from tests.responders.making import NOW

SIX = Limit("requests", "b", 6.0, 60.0, 3.0)
TOKENS = Limit("tokens", "b:tokens", 600.0, 60.0, 100.0, "tokens")
DAILY = Limit("tokens-day", "b:tokens-day", 250.0, 86_400.0, 0.0, "tokens")
MIDNIGHT = 1_781_049_600.0  # 10 June 2026, 00:00 UTC


@pytest.mark.parametrize(
    ("level", "rate", "burst"), [(1, 6.0, 4), (2, 3.0, 2), (3, 1.5, 1), (4, 0.75, 1)]
)
def test_each_level_halves_rate_and_burst(level: int, rate: float, burst: int) -> None:
    params = throttle_params(ThrottleSettings(rate_per_min=6, burst=4), level, "account:a")
    assert params == {"rate_per_min": rate, "burst": burst, "bucket": "account:a"}


def test_a_campaign_shares_a_bucket() -> None:
    assert bucket_of("account", "a", "c-1") == bucket_of("account", "b", "c-1") == "campaign:c-1"
    assert bucket_of("account", "a", None) == "account:a"


def test_a_decision_may_limit_tokens_and_the_day_too() -> None:
    quotas = ThrottleSettings(
        tokens_per_min=600, tokens_burst=100, requests_per_day=50, tokens_per_day=250
    )
    assert limits_of(throttle_params(quotas, 1, "b")) == [
        SIX,
        TOKENS,
        Limit("requests-day", "b:requests-day", 50.0, 86_400.0, 0.0),
        DAILY,
    ]


def test_tokens_that_are_not_known_are_not_charged() -> None:
    assert costs_of([SIX, TOKENS, DAILY], None) == [1.0, 0.0, 0.0]
    assert costs_of([SIX, TOKENS, DAILY], 40) == [1.0, 40.0, 40.0]


async def take(limiter: Limiter, at: float, limit: Limit = SIX, cost: float = 1.0) -> Left:
    return (await limiter.take([limit], [cost], at)).left[0]


async def test_a_full_bucket_gives_its_burst_at_once_and_then_one_an_interval() -> None:
    limiter = MemoryLimiter()
    times = [NOW, NOW, NOW, NOW, NOW + 9.9, NOW + 10.0, NOW + 10.0]
    allowed = [(await take(limiter, now)).conforms for now in times]
    assert allowed == [True, True, True, False, False, True, False]


async def test_what_is_left_and_the_wait_are_told() -> None:
    limiter = MemoryLimiter()
    assert await take(limiter, 100.0) == Left(True, 2, 0.0, 10.0)
    assert [(await take(limiter, 100.0)).remaining for _ in range(2)] == [1, 0]
    refused = await take(limiter, 104.0)
    assert (refused.conforms, refused.remaining) == (False, 0)
    assert (refused.retry_after_s, refused.reset_s) == pytest.approx((6.0, 26.0))
    assert await take(limiter, 104.0) == refused  # a refused request costs nothing


async def test_a_days_quota_begins_again_at_midnight() -> None:
    limiter = MemoryLimiter()
    quota = Limit("requests-day", "b", 2.0, 86_400.0, 0.0)
    taken = [await take(limiter, MIDNIGHT - 3600 + i, quota) for i in range(3)]
    assert [left.conforms for left in taken] == [True, True, False]
    assert taken[2] == Left(False, 0, 3598.0, 3598.0)
    assert (await take(limiter, MIDNIGHT, quota)).remaining == 1


async def test_a_request_is_charged_to_all_of_its_limits_or_to_none() -> None:
    limiter = MemoryLimiter()
    limits = [SIX, TOKENS, DAILY]
    assert (await limiter.take(limits, [1, 90, 90], NOW)).allowed
    refused = await limiter.take(limits, [1, 90, 90], NOW)
    assert [left.conforms for left in refused.left] == [True, False, True]
    assert [left.remaining for left in refused.left] == [2, 10, 160]
    assert refused.retry_after_s == pytest.approx(8.0)  # 80 tokens at 10 a second


async def test_a_cost_beyond_the_whole_burst_passes_when_nothing_is_charged() -> None:
    limiter = MemoryLimiter()
    assert (await take(limiter, NOW, TOKENS, 500)).conforms
    refused = await take(limiter, NOW, TOKENS, 500)
    assert not refused.conforms
    assert refused.retry_after_s == pytest.approx(50.0)
    owed = [(await take(limiter, NOW + s, TOKENS, 1)).conforms for s in (40.0, 40.1)]
    assert owed == [False, True]  # 500 less 400 drained leave no room for one more


async def test_what_was_estimated_too_high_is_given_back_and_too_low_is_owed() -> None:
    limiter = MemoryLimiter()
    first = await limiter.take([TOKENS], [90], NOW)
    await limiter.settle([TOKENS], [-60], first.at, NOW)
    assert (await take(limiter, NOW, TOKENS, 0)).remaining == 70
    await limiter.settle([TOKENS], [170], first.at, NOW)
    assert (await take(limiter, NOW, TOKENS, 1)).retry_after_s == pytest.approx(10.1)


async def test_a_refund_gives_back_nothing_of_a_day_that_is_over() -> None:
    limiter = MemoryLimiter()
    yesterday = await limiter.take([DAILY], [200], MIDNIGHT - 1)
    await limiter.take([DAILY], [50], MIDNIGHT)
    await limiter.settle([DAILY], [-150], yesterday.at, MIDNIGHT)
    assert (await take(limiter, MIDNIGHT, DAILY, 0)).remaining == 200


STEPS = st.lists(st.floats(0, 40), min_size=1, max_size=60)


@given(STEPS, st.sampled_from([0.75, 1.5, 6.0, 600.0]), st.integers(1, 5))
def test_any_window_passes_at_most_burst_and_rate_times_its_length(
    steps: list[float], rate: float, burst: int
) -> None:
    async def passes() -> list[float]:
        limiter, limit = MemoryLimiter(), Limit("requests", "b", rate, 60.0, burst)
        now, passed = NOW, []
        for step in steps:
            now += step
            if (await take(limiter, now, limit)).conforms:
                passed.append(now)
        return passed

    passed = asyncio.run(passes())
    for i, start in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= burst + (passed[j] - start) * rate / 60 + 0.01


@given(STEPS, st.sampled_from([0.75, 6.0, 600.0]), st.integers(1, 5))
def test_after_the_wait_that_it_was_told_a_request_passes(
    steps: list[float], rate: float, burst: int
) -> None:
    async def follow() -> None:
        limiter, limit = MemoryLimiter(), Limit("requests", "b", rate, 60.0, burst)
        now = NOW
        for step in steps:
            now += step
            left = await take(limiter, now, limit)
            if not left.conforms:
                now += left.retry_after_s
                assert (await take(limiter, now, limit)).conforms

    asyncio.run(follow())


def test_retry_after_is_jittered_by_caller_and_bucket_but_never_random() -> None:
    waits = [retry_after(b"k", "campaign:c", f"acct-{i}", 10.0, NOW) for i in range(500)]
    assert waits == [retry_after(b"k", "campaign:c", f"acct-{i}", 10.0, NOW) for i in range(500)]
    assert set(waits) == set(range(10, 16))  # the wait, and up to half of it


def test_a_short_wait_is_jittered_too_and_a_days_by_ten_minutes_at_most() -> None:
    assert {retry_after(b"k", "b", f"a{i}", 0.2, NOW) for i in range(200)} == {1, 2, 3}
    long = {retry_after(b"k", "b", f"a{i}", 40_000.0, NOW) - 40_000 for i in range(500)}
    assert 0 <= min(long) <= 10 < 590 <= max(long) <= 600


async def test_the_memory_limiter_keeps_buckets_apart() -> None:
    limiter = MemoryLimiter()
    one = Limit("requests", "a", 6.0, 60.0, 1.0)
    assert (await take(limiter, NOW, one)).conforms
    assert not (await take(limiter, NOW, one)).conforms
    assert (await take(limiter, NOW, one._replace(bucket="b"))).conforms


async def test_the_memory_limiter_forgets_buckets_that_hold_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("responders.actions.throttle._PRUNE_AT", 10)
    limiter = MemoryLimiter()
    for i in range(200):
        await take(limiter, NOW + 11.0 * i, SIX._replace(bucket=f"b{i}"))
    assert len(limiter._kept) <= 11


# -- against exact arithmetic ------------------------------------------------------------------


class Exact:
    """The rules in fractions, GCRA in the other form of I.371: virtual scheduling.

    One bucket is the theoretical arrival time, in microseconds; one window the units of each.
    """

    def __init__(self) -> None:
        self.arrival: dict[str, Fraction] = {}
        self.used: dict[tuple[str, int], int] = {}

    def take(
        self, limits: Sequence[Limit], costs: Sequence[int], now: int
    ) -> tuple[bool, list[bool], list[int]]:
        """Whether it is charged, which limits have room, and what is left of each."""
        room = [self._room(*limit, now) for limit in zip(limits, costs, strict=True)]
        allowed = all(room)
        if allowed:
            self.charge(limits, costs, now, now)
        return allowed, room, [self._left(limit, now) for limit in limits]

    def charge(
        self, limits: Sequence[Limit], costs: Sequence[int], charged_at: int, now: int
    ) -> None:
        """Charge units, or give them back."""
        for limit, cost in zip(limits, costs, strict=True):
            if limit.burst:
                start = max(self.arrival.get(limit.bucket, Fraction(0)), Fraction(now))
                self.arrival[limit.bucket] = start + cost * _interval(limit)
            elif _day(limit, charged_at) == _day(limit, now):
                key = (limit.bucket, _day(limit, now))
                self.used[key] = max(0, self.used.get(key, 0) + cost)

    def _room(self, limit: Limit, cost: int, now: int) -> bool:
        if cost == 0:
            return True
        if limit.burst:
            queue = max(self.arrival.get(limit.bucket, Fraction(0)) - now, Fraction(0))
            return queue == 0 or queue + (cost - int(limit.burst)) * _interval(limit) <= 0
        used = self.used.get((limit.bucket, _day(limit, now)), 0)
        return used == 0 or used + cost <= limit.quota

    def _left(self, limit: Limit, now: int) -> int:
        if limit.burst:
            queue = max(self.arrival.get(limit.bucket, Fraction(0)) - now, Fraction(0))
            return max(0, math.floor(int(limit.burst) - queue / _interval(limit)))
        return max(0, int(limit.quota) - self.used.get((limit.bucket, _day(limit, now)), 0))


def _interval(limit: Limit) -> Fraction:
    """Microseconds in which one unit drains."""
    return Fraction(int(limit.window_s * 1_000_000), int(limit.quota))


def _day(limit: Limit, now: int) -> int:
    return now // int(limit.window_s * 1_000_000)


class Step(NamedTuple):
    """Time passes by whole ms; gateway `at` asks for `cost`s; a settled one is corrected."""

    ms: int
    at: int
    tokens: int
    settle: int | None


# Every interval is a whole number of ms, so that no step falls within the 10 us of slack.
ASKED = [
    Limit("requests", "b", 600.0, 60.0, 3.0),
    Limit("tokens", "b:tokens", 60_000.0, 60.0, 50.0, "tokens"),
    Limit("tokens-day", "b:tokens-day", 120.0, 1.0, 0.0, "tokens"),  # of one second
]
HISTORIES = st.lists(
    st.builds(
        Step,
        ms=st.sampled_from([0, 0, 0, 1, 7, 30, 100, 250, 1001]),
        at=st.integers(0, 2),
        tokens=st.sampled_from([0, 1, 10, 49, 50, 51, 70, 130]),
        settle=st.none() | st.integers(-130, 130),
    ),
    min_size=1,
    max_size=40,
)


class Clock:
    """Time that a test sets."""

    now = NOW

    def __call__(self) -> float:
        return self.now


async def compare(limiters: Sequence[Limiter], clock: Clock, history: list[Step]) -> None:
    """Every answer of the limiters, taken by turns, is the exact one."""
    exact, now = Exact(), round(NOW * 1e6)
    for step in history:
        now += step.ms * 1000
        clock.now = now / 1e6
        limiter, costs = limiters[step.at % len(limiters)], [1, step.tokens, step.tokens]
        taken = await limiter.take(ASKED, costs, clock.now)
        got = (
            taken.allowed,
            [left.conforms for left in taken.left],
            [left.remaining for left in taken.left],
        )
        assert got == exact.take(ASKED, costs, now)
        if taken.allowed and step.settle is not None and step.tokens:
            corrections = [0] + [max(step.settle, -step.tokens)] * 2
            await limiter.settle(ASKED, corrections, taken.at, clock.now)
            exact.charge(ASKED, corrections, now, now)


@given(HISTORIES)
@settings(max_examples=200, deadline=None)
def test_the_limiter_in_this_process_is_exact(history: list[Step]) -> None:
    asyncio.run(compare([MemoryLimiter()], Clock(), history))


@given(HISTORIES)
@settings(max_examples=40, deadline=None)
def test_three_gateways_with_one_redis_are_exact(
    redis_running: RedisServer, history: list[Step]
) -> None:
    async def three() -> None:
        where, clock = settings_of(redis_running), Clock()
        limiters = [RedisLimiter(where, clock=clock) for _ in range(3)]
        await compare(limiters, clock, history)
        for limiter in limiters:
            await limiter.close()

    asyncio.run(three())


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=5),
    st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=5),
)
@settings(max_examples=25, deadline=None)
def test_gateways_that_ask_at_once_with_skewed_clocks_share_one_quota(
    redis_running: RedisServer, asked: list[int], skews: list[float]
) -> None:
    """A quota that drains in a day by 1 and is used up at once: the sum is exact."""
    limits = [
        Limit("requests", "b", 1.0, 86_400.0, 20.0),
        Limit("tokens", "b:tokens", 1.0, 86_400.0, 95.0, "tokens"),
    ]

    async def gateways() -> list[Taken]:
        limiters = [RedisLimiter(settings_of(redis_running, run)) for _ in asked]
        taken = await asyncio.gather(
            *(
                limiter.take(limits, [1.0, 5.0], NOW + skew)
                for limiter, number, skew in zip(limiters, asked, skews, strict=False)
                for _ in range(number)
            )
        )
        for limiter in limiters:
            await limiter.close()
        return taken

    run = uuid.uuid4().hex
    taken = asyncio.run(gateways())
    assert sum(t.allowed for t in taken) == min(sum(asked), 19)  # 19 times 5 tokens are 95
    assert sorted(t.left[1].remaining for t in taken if t.allowed) == [
        95 - 5 * i for i in range(min(sum(asked), 19), 0, -1)
    ]


def settings_of(server: RedisServer, run: str | None = None) -> RedisSettings:
    return RedisSettings(url=server.url, prefix=f"{run or uuid.uuid4().hex}:")


async def test_time_is_the_servers(redis_running: RedisServer) -> None:
    limiter = RedisLimiter(settings_of(redis_running))
    taken = await limiter.take([SIX], [1.0], 0.0)
    seconds, micros = await limiter._client.time()
    assert taken.at == pytest.approx(seconds + micros / 1e6, abs=5.0)
    await limiter.close()


async def test_buckets_end_in_redis_by_themselves(redis_running: RedisServer) -> None:
    limiter = RedisLimiter(settings_of(redis_running))
    await limiter.take([SIX, DAILY], [1.0, 5.0], 0.0)
    left = [await limiter._client.pttl(limiter._keys.limit(x.bucket)) for x in (SIX, DAILY)]
    assert 9_000 < left[0] <= 11_000
    assert 0 < left[1] <= 86_401_000
    await limiter.close()


async def test_a_key_of_an_earlier_version_counts_as_empty(redis_running: RedisServer) -> None:
    limiter = RedisLimiter(settings_of(redis_running))
    await limiter._client.set(limiter._keys.limit("b"), "1781000010.5")
    assert (await take(limiter, NOW)).remaining == 2
    await limiter.close()


async def test_a_limiter_without_its_redis_says_so() -> None:
    limiter = RedisLimiter(RedisSettings(url=f"redis://127.0.0.1:{free_port()}/0"))
    with pytest.raises(StoreUnavailable, match="redis"):
        await limiter.take([SIX], [1.0], NOW)
    await limiter.close()


@pytest.mark.parametrize("quota", [0, -1, math.nan, math.inf, True, "6", None, [6]])
def test_a_quota_that_is_no_positive_number_limits_nothing(quota: object) -> None:
    assert limits_of({"rate_per_min": quota, "burst": 3, "bucket": "b"}) == []


@pytest.mark.parametrize("burst", [0, -1, math.nan, "3", None])
def test_a_burst_that_is_none_is_one(burst: object) -> None:
    (limit,) = limits_of({"rate_per_min": 6, "burst": burst, "bucket": "b"})
    assert limit.burst == 1
