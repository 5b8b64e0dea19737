"""What customers' evidence looks like: the shipped reference, and the operator's own baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["BadBaseline", "Baseline", "KindBaseline", "Reference", "e_value"]

_TAIL_SHARE: Final = 0.1  # of the finite reference values, the tail that is modelled
_SHIPPED_WEIGHT: Final = 1000.0  # customers that the shipped reference counts for beside one's own
# Levels of the e-value's threshold tests and the weight of each bet; the weights add up to 1.
_BETS: Final = ((1e-2, 0.1), (1e-3, 0.4), (3e-4, 0.2), (1e-4, 0.2), (3e-5, 0.1))


class BadBaseline(ValueError):
    """A baseline file that cannot be used. The text says why."""


class KindBaseline(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of input ("text", "vector") in an operator's clean history."""

    accounts: int  # whose evidence was looked at
    evidence: list[float]  # highest evidence of those that had any, ascending
    bar: float | None = None  # text: log-odds that 5 % of them pass by their own history
    sketches: bytes = b""  # text: int8 (K, 128), mean sketches of customers, without their names
    means: list[float] = []  # text: mean block score of each of these


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """What `calibrate` makes of history that is believed clean."""

    schema: int = 1
    name: str
    scorer: str
    events: int
    first_ts: float
    last_ts: float
    kinds: dict[str, KindBaseline]
    centre: list[float] = []  # text: median sketch, 128 numbers
    vectors: dict[str, bytes] = {}  # population: its packed reservoir

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_bytes(msgspec.json.encode(self))

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """Read a baseline.

        Raises:
            BadBaseline: it cannot be read, or is no baseline of this version.
        """
        try:
            baseline = msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise BadBaseline(f"{path}: {error.strerror}") from None
        except msgspec.MsgspecError as error:
            raise BadBaseline(f"{path}: not a baseline made by `calibrate`: {error}") from None
        if baseline.schema != 1:
            raise BadBaseline(f"{path}: baseline schema {baseline.schema}; this program reads 1")
        return baseline


class Reference:
    """The evidence of N customers in a week: what a given evidence's false-alarm rate is.

    Args:
        evidence: finite evidence values, in any order.
        customers: N, those without any evidence included.
        fallback: the shipped reference, for an operator's own: it counts for 1,000 customers
            more, so that a small history neither convicts nor protects by its own chance.
        shift: what is taken off evidence before the fallback is asked: how much higher, in
            log-odds, the operator's customers lie than those of the shipped reference.
    """

    def __init__(
        self,
        evidence: Sequence[float] | NDArray[np.float64],
        customers: int,
        fallback: Reference | None = None,
        shift: float = 0.0,
    ) -> None:
        values = np.sort(np.asarray(evidence, dtype=np.float64))
        self.values = values[np.isfinite(values)]
        self.customers = customers
        self.fallback = fallback
        self.shift = shift
        tail = max(int(_TAIL_SHARE * len(self.values)), min(20, len(self.values)))
        self._tail_from = math.inf
        self._scale, self._shape = 1.0, 0.0
        if tail >= 10:
            self._tail_from = float(self.values[len(self.values) - tail])
            self._scale, self._shape = _generalized_pareto(self.values[-tail:] - self._tail_from)

    def rate(self, evidence: float) -> float:
        """Share of customers whose evidence in a week reaches this; 1 below all evidence."""
        if evidence == -math.inf:
            return 1.0
        if self.fallback is None:
            return self._own_rate(evidence)
        above = len(self.values) - int(np.searchsorted(self.values, evidence))
        expected = _SHIPPED_WEIGHT * self.fallback.rate(evidence - self.shift)
        return (above + expected) / (self.customers + _SHIPPED_WEIGHT)

    def counted(self, evidence: float) -> bool:
        """Whether the rate was counted among at least ten customers, not modelled by the tail."""
        return len(self.values) - int(np.searchsorted(self.values, evidence)) >= 10

    def _own_rate(self, evidence: float) -> float:
        above = len(self.values) - int(np.searchsorted(self.values, evidence))
        counted = (above + 1.0) / (self.customers + 1.0)
        if above >= 10 or evidence <= self._tail_from:
            return counted
        if math.isinf(self._tail_from):
            # Too few for a tail: a rank is all there is.
            return counted
        in_tail = len(self.values) - int(np.searchsorted(self.values, self._tail_from))
        excess = (evidence - self._tail_from) / self._scale
        if abs(self._shape) < 1e-9:
            survival = math.exp(-excess)
        else:
            inside = 1.0 + self._shape * excess
            survival = inside ** (-1.0 / self._shape) if inside > 0.0 else 0.0
        modelled = in_tail / (self.customers + 1.0) * survival
        # What was counted bounds the model: above, the rate at the tenth customer, so that it
        # never rises with the evidence; below, half the share that reached this. Beyond the end
        # of a bounded tail nothing was ever seen: one in a million, not never.
        fewest = max(0.5 * above / (self.customers + 1.0), 1e-6)
        return min(max(modelled, fewest), 11.0 / (self.customers + 1.0))

    def describe(self) -> dict[str, Any]:
        """For summaries: the size, and from which rate on the promise is modelled."""
        about: dict[str, Any] = {
            "customers": self.customers,
            "with_evidence": len(self.values),
            "counted_down_to_per_1000": 1000.0 * 11.0 / (self.customers + 1.0),
            "beyond": "modelled by a generalized Pareto tail",
        }
        if self.fallback is not None:
            about["shipped_counts_for"] = int(_SHIPPED_WEIGHT)
            about["shipped_shifted_by"] = self.shift
            about["shipped"] = self.fallback.describe()
        return about


def e_value(rate: float) -> float:
    """An e-value of the rank: bets at fixed levels α, each of which pays 1/α when it wins.

    A threshold test at level α has the e-value 1{rate ≤ α}/α; a weighted mean of e-values is one
    (Vovk and Wang 2021). A customer's exceeds k with probability at most 1/k.
    """
    return sum(weight / level for level, weight in _BETS if rate <= level)


def _generalized_pareto(excess: NDArray[np.float64]) -> tuple[float, float]:
    """Scale and shape of the tail by probability-weighted moments (Hosking and Wallis 1987).

    The shape is kept between -0.3 (measured on customers' evidence) and 0.5, so that chance in a
    short tail neither ends it early nor makes it endless.
    """
    ordered = np.sort(excess)
    n = len(ordered)
    mean = float(ordered.sum()) / n
    weighted = float((ordered * (n - 1 - np.arange(n))).sum()) / (n * (n - 1))
    if mean <= 0.0 or mean <= 2.0 * weighted:
        return max(mean, 1e-6), 0.0
    shape = 2.0 - mean / (mean - 2.0 * weighted)
    shape = min(max(shape, -0.3), 0.5)
    return max(mean * (1.0 - shape), 1e-6), shape
