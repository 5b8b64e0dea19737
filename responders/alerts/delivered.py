"""Which alerts a sink has delivered lately."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["Delivered"]

_KEPT: Final = 100_000


class Delivered:
    """The ids of the last 100,000 alerts: a restart repeats those since its checkpoint, no more."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, alert_id: str) -> bool:
        return alert_id in self._ids

    def add(self, alert_id: str) -> bool:
        """Remember an id; whether it was new."""
        if alert_id in self._ids:
            return False
        self._ids[alert_id] = None
        if len(self._ids) > _KEPT:
            self._ids.popitem(last=False)
        return True

    def discard(self, alert_id: str) -> None:
        """Forget an id whose delivery failed."""
        self._ids.pop(alert_id, None)
