"""Partitions without traffic hold no tick back for long, however busy the others are."""

from __future__ import annotations

import random

from detector.events import Event
from detector.runners.pipeline import Pipeline
from detector.settings import Settings

START = 1_780_000_000.0


def events(first: int, last: int) -> list[Event]:
    """One account's requests, one a second, of random words."""
    found = []
    for number in range(first, last):
        dice = random.Random(number)
        words = ["".join(dice.choices("etaoinshrdlucm", k=dice.randint(2, 9))) for _ in range(40)]
        found.append(Event(ts=START + number, account="acct-1", input=" ".join(words), served=True))
    return found


def test_one_account_alone_is_decided_about_while_it_is_busy() -> None:
    pipeline = Pipeline(Settings())
    assert pipeline.feed(events(0, 64)).decisions == []  # seven partitions have not spoken yet
    pipeline.silence()
    found = pipeline.feed(events(64, 96)).decisions
    assert found
    assert {decision.value for decision in found} == {"acct-1"}


def test_a_partition_that_spoke_since_the_last_call_still_holds_ticks_back() -> None:
    pipeline = Pipeline(Settings())
    pipeline.feed(events(0, 64))
    before = pipeline.judge.now
    assert pipeline.silence().decisions != []
    # Its own watermark is what time there is: nothing past it is judged before it is silent too.
    assert before < pipeline.judge.now <= START + 63
    pipeline.silence()
    assert pipeline.silence().decisions == []
