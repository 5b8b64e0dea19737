"""Alerts appended to a file, one OCSF document a line, for a log shipper or a SIEM to tail."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from responders.alerts.delivered import Delivered
from responders.alerts.ocsf import Alert

__all__ = ["FileSink"]

_log = logging.getLogger(__name__)
_READ_BACK: Final = 16 << 20


class _Metadata(msgspec.Struct):
    uid: str


class _Line(msgspec.Struct):
    metadata: _Metadata


class FileSink:
    """Appends to `path`, which may be rotated away at any time.

    What the end of the file (16 MiB) already holds is not written again, so that a restart that
    repeats alerts leaves no double. An alert that cannot be written (a full disk) is kept, and
    tried again with the next ones. Raises OSError when the file cannot be opened at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._delivered = Delivered()
        self._waiting: list[Alert] = []
        self._torn = False
        with path.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _READ_BACK))
            lines = file.read().split(b"\n")
        self._torn = lines[-1] != b""
        decoder = msgspec.json.Decoder(_Line)
        for line in lines:
            try:
                self._delivered.add(decoder.decode(line).metadata.uid)
            except msgspec.DecodeError:
                continue  # the file's first line may be cut, and others may write here

    def emit(self, alerts: Sequence[Alert]) -> None:
        """See AlertSink."""
        seen = {alert.id for alert in self._waiting}
        for alert in alerts:
            if alert.id not in self._delivered and alert.id not in seen:
                seen.add(alert.id)
                self._waiting.append(alert)
        if not self._waiting:
            return
        lines = [msgspec.json.encode(alert.finding) + b"\n" for alert in self._waiting]
        try:
            self._append(b"".join(lines))
        except OSError as error:
            _log.warning("%d alerts wait: %s: %s", len(lines), self._path, error)
            return
        for alert in self._waiting:
            self._delivered.add(alert.id)
        self._waiting.clear()

    def close(self) -> None:
        """See AlertSink."""
        self.emit(())

    def _append(self, text: bytes) -> None:
        """All of it or nothing: half a line, as a full disk leaves it, is cut off again."""
        # Opened each time: a log rotation that moves the file away needs no signal.
        with self._path.open("ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            if self._torn and start:
                text = b"\n" + text
            try:
                written = file.write(text)
                while written < len(text):
                    written += file.write(text[written:])
            except OSError:
                file.truncate(start)
                raise
        self._torn = False
