"""Keeps a gateway's own copy of what is enforced: look, learn, push, several times a second."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from responders.following.source import Followed, Source
from responders.stores.base import StoreUnavailable

__all__ = ["Target", "follow"]

_log = logging.getLogger(__name__)


class Target(Protocol):
    """A gateway that holds what is enforced itself."""

    def learn(self, followed: Followed, now: float) -> None:
        """Take note of what is new, known to be true at `now`. No I/O."""

    def push(self, now: float) -> None:
        """Bring the gateway up to what was learnt. A gateway that is away is no error."""


def follow(
    source: Source,
    target: Target,
    stop: threading.Event,
    *,
    every_s: float,
    clock: Callable[[], float] = time.time,
) -> None:
    """Follow until `stop` is set. A source that is away is logged once, and asked again."""
    away = False
    while True:
        began = time.monotonic()
        now = clock()
        try:
            target.learn(source.look(), now)
        except StoreUnavailable as error:
            if not away:
                _log.warning("decisions cannot be read: %s", error)
            away = True
        else:
            if away:
                _log.warning("decisions can be read again")
            away = False
        target.push(clock())
        if stop.wait(max(0.0, every_s - (time.monotonic() - began))):
            return
