"""The artefact of the vector model: what loads, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detector.trees import Trees
from detector.vector_kernels import FEATURES
from detector.vector_model import SIZE_CLASSES, ModelError, VectorModel, size_class

N = len(FEATURES)


def stump(low: float, high: float) -> Trees:
    """One split of the first feature at 0."""
    return Trees(
        -3.0,
        {
            "feature": np.array([0, 0, 0]),
            "threshold": np.zeros(3),
            "left": np.array([1, -1, -1]),
            "right": np.array([2, -1, -1]),
            "value": np.array([0.5, low, high]),
            "root": np.array([0]),
        },
    )


def made() -> VectorModel:
    """Blocks by the side of the first feature, accounts by mean and maximum."""
    return VectorModel(
        labelled=stump(-1.0, 2.0),
        unlabelled=stump(0.0, 1.0),
        account=np.array([1.0, 0.5, 0.0, 0.0, 0.0, -1.0]),
        alike=np.array([1.0, 0.5, 0.0, 0.0, 0.0, 2.0, -3.0]),
        own_bar=np.array([2.0]),
        bare=np.array([0.5, 0.25]),
        typical_middle=np.zeros((SIZE_CLASSES, N)),
        typical_spread=np.ones((SIZE_CLASSES, N)),
        reference=np.arange(1000.0),
        metadata={"trained_on": ["nothing"]},
    )


def test_log_odds_are_the_mean_and_the_contributions() -> None:
    z = np.zeros(N)
    z[0] = 7.0
    assert made().log_odds(z, labelled=True) == pytest.approx(-3.0 + 2.0)
    assert made().log_odds(z, labelled=False) == pytest.approx(-3.0 + 1.0)
    assert made().contributions(z, labelled=True)[0] == pytest.approx(2.0 - 0.5)
    assert not made().contributions(z, labelled=True)[1:].any()


def test_an_account_is_judged_by_mean_and_highest() -> None:
    assert made().account_log_odds([1.0, 3.0], 64) == pytest.approx(2.0 + 1.5 - 1.0)
    with pytest.raises(ValueError, match="without a scored block"):
        made().account_log_odds([], 0)


def test_company_counts_once_an_account_is_suspicious_by_itself() -> None:
    model = made()
    own = model.account_log_odds([1.0, 3.0], 64)
    assert own == pytest.approx(2.5)
    with_company = 2.0 + 1.5 + 2.0 * 4.0 - 3.0
    assert model.account_log_odds([1.0, 3.0], 64, 4.0) == pytest.approx(0.5 * (own + with_company))
    assert model.account_log_odds([1.0, 3.0], 64, -9.0) == own
    quiet = model.account_log_odds([1.0, 1.0], 64)
    assert quiet < 2.0
    assert model.account_log_odds([1.0, 1.0], 64, 1000.0) == quiet


def test_without_answers_log_odds_are_on_the_scale_of_those_with() -> None:
    with_answers = made().account_log_odds([1.0, 3.0], 64)
    without = made().account_log_odds([1.0, 3.0], 64, labelled=False)
    assert without == pytest.approx(0.5 * with_answers + 0.25)


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
            {"metadata": np.array('{"format": "velvetrope vector model 4", "features": []}')},
            "other features",
        ),
        ({"labelled.left": np.array([0, -1, -1])}, "'labelled'"),
        ({"unlabelled.feature": np.array([99, 0, 0])}, "'unlabelled'"),
        ({"account": np.full(6, np.nan)}, "'account'"),
        ({"alike": np.zeros(6)}, "'alike'"),
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
    np.savez(path, **{**entries(tmp_path), "account": np.array([{"an": "object"}], dtype=object)})
    with pytest.raises(ModelError, match="allow_pickle"):
        VectorModel.load(path)


def test_names_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.npz").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"m\.npz"):
        VectorModel.load(tmp_path / "m.npz")
    with pytest.raises(ModelError, match="absent"):
        VectorModel.load(tmp_path / "absent.npz")
