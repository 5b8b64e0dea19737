"""Intervals for what the benchmark counts. Every interval is of 95 % unless said otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

__all__ = ["Share", "clustered", "exceeded", "mean_of_rows", "pooled", "upper_bound", "wilson"]

Floats = NDArray[np.float64]

_LEVEL: Final = 0.95
_DRAWS: Final = 2000
_FEWEST_CLUSTERS: Final = 10  # below, resampled clusters repeat so often that the interval is short


class Share(msgspec.Struct, frozen=True):
    """A share with its interval: `count` of `of`, and `low` ≤ `estimate` ≤ `high`."""

    count: float
    of: int
    estimate: float
    low: float
    high: float


def _share(count: float, of: int, estimate: float, low: float, high: float) -> Share:
    # Percentiles of a bootstrap may miss the estimate by a rounding.
    return Share(count, of, estimate, min(low, estimate), max(high, estimate))


def wilson(share: float, n: float, level: float = _LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share of `n` independent trials (Wilson 1927).

    `n` may be an effective number of trials; 0 gives the whole of [0, 1].
    """
    if n <= 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + level / 2))
    centre = share + z * z / (2 * n)
    spread = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    scale = 1 + z * z / n
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)


def upper_bound(count: int, n: int, level: float = _LEVEL) -> float:
    """The exact one-sided upper bound of a share (Clopper and Pearson 1934); 1 when n is 0."""
    if count >= n:
        return 1.0
    return float(beta.ppf(level, count + 1, n - count))


def pooled(hits: Sequence[bool]) -> Share:
    """The share of independent trials that hit, with Wilson's interval."""
    n, count = len(hits), sum(hits)
    if not n:
        return _share(0, 0, 0.0, 0.0, 1.0)
    return _share(count, n, count / n, *wilson(count / n, n))


def clustered(counts: Sequence[tuple[float, int]], seed: int = 0) -> Share:
    """The share over clusters of trials that are alike, as the accounts of a campaign are.

    Whole clusters are resampled with replacement (the cluster bootstrap; Davison and Hinkley 1997,
    section 3.8) and the interval is of the resampled ratios' percentiles. With fewer than ten
    clusters, or where all clusters agree, it is Wilson's with the number of clusters as the number
    of trials: as if the accounts of one cluster could only fall together.

    Args:
        counts: (hits, trials) of each cluster, trials > 0.
        seed: of the resampling.
    """
    if not counts:
        return _share(0, 0, 0.0, 0.0, 1.0)
    hits = np.array([hit for hit, _ in counts], dtype=np.float64)
    trials = np.array([n for _, n in counts], dtype=np.float64)
    count, of = float(hits.sum()), int(trials.sum())
    estimate = count / of
    if len(counts) < _FEWEST_CLUSTERS or np.ptp(hits / trials) == 0:
        return _share(count, of, estimate, *wilson(estimate, len(counts)))
    drawn = _resampled(np.random.default_rng(seed), len(counts))
    low, high = np.quantile(
        (hits[drawn].sum(axis=1) / trials[drawn].sum(axis=1)), _tails(), method="linear"
    )
    return _share(count, of, estimate, float(low), float(high))


def mean_of_rows(rows: Mapping[str, Sequence[tuple[float, int]]], seed: int = 0) -> Share:
    """The mean of rows' shares; campaigns are resampled over all rows.

    A row that a draw leaves without a campaign is left out of that draw's mean: so rows of one or
    two campaigns widen the interval, which resampling within rows would hide.

    Args:
        rows: row → (hits, trials) of each of its campaigns; rows without any are left out.
        seed: of the resampling.
    """
    kept = [counts for _, counts in sorted(rows.items()) if counts]
    if not kept:
        return Share(0, 0, 0.0, 0.0, 1.0)
    row = np.repeat(np.arange(len(kept)), [len(counts) for counts in kept])
    hits = np.array([hit for counts in kept for hit, _ in counts], dtype=np.float64)
    trials = np.array([n for counts in kept for _, n in counts], dtype=np.float64)
    shares = np.bincount(row, hits) / np.bincount(row, trials)
    rng = np.random.default_rng(seed)
    means = np.empty(_DRAWS)
    for draw in range(_DRAWS):
        taken = rng.integers(len(row), size=len(row))
        of = np.bincount(row[taken], trials[taken], minlength=len(kept))
        caught = np.bincount(row[taken], hits[taken], minlength=len(kept))
        means[draw] = (caught[of > 0] / of[of > 0]).mean()
    low, high = np.quantile(means, _tails())
    return _share(float(shares.sum()), len(kept), float(shares.mean()), float(low), float(high))


def exceeded(scores: Floats, rate: float) -> float:
    """The threshold that at most `rate` of the scores lie above, strictly.

    Ties count as not above, so the realised share on these scores never passes `rate`.

    Args:
        scores: of customers, at least one, float64 (N,); -inf for "no opinion".
    """
    ordered = np.sort(scores)[::-1]
    return float(ordered[min(int(rate * len(ordered)), len(ordered) - 1)])


def _resampled(rng: np.random.Generator, clusters: int) -> NDArray[np.int64]:
    return rng.integers(clusters, size=(_DRAWS, clusters))


def _tails() -> tuple[float, float]:
    return (1 - _LEVEL) / 2, (1 + _LEVEL) / 2
