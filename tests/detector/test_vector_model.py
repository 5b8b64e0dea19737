"""The artefact of the vector model: what loads, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detector.score import Committee
from detector.trees import Trees
from detector.vector_kernels import FEATURES
from detector.vector_model import (
    ALIKE_INPUTS,
    OWN_INPUTS,
    SIZE_CLASSES,
    ModelError,
    VectorModel,
    account_inputs,
    size_class,
)

N = len(FEATURES)


def stump(low: float, high: float, feature: int = 0) -> Committee:
    """One split of a feature at 0."""
    tree = Trees(
        -3.0,
        {
            "feature": np.array([feature, 0, 0]),
            "threshold": np.zeros(3),
            "left": np.array([1, -1, -1]),
            "right": np.array([2, -1, -1]),
            "value": np.array([0.5, low, high]),
            "root": np.array([0]),
        },
    )
    return Committee((tree,))


def made() -> VectorModel:
    """Blocks by the side of the first feature, accounts by that of their mean score, company by
    that of its own."""
    return VectorModel(
        labelled=stump(-1.0, 2.0),
        unlabelled=stump(0.0, 1.0),
        account=stump(0.0, 5.0),
        alike=stump(-1.0, 9.0, OWN_INPUTS),
        own_bar=np.array([1.0]),
        bare=np.array([0.5, 0.25]),
        typical_middle=np.zeros((SIZE_CLASSES, N)),
        typical_spread=np.ones((SIZE_CLASSES, N)),
        reference=np.arange(1000.0),
        metadata={"trained_on": ["nothing"]},
    )


def inputs(*scores: float, answered: float = 1.0) -> np.ndarray:
    return account_inputs(scores, 64, answered, np.zeros(N))


def test_log_odds_are_the_mean_and_the_contributions() -> None:
    z = np.zeros(N)
    z[0] = 7.0
    assert made().log_odds(z, labelled=True) == pytest.approx(-3.0 + 2.0)
    assert made().log_odds(z, labelled=False) == pytest.approx(-3.0 + 1.0)
    assert made().contributions(z, labelled=True)[0] == pytest.approx(2.0 - 0.5)
    assert not made().contributions(z, labelled=True)[1:].any()


def test_an_account_is_its_scores_its_size_and_where_its_blocks_lie() -> None:
    place = np.arange(float(N))
    found = account_inputs([1.0, 3.0], 56, 0.5, place)
    assert found[:6] == pytest.approx([2.0, 3.0, 1.0, 3.0, 6.0, 0.5])
    assert np.array_equal(found[6:], place)
    assert len(found) == OWN_INPUTS
    with pytest.raises(ValueError, match="without a scored block"):
        account_inputs([], 0, 0.0, place)


def test_company_counts_once_an_account_is_suspicious_by_itself() -> None:
    model = made()
    loud, quiet = inputs(1.0, 3.0), inputs(-1.0, -3.0)
    assert model.account_log_odds(loud) == pytest.approx(-3.0 + 5.0)
    among_thieves, among_customers = np.array([4.0, 0.0, 1.0]), np.array([-4.0, 0.0, 1.0])
    assert model.account_log_odds(loud, among_thieves) == pytest.approx(0.5 * (2.0 + 6.0))
    assert model.account_log_odds(loud, among_customers) == pytest.approx(2.0)
    assert model.account_log_odds(quiet, among_thieves) == model.account_log_odds(quiet) == -3.0


@pytest.mark.parametrize("answered", [0.0, 0.25, 1.0])
def test_so_far_as_there_are_no_answers_log_odds_are_on_the_scale_of_those_with(
    answered: float,
) -> None:
    odds = made().account_log_odds(inputs(1.0, 3.0, answered=answered))
    assert odds == pytest.approx(answered * 2.0 + (1.0 - answered) * (0.5 * 2.0 + 0.25))


def test_the_quantile_counts_customers() -> None:
    assert made().quantile(0.999) == 999.0


@pytest.mark.parametrize(("n", "size"), [(8, 0), (11, 0), (16, 1), (23, 1), (24, 2), (32, 2)])
def test_blocks_compare_with_blocks_of_their_size(n: int, size: int) -> None:
    assert size_class(n) == size


def test_loads_what_it_saved(tmp_path: Path) -> None:
    made().save(tmp_path / "m.npz")
    loaded = VectorModel.load(tmp_path / "m.npz")
    z = np.ones(N)
    assert loaded.log_odds(z, labelled=True) == made().log_odds(z, labelled=True)
    assert loaded.log_odds(z, labelled=False) == made().log_odds(z, labelled=False)
    around = np.array([1.0, 0.0, 0.0])
    expected = made().account_log_odds(inputs(1.0), around)
    assert loaded.account_log_odds(inputs(1.0), around) == expected
    assert np.array_equal(loaded.reference, made().reference)
    assert loaded.metadata["trained_on"] == ["nothing"]


def entries(tmp_path: Path) -> dict[str, np.ndarray]:
    made().save(tmp_path / "whole.npz")
    with np.load(tmp_path / "whole.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metadata": np.array('{"format": "other"}')}, "format 'other'"),
        ({"metadata": np.array("[")}, "not JSON"),
        (
            {"metadata": np.array('{"format": "velvetrope vector model 5", "features": []}')},
            "other features",
        ),
        ({"labelled0_left": np.array([0, -1, -1])}, "'labelled'"),
        ({"unlabelled0_feature": np.array([99, 0, 0])}, "'unlabelled' does not fit"),
        ({"account0_threshold": np.zeros(2)}, "'account'"),
        ({"alike0_feature": np.array([OWN_INPUTS + ALIKE_INPUTS, 0, 0])}, "'alike' does not fit"),
        ({"own_bar": np.array([np.nan])}, "'own_bar'"),
        ({"bare": np.array([0.0, 1.0])}, "'bare'"),
        ({"reference": np.array([2.0, 1.0])}, "not sorted"),
        ({"reference": np.zeros(0)}, "empty"),
    ],
)
def test_refuses_what_it_cannot_use(
    tmp_path: Path, change: dict[str, np.ndarray], says: str
) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, **{**entries(tmp_path), **change})
    with pytest.raises(ModelError, match=says) as error:
        VectorModel.load(path)
    assert str(path) in str(error.value)


def test_never_runs_code(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, **{**entries(tmp_path), "own_bar": np.array([{"an": "object"}], dtype=object)})
    with pytest.raises(ModelError, match="allow_pickle"):
        VectorModel.load(path)


def test_names_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.npz").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"m\.npz"):
        VectorModel.load(tmp_path / "m.npz")
    with pytest.raises(ModelError, match="absent"):
        VectorModel.load(tmp_path / "absent.npz")
