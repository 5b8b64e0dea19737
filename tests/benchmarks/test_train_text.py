"""Which weeks teach the models for text, and of what they are composed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.detection import public, train_text
from benchmarks.detection.compose import Settings
from benchmarks.detection.sources import Split, load
from benchmarks.detection.train_text import Job, calibrates, composed_week, teaches
from tests.benchmarks.tiny_sources import write_sources


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of the weeks that are asked for; nothing is composed."""
    seen: list[Settings] = []

    def compose(split: str, seed: int, data: Path | None, settings: Settings) -> Any:
        seen.append(settings)
        return [], {}

    monkeypatch.setattr(train_text, "compose", compose)
    return seen


def test_weeks_of_training_are_of_three_kinds_in_turn_and_a_few_of_classifiers(
    asked: list[Settings],
) -> None:
    for seed in range(15):
        assert composed_week(Job("train", seed, None, None)) == ([], {})
    assert [s.composed_wordings for s in asked] == [False, True, True] * 5
    assert {s.thieves for s in asked} == {0.4}
    own, varied, evaluated = asked[:3]
    assert max(varied.sizes) == 50
    assert evaluated.sizes == own.sizes == Settings().sizes
    assert own.shares == Settings().shares
    assert varied.shares["ci_shards"] == 2 * own.shares["ci_shards"]
    assert evaluated.shares["eval"] > 3 * own.shares["eval"]
    assert asked[3:12] == asked[:3] * 3
    assert asked[13].shares["classifier"] == 0.7
    for settings in asked:
        assert sum(settings.shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("split", ["calibrate", "test"])
def test_other_weeks_are_as_the_benchmark_has_them(asked: list[Settings], split: Split) -> None:
    for seed in range(6):
        composed_week(Job(split, seed, None, None))
    assert asked == [Settings(thieves=thieves) for thieves in (0.02, 0.09, 0.23)] * 2


def test_a_fifth_of_the_weeks_is_built_in_of_every_kind_and_in_both_halves() -> None:
    jobs = teaches(180, Path("data"), Path("public"), None)
    assert [job.seed for job in jobs] == list(range(180))
    built_in = [job.seed for job in jobs if job.data is None]
    assert len(built_in) == 36
    assert all((job.data is None) == (job.public is None) for job in jobs)
    for part in (0, 1):  # weeks of one half are scored by models of the other
        half = [seed for seed in built_in if seed % 2 == part]
        assert {seed % 3 for seed in half} == {0, 1, 2}
        assert min(half) < 10


def test_three_sets_of_unlike_sources_set_the_reference() -> None:
    data, wider = Path("data"), Path("public")
    sets = calibrates(4, data, wider, None)
    assert [{(job.data, job.public) for job in jobs} for jobs in sets] == [
        {(data, None)},
        {(None, None)},
        {(data, wider)},
    ]
    assert all([job.seed for job in jobs] == [0, 1, 2, 3] for jobs in sets)
    assert {job.split for jobs in sets for job in jobs} == {"calibrate"}
    assert len(calibrates(4, data, None, None)) == 2
    names = {job.name for jobs in sets for job in jobs}
    assert len(names) == 12  # none stands for another in the cache


@pytest.mark.parametrize("split", ["train", "calibrate"])
def test_a_widened_week_asks_what_public_tasks_of_its_share_ask(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sources(tmp_path)
    names = [f"task {i}" for i in range(120)]
    rows = [
        {"use": "task", "name": name, "group": name, "part": "", "text": f"<{name}> times {k}?"}
        for name in names
        for k in range(40)
    ]
    path = tmp_path / "tasks.parquet"
    public.write(rows, path)
    sent: dict[str, str] = {}
    settings = Settings(customers=60, max_events=3000, thieves=0.2)
    monkeypatch.setattr(train_text, "_SETTINGS", (settings,))
    monkeypatch.setattr(train_text, "Settings", lambda **_: settings)

    class Measured:
        def __init__(self, *_: object) -> None: ...

        def feed(self, batch: list[Any]) -> list[Any]:
            for event in batch:
                sent[event.account] = sent.get(event.account, "") + str(event.input)
            return []

        def end(self) -> list[Any]:
            return []

    monkeypatch.setattr(train_text, "PartitionMeasure", Measured)
    _, labels = composed_week(Job(split, 1, tmp_path, None, path))
    asking = {labels[account].harvesting for account, text in sent.items() if "<task" in text}
    assert asking == {True, False}
    asked = {name for name in names if any(f"<{name}>" in text for text in sent.values())}
    other: public.Share = "calibrate" if split == "train" else "train"
    assert asked <= public.read(split, path).tasks.keys()
    assert asked.isdisjoint(public.read(other, path).tasks)
    assert load(tmp_path, split).tasks.keys().isdisjoint(names)
