"""Histories of blocks: the kernels give what adding up by hand gives."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import pytest

from detector.histories import ADDED, SEEN, add_block, see_account
from detector.state import Column, Table

DIMS, WIDTH = 8, 3
COLUMNS = (
    Column("first", "float64", fill=math.nan),
    Column("rest_sum", "float64"),
    Column("rest_squares", "float64"),
    Column("rest", "int32"),
    Column("highest", "float64", fill=-math.inf),
    Column("lowest", "float64", fill=math.inf),
    Column("first_sketch", "int8", (DIMS,)),
    Column("rest_sketch", "int32", (DIMS,)),
    Column("sketches", "int32"),
    Column("first_features", "float32", (WIDTH,)),
    Column("rest_features", "float64", (WIDTH,)),
    Column("firsts", "int32"),
    Column("best_score", "float64", fill=-math.inf),
    Column("best", "float32", (WIDTH,)),
    Column("since_events_before", "int64"),
    Column("since_sum", "float64"),
    Column("since_squares", "float64"),
    Column("since", "int32"),
    Column("since_highest", "float64", fill=-math.inf),
    Column("since_lowest", "float64", fill=math.inf),
)


def scores_of(scores: list[float], log_events: float) -> list[Any]:
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores))
    return [mean, max(scores), min(scores), log_events, pytest.approx(deviation, abs=1e-6)]


@pytest.mark.parametrize("changed_at", [None, 1, 7, 11])
def test_histories_are_what_their_blocks_add_up_to(changed_at: int | None) -> None:
    rng, dice = np.random.default_rng(3), Random(3)
    table = Table(COLUMNS)
    table.add()
    row = table.add()
    scores, sketches, features = [], [], []
    for index in range(12):
        scores.append(dice.choice((-2.0, 0.5, 3.0, 4.25)))
        direction = rng.normal(size=DIMS)
        sketch = np.rint(127 * direction / np.linalg.norm(direction)).astype(np.int8)
        sketches.append(sketch.astype(np.int64))
        features.append(rng.normal(size=WIDTH).astype(np.float32))
        # The first block comes twice, and the second time counts.
        for score in [9.0, scores[0]] if index == 0 else [scores[-1]]:
            add_block(
                row, index == 0, index == changed_at, 32 * index, score, sketch, features[-1],
                *(table[name] for name in ADDED),
            )  # fmt: skip
    out = np.zeros((2, 6 + WIDTH))
    found = see_account(row, 5.0, 4.0, *(table[name] for name in SEEN), out)
    since = [] if changed_at is None else scores[changed_at:]
    assert found == 1 + (len(since) > 1)
    assert out[0, :5].tolist() == scores_of(scores, 5.0)
    if found == 2:
        assert out[1, :5].tolist() == scores_of(since, 4.0)
        assert out[1, 5:].tolist() == out[0, 5:].tolist()
    cosines = [float(a @ b) / 127**2 for i, a in enumerate(sketches) for b in sketches[:i]]
    assert out[0, 5] == pytest.approx(np.mean(cosines), abs=0.02)
    assert out[0, 6:] == pytest.approx(np.mean(features, axis=0), abs=1e-6)
    best = scores.index(max(scores))
    assert table["best"][row].tolist() == features[best].tolist()
    assert table["since_events_before"][row] == (32 * changed_at if changed_at else 0)
    # The row before was not touched.
    assert math.isnan(table["first"][0])
    assert table["rest"][0] == 0
