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

    def compose(sources: object, seed: int, settings: Settings) -> Any:
        seen.append(settings)
        return [], {}

    monkeypatch.setattr(train_text, "compose_from", compose)
    monkeypatch.setattr(train_text, "sources_of", lambda split, data, tables: None)
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
    assert varied.shares["classroom"] > 1.5 * own.shares["classroom"]
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


def test_each_domain_has_weeks_of_every_kind_of_sources_of_its_own() -> None:
    data, wider = Path("data"), Path("public")
    domains = teaches(225, data, wider, None)
    assert [{(job.data, job.public, job.distilled) for job in jobs} for jobs in domains] == [
        {(data, None, None)},
        {(None, wider, data)},
        {(data, wider, None)},
    ]
    for jobs in domains:
        assert [job.seed % 15 for job in jobs] == list(range(15)) * 5
    assert sorted(job.seed for jobs in domains for job in jobs) == list(range(225))
    assert {job.split for jobs in domains for job in jobs} == {"train"}
    assert len({job.name for jobs in domains for job in jobs}) == 225
    with pytest.raises(ValueError, match="44 weeks; at least 45"):
        teaches(44, data, wider, None)


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
    names = {job.name for jobs in sets for job in jobs}
    assert len(names) == 12  # none stands for another in the cache


@pytest.mark.parametrize(
    ("split", "folder"), [("train", True), ("calibrate", True), ("train", False)]
)
def test_a_widened_week_asks_what_public_tasks_of_its_share_ask(
    split: Split, folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    _, labels = composed_week(Job(split, 1, tmp_path if folder else None, None, path))
    asking = {labels[account].harvesting for account, text in sent.items() if "<task" in text}
    assert asking == {True, False}
    asked = {name for name in names if any(f"<{name}>" in text for text in sent.values())}
    other: public.Share = "calibrate" if split == "train" else "train"
    assert asked <= public.read(split, path).tasks.keys()
    assert asked.isdisjoint(public.read(other, path).tasks)
    assert load(tmp_path, split).tasks.keys().isdisjoint(names)


def test_what_distillers_of_another_collection_send_is_no_customers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sources(tmp_path)
    seen: list[Any] = []

    def compose(sources: Any, seed: int, settings: Settings) -> Any:
        seen.append(sources)
        return [], {}

    monkeypatch.setattr(train_text, "compose_from", compose)
    composed_week(Job("train", 1, None, None, distilled=tmp_path))
    composed_week(Job("train", 1, None, None))
    both, own = seen
    folder = load(tmp_path, "train")
    for field in ("instructions", "teacher_templates", "articles"):
        assert getattr(both, field) == getattr(own, field) | getattr(folder, field)
        assert getattr(both, field) != getattr(own, field)
    for field in ("people", "utterances", "questions", "tasks", "puzzles", "problems"):
        assert getattr(both, field) == getattr(own, field)
