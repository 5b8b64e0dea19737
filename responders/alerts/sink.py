"""What every alert sink does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from responders.alerts.ocsf import Alert

__all__ = ["AlertSink"]


class AlertSink(Protocol):
    """Delivers alerts. An alert that comes again, told by its id, is delivered once."""

    def emit(self, alerts: Sequence[Alert]) -> None:
        """Take alerts for delivery, in order. Never blocks the stream, never raises for a sink."""

    def close(self) -> None:
        """Deliver what can still be delivered, and let go."""
