"""Refusals that the client makes itself: the same as the verdict API's."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from velvetrope_client import refusals
from velvetrope_client.refusals import Limiter, Refusal

from responders.actions import problem
from responders.actions.throttle import MemoryLimiter, costs_of, limits_of
from responders.gateways.answer import refusal_response

NOW = 1_781_000_000.0


def shown(refusal: problem.Refusal) -> tuple[int, set[tuple[bytes, bytes]], bytes]:
    """What a client of the verdict API sees."""
    response = refusal_response(refusal)
    return response.status_code, set(response.raw_headers), bytes(response.body)


def ours(refusal: Refusal) -> tuple[int, set[tuple[bytes, bytes]], bytes]:
    return refusal.status, set(refusal.headers), refusal.body


def test_a_block_is_the_same() -> None:
    assert ours(refusals.block(451)) == shown(problem.block(451))


@pytest.mark.parametrize("url", [None, "https://example.com/login"])
def test_a_challenge_is_the_same(url: str | None) -> None:
    assert ours(refusals.challenge(url)) == shown(problem.challenge(url))


@pytest.mark.parametrize(("rate", "burst"), [(6.0, 3), (0.5, 1), (0.01, 2), (1.5, 2), (90.0, 40)])
async def test_a_limiter_refuses_when_the_services_does_and_says_the_same(
    rate: float, burst: int
) -> None:
    now = NOW
    limiter, reference = Limiter(lambda: now), MemoryLimiter()
    params = {"rate_per_min": rate, "burst": burst, "bucket": "b"}
    limits = limits_of(params)
    for step in range(300):
        # Never within 10 us of the moment at which a request conforms: there they may differ.
        now += (step * 7919 % 13) / 13 * 89.2 / rate
        refusal = limiter.take("b", rate, burst)
        taken = await reference.take(limits, costs_of(limits, None), now)
        assert (refusal is None) == taken.allowed, step
        if refusal is not None:
            wait = int(dict(refusal.headers)[b"retry-after"])
            status, fields, body = shown(problem.throttle(limits, taken, wait))
            # The service counts in whole microseconds: its t may be a second more.
            same = {field for field in fields if field[0] != b"ratelimit"}
            assert (refusal.status, refusal.body) == (status, body)
            assert set(refusal.headers) - fields <= {(b"ratelimit", _ratelimit(refusal.headers))}
            assert same <= set(refusal.headers)
            assert abs(_t(refusal.headers) - _t(fields)) <= 1
            assert taken.retry_after_s <= wait <= taken.retry_after_s * 1.5 + 3.0


def _ratelimit(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    return dict(fields)[b"ratelimit"]


def _t(fields: Iterable[tuple[bytes, bytes]]) -> int:
    """Seconds until the bucket is full again, of a field `"requests";r=0;t=30`."""
    before, _, t = _ratelimit(fields).rpartition(b"t=")
    assert before == b'"requests";r=0;'
    return int(t)


def test_buckets_are_apart() -> None:
    limiter = Limiter(lambda: NOW)
    assert limiter.take("a", 1.0, 1) is None
    assert limiter.take("a", 1.0, 1) is not None
    assert limiter.take("b", 1.0, 1) is None


def test_what_cannot_be_had_now_is_503_with_a_time_to_come_back() -> None:
    refusal = refusals.unavailable()
    assert (refusal.status, dict(refusal.headers)[b"retry-after"]) == (503, b"5")
    assert json.loads(refusal.body)["status"] == 503
