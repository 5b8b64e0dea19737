"""The artefact of the text models: what loads, and what is refused, with a reason."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.score import (
    ACCOUNT_COLUMNS,
    FLOOR,
    OWN_COLUMNS,
    BadModel,
    Committee,
    Consensus,
    TextModels,
    shipped,
)
from detector.trees import Trees
from tests.detector.small_models import models, staircase, text_block

Change = Callable[[dict[str, Any], dict[str, Any]], object]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.npz"
    models().text.save(path)
    return path


def changed(file: Path, change: Change) -> Path:
    """The artefact after `change` of its arrays and of its description."""
    with np.load(file) as kept:
        arrays = {name: kept[name] for name in kept.files}
    about = json.loads(str(arrays["description"]))
    change(arrays, about)
    if "description" in arrays:
        arrays["description"] = np.array(json.dumps(about))
    with file.open("wb") as out:
        np.savez_compressed(out, **arrays)
    return file


def test_loads_what_it_saved(file: Path) -> None:
    loaded, made = TextModels.load(file), models().text
    assert (loaded.name, loaded.own_bar) == (made.name, made.own_bar)
    assert np.array_equal(loaded.reference, made.reference)
    for score in (-3.0, 0.0, 4.0):
        row = loaded.row(text_block(score=score))
        assert loaded.block.log_odds(row) == made.block.log_odds(row) == score
        seen = np.full(len(ACCOUNT_COLUMNS), score)
        assert loaded.own_odds(seen) == made.own_odds(seen) == score
        assert loaded.odds(seen) == made.odds(seen) == score


def test_the_shipped_models_load_and_know_their_customers() -> None:
    found = shipped()
    assert len(found.reference) >= 1000
    assert np.all(found.reference[1:] >= found.reference[:-1])
    # Only histories past the bar have evidence at all: 5 % of the one set of customers, more of
    # the other.
    assert 0.02 < np.isfinite(found.reference).mean() < 0.1
    assert len(found.typical) == len(found.used)
    assert found.block.fits(len(found.used))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays, about: about.update(format=99), "model format 99; this program reads 3"),
        (lambda arrays, about: about["families"].update(timing=99), "train it again"),
        (lambda arrays, about: about["features"].append("timing.no_such"), "train it again"),
        (lambda arrays, about: about["accounts"][1].pop("bias"), "damaged or not a model"),
        (lambda arrays, about: about["accounts"][0].update(columns=["no_such"]), "no_such"),
        (lambda arrays, about: about["accounts"].pop(0), "no model looks at an account by itself"),
        (lambda arrays, about: arrays.update(scale=np.ones(3)), "centre or scale is not of"),
        (lambda arrays, about: about.update(own_bar="high"), "damaged or not a model"),
        (lambda arrays, about: about["block"].clear(), "no model looks at blocks"),
        (lambda arrays, about: [a.update(say=0) for a in about["accounts"]], "no model has a say"),
        (lambda arrays, about: about["accounts"][1].update(say=-1.0), "no model has a say"),
        (lambda arrays, about: about["block"][0][0].update(kind="odd"), "damaged or not a model"),
        (lambda arrays, about: arrays.pop("description"), "damaged or not a model"),
        (lambda arrays, about: arrays.pop("account2_root"), "damaged or not a model"),
        (lambda arrays, about: arrays["block0_0_left"].fill(10**6), "do not fit together"),
        (lambda arrays, about: arrays["block0_0_feature"].fill(2**31 - 1), "do not fit together"),
        (
            lambda arrays, about: arrays["account0_feature"].fill(7),
            "the model 'own' does not fit its columns",
        ),
        (
            # An array that only a pickle can hold is never unpickled.
            lambda arrays, about: arrays.update(reference=np.array([{}], object)),
            "damaged or not a model",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_this_program_is_refused(
    file: Path, change: Change, message: str
) -> None:
    with pytest.raises(BadModel, match=message):
        TextModels.load(changed(file, change))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"not a model"])
def test_a_torn_file_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(BadModel, match="damaged or not a model"):
        TextModels.load(file)


def test_half_a_file_and_none_are_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BadModel, match="damaged or not a model"):
        TextModels.load(file)
    file.unlink()
    with pytest.raises(BadModel, match="no such file"):
        TextModels.load(file)


def test_a_damaged_byte_anywhere_is_refused_or_harmless(file: Path) -> None:
    whole = file.read_bytes()
    rng = np.random.default_rng(2)
    for place in rng.integers(len(whole), size=300).tolist():
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with contextlib.suppress(BadModel):
            assert TextModels.load(file).name == models().text.name


def test_shares_add_up_to_the_log_odds() -> None:
    found = shipped()
    rng = np.random.default_rng(3)
    for _ in range(20):
        seen = rng.normal(size=len(ACCOUNT_COLUMNS))
        base, shares = found.shares(seen)
        assert base + shares.sum() == pytest.approx(found.odds(seen), abs=1e-9)


def test_the_least_that_a_domain_says_of_a_block_is_what_counts(tmp_path: Path) -> None:
    strict, lenient = staircase(0, 0.0, 6.0, 1.0), staircase(1, 1.0, 6.0, 1.0)
    block = Consensus((Committee((strict,)), Committee((lenient,))))
    found = replace(models().text, used=np.array([0, 1]), block=block)
    found.save(tmp_path / "two.npz")
    for one in (found, TextModels.load(tmp_path / "two.npz")):
        assert one.block.log_odds(np.array([3.5, 2.5])) == 3.0  # 4 and 3
        assert one.block.log_odds(np.array([0.5, 2.5])) == 1.0  # 1 and 3
        assert one.block.shares(np.array([0.5, 2.5])).tolist() == [1.0, 0.0]
        assert one.block.shares(np.array([3.5, 2.5])).tolist() == [0.0, 2.0]


def test_a_block_below_the_floor_is_at_it_and_no_other_committee_is_asked() -> None:
    class Asked(Trees):
        times = 0

        def log_odds(self, x: Any) -> float:
            self.times += 1
            return 2.0

    asked = Asked(0.0, staircase(0, 0.0, 1.0, 1.0).arrays())
    below = Committee((staircase(0, FLOOR - 3.0, 1.0, 1.0),))
    both = Consensus((below, Committee((asked,))))
    assert both.log_odds(np.array([-9.0])) == FLOOR
    assert asked.times == 0
    assert both.log_odds(np.array([FLOOR + 1.5])) == FLOOR + 2.0
    assert asked.times == 1


def test_an_account_without_a_block_above_the_floor_is_at_it() -> None:
    found = shipped()
    seen = np.full(len(ACCOUNT_COLUMNS), 1.0)
    assert found.own_odds(seen) != FLOOR
    seen[OWN_COLUMNS.index("max")] = FLOOR
    assert found.own_odds(seen) == FLOOR


def test_models_of_one_domain_from_before_still_load(file: Path) -> None:
    def before(arrays: dict[str, Any], about: dict[str, Any]) -> None:
        about.update(format=3, block=about["block"][0])
        del about["floor"]
        for name in [name for name in arrays if name.startswith("block0_0_")]:
            arrays[name.replace("block0_0_", "block0_")] = arrays.pop(name)

    deep = replace(models().text, block=Consensus((Committee((staircase(0, -9.0, 6.0, 1.0),)),)))
    row = deep.row(text_block(score=3.0))
    low = np.array([-8.5])
    deep.save(file)
    assert TextModels.load(file).block.log_odds(low) == FLOOR
    loaded = TextModels.load(changed(file, before))
    assert loaded.block.log_odds(row) == deep.block.log_odds(row) > FLOOR
    # Its bar, reference and account models are of scores that were not cut.
    assert loaded.block.log_odds(low) == -8.0
    seen = np.full(len(ACCOUNT_COLUMNS), 2.0)
    assert loaded.odds(seen) == 2.0
    assert loaded.own_odds(seen) == 2.0


def test_the_bar_is_what_5_in_100_pass_but_never_the_floor() -> None:
    found = shipped()
    assert found.bar(np.arange(101.0)) == 95.0
    crowd = np.full(100, FLOOR)
    crowd[:3] = 1.0
    assert np.count_nonzero(crowd >= found.bar(crowd)) == 3
