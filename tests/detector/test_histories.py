"""Histories of blocks: the kernels give what adding up by hand gives."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import pytest

from detector.histories import add_block, see_account, settle
from detector.state import Column, Table

DIMS, WIDTH = 8, 3
BEFORE = 1000  # events of the account before its evidence began
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
    Column("events_before", "int64"),
    Column("events", "int64"),
    Column("last_time", "float64"),
    Column("mean", "int64"),
    Column("own", "float64", fill=-math.inf),
    Column("own_top", "float64", fill=-math.inf),
)


def scores_of(scores: list[float], log_events: float) -> list[Any]:
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores))
    return [mean, max(scores), min(scores), log_events, pytest.approx(deviation, abs=1e-6)]


@pytest.mark.parametrize("changed_at", [None, 1, 7, 11])
def test_histories_are_what_their_blocks_add_up_to(changed_at: int | None) -> None:
    rng, dice = np.random.default_rng(3), Random(3)
    table = Table(COLUMNS, by_row=True)
    table.add()
    row = table.add()
    table["events_before"][row] = BEFORE
    scores, sketches, features = [], [], []
    for index in range(12):
        scores.append(dice.choice((-2.0, 0.5, 3.0, 4.25)))
        direction = rng.normal(size=DIMS)
        sketch = np.rint(127 * direction / np.linalg.norm(direction)).astype(np.int8)
        sketches.append(sketch.astype(np.int64))
        features.append(rng.normal(size=WIDTH).astype(np.float32))
        # The first block comes twice, and the second time counts.
        for score in [9.0, scores[0]] if index == 0 else [scores[-1]]:
            first, changed = index == 0, index == changed_at
            time, events = 60.0 * index, BEFORE + 32 * (index + 1)
            add_block(
                table.records, row, first, changed, time, events, 32, score, sketch, features[-1]
            )
    out = np.zeros((2, 6 + WIDTH))
    found = see_account(table.records, row, out)
    since = [] if changed_at is None else scores[changed_at:]
    assert found == 1 + (len(since) > 1)
    assert out[0, :5].tolist() == scores_of(scores, math.log2(12 * 32))
    if found == 2:
        assert out[1, :5].tolist() == scores_of(since, math.log2(32 * len(since)))
        assert out[1, 5:].tolist() == out[0, 5:].tolist()
    cosines = [float(a @ b) / 127**2 for i, a in enumerate(sketches) for b in sketches[:i]]
    assert out[0, 5] == pytest.approx(np.mean(cosines), abs=0.02)
    assert out[0, 6:] == pytest.approx(np.mean(features, axis=0), abs=1e-6)
    best = scores.index(max(scores))
    assert table["best"][row].tolist() == features[best].tolist()
    assert table["since_events_before"][row] == (BEFORE + 32 * changed_at if changed_at else 0)
    assert table["last_time"][row] == 660.0
    # The row before was not touched.
    assert math.isnan(table["first"][0])
    assert table["rest"][0] == 0


def test_what_a_history_comes_to_is_noted_and_its_highest_kept() -> None:
    table = Table(COLUMNS, by_row=True)
    table.add()
    assert [settle(table.records, 0, own, mean) for own, mean in ((1.5, 7), (0.5, -3))] == [0, 7]
    noted = {name: table[name][0].item() for name in ("own", "own_top", "mean")}
    assert noted == {"own": 0.5, "own_top": 1.5, "mean": -3}


def test_logarithms_are_those_of_the_standard_library() -> None:
    table = Table(COLUMNS, by_row=True)
    table.add()
    out = np.zeros((2, 6 + WIDTH))
    table["sketches"][0] = table["rest"][0] = 1
    for events in [*range(1, 20_000, 7), 10**9 + 7]:
        table["events"][0] = events
        see_account(table.records, 0, out)
        assert out[0, 3] == math.log2(events)
