"""Baselines on cases that can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.detection.baselines import (
    Trace,
    Traffic,
    bowley_skew,
    prada_score,
    rita_score,
    synchronised,
)
from benchmarks.detection.baselines_learned import modified_z
from benchmarks.detection.baselines_windows import MmdEmbeddings, frechet, median_bandwidth, mmd2
from benchmarks.detection.compose import Label
from benchmarks.detection.minilm import embed
from benchmarks.detection.weeks import Measured

WEEK = 604_800.0


def test_bowley_of_a_skewed_sample_is_the_formulas() -> None:
    # Quartiles 2, 3, 7: (2 + 7 - 2·3) / (7 - 2).
    assert bowley_skew(np.array([1.0, 2.0, 3.0, 7.0, 10.0])) == pytest.approx(0.6)


def test_bowley_where_the_median_is_a_quartile_is_unreliable_and_0() -> None:
    assert bowley_skew(np.array([1.0, 1.0, 1.0, 5.0, 9.0])) == 0.0


def test_a_beacon_that_never_misses_scores_1() -> None:
    assert rita_score(np.arange(0.0, 600.0, 10.0), 600.0) == pytest.approx(1.0)


def test_rita_takes_the_mean_of_skew_spread_and_count() -> None:
    # Gaps 10, 20, 30, 70, 100 s: skew (20 + 70 - 60)/50 = .6; deviations from 30: 0 10 20 40 70,
    # the median 20 s: 1 - 20/30; six connections in 600 s: 6/60.
    times = np.cumsum([0.0, 10.0, 20.0, 30.0, 70.0, 100.0])
    assert rita_score(times, 600.0) == pytest.approx((0.4 + 1 / 3 + 0.1) / 3)


def test_fast_clients_are_not_all_beacons_in_milliseconds() -> None:
    # In whole seconds every gap would be 0 and the skew score 1.
    gaps = np.array([0.010, 0.012, 0.014, 0.095, 0.1])
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    assert bowley_skew(np.diff(times).round(3)) == pytest.approx((0.012 + 0.095 - 0.028) / 0.083)


def test_prada_says_nothing_up_to_a_hundred_queries() -> None:
    assert prada_score(np.random.default_rng(0).normal(size=(100, 5)), []) == -math.inf


def test_prada_finds_queries_at_two_distances_less_normal_than_ordinary_ones() -> None:
    rng = np.random.default_rng(1)
    ordinary = rng.normal(size=(256, 40))
    # Every second query repeats the one before at a tiny step, as synthetic samples do.
    stepped = np.repeat(rng.normal(size=(128, 40)), 2, axis=0)
    stepped[1::2] += 1e-3
    assert prada_score(ordinary, []) < 0.1
    assert prada_score(stepped, []) > 0.25


def test_prada_keeps_classes_apart() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(240, 20))
    x[1::2] += 100.0
    labels = ["a", "b"] * 120
    # Two far classes are two ordinary customers' worth of distances when their labels are known.
    assert prada_score(x, labels) < 0.1


def test_jaccard_of_two_of_four_actions_is_a_half() -> None:
    actions = {
        "a": frozenset({(0, 1), (1, 1), (2, 1)}),
        "b": frozenset({(1, 1), (2, 1), (3, 1)}),
        "c": frozenset({(1, 2)}),
    }
    assert synchronised(actions, cluster=2) == {"a": 0.5, "b": 0.5, "c": 0.0}


def test_a_cluster_counts_from_the_link_that_makes_it_large_enough() -> None:
    # a-b are the same; c shares half of them: three are together at .5 only.
    actions = {
        "a": frozenset({(0, 1), (1, 1)}),
        "b": frozenset({(0, 1), (1, 1)}),
        "c": frozenset({(0, 1)}),
    }
    assert synchronised(actions, cluster=3) == {"a": 0.5, "b": 0.5, "c": 0.5}
    assert synchronised(actions, cluster=2) == {"a": 1.0, "b": 1.0, "c": 0.5}


def test_the_modified_z_score_is_the_formulas() -> None:
    one = (np.array([x]) for x in (10.0, 4.0, 2.0))
    assert modified_z(*one)[0] == pytest.approx(0.6745 * 6 / 2)


def test_the_median_bandwidth_is_the_median_distance() -> None:
    assert median_bandwidth(np.array([[0.0], [1.0], [4.0]])) == pytest.approx(3.0)


def test_mmd_of_two_pairs_is_the_formulas() -> None:
    # Kernel at distance 0 is 1, at distance 1 with σ = 1 it is exp(-1/2): x is a pair of zeros,
    # the reference a zero and a one.
    k = math.exp(-0.5)
    x, reference = np.zeros((2, 1)), np.array([[0.0], [1.0]])
    assert mmd2(x, reference, 1.0, k) == pytest.approx(1.0 + k - 2 * (1 + k) / 2)


def test_the_frechet_distance_of_a_sample_to_itself_is_0() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4))
    assert frechet(x, x.mean(axis=0), np.cov(x.T, bias=True)) == pytest.approx(0.0, abs=1e-5)


def test_the_frechet_distance_of_normals_on_a_line_is_the_textbooks() -> None:
    # Means 1 and 4, variances 1 and 9: (4 - 1)² + (3 - 1)².
    x = np.array([[0.0], [2.0]])
    assert frechet(x, np.array([4.0]), np.array([[9.0]])) == pytest.approx(9.0 + 4.0)


def test_embeddings_are_those_of_the_published_model() -> None:
    # The first numbers that its page prints for this sentence.
    found = embed(["This is an example sentence"])[0]
    assert found[:5] == pytest.approx([0.0677, 0.0635, 0.0487, 0.0793, 0.0374], abs=1e-4)


def test_texts_of_one_batch_do_not_see_each_other() -> None:
    texts = ["A cat is outdoors", "What is the time?", "The cat sits outside", "hm"]
    together = embed(texts)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(embed([text])[0], row, atol=1e-5)
    assert together[0] @ together[2] > 0.8 > 0.3 > together[0] @ together[1]


def _spoken(words: dict[str, str], thief: str | None = None) -> Traffic:
    """Accounts that say one word each, sixteen times."""
    times = np.arange(16.0).tobytes()
    labels = {n: Label(n == thief, "g", "c" if n == thief else None) for n in words}
    traces = {n: Trace(times, texts=(word,) * 16) for n, word in words.items()}
    return Traffic(Measured([], [], labels, dict.fromkeys(words, times), 0), traces)


def test_mmd_as_published_calls_an_ordinary_customer_unlike_the_mixture_of_all() -> None:
    rng = np.random.default_rng(0)
    place = {word: rng.normal(size=8).astype(np.float32) for word in "abcdefghijklmnop"}

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([place[t] + rng.normal(0, 0.1, 8) for t in texts], np.float32)

    customers = {f"customer-{i}": "abcdefghijklmnop"[i % 16] for i in range(64)}
    detector = MmdEmbeddings(encode)
    detector.fit([_spoken(customers)])
    found = detector.scores(_spoken(customers))
    published = detector.published(0.01)
    assert published is not None
    # Each customer keeps to a word: a window of his is no draw from what all say.
    assert min(found.values()) > published
