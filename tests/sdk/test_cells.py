"""Cells: what counts as the same input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.datasets import load_digits
from velvetrope_client.cells import cell
from velvetrope_client.keys import Key

KEY = Key("test", b"k" * 32)


@pytest.mark.parametrize(
    "other",
    [
        "what is  the capital of France",
        "WHAT IS THE CAPITAL OF FRANCE?!",
        "\nWhat\u00a0is the \uff43apital of France.",
    ],
)
def test_case_spacing_punctuation_and_unicode_forms_do_not_count(other: str) -> None:
    assert cell(KEY, other) == cell(KEY, "What is the capital of France?")


@pytest.mark.parametrize(("one", "other"), [("the cat", "the cats"), ("?", "!"), ("", "?")])
def test_other_texts_are_other_inputs(one: str, other: str) -> None:
    assert cell(KEY, one) != cell(KEY, other)


def test_a_number_written_as_an_integer_is_the_same_number() -> None:
    assert cell(KEY, [1, 2, 3]) == cell(KEY, [1.0, 2.0, 3.0])


def test_a_vector_of_another_length_is_another_input() -> None:
    assert cell(KEY, [0.0, 0.0]) != cell(KEY, [0.0, 0.0, 0.0])


def test_noise_of_a_hundredth_of_the_scale_mostly_keeps_the_cell() -> None:
    rows = load_digits().data[:300]
    scale = np.maximum(rows.std(axis=0), 1.0)
    noisy = rows + np.random.default_rng(0).normal(size=rows.shape) * 0.01 * scale
    kept = [
        cell(KEY, list(a), list(scale)) == cell(KEY, list(b), list(scale))
        for a, b in zip(rows, noisy, strict=True)
    ]
    assert np.mean(kept) > 0.8


def test_rows_of_a_table_hardly_share_cells() -> None:
    rows = load_digits().data[:500]
    assert len({cell(KEY, list(row)) for row in rows}) > 450


def test_without_the_key_the_grid_is_another() -> None:
    rows = load_digits().data[:20]
    other = Key("other", b"o" * 32)
    assert all(cell(KEY, list(row)) != cell(other, list(row)) for row in rows)


@pytest.mark.parametrize(
    "value", [[], [math.nan], [math.inf, -math.inf], [10**400], [0.0], [5e-324, 1e308]]
)
def test_any_numbers_have_a_cell(value: list[float]) -> None:
    assert cell(KEY, value) == cell(KEY, list(value))


@pytest.mark.parametrize("scale", [[1.0], [1.0, 0.0], [1.0, math.nan], 0.0])
def test_a_scale_that_does_not_fit_is_refused(scale: float | list[float]) -> None:
    with pytest.raises(ValueError, match="scale"):
        cell(KEY, [1.0, 2.0], scale)
