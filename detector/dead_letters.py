"""What could not be read as an event: kept with its error, source and position, input redacted."""

from __future__ import annotations

from typing import Final

import msgspec

from detector.events import MAX_RECORD_BYTES, redact

__all__ = ["DeadLetter", "dead_letter", "over_long"]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One refused record."""

    error: str
    source: str  # file, topic-partition or endpoint
    position: int  # byte offset, Kafka offset, or index in the body
    read_at: float  # Unix seconds
    record: str  # the redacted record, at most 2 KiB; "" when it was too long to be kept


_TOO_LONG: Final = f"record is {{}} bytes; the limit is {MAX_RECORD_BYTES}"


def dead_letter(
    record: bytes, error: str, *, source: str, position: int, read_at: float
) -> DeadLetter:
    """The letter for a record that a format refused."""
    return DeadLetter(
        error=error,
        source=source,
        position=position,
        read_at=read_at,
        record=redact(record).decode(errors="replace"),
    )


def over_long(size: int, *, source: str, position: int, read_at: float) -> DeadLetter:
    """The letter for a line of `size` bytes that was dropped while it was read."""
    error = _TOO_LONG.format(size)
    return DeadLetter(error=error, source=source, position=position, read_at=read_at, record="")
