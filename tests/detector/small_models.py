"""Models whose every answer a reader can recompute, and blocks for them.

A block's score is its first feature, rounded up to whole numbers from -3 to 6. An account's own
log-odds are the mean of its scores, in steps of a quarter; its evidence is the mean of that, of the
same of linked accounts, and of the same of accounts that send alike. Vectors are scored by their
distance from customers' alone.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.blocks import SKETCH_DIMS, Block, Identity
from detector.judge import Models
from detector.score import ACCOUNT_COLUMNS, AccountModel, Committee, Consensus, TextModels
from detector.trees import Trees
from detector.vector_kernels import FEATURES
from detector.vector_model import SIZE_CLASSES, VectorModel
from features import NAMES

__all__ = ["START", "models", "sketch", "staircase", "text_block", "vector_block"]

START: Final = 1.8e9


def staircase(feature: int, low: float, high: float, step: float) -> Trees:
    """Log-odds `low`, and a `step` more for each of low, low + step, … that the feature exceeds."""
    thresholds = np.arange(low, high, step)
    n = len(thresholds)
    split = np.arange(n) * 3
    arrays: dict[str, NDArray[Any]] = {
        "feature": np.zeros(3 * n, np.int32),
        "threshold": np.zeros(3 * n),
        "left": np.full(3 * n, -1, np.int32),
        "right": np.full(3 * n, -1, np.int32),
        "value": np.zeros(3 * n),
        "root": split.astype(np.int32),
    }
    arrays["feature"][split] = feature
    arrays["threshold"][split] = thresholds
    arrays["left"][split] = split + 1
    arrays["right"][split] = split + 2
    arrays["value"][split + 2] = step
    return Trees(low, arrays)


def models() -> Models:
    """Evidence of 999 customers lies evenly between 0 and 1; nobody harvests below 1.5."""
    text = TextModels(
        name="small",
        used=np.array([0], np.int64),
        typical=np.array([[-3.0, 0.0]]),
        centre=np.zeros(len(NAMES), np.float32),
        scale=np.ones(len(NAMES), np.float32),
        own_bar=0.0,
        reference=np.sort(np.concatenate([np.full(949, -np.inf), np.linspace(0.0, 1.0, 50)])),
        block=Consensus((Committee((staircase(0, -3.0, 6.0, 1.0),)),)),
        accounts=tuple(
            AccountModel(
                name,
                np.array([ACCOUNT_COLUMNS.index(column)], np.int64),
                staircase(0, -3.0, 6.0, 0.25),
            )
            for name, column in (
                ("own", "mean"),
                ("linked", "linked_mean"),
                ("alike", "sketch_mean"),
            )
        ),
        about={},
    )
    n = len(FEATURES)
    far = Committee((staircase(FEATURES.index("distance"), -4.0, 6.0, 0.25),))
    by_mean = Committee((staircase(0, -4.0, 6.0, 0.25),))
    vector = VectorModel(
        labelled=far,
        unlabelled=far,
        account=by_mean,
        alike=by_mean,  # whoever is alike changes nothing
        own_bar=np.array([0.0]),
        bare=np.array([1.0, 0.0]),
        typical_middle=np.zeros((SIZE_CLASSES, n)),
        typical_spread=np.ones((SIZE_CLASSES, n)),
        reference=np.linspace(-4.0, 1.0, 999),
        metadata={},
    )
    return Models(text, vector)


def sketch(seed: int) -> bytes:
    """A direction of its own for each seed."""
    values = np.random.default_rng(seed).normal(size=SKETCH_DIMS)
    return np.rint(127.0 * values / np.linalg.norm(values)).astype(np.int8).tobytes()


def text_block(
    account: str = "a",
    at: float = 0.0,
    *,
    score: float = -2.0,
    index: int = 0,
    **fields: Any,
) -> Block:
    """A block of 32 at START + `at` seconds, whose score is `score`, unless the fields differ."""
    features = np.zeros(len(NAMES), np.float32)
    # The staircase counts what is exceeded.
    features[0] = math.ceil(score) - 0.5
    n = fields.pop("n", 32)
    given: dict[str, Any] = {
        "partition": 0,
        "seq": 0,
        "time": START + at,
        "account": account,
        "population": "text",
        "kind": "text",
        "index": index,
        "revision": 0 if index == 0 else 2,
        "n": n,
        "events": 32 * index + n,
        "refused": 0,
        "first_ts": START + at - 30.0,
        "last_ts": START + at,
        "features": features.tobytes(),
        "sketch": sketch(0),
        "minhash": b"\0" * 64,
        "heads": (),
        "identity": Identity(),
    }
    return Block(**{**given, **fields})


def vector_block(
    account: str = "a", at: float = 0.0, *, rows: NDArray[np.float32], **fields: Any
) -> Block:
    """A block of these rows, without answers, of the population of model `m`."""
    n, dims = rows.shape
    given: dict[str, Any] = {
        "population": "vector:m",
        "kind": "vector",
        "n": n,
        "sketch": b"",
        "dims": dims,
        "vectors": rows.astype("<f4").tobytes(),
        "labels": ("",) * n,
        "confidences": np.full(n, np.nan, "<f4").tobytes(),
    }
    return text_block(account, at, **{**given, **fields})
