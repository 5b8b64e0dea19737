"""The real HAProxy for tests: deploy/haproxy on loopback, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.real_nginx import free_port

__all__ = ["HaproxyServer", "haproxy"]

DEPLOY: Final = Path(__file__).parents[1] / "deploy" / "haproxy"
MAPS: Final = (
    "state",
    "decisions",
    "networks",
    "allowed",
    "allowed_networks",
    "identities",
    "endpoints",
)
_READY_S: Final = 10.0


class HaproxyServer:
    """HAProxy on `port` in front of a model's server; `stop` and `start` in the middle."""

    def __init__(self, folder: Path, model_port: int, variables: dict[str, str]) -> None:
        self.folder = folder
        self.port = free_port()
        self.socket = folder / "admin.sock"
        self.maps = folder / "maps"
        self.maps.mkdir()
        for name in MAPS:
            (self.maps / f"{name}.map").touch()
        text = (DEPLOY / "example.cfg").read_text()
        for old, new in {
            "/run/haproxy/admin.sock": str(self.socket),
            "127.0.0.1:8080": f"127.0.0.1:{self.port}",
            "127.0.0.1:8000": f"127.0.0.1:{model_port}",
        }.items():
            if old not in text:
                raise RuntimeError(f"not in deploy/haproxy/example.cfg: {old}")
            text = text.replace(old, new)
        self._config = folder / "example.cfg"
        self._config.write_text(text)
        self._environment = {**os.environ, "VELVETROPE_MAPS": str(self.maps), **variables}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it accepts connections. Raises RuntimeError when it does not."""
        log = self.folder / "haproxy.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                # As a service runs it: a master, and a worker that a reload replaces.
                [_program(), "-W", "-f", DEPLOY / "velvetrope.cfg", "-f", self._config],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        deadline = time.monotonic() + _READY_S
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"HAProxy did not start: {log.read_text(errors='replace')}")
            time.sleep(0.01)

    def resident_mb(self) -> float:
        """Memory of its worker."""
        if self._process is None:
            raise RuntimeError("HAProxy is not running")
        master = self._process.pid
        worker = Path(f"/proc/{master}/task/{master}/children").read_text().split()[0]
        status = Path(f"/proc/{worker}/status").read_text()
        (line,) = (one for one in status.splitlines() if one.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def reload(self) -> None:
        """Have a new worker read the configuration and the files; the old one ends."""
        if self._process is not None:
            self._process.send_signal(signal.SIGUSR2)

    def stop(self) -> None:
        """End it, and with it every map in its memory."""
        if self._process is not None:
            self._process.terminate()  # of the master: its workers are killed
            self._process.wait()
            self._process = None


@contextmanager
def haproxy(model_port: int, **variables: str) -> Iterator[HaproxyServer]:
    """A running HAProxy. `variables` are environment variables of its configuration.

    Raises:
        RuntimeError: it is not installed, refuses its configuration, or does not come up.
    """
    _program()
    with tempfile.TemporaryDirectory(prefix="velvetrope-haproxy-") as folder:
        server = HaproxyServer(Path(folder), model_port, variables)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _program() -> str:
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise RuntimeError("HAProxy is not installed: apt-get install haproxy")
    return program
