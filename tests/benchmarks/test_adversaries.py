"""Each form of a campaign does what it is named for, and its labels say so."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.detection import adversaries, customers
from benchmarks.detection.adversaries import HEAD, Rotation, Wrapper
from benchmarks.detection.arrivals import DAY, WEEK
from benchmarks.detection.compose import WEEK_START, Label, Settings, compose
from benchmarks.detection.material import Material, Traffic
from benchmarks.detection.sources import load
from detector.events import Event
from tests.benchmarks.tiny_sources import write_sources

Composed = tuple[list[Event], dict[str, Label]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder)
    return folder


@pytest.fixture(scope="module")
def material(data: Path) -> Material:
    return Material(load(data, "train"), np.random.default_rng(0))


def week(data: Path, form: str, weeks: int = 1) -> Composed:
    settings = Settings(
        customers=120, thieves=0.3, max_events=9_000, most_cover=0.0, forms=(form,), weeks=weeks
    )
    return compose("train", 3, data, settings)


def by_account(events: list[Event]) -> dict[str, list[Event]]:
    grouped: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        grouped[event.account].append(event)
    return grouped


def head(events: list[Event]) -> str:
    """The commonest start of an account's texts."""
    return Counter(str(event.input)[:HEAD] for event in events).most_common(1)[0][0]


def network(event: Event) -> str:
    return str(event.ip).rpartition(".")[0]


def test_a_template_is_what_surrounds_most_of_the_texts() -> None:
    before = "You are the help desk of a shop for bicycles.\n\nCustomer: "
    texts = [f"{before}{word}\nAgent:" for word in ("lights", "brakes", "a bell", "oil")]
    assert Wrapper.of([*texts, "ping"]) == Wrapper(before, "\nAgent:")
    assert Wrapper(before, "\nAgent:").around(["oil"]) == [texts[3]]


@pytest.mark.parametrize(
    "texts",
    [
        ["short"] * 50,
        [f"{i} is the number that this text of more than forty characters has" for i in range(9)],
        ["one probe that is sent again and again by a monitor"] * 50,
    ],
    ids=["short", "all_different", "one_text"],
)
def test_without_a_template_there_is_none_to_copy(texts: list[str]) -> None:
    assert Wrapper.of(texts) is None


def test_a_rotated_budget_goes_through_accounts_in_order_until_it_is_spent() -> None:
    traffic = Traffic(np.arange(100.0), [f"text {i}" for i in range(100)])
    parts = adversaries.rotated(np.random.default_rng(0), [traffic], after=20, lives=10)
    assert [text for part in parts for text in part.texts] == traffic.texts
    assert np.concatenate([part.times for part in parts]).tolist() == traffic.times.tolist()
    for part in parts[:-1]:
        assert 10 < len(part.texts) < 35


def test_a_thief_leaves_where_he_was_measured_to_be_enforced() -> None:
    rotation = Rotation(8, 200, (("wiki x10", 31),))
    rng = np.random.default_rng(0)
    assert rotation.after(rng, "wiki x10") == 31
    drawn = [rotation.after(rng, "wiki x50") for _ in range(300)]
    assert 8 <= min(drawn) < 12
    assert 150 < max(drawn) <= 200


def test_rotated_accounts_stop_after_the_requests_that_their_campaign_says(data: Path) -> None:
    events, labels = week(data, "rotated")
    sent = Counter(event.account for event in events if event.served)
    rotated = {name: label for name, label in labels.items() if label.group.endswith("rotated")}
    assert len(rotated) > 10
    for name, label in rotated.items():
        after, lives = float(label.traits["after"]), int(label.traits["lives"])
        assert lives >= 2
        assert sent[name] <= 1.8 * after
        slots = [one for one in rotated.values() if one.campaign == label.campaign]
        assert len(slots) <= lives * 1.2 * int(label.traits["size"])


def test_a_framed_customer_shares_head_client_and_network_with_thieves(data: Path) -> None:
    events, labels = week(data, "framing")
    of = by_account(events)
    thieves = [name for name, label in labels.items() if label.harvesting]
    framed = [name for name, label in labels.items() if label.group == "framed"]
    assert framed

    def copied(thief: str, name: str) -> bool:
        return (
            labels[thief].campaign == labels[name].traits["by"]
            and head(of[thief]) == head(of[name])
            and of[thief][0].user_agent == of[name][0].user_agent
            and {network(e) for e in of[thief]} <= {network(e) for e in of[name]}
        )

    for name in framed:
        assert not labels[name].harvesting
        assert labels[name].traits["kind"] in customers.KINDS
        near = [thief for thief in thieves if copied(thief, name)]
        assert near
        for thief in near:
            assert of[thief][0].links != of[name][0].links
    # And each thief has copied a customer; two of one job may have the same template.
    for thief in thieves:
        assert any(copied(thief, name) for name in framed)


def test_look_alikes_are_a_tenth_to_three_tenths_of_those_with_the_campaigns_head(
    data: Path,
) -> None:
    events, labels = week(data, "look_alikes")
    of = by_account(events)
    innocent = [name for name, label in labels.items() if label.group == "look_alike"]
    campaigns = {str(labels[name].traits["beside"]) for name in innocent}
    assert campaigns
    for campaign in campaigns:
        members = [name for name, label in labels.items() if label.campaign == campaign]
        beside = [name for name in innocent if labels[name].traits["beside"] == campaign]
        most = max(1, round(len(members) * 0.3 / 0.7))
        assert round(len(members) * 0.1 / 0.9) <= len(beside) <= most
        assert len({head(of[name]) for name in members + beside}) == 1
        assert len({of[name][0].user_agent for name in members + beside}) == 1
        assert not any(labels[name].harvesting for name in beside)


def test_warmed_accounts_send_honest_messages_for_days_before_they_harvest(
    data: Path, material: Material
) -> None:
    events, labels = week(data, "warmed", weeks=2)
    of = by_account(events)
    said = {text for person in load(data, "train").people for text in person.texts}
    warmed = [name for name in of if labels[name].group.endswith("warmed")]
    warmed = [name for name in warmed if labels[name].traits["family"] != "natural"]
    assert warmed
    for name in warmed:
        honest = [float(e.ts) for e in of[name] if e.input in said]
        harvest = [float(e.ts) for e in of[name] if e.input not in said]
        assert max(honest) <= min(harvest)
        assert min(harvest) - min(honest) > 2 * DAY
        assert min(harvest) >= WEEK_START + WEEK


def test_customers_are_there_in_each_of_two_weeks(data: Path) -> None:
    events, labels = week(data, "warmed", weeks=2)
    of = by_account(events)
    assert float(events[-1].ts) <= WEEK_START + 2 * WEEK
    customer = [name for name in of if not labels[name].harvesting]
    both = [
        name
        for name in customer
        if {float(e.ts) < WEEK_START + WEEK for e in of[name]} == {False, True}
    ]
    assert len(both) > 0.9 * len(customer)


def test_a_poisoner_harvests_one_per_cent_more_each_day(material: Material) -> None:
    traffic = adversaries.poisoned(
        material,
        np.random.default_rng(0),
        lambda n: [f"harvest {i}" for i in range(n)],
        accounts=150,
        weeks=4,
        a_day=0.01,
    )
    times = np.concatenate([one.times for one in traffic])
    day = (times // DAY).astype(int) + 1
    turned = np.array([text.startswith("harvest ") for one in traffic for text in one.texts])
    for d in (1, 10, 20, 28):
        assert turned[day == d].mean() == pytest.approx(0.01 * d, abs=0.02)


def test_poisoners_are_a_group_of_their_own(data: Path) -> None:
    _, labels = week(data, "poisoner", weeks=2)
    assert {label.group for label in labels.values() if label.harvesting} == {"poisoner"}


def test_metadata_only_leaves_out_the_inputs_and_nothing_else(data: Path) -> None:
    settings = Settings(customers=60, thieves=0.2, max_events=4_000)
    whole, labels = compose("train", 4, data, settings)
    bare, same = compose("train", 4, data, msgspec.structs.replace(settings, inputs=False))
    assert same == labels
    assert all(event.input is not None for event in whole)
    assert [msgspec.structs.replace(event, input=None) for event in whole] == bare


@pytest.mark.parametrize("form", ["warmed", "poisoner"])
def test_what_takes_weeks_is_refused_in_one(data: Path, form: str) -> None:
    with pytest.raises(ValueError, match=f"{form} accounts need two weeks or more"):
        week(data, form)


def test_a_busy_week_is_dealt_over_two_without_breaking_a_session(material: Material) -> None:
    rng = np.random.default_rng(5)
    kind = customers.KINDS["monitor"]
    (monitor,) = customers.over(kind, material, rng, 500, 1, 2)
    first = monitor.times < WEEK
    assert first.mean() == pytest.approx(0.5, abs=0.01)
    assert np.ptp(monitor.times[first]) > 0.6 * WEEK
    (agent,) = customers.over(customers.KINDS["agent"], material, rng, 300, 1, 2)
    assert (agent.times < WEEK).mean() == pytest.approx(0.5, abs=0.25)
    gaps = np.diff(agent.times)
    assert np.median(gaps) < 60.0
