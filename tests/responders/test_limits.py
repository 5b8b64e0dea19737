"""Which static limits hold for a request."""

from __future__ import annotations

import pytest

from responders.actions.throttle import Limit
from responders.limits import BadPolicy, StaticPolicy
from responders.settings import PolicySettings, StaticLimitSettings

SETTINGS = PolicySettings(
    fail_closed=("block",),
    limits=(
        StaticLimitSettings(name="plan", plans=("free", "trial-*"), rate_per_min=20, burst=5),
        StaticLimitSettings(name="plan", rate_per_min=600, burst=100),
        StaticLimitSettings(
            name="logprobs", endpoints=("/v1/completions*",), models=("big-*",), requests_per_day=50
        ),
    ),
)
POLICY = StaticPolicy.of(SETTINGS)


def names(plan: str | None, path: str | None, model: str | None) -> list[tuple[str, float]]:
    return [(x.name, x.quota) for x in POLICY.limits_for("acct-1", plan, path, model)]


@pytest.mark.parametrize(
    ("plan", "quota"), [("free", 20.0), ("trial-7", 20.0), ("team", 600.0), (None, 600.0)]
)
def test_of_one_name_the_first_that_matches_holds(plan: str | None, quota: float) -> None:
    assert names(plan, "/v1/chat", "small") == [("plan-requests", quota)]


def test_limits_of_different_names_hold_together() -> None:
    assert names("free", "/v1/completions/7", "big-2") == [
        ("plan-requests", 20.0),
        ("logprobs-requests-day", 50.0),
    ]


@pytest.mark.parametrize(("path", "model"), [(None, "big-2"), ("/v1/completions", None)])
def test_what_a_gateway_does_not_tell_is_matched_by_a_star_alone(
    path: str | None, model: str | None
) -> None:
    assert names("free", path, model) == [("plan-requests", 20.0)]


def test_each_account_has_a_bucket_of_its_own_in_each_limit() -> None:
    assert POLICY.limits_for("acct-1", "free", None, None) == [
        Limit("plan-requests", "static:plan:account:acct-1", 20.0, 60.0, 5.0)
    ]


def test_what_is_written_to_the_store_is_read_again() -> None:
    assert StaticPolicy.decode(POLICY.encode()) == POLICY


@pytest.mark.parametrize("text", [b"", b"{", b'{"format": 2}', b'{"limits": [{"burst": 3}]}'])
def test_what_is_no_policy_is_refused(text: bytes) -> None:
    with pytest.raises(BadPolicy, match="static limits"):
        StaticPolicy.decode(text)


def test_a_limit_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="'idle' limits nothing: set one of rate_per_min"):
        StaticLimitSettings(name="idle")
