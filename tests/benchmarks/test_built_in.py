"""The sources that need no data folder: whole, split in three, and the same each time."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from benchmarks.detection.built_in import built_in
from benchmarks.detection.compose import Settings, compose
from benchmarks.detection.sources import SPLITS, Sources
from tests.benchmarks.source_units import units

ATTACKS = {"natural_pool", "uniform", "marginal_shuffle", "jbda", "active"}


@pytest.fixture(scope="module")
def whole() -> Sources:
    """The training split with its tables."""
    return built_in("train")


def test_no_unit_is_in_two_splits() -> None:
    train, calibrate, test = (units(built_in(split, tables=False)) for split in SPLITS)
    for kind in train:
        assert train[kind], f"{kind}: nothing to train on"
        assert not train[kind] & calibrate[kind], kind
        assert not train[kind] & test[kind], kind
        assert not calibrate[kind] & test[kind], kind


def test_texts_of_two_splits_are_about_other_things() -> None:
    train, test = (built_in(split, tables=False) for split in ("train", "test"))
    subjects = [{name.split()[-1] for name in sources.passages} for sources in (train, test)]
    assert min(map(len, subjects)) >= 14
    assert not subjects[0] & subjects[1]
    for kind in ("passages", "puzzles", "articles"):
        texts = [
            {text for group in getattr(sources, kind).values() for text in group}
            for sources in (train, test)
        ]
        assert not texts[0] & texts[1], kind


def test_there_are_enough_people_for_a_week_of_customers() -> None:
    people = built_in("test", tables=False).people
    talkers = [person for person in people if len(person.texts) >= 12]
    assert len(talkers) * 0.75 >= 0.3 * Settings().customers
    for person in talkers[:200]:
        assert len(person.times) == len(person.texts)
        assert (np.diff(person.times) >= 0).all()


def test_tables_are_a_third_of_wine_and_breast_cancer_with_attacks_on_each(whole: Sources) -> None:
    shapes = {name: source.benign.x.shape for name, source in whole.vectors.items()}
    assert shapes == {"wine": (60, 13), "breast_cancer": (190, 30)}
    for source in whole.vectors.values():
        assert set(source.attacks) >= ATTACKS
        low, high = source.benign.x.min(axis=0), source.benign.x.max(axis=0)
        for name, rows in source.attacks.items():
            assert len(rows.x) == len(rows.y) > 500, name
            assert np.isfinite(rows.x).all(), name
        uniform = source.attacks["uniform"].x
        assert (uniform >= low).all()
        assert (uniform <= high).all()
        assert set(np.unique(source.attacks["jbda"].y)) <= set(np.unique(source.benign.y))


@pytest.mark.parametrize(
    "settings",
    [
        Settings(customers=80, thieves=0.2, max_events=8_000),
        Settings(customers=40, thieves=0.2, traffic="vectors", invented_models=0),
    ],
    ids=["text", "vectors"],
)
def test_a_week_without_a_data_folder_is_the_same_each_time(settings: Settings) -> None:
    week = compose("train", 1, None, settings)
    assert sum(label.harvesting for label in week[1].values()) >= 0.1 * len(week[1])
    assert msgspec.json.encode(compose("train", 1, None, settings)) == msgspec.json.encode(week)
