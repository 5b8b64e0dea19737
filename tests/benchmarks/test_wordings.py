"""Composed wordings: new ones each week, fit to be filled in, and only where they are asked for."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.detection.compose import Settings, compose
from benchmarks.detection.customers import KINDS
from benchmarks.detection.material import Material
from benchmarks.detection.phrases import phrases
from benchmarks.detection.sources import load
from benchmarks.detection.wordings import composed, datasets, fragments, puzzles, records
from tests.benchmarks.tiny_sources import write_sources

KNOWN = {
    *("text", "system", "company", "labels", "language", "number", "topic", "tone"),
    *("id", "name", "date", "question"),
}


def test_every_template_can_be_filled_and_carries_its_text() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        wordings = composed(rng)
        assert len(wordings.templates) > 50
        for template in wordings.templates:
            bare = template.replace("{{", "").replace("}}", "")
            slots = re.findall(r"\{(\w*)\}", bare)
            assert slots.count("text") == 1
            assert set(slots) <= KNOWN
            first, second = wordings.fill(rng, template, ["one text", "another"], ["Why?"])
            assert "one text" in first
            assert "another" in second
            assert "{text}" not in first + second


def test_evolved_requests_keep_what_they_were_made_of() -> None:
    rng = np.random.default_rng(2)
    wordings = composed(rng)
    for _ in range(100):
        assert "the first request" in wordings.evolved(rng, "the first request")


def test_two_weeks_hardly_share_a_wording_and_none_is_one_written_by_hand() -> None:
    first, second = composed(np.random.default_rng(3)), composed(np.random.default_rng(4))
    for name in ("templates", "elicit", "frameworks", "evolve"):
        one, other = set(getattr(first, name)), set(getattr(second, name))
        assert len(one & other) < len(one) / 4
        for split in ("train", "calibrate", "test"):
            assert one.isdisjoint(getattr(phrases(split), name))


@pytest.mark.parametrize("asked", [False, True])
def test_a_week_has_composed_wordings_only_where_they_are_asked_for(
    asked: bool, tmp_path: Path
) -> None:
    write_sources(tmp_path)
    settings = Settings(customers=60, max_events=4000, families=("chain_of_thought",))
    if asked:
        settings = Settings(
            customers=60, max_events=4000, families=("chain_of_thought",), composed_wordings=True
        )
    events, labels = compose("train", 5, tmp_path, settings)
    sent = " ".join(str(e.input) for e in events if labels[e.account].harvesting)
    assert sent
    written = any(phrase in sent for phrase in phrases("train").elicit)
    assert written is not asked


def test_evaluations_of_such_weeks_ask_for_reasons_in_words_of_their_own(tmp_path: Path) -> None:
    write_sources(tmp_path)
    asking = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        wordings = composed(rng)
        material = Material(load(tmp_path, "train"), rng, wordings)
        (traffic,) = KINDS["eval"].make(material, rng, 60, 1)
        phrases_of = [{p for p in wordings.elicit if p in text} for text in traffic.texts]
        asking.append(any(phrases_of))
        if asking[-1] and all(phrases_of):  # a few wordings at most, not one for each question
            assert len(set.union(*phrases_of)) <= 20
    assert 15 <= sum(asking) <= 45


def test_a_weeks_kinds_have_the_shares_that_are_asked_for(tmp_path: Path) -> None:
    write_sources(tmp_path)
    settings = Settings(customers=100, max_events=4000, shares={"eval": 0.75, "monitor": 0.25})
    _, labels = compose("train", 6, tmp_path, settings)
    kinds = Counter(label.group for label in labels.values() if not label.harvesting)
    assert kinds == {"eval": 75, "monitor": 25}


def test_questions_of_a_suite_keep_their_text() -> None:
    for item in composed(np.random.default_rng(6)).items:
        assert item.count("{text}") == 1
        assert re.findall(r"\{(\w+)\}", item) == ["text"]


def test_made_up_tasks_keep_their_words_and_change_their_items() -> None:
    texts = ["The river rose by two metres, said Ms Ito.", "A museum opens in May; entry is free."]
    seen = set()
    for seed in range(10):
        made = puzzles(np.random.default_rng(seed), texts, tasks=6, items=40)
        assert len(made) == 6
        seen |= made.keys()
        for items in made.values():
            assert len(items) == 40
            assert len(set(items)) > 30
            # What is asked is in all of them.
            assert set.intersection(*(set(re.findall(r"[A-Za-z]+", item)) for item in items))
    assert len(seen) == 9


def test_only_weeks_of_composed_wordings_have_them(tmp_path: Path) -> None:
    write_sources(tmp_path)
    sources = load(tmp_path, "train")
    rng = np.random.default_rng(8)
    assert Material(sources, rng).sources == sources
    more = Material(sources, rng, composed(rng)).sources
    assert sources.puzzles.items() <= more.puzzles.items()
    assert len(more.puzzles) == len(sources.puzzles) + 8
    assert sources.tasks.items() <= more.tasks.items()
    assert len(more.tasks) == len(sources.tasks) + 6


def test_made_up_datasets_ask_of_the_same_texts_in_several_ways() -> None:
    texts = [
        f"Item {i} of the shop weighs {i} kg. It was sold to Ms Ito in May." for i in range(200)
    ]
    styles = set()
    for seed in range(10):
        rng = np.random.default_rng(seed)
        made = datasets(rng, {"shop": texts}, composed(rng))
        assert len(made) == 6
        for templates in made.values():
            assert 2 <= len(templates) <= 7
            sizes = {len(asked) for asked in templates.values()}
            assert len(sizes) == 1
            assert 100 <= sizes.pop() < 300
            for asked in templates.values():
                assert not re.search(r"\{(text|system|topic|id|date|name|question)\}", asked[0])
                styles.add(any(text in asked[0] for text in texts))
    assert styles == {True, False}
    assert datasets(np.random.default_rng(1), {"none": []}, composed(rng)) == {}


def test_fragments_are_a_few_words_of_the_texts() -> None:
    texts = ["The river rose by two metres, said Ms Ito.", "A museum opens in May; entry is free."]
    words = set(re.findall(r"\w+", " ".join(texts).lower()))
    for seed in range(20):
        pieces = fragments(np.random.default_rng(seed), texts, 30)
        assert len(pieces) == 30
        for piece in pieces:
            assert set(re.findall(r"\w+", piece.lower())) <= words
            assert 0 < len(piece.split()) <= 15


def test_records_have_the_same_fields_and_other_values() -> None:
    texts = ["The river rose by two metres, said Ms Ito.", "A museum opens in May; entry is free."]
    for seed in range(20):
        rows = records(np.random.default_rng(seed), texts, 12)
        assert len(rows) == 12
        assert len(set(rows)) > 1
        assert min(map(len, rows)) > 0


def test_clients_of_a_classifier_send_short_texts_and_nothing_around_them(tmp_path: Path) -> None:
    write_sources(tmp_path)
    sources = load(tmp_path, "train")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        material = Material(sources, rng, composed(rng) if seed % 2 else None)
        (traffic,) = KINDS["classifier"].make(material, rng, 80, 1)
        assert 0 < len(traffic.times) == len(traffic.texts) <= 80
        assert np.all(np.diff(traffic.times) >= 0)
        assert max(len(text.split()) for text in traffic.texts) <= 40
        heads = tuple(material.phrases.frameworks + material.systems)
        assert not any(text.startswith(heads) for text in traffic.texts)
