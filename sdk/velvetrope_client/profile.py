"""What customers send, learned from examples, to tell what is far from it.

Examples are rows or texts like theirs: the model's own training or validation set will do. For
numbers each column becomes normal scores of its ranks, the columns are whitened, and the distance
is that to the nearest example; for texts it is one less the weighted Jaccard likeness of its words
to the most alike example's, rare words weighing more. The limit is the distance that a chosen share
of the examples themselves exceed, each fifth of them against a profile of the others.

Needs numpy (`pip install velvetrope-client[profile]`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from velvetrope_client.wrong_answers import words

__all__ = ["BadProfile", "Profile", "TextProfile", "VectorProfile", "dump", "fit", "load"]

Floats = NDArray[np.float64]
_FORMAT: Final = 1
_MIN_EXAMPLES: Final = 50
_MAX_EXAMPLES: Final = 4000
_FOLDS: Final = 5
_RIDGE: Final = 0.01  # of a column's variance, so that equal columns do not divide by nothing
_LAST_RANK: Final = 1e-4  # past which the tails of the normal scores are flat
_NORMAL: Final = NormalDist()


class BadProfile(ValueError):
    """Examples or a file that make no profile; the text says what is wrong."""


class VectorProfile:
    """Rows of numbers, and how far a row may be from the nearest of them.

    Args:
        rows: (n, d) examples.
        limit: distance in whitened normal scores.
    """

    def __init__(self, rows: Any, limit: float = math.inf) -> None:
        self._rows = np.asarray(rows, dtype=np.float64)
        if self._rows.ndim != 2 or not self._rows.size or not np.isfinite(self._rows).all():
            raise BadProfile("rows: expected lists of finite numbers, all of one length")
        self._sorted = np.sort(self._rows, axis=0)
        # Twice a mid-rank is a whole number from 0 to 2n: there are no other quantiles.
        ranks = (np.arange(2 * len(self._rows) + 1) + 1) / 2 / (len(self._rows) + 1)
        kept = np.clip(ranks, _LAST_RANK, 1 - _LAST_RANK).tolist()
        self._quantiles = np.array([_NORMAL.inv_cdf(rank) for rank in kept])
        scores = self._scores(self._rows)
        spread = np.cov(scores.T).reshape(len(scores.T), -1) + _RIDGE * np.eye(len(scores.T))
        self._whiten = np.linalg.inv(np.linalg.cholesky(spread)).T
        self._examples = scores @ self._whiten
        self._squares = (self._examples**2).sum(axis=1)
        self.limit = limit

    def distance(self, given: str | Sequence[float]) -> float:
        """To the nearest example; 0 for a text, or a row of another length: nothing is known."""
        point = self._point(given)
        if point is None:
            return 0.0
        nearest = (self._squares - 2.0 * (self._examples @ point)).min() + point @ point
        return math.sqrt(max(0.0, float(nearest)))

    def is_far(self, given: str | Sequence[float]) -> bool:
        """Whether an input is farther than the limit."""
        return self.distance(given) > self.limit

    def coordinates(self, given: Sequence[float]) -> list[float] | None:
        """A row's normal scores, whitened; None for another length."""
        point = self._point(given)
        return None if point is None else [float(x) for x in point]

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {"kind": "vector", "limit": self.limit, "rows": self._rows.tolist()}

    def _point(self, given: str | Sequence[float]) -> Floats | None:
        if isinstance(given, str) or len(given) != self._rows.shape[1]:
            return None
        point: Floats = (self._scores(np.asarray([given], dtype=np.float64)) @ self._whiten)[0]
        return point

    def _scores(self, rows: Floats) -> Floats:
        """Mid-ranks among the examples, as quantiles of the normal distribution."""
        columns = []
        for held, column in zip(self._sorted.T, rows.T, strict=True):
            below = np.searchsorted(held, column, "left") + np.searchsorted(held, column, "right")
            columns.append(self._quantiles[below])
        return np.array(columns).T


class TextProfile:
    """Texts as sets of hashed words, and how unlike all of them a text may be.

    A word is kept as 8 bytes of a hash: the file holds no text, though a guess at a word can be
    tested against it.
    """

    def __init__(self, texts: Sequence[Sequence[str]], limit: float = math.inf) -> None:
        self._texts = [frozenset(text) for text in texts]
        among = Counter(word for text in self._texts for word in text)
        self._unseen = math.log(len(self._texts) + 1)
        self._weight = {w: self._unseen - math.log(n + 1) for w, n in among.items()}
        self._total = np.array([self._weigh(text) for text in self._texts])
        places: dict[str, list[int]] = {}
        for place, text in enumerate(self._texts):
            for word in text:
                places.setdefault(word, []).append(place)
        self._with = {word: np.array(found) for word, found in places.items()}
        self.limit = limit

    def distance(self, given: str | Sequence[float]) -> float:
        """From 0, an example's words, to 1, no word in common; 0 for anything but a text."""
        if not isinstance(given, str):
            return 0.0
        text = hashed(given)
        total = self._weigh(text)
        if not total:
            return 0.0  # empty, or of nothing but words that every example has
        shared = np.zeros(len(self._texts))
        for word in sorted(text):  # sums must not depend on a set's order
            if word in self._with:
                shared[self._with[word]] += self._weight[word]
        return 1.0 - float((shared / (total + self._total - shared)).max())

    def is_far(self, given: str | Sequence[float]) -> bool:
        """Whether a text is less like every example than the limit."""
        return self.distance(given) > self.limit

    def coordinates(self, given: Sequence[float]) -> None:
        """A text has none."""
        return

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {"kind": "text", "limit": self.limit, "texts": [sorted(t) for t in self._texts]}

    def _weigh(self, text: frozenset[str]) -> float:
        return math.fsum(self._weight.get(word, self._unseen) for word in text)


Profile = VectorProfile | TextProfile


def fit(examples: Sequence[Any], *, touched: float = 0.005) -> Profile:
    """A profile of texts or of rows of numbers; of more than 4,000 evenly spaced ones are kept.

    Raises BadProfile for fewer than 50 examples, or for a mixture.
    """
    if len(examples) < _MIN_EXAMPLES:
        raise BadProfile(f"{len(examples)} examples; a profile needs at least {_MIN_EXAMPLES}")
    if not 0.0 < touched < 0.5:
        raise BadProfile(f"touched: above 0 and below 0.5, not {touched}")
    step = max(1.0, len(examples) / _MAX_EXAMPLES)
    kept = [examples[int(place * step)] for place in range(int(len(examples) / step))]
    try:
        distances = [
            distance
            for fold in range(_FOLDS)
            for distance in _distances(
                _made([e for at, e in enumerate(kept) if at % _FOLDS != fold]), kept[fold::_FOLDS]
            )
        ]
        return _made(kept, float(np.quantile(distances, 1.0 - touched)))
    except (TypeError, ValueError, OverflowError, np.linalg.LinAlgError) as error:
        raise BadProfile(f"examples: all texts, or all rows of numbers: {error}") from error


def _made(examples: Sequence[Any], limit: float = math.inf) -> Profile:
    if all(isinstance(example, str) for example in examples):
        return TextProfile([sorted(hashed(text)) for text in examples], limit)
    return VectorProfile(examples, limit)


def _distances(profile: Profile, others: Sequence[Any]) -> list[float]:
    return [profile.distance(other) for other in others]


def load(path: Path | str) -> Profile:
    """Read a file that `dump` wrote. BadProfile names the file; OSError when it cannot be read."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            raise BadProfile(f"format {document['format']}; this version reads {_FORMAT}")
        limit = float(document["limit"])
        if not limit >= 0.0:
            raise BadProfile(f"limit {limit}: nothing would be far")
        if document["kind"] == "text":
            return TextProfile(document["texts"], limit)
        return VectorProfile(document["rows"], limit)
    except (
        *(KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError),
        np.linalg.LinAlgError,
    ) as error:
        raise BadProfile(f"{path}: no profile: {error}") from error


def dump(profile: Profile) -> str:
    """The text of a profile's file. It holds the examples: rows as they are, words hashed."""
    return json.dumps({"format": _FORMAT, **profile.to_json()}, separators=(",", ":")) + "\n"


def hashed(text: str) -> frozenset[str]:
    """A text's words as hashes, hex of 8 bytes."""
    return frozenset(blake2b(word.encode(), digest_size=8).hexdigest() for word in words(text))
