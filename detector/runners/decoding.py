"""Lines to events: the one loop that both replay and serve decode with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from detector.dead_letters import DeadLetter, dead_letter, over_long
from detector.events import EndOfInput, Event
from detector.formats import Format
from detector.runners.lines import LineBatch

__all__ = ["EVENTS_PER_BATCH", "decoded"]

EVENTS_PER_BATCH: Final = 5_000


def decoded(
    batch: LineBatch,
    log_format: Format,
    read_at: float,
    refuse: Callable[[DeadLetter], None],
    size: int = EVENTS_PER_BATCH,
) -> Iterator[list[Event | EndOfInput]]:
    """The events of a batch, those of about `size` lines at a time.

    Blank lines are passed over. What cannot be decoded is given to `refuse`.
    """
    lines = batch.lines
    index, offset = 0, batch.start  # of the last refused line: offsets are summed only for those
    for first in range(0, len(lines), size):
        some = lines[first : first + size]
        events, bad = log_format.decode_lines(some, read_at)
        for at, error in bad:
            line = some[at]
            if not line or line.isspace():
                continue
            offset += sum(map(len, lines[index : first + at])) + first + at - index
            index = first + at
            letter = dead_letter(
                line, str(error), source=batch.source, position=offset, read_at=read_at
            )
            refuse(letter)
        yield events
    if batch.dropped:
        position = batch.offset_of(len(lines))
        refuse(over_long(batch.dropped, source=batch.source, position=position, read_at=read_at))
