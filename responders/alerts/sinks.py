"""The sinks that the settings ask for."""

from __future__ import annotations

from responders.alerts.file import FileSink
from responders.alerts.log import LogSink
from responders.alerts.sink import AlertSink
from responders.alerts.webhook import WebhookSink
from responders.settings import AlertSettings

__all__ = ["open_sinks"]


def open_sinks(settings: AlertSettings) -> list[AlertSink]:
    """Every sink that is set, ready to emit. Raises OSError when the file cannot be opened."""
    sinks: list[AlertSink] = []
    if settings.log:
        sinks.append(LogSink())
    if settings.file is not None:
        sinks.append(FileSink(settings.file))
    if settings.webhook is not None:
        url = settings.webhook.get_secret_value()
        sinks.append(WebhookSink(url, tries=settings.webhook_tries, waiting=settings.webhook_queue))
    return sinks
