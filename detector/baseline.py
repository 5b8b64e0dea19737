"""What customers' evidence looks like: the shipped reference, and the operator's own baseline."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["BadBaseline", "Baseline", "KindBaseline", "Missing", "Reference", "Tail", "e_value"]

# Of the finite values, the tails whose model is tried, the longest first.
_TAIL_SHARES: Final = (0.1, 0.07, 0.05, 0.03)
_TAIL_LEAST: Final = 20  # values
_FIT_LEVEL: Final = 0.1  # a model that fits is turned down this often
_FIT_DRAWS: Final = 199
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


class Missing(NamedTuple):
    """What an operator's own baseline lacks before decisions rest on it."""

    customers: int
    days: float
    models: str = ""  # it is of these, which judge no longer

    def __bool__(self) -> bool:
        return self.customers > 0 or self.days > 0.0 or bool(self.models)

    def __str__(self) -> str:
        parts = [f"to be calibrated anew (it is of {self.models})"] if self.models else []
        if self.customers:
            parts.append(f"{self.customers:,} more customers")
        if self.days:
            parts.append(f"{self.days:.1f} more days")
        return " and ".join(parts)


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """What `calibrate` makes of history that is believed clean.

    Of text it keeps no names and no words. Of vectors it keeps rows that customers sent, their
    labels and the accounts they came from: such a file is to be kept as the log is.
    """

    schema: int = 1
    name: str
    scorer: str
    events: int
    first_ts: float
    last_ts: float
    kinds: dict[str, KindBaseline]
    centre: list[float] = []  # text: median sketch, 128 numbers
    vectors: dict[str, bytes] = {}  # population: its packed reservoir

    @property
    def days(self) -> float:
        """Of history in it."""
        return (self.last_ts - self.first_ts) / 86_400.0

    def missing(self, kind: str, customers: int, days: float, scorer: str | None = None) -> Missing:
        """What it lacks of so many customers of a kind and days; false when it is large enough.

        Days count because evidence is a running maximum: a day's lies lower than a week's. For text
        the models count too, by the name `scorer`: log-odds of others are on another scale.
        """
        found = self.kinds.get(kind)
        return Missing(
            max(0, customers - (found.accounts if found else 0)),
            max(0.0, days - self.days),
            self.scorer if kind == "text" and scorer not in (None, self.scorer) else "",
        )

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
        self.tail = _tail_of(self.values.tobytes())

    def rate(self, evidence: float) -> float:
        """Share of customers whose evidence in a week reaches this; 1 below all evidence."""
        if evidence == -math.inf:
            return 1.0
        if self.fallback is None:
            return self._own_rate(evidence)
        own: float = len(self.values) - int(np.searchsorted(self.values, evidence))
        if self.tail is not None:
            own = self.customers * self._own_rate(evidence)
        expected = _SHIPPED_WEIGHT * self.fallback.rate(evidence - self.shift)
        return (own + expected) / (self.customers + _SHIPPED_WEIGHT)

    def threshold(self, rate: float) -> float:
        """The evidence that a share `rate` of customers reaches in a week; infinity for none."""
        low, high = -1e3, 1e3
        if self.rate(high) > rate:
            return math.inf
        while high - low > 1e-6:
            middle = 0.5 * (low + high)
            low, high = (low, middle) if self.rate(middle) <= rate else (middle, high)
        return high

    def counted(self, evidence: float) -> bool:
        """Whether the rate was counted among at least ten customers, not modelled by the tail."""
        return len(self.values) - int(np.searchsorted(self.values, evidence)) >= 10

    def _own_rate(self, evidence: float) -> float:
        above = len(self.values) - int(np.searchsorted(self.values, evidence))
        counted = (above + 1.0) / (self.customers + 1.0)
        tail = self.tail
        if tail is None or above >= 10 or evidence <= tail.start:
            return counted
        modelled = tail.values / (self.customers + 1.0) * tail.survival(evidence)
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
        }
        if self.tail is None:
            about["beyond"] = "counted: no generalized Pareto tail fits"
        else:
            about["beyond"] = "modelled by a generalized Pareto tail"
            about["tail"] = {
                "values": self.tail.values,
                "shape": self.tail.shape,
                "anderson_darling_p": self.tail.p_value,
            }
        if self.fallback is not None:
            about["shipped_counts_for"] = int(_SHIPPED_WEIGHT)
            about["shipped_shifted_by"] = self.shift
            about["shipped"] = self.fallback.describe()
        return about


class Tail(NamedTuple):
    """A generalized Pareto model of the highest values, and how well it fits them."""

    start: float
    values: int  # above `start`
    scale: float
    shape: float
    p_value: float  # of Anderson and Darling's statistic, by parametric bootstrap

    def survival(self, value: float) -> float:
        """Of what passes `start`, the share that passes `value` too."""
        return float(_survival(np.array([value - self.start]), self.scale, self.shape)[0])


def e_value(rate: float) -> float:
    """An e-value of the rank: bets at fixed levels α, each of which pays 1/α when it wins.

    A threshold test at level α has the e-value 1{rate ≤ α}/α; a weighted mean of e-values is one
    (Vovk and Wang 2021). A customer's exceeds k with probability at most 1/k.
    """
    return sum(weight / level for level, weight in _BETS if rate <= level)


@lru_cache(maxsize=64)
def _tail_of(ordered: bytes) -> Tail | None:
    """The longest tail of these float64 values, ascending, that the model fits; None when none.

    The threshold is chosen by the fit, as Bader, Yan and Zhang (2018) do: a model is trusted beyond
    the data only where it describes them.
    """
    values = np.frombuffer(ordered, np.float64)
    seed = int.from_bytes(hashlib.blake2b(ordered, digest_size=8).digest(), "little")
    rng = np.random.default_rng(seed)
    tried = set()
    for share in _TAIL_SHARES:
        count = max(int(share * len(values)), _TAIL_LEAST)
        if count in tried or count > len(values) // 2:
            continue
        tried.add(count)
        start = float(values[len(values) - count])
        excess = values[len(values) - count :] - start
        if not excess[-1] > 0.0:
            continue
        scale, shape = (float(v[0]) for v in _generalized_pareto(excess[None]))
        found = _anderson_darling(excess[None], np.array([scale]), np.array([shape]))[0]
        # Fitted parameters make the statistic smaller: so they are in each draw as well.
        uniform = rng.uniform(size=(_FIT_DRAWS, count))
        drawn = np.sort(scale * _quantile(uniform, shape), axis=1)
        drawn -= drawn[:, :1]  # the first of the values is the threshold
        among = _anderson_darling(drawn, *_generalized_pareto(drawn))
        p_value = (1 + int((among >= found).sum())) / (1 + _FIT_DRAWS)
        if p_value >= _FIT_LEVEL:
            return Tail(start, count, scale, shape, p_value)
    return None


def _generalized_pareto(
    excess: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and shape of tails by probability-weighted moments (Hosking and Wallis 1987).

    The shape is kept between -0.3 (measured on customers' evidence) and 0.5, so that chance in a
    short tail neither ends it early nor makes it endless.

    Args:
        excess: (R, n), each row ascending.

    Returns:
        Two arrays (R,).
    """
    n = excess.shape[1]
    mean = excess.mean(axis=1)
    weighted = (excess * (n - 1 - np.arange(n))).sum(axis=1) / (n * (n - 1))
    apart = mean - 2.0 * weighted
    sound = (mean > 0.0) & (apart > 0.0)
    shape = np.where(sound, 2.0 - mean / np.where(sound, apart, 1.0), 0.0)
    shape = np.clip(shape, -0.3, 0.5)
    return np.maximum(mean * (1.0 - shape), 1e-6), shape


def _survival(
    excess: NDArray[np.float64], scale: NDArray[np.float64] | float, shape: Any
) -> NDArray[np.float64]:
    shape = np.asarray(shape, dtype=np.float64)
    flat = np.abs(shape) < 1e-9
    safe = np.where(flat, 1.0, shape)
    inside = np.maximum(1.0 + safe * excess / scale, 0.0)
    with np.errstate(divide="ignore"):
        bent = np.where(inside > 0.0, inside ** (-1.0 / safe), 0.0)
    out: NDArray[np.float64] = np.where(flat, np.exp(-excess / scale), bent)
    return out


def _quantile(uniform: NDArray[np.float64], shape: float) -> NDArray[np.float64]:
    """Of the generalized Pareto distribution of scale 1."""
    if abs(shape) < 1e-9:
        plain: NDArray[np.float64] = -np.log1p(-uniform)
        return plain
    bent: NDArray[np.float64] = ((1.0 - uniform) ** (-shape) - 1.0) / shape
    return bent


def _anderson_darling(
    excess: NDArray[np.float64], scale: NDArray[np.float64], shape: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A² of each ascending row of (R, n) against its model: weighs the ends, where it matters."""
    n = excess.shape[1]
    beyond = np.clip(_survival(excess, scale[:, None], shape[:, None]), 1e-12, 1.0 - 1e-12)
    weights = 2.0 * np.arange(1, n + 1) - 1.0
    total = (weights * (np.log1p(-beyond) + np.log(beyond[:, ::-1]))).sum(axis=1)
    out: NDArray[np.float64] = -n - total / n
    return out
