"""Which weeks teach the models for text, and of what they are composed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.detection import train_text
from benchmarks.detection.compose import Settings
from benchmarks.detection.train_text import composed_week, teaches


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of the weeks that are asked for; nothing is composed."""
    seen: list[Settings] = []

    def compose(split: str, seed: int, data: Path | None, settings: Settings) -> Any:
        seen.append(settings)
        return [], {}

    monkeypatch.setattr(train_text, "compose", compose)
    return seen


def test_weeks_of_training_are_of_three_kinds_in_turn(asked: list[Settings]) -> None:
    for seed in range(6):
        assert composed_week("train", seed, None, None) == ([], {})
    assert [s.composed_wordings for s in asked] == [False, True, True] * 2
    assert {s.thieves for s in asked} == {0.4}
    own, varied, evaluated = asked[:3]
    assert max(varied.sizes) == 50
    assert evaluated.sizes == own.sizes == Settings().sizes
    assert own.shares == varied.shares == Settings().shares
    assert evaluated.shares["eval"] > 3 * own.shares["eval"]
    assert sum(evaluated.shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("split", ["calibrate", "test"])
def test_other_weeks_are_as_the_benchmark_has_them(asked: list[Settings], split: str) -> None:
    for seed in range(6):
        composed_week(split, seed, None, None)
    assert asked == [Settings(thieves=thieves) for thieves in (0.02, 0.09, 0.23)] * 2


def test_a_fifth_of_the_weeks_is_built_in_of_every_kind_and_in_both_halves() -> None:
    jobs = teaches(180, Path("data"), None)
    assert [seed for _, seed, _, _ in jobs] == list(range(180))
    built_in = [seed for _, seed, data, _ in jobs if data is None]
    assert len(built_in) == 36
    for part in (0, 1):  # weeks of one half are scored by models of the other
        half = [seed for seed in built_in if seed % 2 == part]
        assert {seed % 3 for seed in half} == {0, 1, 2}
        assert min(half) < 10
