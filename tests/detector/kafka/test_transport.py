from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from faust.types import TP

from detector.kafka.transport import BatchConsumer

TP0 = TP("access-logs", 0)


def record(offset: int) -> ConsumerRecord:
    return ConsumerRecord("access-logs", 0, offset, 1000, 0, b"key", b"value", None, 3, 5, ())


@pytest.fixture
def consumer() -> Any:
    made = BatchConsumer.__new__(BatchConsumer)
    made.app = SimpleNamespace(consumer_generation_id=7)
    made._acked = defaultdict(list)
    made._acked_index = defaultdict(set)
    return made


def test_a_fetch_is_one_message_with_the_offset_of_its_last_record(consumer: Any) -> None:
    records = [record(5), record(6), record(9)]
    message = consumer._to_message(TP0, records)
    assert (message.offset, message.partition, message.generation_id) == (9, 0, 7)
    assert message.value is records


async def test_empty_fetches_are_no_messages(consumer: Any, monkeypatch: Any) -> None:
    async def fetched(active: Any, timeout: float) -> dict[TP, list[ConsumerRecord]]:
        return {TP0: [record(1)], TP("access-logs", 1): []}

    consumer._thread = SimpleNamespace(getmany=fetched)
    assert await consumer._getmany(None, 1.0) == {TP0: [[record(1)]]}


def test_commits_up_to_the_highest_acknowledged_batch(consumer: Any) -> None:
    consumer._acked[TP0] = [9, 120, 57]
    assert consumer._new_offset(TP0) == 121
    assert consumer._new_offset(TP0) is None
