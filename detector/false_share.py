"""How many of a week's enforcements may be false: thresholds that tighten when few are thieves.

One customer in 1,000 is nothing beside 200 thieves, and is everybody beside none. So the rate at
which a rung is reached is also bounded by what it means for those who reach it: of N accounts, N·t
are expected to pass the rate t by chance, and that may be at most a share of those that did. The
largest such t is the threshold of Benjamini and Hochberg (1995) for the accounts of the week.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

__all__ = ["FalseShare"]

_DAYS: Final = 7
_DAY_S: Final = 86_400.0


class FalseShare:
    """The accounts of the last week, and the rates of those with evidence.

    Nothing of it is stored: `seen` is given again what the judge keeps of every account.

    Args:
        share: of the accounts enforced, those that may be false; 1 tightens nothing.
        widest: the rate of the first rung that enforces: who is above says nothing here.
    """

    def __init__(self, share: float, widest: float) -> None:
        self._share = share
        self._widest = widest
        self._day_of: dict[str, int] = {}
        self._on_day: dict[int, int] = {}
        self._rates: dict[str, float] = {}
        self._sorted: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None
        self._today = -1
        self._found: tuple[object, list[float]] = (None, [])

    @staticmethod
    def day(time: float) -> int:
        """The day of a time, counted from 1970."""
        return int(time // _DAY_S)

    @property
    def accounts(self) -> int:
        """With something that could be judged in the last week: N."""
        return len(self._day_of)

    def forgot(self, account: str) -> bool:
        """Whether nothing of the account was judged in the last week."""
        return account not in self._day_of

    def seen(self, account: str, rate: float, day: int) -> None:
        """An account's evidence of a day has this false-alarm rate."""
        before = self._day_of.get(account)
        if before != day:
            if before is not None:
                self._on_day[before] -= 1
            self._day_of[account] = day
            self._on_day[day] = self._on_day.get(day, 0) + 1
        if rate <= self._widest:
            if self._rates.get(account) != rate:
                self._rates[account] = rate
                self._sorted = None
        elif self._rates.pop(account, None) is not None:
            self._sorted = None

    def limits(self, rates: Sequence[float], day: int) -> list[float]:
        """For the rate of each rung, the rate at which it is reached today; 0 when it is not."""
        if day != self._today:
            self._forget(day)
        if self._share >= 1.0:
            return list(rates)
        of = (tuple(rates), self.accounts)
        if self._sorted is not None and self._found[0] == of:
            return list(self._found[1])
        if self._sorted is None:
            self._sorted = np.sort(np.fromiter(self._rates.values(), np.float64, len(self._rates)))
        reached = self._sorted
        # At this rate, the expected false ones are the share of the first k.
        fair = self._share * np.arange(1, len(reached) + 1) / max(self.accounts, 1)
        limits = []
        for rate in rates:
            passing = int(np.searchsorted(reached, rate, side="right"))
            good = np.flatnonzero(reached[:passing] <= fair[:passing])
            limits.append(min(rate, float(fair[good[-1]])) if len(good) else 0.0)
        self._found = (of, list(limits))
        return limits

    def _forget(self, day: int) -> None:
        self._today = day
        if all(d > day - _DAYS for d, count in self._on_day.items() if count):
            return
        for account in [a for a, d in self._day_of.items() if d <= day - _DAYS]:
            self._on_day[self._day_of.pop(account)] -= 1
            if self._rates.pop(account, None) is not None:
                self._sorted = None
        self._on_day = {d: count for d, count in self._on_day.items() if count}
