"""Tables that are made up: any number of dimensions, classes, marginals and resolutions.

A detector that is tuned on two public tables learns their granularity. These differ from week to
week, so that only what holds for every table helps.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.sources import Rows, VectorSource

__all__ = ["generated", "images"]

Rng = np.random.Generator
Floats = NDArray[np.float64]


def generated(rng: Rng, name: str) -> VectorSource:
    """A classifier's table: 300 to 3,000 rows of 5 to 80 dimensions in 2 to 15 classes.

    Classes are mixtures of a few clusters in a latent space; each dimension is a monotone function
    of a mixture of latent factors, then rounded, clipped, made a count or a flag.
    """
    n, d = int(rng.integers(300, 3001)), int(rng.integers(5, 81))
    # A third tell two things apart, as many models do: there, noise mostly gets one answer.
    classes = 2 if rng.random() < 0.33 else int(rng.integers(3, 16))
    latent = int(rng.integers(3, min(d, 16) + 1))
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
    style = str(rng.choice(_STYLES))
    for column in range(d):
        kind = style
        if style == "mixed":
            kind = str(rng.choice(_KINDS))
        x[:, column] = _marginal(rng, x[:, column], kind)
    if style == "unit":  # as embeddings are
        x /= np.linalg.norm(x, axis=1, keepdims=True) + 1e-9
        x = np.round(x, 6)
    y = owner[cluster].astype(np.int64)
    present, y = np.unique(y, return_inverse=True)
    del present
    return VectorSource(name, Rows(x.astype(np.float32), y.astype(np.int64)), {})


def images(rng: Rng, name: str) -> VectorSource:
    """Pictures of soft spots: 1,000 to 2,500 of 6 × 6 to 9 × 9 points, in 2 to 12 classes.

    A class is some spots, bright or dark; each picture moves and stretches them, under a light and
    with a noise of its own. Points have 17, 256 or many levels.
    """
    size, classes = int(rng.integers(6, 10)), int(rng.integers(2, 13))
    n, spots = int(rng.integers(1000, 2501)), int(rng.integers(2, 6))
    middle = rng.uniform(0.5, size - 1.5, (classes, spots, 2))
    width = rng.uniform(0.6, 2.0, (classes, spots))
    height = rng.uniform(0.4, 1.0, (classes, spots)) * rng.choice(
        [-1.0, 1.0, 1.0], (classes, spots)
    )
    y = rng.integers(classes, size=n)
    moved = middle[y] + rng.normal(0.0, rng.uniform(0.2, 0.6), (n, spots, 2))
    moved += rng.normal(0.0, rng.uniform(0.2, 0.7), (n, 1, 2))
    wide = width[y] * np.exp(rng.normal(0.0, 0.15, (n, spots)))
    across, down = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    gap = (across.ravel() - moved[:, :, :1]) ** 2 + (down.ravel() - moved[:, :, 1:]) ** 2
    light = (height[y][:, :, None] * np.exp(-0.5 * gap / wide[:, :, None] ** 2)).sum(axis=1)
    light *= rng.uniform(0.7, 1.1, (n, 1))
    light += rng.uniform(-0.15, 0.4) + rng.normal(0.0, rng.choice([0.0, 0.02, 0.08]), light.shape)
    levels = int(rng.choice([16, 255, 10_000]))
    x = np.round(levels * np.clip(light, 0.0, 1.0))
    return VectorSource(name, Rows((x / (levels if levels > 255 else 1)).astype(np.float32), y), {})


_STYLES = ("mixed", "mixed", "real", "counts", "grades", "pixels", "rates", "skewed", "unit")
_KINDS = ("real", "skewed", "counts", "grades", "flag", "share", "rates")


def _marginal(rng: Rng, x: Floats, kind: str) -> Floats:
    if kind == "skewed":
        return np.asarray(np.round(np.exp(x * rng.uniform(0.4, 1.3)) * 10 ** rng.uniform(-1, 3), 3))
    if kind == "counts":  # sparse: most are zero
        rate = np.exp(rng.uniform(0.5, 1.5) * x + rng.uniform(-2.5, 1.0))
        return np.asarray(rng.poisson(np.minimum(rate, 1e4))).astype(np.float64)
    if kind == "rates":  # mostly zero, with a long tail: how often a word occurs in a hundred
        rate = np.exp(rng.uniform(0.8, 1.8) * (x - rng.uniform(0.0, 1.5)))
        return np.asarray(np.round(np.where(rate > rng.uniform(0.3, 1.0), rate, 0.0), 2))
    if kind == "unit":
        return x
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
