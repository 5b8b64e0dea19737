"""Tables that are made up: any number of dimensions, classes, marginals and resolutions.

A detector that is tuned on two public tables learns their granularity. These differ from week to
week, so that only what holds for every table helps.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.sources import Rows, VectorSource

__all__ = ["generated"]

Rng = np.random.Generator
Floats = NDArray[np.float64]


def generated(rng: Rng, name: str) -> VectorSource:
    """A classifier's table: 800 to 3,000 rows of 5 to 70 dimensions in 2 to 15 classes.

    Classes are mixtures of a few clusters in a latent space; each dimension is a monotone function
    of a mixture of latent factors, then rounded, clipped, made a count or a flag.
    """
    n, d = int(rng.integers(800, 3001)), int(rng.integers(5, 71))
    classes, latent = int(rng.integers(2, 16)), int(rng.integers(3, min(d, 16) + 1))
    clusters = rng.integers(1, 5, size=classes)
    owner = np.repeat(np.arange(classes), clusters)
    weight = rng.dirichlet(np.full(len(owner), rng.uniform(0.5, 5.0)))
    centres = rng.normal(size=(len(owner), latent)) * rng.uniform(1.0, 2.5)
    cluster = rng.choice(len(owner), size=n, p=weight)
    spread = rng.uniform(0.3, 1.0, size=(len(owner), latent))
    z = centres[cluster] + rng.normal(size=(n, latent)) * spread[cluster]
    loading = rng.normal(size=(latent, d)) * (rng.random((latent, d)) < rng.uniform(0.3, 1.0))
    noise = rng.uniform(0.05, 0.7)
    x = z @ loading / math.sqrt(latent) + rng.normal(size=(n, d)) * noise
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9)
    style = str(rng.choice(["mixed", "real", "counts", "grades", "pixels"]))
    for column in range(d):
        kind = style
        if style == "mixed":
            kind = str(rng.choice(["real", "skewed", "counts", "grades", "flag", "share"]))
        x[:, column] = _marginal(rng, x[:, column], kind)
    y = owner[cluster].astype(np.int64)
    present, y = np.unique(y, return_inverse=True)
    del present
    return VectorSource(name, Rows(x.astype(np.float32), y.astype(np.int64)), {})


def _marginal(rng: Rng, x: Floats, kind: str) -> Floats:
    if kind == "skewed":
        return np.asarray(np.round(np.exp(x * rng.uniform(0.4, 1.3)) * 10 ** rng.uniform(-1, 3), 3))
    if kind == "counts":  # sparse: most are zero
        rate = np.exp(rng.uniform(0.5, 1.5) * x + rng.uniform(-2.5, 1.0))
        return np.asarray(rng.poisson(np.minimum(rate, 1e4))).astype(np.float64)
    if kind == "grades":
        top = int(rng.integers(3, 20))
        return np.clip(np.round((x * 0.2 + 0.5) * top), 0, top)
    if kind == "pixels":
        return np.clip(np.round(8 * x + rng.uniform(-8, 8)), 0, 16)
    if kind == "flag":
        return (x > rng.uniform(-1, 1.5)).astype(np.float64)
    if kind == "share":
        return np.asarray(np.round(1 / (1 + np.exp(-1.5 * x)), 4))
    return np.asarray(
        np.round(x * 10 ** rng.uniform(-1, 2) + rng.normal() * 10, int(rng.integers(1, 5)))
    )
