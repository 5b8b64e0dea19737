"""The learned models for text: from a block's features, and from an account's history, to log-odds.

The artefact is one `.npz` of plain arrays with a JSON description. It is checked when it is
loaded: its format, and that its features are those that this program measures.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.blocks import Block
from detector.networks import Networks
from detector.trees import Trees
from features import FAMILIES, NAMES

__all__ = [
    "ACCOUNT_COLUMNS",
    "FLOOR",
    "OTHERS_COLUMNS",
    "OWN_COLUMNS",
    "AccountModel",
    "BadModel",
    "Committee",
    "Consensus",
    "TextModels",
    "shipped",
]

_FORMAT: Final = 4
_ONE_DOMAIN: Final = 3  # the format before: all models of one domain, block scores not cut
# Block scores are cut below: four of five blocks of simulated customers lie lower, and how much
# lower says nothing of thieves. What one committee puts there no other is asked about, and an
# account that never rose above it is not looked at further.
FLOOR: Final = -4.0
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
# What an account shows by its own blocks, then what the accounts around it show.
OWN_COLUMNS: Final = (
    "mean",  # of its blocks' scores
    "max",
    "min",
    "log2_events",
    "deviation",  # of its blocks' scores
    "constancy",  # mean cosine between its blocks' sketches, 1 for a single block
    *(f"habit.{name}" for name in NAMES),  # mean features of its blocks
)
OTHERS_COLUMNS: Final = (
    "linked_mean",  # mean score of accounts on the same payment, device or network
    "log_linked",  # log(1 + accounts on the most crowded of these)
    "template_mean",  # mean score of accounts that use the same templates
    "sketch_mean",  # of the 20 whose inputs are most alike
    "sketch_cosine",  # mean cosine to the nearest 5 of these
    # Of the 20 whose inputs and habits together are most alike, "company":
    "company_mean",  # mean score
    "company_deviation",  # of their scores
    "company_cosine",  # mean over the nearest 5
    "company_farthest",  # cosine to the last
    "company_linked",  # share that it shares a payment, a device or a network with
    "company_start",  # mean difference of the first requests, days
    "company_volume",  # mean difference of log2 events
    "company_end",  # mean difference of the last requests, days
    "company_crowd",  # log2(1 + accounts of a cosine of at least .85), of the nearest 64
    "company_strangers",  # the same of those with which it shares no payment, device or network
)
ACCOUNT_COLUMNS: Final = OWN_COLUMNS + OTHERS_COLUMNS
_HIGHEST: Final = OWN_COLUMNS.index("max")
_TREE_ARRAYS: Final = ("feature", "threshold", "left", "right", "value", "root")


class BadModel(ValueError):
    """A model file that cannot be used. The text says why."""


@dataclass(frozen=True)
class Committee:
    """Unlike models of the same columns, each of which has the same say.

    Attributes:
        members: one at least; their log-odds are averaged.
    """

    members: tuple[Trees | Networks, ...]

    def log_odds(self, x: NDArray[np.float64]) -> float:
        """Mean log-odds of one row, float64 (C,), without NaN."""
        return sum(member.log_odds(x) for member in self.members) / len(self.members)

    def shares(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each column adds to the log-odds of a usual row, float64 (C,)."""
        total = np.zeros(len(x))
        for member in self.members:
            total += member.shares(x)
        return total / len(self.members)

    def fits(self, columns: int) -> bool:
        """Whether it has members, and each can be given rows of so many columns."""
        return bool(self.members) and all(_fits(member, columns) for member in self.members)

    def described(self, prefix: str) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
        """What the description of a file says of the members, and their arrays by name."""
        kinds: list[dict[str, Any]] = []
        arrays: dict[str, NDArray[Any]] = {}
        for number, member in enumerate(self.members):
            kind, parts = _described(member)
            kinds.append(kind)
            arrays |= {f"{prefix}{number}_{key}": array for key, array in parts.items()}
        return kinds, arrays

    @classmethod
    def read(cls, file: Any, prefix: str, described: Sequence[Mapping[str, Any]]) -> Committee:
        """The members whose arrays a file has under names that begin with `prefix`.

        Raises:
            KeyError: an array is missing.
            ValueError: a member is of an unknown kind, or its arrays do not fit together.
        """
        members = [_model(file, f"{prefix}{i}", one) for i, one in enumerate(described)]
        return cls(tuple(members))


@dataclass(frozen=True)
class Consensus:
    """Committees that domains taught apart: what counts is the least that one of them says.

    A thief harvests whoever taught them. A customer of a sort that none has met looks odd to one
    or the other, seldom to all. Models of velvetrope-text-7 have two; those since have one, which
    weeks of all domains taught (docs/decisions/0009).

    Attributes:
        committees: one at least, each of a domain that has a say.
        floor: what lies lower is cut to it.
    """

    committees: tuple[Committee, ...]
    floor: float = FLOOR

    def log_odds(self, x: NDArray[np.float64]) -> float:
        """The least log-odds of one row, float64 (C,), without NaN; not less than the floor."""
        least = math.inf
        for committee in self.committees:
            least = min(least, committee.log_odds(x))
            if least <= self.floor:
                return self.floor
        return least

    def shares(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each column adds to the log-odds of a usual row, float64 (C,)."""
        return min(self.committees, key=lambda committee: committee.log_odds(x)).shares(x)

    def fits(self, columns: int) -> bool:
        """Whether there are committees, and all can be given rows of so many columns."""
        return bool(self.committees) and all(c.fits(columns) for c in self.committees)


@dataclass(frozen=True)
class AccountModel:
    """One of the models that are averaged.

    Attributes:
        name: for people.
        columns: int64 (C,), which of ACCOUNT_COLUMNS it sees, in order.
        model: gives log-odds of these.
        say: its weight in the evidence; without any it still speaks for an account's own history.
    """

    name: str
    columns: NDArray[np.int64]
    model: Trees | Networks
    say: float = 1.0

    @cached_property
    def alone(self) -> bool:
        """Whether it looks at nothing but the account itself."""
        return bool(self.columns.max() < len(OWN_COLUMNS))

    def log_odds(self, x: NDArray[np.float64]) -> float:
        """Log-odds of an account row, float64 (len(ACCOUNT_COLUMNS),)."""
        return self.model.log_odds(x[self.columns])

    def shares(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each of ACCOUNT_COLUMNS adds, float64 (len(ACCOUNT_COLUMNS),)."""
        out = np.zeros(len(ACCOUNT_COLUMNS))
        out[self.columns] = self.model.shares(x[self.columns])
        return out


@dataclass(frozen=True)
class TextModels:
    """The block model, the account models that are averaged, and the shipped reference.

    Attributes:
        name: says which training made it; stamped on decisions as `scorer`.
        used: the columns of `Block.features` that the block model sees.
        typical: float64 (len(used), 2), 5 % and 95 % quantiles among training customers' blocks.
        centre: float32 (len(NAMES),), median of each feature among training customers' blocks.
        scale: float32 (len(NAMES),), distance between their 10 % and 90 % quantiles; 0 for a
            feature that says nothing of who is alike.
        own_bar: log-odds that 5 % of customers' own histories pass in a week; only above it do
            other accounts count, so that nobody is convicted by company alone.
        reference: float64 (N,), highest evidence of each of N simulated customers in a week,
            ascending; -inf for those that never passed `own_bar`.
        block: log-odds of a block.
        accounts: log-odds of an account, some of its own blocks alone, which set the bar, and some
            of the accounts around it too, which are the evidence.
    """

    name: str
    used: NDArray[np.int64]
    typical: NDArray[np.float64]
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    own_bar: float
    reference: NDArray[np.float64]
    block: Consensus
    accounts: tuple[AccountModel, ...]
    about: Mapping[str, Any]

    @cached_property
    def _alone(self) -> tuple[AccountModel, ...]:
        return tuple(model for model in self.accounts if model.alone)

    @cached_property
    def _heard(self) -> tuple[AccountModel, ...]:
        return tuple(model for model in self.accounts if model.say)

    @cached_property
    def _said(self) -> float:
        return sum(model.say for model in self._heard)

    def own_odds(self, x: NDArray[np.float64]) -> float:
        """Mean log-odds of the models that see nothing but the account itself; the floor of block
        scores when none of its blocks is above that.

        Args:
            x: float64 (len(ACCOUNT_COLUMNS),); the columns of others are not read.
        """
        if x[_HIGHEST] <= self.block.floor:
            return self.block.floor
        return sum(model.log_odds(x) for model in self._alone) / len(self._alone)

    def bar(self, own: NDArray[np.float64]) -> float:
        """What 5 % of customers pass, of the highest log-odds of their own histories, (N,), N > 0.

        Above the floor, or where hardly any customer rises above it everybody would pass.
        """
        return max(float(np.quantile(own, 0.95)), float(np.nextafter(self.block.floor, 0.0)))

    def odds(self, x: NDArray[np.float64]) -> float:
        """Log-odds of a row, float64 (len(ACCOUNT_COLUMNS),): the models' mean by their say."""
        return sum(model.say * model.log_odds(x) for model in self._heard) / self._said

    def shares(self, x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """What `odds` is made of: that of a typical row, and what each column adds to it.

        Returns:
            A base, and float64 (len(ACCOUNT_COLUMNS),); together they are `odds(x)`.
        """
        total = np.zeros(len(ACCOUNT_COLUMNS))
        for model in self._heard:
            total += model.say * model.shares(x)
        total /= self._said
        return self.odds(x) - float(total.sum()), total

    def row(self, block: Block) -> NDArray[np.float64]:
        """The block model's view of a block, float64 (len(used),)."""
        return np.frombuffer(block.features, np.float32)[self.used].astype(np.float64)

    def save(self, path: Path) -> None:
        """Write the artefact."""
        arrays: dict[str, NDArray[Any]] = {
            name: getattr(self, name)
            for name in ("used", "typical", "centre", "scale", "reference")
        }
        blocks, described = [], []
        for number, committee in enumerate(self.block.committees):
            kinds, parts = committee.described(f"block{number}_")
            blocks.append(kinds)
            arrays |= parts
        for number, account in enumerate(self.accounts):
            kind, parts = _described(account.model)
            columns = [ACCOUNT_COLUMNS[i] for i in account.columns]
            described.append({"name": account.name, "columns": columns, "say": account.say, **kind})
            arrays |= {f"account{number}_{key}": array for key, array in parts.items()}
        about = {
            "format": _FORMAT,
            "name": self.name,
            "features": [NAMES[i] for i in self.used],
            "families": {family.name: family.version for family in FAMILIES},
            "own_bar": self.own_bar,
            "floor": self.block.floor,
            "block": blocks,
            "accounts": described,
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
                if about["format"] not in (_FORMAT, _ONE_DOMAIN):
                    raise BadModel(
                        f"{path}: model format {about['format']}; this program reads "
                        f"{_ONE_DOMAIN} and {_FORMAT}"
                    )
                versions = {family.name: family.version for family in FAMILIES}
                if about["families"] != versions or not set(about["features"]) <= set(NAMES):
                    raise BadModel(
                        f"{path}: made for features {about['families']}; this program measures "
                        f"{versions}: train it again"
                    )
                block = _consensus(path, file, about)
                accounts = tuple(
                    _account_model(path, file, number, described)
                    for number, described in enumerate(about["accounts"])
                )
                if not any(account.alone for account in accounts):
                    raise BadModel(f"{path}: no model looks at an account by itself")
                if min(a.say for a in accounts) < 0.0 or not any(a.say for a in accounts):
                    raise BadModel(f"{path}: no model has a say in the evidence, or less than none")
                centre, scale = (
                    np.ascontiguousarray(file[name], np.float32) for name in ("centre", "scale")
                )
                if centre.shape != (len(NAMES),) or scale.shape != (len(NAMES),):
                    raise BadModel(f"{path}: centre or scale is not of {len(NAMES)} features")
                return cls(
                    name=about["name"],
                    used=np.array([NAMES.index(n) for n in about["features"]], dtype=np.int64),
                    typical=file["typical"],
                    centre=centre,
                    scale=scale,
                    own_bar=float(about["own_bar"]),
                    reference=file["reference"],
                    block=block,
                    accounts=accounts,
                    about=about["about"],
                )
        except FileNotFoundError:
            raise BadModel(f"{path}: no such file") from None
        except _DAMAGED as error:
            if isinstance(error, BadModel):
                raise
            raise BadModel(f"{path}: damaged or not a model: {error}") from None


def _described(model: Trees | Networks) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What the description says of a model, and its arrays."""
    if isinstance(model, Networks):
        return {"kind": "networks"}, model.arrays()
    return {"kind": "trees", "bias": model.bias}, model.arrays()


def _model(file: Any, prefix: str, described: Mapping[str, Any]) -> Trees | Networks:
    def arrays(*names: str) -> dict[str, NDArray[Any]]:
        return {name: file[f"{prefix}_{name}"] for name in names}

    if described["kind"] == "networks":
        return Networks(arrays(*Networks.ARRAYS))
    if described["kind"] == "trees":
        return Trees(described["bias"], arrays(*_TREE_ARRAYS))
    raise ValueError(f"a model of the kind {described['kind']!r}")


def _fits(model: Trees | Networks, columns: int) -> bool:
    """Whether a model can be given that many columns."""
    if isinstance(model, Trees):
        return model.width <= columns
    return model.width == columns


def _consensus(path: Path, file: Any, about: Mapping[str, Any]) -> Consensus:
    floor = -math.inf
    if about["format"] == _ONE_DOMAIN:
        committees = [Committee.read(file, "block", about["block"])]
    else:
        floor = float(about["floor"])
        committees = [
            Committee.read(file, f"block{number}_", members)
            for number, members in enumerate(about["block"])
        ]
    if not committees or not all(committee.members for committee in committees):
        raise BadModel(f"{path}: no model looks at blocks")
    block = Consensus(tuple(committees), floor)
    if not block.fits(len(about["features"])):
        raise BadModel(f"{path}: a block model does not fit its features")
    return block


def _account_model(
    path: Path, file: Any, number: int, described: Mapping[str, Any]
) -> AccountModel:
    name = described["name"]
    unknown = set(described["columns"]) - set(ACCOUNT_COLUMNS)
    if unknown or not described["columns"]:
        raise BadModel(f"{path}: the model {name!r} wants columns that there are not: {unknown}")
    columns = np.array([ACCOUNT_COLUMNS.index(n) for n in described["columns"]], np.int64)
    model = _model(file, f"account{number}", described)
    if not _fits(model, len(columns)):
        raise BadModel(f"{path}: the model {name!r} does not fit its columns")
    return AccountModel(name, columns, model, float(described["say"]))


def shipped() -> TextModels:
    """The models that come with the program."""
    with resources.as_file(resources.files("detector") / "models" / "text.npz") as path:
        return TextModels.load(path)
