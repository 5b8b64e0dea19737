"""What thieves ask: that strategies are what they are called, and depend on their seed alone."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_wine

from detector.attack.copies import agreement
from detector.attack.strategies import TEXT, VECTOR, Strategy, text_strategy, vector_strategy

X, Y = load_wine(return_X_y=True)
SEEDS = X[:60]


def victim(row: Any) -> str:
    """Which third of the first column's range a row lies in."""
    return str(int(np.searchsorted(np.quantile(SEEDS[:, 0], [1 / 3, 2 / 3]), row[0])))


def asked(strategy: Strategy, batches: int) -> list[Any]:
    found: list[Any] = []
    batch = next(strategy)
    for _ in range(batches):
        found += batch
        batch = strategy.send([victim(x) if not isinstance(x, str) else "ok" for x in batch])
    return found


@pytest.mark.parametrize("name", VECTOR)
def test_the_same_seed_asks_the_same_rows(name: str) -> None:
    first, again, other = (asked(vector_strategy(name, SEEDS, seed), 3) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert all(len(row) == SEEDS.shape[1] for row in first)


@pytest.mark.parametrize("name", TEXT)
def test_texts_hardly_repeat(name: str) -> None:
    texts = asked(text_strategy(name, 1), 4)
    assert len(texts) == 200
    assert len(set(texts)) > 190


def test_random_rows_have_every_column_from_a_real_row() -> None:
    rows = np.array(asked(vector_strategy("random", SEEDS, 1), 2))
    for column in range(SEEDS.shape[1]):
        assert set(rows[:, column]) <= set(SEEDS[:, column])


def test_uniform_rows_stay_within_the_ranges() -> None:
    rows = np.array(asked(vector_strategy("uniform", SEEDS, 1), 2))
    assert (rows >= SEEDS.min(axis=0)).all()
    assert (rows <= SEEDS.max(axis=0)).all()


def test_augmentation_steps_by_a_tenth_of_each_range() -> None:
    strategy = vector_strategy("jbda", SEEDS, 1)
    first = np.array(next(strategy))
    second = np.array(strategy.send([victim(x) for x in first]))
    steps = (second[:, None, :] - first[None, :, :]) / np.ptp(SEEDS, axis=0)
    nearest = np.abs(np.abs(steps) - 0.1).max(axis=2).min(axis=1)
    assert len(second) == len(first)
    assert nearest.max() < 1e-9


def test_active_learning_asks_along_borders() -> None:
    def to_border(rows: Any) -> float:
        borders = np.quantile(SEEDS[:, 0], [1 / 3, 2 / 3])
        return float(np.abs(np.array(rows)[:, :1] - borders).min(axis=1).mean())

    rows = asked(vector_strategy("active", SEEDS, 1), 6)
    assert to_border(rows[-150:]) < 0.7 * to_border(asked(vector_strategy("random", SEEDS, 1), 3))


def test_a_copy_of_every_answer_agrees() -> None:
    rows = list(islice(asked(vector_strategy("random", SEEDS, 1), 6), 300))
    labels = [victim(row) for row in rows]
    held_out = X[60:]
    found = agreement(rows, labels, held_out.tolist(), [victim(row) for row in held_out])
    assert found is not None
    assert found > 0.9
    assert agreement([], [], held_out.tolist(), ["0"] * len(held_out)) is None


def test_a_copy_of_texts_learns_from_words() -> None:
    texts = [f"{word} number {i}" for i in range(40) for word in ("apple", "stone")]
    labels = ["fruit" if t.startswith("apple") else "rock" for t in texts]
    assert agreement(texts, labels, ["an apple", "a stone"], ["fruit", "rock"]) == 1.0
