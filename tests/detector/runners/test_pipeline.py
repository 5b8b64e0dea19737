"""All partitions and the judge in one process: restarts, ends, and what they change: nothing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from detector.events import EndOfInput, Event
from detector.partition import partition_of
from detector.runners.pipeline import Pipeline
from detector.settings import MeasureSettings, Settings
from detector.state import StateMismatch
from responders.decisions import Decision
from responders.settings import PolicySettings, RungSettings
from tests.detector.logs import event, random_log
from tests.detector.small_models import models

MODELS = models()
SETTINGS = Settings(
    measure=MeasureSettings(partitions=3, account_idle_after=300.0),
    policy=PolicySettings(
        max_false_share=1.0,
        ladder=(
            RungSettings(action="observe", false_per_1000_week=900.0, ttl_s=100.0),
            RungSettings(action="throttle", false_per_1000_week=500.0, ttl_s=300.0),
        ),
    ),
)
LOG = random_log(3, 4_000, accounts=40)


def fresh() -> Pipeline:
    return Pipeline(SETTINGS, models=MODELS)


def restored(packed: bytes) -> Pipeline:
    return Pipeline.restore(SETTINGS, None, packed, models=MODELS)


def brief(decisions: Sequence[Decision]) -> list[Any]:
    return [(d.id, d.version, d.value, d.action, d.level, d.issued_at) for d in decisions]


def expected() -> list[Any]:
    pipeline = fresh()
    return brief([*pipeline.feed(LOG).decisions, *pipeline.end().decisions])


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_any_size_of_batches_decides_the_same(size: int) -> None:
    pipeline = fresh()
    found: list[Decision] = []
    for first in range(0, len(LOG), size):
        found += pipeline.feed(LOG[first : first + size]).decisions
    assert brief([*found, *pipeline.end().decisions]) == expected()
    assert len(found) >= 5


@pytest.mark.parametrize("seed", range(4))
def test_restarts_from_an_export_at_any_moment_decide_the_same(seed: int) -> None:
    """Of full exports and of those that only hold what has changed since."""
    rng = Random(seed)
    pipeline = fresh()
    found: list[Decision] = []
    first = 0
    while first < len(LOG):
        last = first + rng.randrange(1, 300)
        found += pipeline.feed(LOG[first:last]).decisions
        first = last
        luck = rng.random()
        if luck < 0.5:
            packed = pipeline.export()
            if luck < 0.2:
                pipeline = restored(packed)
    assert brief([*found, *restored(pipeline.export()).end().decisions]) == expected()


def test_the_control_record_ends_the_input() -> None:
    pipeline = fresh()
    assert brief(pipeline.feed([*LOG, EndOfInput()]).decisions) == expected()


def test_accounts_have_their_requests_and_the_served_ones() -> None:
    pipeline = fresh()
    pipeline.feed([event("a"), event("a", 1.0, status=429), event("b", 2.0)])
    assert sorted(pipeline.accounts()) == [("a", 2, 1), ("b", 1, 1)]


def test_after_a_restart_no_partition_is_silent_until_it_is_said_again() -> None:
    """What came while the process was away is not read yet, whoever was silent before."""
    names = [f"account-{i}" for i in range(60)]
    one = next(n for n in names if partition_of(n, 3) == 0)
    others = [next(n for n in names if partition_of(n, 3) == p) for p in (1, 2)]
    pipeline = fresh()
    pipeline.feed([event(name) for name in (one, *others)])
    pipeline.silence()
    pipeline.silence()
    running = pipeline.judge.now
    pipeline = restored(pipeline.export())
    backlog = [event(one, 50.0 + i, input=f"text {i}") for i in range(40)]
    pipeline.feed(backlog)
    assert pipeline.judge.now == running
    later: list[Event] = [event(name, 90.0) for name in others]
    pipeline.feed(later)
    assert pipeline.feed([event(one, 200.0)]).decisions == []


def test_a_damaged_state_is_refused() -> None:
    packed = fresh().export()
    with pytest.raises(StateMismatch, match="pipeline state is damaged"):
        restored(packed[:-5])
