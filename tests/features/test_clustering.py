"""Clustering: templates within a block, and the fingerprints that link accounts."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from features.clustering import HEADS_KEPT, Clustering, fingerprints
from tests.features.battery import measured
from tests.features.slots import HOSTILE, Request, block, hostile, of_requests

TEMPLATE = "Rate the following essay on a scale of one to ten: "  # longer than the 40-byte head


@pytest.mark.parametrize(
    ("hashes", "distinct", "top"),
    [
        ([7], 1.0, 1.0),
        ([7, 7, 7, 7], 0.25, 1.0),
        ([7, 8, 9, 10], 1.0, 0.25),
        ([7, 9, 7, 8, 7], 0.6, 0.6),
        ([1, 1, 2, 2], 0.5, 0.5),
        ([0, 2**32 - 1, 0], 2 / 3, 2 / 3),
    ],
)
def test_distinct_and_most_common(hashes: list[int], distinct: float, top: float) -> None:
    other = list(range(len(hashes)))
    scores = measured(Clustering(), block(head=hashes, tail=other))
    assert scores["distinct_heads"] == pytest.approx(distinct)
    assert scores["top_head"] == pytest.approx(top)
    assert scores["distinct_tails"] == 1.0
    scores = measured(Clustering(), block(head=other, tail=hashes))
    assert scores["distinct_tails"] == pytest.approx(distinct)
    assert scores["top_tail"] == pytest.approx(top)
    assert scores["distinct_heads"] == 1.0


def test_a_template_with_new_contents_shares_its_head_but_not_its_tail() -> None:
    requests = [Request(text=TEMPLATE + f"this is essay number {i}") for i in range(8)]
    assert measured(Clustering(), of_requests(requests)) == pytest.approx(
        {"distinct_heads": 1 / 8, "top_head": 1.0, "distinct_tails": 1.0, "top_tail": 1 / 8}
    )


def test_an_input_shorter_than_its_head_and_tail_is_both() -> None:
    slots = of_requests([Request(text="hi"), Request(text="hi"), Request(text="")])
    assert measured(Clustering(), slots) == pytest.approx(
        {"distinct_heads": 2 / 3, "top_head": 2 / 3, "distinct_tails": 2 / 3, "top_tail": 2 / 3}
    )


def test_the_sketch_is_the_direction_of_the_mean_with_norm_127() -> None:
    sketch = np.zeros(128)
    sketch[:2] = 3.0, -4.0
    sketches, _ = fingerprints(block(sketch_sum=sketch, sketched=5))
    assert sketches.dtype == np.int8
    # 127 · .6 = 76.2 and 127 · -.8 = -101.6, to the nearest whole number.
    assert sketches[0].tolist() == [76, -102] + [0] * 126


@pytest.mark.parametrize(("entry", "expected"), [(1.0, 127), (-1.0, -127), (0.0, 0)])
def test_a_sketch_along_one_axis_fits_a_byte(entry: float, expected: int) -> None:
    sketch = np.zeros(128)
    sketch[5] = entry
    sketches, _ = fingerprints(block(sketch_sum=sketch, sketched=1))
    assert sketches[0, 5] == expected


def test_equal_entries_share_the_norm() -> None:
    sketches, _ = fingerprints(block(sketch_sum=np.ones(128), sketched=1))
    assert set(sketches[0].tolist()) == {round(127 / sqrt(128))}


@pytest.mark.parametrize(
    ("head", "text", "expected"),
    [
        ([5, 6, 7], [1, 2, 3], []),  # shared by no two
        ([5, 6, 5], [1, 2, 3], [(5, 2, 2)]),
        ([5, 6, 5], [1, 2, 1], [(5, 2, 1)]),  # one text twice is no template
        ([5, 5, 6, 6, 6], [1, 2, 3, 4, 3], [(6, 3, 2), (5, 2, 2)]),  # most common first
        ([9, 5, 9, 5], [1, 2, 3, 4], [(5, 2, 2), (9, 2, 2)]),  # ties by hash
        ([0, 0, 0], [1, 2, 3], [(0, 3, 3)]),  # 0 is a hash like any other
        (
            [5, 5, 4, 4, 3, 3, 2, 2, 1, 1],
            list(range(10)),
            [(1, 2, 2), (2, 2, 2), (3, 2, 2), (4, 2, 2)],
        ),
    ],
)
def test_heads_are_the_templates_that_two_or_more_inputs_share(
    head: list[int], text: list[int], expected: list[tuple[int, int, int]]
) -> None:
    _, heads = fingerprints(block(head=head, text=text))
    rows = [tuple(row) for row in heads[0].tolist()]
    assert rows == expected + [(0, 0, 0)] * (HEADS_KEPT - len(expected))


def test_heads_and_sketch_do_not_depend_on_the_order_of_the_inputs() -> None:
    requests = [Request(text=TEMPLATE * (i % 3) + f"essay {i % 5}") for i in range(16)]
    one = fingerprints(of_requests(requests))
    other = fingerprints(of_requests(requests[::-1]))
    assert one[1].tolist() == other[1].tolist()


def test_fingerprints_of_hostile_blocks_keep_their_bounds() -> None:
    sketches, heads = fingerprints(hostile())
    assert sketches.shape == (2 * len(HOSTILE), 128)
    assert (np.abs(sketches.astype(int)) <= 127).all()
    hashes, inputs, distinct = np.moveaxis(heads, 2, 0)
    assert ((hashes >= 0) & (hashes < 2**32)).all()
    assert ((distinct <= inputs) & (inputs <= 32)).all()
