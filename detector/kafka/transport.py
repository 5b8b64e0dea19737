"""A Faust transport that hands agents whole fetches.

Faust makes two asyncio tasks for a message, so a plain agent handles some 11,000 records/s. Here
each partition's fetch is one message, whose value is the list of its records and whose offset is
the last one's: what costs a record now costs a batch.
"""

from __future__ import annotations

from typing import Any, Final

import faust
from faust.transport import drivers
from faust.transport.drivers import aiokafka

__all__ = ["SCHEME", "BatchConsumer", "BatchSchema", "BatchTransport", "register"]

SCHEME: Final = "batch"


class BatchConsumer(aiokafka.Consumer):  # type: ignore[misc]
    """Folds what a partition's fetch returned into one message."""

    async def _getmany(self, active_partitions: set[Any] | None, timeout: float) -> dict[Any, Any]:
        fetched = await super()._getmany(active_partitions, timeout)
        return {tp: [records] for tp, records in fetched.items() if records}

    def _to_message(self, tp: Any, record: list[Any]) -> Any:
        message = super()._to_message(tp, record[-1])
        message.key = None
        message.value = record
        return message

    # Faust leaves a partition out of its fetches while its buffer is nearly full, and sleeps for a
    # second when all are left out. A full buffer holds the fetcher up by itself, for as long as it
    # is full and no longer.
    def on_buffer_full(self, tp: Any) -> None:
        pass

    # Faust commits up to the first hole in the acknowledged offsets, and learns of holes that
    # compaction left by comparing one message's offset with the last one's. Here every batch would
    # look like a hole; what is acknowledged is acknowledged up to and including its offset.
    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        pass

    def _new_offset(self, tp: Any) -> int | None:
        acked = self._acked[tp]
        if not acked:
            return None
        highest: int = max(acked)
        acked.clear()
        self._acked_index[tp].clear()
        return highest + 1


class BatchTransport(aiokafka.Transport):  # type: ignore[misc]
    """aiokafka's transport with the consumer of batches."""

    Consumer = BatchConsumer


class BatchSchema(faust.Schema):  # type: ignore[misc]
    """Leaves a batch alone: its agent decodes, and decides what becomes of a bad record."""

    def loads_key(self, app: Any, message: Any, **options: Any) -> None:
        return None

    def loads_value(self, app: Any, message: Any, **options: Any) -> Any:
        return message.value


def register() -> None:
    """Make `batch://host:port` a broker URL that Faust knows."""
    drivers.TRANSPORTS.aliases[SCHEME] = f"{__name__}:{BatchTransport.__name__}"
