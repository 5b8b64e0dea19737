"""An ASGI application behind a real HTTP server on a free loopback port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

__all__ = ["serving", "until"]


@contextmanager
def serving(app: Any, port: int = 0, **config: Any) -> Iterator[str]:
    """The application's URL, while it is served in a thread. `config` is uvicorn's."""
    server = uvicorn.Server(
        uvicorn.Config(app, **({"log_level": "error", "lifespan": "off"} | config))
    )
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    until(lambda: server.started, within_s=10)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def until(true: Callable[[], bool], *, within_s: float) -> float:
    """Poll; the seconds it took."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < within_s, "did not happen in time"
        time.sleep(0.005)
    return time.monotonic() - start
