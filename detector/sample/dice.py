"""Seeded draws that are cheap one at a time: numpy fills a block, Python takes from it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np

__all__ = ["Dice"]

T = TypeVar("T")
_BLOCK: Final = 256


class Dice:
    """All chance of one thing that is named by `seed`: the same name gives the same draws.

    Names may be numbers or text, so that what one account draws never depends on another's draws.
    """

    __slots__ = ("_left", "generator")

    def __init__(self, *seed: int | str) -> None:
        words = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in seed]
        self.generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
        self._left: list[float] = []

    def random(self) -> float:
        """Uniform in [0, 1)."""
        if not self._left:
            self._left = self.generator.random(_BLOCK).tolist()
        return self._left.pop()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(self.random() * len(options))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different options, or all of them, in random order."""
        left = list(options)
        return [left.pop(int(self.random() * len(left))) for _ in range(min(count, len(left)))]

    def integer(self, low: int, high: int) -> int:
        """Uniform in low … high, both included."""
        return low + int(self.random() * (high - low + 1))

    def uniform(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + self.random() * (high - low)

    def lognormal(self, median: float, sigma: float) -> float:
        """Log-normal with this median; `sigma` is the standard deviation of its logarithm."""
        return median * math.exp(sigma * float(self.generator.standard_normal()))
