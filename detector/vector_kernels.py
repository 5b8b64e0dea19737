"""Numba kernels of `detector.vectors`: normal scores, neighbours, class residuals.

Plain loops in float64 and in a fixed order, compiled without fast-math, so that the figures are
the same on every run and at any number of threads. Distances run over rows in the inner loop,
which vectorises without re-associating a sum.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "CLASS_FIGURES",
    "FEATURES",
    "TAIL_CAP",
    "TRAIL_FIGURES",
    "block_features",
    "cholesky",
    "confidence_odds",
    "expectations",
    "nearest_figures",
    "normal_scores",
    "squared_distances",
    "trail_features",
    "whitened",
    "within_class_covariance",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# What `block_features` returns, in order.
FEATURES: Final = (
    "distance",
    "distance_in_class",
    "own_spacing",
    "agreement",
    "margin",
    "energy_wide",
    "energy_narrow",
    "alignment",
    "class_energy_wide",
    "class_energy_narrow",
    "class_alignment",
    "drift",
    "class_drift",
    "similarity",
    "class_similarity",
    "flatness",
    "tail",
    "label_balance",
    "label_changes",
    "distance_far",
    "energy_centred",
    "class_energy_centred",
    "confidence",
    "border",
    "kernel_margin",
    "trail",
    "trail_flatness",
    "trail_steps",
)
TRAIL_FIGURES: Final = 3  # the last of these, which `trail_features` finds
CLASS_FIGURES: Final = 7  # columns of `expectations`

TAIL_CAP: Final = 6.0  # how far a score may run past the last rank, in scales of the dimension
_NEIGHBOURS: Final = 8
_BIG: Final = 1e300
_FARTHEST: Final = 3.0  # scales by which a single number can be away from an earlier row's
_FLAT: Final = 0.9  # flatness from which a step is as good as flat
_SAME: Final = 1e-9  # squared distance under which two rows count as one input


@njit(cache=True)  # type: ignore[untyped-decorator]
def normal_scores(rows: Floats, columns: Floats, table: Floats, scale: Floats) -> Floats:
    """Mid-ranks of `rows` (n, d) among sorted `columns` (d, m), as normal scores (n, d).

    `table` (2m + 1,) maps less + less-or-equal counts to scores. Past the first and last rank
    the score goes on in steps of `scale` (d,), up to `TAIL_CAP`, so that noise far outside of
    what customers send does not look like their extremes.
    """
    n, d = rows.shape
    m = columns.shape[1]
    out = np.empty((n, d))
    for k in range(d):
        column = columns[k]
        low = column[0]
        high = column[m - 1]
        for i in range(n):
            x = rows[i, k]
            if x < low:
                out[i, k] = table[0] - min((low - x) / scale[k], TAIL_CAP)
            elif x > high:
                out[i, k] = table[2 * m] + min((x - high) / scale[k], TAIL_CAP)
            else:
                less = np.searchsorted(column, x, side="left")
                upto = np.searchsorted(column, x, side="right")
                out[i, k] = table[less + upto]
    return out


@njit(cache=True)  # type: ignore[untyped-decorator]
def squared_distances(scores: Floats, others: Floats) -> Floats:
    """Squared Euclidean distances (n, m) of `scores` (n, d) to the columns of `others` (d, m)."""
    n, d = scores.shape
    m = others.shape[1]
    out = np.zeros((n, m))
    for i in range(n):
        total = out[i]
        for k in range(d):
            x = scores[i, k]
            other = others[k]
            for j in range(m):
                gap = other[j] - x
                total[j] += gap * gap
    return out


@njit(cache=True)  # type: ignore[untyped-decorator]
def within_class_covariance(rows: Floats, codes: Ints, means: Floats) -> Floats:
    """Covariance (d, d) of `rows` (d, m) around the mean of their class (classes, d).

    The last row of `means` stands for rows without a class (code -1).
    """
    d, m = rows.shape
    centred = np.empty((m, d))
    for j in range(m):
        for k in range(d):
            centred[j, k] = rows[k, j] - means[codes[j], k]
    out = np.zeros((d, d))
    for j in range(m):
        for a in range(d):
            x = centred[j, a]
            for b in range(d):
                out[a, b] += x * centred[j, b]
    for a in range(d):
        for b in range(d):
            out[a, b] /= m
    return out


@njit(cache=True)  # type: ignore[untyped-decorator]
def cholesky(matrix: Floats, ridge: float) -> Floats:
    """Lower factor (d, d) of `matrix` + `ridge` on its diagonal, which must be definite."""
    d = matrix.shape[0]
    out = np.zeros((d, d))
    for a in range(d):
        for b in range(a + 1):
            total = matrix[a, b]
            if a == b:
                total += ridge
            for k in range(b):
                total -= out[a, k] * out[b, k]
            if a == b:
                out[a, a] = np.sqrt(max(total, 1e-12))
            else:
                out[a, b] = total / out[b, b]
    return out


@njit(cache=True)  # type: ignore[untyped-decorator]
def nearest_figures(vectors: Floats, values: Floats, used: int, own: int, count: int) -> Floats:
    """The `count` rows of `vectors` (N, F) nearest to row `own`, itself left out, among the first
    `used`, of equally near ones the first: mean and deviation of their `values` (N,), and the
    distance of the farthest (3,)."""
    width = vectors.shape[1]
    near = np.full(count, _BIG)
    at = np.full(count, -1, dtype=np.int64)
    for j in range(used):
        if j == own:
            continue
        gap = 0.0
        for k in range(width):
            step = vectors[j, k] - vectors[own, k]
            gap += step * step
        if gap < near[count - 1]:
            q = count - 1
            while q > 0 and near[q - 1] > gap:
                near[q] = near[q - 1]
                at[q] = at[q - 1]
                q -= 1
            near[q] = gap
            at[q] = j
    out = np.zeros(3)
    for q in range(count):
        out[0] += values[at[q]] / count
    for q in range(count):
        out[1] += (values[at[q]] - out[0]) ** 2 / count
    out[1] = np.sqrt(out[1])
    out[2] = np.sqrt(near[count - 1])
    return out


@njit(cache=True)  # type: ignore[untyped-decorator]
def trail_features(rows: Floats, trail: NDArray[np.float32], used: int, scale: Floats) -> Floats:
    """How rows (n, d) follow from what anybody sent before: `trail` (d, m), of which `used` count,
    and the rows before them.

    Median over rows of the log distance to the nearest such row, in steps of `scale` (d,); mean
    flatness of the step from there, 1 when all numbers change by as much and 1/d when one does;
    and the share of rows whose step is as good as flat (3,). Identical rows are no step. The first
    two are NaN where no row has one.
    """
    n, d = rows.shape
    gaps = np.empty(used)
    far = np.empty(n)
    steps = 0
    flat = 0.0
    flattest = 0.0
    for i in range(n):
        gaps[:] = 0.0
        for k in range(d):
            for j in range(used):
                step = min(abs(trail[k, j] - rows[i, k]) / scale[k], _FARTHEST)
                gaps[j] += step * step
        nearest = _BIG
        at = -1
        for j in range(used):
            if _SAME < gaps[j] < nearest:
                nearest = gaps[j]
                at = j
        before = -1
        for j in range(i):
            gap = 0.0
            for k in range(d):
                step = min(abs(rows[j, k] - rows[i, k]) / scale[k], _FARTHEST)
                gap += step * step
            if _SAME < gap < nearest:
                nearest = gap
                before = j
        if nearest == _BIG:
            continue
        total = 0.0
        square = 0.0
        for k in range(d):
            base = rows[before, k] if before >= 0 else trail[k, at]
            step = min(abs(rows[i, k] - base) / scale[k], 1e6)
            total += step
            square += step * step
        flatness = total * total / (d * square)
        far[steps] = 0.5 * np.log(nearest / d)
        steps += 1
        flat += flatness
        flattest += flatness > _FLAT
    out = np.full(3, np.nan)
    if steps > 0:
        out[0] = _median(far, steps)
        out[1] = flat / steps
    out[2] = flattest / n
    return out


@njit(cache=True)  # type: ignore[untyped-decorator]
def _residual(
    x: Floats, mean: Floats, covariance: Floats, factor: Floats, solved: Floats
) -> tuple[float, ...]:
    """Energy, whitened energy and off-diagonal quadratic form of `x` around `mean`.

    `solved` (d,) receives the whitened residual.
    """
    d = x.shape[0]
    r = np.empty(d)
    wide = 0.0
    for a in range(d):
        r[a] = x[a] - mean[a]
        wide += r[a] * r[a]
    narrow = 0.0
    for a in range(d):
        total = r[a]
        for b in range(a):
            total -= factor[a, b] * solved[b]
        solved[a] = total / factor[a, a]
        narrow += solved[a] * solved[a]
    aligned = 0.0
    for a in range(d):
        total = 0.0
        for b in range(d):
            total += covariance[a, b] * r[b]
        aligned += r[a] * (total - covariance[a, a] * r[a])
    return wide, narrow, aligned


@njit(cache=True)  # type: ignore[untyped-decorator]
def _centred_energy(white: Floats, n: int) -> float:
    """Mean log of whitened energy around the block's own mean, as if that mean were known.

    An instrument that is off by the same amount on every row has none of it; noise has.
    """
    d = white.shape[1]
    mean = np.zeros(d)
    for i in range(n):
        for k in range(d):
            mean[k] += white[i, k] / n
    total = 0.0
    for i in range(n):
        energy = 0.0
        for k in range(d):
            energy += (white[i, k] - mean[k]) ** 2
        total += np.log(max(energy / d * n / (n - 1.0), 1e-9))
    return total / n


@njit(cache=True)  # type: ignore[untyped-decorator]
def confidence_odds(confidence: float) -> float:
    """Log-odds of a confidence, kept between those of .01 and .99: beyond, rounding decides."""
    inside = min(max(confidence, 0.01), 0.99)
    return float(np.log(inside / (1.0 - inside)))


@njit(cache=True)  # type: ignore[untyped-decorator]
def whitened(rows: Floats, factor: Floats) -> Floats:
    """`rows` (n, d) in the coordinates in which the covariance of `factor` is the identity."""
    n, d = rows.shape
    out = np.empty((n, d))
    for i in range(n):
        for a in range(d):
            total = rows[i, a]
            for b in range(a):
                total -= factor[a, b] * out[i, b]
            out[i, a] = total / factor[a, a]
    return out


@njit(cache=True)  # type: ignore[untyped-decorator]
def _border(white: Floats, code: int, class_means: Floats) -> float:
    """Signed distance of a whitened row (d,) to the linear discriminant between its class and the
    nearest other one, among whitened `class_means` (classes + 1, d); negative beyond it."""
    d = white.shape[0]
    own = 0.0
    for k in range(d):
        own += (white[k] - class_means[code, k]) ** 2
    best = _BIG
    for c in range(class_means.shape[0] - 1):
        if c == code:
            continue
        other = 0.0
        apart = 1e-9
        for k in range(d):
            other += (white[k] - class_means[c, k]) ** 2
            apart += (class_means[code, k] - class_means[c, k]) ** 2
        best = min(best, 0.5 * (other - own) / np.sqrt(apart))
    return best if best < _BIG else 0.0


@njit(cache=True)  # type: ignore[untyped-decorator]
def _kernel_margin(gaps: Floats, usable: NDArray[np.bool_], codes: Ints, code: int, h: float):  # type: ignore[no-untyped-def]
    """Log-odds of class `code` by votes of all rows at squared distances `gaps` (m,), each of
    the weight (h / (h + gap))^4."""
    same = 0.0
    other = 0.0
    for j in range(gaps.shape[0]):
        if not usable[j] or gaps[j] <= _SAME:
            continue
        vote = h / (h + gaps[j])
        vote *= vote
        vote *= vote
        if codes[j] == code:
            same += vote
        else:
            other += vote
    floor = 0.02 * (same + other) + 1e-12
    return np.log((same + floor) / (other + floor))


@njit(cache=True)  # type: ignore[untyped-decorator]
def _median(values: Floats, count: int) -> float:
    if count == 0:
        return 0.0
    ordered = np.sort(values[:count])
    half = count // 2
    if count % 2:
        return float(ordered[half])
    return float(0.5 * (ordered[half - 1] + ordered[half]))


@njit(cache=True)  # type: ignore[untyped-decorator]
def block_features(
    raw: Floats,  # (n, d) distinct rows
    codes: Ints,  # (n,) class of each row, -1 without a known one
    scores: Floats,  # (n, d)
    distances: Floats,  # (n, m) squared, to the reservoir
    usable: NDArray[np.bool_],  # (m,) rows of others that still stand
    known_raw: Floats,  # (m, d)
    known_codes: Ints,  # (m,)
    scale: Floats,  # (d,)
    bandwidth: float,
    means: Floats,  # (classes + 1, d); the last is the mean of all
    covariance: Floats,  # (d, d) within classes
    factor: Floats,
    covariance_all: Floats,  # (d, d) of all
    factor_all: Floats,
    expected: Floats,  # (classes + 1, CLASS_FIGURES): see `expectations`
    share: Floats,  # (classes,) of the reservoir
    confidences: Floats,  # (n,) the model's, NaN where it is not logged
    expected_confidence: Floats,  # (classes + 1,) mean log-odds of the reservoir's
    class_means: Floats,  # (classes + 1, d) `means`, whitened by `factor`
) -> Floats:
    """The features named in `FEATURES` but the trail's, free of the dimension.

    NaN where the log does not say.

    Differences from `expected` (per class, the last row for all) make classes comparable.
    """
    n, d = raw.shape
    m = distances.shape[1]
    classes = share.shape[0]
    out = np.zeros(len(FEATURES) - TRAIL_FIGURES)

    trace = 0.0
    trace_all = 0.0
    off = 1e-12
    off_all = 1e-12
    for a in range(d):
        trace += covariance[a, a]
        trace_all += covariance_all[a, a]
        for b in range(d):
            if a != b:
                off += covariance[a, b] * covariance[a, b]
                off_all += covariance_all[a, b] * covariance_all[a, b]
    trace = max(trace, 1e-9)
    trace_all = max(trace_all, 1e-9)

    inside = whitened(scores, factor)
    white = np.empty((n, d))
    class_white = np.empty((n, d))
    third = np.empty(n)
    third_same = np.empty(n)
    labelled = 0
    sure = 0
    near = np.empty(_NEIGHBOURS)
    near_code = np.empty(_NEIGHBOURS, dtype=np.int64)
    same3 = np.empty(3)
    other3 = np.empty(3)
    pairs = 0.0
    for i in range(n):
        code = codes[i]
        for q in range(_NEIGHBOURS):
            near[q] = _BIG
            near_code[q] = -2
        for q in range(3):
            same3[q] = _BIG
            other3[q] = _BIG
        close = 0.0
        close_n = 0
        close_same = 0.0
        close_same_n = 0
        for j in range(m):
            if not usable[j]:
                continue
            gap = distances[i, j]
            like = bandwidth / (bandwidth + gap)
            close += like
            close_n += 1
            same = code >= 0 and known_codes[j] == code
            if same:
                close_same += like
                close_same_n += 1
            if gap <= _SAME:
                continue
            if gap < near[_NEIGHBOURS - 1]:
                q = _NEIGHBOURS - 1
                while q > 0 and near[q - 1] > gap:
                    near[q] = near[q - 1]
                    near_code[q] = near_code[q - 1]
                    q -= 1
                near[q] = gap
                near_code[q] = known_codes[j]
            if same:
                if gap < same3[2]:
                    q = 2
                    while q > 0 and same3[q - 1] > gap:
                        same3[q] = same3[q - 1]
                        q -= 1
                    same3[q] = gap
            elif gap < other3[2]:
                q = 2
                while q > 0 and other3[q - 1] > gap:
                    other3[q] = other3[q - 1]
                    q -= 1
                other3[q] = gap
        third[i] = 0.5 * np.log(max(near[2], _SAME)) - expected[classes, 0]
        out[13] += close / max(close_n, 1) - expected[classes, 4]
        wide, narrow, aligned = _residual(
            scores[i], means[classes], covariance_all, factor_all, white[i]
        )
        out[5] += np.log(max(wide / trace_all, 1e-9))
        out[6] += np.log(max(narrow / d, 1e-9))
        out[7] += aligned / off_all * (trace_all / max(wide, 1e-9))
        excess = 0.0
        for k in range(d):
            excess += min(max(abs(scores[i, k]) - 2.0, 0.0), 4.0)
        out[16] += excess / d
        if np.isfinite(confidences[i]):
            sure += 1
            out[22] += confidence_odds(confidences[i]) - expected_confidence[code]
        if code >= 0 and close_same_n >= 3:
            if same3[2] < _BIG and other3[2] < _BIG:
                third_same[labelled] = 0.5 * np.log(max(same3[2], _SAME)) - expected[code, 1]
                out[4] += (
                    0.5 * np.log(max(same3[2], _SAME) / max(other3[2], _SAME)) - expected[code, 3]
                )
            else:
                third_same[labelled] = 0.0
            labelled += 1
            agree = 0
            for q in range(_NEIGHBOURS):
                agree += near_code[q] == code
            out[3] += agree / _NEIGHBOURS - expected[code, 2]
            out[23] += _border(inside[i], code, class_means) - expected[code, 5]
            out[24] += (
                _kernel_margin(distances[i], usable, known_codes, code, near[2]) - expected[code, 6]
            )
            out[14] += close_same / close_same_n - expected[code, 4]
            wide, narrow, aligned = _residual(
                scores[i], means[code], covariance, factor, class_white[labelled - 1]
            )
            out[8] += np.log(max(wide / trace, 1e-9))
            out[9] += np.log(max(narrow / d, 1e-9))
            out[10] += aligned / off * (trace / max(wide, 1e-9))

    out[0] = _median(third, n)
    out[19] = np.sort(third)[(9 * (n - 1)) // 10]
    out[20] = _centred_energy(white, n)
    if labelled >= 4:
        out[21] = _centred_energy(class_white, labelled)
    out[22] = out[22] / sure if sure > 0 else np.nan
    for f in (5, 6, 7, 13, 16):
        out[f] /= n
    if labelled > 0:
        out[1] = _median(third_same, labelled)
    for f in (3, 4, 8, 9, 10, 14, 23, 24):
        out[f] = out[f] / labelled if labelled > 0 else np.nan
    if labelled == 0:
        for f in (1, 12, 17, 18, 21):
            out[f] = np.nan

    # Pairs inside of the block: spacing, unbiased MMD² (all, and within a class), flatness.
    spacing = np.empty(n)
    inner = 0.0
    inner_same = 0.0
    pairs_same = 0.0
    same_expected = 0.0
    flat = 0.0
    flat_n = 0
    for i in range(n):
        nearest = _BIG
        earlier = _BIG
        earlier_at = -1
        for j in range(n):
            if i == j:
                continue
            gap = 0.0
            for k in range(d):
                step = scores[i, k] - scores[j, k]
                gap += step * step
            like = bandwidth / (bandwidth + gap)
            inner += like
            pairs += 1.0
            if codes[i] >= 0 and codes[i] == codes[j]:
                inner_same += like - expected[codes[i], 4]
                pairs_same += 1.0
            nearest = min(nearest, gap)
            if j < i and gap < earlier:
                earlier = gap
                earlier_at = j
        spacing[i] = 0.5 * np.log(max(nearest, _SAME)) - expected[classes, 0]
        known_at = -1
        for j in range(m):
            if _SAME < distances[i, j] < earlier:
                earlier = distances[i, j]
                known_at = j
        if earlier_at < 0 and known_at < 0:
            continue
        total = 0.0
        square = 0.0
        for k in range(d):
            base = raw[earlier_at, k] if known_at < 0 else known_raw[known_at, k]
            step = min(abs(raw[i, k] - base) / scale[k], 1e6)
            total += step
            square += step * step
        if square > 1e-18:
            flat += total * total / (d * square)
            flat_n += 1
    if pairs > 0:
        out[2] = _median(spacing, n)
        out[11] = inner / pairs - expected[classes, 4] - 2.0 * out[13]
    if pairs_same > 0:
        same_expected = inner_same / pairs_same
        out[12] = same_expected - 2.0 * out[14]
    if flat_n > 0:
        out[15] = flat / flat_n

    if labelled >= 4 and classes >= 2:
        # Share of pairs of rows with one label, against what the reservoir's classes give, on
        # all pairs (balance) and on successive ones (changes).
        collision = 0.0
        for c in range(classes):
            collision += share[c] * share[c]
        alike = 0.0
        pairs = 0.0
        runs = 0.0
        steps = 0.0
        for i in range(n):
            if codes[i] < 0:
                continue
            for j in range(i + 1, n):
                if codes[j] < 0:
                    continue
                alike += codes[i] == codes[j]
                pairs += 1.0
            if i > 0 and codes[i - 1] >= 0:
                runs += codes[i] == codes[i - 1]
                steps += 1.0
        if pairs > 0:
            out[17] = collision - alike / pairs
        if steps > 0 and pairs > 0:
            out[18] = alike / pairs - runs / steps
    return out


@njit(cache=True)  # type: ignore[untyped-decorator]
def expectations(
    distances: Floats,
    codes: Ints,
    owner: Ints,
    classes: int,
    bandwidth: float,
    inside: Floats,
    class_means: Floats,
) -> Floats:
    """What the first rows of the reservoir give against other accounts' rows (classes + 1, 7).

    Columns: log third-neighbour distance (median over all; mean within the class), the same
    within the class, share of eight neighbours with the row's class, log of third-nearest same
    over third-nearest other, mean similarity (to the class; in the last row to all), distance of
    the whitened rows `inside` (n, d) to the border of their class, and log-odds of their class by
    votes of all rows. Classes of few rows lean on the mean over classes by the weight of five rows.
    """
    n, m = distances.shape
    out = np.zeros((classes + 1, CLASS_FIGURES))
    third = np.empty(n)
    thirds = 0
    counts = np.zeros((classes + 1, CLASS_FIGURES))
    others = np.empty(m, dtype=np.bool_)
    near = np.empty(_NEIGHBOURS)
    near_code = np.empty(_NEIGHBOURS, dtype=np.int64)
    same3 = np.empty(3)
    other3 = np.empty(3)
    for i in range(n):
        code = codes[i]
        near[:] = _BIG
        near_code[:] = -2
        same3[:] = _BIG
        other3[:] = _BIG
        close = 0.0
        close_n = 0
        close_same = 0.0
        close_same_n = 0
        for j in range(m):
            others[j] = owner[j] != owner[i]
            if not others[j]:
                continue
            gap = distances[i, j]
            like = bandwidth / (bandwidth + gap)
            same = code >= 0 and codes[j] == code
            close += like
            close_n += 1
            if same:
                close_same += like
                close_same_n += 1
            if gap <= _SAME:
                continue
            if gap < near[_NEIGHBOURS - 1]:
                q = _NEIGHBOURS - 1
                while q > 0 and near[q - 1] > gap:
                    near[q] = near[q - 1]
                    near_code[q] = near_code[q - 1]
                    q -= 1
                near[q] = gap
                near_code[q] = codes[j]
            if same:
                if gap < same3[2]:
                    q = 2
                    while q > 0 and same3[q - 1] > gap:
                        same3[q] = same3[q - 1]
                        q -= 1
                    same3[q] = gap
            elif gap < other3[2]:
                q = 2
                while q > 0 and other3[q - 1] > gap:
                    other3[q] = other3[q - 1]
                    q -= 1
                other3[q] = gap
        if near[2] < _BIG:
            third[thirds] = 0.5 * np.log(max(near[2], _SAME))
            thirds += 1
        if close_n > 0:
            out[classes, 4] += close / close_n
            counts[classes, 4] += 1.0
        if code < 0:
            continue
        if same3[2] < _BIG:
            out[code, 1] += 0.5 * np.log(max(same3[2], _SAME))
            counts[code, 1] += 1.0
            if other3[2] < _BIG:
                out[code, 3] += 0.5 * np.log(max(same3[2], _SAME) / max(other3[2], _SAME))
                counts[code, 3] += 1.0
        agree = 0
        for q in range(_NEIGHBOURS):
            agree += near_code[q] == code
        out[code, 2] += agree / _NEIGHBOURS
        counts[code, 2] += 1.0
        out[code, 5] += _border(inside[i], code, class_means)
        counts[code, 5] += 1.0
        out[code, 6] += _kernel_margin(distances[i], others, codes, code, near[2])
        counts[code, 6] += 1.0
        if close_same_n > 0:
            out[code, 4] += close_same / close_same_n
            counts[code, 4] += 1.0
    out[classes, 0] = _median(third, thirds)
    if counts[classes, 4] > 0:
        out[classes, 4] /= counts[classes, 4]
    for f in range(1, CLASS_FIGURES):
        total = 0.0
        count = 0.0
        for c in range(classes):
            total += out[c, f]
            count += counts[c, f]
        mean = total / count if count > 0 else 0.0
        for c in range(classes):
            out[c, f] = (out[c, f] + 5.0 * mean) / (counts[c, f] + 5.0)
    return out
