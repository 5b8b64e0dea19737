"""A model API of handwritten digits: the model, its ordinary clients' images, and its thief.

Every image is what the API takes: 8 × 8 whole levels of ink from 0 to 16, whoever sends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

__all__ = ["Extraction", "Victim", "customers_images"]

Images = NDArray[np.float64]  # (n, 64)
Labels = NDArray[np.int64]  # (n,)

CLASSES = 10
_SIDE = 8
_INK = 16.0


@dataclass(frozen=True)
class Victim:
    """The model, and images that it was not trained on: some for its clients, some for nobody."""

    model: SVC
    known: tuple[Images, Labels]
    clients: tuple[Images, Labels]
    held_out: tuple[Images, Labels]

    @classmethod
    def train(cls) -> Victim:
        """On two fifths of scikit-learn's digits. The rest: two for clients, one held out."""
        x, y = load_digits(return_X_y=True)
        x_known, x_rest, y_known, y_rest = train_test_split(
            x, y, train_size=0.4, random_state=0, stratify=y
        )
        x_clients, x_held, y_clients, y_held = train_test_split(
            x_rest, y_rest, train_size=2 / 3, random_state=0, stratify=y_rest
        )
        model = SVC(gamma=0.001).fit(x_known, y_known)
        return cls(model, (x_known, y_known), (x_clients, y_clients), (x_held, y_held))

    def label(self, image: Sequence[float]) -> int:
        """What the API answers."""
        return int(self.model.predict(np.asarray([image], dtype=np.float64))[0])


def customers_images(victim: Victim, classes: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """A client's images: its own mix of some classes, in its own hand.

    A hand turns, slants, widens and presses in its own way; each image differs a little from that.
    """
    x, y = victim.clients
    mine = rng.choice(CLASSES, classes, replace=False)
    share = rng.dirichlet(np.full(classes, 2.0))
    decks = {digit: [int(i) for i in rng.permutation(np.flatnonzero(y == digit))] for digit in mine}
    turn, slant = rng.normal(0.0, 0.08), rng.normal(0.0, 0.08)
    width, height = rng.normal(1.0, 0.05, 2)
    pressure = float(np.exp(rng.normal(0.0, 0.15)))
    while True:
        deck = decks[rng.choice(mine, p=share)]
        i = deck.pop()
        deck.insert(0, i)
        angle = turn + rng.normal(0.0, 0.03)
        turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        hand = turned @ np.array([[height, 0.0], [slant, width]])
        middle = np.full(2, (_SIDE - 1) / 2)
        moved = middle - hand @ middle + rng.normal(0.0, 0.15, 2)
        drawn = affine_transform(x[i].reshape(_SIDE, _SIDE), hand, moved, order=1)
        ink = (np.clip(drawn, 0.0, _INK) / _INK) ** (1.0 / pressure)
        yield _levels(ink.ravel() * _INK)


class Extraction:
    """An outsider's active learning: a few digits of its own hand, and no pool of real ones.

    It asks what its student is least sure of among made-up images: mixtures and distortions of
    those that it knows the answer to, and noise.
    """

    def __init__(self, victim: Victim, rng: np.random.Generator, *, batch: int = 20) -> None:
        x, y = victim.known
        seeds = [int(rng.choice(np.flatnonzero(y == digit))) for digit in range(CLASSES)]
        self._rng = rng
        self._batch = batch
        self._asked: list[list[int]] = []
        self._answers: list[int] = []
        self._next = [_levels(x[i]) for i in seeds]
        self._known = list(self._next)
        self.student: Pipeline | None = None

    def query(self) -> list[int]:
        """The next image to ask about."""
        if not self._next:
            self._learn()
            self._next = self._least_sure()
        return self._next.pop()

    def answer(self, image: list[int], label: int) -> None:
        """What the victim said."""
        self._asked.append(image)
        self._answers.append(label)

    def agreement(self, victim: Victim) -> float:
        """Share of held-out digits on which the student says what the victim says."""
        self._learn()
        if self.student is None:
            return 0.0
        x, _ = victim.held_out
        return float(np.mean(self.student.predict(x) == victim.model.predict(x)))

    def _learn(self) -> None:
        if len(set(self._answers)) > 1:
            student = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=60))
            self.student = student.fit(self._asked, self._answers)

    def _least_sure(self) -> list[list[int]]:
        candidates = self._candidates(400)
        if self.student is None:
            return [_levels(image) for image in candidates[: self._batch]]
        likely = np.sort(self.student.predict_proba(candidates), axis=1)
        margin = likely[:, -1] - likely[:, -2]
        # Of the least sure the half, at random: the very least sure are all alike.
        unsure = np.argsort(margin)[: 2 * self._batch]
        chosen = self._rng.choice(unsure, self._batch, replace=False)
        return [_levels(candidates[i]) for i in chosen]

    def _candidates(self, count: int) -> Images:
        rng = self._rng
        base = np.array(self._known + self._asked, dtype=np.float64)
        one = base[rng.integers(len(base), size=count)]
        other = base[rng.integers(len(base), size=count)]
        weight = rng.uniform(0.3, 0.7, (count, 1))
        kinds = rng.integers(3, size=count)
        mixed = weight * one + (1.0 - weight) * other
        distorted = one + rng.normal(0.0, 3.0, one.shape)
        patched = np.where(rng.random(one.shape) < 0.5, one, other)
        made: Images = np.choose(kinds[:, None], (mixed, distorted, patched))
        return np.clip(made, 0.0, _INK)


def _levels(image: Images) -> list[int]:
    return [int(level) for level in np.clip(np.rint(image), 0, _INK)]
