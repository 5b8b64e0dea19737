"""Inter-arrival regularity: how a block's requests are spaced.

All on log gaps in milliseconds' resolution and free of scale: a script, a batch job and a person
differ in the shape of their gaps, not in their size. RITA's beacon score (quartile skew and MAD of
the gaps) is the origin of `bowley` and `dispersion`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from features.base import Array, Feature, Slots, StateColumn

__all__ = ["Timing"]

_FLOOR_S = 1e-3  # gateways log milliseconds: a gap below one is a gap of one


@njit(cache=True)
def _quantile(values, n, q):  # type: ignore[no-untyped-def]
    # Linear interpolation between order statistics, as numpy's default.
    position = q * (n - 1)
    low = int(position)
    if low + 1 >= n:
        return values[n - 1]
    return values[low] + (position - low) * (values[low + 1] - values[low])


@njit(cache=True)
def _measure(n_events, arrivals, latency, out):  # type: ignore[no-untyped-def]
    bins = np.zeros(32, dtype=np.int64)
    for b in range(len(n_events)):
        out[b, :] = 0.0
        n = n_events[b]
        if n < 2:
            continue
        order = np.argsort(arrivals[b, :n])
        ts = arrivals[b, :n][order]
        m = n - 1
        gap = np.empty(m)
        log_gap = np.empty(m)
        for i in range(m):
            gap[i] = max(ts[i + 1] - ts[i], _FLOOR_S)
            log_gap[i] = np.log10(gap[i])
        ranked = np.sort(log_gap)
        q1, q2, q3 = (
            _quantile(ranked, m, 0.25),
            _quantile(ranked, m, 0.5),
            _quantile(ranked, m, 0.75),
        )
        out[b, 0], out[b, 1], out[b, 2] = q1, q2, q3
        if q3 - q1 > 1e-9:
            out[b, 3] = (q3 + q1 - 2.0 * q2) / (q3 - q1)
        deviation = np.sort(np.abs(log_gap - q2))
        out[b, 4] = _quantile(deviation, m, 0.5)
        mean = 0.0
        for i in range(m):
            mean += gap[i]
        mean /= m
        variance = 0.0
        for i in range(m):
            variance += (gap[i] - mean) ** 2
        out[b, 5] = np.log1p(np.sqrt(variance / m) / mean)
        # Entropy of the gaps in quarter-decade bins, over its maximum.
        bins[:] = 0
        for i in range(m):
            k = int((log_gap[i] + 3.0) * 4.0)
            bins[min(max(k, 0), 31)] += 1
        entropy = 0.0
        for k in range(32):
            if bins[k]:
                p = bins[k] / m
                entropy -= p * np.log2(p)
        out[b, 6] = entropy / np.log2(max(m, 2))
        mean_log = 0.0
        for i in range(m):
            mean_log += log_gap[i]
        mean_log /= m
        var_log = 0.0
        lag = 0.0
        for i in range(m):
            var_log += (log_gap[i] - mean_log) ** 2
            if i:
                lag += (log_gap[i] - mean_log) * (log_gap[i - 1] - mean_log)
        if var_log > 1e-9:
            out[b, 7] = lag / var_log
        # Lattice: gaps within 5 % of the median one. Closed loop: a gap just after the answer.
        centre = 10.0**q2
        same = 0
        loop = 0
        answered = 0
        for i in range(m):
            if abs(gap[i] - centre) <= 0.05 * centre:
                same += 1
            waited = latency[b, order[i]]
            if waited > 0.0:
                answered += 1
                if 0.0 <= gap[i] - waited <= 0.1 * waited + 0.05:
                    loop += 1
        out[b, 8] = same / m
        if answered:
            out[b, 9] = loop / answered
        # Duty cycle and Fano factor of the counts in ten equal parts of the span.
        span = ts[m] - ts[0]
        out[b, 10] = np.log10(max(span, _FLOOR_S))
        bins[:10] = 0
        for i in range(n):
            k = 0
            if span > 0.0:
                k = min(int(10.0 * (ts[i] - ts[0]) / span), 9)
            bins[k] += 1
        busy = 0
        spread = 0.0
        for k in range(10):
            if bins[k]:
                busy += 1
            spread += (bins[k] - n / 10.0) ** 2
        out[b, 11] = busy / 10.0
        out[b, 12] = np.log1p(spread / 10.0 / (n / 10.0))


class Timing:
    """Thirteen numbers of the spacing of a block's requests; zeros for a single request."""

    name = "timing"
    version = 1
    features = (
        Feature("gap_q25", "quarter of the gaps are shorter (log10 s)"),
        Feature("gap_q50", "median gap (log10 s)"),
        Feature("gap_q75", "quarter of the gaps are longer (log10 s)"),
        Feature("bowley", "quartile skew of the log gaps, -1 to 1; 0 for a symmetric spacing"),
        Feature("dispersion", "median deviation of the log gaps; 0 for a metronome"),
        Feature("gap_cv", "log(1 + coefficient of variation of the gaps); 0.69 for Poisson"),
        Feature("gap_entropy", "spread of the gaps over quarter decades, 0 (one gap) to 1"),
        Feature("lag1", "correlation of a log gap with the next"),
        Feature("lattice", "share of the gaps within 5 % of the median gap"),
        Feature("closed_loop", "share of the requests sent just after the previous answer"),
        Feature("span", "time from the first to the last request (log10 s)"),
        Feature("duty", "share of ten equal parts of that time with a request"),
        Feature("fano", "log(1 + variance over mean of the counts in these parts)"),
    )
    state: tuple[StateColumn, ...] = ()

    def measure(self, slots: Slots, rows: Array, state: Mapping[str, Array], out: Array) -> None:
        """See `features.base.Family`."""
        _measure(slots.n, slots.ts, slots.latency, out)
