"""Problem documents and RateLimit fields."""

from __future__ import annotations

import pytest

from responders.actions import problem
from responders.actions.throttle import Taken


@pytest.mark.parametrize(
    ("rate", "policy"),
    [
        (6.0, '"requests";q=6;w=60'),
        (1.5, '"requests";q=90;w=3600'),
        (0.75, '"requests";q=45;w=3600'),
        (1 / 60, '"requests";q=1;w=3600'),
        (1 / 1440, '"requests";q=1;w=86400'),
        (1 / 7, '"requests";q=205;w=86400'),
    ],
)
def test_a_quota_is_told_in_whole_requests(rate: float, policy: str) -> None:
    fields = problem.rate_limit(rate, Taken(True, 2, 0.0, 9.1))
    assert fields == {"RateLimit-Policy": policy, "RateLimit": '"requests";r=2;t=10'}


def test_a_throttle_is_a_429_of_type_quota_exceeded() -> None:
    refusal = problem.throttle(6.0, Taken(False, 0, 8.0, 30.0), 11)
    assert refusal.status == refusal.document["status"] == 429
    assert refusal.document["type"] == problem.QUOTA_EXCEEDED
    assert refusal.headers["Retry-After"] == "11"


def test_a_challenge_asks_for_stronger_authentication() -> None:
    refusal = problem.challenge(None)
    assert refusal.status == refusal.document["status"] == 401
    assert "authenticate_at" not in refusal.document
    assert "insufficient_user_authentication" in refusal.headers["WWW-Authenticate"]


def test_a_block_has_the_operators_status_and_no_way_to_time_its_end() -> None:
    refusal = problem.block(402)
    assert refusal.status == refusal.document["status"] == 402
    assert refusal.headers == {}
