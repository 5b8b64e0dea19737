"""A real redis-server on a unix socket or a free loopback port, for as long as a test needs it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

__all__ = ["RedisServer", "free_port", "redis_server"]

_UP_WITHIN_S = 20.0


class RedisServer:
    """A running server: `url` for clients; `stop` and `start` let it go away in the middle."""

    def __init__(self, folder: Path, port: int, options: Sequence[str] = ()) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self._command = [
            _program(),
            *("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
            *("--dir", str(folder), "--daemonize", "no", "--loglevel", "warning"),
            *options,
        ]
        self._log = folder / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty, and wait until it answers. Raises RuntimeError when it does not."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + _UP_WITHIN_S
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError as error:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        said = self._log.read_text(errors="replace")
                        self.stop()
                        raise RuntimeError(f"redis-server did not start: {said}") from error
                    time.sleep(0.02)

    def pause(self) -> None:
        """It keeps its connections, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on where it was."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    @property
    def pid(self) -> int:
        """Of the running server."""
        if self._process is None:
            raise RuntimeError("redis-server is not running")
        return self._process.pid

    def stop(self) -> None:
        """Kill it, and with it everything it held."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """With options of redis-server's own. Raises RuntimeError when it is not installed."""
    _program()
    with tempfile.TemporaryDirectory(prefix="velvetrope-redis-") as folder:
        server = RedisServer(Path(folder), free_port(), options)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _program() -> str:
    program = shutil.which("redis-server", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        raise RuntimeError("redis-server is not installed: apt-get install redis-server")
    return program
