"""Problem documents and RateLimit fields."""

from __future__ import annotations

import pytest

from responders.actions import problem
from responders.actions.throttle import Left, Limit, Taken


def requests(rate: float) -> Limit:
    return Limit("requests", "b", rate, 60.0, 3.0)


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
    taken = Taken(True, (Left(True, 2, 0.0, 9.1),), 0.0)
    fields = problem.rate_limit([requests(rate)], taken)
    assert fields == {"RateLimit-Policy": policy, "RateLimit": '"requests";r=2;t=10'}


SEVERAL = [
    requests(6.0),
    Limit("tokens", "b:tokens", 1000.0, 60.0, 4000.0, "tokens"),
    Limit("tokens-day", "b:tokens-day", 50_000.0, 86_400.0, 0.0, "tokens"),
]


def test_several_quotas_are_a_list_with_the_unit_of_each() -> None:
    left = (Left(True, 2, 0.0, 9.1), Left(True, 900, 0.0, 186.0), Left(True, 40_000, 0.0, 3600.0))
    assert problem.rate_limit(SEVERAL, Taken(True, left, 0.0)) == {
        "RateLimit-Policy": '"requests";q=6;w=60, "tokens";q=1000;w=60;qu="tokens", '
        '"tokens-day";q=50000;w=86400;qu="tokens"',
        "RateLimit": '"requests";r=2;t=10, "tokens";r=900;t=186, "tokens-day";r=40000;t=3600',
    }


def test_a_throttle_is_a_429_of_type_quota_exceeded() -> None:
    refusal = problem.throttle([requests(6.0)], Taken(False, (Left(False, 0, 8.0, 30.0),), 0.0), 11)
    assert refusal.status == refusal.document["status"] == 429
    assert refusal.document["type"] == problem.QUOTA_EXCEEDED
    assert refusal.headers["Retry-After"] == "11"


def test_a_throttle_names_the_quotas_that_had_no_room() -> None:
    left = (Left(True, 2, 0.0, 9.1), Left(False, 0, 8.0, 186.0), Left(True, 9, 0.0, 3600.0))
    refusal = problem.throttle(SEVERAL, Taken(False, left, 0.0), 11)
    assert refusal.document["violated-policies"] == ["tokens"]


def test_a_challenge_asks_for_stronger_authentication() -> None:
    refusal = problem.challenge(None)
    assert refusal.status == refusal.document["status"] == 401
    assert "authenticate_at" not in refusal.document
    assert "insufficient_user_authentication" in refusal.headers["WWW-Authenticate"]


def test_a_block_has_the_operators_status_and_no_way_to_time_its_end() -> None:
    refusal = problem.block(402)
    assert refusal.status == refusal.document["status"] == 402
    assert refusal.headers == {}
