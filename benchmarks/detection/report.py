"""What a run of the benchmark found, as results.json holds it."""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.detection.results import Detection, FalseAlarms, Row

__all__ = ["Adversaries", "Curve", "Matched", "Pooled", "Report", "Study"]


class Pooled(msgspec.Struct, frozen=True, kw_only=True):
    """The product at its own operating point, over all weeks with so many thieves."""

    thieves: float
    own_baseline: bool
    found: Detection


class Matched(msgspec.Struct, frozen=True, kw_only=True):
    """A detector at a threshold that `nominal` of the calibrating customers pass.

    `as_published`: at the threshold that its publication would set instead.
    """

    found: Detection
    as_published: bool
    nominal: float
    calibrated_on: int


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence over time of one account: (hours since its first request, false-alarm rate)."""

    group: str
    harvesting: bool
    points: list[tuple[float, float]]


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """Weeks of one sort of traffic, "text" or "vectors"."""

    traffic: str
    weeks: int
    own_baseline_needs: str  # before it decides; "" when it does
    pooled: list[Pooled]
    rows: list[Row]
    traits: dict[str, list[Row]]
    quick: Row
    kinds: dict[str, list[FalseAlarms]]  # share of thieves → kinds
    kinds_own: dict[str, list[FalseAlarms]]  # the same with the operator's baseline
    matched: list[Matched]
    compared_weeks: int
    alone: list[Row]
    together: list[Row]  # the same weeks, all campaigns at once
    metadata: Detection | None


class Adversaries(msgspec.Struct, frozen=True, kw_only=True):
    """Thieves who know that they are watched. Warmed accounts and poisoners take `slow_weeks`."""

    forms: list[Row]
    rows: list[Row]  # those of the forms, by family and size
    kinds: list[FalseAlarms]  # customers of the single weeks, framed ones and look-alikes too
    slow_kinds: list[FalseAlarms]  # customers of the several weeks, each counted once
    slow_weeks: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything."""

    models: str
    plan: dict[str, Any]
    studies: list[Study]
    thousand: list[Row]  # campaigns over a thousand accounts, one week a family
    adversaries: Adversaries | None
    curves: list[Curve]
    seconds: float
