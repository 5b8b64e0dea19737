"""Profiles of customers' inputs: few of theirs are far, what does not belong together is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from velvetrope_client import profile

RNG = np.random.default_rng(3)
BOTH = RNG.normal(size=(900, 1)) + RNG.normal(0, 0.1, (900, 2))  # two columns that move together
ROWS = np.hstack([BOTH * [1.0, 1000.0], RNG.exponential(size=(900, 1))])
WORDS = [
    f"{a} {b} {c}"
    for a in ["turn", "switch", "put"]
    for b in ["on", "off"]
    for c in (
        "the light",
        "the heating",
        "the radio",
        "a fan",
        "the oven",
        "the tv",
        "the alarm",
        "my lamp",
        "the pump",
        "the fridge",
    )
]


def test_about_as_many_customers_are_far_as_asked_for() -> None:
    known = profile.fit(ROWS[:600].tolist(), touched=0.02)
    far = np.mean([known.is_far(row) for row in ROWS[600:].tolist()])
    assert far < 0.06


def test_columns_that_are_right_alone_and_wrong_together_are_far() -> None:
    known = profile.fit(ROWS[:600].tolist())
    shuffled = np.stack([RNG.permutation(column) for column in ROWS[600:].T], axis=1)
    assert np.mean([known.is_far(row) for row in shuffled.tolist()]) > 0.5


def test_the_units_of_columns_do_not_matter() -> None:
    known = profile.fit(ROWS.tolist())
    scaled = profile.fit((ROWS * [0.001, 5.0, 300.0]).tolist())
    row = ROWS[7] + 0.5
    assert scaled.distance((row * [0.001, 5.0, 300.0]).tolist()) == pytest.approx(
        known.distance(row.tolist())
    )


def test_texts_of_other_words_are_far_and_of_the_same_words_are_not() -> None:
    known = profile.fit(WORDS, touched=0.01)
    assert not known.is_far("Switch the OFF lamp, my!")
    assert known.is_far("a battle of the third century")


@pytest.mark.parametrize("given", ["text", [1.0], [1.0, 2.0, 3.0, 4.0]])
def test_an_input_of_another_kind_is_not_far(given: str | list[float]) -> None:
    assert not profile.fit(ROWS.tolist()).is_far(given)


def test_a_vector_is_not_far_from_texts() -> None:
    assert not profile.fit(WORDS).is_far([1.0, 2.0])


@pytest.mark.parametrize("examples", [ROWS.tolist(), WORDS])
def test_a_file_gives_the_profile_again(tmp_path: Path, examples: list[object]) -> None:
    known = profile.fit(examples)
    path = tmp_path / "p.json"
    path.write_text(profile.dump(known))
    again = profile.load(path)
    assert again.limit == known.limit
    given: list[str | list[float]] = ["turn on something", [1.0, 2.0, 3.0]]
    assert [again.distance(one) for one in given] == [known.distance(one) for one in given]


def test_a_file_of_texts_holds_none() -> None:
    assert "heating" not in profile.dump(profile.fit(WORDS))


@pytest.mark.parametrize(
    ("examples", "error"),
    [
        ([[1.0]] * 49, "49 examples; a profile needs at least 50"),
        ([[1.0, 2.0]] * 60 + [[1.0]], "all texts, or all rows of numbers"),
        (["a", [1.0]] * 60, "all texts, or all rows of numbers"),
        ([[float("nan")]] * 60, "finite numbers"),
    ],
)
def test_examples_that_make_no_profile_are_refused(examples: list[object], error: str) -> None:
    with pytest.raises(profile.BadProfile, match=error):
        profile.fit(examples)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"format": 2}', '{"format": 1, "limit": "x"}', "[" * 200_000),
        '{"format": 1, "limit": NaN, "kind": "text", "texts": []}',
        '{"format": 1, "limit": 1, "kind": "vector", "rows": [[]]}',
        f'{{"format": 1, "limit": 1, "kind": "vector", "rows": [[{"9" * 400}]]}}',
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(profile.BadProfile, match=r"p\.json: no profile"):
        profile.load(path)
