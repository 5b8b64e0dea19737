"""Alerts posted to a URL, from a thread of their own, so that a slow receiver slows nobody."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final

import httpx
import msgspec

from responders.alerts.delivered import Delivered
from responders.alerts.ocsf import Alert

__all__ = ["WebhookSink"]

_log = logging.getLogger(__name__)
_TIMEOUT_S: Final = 5.0
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 60.0
_CLOSE_WITHIN_S: Final = 5.0


class WebhookSink:
    """POSTs each finding as JSON, in order, with its alert's id as `Idempotency-Key`.

    Connection errors, 408, 429 and 5xx are tried again after 0.5, 1, 2, … 60 s; `tries` times in
    all, then the finding is given up with a warning, as with any other refusal. When `waiting`
    findings wait already, further ones are given up at once. What is given up is still in the
    store or topic that keeps alerts. `first_wait_s` is for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        tries: int = 8,
        waiting: int = 10_000,
        first_wait_s: float = _FIRST_WAIT_S,
        post: Callable[[str, bytes, dict[str, str]], int] | None = None,
    ) -> None:
        self._url = url
        self._tries = tries
        self._first_wait_s = first_wait_s
        self._client = httpx.Client(timeout=_TIMEOUT_S)
        self._post = self._http_post if post is None else post
        self._delivered = Delivered()
        self._queue: queue.Queue[Alert | None] = queue.Queue(waiting)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._deliver_all, name="webhook", daemon=True)
        self._thread.start()

    def emit(self, alerts: Sequence[Alert]) -> None:
        """See AlertSink."""
        for alert in alerts:
            if not self._delivered.add(alert.id):
                continue
            try:
                self._queue.put_nowait(alert)
            except queue.Full:
                self._delivered.discard(alert.id)
                _log.warning("webhook: too many findings wait; gave up %s", alert.id)

    def close(self) -> None:
        """Deliver what waits, each once more at most, for up to 5 s."""
        self._closing.set()
        try:
            self._queue.put(None, timeout=_CLOSE_WITHIN_S)
        except queue.Full:
            _log.warning("webhook: %d findings were not delivered", self._queue.qsize())
        self._thread.join(_CLOSE_WITHIN_S)
        self._client.close()

    def _deliver_all(self) -> None:
        while (alert := self._queue.get()) is not None:
            self._deliver(alert)

    def _deliver(self, alert: Alert) -> None:
        body = msgspec.json.encode(alert.finding)
        headers = {"Content-Type": "application/json", "Idempotency-Key": alert.id}
        wait_s = self._first_wait_s
        for left in range(self._tries - 1, -1, -1):
            try:
                status = self._post(self._url, body, headers)
            except httpx.HTTPError as error:
                said = type(error).__name__
            else:
                if status < 400:
                    return
                said = f"HTTP {status}"
                if status < 500 and status not in (408, 429):
                    break
            if left == 0 or self._closing.is_set():
                break
            _log.info("webhook: %s: trying %s again in %.1f s", said, alert.id, wait_s)
            self._closing.wait(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        # Never the URL: webhooks carry their secret in it.
        _log.warning("webhook: %s: gave up %s", said, alert.id)

    def _http_post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        return self._client.post(url, content=body, headers=headers).status_code
