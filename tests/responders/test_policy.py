"""The ladder: first step, escalation on new evidence, renewal, decay, grace, allowlist, mode."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responders.decisions import ACTIONS, Decision, Reason, is_enforcement
from responders.feedback import Allow, Clear, Disallow, Feedback, SetMode
from responders.policy import Policy
from responders.settings import PolicySettings, RungSettings
from responders.verdict import Verdict
from tests.responders.making import NOW

HOUR = 3600.0
REASON = Reason(code="extraction", text="asks too broadly", technique="AML.T0024.002")
# What each rung of the default ladder asks for; just enough evidence for it.
OBSERVE, THROTTLE, THROTTLE_2, CHALLENGE, POISON, BLOCK = 10.0, 1.0, 0.5, 0.3, 0.1, 0.03


def verdict(false_per_1000: float = THROTTLE, **changes: Any) -> Verdict:
    fields: dict[str, Any] = {
        "scope": "account",
        "value": "a",
        "false_per_1000": false_per_1000,
        "e_value": 1000.0,
        "evidence": 5.0,
        "n_events": 32,
        "reason": REASON,
    }
    return Verdict(**(fields | changes))


def decide(policy: Policy, now: float, *verdicts: Verdict) -> list[Decision]:
    return policy.decide(verdicts, now, scorer="s1", baseline="b1")


def steps(decisions: list[Decision]) -> list[tuple[str, int]]:
    return [(d.action, d.level) for d in decisions]


def said(**fields: Any) -> dict[str, Any]:
    return {"id": "f-1", "by": "ann", **fields}


@pytest.mark.parametrize(
    ("false_per_1000", "first"),
    [
        (math.inf, []),
        (math.nan, []),
        (10.1, []),
        (OBSERVE, [("observe", 1)]),
        (THROTTLE, [("throttle", 1)]),
        (BLOCK, [("throttle", 1)]),
        (0.0, [("throttle", 1)]),
    ],
)
def test_the_first_decision_is_throttle_1_at_most(
    false_per_1000: float, first: list[tuple[str, int]]
) -> None:
    assert steps(decide(Policy(PolicySettings()), NOW, verdict(false_per_1000))) == first


def test_each_new_block_of_a_sure_thief_climbs_one_rung_up_to_block() -> None:
    policy = Policy(PolicySettings())
    climbed = []
    for block in range(1, 8):
        climbed += decide(policy, NOW + block, verdict(BLOCK, n_events=32 * block))
    assert steps(climbed) == [
        ("throttle", 1),
        ("throttle", 2),
        ("challenge", 1),
        ("poison", 1),
        ("block", 1),
    ]


@pytest.mark.parametrize(
    ("change", "climbs"),
    [
        ({}, False),  # the same evidence again
        ({"evidence": 4.9, "n_events": 63}, False),
        ({"evidence": 5.1}, True),
        ({"n_events": 64}, True),
        ({"evidence": 5.1, "fresh": False}, False),
    ],
)
def test_escalation_needs_new_evidence(change: dict[str, Any], climbs: bool) -> None:
    policy = Policy(PolicySettings())
    decide(policy, NOW, verdict(BLOCK))
    expected = [("throttle", 2)] if climbs else []
    assert steps(decide(policy, NOW + 1, verdict(BLOCK, **change))) == expected


def test_new_evidence_short_of_the_next_rung_does_not_climb() -> None:
    policy = Policy(PolicySettings())
    decide(policy, NOW, verdict(THROTTLE))
    assert decide(policy, NOW + 1, verdict(0.51, evidence=9.0, n_events=640)) == []


def test_a_verdict_that_is_not_fresh_decides_nothing() -> None:
    assert decide(Policy(PolicySettings()), NOW, verdict(BLOCK, fresh=False)) == []


def test_the_second_half_of_a_decisions_life_renews_it() -> None:
    policy = Policy(PolicySettings())
    decide(policy, NOW, verdict())
    assert decide(policy, NOW + HOUR / 2 - 1, verdict()) == []
    (renewed,) = decide(policy, NOW + HOUR / 2, verdict())
    assert (renewed.action, renewed.level) == ("throttle", 1)
    assert renewed.expires_at == NOW + HOUR / 2 + HOUR


def test_evidence_that_fell_below_the_rung_is_not_renewed() -> None:
    policy = Policy(PolicySettings())
    decide(policy, NOW, verdict())
    assert decide(policy, NOW + HOUR - 1, verdict(OBSERVE, n_events=640)) == []


def climbed(policy: Policy, rungs: int, now: float = NOW) -> float:
    """Climb so many rungs from throttle 1, a second each; when the last was issued."""
    for i in range(rungs):
        decide(policy, now + i, verdict(BLOCK, n_events=32 * (i + 1)))
    return now + rungs - 1


def test_an_expired_decision_leaves_its_standing_on_probation_for_one_more_life() -> None:
    policy = Policy(PolicySettings())
    over = climbed(policy, 2) + HOUR
    (again,) = decide(policy, over + HOUR - 1, verdict(BLOCK, n_events=64))
    assert (again.action, again.level) == ("throttle", 2)


def test_after_the_probation_the_standing_is_one_rung_lower_for_a_life() -> None:
    policy = Policy(PolicySettings())
    over = climbed(policy, 2) + HOUR
    (again,) = decide(policy, over + HOUR, verdict(BLOCK, n_events=64))
    assert (again.action, again.level) == ("throttle", 1)


def test_who_comes_back_from_a_challenge_with_new_evidence_is_poisoned() -> None:
    policy = Policy(PolicySettings())
    over = climbed(policy, 3) + HOUR
    (again,) = decide(policy, over, verdict(BLOCK, n_events=128))
    assert again.action == "poison"


def test_each_offence_doubles_the_life_of_a_block_up_to_a_week() -> None:
    policy = Policy(PolicySettings())
    climbed(policy, 5)
    now, lives = NOW + 4 + 86_400.0, []
    for block in range(6, 12):
        (again,) = decide(policy, now, verdict(BLOCK, n_events=32 * block))
        assert again.action == "block"
        lives.append((again.expires_at - now) / 86_400.0)
        now = again.expires_at
    assert lives == [2, 4, 7, 7, 7, 7]


def member(number: int, block: int = 1, evidence: float = BLOCK) -> Verdict:
    return verdict(evidence, value=f"m{number}", campaign="c-1", n_events=32 * block)


def test_members_of_a_campaign_climb_one_ladder_together() -> None:
    policy = Policy(PolicySettings())
    found = [decide(policy, NOW + i, member(i)) for i in range(6)]
    assert [steps(decisions) for decisions in found] == [
        [("throttle", 1)],
        [("throttle", 2)],
        [("challenge", 1)],
        [("poison", 1)],
        [("block", 1)],
        [("block", 1)],
    ]
    assert steps(decide(policy, NOW + 7, member(0, block=2))) == [("block", 1)]


def test_a_member_goes_no_further_than_its_own_evidence_deserves() -> None:
    policy = Policy(PolicySettings())
    for i in range(5):
        decide(policy, NOW + i, member(i))
    assert steps(decide(policy, NOW + 6, member(6, evidence=THROTTLE))) == [("throttle", 1)]


def test_members_of_one_tick_stand_on_one_rung() -> None:
    policy = Policy(PolicySettings())
    found = decide(policy, NOW, *(member(i) for i in range(4)))
    assert steps(found) == [("throttle", 1)] * 4


def test_a_clear_of_one_member_ends_what_was_concluded_for_the_others() -> None:
    policy = Policy(PolicySettings())
    for i in range(5):
        decide(policy, NOW + i, member(i))
    policy.feedback(Clear(**said(scope="account", value="m1", reason="known")), NOW + 6)
    assert steps(decide(policy, NOW + 7, member(7))) == [("throttle", 1)]


def test_a_renewal_is_no_offence() -> None:
    policy = Policy(PolicySettings())
    decide(policy, NOW, verdict())
    now = NOW
    for _ in range(5):
        now += 0.9 * HOUR
        (again,) = decide(policy, now, verdict())
        assert again.expires_at == now + HOUR


def test_a_standing_that_decayed_to_nothing_is_forgotten() -> None:
    policy = Policy(PolicySettings())
    decide(policy, NOW, verdict(BLOCK))
    # Throttle 1 for an hour, an hour of probation, then observe for a day.
    gone = NOW + 2 * HOUR + 86_400.0
    assert policy.expire(NOW + HOUR) == [("account", "a")]
    assert policy.expire(NOW + 2 * HOUR) == []
    assert policy.next_due() == gone
    assert policy.expire(gone) == []
    assert policy.next_due() == math.inf
    assert policy.export()["standings"] == []


def test_the_ceiling_is_never_passed() -> None:
    policy = Policy(PolicySettings(ceiling="throttle"))
    climbed = [
        d
        for block in range(1, 9)
        for d in decide(policy, NOW + block, verdict(BLOCK, n_events=32 * block))
    ]
    assert steps(climbed) == [("throttle", 1), ("throttle", 2)]


def test_a_ladder_without_enforcement_only_observes() -> None:
    policy = Policy(PolicySettings(ceiling="observe"))
    assert steps(decide(policy, NOW, verdict(BLOCK))) == [("observe", 1)]


def test_a_throttle_says_what_may_still_be_sent() -> None:
    policy = Policy(PolicySettings())
    (first,) = decide(policy, NOW, verdict(BLOCK))
    assert first.params == {"rate_per_min": 6.0, "burst": 3, "bucket": "account:a"}
    (second,) = decide(policy, NOW + 1, verdict(BLOCK, n_events=64, campaign="c-1"))
    assert second.params == {"rate_per_min": 3.0, "burst": 1, "bucket": "campaign:c-1"}


def test_poison_keeps_the_throttle_a_challenge_has_a_difficulty_and_block_nothing() -> None:
    policy = Policy(PolicySettings())
    params = {}
    for block in range(1, 6):
        for d in decide(policy, NOW + block, verdict(BLOCK, n_events=32 * block)):
            params[d.action] = d.params
    assert params["poison"] == {"rate_per_min": 3.0, "burst": 1, "bucket": "account:a"}
    assert params["challenge"] == {"difficulty": 4}  # .3 / .03 is over 2 ** 3
    assert params["block"] == {}


def test_a_decision_carries_what_it_rests_on() -> None:
    (d,) = decide(Policy(PolicySettings(), generation=3), NOW, verdict(n_events=40))
    assert d.version == 3 << 32 | 1
    assert (d.issued_at, d.expires_at, d.n_events) == (NOW, NOW + HOUR, 40)
    assert (d.scorer, d.baseline, d.reason, d.mode) == ("s1", "b1", REASON, "shadow")
    assert d.evidence is not None
    assert d.evidence.e_value == 1000.0


def test_an_id_says_the_same_decision_again_in_another_generation() -> None:
    (a,) = decide(Policy(PolicySettings(), generation=1), NOW, verdict())
    (b,) = decide(Policy(PolicySettings(), generation=2), NOW, verdict())
    (other,) = decide(Policy(PolicySettings()), NOW + 1, verdict())
    assert a.id == b.id != other.id
    assert b.version > a.version


def test_a_clear_ends_the_decision_and_gives_grace() -> None:
    policy = Policy(PolicySettings(grace_after_clear_s=100.0))
    (before,) = decide(policy, NOW, verdict())
    command = Clear(**said(scope="account", value="a", reason="known customer"))
    (cleared,) = policy.feedback(command, NOW + 1)
    assert (cleared.action, cleared.level, cleared.expires_at) == ("clear", 0, before.expires_at)
    assert cleared.version > before.version
    assert cleared.reason == Reason(code="cleared", text="ann: known customer")
    assert policy.feedback(command, NOW + 1) == []
    assert decide(policy, NOW + 100, verdict(BLOCK, n_events=640)) == []
    assert steps(decide(policy, NOW + 101, verdict(BLOCK, n_events=640))) == [("throttle", 1)]


def test_a_clear_may_bring_its_own_grace() -> None:
    policy = Policy(PolicySettings())
    policy.feedback(Clear(**said(scope="account", value="a", reason="", grace_s=10.0)), NOW)
    assert decide(policy, NOW + 9, verdict()) == []
    assert steps(decide(policy, NOW + 10, verdict())) == [("throttle", 1)]


def test_a_clear_in_shadow_stays_in_shadow_after_the_mode_changed() -> None:
    policy = Policy(PolicySettings())
    decide(policy, NOW, verdict())
    policy.feedback(SetMode(**said(mode="enforce")), NOW)
    (cleared,) = policy.feedback(Clear(**said(scope="account", value="a", reason="")), NOW + 1)
    assert cleared.mode == "shadow"


IDENTITY = {"api_key": "sha256:k", "org": "org-1", "ip": "192.0.2.9"}


@pytest.mark.parametrize(
    ("scope", "value"),
    [
        ("account", "a"),
        ("api_key", "sha256:k"),
        ("org", "org-1"),
        ("ip", "192.0.2.9"),
        ("cidr", "192.0.2.0/24"),
    ],
)
def test_an_allowlist_entry_clears_and_protects_every_identity_it_covers(
    scope: str, value: str
) -> None:
    policy = Policy(PolicySettings())
    decide(policy, NOW, verdict(identity=IDENTITY), verdict(value="b"))
    cleared = policy.feedback(Allow(**said(scope=scope, value=value, reason="partner")), NOW + 1)
    assert [(d.value, d.action) for d in cleared] == [("a", "clear")]
    assert decide(policy, NOW + 2, verdict(BLOCK, identity=IDENTITY, n_events=640)) == []
    policy.feedback(Disallow(**said(scope=scope, value=value)), NOW + 3)
    again = decide(policy, NOW + 4, verdict(BLOCK, identity=IDENTITY, n_events=640))
    assert steps(again) == [("throttle", 1)]


def test_an_allowlist_entry_ends() -> None:
    policy = Policy(PolicySettings())
    entry = Allow(**said(scope="account", value="a", reason="", expires_at=NOW + 10))
    policy.feedback(entry, NOW)
    assert decide(policy, NOW + 9, verdict()) == []
    assert [e.value for e in policy.allowed(NOW + 9)] == ["a"]
    assert steps(decide(policy, NOW + 10, verdict())) == [("throttle", 1)]


def test_the_mode_is_stamped_and_a_change_is_issued_with_the_next_fresh_verdict() -> None:
    policy = Policy(PolicySettings())
    assert decide(policy, NOW, verdict())[0].mode == "shadow"
    assert policy.feedback(SetMode(**said(mode="enforce")), NOW + 1) == []
    (again,) = decide(policy, NOW + 2, verdict())
    assert (again.action, again.level, again.mode) == ("throttle", 1, "enforce")
    policy.feedback(SetMode(**said(mode="off")), NOW + 3)
    assert decide(policy, NOW + 4, verdict())[0].mode == "shadow"
    assert policy.mode == "off"


@pytest.mark.parametrize(
    "ladder",
    [
        (),
        (
            RungSettings(action="block", false_per_1000_week=1.0),
            RungSettings(action="throttle", false_per_1000_week=0.5),
        ),
        (
            RungSettings(action="throttle", false_per_1000_week=1.0),
            RungSettings(action="throttle", false_per_1000_week=0.5),
        ),
        (
            RungSettings(action="throttle", false_per_1000_week=1.0),
            RungSettings(action="block", false_per_1000_week=1.0),
        ),
    ],
)
def test_a_ladder_that_does_not_climb_is_refused(ladder: tuple[RungSettings, ...]) -> None:
    with pytest.raises(ValueError, match="ladder"):
        PolicySettings(ladder=ladder)


# Random histories: ticks of verdicts, commands between them, time jumps of up to two days.
VERDICTS = st.builds(
    verdict,
    st.sampled_from([math.inf, 5.0, 1.0, 0.4, 0.2, 0.05, 0.001]),
    value=st.sampled_from(["a", "b", "c"]),
    evidence=st.floats(0, 9),
    n_events=st.integers(8, 400),
    fresh=st.booleans(),
    campaign=st.sampled_from([None, "c-1"]),
    identity=st.sampled_from([{}, {"org": "org-1"}]),
)
COMMANDS = st.one_of(
    st.builds(
        Allow,
        **{k: st.just(v) for k, v in said(scope="org", value="org-1", reason="").items()},
        expires_at=st.sampled_from([None, NOW + 4000.0]),
    ),
    st.builds(
        Allow, **{k: st.just(v) for k, v in said(scope="account", value="a", reason="").items()}
    ),
    st.builds(Disallow, **{k: st.just(v) for k, v in said(scope="account", value="a").items()}),
    st.builds(
        Clear,
        **{k: st.just(v) for k, v in said(scope="account", value="b", reason="").items()},
        grace_s=st.sampled_from([None, 0.0, 900.0]),
    ),
    st.builds(
        SetMode,
        **{k: st.just(v) for k, v in said().items()},
        mode=st.sampled_from(["enforce", "shadow", "off"]),
    ),
)
TICKS = st.lists(
    st.tuples(
        st.sampled_from([0.2, 1.0, 600.0, 1801.0, 3600.0, 90_000.0]),
        st.lists(COMMANDS, max_size=1),
        st.lists(VERDICTS, max_size=4),
    ),
    max_size=25,
)
History = list[tuple[float, list[Feedback], list[Verdict]]]


def run(
    history: History, *, restore_at: int | None = None, expire_every: int = 1
) -> list[list[Decision]]:
    policy = Policy(PolicySettings())
    now = NOW
    out = []
    for i, (dt, commands, verdicts) in enumerate(history):
        if i == restore_at:
            packed = msgspec.msgpack.encode(policy.export())
            policy = Policy.restore(PolicySettings(), msgspec.msgpack.decode(packed))
        now += dt
        if i % expire_every == 0:
            policy.expire(now)
        issued = [d for command in commands for d in policy.feedback(command, now)]
        out.append(issued + decide(policy, now, *verdicts))
    return out


@given(TICKS, st.integers(0, 24))
@settings(max_examples=200, deadline=None)
def test_export_and_restore_in_the_middle_change_nothing(history: History, at: int) -> None:
    assert run(history, restore_at=at) == run(history)


@given(TICKS, st.integers(2, 30))
@settings(max_examples=200, deadline=None)
def test_when_memory_is_freed_changes_nothing(history: History, every: int) -> None:
    assert run(history, expire_every=every) == run(history)


@given(TICKS)
@settings(max_examples=200, deadline=None)
def test_versions_grow_and_no_decision_climbs_more_than_one_rung(history: History) -> None:
    ladder = [(r.action, r.level) for r in PolicySettings().ladder]
    versions: list[int] = []
    at: dict[str, int] = {}  # of accounts, and of the campaign
    now = NOW
    for (dt, _, _), decisions in zip(history, run(history), strict=True):
        now += dt
        for d in decisions:
            versions.append(d.version)
            assert d.issued_at == now < d.expires_at or d.action == "clear"
            if d.action == "clear":
                at.pop(d.value, None)
                continue
            rung = ladder.index((d.action, d.level))
            of_campaign = at.get("c-1", 0) if d.campaign else 0
            assert rung <= max(at.get(d.value, 0), of_campaign) + 1
            at[d.value] = rung
            if d.campaign:
                at["c-1"] = max(at.get("c-1", 0), rung)
    assert versions == sorted(set(versions))


@given(TICKS)
@settings(max_examples=200, deadline=None)
def test_nobody_allowed_is_decided_against(history: History) -> None:
    now = NOW
    orgs_until, a_allowed = -math.inf, False
    for (dt, commands, verdicts), decisions in zip(history, run(history), strict=True):
        now += dt
        for command in commands:
            if isinstance(command, Allow) and command.scope == "org":
                ends = math.inf if command.expires_at is None else command.expires_at
                orgs_until = ends if ends > now else orgs_until
            elif isinstance(command, Allow | Disallow):
                a_allowed = isinstance(command, Allow)
        protected = {"a"} if a_allowed else set()
        if orgs_until > now:
            in_org = {v.value for v in verdicts if v.identity}
            protected |= in_org - {v.value for v in verdicts if not v.identity}
        hit = {d.value for d in decisions if is_enforcement(d.action) or d.action == "observe"}
        assert not hit & protected


def test_a_restored_policy_of_a_later_generation_beats_the_one_it_replaces() -> None:
    first = Policy(PolicySettings(), generation=1)
    for i in range(5):
        decide(first, NOW + i, verdict(value=f"x{i}"))
    second = Policy.restore(PolicySettings(), first.export(), generation=2)
    (late,) = decide(first, NOW + 9, verdict(value="y"))
    (newer,) = decide(second, NOW + 9, verdict(value="y"))
    assert newer.version > late.version


def test_state_of_another_format_is_refused() -> None:
    exported = Policy(PolicySettings()).export() | {"format": 99}
    with pytest.raises(ValueError, match="format 99"):
        Policy.restore(PolicySettings(), exported)


def test_actions_of_the_default_ladder_are_in_order_of_strength() -> None:
    order = [ACTIONS.index(rung.action) for rung in PolicySettings().ladder]
    assert order == sorted(order)


def test_one_number_scales_the_ladder_and_an_action_may_have_its_own() -> None:
    policy = PolicySettings(false_per_1000_week=2.0, false_per_1000_week_of={"throttle": 3.0})
    rates = {(rung.action, rung.level): rung.false_per_1000_week for rung in policy.rungs()}
    assert rates == pytest.approx(
        {
            ("observe", 1): 20.0,
            ("throttle", 1): 3.0,
            ("throttle", 2): 1.5,  # half of throttle 1's, as in the ladder
            ("challenge", 1): 0.6,
            ("poison", 1): 0.2,
            ("block", 1): 0.06,
        }
    )
    assert steps(decide(Policy(policy), NOW, verdict(2.9))) == [("throttle", 1)]
    assert steps(decide(Policy(policy), NOW, verdict(3.1))) == [("observe", 1)]


def test_an_action_that_would_be_reached_before_the_one_below_is_refused() -> None:
    with pytest.raises(ValueError, match="block 1 must have a smaller"):
        PolicySettings(false_per_1000_week_of={"block": 0.2})


WIDE = [rung.false_per_1000_week for rung in PolicySettings().rungs()]
TIGHT = [OBSERVE, 0.05, 0.05, 0.05, 0.05, BLOCK]


def held(policy: Policy, now: float, limits: list[float], *verdicts: Verdict) -> list[Decision]:
    return policy.decide(verdicts, now, scorer="s1", baseline="b1", limits=limits)


def test_a_tighter_limit_holds_back_and_a_wider_one_releases() -> None:
    policy = Policy(PolicySettings())
    assert steps(held(policy, NOW, TIGHT, verdict(0.5))) == [("observe", 1)]
    assert held(policy, NOW + 1, TIGHT, verdict(0.5)) == []
    # The same evidence, without a new request: what held it back has gone.
    assert policy.would_issue(verdict(0.5), NOW + 2, WIDE)
    assert steps(held(policy, NOW + 2, WIDE, verdict(0.5))) == [("throttle", 1)]
    assert held(policy, NOW + 3, WIDE, verdict(0.5)) == []


def test_a_tighter_limit_takes_nobody_down() -> None:
    policy = Policy(PolicySettings())
    decide(policy, NOW, verdict(0.5))
    decide(policy, NOW + 1, verdict(0.5, evidence=6.0))
    later = NOW + 1 + HOUR / 2
    assert steps(held(policy, later, TIGHT, verdict(0.5, evidence=6.0))) == [("throttle", 2)]
    # And after a silence in which the decision ended, up to where it was.
    back = later + 2 * HOUR + 1  # past the probation
    assert steps(held(policy, back, TIGHT, verdict(0.5, evidence=7.0))) == [("throttle", 2)]
    # But no further: that is new harm.
    assert steps(held(policy, back + 1, TIGHT, verdict(0.2, evidence=8.0))) == []
    assert steps(held(policy, back + 2, WIDE, verdict(0.2, evidence=8.0))) == [("challenge", 1)]


def test_a_challenge_renewed_on_stronger_evidence_is_harder() -> None:
    policy = Policy(PolicySettings(ceiling="challenge"))
    asked = []
    for block, evidence in enumerate((CHALLENGE, CHALLENGE, CHALLENGE, CHALLENGE / 4), start=1):
        now = NOW + block * HOUR / 2
        asked += decide(policy, now, verdict(evidence, n_events=32 * block))
    challenges = [d for d in asked if d.action == "challenge"]
    assert [d.params for d in challenges] == [{"difficulty": 1}, {"difficulty": 3}]
