"""Campaigns are drawn as the benchmark says, and their traffic is what they say they do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.detection import harvesters
from benchmarks.detection.arrivals import DAY
from benchmarks.detection.built_in import built_in
from benchmarks.detection.harvesters import ASSIGNMENTS, FAMILIES, SIZES, TIMINGS, Campaign
from benchmarks.detection.material import Material
from benchmarks.detection.sources import load
from tests.benchmarks.tiny_sources import write_sources


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder: Path = tmp_path_factory.mktemp("sources")
    write_sources(folder)
    return Material(load(folder, "train"), np.random.default_rng(0))


@pytest.fixture(scope="module")
def many() -> list[Campaign]:
    """Some thousand campaigns of any size."""
    rng = np.random.default_rng(1)
    return [c for _ in range(60) for c in harvesters.campaigns(rng, 2600, tuple(FAMILIES), 0.9)]


def test_a_campaign_of_each_size_family_timing_and_assignment_is_drawn(
    many: list[Campaign],
) -> None:
    assert {c.size for c in many} == set(SIZES) == {1, 10, 50, 200, 1000}
    assert {c.family for c in many} == set(FAMILIES)
    assert {c.timing for c in many} == set(TIMINGS)
    assert {c.assignment for c in many} == set(ASSIGNMENTS)


def test_a_campaign_has_about_the_accounts_that_it_is_named_for(many: list[Campaign]) -> None:
    for campaign in many:
        assert 0.7 * campaign.size <= campaign.accounts <= 1.2 * campaign.size


def test_a_thousand_accounts_send_60_to_120_requests_each(many: list[Campaign]) -> None:
    requests = [c.requests for c in many if c.size == 1000]
    assert requests
    assert min(requests) >= 60
    assert max(requests) <= 120


def test_a_thousand_accounts_are_drawn_only_where_there_are_enough() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        drawn = harvesters.campaigns(rng, 600, tuple(FAMILIES), 0.9)
        assert max(c.size for c in drawn) <= 200
        assert sum(c.accounts for c in drawn) == 600


def test_too_few_accounts_for_the_sizes_asked_for_are_refused() -> None:
    with pytest.raises(ValueError, match="600 accounts are too few for campaigns of 1000"):
        harvesters.campaigns(np.random.default_rng(0), 600, ("wiki",), 0.9, (1000,))


def test_four_in_ten_campaigns_have_cover_most_of_them_less_than_half(
    many: list[Campaign],
) -> None:
    cover = np.array([c.cover for c in many])
    assert float((cover > 0).mean()) == pytest.approx(0.4, abs=0.05)
    assert float((cover[cover > 0] <= 0.5).mean()) == pytest.approx(0.75, abs=0.07)
    assert 0.85 < float(cover.max()) <= 0.9


def test_some_campaigns_share_no_identity_some_a_part_of_it(many: list[Campaign]) -> None:
    assert any(not c.shared for c in many)
    for hint in ("payment", "network", "client"):
        shares = [c.shared[hint] for c in many if hint in c.shared]
        assert 0.2 <= min(shares) < 0.6 < max(shares) <= 1.0


def test_campaigns_start_at_once_or_join_over_days(many: list[Campaign]) -> None:
    joining = {c.joining for c in many if c.size > 1}
    assert 0.0 in joining
    assert max(joining) == 5 * DAY


@pytest.fixture
def campaign(many: list[Campaign]) -> Campaign:
    return replace(
        many[0],
        family="word_salad",
        size=10,
        accounts=8,
        requests=100,
        timing="poisson",
        joining=0.0,
        cover=0.0,
        length_matched=False,
        low_and_slow=False,
    )


@pytest.mark.parametrize("share", [0.3, 0.85])
def test_cover_is_the_share_of_requests_that_it_says(
    material: Material, campaign: Campaign, share: float
) -> None:
    # Nobody else's message is word salad, and no word of it is in a person's message as a whole.
    rng = np.random.default_rng(3)
    bare = {text for p in material.their_people for text in p.texts} | set(material.their_lines)
    traffic = harvesters.harvest(material, rng, replace(campaign, cover=share), [])
    sent = [text for one in traffic for text in one.texts]
    covered = sum(text in bare for text in sent)
    assert covered / len(sent) == pytest.approx(share, abs=0.05)


def test_low_and_slow_is_at_most_twenty_requests_a_day_for_most_of_a_week(
    material: Material, many: list[Campaign]
) -> None:
    slow = [c for c in many if c.low_and_slow]
    assert len(slow) / len(many) == pytest.approx(0.1, abs=0.04)
    for timing in ("fixed", "poisson"):
        one = replace(slow[0], accounts=5, timing=timing, length_matched=False)
        for traffic in harvesters.harvest(material, np.random.default_rng(4), one, []):
            assert 4 < float(np.ptp(traffic.times)) / DAY < 7
            assert len(traffic.times) / 7 < 25


def test_length_matched_texts_are_as_long_as_a_customers(
    material: Material, campaign: Campaign
) -> None:
    wanted = np.random.default_rng(5).integers(200, 400, 500)
    matched = harvesters.harvest(
        material, np.random.default_rng(6), replace(campaign, length_matched=True), [wanted]
    )
    sizes = np.array([len(text) for one in matched for text in one.texts])
    assert 150 < float(np.median(sizes)) < 600


def test_requests_stay_whole_when_lengths_are_matched(
    material: Material, campaign: Campaign
) -> None:
    short = np.full(500, 30)
    one = replace(campaign, family="chain_of_thought", requests=40, accounts=3)
    rng = np.random.default_rng(8)
    matched = harvesters.harvest(material, rng, replace(one, length_matched=True), [short])
    plain = harvesters.harvest(material, np.random.default_rng(8), one, [])
    phrases = tuple(phrase.lower() for phrase in material.phrases.elicit)
    sizes = {}
    for name, traffic in (("matched", matched), ("plain", plain)):
        texts = [text.lower() for account in traffic for text in account.texts]
        assert all(any(phrase in text for phrase in phrases) for text in texts)
        sizes[name] = float(np.median([len(text) for text in texts]))
    # The shortest of what there is to choose from.
    assert sizes["matched"] < sizes["plain"]


def test_topics_stay_with_an_account_when_sharded_by_topic(
    material: Material, campaign: Campaign
) -> None:
    titles = sorted(material.sources.articles)
    words = [set(" ".join(material.sources.articles[t]).split()) for t in titles]

    def topic(text: str) -> int:
        return max(range(len(words)), key=lambda t: len(words[t] & set(text.split())))

    def spread(assignment: str) -> float:
        """Topics of an account, mean over accounts."""
        one = replace(campaign, family="wiki", assignment=assignment, accounts=3)
        traffic = harvesters.harvest(material, np.random.default_rng(7), one, [])
        return float(np.mean([len({topic(text) for text in of.texts}) for of in traffic]))

    assert spread("topic") < spread("random")


def test_instructions_are_of_one_kind_or_of_all_and_never_of_one_cluster(
    material: Material,
) -> None:
    kinds = {"code": 0, "tools": 0, "public": 0}
    sources = replace(
        material.sources,
        instructions={
            f"{kind}:{i}": [f"{kind} {i} {k}" for k in range(9)] for kind in kinds for i in range(4)
        },
    )
    mixed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        texts, _ = FAMILIES["instructions"](Material(sources, rng), rng, 300)
        sent = {text.split()[0] for text in texts} & kinds.keys()
        mixed += len(sent) > 1
        for kind in sent:
            kinds[kind] += len(sent) == 1
            own = {text.split()[1] for text in texts if text.startswith(kind)}
            assert len(own & set("0123")) == 4
    assert mixed > 5
    assert min(kinds.values()) > 2


def test_instructions_without_kinds_are_mixed() -> None:
    sources = built_in("train", False)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        _, topics = FAMILIES["instructions"](Material(sources, rng), rng, 1000)
        assert len(set(topics.tolist())) > 10
