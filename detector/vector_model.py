"""What was learned about vector APIs elsewhere: trees, typical scales, customers' reference.

The artefact is a `.npz` without pickles: arrays, and one JSON entry that names its format, its
features, what it was trained on and the command that made it. `benchmarks/detection/
train_vectors.py` writes it.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from detector.trees import Trees
from detector.vector_kernels import FEATURES

__all__ = [
    "FORMAT",
    "LABEL_FEATURES",
    "PLAIN_WORDS",
    "SIZE_CLASSES",
    "ModelError",
    "VectorModel",
    "account_inputs",
    "size_class",
]

Floats = NDArray[np.float64]

FORMAT: Final = "velvetrope vector model 4"
SIZE_CLASSES: Final = 3
_TREE_ARRAYS: Final = ("feature", "threshold", "left", "right", "value", "root")
_BLOCK_MODELS: Final = ("labelled", "unlabelled")
_SHAPES: Final[Mapping[str, tuple[int | None, ...]]] = {
    "account": (6,),
    "alike": (7,),
    "own_bar": (1,),
    "bare": (2,),
    "typical_middle": (SIZE_CLASSES, len(FEATURES)),
    "typical_spread": (SIZE_CLASSES, len(FEATURES)),
    "reference": (None,),
}

LABEL_FEATURES: Final = frozenset(
    {
        "distance_in_class",
        "agreement",
        "margin",
        "class_energy_wide",
        "class_energy_narrow",
        "class_alignment",
        "class_drift",
        "class_similarity",
        "label_balance",
        "label_changes",
        "class_energy_centred",
        "confidence",
        "border",
        "kernel_margin",
    }
)

PLAIN_WORDS: Final[Mapping[str, str]] = {
    "distance": "how far its inputs lie from the nearest inputs of other customers",
    "distance_in_class": "how far its inputs lie from other customers' with the same answer",
    "own_spacing": "how far its inputs lie from one another",
    "agreement": "how often other customers' nearest inputs got the same answer",
    "margin": "how near its inputs lie to the border between two answers",
    "energy_wide": "how far its inputs stray where customers' inputs vary much",
    "energy_narrow": "how far its inputs stray where customers' inputs hardly vary",
    "alignment": "whether its numbers go together as customers' do",
    "class_energy_wide": "how far its inputs stray within an answer, where customers' vary much",
    "class_energy_narrow": "how far they stray within an answer, where customers' hardly vary",
    "class_alignment": "whether its numbers go together as customers' do within an answer",
    "drift": "how much its mix of inputs differs from all customers'",
    "class_drift": "how much its mix of inputs differs from customers' with the same answers",
    "similarity": "how similar its inputs are to all customers'",
    "class_similarity": "how similar its inputs are to customers' with the same answers",
    "flatness": "whether all numbers change by equal steps from one input to the next",
    "tail": "how many of its numbers are extreme",
    "label_balance": "how evenly its answers cover all classes",
    "distance_far": "how far its strangest inputs lie from the nearest of other customers",
    "energy_centred": "how much its inputs vary where customers' hardly vary",
    "class_energy_centred": "the same within an answer",
    "confidence": "how sure the model is of its answers",
    "label_changes": "how often the answer changes from one request to the next",
    "border": "how deep its inputs lie inside of the region of their answer",
    "kernel_margin": "how clearly other customers' inputs nearby speak for the answer",
}


class ModelError(ValueError):
    """The artefact cannot be used: what is wrong with it, and where."""


def size_class(n: int) -> int:
    """0, 1 or 2 for blocks of about 8, 16 or 32 events: short blocks scatter more."""
    return 0 if n < 12 else 1 if n < 24 else 2


def account_inputs(block_scores: Sequence[float], events: int) -> Floats:
    """Terms (5,) of the account model: mean, maximum and minimum of block scores, the logarithm of
    events, and mean times that logarithm: many blocks make a mean surer."""
    if not block_scores:
        raise ValueError("an account without a scored block has no log-odds")
    mean = math.fsum(block_scores) / len(block_scores)
    size = math.log2(1.0 + events / 8.0)
    return np.array([mean, max(block_scores), min(block_scores), size, mean * size])


@dataclass(frozen=True)
class VectorModel:
    """Learned weights and the customers that they were calibrated on."""

    labelled: Trees  # on standardised features (F,)
    unlabelled: Trees  # the same, which never looks at label features
    account: Floats  # (5 + 1,) weights of `account_inputs`, then the intercept
    alike: Floats  # (6 + 1,) the same with the mean score of the accounts most like it
    own_bar: Floats  # (1,) log-odds by `account` from which accounts like it count
    bare: Floats  # (2,) factor and shift of log-odds where the log has no answers
    typical_middle: Floats  # (3, F) by size class: medians of customers' features elsewhere
    typical_spread: Floats  # (3, F) interquartile range / 1.349
    reference: Floats  # sorted: the highest log-odds in a week of each simulated customer
    metadata: Mapping[str, Any]

    def log_odds(self, standard: Floats, *, labelled: bool) -> float:
        """Log-odds that a block harvests, from standardised features (F,)."""
        return self._block(labelled).log_odds(standard)

    def contributions(self, standard: Floats, *, labelled: bool) -> Floats:
        """What each feature adds to the log-odds (F,); with the mean of all blocks they add up."""
        return self._block(labelled).shares(standard)

    def _block(self, labelled: bool) -> Trees:
        return self.labelled if labelled else self.unlabelled

    def typical(self, size: int) -> tuple[Floats, Floats]:
        """Median and spread (F,) of customers' blocks of a size class elsewhere."""
        return self.typical_middle[size], self.typical_spread[size]

    def account_log_odds(
        self,
        block_scores: Sequence[float],
        events: int,
        alike: float | None = None,
        *,
        labelled: bool = True,
    ) -> float:
        """Log-odds that an account harvests, from its blocks' scores and its events so far.

        `alike` is the mean score of the accounts that are most like it, where there are enough of
        them. It counts only for an account whose own blocks pass `own_bar`, so that nobody is
        convicted by company, and only against it: who steals alone has no company. An account's
        evidence is the running maximum of this. Without answers in the log customers' log-odds run
        higher, and are put on the scale of those with answers, so that one reference serves. Raises
        ValueError without scores.
        """
        odds = self._odds(block_scores, events, alike)
        return odds if labelled else float(self.bare[0]) * odds + float(self.bare[1])

    def _odds(self, block_scores: Sequence[float], events: int, alike: float | None) -> float:
        inputs = account_inputs(block_scores, events)
        own = math.fsum(self.account[:-1] * inputs) + float(self.account[-1])
        if alike is None or own < self.own_bar[0]:
            return own
        seen = np.append(inputs, alike)
        company = math.fsum(self.alike[:-1] * seen) + float(self.alike[-1])
        return max(own, 0.5 * (own + company))

    def quantile(self, q: float) -> float:
        """Evidence below which a share `q` of the reference's customers stays in a week."""
        return float(np.quantile(self.reference, q, method="higher"))

    def save(self, path: Path) -> None:
        """Write the artefact; the same model gives the same bytes."""
        metadata = {
            **self.metadata,
            "format": FORMAT,
            "features": list(FEATURES),
            "bias": {name: self._block(name == "labelled").bias for name in _BLOCK_MODELS},
        }
        trees: dict[str, Any] = {
            f"{name}.{part}": array
            for name in _BLOCK_MODELS
            for part, array in self._block(name == "labelled").arrays().items()
        }
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                **trees,
                account=self.account,
                alike=self.alike,
                own_bar=self.own_bar,
                bare=self.bare,
                typical_middle=self.typical_middle,
                typical_spread=self.typical_spread,
                reference=self.reference,
                metadata=np.array(json.dumps(metadata, sort_keys=True)),
            )

    @classmethod
    def load(cls, path: Path) -> VectorModel:
        """Read the artefact. Raises ModelError naming the file and what is wrong with it."""
        try:
            with np.load(path, allow_pickle=False) as file:
                entries = {name: file[name] for name in file.files}
        except (
            OSError,
            ValueError,
            BadZipFile,
            EOFError,
            NotImplementedError,
            zlib.error,
        ) as error:
            raise ModelError(f"{path}: not a readable vector model: {error}") from error
        trees = [f"{name}.{part}" for name in _BLOCK_MODELS for part in _TREE_ARRAYS]
        missing = [name for name in ("metadata", *_SHAPES, *trees) if name not in entries]
        if missing:
            raise ModelError(f"{path}: no entry {missing[0]!r}")
        metadata = _metadata(path, entries["metadata"])
        arrays: dict[str, Any] = {}
        for name, shape in _SHAPES.items():
            array = entries[name]
            fits = len(array.shape) == len(shape) and all(
                want is None or want == have for want, have in zip(shape, array.shape, strict=True)
            )
            if not fits or array.dtype != np.float64 or not np.isfinite(array).all():
                raise ModelError(f"{path}: {name!r} is not finite float64 of the expected shape")
            arrays[name] = array
        if not arrays["bare"][0] > 0.0:
            raise ModelError(f"{path}: the factor of 'bare' is not positive")
        if not len(arrays["reference"]) or np.any(np.diff(arrays["reference"]) < 0.0):
            raise ModelError(f"{path}: the reference is empty or not sorted")
        blocks: dict[str, Any] = {}
        for name in _BLOCK_MODELS:
            try:
                parts = {part: entries[f"{name}.{part}"] for part in _TREE_ARRAYS}
                blocks[name] = Trees(metadata["bias"][name], parts)
            except (KeyError, TypeError, ValueError) as error:
                raise ModelError(f"{path}: {name!r}: {error}") from error
            if blocks[name].width > len(FEATURES):
                raise ModelError(f"{path}: {name!r} looks at more features than there are")
        return cls(**blocks, **arrays, metadata=metadata)


def _metadata(path: Path, entry: NDArray[Any]) -> dict[str, Any]:
    try:
        metadata = json.loads(str(entry))
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}: metadata is not JSON: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        found = metadata.get("format") if isinstance(metadata, dict) else None
        raise ModelError(f"{path}: format {found!r}; this version reads {FORMAT!r}")
    if metadata.get("features") != list(FEATURES):
        raise ModelError(f"{path}: made for other features than this version measures")
    return metadata
