"""A gateway's real program for tests: on loopback, in a folder of its own, ended by its pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Program", "configured", "free_port", "program", "running"]

_STOP_S: Final = 10.0


@dataclass(frozen=True)
class Program:
    """A running program. `folder` holds its configuration, and `out.log`."""

    folder: Path
    process: subprocess.Popen[bytes]

    def said(self) -> str:
        """What it wrote so far."""
        return (self.folder / "out.log").read_text(errors="replace")


def free_port() -> int:
    """A loopback port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str, install: str) -> str:
    """Where a program is, beside this Python or on the path. Raises RuntimeError when nowhere."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin"
    found = shutil.which(name, path=path)
    if found is None:
        raise RuntimeError(f"{name} is not installed: {install} brings it")
    return found


def configured(text: str, replace: Mapping[str, str]) -> str:
    """A configuration with texts replaced, each of which must be there. Raises RuntimeError."""
    for old, new in replace.items():
        if old not in text:
            raise RuntimeError(f"not in the configuration: {old}")
        text = text.replace(old, new)
    return text


@contextmanager
def running(
    command: Sequence[str],
    config: Mapping[str, str],
    port: int,
    *,
    env: Mapping[str, str] | None = None,
    within_s: float = 15.0,
) -> Iterator[Program]:
    """Run a program until the block ends; it is ready when `port` accepts connections.

    Args:
        command: with `{folder}` for the folder that `config` is in, and that it runs in.
        config: file name to text, in which `{folder}` is replaced too.
        port: on loopback.
        env: beside this process's own.
        within_s: for which it may take to come up.

    Raises:
        RuntimeError: it ends, or does not come up.
    """
    folder = Path(tempfile.mkdtemp(prefix="velvetrope-gateway-"))
    try:
        for name, text in config.items():
            (folder / name).write_text(text.replace("{folder}", str(folder)))
        with (folder / "out.log").open("wb") as out:
            process = subprocess.Popen(
                [part.replace("{folder}", str(folder)) for part in command],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "HOME": str(folder), **(env or {})},
                start_new_session=True,
            )
        up = Program(folder, process)
        try:
            _wait_until_ready(up, port, within_s)
            yield up
        finally:
            _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(up: Program, port: int, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while True:
        if up.process.poll() is not None:
            raise RuntimeError(f"it ended at once: {up.said().strip()[-3000:]}")
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        if time.monotonic() > deadline:
            said = up.said().strip()[-3000:]
            raise RuntimeError(f"it does not listen on {port} after {within_s:.0f} s: {said}")
        time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        # The group is its own session's: the program and its children, nothing else.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
