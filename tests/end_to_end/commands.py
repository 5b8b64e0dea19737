"""`velvetrope` commands as processes, as an operator starts them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.real_worker import eventually

__all__ = ["Command", "running", "velvetrope"]

_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = (sys.executable, "-m", "detector.cli")


class Command:
    """A command that runs until it is ended. Ended by its pid."""

    def __init__(self, arguments: tuple[str, ...], log: Path) -> None:
        self.arguments = arguments
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*_PROGRAM, *arguments],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                env=_environment(),
                cwd=_ROOT,
            )

    def log(self) -> str:
        """What it wrote so far."""
        return self._log.read_text(errors="replace")

    def says(self, pattern: str, *, within_s: float = 60.0) -> re.Match[str]:
        """The first match in what it writes, once it is there."""

        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.log())
            assert found or self._process.poll() is None, f"it ended: {self.log()[-3000:]}"
            return found

        found = eventually(look, within_s=within_s, what=f"{pattern!r} from {self.arguments[0]}")
        assert found is not None
        return found

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def end(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, and the exit code."""
        self._process.terminate()
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 30.0) -> int:
        """The exit code, once it ends by itself."""
        return self._process.wait(timeout_s)

    def alive(self) -> bool:
        return self._process.poll() is None


@contextmanager
def running(folder: Path, name: str, *arguments: str) -> Iterator[Command]:
    """A running command that logs to `folder/NAME.log`, killed at the end if it still runs."""
    with ExitStack() as stack:
        command = Command(arguments, folder / f"{name}.log")
        stack.callback(command.kill)
        yield command


def velvetrope(*arguments: str) -> str:
    """What a command that ends by itself writes. Raises AssertionError when it fails."""
    done = subprocess.run(
        [*_PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=_environment(),
        cwd=_ROOT,
        check=False,
    )
    assert done.returncode == 0, f"velvetrope {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("VELVETROPE_")}
