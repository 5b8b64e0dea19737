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

from detector.score import Committee
from detector.vector_kernels import FEATURES

__all__ = [
    "ALIKE_INPUTS",
    "FORMAT",
    "LABEL_FEATURES",
    "OWN_INPUTS",
    "PLAIN_WORDS",
    "SIZE_CLASSES",
    "ModelError",
    "VectorModel",
    "account_inputs",
    "size_class",
]

Floats = NDArray[np.float64]

FORMAT: Final = "velvetrope vector model 5"
SIZE_CLASSES: Final = 3
_MODELS: Final = ("labelled", "unlabelled", "account", "alike")
_SHAPES: Final[Mapping[str, tuple[int | None, ...]]] = {
    "own_bar": (1,),
    "bare": (2,),
    "typical_middle": (SIZE_CLASSES, len(FEATURES)),
    "typical_spread": (SIZE_CLASSES, len(FEATURES)),
    "reference": (None,),
}
# What the account models see: its blocks' scores, then what its blocks are like on the mean, then,
# where there are enough of them, what the accounts most like it score.
OWN_INPUTS: Final = 6 + len(FEATURES)
_ANSWERED: Final = 5
ALIKE_INPUTS: Final = 3

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
    "trail": "how far its inputs lie from what anybody sent before",
    "trail_flatness": "whether all numbers change by equal steps from what anybody sent before",
    "trail_steps": "how many of its inputs are such steps",
}


class ModelError(ValueError):
    """The artefact cannot be used: what is wrong with it, and where."""


def size_class(n: int) -> int:
    """0, 1 or 2 for blocks of about 8, 16 or 32 events: short blocks scatter more."""
    return 0 if n < 12 else 1 if n < 24 else 2


def account_inputs(
    block_scores: Sequence[float], events: int, answered: float, place: Floats
) -> Floats:
    """What the account models see of an account by itself (OWN_INPUTS,).

    Mean, maximum and minimum of block scores, the logarithm of events, mean times that logarithm
    (many blocks make a mean surer), the share of blocks with answers in the log, and the mean
    `place` (F,) of its blocks, see `detector.vector_alike.squashed`.
    """
    if not block_scores:
        raise ValueError("an account without a scored block has no log-odds")
    mean = math.fsum(block_scores) / len(block_scores)
    size = math.log2(1.0 + events / 8.0)
    return np.array(
        [mean, max(block_scores), min(block_scores), size, mean * size, answered, *place.tolist()]
    )


@dataclass(frozen=True)
class VectorModel:
    """What was learned, and the customers that it was calibrated on."""

    labelled: Committee  # on standardised features (F,)
    unlabelled: Committee  # the same, which never looks at label features
    account: Committee  # on `account_inputs`
    alike: Committee  # the same and what the accounts most like it score
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
        """What each feature adds to the log-odds (F,); with those of a usual block they add up."""
        return self._block(labelled).shares(standard)

    def _block(self, labelled: bool) -> Committee:
        return self.labelled if labelled else self.unlabelled

    def typical(self, size: int) -> tuple[Floats, Floats]:
        """Median and spread (F,) of customers' blocks of a size class elsewhere."""
        return self.typical_middle[size], self.typical_spread[size]

    def account_log_odds(self, inputs: Floats, alike: Floats | None = None) -> float:
        """Log-odds that an account harvests, from `account_inputs`.

        `alike` (ALIKE_INPUTS,) is what the accounts most like it score, where there are enough of
        them: see `detector.vector_alike.Alike.around`. It counts only for an account whose own
        blocks pass `own_bar`, so that nobody is convicted by company, and only against it: who
        steals alone has no company. An account's evidence is the running maximum of this. Where
        the log has no answers customers' log-odds run higher: so far as an account's blocks have
        none, they are put on the scale of those with, so that one reference serves.
        """
        odds = self.account.log_odds(inputs)
        if alike is not None and odds >= self.own_bar[0]:
            company = self.alike.log_odds(np.append(inputs, alike))
            odds = max(odds, 0.5 * (odds + company))
        bare = 1.0 - float(inputs[_ANSWERED])
        factor, shift = float(self.bare[0]), float(self.bare[1])
        return odds * (1.0 + bare * (factor - 1.0)) + bare * shift

    def quantile(self, q: float) -> float:
        """Evidence below which a share `q` of the reference's customers stays in a week."""
        return float(np.quantile(self.reference, q, method="higher"))

    def save(self, path: Path) -> None:
        """Write the artefact; the same model gives the same bytes."""
        described: dict[str, list[dict[str, Any]]] = {}
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _SHAPES}
        for name in _MODELS:
            described[name], parts = getattr(self, name).described(name)
            arrays |= parts
        metadata = {
            **self.metadata,
            "format": FORMAT,
            "features": list(FEATURES),
            "models": described,
        }
        with path.open("wb") as file:
            np.savez_compressed(
                file, **arrays, metadata=np.array(json.dumps(metadata, sort_keys=True))
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
        missing = [name for name in ("metadata", *_SHAPES) if name not in entries]
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
        models: dict[str, Any] = {
            name: _committee(path, entries, metadata, name) for name in _MODELS
        }
        return cls(**models, **arrays, metadata=metadata)


def _committee(
    path: Path, entries: Mapping[str, Any], metadata: Mapping[str, Any], name: str
) -> Committee:
    width = {"account": OWN_INPUTS, "alike": OWN_INPUTS + ALIKE_INPUTS}.get(name, len(FEATURES))
    try:
        committee = Committee.read(entries, name, metadata["models"][name])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: {name!r}: {error}") from error
    if not committee.fits(width):
        raise ModelError(f"{path}: {name!r} does not fit its inputs, or is empty")
    return committee


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
