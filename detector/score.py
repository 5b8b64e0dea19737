"""The learned models for text: from a block's features, and from an account's history, to log-odds.

The artefact is one `.npz` of plain arrays with a JSON description. It is checked when it is
loaded: its format, and that its features are those that this program measures.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.blocks import Block
from detector.trees import Trees
from features import FAMILIES, NAMES

__all__ = ["ACCOUNT_FEATURES", "BadModel", "TextModels", "account_row", "shipped"]

_FORMAT: Final = 1
# What reading an artefact raises when bytes of it are missing or wrong.
_DAMAGED: Final = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    NotImplementedError,  # a compression that zipfile does not know
    zlib.error,
    zipfile.BadZipFile,
)
# What the account models see, in order; the linked ones see a column more each.
ACCOUNT_FEATURES: Final = ("mean", "max", "min", "log2_events")
_MODELS: Final = {
    "block": None,
    "account": ACCOUNT_FEATURES,
    "linked": (*ACCOUNT_FEATURES, "linked_mean"),
    "alike": (*ACCOUNT_FEATURES, "template_mean", "sketch_mean", "sketch_cosine"),
}


class BadModel(ValueError):
    """A model file that cannot be used. The text says why."""


@dataclass(frozen=True)
class TextModels:
    """The block model, the three account models that are averaged, and the shipped reference.

    Attributes:
        name: says which training made it; stamped on decisions as `scorer`.
        used: the columns of `Block.features` that the block model sees.
        typical: float64 (len(used), 2), 5 % and 95 % quantiles among training customers' blocks.
        own_bar: log-odds that 5 % of customers' own histories pass in a week; only above it do
            linked accounts count, so that nobody is convicted by company alone.
        reference: float64 (N,), highest evidence of each of N simulated customers in a week,
            ascending; -inf for those that never passed `own_bar`.
    """

    name: str
    used: NDArray[np.int64]
    typical: NDArray[np.float64]
    own_bar: float
    reference: NDArray[np.float64]
    block: Trees
    account: Trees
    linked: Trees
    alike: Trees
    about: Mapping[str, Any]

    def row(self, block: Block) -> NDArray[np.float64]:
        """The block model's view of a block, float64 (len(used),)."""
        return np.frombuffer(block.features, np.float32)[self.used].astype(np.float64)

    def save(self, path: Path) -> None:
        """Write the artefact."""
        arrays: dict[str, NDArray[Any]] = {
            "used": self.used,
            "typical": self.typical,
            "reference": self.reference,
        }
        bias = {}
        for name in _MODELS:
            trees: Trees = getattr(self, name)
            bias[name] = trees.bias
            arrays |= {f"{name}_{key}": array for key, array in trees.arrays().items()}
        about = {
            "format": _FORMAT,
            "name": self.name,
            "features": [NAMES[i] for i in self.used],
            "families": {family.name: family.version for family in FAMILIES},
            "own_bar": self.own_bar,
            "bias": bias,
            "about": dict(self.about),
        }
        arrays["description"] = np.array(json.dumps(about))
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> TextModels:
        """Read an artefact.

        Raises:
            BadModel: it is damaged, of another format, or made for other features.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(str(file["description"]))
                if about["format"] != _FORMAT:
                    raise BadModel(
                        f"{path}: model format {about['format']}; this program reads {_FORMAT}"
                    )
                versions = {family.name: family.version for family in FAMILIES}
                if about["families"] != versions or not set(about["features"]) <= set(NAMES):
                    raise BadModel(
                        f"{path}: made for features {about['families']}; this program measures "
                        f"{versions}: train it again"
                    )
                models = {
                    name: Trees(
                        about["bias"][name],
                        {
                            key: file[f"{name}_{key}"]
                            for key in ("feature", "threshold", "left", "right", "value", "root")
                        },
                    )
                    for name in _MODELS
                }
                for name, columns in _MODELS.items():
                    width = len(about["features"] if columns is None else columns)
                    if models[name].width > width:
                        raise BadModel(f"{path}: the {name} model wants more than {width} columns")
                return cls(
                    name=about["name"],
                    used=np.array([NAMES.index(n) for n in about["features"]], dtype=np.int64),
                    typical=file["typical"],
                    own_bar=float(about["own_bar"]),
                    reference=file["reference"],
                    about=about["about"],
                    **models,
                )
        except FileNotFoundError:
            raise BadModel(f"{path}: no such file") from None
        except _DAMAGED as error:
            if isinstance(error, BadModel):
                raise
            raise BadModel(f"{path}: damaged or not a model: {error}") from None


def shipped() -> TextModels:
    """The models that come with the program."""
    with resources.as_file(resources.files("detector") / "models" / "text.npz") as path:
        return TextModels.load(path)


def account_row(
    mean: float, highest: float, lowest: float, events: int, others: Sequence[float] = ()
) -> NDArray[np.float64]:
    """What an account model sees, as ACCOUNT_FEATURES names it, and what it sees of others."""
    return np.array([mean, highest, lowest, np.log2(max(events, 1)), *others])
