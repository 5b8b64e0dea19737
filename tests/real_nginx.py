"""The real nginx for tests: on loopback, in a folder of its own, ended by its pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Nginx", "free_port", "nginx"]

_READY_S: Final = 10.0
_STOP_S: Final = 10.0
_TEMP_PATHS: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True)
class Nginx:
    """A running nginx. `folder` holds its configuration, and `error.log`."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The master's: for signals."""
        return self.process.pid

    def errors(self) -> str:
        """The error log so far."""
        return (self.folder / "error.log").read_text(errors="replace")

    def reopen_logs(self) -> None:
        """What logrotate asks for, after it has moved a log away."""
        self.process.send_signal(signal.SIGUSR1)


def free_port() -> int:
    """A loopback port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def nginx(
    config: str | Path, ports: Sequence[int], replace: Mapping[str, str] | None = None
) -> Iterator[Nginx]:
    """Run nginx until the block ends.

    Args:
        config: the text of an nginx.conf, or a folder that holds one and what it includes.
        ports: what it listens on: it is ready when all accept connections.
        replace: texts to replace in every configuration file, each of which must be there; in
            them and in the configuration `{folder}` is the temporary folder.

    Raises:
        RuntimeError: nginx is not installed, refuses the configuration, or does not come up.
    """
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise RuntimeError("nginx is not installed: `apt-get install nginx-light` brings it")
    folder = Path(tempfile.mkdtemp(prefix="velvetrope-nginx-"))
    try:
        if isinstance(config, Path):
            shutil.copytree(config, folder, dirs_exist_ok=True)
        else:
            (folder / "nginx.conf").write_text(config)
        _rewrite(folder, replace or {})
        options = f"daemon off; pid {folder}/nginx.pid;"
        if os.geteuid() == 0:
            # Workers of another user could not enter the folder.
            options += " user root;"
        process = subprocess.Popen(
            [
                *(program, "-p", f"{folder}/", "-c", f"{folder}/nginx.conf"),
                *("-e", f"{folder}/error.log", "-g", options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        running = Nginx(folder, process)
        try:
            _wait_until_ready(running, ports)
            yield running
        finally:
            _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rewrite(folder: Path, replace: Mapping[str, str]) -> None:
    temp_paths = "".join(f" {name}_temp_path {folder}/{name}_temp;" for name in _TEMP_PATHS)
    missing = set(replace)
    for file in folder.rglob("*.conf"):
        text = file.read_text()
        for old, new in replace.items():
            if old in text:
                missing.discard(old)
                text = text.replace(old, new)
        if file == folder / "nginx.conf":
            text = text.replace("http {", "http {" + temp_paths, 1)
        file.write_text(text.replace("{folder}", str(folder)))
    if missing:
        raise RuntimeError(f"not in the nginx configuration: {', '.join(sorted(missing))}")


def _wait_until_ready(running: Nginx, ports: Sequence[int]) -> None:
    deadline = time.monotonic() + _READY_S
    waiting = list(ports)
    while waiting or not (running.folder / "nginx.pid").exists():
        if running.process.poll() is not None:
            raise RuntimeError(f"nginx ended at once: {running.errors().strip()[-2000:]}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"nginx does not listen on {waiting} after {_READY_S:.0f} s")
        with suppress(OSError, IndexError):
            socket.create_connection(("127.0.0.1", waiting[0]), 0.2).close()
            waiting.pop(0)
            continue
        time.sleep(0.01)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        # The group is its own session's: the master and its workers, nothing else.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
