"""Small drawings as whole levels of ink: an image API that only evaluation sees."""

from __future__ import annotations

import numpy as np

from benchmarks.detection.sources import Rows, VectorSource

__all__ = ["drawings"]


def drawings(rng: np.random.Generator, name: str) -> VectorSource:
    """2,400 drawings of 8 × 8 points, ink 0 to 16, in 10 classes: sparse correlated counts.

    A class is three strokes; each drawing of it moves and bends them and takes another pen.
    """
    size, classes, samples = 8, 10, 2400
    strokes = rng.uniform(1.0, size - 2.0, size=(classes, 3, 2, 2))
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1)
    y = rng.integers(0, classes, samples)
    x = np.empty((samples, size * size), dtype=np.float32)
    for i, label in enumerate(y):
        ends = strokes[label] + rng.normal(0.0, 0.45, (3, 2, 2)) + rng.normal(0.0, 0.4, 2)
        pen = rng.uniform(0.5, 0.9)
        ink = np.zeros((size, size))
        for start, end in ends:
            along = end - start
            t = np.clip(((grid - start) @ along) / max(float(along @ along), 1e-6), 0.0, 1.0)
            gap = np.linalg.norm(grid - (start + t[..., None] * along), axis=-1)
            ink = np.maximum(ink, np.exp(-((gap / pen) ** 2)))
        x[i] = np.round(16.0 * np.clip(1.15 * ink - 0.05, 0.0, 1.0)).ravel()
    return VectorSource(name, Rows(x, y.astype(np.int64)), {})
