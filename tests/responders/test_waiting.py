"""What waits: for a place under the cap, for its delay; and who is enforced against in a stage."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responders.decisions import Decision, is_enforcement
from responders.feedback import Allow, Clear, SetMode
from responders.policy import Policy
from responders.settings import PolicySettings, StageSettings
from responders.verdict import Verdict
from tests.responders.making import NOW
from tests.responders.test_policy import BLOCK, THROTTLE, said, steps, verdict


def decide(policy: Policy, now: float, *verdicts: Verdict) -> list[Decision]:
    return policy.decide(verdicts, now, scorer="s1", baseline="b1")


def lone(number: int, **changes: Any) -> Verdict:
    """A verdict about one more account, weaker than those before."""
    return verdict(0.01 * number, **({"value": f"a{number}"} | changes))


def values(decisions: list[Decision]) -> list[str]:
    return [decision.value for decision in decisions]


def test_only_so_many_a_minute_are_newly_enforced_the_strongest_evidence_first() -> None:
    policy = Policy(PolicySettings(new_enforcements_per_min=2))
    first = decide(policy, NOW, lone(3), lone(1), lone(4), lone(2))
    assert values(first) == ["a1", "a2"]
    assert policy.held_back == 2
    assert policy.next_due() == NOW + 60.0
    assert decide(policy, NOW + 59.9) == []
    assert values(decide(policy, NOW + 60.0)) == ["a3", "a4"]
    assert policy.held_back == 0


def test_stronger_evidence_that_came_later_goes_before_what_waits() -> None:
    policy = Policy(PolicySettings(new_enforcements_per_min=1))
    decide(policy, NOW, lone(1), lone(5))
    decide(policy, NOW + 30.0, lone(3))
    assert values(decide(policy, NOW + 60.0)) == ["a3"]
    assert values(decide(policy, NOW + 120.0)) == ["a5"]


def test_a_campaign_counts_once_whatever_its_members() -> None:
    policy = Policy(PolicySettings(new_enforcements_per_min=2))
    members = [lone(i, campaign="c-1") for i in range(1, 8)]
    assert len(decide(policy, NOW, *members, lone(8), lone(9))) == 8
    assert policy.held_back == 1
    late = decide(policy, NOW + 1.0, lone(10, campaign="c-1"))
    assert values(late) == ["a10"]  # its campaign is enforced against already


def test_members_that_wait_are_one_campaign_that_waits() -> None:
    policy = Policy(PolicySettings(new_enforcements_per_min=1))
    decide(policy, NOW, lone(1), *(lone(i, campaign="c-1") for i in range(2, 9)))
    assert policy.held_back == 1
    assert len(decide(policy, NOW + 60.0)) == 7


def test_the_cap_holds_back_nothing_that_is_enforced_already() -> None:
    policy = Policy(PolicySettings(new_enforcements_per_min=1))
    decide(policy, NOW, lone(1))
    climbs = verdict(BLOCK, value="a1", n_events=64)
    assert steps(decide(policy, NOW + 1.0, climbs, lone(2))) == [("throttle", 2)]
    later = decide(policy, NOW + 2000.0, verdict(0.001, value="a3"), lone(1, n_events=64))
    assert "a1" in values(later)


def test_what_stood_in_shadow_needs_a_place_once_it_is_to_be_enforced() -> None:
    policy = Policy(PolicySettings(new_enforcements_per_min=2))
    for minute in range(3):
        decide(policy, NOW + 60.0 * minute, *(lone(2 * minute + i) for i in (1, 2)))
    policy.feedback(SetMode(**said(mode="enforce")), NOW + 200.0)
    again = decide(policy, NOW + 200.0, *(lone(i) for i in range(1, 7)))
    assert [(d.value, d.mode) for d in again] == [("a1", "enforce"), ("a2", "enforce")]
    assert policy.held_back == 4


def test_watching_needs_no_place() -> None:
    policy = Policy(PolicySettings(new_enforcements_per_min=1))
    watched = [verdict(5.0, value=f"w{i}") for i in range(9)]
    assert len(decide(policy, NOW, *watched)) == 9


def test_who_is_allowed_or_cleared_while_he_waits_is_left_alone() -> None:
    policy = Policy(PolicySettings(new_enforcements_per_min=1))
    decide(policy, NOW, lone(1), lone(2), lone(3), lone(4))
    policy.feedback(Allow(**said(scope="account", value="a2", reason="partner")), NOW + 1)
    policy.feedback(Clear(**said(scope="account", value="a3", reason="known")), NOW + 1)
    assert values(decide(policy, NOW + 60.0)) == ["a4"]
    assert policy.next_due() < math.inf  # the decisions' own ends
    assert decide(policy, NOW + 120.0) == []


def test_a_step_that_waited_a_day_is_dropped() -> None:
    policy = Policy(PolicySettings(new_enforcements_per_min=1))
    decide(policy, NOW, lone(1), lone(2))
    for minute in range(1, 24 * 60 + 1):
        decide(policy, NOW + 60.0 * minute, verdict(0.001, value=f"stronger{minute}"))
    assert policy.held_back == 0


# -- delay and jitter -----------------------------------------------------------------------------

DELAYED = PolicySettings(delay_s=10.0, jitter_s=300.0)


def due(policy: Policy, now: float, *verdicts: Verdict) -> float:
    """Seconds after `now` at which what the verdicts bring is issued."""
    assert decide(policy, now, *verdicts) == []
    later = policy.next_due()
    assert decide(policy, math.nextafter(later, 0.0)) == []
    assert len(decide(policy, later)) == len(verdicts)
    return later - now


def test_a_stronger_decision_waits_between_delay_and_delay_with_jitter() -> None:
    waits = [due(Policy(DELAYED), NOW, verdict(value=f"a{i}")) for i in range(200)]
    assert 10.0 <= min(waits) < 25.0
    assert 295.0 < max(waits) <= 310.0


def test_the_wait_is_the_same_again_and_another_under_another_key() -> None:
    other = DELAYED.model_copy(update={"id_key": PolicySettings(id_key="k").id_key})
    first = due(Policy(DELAYED), NOW, verdict())
    assert due(Policy(DELAYED), NOW, verdict()) == first
    assert due(Policy(other), NOW, verdict()) != first


def test_members_of_a_campaign_are_enforced_at_one_moment_whenever_they_were_found() -> None:
    policy = Policy(DELAYED)
    assert decide(policy, NOW, lone(1, campaign="c-1")) == []
    assert decide(policy, NOW + 5.0, lone(2, campaign="c-1")) == []
    at = policy.next_due()
    assert values(decide(policy, at)) == ["a1", "a2"]
    assert values(decide(policy, at + 5.0, lone(3, campaign="c-1"))) == ["a3"]


def test_an_escalation_waits_while_what_is_in_force_stays() -> None:
    policy = Policy(DELAYED)
    due(policy, NOW, verdict(BLOCK))
    assert 10.0 <= due(policy, NOW + 400.0, verdict(BLOCK, n_events=64)) <= 310.0


def test_what_is_in_force_does_not_end_while_the_step_above_it_waits() -> None:
    policy = Policy(PolicySettings(delay_s=1800.0))
    due(policy, NOW, verdict(BLOCK))
    late = NOW + 1800.0 + 3599.0
    (renewed,) = decide(policy, late, verdict(BLOCK, n_events=64))
    assert (renewed.action, renewed.level, renewed.expires_at) == ("throttle", 1, late + 3600.0)
    assert steps(decide(policy, late + 1800.0)) == [("throttle", 2)]


def test_waits_as_long_as_a_decision_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2000 s together: more than half the shortest life"):
        PolicySettings(delay_s=1000.0, jitter_s=1000.0)


# -- the stage ------------------------------------------------------------------------------------


def staged(stage: StageSettings, *verdicts: Verdict) -> list[Decision]:
    return decide(Policy(PolicySettings(mode="enforce", stage=stage)), NOW, *verdicts)


def enforced(share: float) -> set[str]:
    verdicts = [verdict(value=f"a{i}", campaign="c-1") for i in range(1000)]
    found = staged(StageSettings(share=share), *verdicts)
    assert len(found) == 1000
    return {decision.value for decision in found if decision.mode == "enforce"}


def test_a_share_of_the_accounts_is_enforced_and_a_larger_one_only_adds() -> None:
    tenth, half = enforced(0.1), enforced(0.5)
    assert 70 <= len(tenth) <= 130
    assert tenth < half < enforced(1.0)
    assert enforced(0.0) == set()


def test_plans_outside_the_stage_stay_in_shadow() -> None:
    stage = StageSettings(plans=("free", "trial-*"))
    plans = ["free", "trial-7", "enterprise", None]
    found = staged(stage, *(verdict(value=f"a{i}", plan=p) for i, p in enumerate(plans)))
    assert [d.mode for d in found] == ["enforce", "enforce", "shadow", "shadow"]


def test_decisions_apply_to_the_endpoints_of_the_stage() -> None:
    stage = StageSettings(endpoints=("/v1/completions*",), models=("small",))
    (found,) = staged(stage, verdict())
    assert found.applies_to.endpoints == ("/v1/completions*",)
    assert found.applies_to.models == ("small",)


def test_a_stage_enforces_nothing_while_the_mode_is_shadow() -> None:
    (found,) = decide(Policy(PolicySettings(stage=StageSettings(share=1.0))), NOW, verdict())
    assert found.mode == "shadow"


# -- whatever the history ------------------------------------------------------------------------

EVENTS = st.lists(
    st.tuples(
        st.sampled_from([0.2, 5.0, 60.0, 1801.0, 3600.0]),
        st.lists(
            st.builds(
                verdict,
                st.sampled_from([5.0, 1.0, 0.4, 0.05, 0.001]),
                value=st.sampled_from(["a", "b", "c", "d", "e"]),
                n_events=st.integers(8, 400),
                campaign=st.sampled_from([None, None, "c-1"]),
            ),
            max_size=5,
        ),
        st.sampled_from([None, None, None, "enforce", "shadow"]),
    ),
    max_size=25,
)
BUSY = PolicySettings(new_enforcements_per_min=2, delay_s=3.0, jitter_s=60.0)


def run(events: Any, *, restore_at: int | None = None) -> list[Decision]:
    """All decisions; between the ticks, also at each time at which something is due."""
    policy, now, found = Policy(BUSY), NOW, []
    for i, (seconds, verdicts, mode) in enumerate(events):
        if i == restore_at:
            packed = msgspec.msgpack.encode(policy.export())
            policy = Policy.restore(BUSY, msgspec.msgpack.decode(packed))
        until = now + seconds
        while policy.next_due() < until:
            now = max(policy.next_due(), math.nextafter(now, math.inf))
            policy.expire(now)
            found += decide(policy, now)
        now = until
        policy.expire(now)
        if mode is not None:
            policy.feedback(SetMode(**said(mode=mode)), now)
        found += decide(policy, now, *verdicts)
    return found


@given(EVENTS, st.integers(0, 24))
@settings(max_examples=150, deadline=None)
def test_export_and_restore_in_the_middle_change_nothing(events: Any, at: int) -> None:
    assert run(events, restore_at=at) == run(events)


@given(EVENTS)
@settings(max_examples=150, deadline=None)
def test_in_any_minute_at_most_the_cap_of_campaigns_is_newly_enforced(events: Any) -> None:
    until: dict[str, float] = {}
    new: list[float] = []
    for decision in run(events):
        if not is_enforcement(decision.action):
            continue
        own = f"{decision.scope}:{decision.value}"
        unit = decision.campaign or own
        if max(until.get(unit, 0.0), until.get(own, 0.0)) <= decision.issued_at:
            new.append(decision.issued_at)
        for name in (unit, own):
            until[name] = max(decision.expires_at, until.get(name, 0.0))
    for start in new:
        assert sum(start <= time < start + 60.0 for time in new) <= 2


def test_state_of_format_1_is_read() -> None:
    policy = Policy(PolicySettings())
    decide(policy, NOW, verdict(THROTTLE))
    old = policy.export() | {"format": 1}
    del old["waiting"]
    for _, _, standing in old["standings"]:
        del standing["offences"]
    restored = Policy.restore(PolicySettings(), old)
    assert steps(decide(restored, NOW + 1.0, verdict(BLOCK, n_events=64))) == [("throttle", 2)]


@pytest.mark.parametrize("told", ["decide", "would_issue"])
def test_a_step_whose_evidence_has_gone_is_dropped(told: str) -> None:
    policy = Policy(PolicySettings(delay_s=60.0))
    decide(policy, NOW, verdict(THROTTLE), verdict(THROTTLE, value="a2"))
    # Another baseline, or another week, finds little in it.
    weaker = verdict(5.0, n_events=64)
    if told == "decide":
        assert steps(decide(policy, NOW + 10.0, weaker)) == [("observe", 1)]
    else:
        policy.would_issue(weaker, NOW + 10.0)
    assert values(decide(policy, NOW + 60.0)) == ["a2"]
