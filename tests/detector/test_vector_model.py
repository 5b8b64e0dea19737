"""The artefact of the vector model: what loads, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detector.vector_kernels import FEATURES
from detector.vector_model import SIZE_CLASSES, ModelError, VectorModel, size_class

N = len(FEATURES)


def made() -> VectorModel:
    """Weighs the first feature 2, its size 1, and an account by its mean."""
    weights = np.zeros(2 * N + 1)
    weights[0], weights[N], weights[-1] = 2.0, 1.0, -3.0
    return VectorModel(
        labelled=weights,
        unlabelled=np.zeros(2 * N + 1),
        account=np.array([1.0, 0.5, 0.0, 0.0, 0.0, -1.0]),
        typical_middle=np.zeros((SIZE_CLASSES, N)),
        typical_spread=np.ones((SIZE_CLASSES, N)),
        reference=np.arange(1000.0),
        metadata={"trained_on": ["nothing"]},
    )


def test_log_odds_are_the_sum_of_contributions() -> None:
    z = np.zeros(N)
    z[0] = -np.sinh(2.0)  # asinh gives -2: 2 · -2 + 1 · 2 - 3
    assert made().log_odds(z, labelled=True) == pytest.approx(-5.0)
    assert made().contributions(z, labelled=True)[0] == pytest.approx(-2.0)
    assert made().log_odds(z, labelled=False) == 0.0


def test_an_account_is_judged_by_mean_and_highest() -> None:
    assert made().account_log_odds([1.0, 3.0], 64) == pytest.approx(2.0 + 1.5 - 1.0)
    with pytest.raises(ValueError, match="without a scored block"):
        made().account_log_odds([], 0)


def test_the_quantile_counts_customers() -> None:
    assert made().quantile(0.999) == 999.0


@pytest.mark.parametrize(("n", "size"), [(8, 0), (11, 0), (16, 1), (23, 1), (24, 2), (32, 2)])
def test_blocks_compare_with_blocks_of_their_size(n: int, size: int) -> None:
    assert size_class(n) == size


def test_loads_what_it_saved(tmp_path: Path) -> None:
    made().save(tmp_path / "m.npz")
    loaded = VectorModel.load(tmp_path / "m.npz")
    assert np.array_equal(loaded.labelled, made().labelled)
    assert np.array_equal(loaded.reference, made().reference)
    assert loaded.metadata["trained_on"] == ["nothing"]


def entries() -> dict[str, np.ndarray]:
    model = made()
    metadata = {"format": "velvetrope vector model 1", "features": list(FEATURES)}
    return {
        "labelled": model.labelled,
        "unlabelled": model.unlabelled,
        "account": model.account,
        "typical_middle": model.typical_middle,
        "typical_spread": model.typical_spread,
        "reference": model.reference,
        "metadata": np.array(json.dumps(metadata)),
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metadata": np.array('{"format": "other"}')}, "format 'other'"),
        ({"metadata": np.array("[")}, "not JSON"),
        (
            {"metadata": np.array('{"format": "velvetrope vector model 1", "features": []}')},
            "other features",
        ),
        ({"labelled": np.zeros(3)}, "'labelled'"),
        ({"account": np.full(6, np.nan)}, "'account'"),
        ({"reference": np.array([2.0, 1.0])}, "not sorted"),
        ({"reference": np.zeros(0)}, "empty"),
    ],
)
def test_refuses_what_it_cannot_use(
    tmp_path: Path, change: dict[str, np.ndarray], says: str
) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, **{**entries(), **change})
    with pytest.raises(ModelError, match=says) as error:
        VectorModel.load(path)
    assert str(path) in str(error.value)


def test_never_runs_code(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, **{**entries(), "labelled": np.array([{"an": "object"}], dtype=object)})
    with pytest.raises(ModelError, match="allow_pickle"):
        VectorModel.load(path)


def test_names_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.npz").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"m\.npz"):
        VectorModel.load(tmp_path / "m.npz")
    with pytest.raises(ModelError, match="absent"):
        VectorModel.load(tmp_path / "absent.npz")
