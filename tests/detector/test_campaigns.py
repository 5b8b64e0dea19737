"""Campaigns: who is joined, under which name, and that a restart changes neither."""

from __future__ import annotations

import re
from random import Random

import msgspec
import pytest

from detector.campaigns import Campaigns

KEY = b"key"


def members(campaigns: Campaigns) -> list[list[str]]:
    return list(campaigns.all().values())


def test_three_who_share_a_link_are_a_campaign_and_two_are_not() -> None:
    campaigns = Campaigns(KEY)
    campaigns.watch("a", ["card:1"], ())
    campaigns.watch("b", ["card:1"], ())
    assert campaigns.all() == {}
    assert campaigns.of("a") is None
    campaigns.watch("c", ["card:1"], ())
    assert members(campaigns) == [["a", "b", "c"]]
    assert campaigns.of("a") == campaigns.of("c") == next(iter(campaigns.all()))


def test_links_and_likeness_join_across() -> None:
    campaigns = Campaigns(KEY)
    campaigns.watch("a", ["card:1"], ())
    campaigns.watch("b", ["card:1", "net:1"], ())
    campaigns.watch("c", ["net:1"], ())
    campaigns.watch("d", (), ["c"])
    campaigns.watch("e", ["net:2"], ())
    assert members(campaigns) == [["a", "b", "c", "d"]]
    assert campaigns.of("e") is None


def test_who_is_not_watched_joins_nobody() -> None:
    campaigns = Campaigns(KEY)
    campaigns.watch("a", (), ["customer"])
    campaigns.watch("b", (), ["customer", "a"])
    assert campaigns.of("customer") is None
    assert campaigns.all() == {}


def test_a_later_link_joins_whole_groups_and_the_older_name_stays() -> None:
    campaigns = Campaigns(KEY)
    for account, card in (("a", 1), ("x", 2), ("b", 1), ("y", 2), ("c", 1), ("z", 2), ("w", 2)):
        campaigns.watch(account, [f"card:{card}"], ())
    older, newer = campaigns.of("a"), campaigns.of("x")
    assert older != newer
    campaigns.watch("y", ["card:1"], ())  # the younger group is the larger
    assert campaigns.of("z") == campaigns.of("c") == older
    assert members(campaigns) == [["a", "x", "b", "y", "c", "z", "w"]]


def test_a_name_says_nothing_without_the_key() -> None:
    names = set()
    for key in (KEY, b"another"):
        campaigns = Campaigns(key)
        for account in "abc":
            campaigns.watch(account, ["card:1"], ())
        names |= set(campaigns.all())
    assert len(names) == 2
    assert all(re.fullmatch("c-[0-9a-f]{24}", name) for name in names)


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_the_connected_ones_whatever_the_order_of_links(seed: int) -> None:
    rng = Random(seed)
    links = [(f"a{rng.randrange(40)}", f"card:{rng.randrange(25)}") for _ in range(45)]
    groups: list[set[str]] = []
    for node, key in links:
        touching = [g for g in groups if node in g or key in g]
        groups = [g for g in groups if g not in touching] + [{node, key}.union(*touching)]
    expected = {
        frozenset(accounts)
        for g in groups
        if len(accounts := [n for n in g if not n.startswith("card")]) >= 3
    }
    for _ in range(3):
        campaigns = Campaigns(KEY)
        for account, key in links:
            campaigns.watch(account, [key], ())
        assert {frozenset(m) for m in members(campaigns)} == expected
        rng.shuffle(links)


def test_a_restored_one_goes_on_the_same() -> None:
    rng = Random(3)
    steps = [(f"a{rng.randrange(30)}", [f"card:{rng.randrange(15)}"]) for _ in range(60)]
    straight, resumed = Campaigns(KEY), Campaigns(KEY)
    for account, keys in steps[:30]:
        straight.watch(account, keys, ())
        resumed.watch(account, keys, ())
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(resumed.export()))
    resumed = Campaigns(KEY)
    resumed.restore(stored)
    assert resumed.all() == straight.all()
    for account, keys in steps[30:]:
        straight.watch(account, keys, ())
        resumed.watch(account, keys, ())
        assert resumed.of(account) == straight.of(account)
    assert resumed.all() == straight.all()
