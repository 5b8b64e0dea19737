"""The models that are copied, what is asked of them, and what a copy is measured on.

A victim's training rows never pass the gateway. The others are dealt, before anything is drawn, to
customers, to the thief, and to the held-out rows on which copy and victim are compared. Of sources
that the detector was trained on, only those of the `test` split pass the gateway or are compared;
but for what a thief of texts asks that is public, sentences of an encyclopedia among it.
"""

from __future__ import annotations

import gzip
import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.sources import dealt, third

__all__ = [
    "FROM_DATA",
    "Labels",
    "Matrix",
    "Requests",
    "Rng",
    "TableVictim",
    "TextVictim",
    "Victim",
    "breast_cancer",
    "fitted",
    "joined",
    "load",
]

Matrix = NDArray[np.float64]  # (n, d) one request's features a row
Labels = NDArray[np.int64]  # (n,)
Floats = NDArray[np.float64]
Rng = np.random.Generator
Share = Literal["customers", "thief"]

FROM_DATA: Final = ("letter", "magic", "intents")
_NEAR: Final = 4
_NEW: Final = 0.5  # share of ordinary rows that are drawn between two recorded ones
_WORDS: Final = 18  # of a public sentence: no longer than what customers ask
_TRAIN, _CUSTOMERS, _THIEF = 0.30, 0.57, 0.90  # cumulative shares of an intent's texts


@dataclass(frozen=True)
class Requests:
    """Requests as the models see them and as they are sent, one a row of `features`."""

    features: Matrix
    sent: list[str] | list[list[float]]

    def __len__(self) -> int:
        return len(self.features)

    def at(self, rows: Sequence[int] | Labels) -> Requests:
        """Those at some places, in that order."""
        sent: Any = [self.sent[i] for i in rows]
        return Requests(self.features[np.asarray(rows, dtype=np.int64)], sent)


def joined(parts: Sequence[Requests]) -> Requests:
    """Requests one after the other."""
    sent: Any = [one for part in parts for one in part.sent]
    return Requests(np.concatenate([part.features for part in parts]), sent)


class Victim(Protocol):
    """A model behind an API."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Literal["vector", "text"]: ...
    @property
    def classes(self) -> Labels: ...
    @property
    def held_out(self) -> tuple[Matrix, Labels]:
        """Features that were shown to nobody, and the victim's answers to them."""
        ...

    @property
    def checked(self) -> tuple[Requests, Labels]:
        """The held-out requests, and what their right answers are."""
        ...

    @property
    def examples(self) -> list[str] | list[list[float]]:
        """Requests as the operator has them: training rows, and of the customers' own."""
        ...

    def answers(self, features: Matrix) -> tuple[Labels, Floats]:
        """Label and confidence of each row."""
        ...

    def chances(self, features: Matrix) -> Matrix:
        """The probability of each of `classes`, (n, classes)."""
        ...

    def ordinary(self, rng: Rng, n: int, share: Share, classes: Labels | None = None) -> Requests:
        """`n` requests as customers make them, of a share of the rows, perhaps of few classes."""
        ...

    def public(self, rng: Rng, n: int) -> Requests:
        """`n` requests of what anybody can find, and no customer would ask."""
        ...

    def copy(self) -> Any:
        """An untrained scikit-learn classifier of the victim's own kind."""
        ...


class TableVictim:
    """A classifier of table rows.

    Args:
        name: of the model in the log.
        known: rows and labels that it is trained on.
        rest: rows and labels for customers, thief and comparison.
        copy: makes an untrained classifier; the victim is one of them, trained.
        rng: deals the rest.
    """

    kind: Final = "vector"

    def __init__(
        self,
        name: str,
        known: tuple[Matrix, Labels],
        rest: tuple[Matrix, Labels],
        copy: Callable[[], Any],
        rng: Rng,
    ) -> None:
        self.name = name
        self.copy = copy
        self._model = fitted(copy, *known)
        x, y = rest
        order = rng.permutation(len(x))
        customers, thief, held_out = np.split(order, [int(0.35 * len(x)), int(0.7 * len(x))])
        self._shares: dict[Share, tuple[Matrix, Labels, Labels]] = {
            "customers": _with_neighbours(x[customers], y[customers]),
            "thief": _with_neighbours(x[thief], y[thief]),
        }
        self.classes = np.unique(known[1])
        self.held_out = (x[held_out], self._model.predict(x[held_out]).astype(np.int64))
        self.checked = (Requests(x[held_out], x[held_out].tolist()), y[held_out])
        self.examples: list[list[float]] = [*known[0].tolist(), *x[customers].tolist()]
        self.accuracy = float(np.mean(self.held_out[1] == y[held_out]))
        self.low, self.high = known[0].min(axis=0), known[0].max(axis=0)
        self.spread = known[0].std(axis=0) + 1e-9
        self._digits = [_digits(known[0][:, d]) for d in range(x.shape[1])]

    def answers(self, features: Matrix) -> tuple[Labels, Floats]:
        chances = self._model.predict_proba(features)
        labels = self._model.classes_[chances.argmax(axis=1)]
        return labels.astype(np.int64), np.round(chances.max(axis=1), 4)

    def chances(self, features: Matrix) -> Matrix:
        found: Matrix = self._model.predict_proba(features)
        return found

    def ordinary(self, rng: Rng, n: int, share: Share, classes: Labels | None = None) -> Requests:
        x, y, near = self._shares[share]
        among = np.arange(len(x)) if classes is None else np.flatnonzero(np.isin(y, classes))
        if not len(among):
            among = np.arange(len(x))
        rows = _drawn(rng, among, n)
        made = x[rows].copy()
        # Few rows were recorded for many accounts. Each dimension moves by itself: what lies on a
        # straight line between two rows would be smoother than data is.
        new = rng.random(n) < _NEW
        other = x[near[rows, rng.integers(near.shape[1], size=n)]]
        made[new] += (rng.random(made.shape) * (other - made))[new]
        return self.requests(made)

    def public(self, rng: Rng, n: int) -> Requests:
        """Right in each column, wrong together: the columns' histograms are public, rows are not.

        Orekondy et al. 2019 query from a public pool of another distribution; a table's next best
        is this.
        """
        x = self.ordinary(rng, n, "thief").features
        return self.requests(np.stack([rng.permutation(column) for column in x.T], axis=1))

    def uniform(self, rng: Rng, n: int) -> Requests:
        """Anything within the published ranges."""
        return self.requests(rng.uniform(self.low, self.high, (n, len(self.low))))

    def requests(self, x: Matrix) -> Requests:
        """Rows within the published ranges, at the resolution of the recorded ones."""
        x = np.clip(x, self.low, self.high)
        for d, digits in enumerate(self._digits):
            x[:, d] = np.round(x[:, d], digits)
        return Requests(x, x.tolist())


class TextVictim:
    """A classifier of short requests by their intent, on embeddings that everybody has.

    Embeddings are hashed words and pairs of words, reduced by a truncated SVD of the victim's
    training texts and of public ones: latent semantic analysis, needing no download.

    Args:
        name: of the model in the log.
        texts: intent → its texts.
        public: sentences of elsewhere.
        rng: deals the texts.
    """

    kind: Final = "text"

    def __init__(
        self, name: str, texts: dict[str, list[str]], public: Sequence[str], rng: Rng
    ) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
        from sklearn.pipeline import make_pipeline

        self.name = name
        parts: list[tuple[list[str], list[int]]] = [([], []) for _ in range(4)]
        for label, intent in enumerate(sorted(texts)):
            own = [texts[intent][i] for i in rng.permutation(len(texts[intent]))]
            cuts = [0, *(int(share * len(own)) for share in (_TRAIN, _CUSTOMERS, _THIEF)), len(own)]
            for part, (start, end) in zip(parts, itertools.pairwise(cuts), strict=True):
                part[0].extend(own[start:end])
                part[1].extend([label] * (end - start))
        known, customers, thief, held_out = parts
        self._public = list(public)
        spoken = [*known[0], *self._public]
        terms = HashingVectorizer(n_features=1 << 16, ngram_range=(1, 2), alternate_sign=False)
        width = min(192, len(spoken) // 4)
        self._embedding: Any = make_pipeline(
            terms, TfidfTransformer(sublinear_tf=True), TruncatedSVD(width, random_state=0)
        ).fit(spoken)
        self._model = fitted(self.copy, self._embed(known[0]), np.array(known[1]))
        self.classes = np.arange(len(texts), dtype=np.int64)
        self._shares: dict[Share, tuple[list[str], Labels]] = {
            "customers": (customers[0], np.array(customers[1], dtype=np.int64)),
            "thief": (thief[0], np.array(thief[1], dtype=np.int64)),
        }
        features = self._embed(held_out[0])
        self.checked = (Requests(features, held_out[0]), np.array(held_out[1], dtype=np.int64))
        self.examples: list[str] = [*known[0], *customers[0]]
        self.held_out = (features, self._model.predict(features).astype(np.int64))
        self.accuracy = float(np.mean(self.held_out[1] == np.array(held_out[1])))

    def copy(self) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=30.0, max_iter=40)

    def answers(self, features: Matrix) -> tuple[Labels, Floats]:
        chances = self._model.predict_proba(features)
        labels = self._model.classes_[chances.argmax(axis=1)]
        return labels.astype(np.int64), np.round(chances.max(axis=1), 4)

    def chances(self, features: Matrix) -> Matrix:
        found: Matrix = self._model.predict_proba(features)
        return found

    def ordinary(self, rng: Rng, n: int, share: Share, classes: Labels | None = None) -> Requests:
        texts, y = self._shares[share]
        among = np.arange(len(texts)) if classes is None else np.flatnonzero(np.isin(y, classes))
        rows = _drawn(rng, among, n)
        return self.requests(_voice(rng, [texts[i] for i in rows.tolist()]))

    def public(self, rng: Rng, n: int) -> Requests:
        rows = _drawn(rng, np.arange(len(self._public)), n)
        return self.requests(_voice(rng, [self._public[i] for i in rows.tolist()]))

    def requests(self, texts: list[str]) -> Requests:
        """Texts as the models see them."""
        return Requests(self._embed(texts), texts)

    def _embed(self, texts: Sequence[str]) -> Matrix:
        found: Matrix = self._embedding.transform(texts)
        found /= np.linalg.norm(found, axis=1, keepdims=True) + 1e-9
        return found


def breast_cancer(rng: Rng) -> TableVictim:
    """scikit-learn's breast cancer table and a logistic regression; needs no data."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table: Any = load_breast_cancer()
    x, y = table.data.astype(np.float64), table.target.astype(np.int64)
    order = rng.permutation(len(x))
    known, rest = order[:170], order[170:]

    def copy() -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=200))

    return TableVictim("breast_cancer", (x[known], y[known]), (x[rest], y[rest]), copy, rng)


def load(name: str, data: Path, rng: Rng) -> TableVictim | TextVictim:
    """A victim of `FROM_DATA`, from the files in `data`."""
    if name == "intents":
        return _intents(data, rng)
    arrays = np.load(data / "tabular_streams.npz")
    known: list[tuple[Matrix, Labels]] = []
    rest: list[tuple[Matrix, Labels]] = []
    # As the sources of the detection benchmark deal them: rows one by one, streams by runs of 64.
    for stream, run in (("benign", 1), ("natural_pool", 64)):
        x = arrays[f"{name}__{stream}_X"].astype(np.float64)
        y = arrays[f"{name}__{stream}_y"].astype(np.int64)
        runs = np.arange(len(x)) // run
        test = np.isin(runs, sorted(third(runs.tolist(), "test")))
        rest.append((x[test], y[test]))
        known.append((x[~test], y[~test]))
    return TableVictim(name, _joined(known), _joined(rest), _COPIES[name], rng)


def fitted(copy: Callable[[], Any], x: Matrix, y: Labels) -> Any:
    """The classifier that `copy` makes, trained; one that always says the same for one label."""
    from sklearn.dummy import DummyClassifier

    model = copy() if len(np.unique(y)) > 1 else DummyClassifier()
    with warnings.catch_warnings():
        # Iterations are bounded on purpose, and a batch may be larger than what was answered.
        warnings.simplefilter("ignore", UserWarning)
        return model.fit(x, y)


def _intents(data: Path, rng: Rng) -> TextVictim:
    import pyarrow.parquet as pq

    table = pq.read_table(data / "prompts.parquet").to_pydict()
    texts: dict[str, list[str]] = {}
    for source, intent, text in zip(table["source"], table["meta"], table["text"], strict=True):
        if source == "clinc150":
            texts.setdefault(intent, []).append(text)
    keep = dealt(texts, "test") - {"oos"}
    public = texts.pop("oos", [])
    for line in (
        gzip.decompress((data / "wikitext2_valid.txt.gz").read_bytes()).decode().split("\n")
    ):
        for sentence in re.split(r" [.;] ", line.strip()):
            words = re.sub(r"<unk>|@|[^\w ']", " ", sentence).split()
            if 5 <= len(words) <= 40:
                public.append(" ".join(words[:_WORDS]).lower())
    public = [public[i] for i in rng.permutation(len(public))[:4000]]
    return TextVictim("intents", {i: texts[i] for i in sorted(keep)}, public, rng)


def _letter_copy() -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = MLPClassifier((96,), batch_size=64, max_iter=60, tol=1e-3, random_state=0)
    return make_pipeline(StandardScaler(), network)


def _magic_copy() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=40, learning_rate=0.15, max_leaf_nodes=15, min_samples_leaf=10, random_state=0
    )


_COPIES: Final = {"letter": _letter_copy, "magic": _magic_copy}


def _joined(parts: list[tuple[Matrix, Labels]]) -> tuple[Matrix, Labels]:
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def _drawn(rng: Rng, among: Labels, n: int) -> Labels:
    """`n` of them in any order, each again only when all were drawn."""
    return np.concatenate([rng.permutation(among) for _ in range(-(-n // len(among)))])[:n]


def _with_neighbours(x: Matrix, y: Labels) -> tuple[Matrix, Labels, Labels]:
    """Rows, labels, and the places of each row's nearest of the same label, (n, 4)."""
    scaled = x / (x.std(axis=0) + 1e-9)
    near = np.zeros((len(x), _NEAR), dtype=np.int64)
    for label in np.unique(y):
        at = np.flatnonzero(y == label)
        far = ((scaled[at][:, None] - scaled[at][None]) ** 2).sum(axis=2)
        order = at[np.argsort(far, axis=1, kind="stable")[:, : _NEAR + 1]]
        near[at] = np.resize(order[:, 1:].T, (_NEAR, len(at))).T if len(at) > 1 else at[:, None]
    return x, y, near


def _digits(column: Matrix) -> int:
    """Digits after the point that a column's values have, at most 6."""
    for digits in range(6):
        if np.allclose(column, np.round(column, digits), rtol=0.0, atol=1e-6):
            return digits
    return 6


def _voice(rng: Rng, texts: list[str]) -> list[str]:
    """The same in one of the ways in which an application passes on what its users type."""
    opening = ("", "", "", "hey ", "please ", "ok so ", "hi, ")[int(rng.integers(7))]
    ending = ("", "", "", ".", " please", " thanks")[int(rng.integers(6))]
    capital = rng.random() < 0.3
    share = rng.uniform(0.1, 1.0)
    said = []
    for text, chance in zip(texts, rng.random(len(texts)).tolist(), strict=True):
        if chance < share:
            text = f"{opening}{text}{ending}"
        said.append(text[:1].upper() + text[1:] if capital else text)
    return said
