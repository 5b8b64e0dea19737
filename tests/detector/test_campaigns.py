"""Campaigns: who is joined, under which name, for how long, and that a restart changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import permutations
from random import Random
from typing import Any

import numpy as np
import pytest

from detector.blocks import Identity
from detector.campaigns import PLANES, Campaigns, Change, client_keys
from detector.judge import Judge
from detector.settings import MeasureSettings, Settings
from detector.state import StateMismatch, pack, unpack
from tests.detector.small_models import START, models, sketch, text_block

KEY = b"key"
NOW = 1_800_000_000.0
HOUR = 3600.0
WEEK = 168 * HOUR


def card(number: int) -> str:
    return f"link:payment:{number}"


def head(number: int) -> str:
    return f"head:{number}"


def net(number: int) -> str:
    return f"net:10.0.{number}.0"


def links(*keys: str, held_by: int = 1) -> dict[str, int | None]:
    """Links that so many accounts hold."""
    return dict.fromkeys(keys, held_by)


def fed(*steps: tuple[str, Sequence[str]], held_by: int = 1) -> Campaigns:
    campaigns = Campaigns(KEY)
    campaigns.advance(NOW)
    for account, keys in steps:
        campaigns.watch(account, links(*keys, held_by=held_by), time=NOW)
    return campaigns


def groups(campaigns: Campaigns) -> list[list[str]]:
    return sorted(campaigns.all().values())


def kinds(changes: Iterable[Change]) -> list[str]:
    return [change.kind for change in changes]


# Who is joined


def test_three_who_share_a_card_are_a_campaign_and_two_are_not() -> None:
    campaigns = fed(("a", [card(1)]), ("b", [card(1)]))
    assert campaigns.all() == {}
    assert campaigns.of("a") is None
    campaigns.watch("c", links(card(1)), time=NOW)
    assert groups(campaigns) == [["a", "b", "c"]]
    assert campaigns.of("a") == campaigns.of("c") == next(iter(campaigns.all()))
    assert campaigns.of("nobody") is None


def test_a_link_that_ordinary_customers_hold_too_joins_nobody() -> None:
    shared = [(name, [head(1)]) for name in "abcdef"]
    assert groups(fed(*shared)) == [[*"abcdef"]]
    # Fifty customers use the template, whom nobody watches: thieves copied it from them.
    assert groups(fed(*shared, held_by=56)) == []
    # However many thieves use it, it stays theirs.
    crowd = [(f"t{i:02}", [head(1)]) for i in range(56)]
    assert len(groups(fed(*crowd, held_by=56))[0]) == 56


def test_common_links_add_up() -> None:
    both = [(name, [head(1), net(1)]) for name in "abc"]
    assert groups(fed(*both, held_by=15)) == [["a", "b", "c"]]
    for one in (head(1), net(1)):
        assert groups(fed(*[(name, [one]) for name in "abc"], held_by=15)) == []


def test_the_same_program_alone_joins_nobody() -> None:
    client = client_keys(Identity(ja4="t13d", user_agent="curl/8"))
    assert groups(fed(*[(name, client) for name in "abcdef"])) == []
    assert client_keys(Identity()) == []
    assert client_keys(Identity(ja4="x")) != client_keys(Identity(user_agent="x"))


def test_inputs_that_are_alike_join() -> None:
    campaigns = Campaigns(KEY)
    campaigns.watch("a", {}, time=NOW)
    campaigns.watch("b", {}, [("a", 0.95)], time=NOW)
    campaigns.watch("c", {}, [("a", 0.95), ("b", 0.95)], time=NOW)
    assert groups(campaigns) == [["a", "b", "c"]]
    campaigns.watch("d", {}, [("a", 0.6), ("b", 0.6), ("c", 0.6)], time=NOW)
    assert campaigns.of("d") is None  # a third of the way to being alike in full
    campaigns.watch("e", {}, [("a", 0.95), ("customer", 0.95), ("other", 0.95)], time=NOW)
    assert campaigns.of("e") is None  # alike to one member, and to accounts that nobody watches
    assert campaigns.of("customer") is None


def test_a_chain_of_cards_is_no_campaign() -> None:
    """Union by any shared key would join all ten."""
    chain = [(f"a{i}", [card(i), card(i + 1)]) for i in range(10)]
    assert groups(fed(*chain)) == []


def test_one_account_between_two_campaigns_does_not_join_them() -> None:
    one = [(f"a{i}", [card(1), head(1)]) for i in range(5)]
    two = [(f"b{i}", [card(2), head(2)]) for i in range(5)]
    campaigns = fed(*one, *two, ("between", [card(1), card(2)]))
    campaigns.advance(NOW + HOUR)
    assert [len(g) for g in groups(campaigns)] == [6, 5]


def test_a_thief_s_camouflage_brings_no_customer_in() -> None:
    """Thieves put a watched customer's links on top of their own."""
    thieves = [(f"t{i}", [card(1), head(1), head(7), net(7)]) for i in range(8)]
    campaigns = Campaigns(KEY)
    campaigns.watch("customer", links(card(9)) | links(head(7), net(7), held_by=60), time=NOW)
    for name, keys in thieves:
        own = links(*keys[:2], held_by=8) | links(*keys[2:], held_by=60)
        campaigns.watch(name, own, time=NOW)
    assert groups(campaigns) == [[f"t{i}" for i in range(8)]]


def test_rising_and_falling_together_tips_what_is_nearly_linked() -> None:
    def watched(seeds: Sequence[int]) -> Campaigns:
        campaigns = Campaigns(KEY)
        rng = np.random.default_rng(0)
        loads = {seed: np.random.default_rng(seed).gamma(0.3, 60.0, 60) for seed in {*seeds}}
        for hour in range(60):
            time = NOW + HOUR * hour
            campaigns.passed(time, 5000)
            campaigns.advance(time)
            for number, seed in enumerate(seeds):
                events = int(rng.poisson(loads[seed][hour]))
                campaigns.watch(
                    f"a{number}", links(net(1), held_by=10), time=time + number, events=events
                )
        return campaigns

    assert groups(watched([1, 2, 3, 4])) == []
    together = watched([1, 1, 1, 1])
    assert groups(together) == [["a0", "a1", "a2", "a3"]]
    tied = {link.plane: link for link in together.links("a2")}
    assert set(tied) == {"network", "rate"}
    assert 0.5 * PLANES["rate"] < tied["rate"].weight <= PLANES["rate"]


def test_what_ties_an_account_is_told_by_plane() -> None:
    campaigns = fed(*[(f"a{i}", [card(1), head(1)]) for i in range(4)])
    campaigns.watch("a4", links(card(1)), [("a0", 0.9), ("a1", 0.9), ("a2", 0.9)], time=NOW)
    told = campaigns.links("a4")
    assert [(link.plane, link.members) for link in told] == [("payment", 4), ("sketch", 3)]
    assert sum(link.weight for link in told) == pytest.approx(1.8)
    assert campaigns.links("nobody") == []


# With the judge


@pytest.mark.parametrize("planted", [2, 6])
def test_planted_look_alikes_stay_free_and_out_of_the_campaign(planted: int) -> None:
    """A tenth, and three tenths, of a group are customers whose every link thieves copied."""
    judge = Judge(Settings(measure=MeasureSettings(partitions=1)), models=models())
    shared: dict[str, Any] = {
        "identity": Identity(
            ip="203.0.113.9", ja4="t13d", user_agent="curl/8", links={"payment": "p", "device": "d"}
        ),
        "heads": ((7, 32, 32),),
        "sketch": sketch(1),
    }
    thieves = [f"thief-{i}" for i in range(20 - planted)]
    customers = [f"customer-{i}" for i in range(planted)]
    seq = 0
    decided = set()
    changes: list[Change] = []
    for index in range(6):
        for number, name in enumerate([*customers, *thieves]):
            score = -1.0 if name in customers else 6.0
            at = 600.0 * index + 10.0 * number
            block = text_block(name, at, score=score, index=index, seq=seq, **shared)
            judge.blocks(0, [block], START + at)
            judgement = judge.advance()
            decided |= {(d.value, d.campaign) for d in judgement.decisions}
            changes += judgement.campaigns
            seq += 1
    judge.end(0)
    judgement = judge.advance()
    decided |= {(d.value, d.campaign) for d in judgement.decisions}
    assert {value for value, _ in decided} == {*thieves}
    ((name, members),) = judge.campaigns.all().items()
    assert {*members} == {*thieves}
    assert {campaign for _, campaign in decided} == {None, name}  # two were alone at first
    assert kinds(changes)[:2] == ["born", "grew"]
    assert {link.plane for link in judge.campaigns.links("thief-3")} >= {"payment", "template"}


# The life of a campaign


def test_a_campaign_is_born_and_tells_when_it_doubles() -> None:
    campaigns = fed()
    told: list[Change] = []
    for number in range(13):
        campaigns.watch(f"a{number}", links(card(1)), time=NOW + number)
        told += campaigns.advance(NOW + number)
    assert [(c.kind, c.members) for c in told] == [("born", 3), ("grew", 6), ("grew", 12)]
    (name,) = campaigns.all()
    assert {c.campaign for c in told} == {name}
    assert campaigns.history(name) == told


def test_campaigns_that_prove_to_be_one_merge_into_the_older() -> None:
    campaigns = fed(*[(f"a{i}", [card(1)]) for i in range(3)])
    for i in range(6):
        campaigns.watch(f"b{i}", links(card(2)), time=NOW)
    older, younger = campaigns.of("a0"), campaigns.of("b0")
    assert older
    assert younger
    assert older != younger
    campaigns.advance(NOW)
    for name in ("a0", "a1", "a2", "b0", "b1", "b2", "b3"):
        campaigns.watch(name, links(head(5)), time=NOW)
    (merged,) = campaigns.advance(NOW + HOUR)[:1]
    assert merged == Change("merged", older, NOW + HOUR, 9, (younger,))
    assert campaigns.of("b5") == older
    assert campaigns.history(younger)[-2:] == campaigns.history(older)[-2:]


def test_a_campaign_whose_common_link_becomes_ordinary_splits() -> None:
    campaigns = fed(*[(f"a{i}", [head(1), card(1)]) for i in range(3)])
    for i in range(5):
        campaigns.watch(f"b{i}", links(head(1), card(2)), time=NOW)
    (name,) = campaigns.all()
    assert len(campaigns.all()[name]) == 8
    campaigns.advance(NOW)
    campaigns.watch("a0", links(head(1), held_by=10_000), time=NOW)
    told = campaigns.advance(NOW + HOUR)
    # The larger part keeps the name, though the first member is in the other.
    assert campaigns.of("b0") == name
    other = campaigns.of("a0")
    assert other not in (None, name)
    assert [(c.kind, c.campaign, c.members, c.others) for c in told] == [
        ("born", other, 3, ()),
        ("split", name, 5, (other,)),
    ]


def test_who_has_nothing_in_common_any_more_leaves() -> None:
    campaigns = fed(*[(f"a{i}", [card(1)]) for i in range(4)], ("b", [head(1)]))
    for name in ("a0", "a1", "a2"):
        campaigns.watch(name, links(head(1)), time=NOW)
    campaigns.watch("b", links(head(1)), time=NOW)
    assert campaigns.of("b") == campaigns.of("a3")
    campaigns.watch("b", links(head(1), held_by=10_000), time=NOW)
    campaigns.advance(NOW + HOUR)
    assert groups(campaigns) == [["a0", "a1", "a2", "a3"]]


def test_a_campaign_closes_after_a_quiet_week() -> None:
    campaigns = fed(*[(name, [card(1)]) for name in "abc"])
    (name,) = campaigns.all()
    for name_of_later, at in (("a", NOW + 2 * HOUR), ("other", NOW + 3 * HOUR)):
        campaigns.watch(name_of_later, links(card(1)), time=at)
    campaigns.advance(NOW + HOUR + WEEK)
    assert campaigns.of("b") is None
    assert campaigns.all() == {}
    assert kinds(campaigns.history(name)) == []
    campaigns.advance(NOW + 4 * HOUR + WEEK)
    for member in ("a", "other", "d"):
        campaigns.watch(member, links(card(1)), time=NOW + 4 * HOUR + WEEK)
    assert [*campaigns.all()] == [name]  # the same first member begins it again


def test_closing_is_told_once() -> None:
    campaigns = fed(*[(name, [card(1)]) for name in "abc"])
    campaigns.advance(NOW)
    told = campaigns.advance(NOW + 2 * WEEK)
    assert kinds(told) == ["closed"]
    assert campaigns.advance(NOW + 3 * WEEK) == []


def test_a_name_says_nothing_without_the_key() -> None:
    names = set()
    for key in (KEY, b"another"):
        campaigns = Campaigns(key)
        for account in "abc":
            campaigns.watch(account, links(card(1)), time=NOW)
        names |= set(campaigns.all())
    assert len(names) == 2
    assert all(re.fullmatch("c-[0-9a-f]{24}", name) for name in names)


def test_whatever_the_order_the_same_are_joined() -> None:
    steps = [
        *[("a", [card(1), net(1)]), ("b", [card(1)]), ("c", [card(1), net(1)])],
        *[("d", [net(1)]), ("e", [card(2)])],
    ]
    found = set()
    for order in permutations(steps):
        campaigns = fed()
        for account, keys in order:
            held = {key: 1 if key.startswith("link:") else 20 for key in keys}
            campaigns.watch(account, held, time=NOW)
        campaigns.advance(NOW + HOUR)
        found.add(tuple(sorted(tuple(sorted(g)) for g in campaigns.all().values())))
    assert found == {(("a", "b", "c"),)}


# What is kept


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.campaigns._ACCOUNTS_KEPT", 40)
    campaigns = fed()
    for number in range(200):
        keys = links(*[card(number // 4), *(head(100 * number + i) for i in range(90))])
        campaigns.watch(f"a{number}", keys, time=NOW + number)
    assert len(campaigns.export()["accounts"]) == 50
    campaigns.advance(NOW + HOUR)
    stored = campaigns.export()
    assert [name for name, *_ in stored["accounts"]] == [f"a{i}" for i in range(10, 50)]
    assert max(len(keys) for _, _, _, _, _, keys, *_ in stored["accounts"]) == 48
    assert len(stored["common"]) <= 40 * 48
    campaigns.watch("late", links(card(0)), time=NOW + HOUR)
    assert len(campaigns.export()["accounts"]) == 41


def story(seed: int, size: int = 250) -> list[Any]:
    """Watched accounts with links that come, grow common and are forgotten, over three weeks."""
    rng = Random(seed)
    steps = []
    time = NOW
    for number in range(size):
        time += rng.choice((10.0, 600.0, 2 * HOUR, 5 * HOUR))
        who = rng.randrange(20) + 20 * (number // 90)
        keys: dict[str, int | None] = {
            rng.choice((card, head, net))(who % 9 + rng.randrange(3)): rng.choice((1, 5, 9, 500))
            for _ in range(3)
        }
        keys |= dict.fromkeys(client_keys(Identity(user_agent=str(who % 7))))
        alike = [(f"a{rng.randrange(60)}", rng.uniform(0.4, 1.0)) for _ in range(4)]
        steps.append((f"a{who}", keys, alike, time, rng.randrange(200)))
    return steps


def taken(campaigns: Campaigns, steps: Sequence[Any]) -> list[Any]:
    """What is told step by step."""
    found: list[Any] = []
    for account, keys, alike, time, events in steps:
        campaigns.passed(time, events, [key for key in keys if key.startswith("client:")])
        found.append(campaigns.advance(time))
        campaigns.watch(account, keys, alike, time=time, events=events)
        found += [campaigns.of(account), campaigns.links(account), campaigns.all()]
    return found


STORIES = {seed: story(seed) for seed in range(4)}


@pytest.fixture(scope="module")
def told() -> dict[int, list[Any]]:
    return {seed: taken(Campaigns(KEY), steps) for seed, steps in STORIES.items()}


def test_the_stories_have_everything_in_them(told: dict[int, list[Any]]) -> None:
    lists = [found for steps in told.values() for found in steps if isinstance(found, list)]
    seen = {change.kind for found in lists for change in found if isinstance(change, Change)}
    assert seen == {"born", "grew", "split", "merged", "closed"}


@pytest.mark.parametrize("seed", STORIES)
@pytest.mark.parametrize(("full", "changes"), [(0, None), (120, None), (60, 61), (40, 230)])
def test_a_restored_one_goes_on_the_same(
    told: dict[int, list[Any]], seed: int, full: int, changes: int | None
) -> None:
    steps = STORIES[seed]
    first, resumed = Campaigns(KEY), Campaigns(KEY)
    before = taken(first, steps[:full])
    parts = [first.export()]
    at = full
    if changes is not None:
        before += taken(first, steps[full:changes])
        parts.append(first.export(changes=True))
        at = changes
    for part in parts:
        resumed.restore(unpack("campaigns", 1, pack("campaigns", 1, part)))
    assert before + taken(resumed, steps[at:]) == told[seed]


def test_changes_are_fewer_than_everything() -> None:
    campaigns = Campaigns(KEY)
    steps = story(0)
    taken(campaigns, steps[:240])
    everything = campaigns.export()
    campaigns.watch(*steps[240][:3], time=NOW, events=1)
    changed = campaigns.export(changes=True)
    assert len(changed["accounts"]) < len(everything["accounts"]) / 3
    assert len(changed["common"]) < len(everything["common"])


def test_state_of_another_version_is_refused() -> None:
    stored = fed().export()
    for version in (None, 1, 3):
        with pytest.raises(StateMismatch, match="this program reads version 2"):
            Campaigns(KEY).restore({**stored, "version": version})
