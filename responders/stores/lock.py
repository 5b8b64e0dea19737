"""One `serve` per state file: an advisory lock beside it that names its holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["StateInUse", "StateLock"]


class StateInUse(Exception):
    """Another process holds the state; the message names it."""


class StateLock:
    """Exclusive use of `state`, by `flock` on `<state>.lock`; the kernel frees it at any death.

    The file stays behind: removing it would let a third process lock a file that a second one
    still waits on. Raises StateInUse.
    """

    def __init__(self, state: Path) -> None:
        path = state.with_name(state.name + ".lock")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise StateInUse(
                f"{state} is in use by process {holder}: stop it, or choose another state file"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give it back; again is harmless."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
