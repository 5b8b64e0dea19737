"""How thieves choose what to ask. Each is a generator: it yields requests and is sent their labels.

What comes next depends only on the labels of what was answered, never on when: with every answer
given, a thief behind a gateway asks what one before the bare model asks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

import numpy as np

from benchmarks.fidelity.victims import (
    Labels,
    Requests,
    Rng,
    TableVictim,
    Victim,
    fitted,
    joined,
)
from detector.attack.substitute import Substitute

__all__ = ["Strategy", "of"]

Strategy = Generator[Requests, Labels, None]
_BATCH: Final = 100
_SEEDS: Final = 100
_STEP: Final = 0.1  # of a column's range: Papernot et al. 2017 step 0.1 in pixels of 0 to 1


def of(victim: Victim) -> dict[str, Callable[[Victim, Rng, int], Strategy]]:
    """The strategies that make sense against a victim."""
    if isinstance(victim, TableVictim):
        return {
            "random": random,
            "natural_pool": natural_pool,
            "uniform": uniform,
            "jbda": jbda,
            "active": active,
        }
    return {"random": random, "natural_pool": natural_pool, "active": active}


def random(victim: Victim, rng: Rng, budget: int) -> Strategy:
    """Knockoff Nets' random strategy (Orekondy et al. 2019): public inputs, in any order."""
    yield victim.public(rng, budget)


def natural_pool(victim: Victim, rng: Rng, budget: int) -> Strategy:
    """Inputs of the customers' own kind, in any order: the best a thief can have."""
    yield victim.ordinary(rng, budget, "thief")


def uniform(victim: Victim, rng: Rng, budget: int) -> Strategy:
    """Anything within the published ranges."""
    assert isinstance(victim, TableVictim)
    yield victim.uniform(rng, budget)


def active(victim: Victim, rng: Rng, budget: int) -> Strategy:
    """Margin sampling (Scheffer et al. 2001) with the copy, from a pool of ordinary and other."""
    pool = victim.ordinary(rng, 2 * budget, "thief")
    if isinstance(victim, TableVictim):
        near = victim.ordinary(rng, budget, "thief").features
        near = near + rng.normal(0.0, 0.2, near.shape) * victim.spread
        pool = joined([pool, victim.requests(near)])
    else:
        pool = joined([pool, victim.public(rng, budget // 2)])
    # The first batch is ordinary: a thief begins with what he knows to be asked.
    chosen = rng.permutation(2 * budget)[:_BATCH]
    left = np.setdiff1d(np.arange(len(pool)), chosen)
    asked = pool.at(chosen)
    labels = yield asked
    features = asked.features
    while True:
        copy = fitted(victim.copy, features, labels)
        chances = np.sort(copy.predict_proba(pool.features[left]), axis=1)
        margin = chances[:, -1] - (chances[:, -2] if chances.shape[1] > 1 else 0.0)
        chosen = left[np.argsort(margin, kind="stable")[:_BATCH]]
        left = np.setdiff1d(left, chosen)
        asked = pool.at(chosen)
        answer = yield asked
        features = np.concatenate([features, asked.features])
        labels = np.concatenate([labels, answer])


def jbda(victim: Victim, rng: Rng, budget: int) -> Strategy:
    """Jacobian-based dataset augmentation (Papernot et al. 2017), doubling in each round.

    From every row, a step by the sign of the substitute's gradient for the row's label; the side
    alternates from round to round. The substitute is a network of one hidden layer.
    """
    assert isinstance(victim, TableVictim)
    asked = victim.ordinary(rng, _SEEDS, "thief")
    x, y = asked.features, (yield asked)
    side = 1.0
    while True:
        slope = Substitute(x, y).gradient(x, y)
        step = side * _STEP * (victim.high - victim.low) * np.sign(slope)
        asked = victim.requests(x + step).at(rng.permutation(len(x)))
        y = np.concatenate([y, (yield asked)])
        x = np.concatenate([x, asked.features])
        side = -side
