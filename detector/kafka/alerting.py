"""Alerts from their topic to the operator's sinks.

One process of the group delivers; offsets are committed once its sinks have taken the alerts. After
a crash some are taken again, and sinks and receivers tell them by their id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiokafka.errors import KafkaError

from detector.kafka.connection import consumer, wait_for_broker
from detector.kafka.topics import Topics
from detector.settings import Settings
from responders.alerts.ocsf import Alert
from responders.alerts.sink import AlertSink
from responders.alerts.sinks import open_sinks

__all__ = ["AlertingStage"]

log: Final = logging.getLogger(__name__)

_POLL_MS: Final = 500
_decode: Final = msgspec.json.Decoder(Alert).decode


class AlertingStage:
    """Part of apply: delivers alerts while it owns their topic. Idle when no sink is set."""

    def __init__(self, settings: Settings, fail: Callable[[BaseException], Any]) -> None:
        """
        Args:
            settings: of the deployment.
            fail: ends the process; called on anything but a broker that is away.
        """
        self._settings = settings
        self._fail = fail
        self._topic = Topics.under(settings.kafka.prefix).alerts
        self._sinks: list[AlertSink] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the sinks and join the group; raises OSError when a sink cannot be opened."""
        self._sinks = open_sinks(self._settings.alerts)
        if self._sinks:
            self._task = asyncio.create_task(self._guarded())

    async def stop(self) -> None:
        """Deliver what the sinks have taken, and leave the group."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for sink in self._sinks:
            await asyncio.to_thread(sink.close)

    async def _guarded(self) -> None:
        try:
            while True:
                try:
                    await self._deliver()
                except KafkaError as error:
                    log.warning("alerting was interrupted: %r", error)
                    await wait_for_broker(self._settings.kafka)
        except Exception as error:
            self._fail(error)
            raise

    async def _deliver(self) -> None:
        kafka = self._settings.kafka
        reader = consumer(
            kafka,
            self._topic,
            group_id=f"{kafka.prefix}velvetrope-alerts",
            session_timeout_ms=int(kafka.session_timeout_s * 1000),
            heartbeat_interval_ms=int(kafka.session_timeout_s * 250),
        )
        await reader.start()
        try:
            while True:
                found = await reader.getmany(timeout_ms=_POLL_MS)
                alerts = [_decode(record.value) for some in found.values() for record in some]
                if alerts:
                    for sink in self._sinks:
                        await asyncio.to_thread(sink.emit, alerts)
                    await reader.commit()
        finally:
            await reader.stop()
