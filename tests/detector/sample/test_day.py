"""The sampled days: the same from the same seed, valid events, honest labels."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from detector.events import Event, decode, encode
from detector.sample import FIRST_DAY, Sample
from detector.sample.clocks import DAY_S

SMALL = Sample(seed=5, customers=60, thieves=12)


@pytest.fixture(scope="module")
def days() -> list[list[Event]]:
    return [list(SMALL.events(day)) for day in (0, 1)]


def test_the_same_seed_gives_the_same_bytes(days: list[list[Event]]) -> None:
    again = [encode(event) for event in Sample(seed=5, customers=60, thieves=12).events(1)]
    assert again == [encode(event) for event in days[1]]


def test_another_seed_gives_other_accounts() -> None:
    assert not set(Sample(6).labels(1)) & set(Sample(5).labels(1))


def test_thieves_change_nothing_of_what_customers_do(days: list[list[Event]]) -> None:
    thieves = {name for name, label in SMALL.labels(1).items() if label["harvesting"]}
    alone = Sample(seed=5, customers=60, thieves=0)
    assert [encode(e) for e in alone.events(1)] == [
        encode(e) for e in days[1] if e.account not in thieves
    ]


def test_every_line_is_a_valid_native_event(days: list[list[Event]]) -> None:
    for event in days[1]:
        assert decode(encode(event), event.ts + 60.0) == event  # type: ignore[operator]


def test_requests_lie_within_their_day_and_are_logged_when_they_end(
    days: list[list[Event]],
) -> None:
    for day, events in enumerate(days):
        start = FIRST_DAY + day * DAY_S
        assert all(start <= e.ts < start + DAY_S for e in events)  # type: ignore[operator]
        ends = [e.ts + e.latency_ms / 1000.0 for e in events]  # type: ignore[operator]
        assert all(after - before > -0.002 for before, after in pairwise(ends))


def test_request_ids_are_unique(days: list[list[Event]]) -> None:
    assert max(Counter(event.request_id for event in days[1]).values()) == 1


def test_every_account_has_a_label_and_day_0_has_no_thief(days: list[list[Event]]) -> None:
    for day, events in enumerate(days):
        assert {event.account for event in events} <= SMALL.labels(day).keys()
    assert not any(label["harvesting"] for label in SMALL.labels(0).values())
    assert sum(label["harvesting"] for label in SMALL.labels(1).values()) == 12


def test_every_group_calls(days: list[list[Event]]) -> None:
    labels = SMALL.labels(1)
    groups = {labels[event.account]["group"] for event in days[1]}
    assert groups == {
        "people", "apps", "batch", "evaluation", "long_prompts", "monitors", "sensors",
        "instruction", "reasoning", "wrapped", "probing",
    }  # fmt: skip


def test_most_customers_come_back_and_some_are_new(days: list[list[Event]]) -> None:
    before, after = (set(SMALL.labels(day)) for day in (0, 1))
    customers = {name for name, label in SMALL.labels(1).items() if not label["harvesting"]}
    assert len(before) == len(customers) == 60
    assert 0.85 <= len(before & after) / 60 < 1.0


def test_the_default_day_is_as_busy_as_promised() -> None:
    count = sum(1 for _ in Sample(seed=1).events(0))
    assert 60_000 <= count <= 130_000
