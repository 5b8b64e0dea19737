"""Composed weeks: the same seed gives the same week, splits share no source, labels are whole."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from benchmarks.detection import customers, harvesters
from benchmarks.detection.compose import WEEK_START, Label, Settings, compose, main, write
from benchmarks.detection.sources import SPLITS, dealt, load, third
from detector.events import Event, decode
from tests.benchmarks.source_units import units
from tests.benchmarks.tiny_sources import write_sources

Composed = tuple[list[Event], dict[str, Label]]

SMALL = Settings(customers=60, thieves=0.25, max_events=6_000)
VECTORS = Settings(customers=40, thieves=0.25, traffic="vectors", invented_models=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder)
    return folder


@pytest.fixture(scope="module", params=[SMALL, VECTORS], ids=["text", "vectors"])
def settings(request: pytest.FixtureRequest) -> Settings:
    chosen: Settings = request.param
    return chosen


@pytest.fixture(scope="module")
def composed(data: Path, settings: Settings) -> Composed:
    return compose("train", 1, data, settings)


def test_thirds_of_nine_units_are_three_each_and_together_all() -> None:
    names = [f"unit-{i}" for i in range(9)]
    shares = [third(names, split) for split in SPLITS]
    assert [len(share) for share in shares] == [3, 3, 3]
    assert set.union(*shares) == set(names)


def test_half_of_the_texts_teach_and_a_quarter_each_calibrates_and_tests() -> None:
    names = [f"unit-{i}" for i in range(14)]
    shares = [dealt(names, split) for split in SPLITS]
    assert [len(share) for share in shares] == [7, 4, 3]
    assert set.union(*shares) == set(names)


def test_no_source_unit_is_in_two_splits(data: Path) -> None:
    train, calibrate, test = (units(load(data, split)) for split in SPLITS)
    for kind in train:
        assert train[kind], f"{kind}: nothing to train on"
        assert not train[kind] & calibrate[kind], kind
        assert not train[kind] & test[kind], kind
        assert not calibrate[kind] & test[kind], kind


def test_passages_are_without_the_words_of_their_templates(data: Path) -> None:
    sources = load(data, "train")
    templates = [texts for one in sources.tasks.values() for texts in one.values()]
    prompts = [text for texts in templates for text in texts]
    assert any(text.startswith("Now answer with a reply\n") for text in prompts)
    passages = [text for texts in sources.passages.values() for text in texts]
    assert len(passages) == len(prompts)
    assert not any("reply" in text.lower() for text in passages)
    # And with all of their own: words are not cut.
    assert {len(text.split()) for text in passages} == {40}
    assert {len(word) for text in passages for word in text.split()} == {6}


def test_the_same_seed_gives_the_same_week(
    data: Path, composed: Composed, settings: Settings
) -> None:
    again = compose("train", 1, data, settings)
    assert msgspec.json.encode(again) == msgspec.json.encode(composed)


def test_another_seed_gives_another_week(
    data: Path, composed: Composed, settings: Settings
) -> None:
    other, _ = compose("train", 2, data, settings)
    assert not {e.account for e in other} & {e.account for e in composed[0]}


def test_every_account_is_labelled_and_every_label_has_events(composed: Composed) -> None:
    events, labels = composed
    assert {event.account for event in events} == set(labels)


def test_the_share_of_thieves_is_what_was_asked_for(composed: Composed) -> None:
    _, labels = composed
    share = sum(label.harvesting for label in labels.values()) / len(labels)
    assert share == pytest.approx(0.25, abs=0.06)


def test_a_week_of_both_has_text_and_vectors(data: Path) -> None:
    settings = Settings(
        customers=100, thieves=0.2, max_events=4_000, traffic="both", invented_models=0
    )
    events, labels = compose("train", 1, data, settings)
    of_vectors = {event.account for event in events if isinstance(event.input, list)}
    assert not of_vectors & {event.account for event in events if isinstance(event.input, str)}
    assert len(of_vectors) / len(labels) == pytest.approx(0.2, abs=0.05)
    assert {labels[name].harvesting for name in of_vectors} == {False, True}


def test_forms_of_campaigns_are_refused_where_there_are_vectors(data: Path) -> None:
    settings = Settings(customers=40, traffic="vectors", forms=("rotated",))
    with pytest.raises(ValueError, match="weeks of vectors have plain campaigns only"):
        compose("train", 1, data, settings)


def test_events_are_sorted_and_within_the_week(composed: Composed) -> None:
    times = [float(event.ts) for event in composed[0]]
    assert times == sorted(times)
    assert times[0] >= WEEK_START
    assert times[-1] <= WEEK_START + 7 * 86_400


def test_every_written_event_is_one_that_the_detector_accepts(
    composed: Composed, tmp_path: Path
) -> None:
    events, labels = composed
    write(events, labels, tmp_path, compress=False)
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert [decode(line, read_at=WEEK_START + 7 * 86_400) for line in lines] == events


def test_the_labels_file_says_for_each_account_whether_it_harvests_and_its_group(
    composed: Composed, tmp_path: Path
) -> None:
    events, labels = composed
    write(events, labels, tmp_path)
    assert json.loads((tmp_path / "labels.json").read_text()) == {
        name: {"harvesting": label.harvesting, "group": label.group}
        for name, label in labels.items()
    }


def test_the_same_week_is_the_same_file(composed: Composed, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(*composed, tmp_path / folder)
    a, b = ((tmp_path / folder / "events.jsonl.gz").read_bytes() for folder in ("a", "b"))
    assert a == b


def test_every_kind_and_family_is_drawn_over_a_few_weeks(data: Path) -> None:
    groups = set()
    for seed in range(6):
        _, labels = compose("calibrate", seed, data, SMALL)
        groups |= {label.group.split(" x")[0] for label in labels.values()}
    assert groups >= set(harvesters.FAMILIES)
    # Tiny sources have 60 talkative people, so every kind still gets its share of 60 customers.
    assert groups >= set(customers.KINDS)


def test_campaign_members_are_named_with_how_they_go_about_it(composed: Composed) -> None:
    _, labels = composed
    for label in labels.values():
        assert (label.campaign is not None) == label.harvesting
        assert ("timing" in label.traits) == label.harvesting


def test_the_command_composes_what_its_options_say(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = "--split test --seed 1 --customers 60 --thieves 0.3 --max-events 4000 --plain"
    forms = "--forms poisoner --weeks 2 --poison-a-day 0.02 --metadata-only"
    command = ["compose", "--data", str(data), "--out", str(tmp_path), *options.split()]
    monkeypatch.setattr("sys.argv", [*command, *forms.split()])
    main()
    assert "26 of them thieves" in capsys.readouterr().out
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert not any("input" in json.loads(line) for line in lines)
    labels = json.loads((tmp_path / "labels.json").read_text())
    assert {one["group"] for one in labels.values() if one["harvesting"]} == {"poisoner"}
