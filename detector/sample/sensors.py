"""The API's vector model: tells a machine's condition from its sensors, and who asks it.

Readings are draws from a Gaussian mixture, one component a condition, with the correlations that
sensors on one shaft have. The model is a nearest-centroid classifier under the mixture's shared
covariance.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.sample.dice import Dice

__all__ = ["CONDITIONS", "SENSORS", "ConditionModel", "Plant", "Prober"]

CONDITIONS: Final = ("sound", "unbalanced", "misaligned", "worn", "loose", "blocked")
SENSORS: Final = 16
_FACTORS: Final = 5
_COMMON: Final = (0.62, 0.12, 0.08, 0.09, 0.05, 0.04)  # share of each condition

Vector = NDArray[np.float64]


class ConditionModel:
    """The victim: (label, confidence) of a reading, and the plant's statistics behind it."""

    def __init__(self, seed: int) -> None:
        draw = Dice(seed, "plant").generator
        self.mixing = draw.normal(0.0, 1.0, (_FACTORS, SENSORS))
        self.noise = draw.uniform(0.25, 0.6, SENSORS)
        self.base = draw.uniform(20.0, 90.0, SENSORS)
        self.scale = draw.uniform(0.5, 8.0, SENSORS)
        self.centres = 2.2 * draw.normal(0.0, 1.0, (len(CONDITIONS), SENSORS))
        self.centres[0] = 0.0
        covariance = self.mixing.T @ self.mixing + np.diag(self.noise**2)
        self._whiten = np.linalg.cholesky(np.linalg.inv(covariance))
        self._white_centres = self.centres @ self._whiten

    def answer(self, reading: Vector) -> tuple[str, float]:
        """Label and confidence of one reading, float64 (16,)."""
        normal = (reading - self.base) / self.scale
        distance = ((normal @ self._whiten - self._white_centres) ** 2).sum(axis=1)
        weight = np.exp(-0.5 * (distance - distance.min()))
        best = int(weight.argmax())
        return CONDITIONS[best], round(float(weight[best] / weight.sum()), 4)

    def reading(self, dice: Dice, condition: int, factors: Vector) -> Vector:
        """What the sensors show: float64 (16,), in the units and digits of the instruments."""
        normal = (
            self.centres[condition]
            + factors @ self.mixing
            + self.noise * dice.generator.standard_normal(SENSORS)
        )
        return np.asarray(np.round(self.base + self.scale * normal, 3))


class Plant:
    """A customer: some machines, whose load wanders and whose condition sometimes changes."""

    def __init__(self, habit: Dice, today: Dice, model: ConditionModel) -> None:
        self._dice = today
        self._model = model
        machines = habit.integer(3, 12)
        self._trend = habit.uniform(0.3, 0.9)  # how much of its load a machine keeps
        self._offset = 0.35 * habit.generator.standard_normal((machines, _FACTORS))
        self._factors = today.generator.standard_normal((machines, _FACTORS))
        self._condition = [self._draw() for _ in range(machines)]

    def write(self, turn: int) -> list[float]:
        """The next machine's sensors."""
        machine = turn % len(self._condition)
        if self._dice.chance(0.06):
            self._condition[machine] = self._draw()
        fresh = self._dice.generator.standard_normal(_FACTORS)
        keep = self._trend
        self._factors[machine] = keep * self._factors[machine] + (1 - keep**2) ** 0.5 * fresh
        factors = self._factors[machine] + self._offset[machine]
        reading = self._model.reading(self._dice, self._condition[machine], factors)
        return [float(value) for value in reading]

    def _draw(self) -> int:
        return int(np.searchsorted(np.cumsum(_COMMON), self._dice.random() * 0.999))


class Prober:
    """A thief of the vector model: draws over the sensors' ranges, then closes in on borders.

    Half of the accounts shuffle plausible values between sensors, the others search along lines
    between readings that were answered differently, as active learning does.
    """

    def __init__(self, today: Dice, model: ConditionModel) -> None:
        self._dice = today
        self._model = model
        self._searches = today.chance(0.5)
        self._known: list[tuple[Vector, str]] = []

    def write(self, turn: int) -> list[float]:
        """The next query."""
        query = self._border() if self._searches and len(self._known) >= 12 else self._anywhere()
        self._known = [*self._known[-199:], (query, self._model.answer(query)[0])]
        return [float(value) for value in query]

    def _anywhere(self) -> Vector:
        """Each sensor from a reading of its own: its range is right, its company is not."""
        dice = self._dice
        rows = np.array(
            [
                self._model.reading(
                    dice,
                    dice.integer(0, len(CONDITIONS) - 1),
                    dice.generator.standard_normal(_FACTORS),
                )
                for _ in range(4)
            ]
        )
        return np.asarray(rows[dice.generator.integers(0, 4, SENSORS), np.arange(SENSORS)])

    def _border(self) -> Vector:
        one, label = self._dice.pick(self._known)
        for _ in range(8):
            other, other_label = self._dice.pick(self._known)
            if other_label != label:
                return np.asarray(np.round(one + self._dice.uniform(0.3, 0.7) * (other - one), 3))
        return self._anywhere()
