"""Alerts in the process's own log: one line each."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from responders.alerts.delivered import Delivered
from responders.alerts.ocsf import Alert

__all__ = ["LogSink"]


class LogSink:
    """Writes `<activity> <title> [<finding uid>]` to the logger `velvetrope.alerts`."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logging.getLogger("velvetrope.alerts") if logger is None else logger
        self._delivered = Delivered()

    def emit(self, alerts: Sequence[Alert]) -> None:
        """See AlertSink."""
        for alert in alerts:
            if self._delivered.add(alert.id):
                self._logger.warning(
                    "%s: %s [%s]", alert.activity, alert.finding["message"], alert.uid
                )

    def close(self) -> None:
        """Nothing to let go of."""
