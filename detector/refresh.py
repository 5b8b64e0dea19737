"""The reference follows its customers, within bounds, and never further.

What customers' weeks look like changes: a new model, a new kind of application. Each week of an
account that nobody suspects is one number, the highest log-odds of its own history, however much
the account sent. ADWIN (Bifet and Gavaldà 2007) keeps the stretch of these numbers that is of one
kind. While more of them pass the reference's 95 % quantile than 5 % can explain, thresholds move up
with their 95 % quantile, a step a day and `MOST` in all; when the excess is gone they move back.
They never move below the reference: a week without harm must not make the next one dangerous.

So whoever poisons the baseline gains `MOST` log-odds at best, and each move is a version with the
tick where it took effect, stamped on decisions, that can be taken back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST", "STEP", "Adwin", "Refresh", "Version"]

MOST: Final = 0.5  # log-odds
STEP: Final = 0.1  # log-odds a day
_ENOUGH: Final = 500  # account-weeks from which a quantile is taken
_WINDOW: Final = 4096
_CLOCK: Final = 32  # values between looks for a change, as in River
_DELTA: Final = 0.002  # chance that a stretch of one kind is cut, as in River
_QUANTILE: Final = 0.95
_VERSIONS_KEPT: Final = 100


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A reference that decisions rested on from `tick` on."""

    name: str
    tick: int
    time: float  # Unix seconds
    shift: float  # log-odds that thresholds lie above the reference's
    weeks: int  # unsuspected account-weeks that it was made of
    why: str


class Adwin:
    """The longest newest stretch of a stream in [0, 1] whose parts have the same mean.

    Every split is looked at (ADWIN0), which the exponential histogram of ADWIN2 approximates; the
    values are few and are kept.
    """

    def __init__(self) -> None:
        self.values: list[float] = []
        self.since_look = 0  # values

    def add(self, value: float) -> bool:
        """Take a value; whether the stretch was cut."""
        self.values.append(value)
        del self.values[:-_WINDOW]
        self.since_look += 1
        if self.since_look < _CLOCK:
            return False
        self.since_look = 0
        cut = False
        while True:
            at = _change(np.array(self.values))
            if at is None:
                return cut
            del self.values[:at]
            cut = True


class Refresh:
    """Versions of one reference.

    Args:
        name: of the reference that nothing moves.
        bar: its 95 % quantile of customers' own log-odds in a week.
    """

    def __init__(self, name: str, bar: float) -> None:
        self.versions = [
            Version(name=name, tick=0, time=0.0, shift=0.0, weeks=0, why="the reference as it is")
        ]
        self.held: str | None = None  # a version that was asked for; None: it follows customers
        self.active = self.versions[0]
        self._name = name
        self._bar = bar
        self._made = 0
        self._adwin = Adwin()  # of whether each week passed the bar
        self._tops: list[float] = []  # of the same weeks
        self._day = -1
        self._drifted = False

    def take(self, tops: Iterable[float]) -> None:
        """Weeks of unsuspected accounts that ended: the highest log-odds of their own history."""
        for top in tops:
            top = float(np.float32(top))  # as it is stored
            self._tops.append(top)
            self._drifted |= self._adwin.add(float(top >= self._bar))
            del self._tops[: len(self._tops) - len(self._adwin.values)]

    def turn(self, day: int, tick: int, time: float) -> Version | None:
        """Once a day: the version that begins, if one does."""
        if day == self._day:
            return None
        self._day = day
        if self.held is not None or len(self._tops) < _ENOUGH:
            return None
        away = self._wanted() - self.active.shift
        # Up only where chance explains nothing; down, to the reference, by the estimate alone.
        steps = round(away / STEP)
        if not steps or (steps > 0 and not self._excess()):
            return None
        shift = STEP * (round(self.active.shift / STEP) + (1 if steps > 0 else -1))
        why = "customers' log-odds rose" if shift > self.active.shift else "they fell back"
        if self._drifted:
            why += "; their stream changed"
        self._drifted = False
        return self._begin(shift, tick, time, why)

    def ask(self, version: str | None, tick: int, time: float) -> bool:
        """Go back to a version and stay there, or with None follow again; whether it is known."""
        if version is None:
            self.held = None
            return True
        found = next((v for v in reversed(self.versions) if v.name == version), None)
        if found is None:
            return False
        self.held = version
        self.active = msgspec.structs.replace(found, tick=tick, time=time, why="asked for")
        self.versions.append(self.active)
        return True

    def describe(self) -> dict[str, Any]:
        """For summaries."""
        return {
            "active": self.active.name,
            "held": self.held is not None,
            "log_odds_above_the_reference": self.active.shift,
            "at_most": MOST,
            "unsuspected_account_weeks": len(self._tops),
            "versions": [msgspec.to_builtins(version) for version in self.versions],
        }

    def export(self) -> dict[str, Any]:
        """Everything, as builtins."""
        return {
            "versions": [msgspec.to_builtins(version) for version in self.versions],
            "held": self.held,
            "made": self._made,
            "since_look": self._adwin.since_look,
            "tops": np.array(self._tops, np.float32),
            "day": self._day,
            "drifted": self._drifted,
        }

    def restore(self, state: dict[str, Any], *, anew: bool = False) -> None:
        """Take in what `export` gave; of another reference's, only the customers' weeks.

        Args:
            state: from `export`.
            anew: log-odds are other models' now: only the day and the names used are kept.
        """
        self._made = state["made"]
        if anew:
            self._day = state["day"]
            return
        versions = [msgspec.convert(version, Version) for version in state["versions"]]
        if versions[0].name == self._name:
            self.versions, self.held, self.active = versions, state["held"], versions[-1]
        self._tops = [float(top) for top in state["tops"]]
        self._adwin.values = [float(top >= self._bar) for top in self._tops]
        self._adwin.since_look = state["since_look"]
        self._day = state["day"]
        self._drifted = state["drifted"]

    def _wanted(self) -> float:
        """How far above the bar the customers' quantile lies, within bounds, in whole steps."""
        ordered = sorted(self._tops)
        above = ordered[int(_QUANTILE * len(ordered))] - self._bar
        return STEP * round(min(max(above, 0.0), MOST) / STEP)

    def _excess(self) -> bool:
        """Whether more weeks pass the bar than chance explains (Bernstein's inequality)."""
        passed = self._adwin.values
        nominal = 1.0 - _QUANTILE
        log = math.log(2.0 / _DELTA)
        chance = math.sqrt(2.0 * nominal * _QUANTILE * log / len(passed))
        chance += 2.0 * log / (3.0 * len(passed))
        return math.fsum(passed) / len(passed) - nominal > chance

    def _begin(self, shift: float, tick: int, time: float, why: str) -> Version:
        self._made += 1
        self.active = Version(
            name=f"{self._name}+{self._made}",
            tick=tick,
            time=time,
            shift=shift,
            weeks=len(self._tops),
            why=why,
        )
        self.versions.append(self.active)
        # The first is what the name stands for.
        del self.versions[1 : max(1, len(self.versions) - _VERSIONS_KEPT + 1)]
        return self.active


def _change(values: NDArray[np.float64]) -> int | None:
    """Where to cut: at the oldest split whose sides' means differ; None without one.

    The bound is equation 3.1 of Bifet and Gavaldà with the variance of the window.
    """
    n = len(values)
    if n < 2 * _CLOCK:
        return None
    before = np.cumsum(values)[:-1]
    n0 = np.arange(1, n)
    n1 = n - n0
    apart = np.abs(before / n0 - (float(values.sum()) - before) / n1)
    harmonic = 1.0 / (1.0 / n0 + 1.0 / n1)
    log = math.log(2.0 * math.log(n) / _DELTA)
    bound = np.sqrt(2.0 / harmonic * float(values.var()) * log) + 2.0 / 3.0 / harmonic * log
    found = np.flatnonzero(apart > bound)
    return int(n0[found[0]]) if len(found) else None
