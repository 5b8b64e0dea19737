"""HAProxy's runtime API, as far as maps go: a command on its stats socket, one connection each.

Observed on 2.6.12: `add map` keeps the first word of a value and does not look for the key, so a
key added twice is there twice and the first wins; `set map` and `del map` want a key that is
there; a call takes no more than a buffer (`tune.bufsize`, 16 KB) of payload.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

__all__ = ["HaproxyAway", "HaproxyRefused", "Runtime"]

_LINES: Final = 100
_BYTES: Final = 12_000
_TIMEOUT_S: Final = 2.0
_VERSION: Final = re.compile(r"New version created: (\d+)")


class HaproxyAway(Exception):
    """Its socket cannot be reached, or did not answer."""


class HaproxyRefused(Exception):
    """It answered with an error; the message is its own."""


class Runtime:
    """The runtime API at a unix socket. Keys and values hold no white space, quote, `;` or `\\`.

    Raises HaproxyAway and HaproxyRefused. `file` is a map's path as HAProxy's configuration has it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def show(self, file: Path) -> dict[str, str]:
        """A map's entries; of a key that is there twice, the one that counts."""
        found: dict[str, str] = {}
        for line in self._run(f"show map {file}\n").splitlines():
            parts = line.split(" ", 2)
            if len(parts) == 3 and parts[0].startswith("0x"):
                found.setdefault(parts[1], parts[2])
            elif line:
                raise HaproxyRefused(line)
        return found

    def replace(self, file: Path, entries: Mapping[str, str]) -> None:
        """Put other entries in a map, all at one moment."""
        answer = self._run(f"prepare map {file}\n")
        version = _VERSION.search(answer)
        if version is None:
            raise HaproxyRefused(answer.strip())
        self._add(f"add map @{version[1]} {file} <<\n", entries.items())
        self._quietly(f"commit map @{version[1]} {file}\n")

    def change(
        self,
        file: Path,
        *,
        added: Mapping[str, str],
        changed: Mapping[str, str],
        gone: Iterable[str],
    ) -> None:
        """Add keys that are not there, change and delete keys that are."""
        commands = [f"del map {file} {key}" for key in gone]
        commands += [f"set map {file} {key} {value}" for key, value in changed.items()]
        for batch in _batches(commands, separator=1):
            self._quietly(";".join(batch) + "\n")
        self._add(f"add map {file} <<\n", added.items())

    def _add(self, command: str, entries: Iterable[tuple[str, str]]) -> None:
        for batch in _batches((f"{key} {value}" for key, value in entries), separator=1):
            self._quietly(command + "\n".join(batch) + "\n\n")

    def _quietly(self, text: str) -> None:
        answer = self._run(text).strip()
        if answer:
            raise HaproxyRefused(answer.splitlines()[0])

    def _run(self, text: str) -> str:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_TIMEOUT_S)
                connection.connect(str(self._path))
                connection.sendall(text.encode())
                connection.shutdown(socket.SHUT_WR)
                answer = bytearray()
                while chunk := connection.recv(65_536):
                    answer += chunk
        except OSError as error:
            raise HaproxyAway(f"{self._path}: {error.strerror or error}") from error
        return answer.decode(errors="replace")


def _batches(lines: Iterable[str], *, separator: int) -> Iterable[list[str]]:
    """Lines in lots that fit in one call."""
    batch: list[str] = []
    size = 0
    for line in lines:
        length = len(line.encode()) + separator
        if batch and (len(batch) >= _LINES or size + length > _BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += length
    if batch:
        yield batch
