"""Training: models that find thieves of weeks which taught them nothing, the same every time."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from detector.blocks import Block
from detector.networks import Networks
from detector.score import ACCOUNT_COLUMNS, OWN_COLUMNS, TextModels
from detector.training import TooLittle, Week, _mixed, _Rows, caught, evidence_of, train
from features import NAMES
from tests.detector.small_models import sketch, text_block

# What thieves are shifted by, in standard deviations of customers.
SHIFTED: Final = {
    "sweep": ("coverage.late_words", "drift.topic"),
    "template": ("coverage.late_words", "entropy.length_spread"),
}


def week(seed: int, customers: int = 36, sweep: int = 14, template: int = 14) -> Week:
    """Accounts of one to five blocks, those of thieves shifted in two features of many."""
    rng = np.random.default_rng(seed)
    blocks: list[Block] = []
    family = {}
    counts = {"customer": customers, "sweep": sweep, "template": template}
    for kind, count in counts.items():
        for i in range(count):
            name = f"week{seed}-{kind}-{i}"
            family[name] = kind
            for index in range(int(rng.integers(1, 6))):
                features = rng.normal(size=len(NAMES)).astype(np.float32)
                for feature in SHIFTED.get(kind, ()):
                    features[NAMES.index(feature)] += 2.5
                blocks.append(
                    text_block(
                        name, float(rng.uniform(0.0, 1000.0)) + 5000.0 * index, index=index,
                        features=features.tobytes(), sketch=sketch(int(rng.integers(40))),
                    )
                )  # fmt: skip
    blocks.sort(key=lambda block: block.time)
    return Week(blocks, {name: kind != "customer" for name, kind in family.items()}, family)


TAUGHT: Final = [week(1), week(2)]
CALIBRATION: Final = [week(3, customers=80), week(4, customers=80)]


@pytest.fixture(scope="module")
def models() -> TextModels:
    return train(TAUGHT, CALIBRATION, "tiny")


@pytest.fixture(scope="module")
def file(models: TextModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "text.npz"
    models.save(path)
    return path


def test_thieves_of_another_week_are_caught_and_its_customers_are_not(models: TextModels) -> None:
    found = caught(models, [week(5), week(6)], 0.02)
    assert found[True][1] == 2 * 28
    assert found[False][1] == 2 * 36
    assert found[True][0] / found[True][1] > 0.5
    assert found[False][0] / found[False][1] < 0.1


def test_a_stricter_rate_catches_no_more(models: TextModels) -> None:
    counts = [caught(models, [week(5)], rate) for rate in (0.0, 0.01, 0.1, 1.0)]
    for side in (True, False):
        reached = [found[side][0] for found in counts]
        assert reached == sorted(reached)
        assert reached[0] == 0
        assert reached[-1] == counts[-1][side][1]


def test_what_was_saved_judges_the_same(models: TextModels, file: Path) -> None:
    loaded = TextModels.load(file)
    assert loaded.name == "tiny"
    assert [account.name for account in loaded.accounts] == [a.name for a in models.accounts]
    for one in CALIBRATION:
        assert evidence_of(one, loaded) == evidence_of(one, models)


def test_training_again_gives_the_same_file(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.npz"
    train(TAUGHT, CALIBRATION, "tiny").save(again)
    with np.load(file) as one, np.load(again) as other:
        assert one.files == other.files
        for name in one.files:
            assert np.array_equal(one[name], other[name]), name


def test_the_bar_and_the_reference_are_of_the_calibrations_customers(models: TextModels) -> None:
    open_bar = replace(models, own_bar=-math.inf)
    own, found = [], []
    for one in CALIBRATION:
        for account, (top, _) in evidence_of(one, open_bar).items():
            own += [] if one.harvesting[account] else [top]
        for account, (_, evidence) in evidence_of(one, models).items():
            found += [] if one.harvesting[account] else [evidence]
    assert models.own_bar == pytest.approx(np.quantile(own, 0.95), abs=1e-12)
    assert models.reference.tolist() == sorted(found)
    assert len(found) == 160
    assert np.isfinite(models.reference).sum() == sum(top >= models.own_bar for top in own) == 8


def test_some_models_look_at_an_account_alone_and_some_do_not(models: TextModels) -> None:
    alone = [model.alone for model in models.accounts]
    assert any(alone)
    assert not all(alone)
    others = set(range(len(OWN_COLUMNS), len(ACCOUNT_COLUMNS)))
    for model in models.accounts:
        assert model.alone is not bool(others & set(model.columns.tolist()))


def test_what_simulated_traffic_cannot_teach_is_left_out(models: TextModels) -> None:
    seen = {NAMES[i] for i in models.used}
    for name in ("elicitation.opens_up", "elicitation.answer_length", "timing.span"):
        assert name not in seen
        column = ACCOUNT_COLUMNS.index(f"habit.{name}")
        assert not any(column in model.columns for model in models.accounts)
    assert models.scale[NAMES.index("elicitation.opens_up")] == 0.0
    customers = [
        np.frombuffer(block.features, np.float32)
        for one in TAUGHT
        for block in one.blocks
        if not one.harvesting[block.account]
    ]
    assert models.centre == pytest.approx(np.median(customers, axis=0), abs=1e-6)
    low, high = np.quantile(np.array(customers), [0.1, 0.9], axis=0)
    used = models.scale > 0.0
    assert models.scale[used] == pytest.approx((high - low)[used], abs=1e-5)


def test_what_is_done_is_told() -> None:
    steps: list[str] = []
    with pytest.raises(TooLittle):
        train([], [], "tiny", told=steps.append)
    assert steps == []


@pytest.mark.parametrize(
    ("taught", "calibration", "message"),
    [
        ([], [], "0 harvesting accounts and 0 customers to learn from, and 0 customers to compare"),
        ([week(1, 36, 10, 9)], CALIBRATION, "19 harvesting accounts and 36 customers"),
        ([week(1, customers=19)], CALIBRATION, "28 harvesting accounts and 19 customers"),
        (TAUGHT, [week(3, customers=19)], "and 19 customers to compare with; at least 20 of each"),
        ([week(1, 36, 0, 28)], CALIBRATION, "of one family: give at least two groups"),
    ],
)
def test_too_little_is_refused_with_what_there_is(
    taught: list[Week], calibration: list[Week], message: str
) -> None:
    with pytest.raises(TooLittle, match=message):
        train(taught, calibration, "tiny")


def test_weeks_of_all_domains_teach_the_same_models() -> None:
    weeks = [week(1), week(2), week(11), week(12)]
    both = train(weeks, CALIBRATION, "tiny", domains=[0, 1, 0, 1])
    (committee,) = both.block.committees
    assert [type(member) for member in committee.members] == [Networks]
    assert [model.name for model in both.accounts if model.alone] == ["habits, networks"]
    found = caught(both, [week(5), week(6)], 0.02)
    assert found[True][0] / found[True][1] > 0.5
    assert found[False][0] / found[False][1] < 0.1
    named = train(weeks, CALIBRATION, "tiny", domains=[7, 2, 7, 2])
    assert named.reference.tolist() == both.reference.tolist()
    with pytest.raises(TooLittle, match="19 harvesting accounts and 36 customers"):
        train([week(1), week(2, 36, 10, 9)], CALIBRATION, "tiny", domains=[0, 1])


def test_a_domain_is_scored_by_what_the_others_taught() -> None:
    weeks = [week(1), week(2), week(11)]
    used = np.arange(len(NAMES))
    rows = _Rows.of(weeks, used, [4, 9, 4])
    first, second, third = (len(one.blocks) for one in weeks)
    assert rows.parts == 2
    assert rows.part.tolist() == [0] * first + [1] * second + [0] * third
    halves = _Rows.of(weeks, used, [4, 4, 4])  # of a single one, half of the weeks
    assert halves.part.tolist() == [0] * first + [1] * second + [0] * third
    assert _Rows.of(weeks, used, [1, 2, 3]).parts == 3


def test_a_rate_of_the_reference_is_the_mean_of_the_rates_of_unlike_sets(
    models: TextModels,
) -> None:
    worse = []  # customers who look like thieves
    for one in (week(7), week(8)):
        family = dict.fromkeys(one.family, "customer")
        worse.append(Week(one.blocks, dict.fromkeys(one.harvesting, False), family))
    cautious = train(TAUGHT, CALIBRATION, "tiny", others=[worse])
    assert len(cautious.reference) == len(models.reference)
    assert cautious.own_bar == models.own_bar
    assert np.all(cautious.reference >= models.reference)
    assert np.all(cautious.reference[1:] >= cautious.reference[:-1])
    assert caught(cautious, [week(5)], 0.1)[True][0] < caught(models, [week(5)], 0.1)[True][0]
    # The same customers again change nothing.
    same = train(TAUGHT, CALIBRATION, "tiny", others=[CALIBRATION]).reference
    assert same.tolist() == models.reference.tolist()


def test_sets_of_any_size_have_equal_shares_in_the_reference() -> None:
    few, many = np.arange(100.0), np.arange(1000.0) / 10.0 + 200.0
    mixed = _mixed([few, many])
    assert len(mixed) == 100
    assert mixed[-1] == many[-1]
    # A share of 1 % of the mixture is 2 % of the set that lies higher.
    assert mixed[98] == pytest.approx(np.quantile(many, 0.98), abs=0.2)
    assert mixed[49] == few[-1]
    assert mixed[24] == pytest.approx(np.quantile(few, 0.5), abs=1.0)
    assert _mixed([few]).tolist() == few.tolist()
    assert _mixed([few, few, few]).tolist() == few.tolist()
