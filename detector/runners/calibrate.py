"""Calibrate: history that is believed clean becomes a baseline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from detector.baseline import Baseline, Reference
from detector.dead_letters import DeadLetter
from detector.events import EndOfInput
from detector.formats import Format
from detector.runners.inputs import Inputs
from detector.runners.pipeline import Pipeline
from detector.runners.replay import read_events
from detector.settings import JudgeSettings

__all__ = ["Calibrated", "NothingToLearn", "calibrate", "quality"]


class NothingToLearn(Exception):
    """The history has no event that a baseline could be made of."""


@dataclass(frozen=True)
class Calibrated:
    """The baseline, and how many records were not part of it."""

    baseline: Baseline
    dead_letters: int


def calibrate(
    inputs: Inputs,
    pipeline: Pipeline,
    log_format: Format,
    *,
    name: str | None = None,
    progress: Callable[[int], None] = lambda read: None,
) -> Calibrated:
    """Read the history through a fresh pipeline, and keep what customers' evidence looked like.

    Raises:
        UnreadableInput: half a history makes no baseline.
        NothingToLearn: there was no event in it.
    """
    letters: list[DeadLetter] = []
    count, first, last = 0, math.inf, -math.inf
    for events in read_events(inputs, log_format, time.time(), letters.append, progress):
        stamps = [float(event.ts) for event in events if not isinstance(event, EndOfInput)]
        if stamps:
            count += len(stamps)
            first, last = min(first, *stamps), max(last, *stamps)
        pipeline.feed(events)
    pipeline.end()
    if not count:
        raise NothingToLearn("there is no event in the history")
    if name is None:
        days = (datetime.fromtimestamp(t, UTC).strftime("%Y%m%d") for t in (first, last))
        name = "-".join(("own", *days))
    return Calibrated(pipeline.judge.calibrated(name, count, first, last), len(letters))


def quality(baseline: Baseline, settings: JudgeSettings) -> list[tuple[str, str]]:
    """How good a baseline is, in words: (what, how) for each kind of input in it."""
    said = [("history", f"{baseline.days:.1f} days")]
    for kind, own in sorted(baseline.kinds.items()):
        reference = Reference(own.evidence, own.accounts)
        counted = 1000.0 * 11.0 / (own.accounts + 1.0)
        tail = reference.tail
        missing = baseline.missing(kind, settings.baseline_customers, settings.baseline_days)
        said += [
            (f"{kind}: customers", f"{own.accounts:,}, {len(own.evidence):,} with evidence"),
            (f"{kind}: counted", f"down to {counted:.2g} of 1,000 customers a week"),
            (
                f"{kind}: beyond",
                "counted by rank, and the shipped reference: no tail model fits"
                if tail is None
                else f"a generalized Pareto tail of {tail.values} customers "
                f"(Anderson-Darling p = {tail.p_value:.2g}), and the shipped reference",
            ),
            (
                f"{kind}: decides",
                f"not yet (shadow): it needs {missing}" if missing else "yes, with the shipped one",
            ),
        ]
    if not baseline.kinds:
        said.append(
            (
                "decides",
                "not yet (shadow): no customer sent enough requests with inputs to be scored",
            )
        )
    return said
