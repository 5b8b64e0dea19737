"""GCRA: the pure reference, the limiter in this process, the one in Redis."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responders.actions.throttle import (
    MemoryLimiter,
    Taken,
    bucket_of,
    gcra,
    retry_after,
    throttle_params,
)
from responders.settings import RedisSettings, ThrottleSettings
from responders.stores.base import StoreUnavailable
from responders.stores.redis import RedisLimiter
from tests.real_redis import RedisServer, free_port
from tests.responders.making import NOW


@pytest.mark.parametrize(
    ("level", "rate", "burst"), [(1, 6.0, 4), (2, 3.0, 2), (3, 1.5, 1), (4, 0.75, 1)]
)
def test_each_level_halves_rate_and_burst(level: int, rate: float, burst: int) -> None:
    params = throttle_params(ThrottleSettings(rate_per_min=6, burst=4), level, "account:a")
    assert params == {"rate_per_min": rate, "burst": burst, "bucket": "account:a"}


def test_a_campaign_shares_a_bucket() -> None:
    assert bucket_of("account", "a", "c-1") == bucket_of("account", "b", "c-1") == "campaign:c-1"
    assert bucket_of("account", "a", None) == "account:a"


def test_a_full_bucket_gives_its_burst_at_once_and_then_one_an_interval() -> None:
    tat, allowed = 0.0, []
    for now in [NOW, NOW, NOW, NOW, NOW + 9.9, NOW + 10.0, NOW + 10.0]:
        tat, taken = gcra(tat, now, 6.0, 3)
        allowed.append(taken.allowed)
    assert allowed == [True, True, True, False, False, True, False]


def test_what_is_left_and_the_wait_are_told() -> None:
    tat, first = gcra(0.0, 100.0, 6.0, 3)
    assert first == Taken(True, 2, 0.0, 10.0)
    tat, second = gcra(tat, 100.0, 6.0, 3)
    tat, third = gcra(tat, 100.0, 6.0, 3)
    assert (second.remaining, third.remaining) == (1, 0)
    after, refused = gcra(tat, 104.0, 6.0, 3)
    assert refused == Taken(False, 0, 6.0, 26.0)
    assert after == tat  # a refused request costs nothing


STEPS = st.lists(st.floats(0, 40), min_size=1, max_size=60)


@given(STEPS, st.sampled_from([0.75, 1.5, 6.0, 600.0]), st.integers(1, 5))
def test_any_window_passes_at_most_burst_and_rate_times_its_length(
    steps: list[float], rate: float, burst: int
) -> None:
    now, tat, passed = NOW, 0.0, []
    for step in steps:
        now += step
        tat, taken = gcra(tat, now, rate, burst)
        if taken.allowed:
            passed.append(now)
    for i, start in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= burst + (passed[j] - start) * rate / 60 + 0.01


@given(STEPS, st.sampled_from([0.75, 6.0, 600.0]), st.integers(1, 5))
def test_after_the_wait_that_it_was_told_a_request_passes(
    steps: list[float], rate: float, burst: int
) -> None:
    now, tat = NOW, 0.0
    for step in steps:
        now += step
        tat, taken = gcra(tat, now, rate, burst)
        if not taken.allowed:
            assert gcra(tat, now + taken.retry_after_s, rate, burst)[1].allowed


def test_retry_after_is_jittered_by_caller_and_bucket_but_never_random() -> None:
    refused = Taken(False, 0, 10.0, 30.0)
    waits = [retry_after(b"k", "campaign:c", f"acct-{i}", refused, NOW) for i in range(500)]
    assert waits == [retry_after(b"k", "campaign:c", f"acct-{i}", refused, NOW) for i in range(500)]
    assert set(waits) == set(range(10, 16))  # the wait, and up to half of it


def test_a_short_wait_is_jittered_too() -> None:
    refused = Taken(False, 0, 0.2, 1.0)
    assert {retry_after(b"k", "b", f"a{i}", refused, NOW) for i in range(200)} == {1, 2, 3}


async def test_the_memory_limiter_keeps_buckets_apart() -> None:
    limiter = MemoryLimiter()
    assert (await limiter.take("a", 6.0, 1, NOW)).allowed
    assert not (await limiter.take("a", 6.0, 1, NOW)).allowed
    assert (await limiter.take("b", 6.0, 1, NOW)).allowed


async def test_the_memory_limiter_forgets_full_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("responders.actions.throttle._PRUNE_AT", 10)
    limiter = MemoryLimiter()
    for i in range(200):
        await limiter.take(f"b{i}", 6.0, 1, NOW + 11.0 * i)
    assert len(limiter._tat) <= 11


class Clock:
    """Time that a test sets."""

    now = NOW

    def __call__(self) -> float:
        return self.now


@given(STEPS, st.sampled_from([0.75, 6.0, 600.0]), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_the_limiter_in_redis_does_as_the_reference_does(
    redis_running: RedisServer, steps: list[float], rate: float, burst: int
) -> None:
    async def both() -> tuple[list[Taken], list[Taken]]:
        clock = Clock()
        there_settings = RedisSettings(url=redis_running.url, prefix=f"{uuid.uuid4().hex}:")
        there, here = RedisLimiter(there_settings, clock=clock), MemoryLimiter()
        got, expected = [], []
        # Buckets live in Redis on the machine's clock, so a test's time goes in small steps.
        for step in steps:
            clock.now += step / 1000
            got.append(await there.take("b", rate, burst, clock.now))
            expected.append(await here.take("b", rate, burst, clock.now))
        await there.close()
        return got, expected

    got, expected = asyncio.run(both())
    assert [t.allowed for t in got] == [t.allowed for t in expected]
    assert [t.remaining for t in got] == [t.remaining for t in expected]
    assert [t.retry_after_s for t in got] == pytest.approx([t.retry_after_s for t in expected])


async def test_two_services_count_together_in_redis(redis_running: RedisServer) -> None:
    settings = RedisSettings(url=redis_running.url, prefix=f"{uuid.uuid4().hex}:")
    one, other = RedisLimiter(settings), RedisLimiter(settings)
    taken = [await limiter.take("b", 6.0, 3, 0.0) for limiter in (one, other, one, other)]
    assert [t.allowed for t in taken] == [True, True, True, False]
    await one.close()
    await other.close()


async def test_a_limiter_without_its_redis_says_so() -> None:
    limiter = RedisLimiter(RedisSettings(url=f"redis://127.0.0.1:{free_port()}/0"))
    with pytest.raises(StoreUnavailable, match="redis"):
        await limiter.take("b", 6.0, 3, NOW)
    await limiter.close()
