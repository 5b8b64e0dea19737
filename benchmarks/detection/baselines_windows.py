"""Baselines that compare a window of inputs with customers' inputs: MMD and D-ADD."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.baselines import Detector, Trace, Traffic
from benchmarks.detection.minilm import embed
from benchmarks.detection.statistics import exceeded

__all__ = ["AccountAware", "MmdEmbeddings", "MmdRows", "frechet", "median_bandwidth", "mmd2"]

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]

_REFERENCE: Final = 1000
_NULL_WINDOWS: Final = 4000
_WINDOW: Final = 32
_LEAST: Final = 8
_TOKENS: Final = 64
_CUSTOMERS_EMBEDDED: Final = 1000
_TEST_CUSTOMERS: Final = 300
_OF_CAMPAIGN: Final = 8


def median_bandwidth(x: NDArray[Any]) -> float:
    """The median distance between two of the rows (the median heuristic; Gretton et al. 2012)."""
    step = max(1, len(x) // 500)
    few = x[::step]
    squares = _squares(few, few)
    return math.sqrt(max(float(np.median(squares[np.triu_indices(len(few), 1)])), 1e-12))


def mmd2(x: NDArray[Any], reference: NDArray[Any], bandwidth: float, within: float) -> float:
    """The unbiased squared MMD of a window to the reference (Gretton et al. 2012, equation 3).

    Args:
        x: the window, (m, d), m > 1.
        reference: (n, d).
        bandwidth: σ of the Gaussian kernel exp(-|a - b|²/2σ²).
        within: the mean of the kernel over pairs of the reference, which is the same each time.
    """
    own = _kernel(x, x, bandwidth)
    m = len(x)
    inside = (float(own.sum()) - m) / (m * (m - 1))
    return inside + within - 2.0 * float(_kernel(x, reference, bandwidth).mean())


def _squares(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    dots = a @ b.T
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2.0 * dots
    return np.maximum(squares, 0.0)


def _kernel(a: NDArray[Any], b: NDArray[Any], bandwidth: float) -> Floats:
    found: Floats = np.exp(-_squares(a, b) / (2.0 * bandwidth * bandwidth))
    return found


class _Reference:
    """Rows of customers, their bandwidth and their mean kernel."""

    def __init__(self, rows: NDArray[Any]) -> None:
        self.rows = np.asarray(rows, np.float32)
        self.bandwidth = median_bandwidth(self.rows)
        n = len(self.rows)
        own = _kernel(self.rows, self.rows, self.bandwidth)
        self._within = (float(own.sum()) - n) / (n * (n - 1))

    def distance(self, window: NDArray[Any]) -> float:
        return mmd2(window, self.rows, self.bandwidth, self._within)


class MmdEmbeddings(Detector):
    """MMD of windows of sentence embeddings (Liu, Guo and Dong 2026, arXiv 2606.05725).

    Embedded queries of a window are compared with benign reference queries by MMD with a Gaussian
    kernel, and the threshold comes from benign windows compared with the reference. As published
    those windows are drawn from pooled benign traffic (`published`); calibrated on customers they
    are single customers' own, as the windows that it then judges are. Their encoder is
    bge-small-en-v1.5 and their windows hold 1,500 queries, more than most accounts send; here the
    encoder is all-MiniLM-L6-v2 on the first 64 tokens, and an account's window is 16 of its first
    512 texts. Embedding all accounts would take hours, so 1,000 customers set the threshold, and
    300 customers and eight accounts of each campaign of a test week are judged.
    """

    name = "MMD on MiniLM windows"
    reads = "text"

    def __init__(self, encode: Callable[[Sequence[str]], Rows] | None = None) -> None:
        self._encoder = encode
        self._null: Floats = np.zeros(1)

    def _encode(self, texts: Sequence[str]) -> Rows:
        return embed(texts, _TOKENS) if self._encoder is None else self._encoder(texts)

    def fit(self, customers: Sequence[Traffic]) -> None:
        """Embed the reference and draw the published null: windows of pooled benign traffic."""
        rng = np.random.default_rng(0)
        traces = [trace for traffic in customers for _, trace in sorted(traffic.traces.items())]
        texts = [text for trace in traces for text in trace.texts]
        # Busy accounts send more of the traffic: a text stands for its account's requests.
        weight = np.concatenate(
            [np.full(len(t.texts), len(t.times) / max(len(t.texts), 1)) for t in traces]
        )
        chosen = rng.choice(
            len(texts), size=min(2 * _REFERENCE, len(texts)), replace=False, p=weight / weight.sum()
        )
        rows = self._encode([texts[i] for i in chosen.tolist()])
        half = len(rows) // 2
        self._reference = _Reference(rows[:half])
        pool = rows[half:]
        size = min(16, len(pool))
        self._null = np.array(
            [
                self._reference.distance(pool[rng.choice(len(pool), size=size, replace=False)])
                for _ in range(_NULL_WINDOWS)
            ]
        )

    def published(self, rate: float) -> float | None:
        """What so many of the pooled windows pass."""
        return exceeded(self._null, rate)

    def scores(self, traffic: Traffic) -> dict[str, float]:
        """MMD² of the accounts that are judged; the others are left out."""
        chosen = [name for name in _sample(traffic) if len(traffic.traces[name].texts) >= _LEAST]
        texts = [traffic.traces[name].texts for name in chosen]
        rows = self._encode([text for own in texts for text in own])
        ends = np.cumsum([len(own) for own in texts])
        return {
            name: self._reference.distance(rows[end - len(own) : end])
            for name, own, end in zip(chosen, texts, ends.tolist(), strict=True)
        } | {name: -math.inf for name in _sample(traffic) if name not in set(chosen)}


def _sample(traffic: Traffic) -> list[str]:
    """The accounts that are embedded: without thieves in the week a thousand customers."""
    members: dict[str, list[str]] = defaultdict(list)
    for name in sorted(traffic.traces):
        label = traffic.week.labels[name]
        members[str(label.campaign) if label.harvesting else ""].append(name)
    customers = members.pop("", [])
    most = _TEST_CUSTOMERS if members else _CUSTOMERS_EMBEDDED
    rng = np.random.default_rng(1)
    chosen = [customers[i] for i in rng.permutation(len(customers))[:most].tolist()]
    for own in members.values():
        chosen += [own[i] for i in rng.permutation(len(own))[:_OF_CAMPAIGN].tolist()]
    return chosen


class MmdRows(Detector):
    """MMD of windows of 32 rows, or of sketches of texts, for all accounts; the worst window.

    For vectors the reference is of the same model and week, eight rows of each honest account: more
    than an operator knows, to this baseline's advantage.
    """

    name = "MMD on windows"
    reads = "both"

    def fit(self, customers: Sequence[Traffic]) -> None:
        """Draw the reference of texts."""
        rng = np.random.default_rng(0)
        rows = [
            trace.matrix[rng.permutation(len(trace.matrix))[:4]]
            for traffic in customers
            for _, trace in sorted(traffic.traces.items())
            if not trace.labels and trace.rows
        ]
        self._text = None
        if rows:
            pool = np.concatenate(rows)
            self._text = _Reference(pool[rng.permutation(len(pool))[:_REFERENCE]])

    def scores(self, traffic: Traffic) -> dict[str, float]:
        """MMD² of the worst window."""
        models = _by_model(traffic, 8)
        references = {model: _Reference(rows) for model, (rows, _) in models.items()}
        found = {}
        for name, trace in traffic.traces.items():
            reference = references.get(trace.model) if trace.labels else self._text
            scale = models[trace.model][1] if trace.model in models else np.float32(1.0)
            found[name] = -math.inf
            if reference is not None and trace.rows:
                windows = _windows(trace)
                found[name] = max(
                    (reference.distance(w / scale) for w in windows), default=-math.inf
                )
        return found


def _windows(trace: Trace) -> list[NDArray[np.float32]]:
    rows = trace.matrix
    return [
        rows[start : start + _WINDOW]
        for start in range(0, len(rows), _WINDOW)
        if len(rows) - start >= _LEAST
    ]


def _by_model(traffic: Traffic, most: int) -> dict[str, tuple[Rows, Rows]]:
    """Model → at most `_REFERENCE` scaled rows of honest accounts, and each dimension's scale."""
    rows: dict[str, list[Rows]] = defaultdict(list)
    for name, trace in sorted(traffic.traces.items()):
        if trace.labels and not traffic.week.labels[name].harvesting:
            rows[trace.model].append(trace.matrix[:most])
    found = {}
    rng = np.random.default_rng(0)
    for model, parts in rows.items():
        every = np.concatenate(parts)
        scale = np.maximum(every.std(axis=0), 1e-6)
        chosen = rng.permutation(len(every))[:_REFERENCE]
        found[model] = (every[chosen] / scale, scale)
    return found


def frechet(x: NDArray[Any], mean: Floats, covariance: Floats) -> float:
    """Squared Fréchet distance of a sample's normal distribution to a known one.

    |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½) (Dowson and Landau 1982), the sample's covariance without
    a correction. Its root's trace is that of the m × m matrix AΣ₂Aᵀ/m, A the centred sample, whose
    eigenvalues are those of Σ₁Σ₂ that are not 0.
    """
    x = np.asarray(x, np.float64)
    own = x.mean(axis=0)
    centred = x - own
    step = own - mean
    inner = np.linalg.eigvalsh(centred @ covariance @ centred.T / len(x))
    root = float(np.sqrt(np.maximum(inner, 0.0)).sum())
    spread = float((centred * centred).sum()) / len(x)
    return float(step @ step) + spread + float(np.trace(covariance)) - 2.0 * root


class AccountAware(Detector):
    """D-ADD's account-aware distribution discrepancy for labelled vectors (Mei et al. 2025).

    Each class of the model is a normal distribution; a window of an account is scored by the mean
    of its classes' squared Fréchet distances, weighted by how many of the window's rows each has
    (arXiv 2503.12497, and `utils.py` of the authors' code). Their space is the model's last layer;
    an API's log has inputs, so here each dimension is scaled by its standard deviation. Class
    statistics come from 64 rows of each honest account of the same model and week: more than an
    operator knows. Scores are over the median of the model's honest windows, as their thresholds
    are set for each model.
    """

    name = "D-ADD"
    reads = "vectors"

    def scores(self, traffic: Traffic) -> dict[str, float]:
        """The worst window of 32 rows."""
        classes, scales = _class_statistics(traffic)
        raw = {
            name: [
                value
                for start in range(0, len(trace.labels), _WINDOW)
                if len(trace.labels) - start >= _LEAST
                and (
                    value := _discrepancy(
                        trace.matrix[start : start + _WINDOW] / scales[trace.model],
                        trace.labels[start : start + _WINDOW],
                        classes[trace.model],
                    )
                )
                > -math.inf
            ]
            for name, trace in traffic.traces.items()
        }
        level: dict[str, list[float]] = defaultdict(list)
        for name, values in raw.items():
            if not traffic.week.labels[name].harvesting:
                level[traffic.traces[name].model] += values
        typical = {model: float(np.median(values)) for model, values in level.items() if values}
        return {
            name: max(values) / max(typical[traffic.traces[name].model], 1e-9)
            if values
            else -math.inf
            for name, values in raw.items()
        }


_Classes = dict[str, tuple[Floats, Floats]]


def _class_statistics(traffic: Traffic) -> tuple[dict[str, _Classes], dict[str, Rows]]:
    rows: dict[tuple[str, str], list[Rows]] = defaultdict(list)
    for name, trace in sorted(traffic.traces.items()):
        if traffic.week.labels[name].harvesting:
            continue
        matrix, labels = trace.matrix[:64], np.array(trace.labels[:64])
        for label in np.unique(labels).tolist():
            rows[(trace.model, label)].append(matrix[labels == label])
    scales = {model: scale for model, (_, scale) in _by_model(traffic, 64).items()}
    classes: dict[str, _Classes] = defaultdict(dict)
    for (model, label), parts in rows.items():
        x = (np.concatenate(parts) / scales[model]).astype(np.float64)
        classes[model][label] = (x.mean(axis=0), np.cov(x.T, bias=True).reshape(x.shape[1], -1))
    return classes, scales


def _discrepancy(x: NDArray[Any], labels: Sequence[str], classes: _Classes) -> float:
    total, seen = 0.0, 0
    named = np.array(labels)
    for label in np.unique(named).tolist():
        if label in classes:
            own = x[named == label]
            total += len(own) * frechet(own, *classes[label])
            seen += len(own)
    return total / seen if seen else -math.inf
