"""Directions of accounts, by which others that are alike are found: what they send, and how.

The sketch direction is that of an account's mean sketch from the population's median one. The
joint direction has it and the account's mean features in two halves of equal weight, so that a
cosine of two is the mean of the cosines of their sketches and of their features.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

__all__ = ["direct", "direct_all"]

_NORM: Final = 127.0  # keeps every entry in int8
_HALF: Final = 127.0 / np.sqrt(2.0)
_FARTHEST: Final = 3.0  # a feature further out, in scales, says no more


@njit(cache=True)
def direct(  # type: ignore[no-untyped-def]
    accounts,
    row,
    centre,
    features_centre,
    features_scale,
    sketch_out,
    joint_out,
):
    """Directions of one account.

    Args:
        accounts: structured (A,), the table of evidence by row.
        row: the account's.
        centre: float32 (128,), of the population.
        features_centre, features_scale: float32 (F,); a scale of 0 leaves the feature out.
        sketch_out: int8 (128,), of norm 127.
        joint_out: int8 (128 + F,), of norm 127 where neither half is nothing.
    """
    account = accounts[row]
    first_sketch, rest_sketch = account.first_sketch, account.rest_sketch
    first_features, rest_features = account.first_features, account.rest_features
    dims = len(centre)
    some = False
    for j in range(dims):
        some |= first_sketch[j] != 0
    count = max(int(account.sketches) + some, 1)
    away = np.empty(dims)
    norm2 = 0.0
    for j in range(dims):
        mean = np.float32((np.int32(first_sketch[j]) + rest_sketch[j]) / count)
        away[j] = float(mean) - centre[j]
        norm2 += away[j] * away[j]
    norm = max(np.sqrt(norm2), 1e-9)
    for j in range(dims):
        sketch_out[j] = np.int8(np.rint(_NORM * away[j] / norm))
        joint_out[j] = np.int8(np.rint(_HALF * away[j] / norm))
    width = len(features_centre)
    blocks = max(int(account.sketches) + int(account.firsts), 1)
    far = np.zeros(width)
    norm2 = 0.0
    for f in range(width):
        if features_scale[f] > 0.0:
            mean_feature = (first_features[f] + rest_features[f]) / blocks
            z = (mean_feature - features_centre[f]) / features_scale[f]
            far[f] = min(max(z, -_FARTHEST), _FARTHEST)
            norm2 += far[f] * far[f]
    norm = max(np.sqrt(norm2), 1e-9)
    for f in range(width):
        joint_out[dims + f] = np.int8(np.rint(_HALF * far[f] / norm))


@njit(cache=True)
def direct_all(  # type: ignore[no-untyped-def]
    accounts, centre, features_centre, features_scale, sketch_out, joint_out
):
    """`direct` of as many accounts as the outputs have rows."""
    for row in range(len(sketch_out)):
        direct(
            accounts,
            row,
            centre,
            features_centre,
            features_scale,
            sketch_out[row],
            joint_out[row],
        )
