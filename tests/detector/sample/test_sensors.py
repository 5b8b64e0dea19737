"""The vector model tells conditions apart, and its thief asks what no plant would send."""

from __future__ import annotations

import numpy as np

from detector.sample.dice import Dice
from detector.sample.sensors import CONDITIONS, SENSORS, ConditionModel, Plant, Prober

MODEL = ConditionModel(3)


def test_the_model_knows_its_own_conditions() -> None:
    dice = Dice("readings")
    right = 0
    for number in range(600):
        condition = number % len(CONDITIONS)
        reading = MODEL.reading(dice, condition, dice.generator.standard_normal(5))
        label, confidence = MODEL.answer(reading)
        right += label == CONDITIONS[condition]
        assert 1 / len(CONDITIONS) <= confidence <= 1.0
    assert right > 540


def test_readings_are_as_wide_as_the_plant_has_sensors() -> None:
    plant = Plant(Dice("habit"), Dice("today"), MODEL)
    assert {len(plant.write(turn)) for turn in range(50)} == {SENSORS}


def test_the_thief_leaves_the_plants_own_plane() -> None:
    """Customers move along 5 factors and small noise; shuffled readings do not."""

    def residual(rows: np.ndarray) -> float:
        normal = (rows - MODEL.base) / MODEL.scale
        distance = normal[:, None, :] - MODEL.centres[None]
        basis = np.linalg.qr(MODEL.mixing.T)[0]
        off_plane = distance - distance @ basis @ basis.T
        return float(np.median((off_plane**2).sum(axis=2).min(axis=1)))

    plant, thief = Plant(Dice("habit"), Dice("today"), MODEL), Prober(Dice("thief"), MODEL)
    honest = np.array([plant.write(turn) for turn in range(300)])
    stolen = np.array([thief.write(turn) for turn in range(300)])
    assert residual(stolen) > 1.5 * residual(honest)
