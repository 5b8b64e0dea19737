"""The verdict API on a real HTTP server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from responders.gateways.app import create_app
from responders.settings import ApiSettings
from responders.stores.base import DecisionStore
from tests.responders.making import NOW

__all__ = ["serving"]


@contextmanager
def serving(store: DecisionStore, settings: ApiSettings) -> Iterator[str]:
    """Its URL on a free loopback port; event time stands still at NOW."""
    app = create_app(store, settings, clock=lambda: NOW)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        try:
            host, port = listening.getsockname()
            yield f"http://{host}:{port}"
        finally:
            server.should_exit = True
            thread.join()
