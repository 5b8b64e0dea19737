"""Honest customers of one model: their requests, with the answers that they are due.

Gaps are those of production clients as ServeGen describes them (Gamma renewals, mostly burstier
than Poisson, under a day and night), or Poisson. Volumes are log-normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.fidelity.victims import Requests, Rng, Victim, joined

__all__ = ["DAY", "Crowd", "crowd"]

DAY: Final = 86_400.0
Floats = NDArray[np.float64]
_KINDS: Final = {"live": 0.55, "narrow": 0.2, "batch": 0.15, "monitor": 0.1}


@dataclass(frozen=True)
class Crowd:
    """Everything that all customers send, in the order of arrival.

    `times` are seconds from the start of the log; `who` is a place in `accounts`.
    """

    accounts: list[str]
    times: list[float]
    who: list[int]
    requests: Requests
    labels: list[int]
    confidence: list[float]

    def __len__(self) -> int:
        return len(self.times)


def crowd(victim: Victim, rng: Rng, customers: int, days: float) -> Crowd:
    """The traffic of a number of customers over some days."""
    kinds = rng.choice(list(_KINDS), size=customers, p=list(_KINDS.values())).tolist()
    times: list[Floats] = []
    made: list[Requests] = []
    for kind in kinds:
        n = int(np.clip(rng.lognormal(math.log(70.0), 0.9), 12, 1500))
        own, requests = _one(victim, rng, kind, n, days * DAY)
        times.append(own)
        made.append(requests)
    requests = joined(made)
    every = np.concatenate(times)
    order = np.argsort(every, kind="stable")
    who = np.repeat(np.arange(customers), [len(own) for own in times])
    labels, confidence = victim.answers(requests.features)
    return Crowd(
        accounts=[f"{victim.name}-customer-{i}" for i in range(customers)],
        times=every[order].tolist(),
        who=who[order].tolist(),
        requests=requests.at(order),
        labels=labels[order].tolist(),
        confidence=confidence[order].tolist(),
    )


def _one(victim: Victim, rng: Rng, kind: str, n: int, span: float) -> tuple[Floats, Requests]:
    if kind == "batch":  # a table or a backlog, all at once, a few seconds apart
        start = rng.uniform(0, 0.9 * span)
        times = start + np.cumsum(rng.gamma(4.0, rng.uniform(0.3, 5.0) / 4.0, n))
        return _within(times, span), victim.ordinary(rng, n, "customers")
    if kind == "monitor":  # the same few things, again and again
        few = victim.ordinary(rng, int(rng.integers(1, 20)), "customers")
        times = np.linspace(rng.uniform(0, 600.0), span, n, endpoint=False)
        return times, few.at(np.arange(n) % len(few))
    classes = None
    if kind == "narrow" or victim.kind == "text":
        # An application asks about its own things.
        most = len(victim.classes)
        own = int(np.clip(round(most * rng.uniform(0.04, 0.6)), 1, most))
        classes = rng.choice(victim.classes, size=own, replace=False)
    requests = victim.ordinary(rng, n, "customers", classes)
    bursty = rng.random() < 0.6
    shape = math.exp(rng.uniform(math.log(0.1), 0.0)) if bursty else 1.0
    gaps = rng.standard_gamma(shape, n) + 1e-6
    even = np.cumsum(gaps) / gaps.sum() * rng.uniform(0.9, 1.0)
    # The API was in use when the log began: most clients are there from the first days on.
    first = max(rng.uniform(-0.3, 0.3), 0.0)
    even = first + even * rng.uniform(0.4, 1.0) * (1.0 - first)
    return _within(_by_day(rng, even * span), span), requests


def _by_day(rng: Rng, times: Floats) -> Floats:
    """Bend even times to a day and night of the client."""
    depth, phase = rng.uniform(0.0, 0.9), rng.uniform(0.0, 2 * np.pi)
    # The integral of 1 + depth * cos, inverted on a grid of ten minutes.
    grid = np.arange(0.0, float(times.max()) + DAY, 600.0)
    turn = 2 * np.pi / DAY
    passed = grid + depth / turn * (np.sin(turn * grid + phase) - np.sin(phase))
    bent: Floats = np.interp(times, passed, grid)
    return bent


def _within(times: Floats, span: float) -> Floats:
    return np.minimum(times, span)
