"""The measure stage as real processes on real Kafka."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from detector.blocks import Block
from detector.dead_letters import DeadLetter
from detector.events import Event, decode
from detector.kafka import topics
from detector.kafka.records import decode_blocks
from detector.measure import PartitionMeasure
from detector.partition import partition_of
from detector.settings import Settings
from tests.detector.kafka.conftest import quick
from tests.real_kafka import Broker
from tests.real_worker import WorkerProcess, eventually, produce, read_topic, worker

MEASURE = ("measure",)
Records = list[tuple[str, bytes]]


def log(events: int, accounts: int = 60, start: float | None = None) -> Records:
    """Requests of `accounts` in turn, 20 ms apart, that end now."""
    first = (time.time() if start is None else start) - events * 0.02
    return [
        (
            f"account-{i % accounts}",
            json.dumps(
                {
                    "ts": first + 0.02 * i,
                    "account": f"account-{i % accounts}",
                    "request_id": f"r{i}",
                    "input": f"request {i} of {i % 7} words and {i % 11} more",
                }
            ).encode(),
        )
        for i in range(events)
    ]


def expected(settings: Settings, records: Records) -> dict[tuple[int, int], Block]:
    """(partition, seq) → block, of the same records measured here."""
    blocks: dict[tuple[int, int], Block] = {}
    count = settings.measure.partitions
    for partition in range(count):
        measure = PartitionMeasure(partition, settings.measure)
        events = [
            event
            for account, record in records
            if partition_of(account, count) == partition
            and isinstance(event := decode(record, time.time()), Event)
        ]
        for block in [*measure.feed(events), *measure.end()]:
            blocks[(partition, block.seq)] = block
    return blocks


def measured(settings: Settings) -> dict[tuple[int, int], Block]:
    """What is on `blocks`: repeats must be the same, and numbers without gaps."""
    blocks: dict[tuple[int, int], Block] = {}
    for _, value in read_topic(settings.kafka, f"{settings.kafka.prefix}blocks"):
        assert value is not None
        for block in decode_blocks(value).blocks:
            key = (block.partition, block.seq)
            assert blocks.setdefault(key, block) == block
            assert block.seq == 0 or (block.partition, block.seq - 1) in blocks
    return blocks


def ended(settings: Settings) -> bool:
    said = [
        decode_blocks(value)
        for _, value in read_topic(settings.kafka, f"{settings.kafka.prefix}blocks")
        if value is not None
    ]
    return {one.partition for one in said if one.end} == set(range(settings.measure.partitions))


def ready(process: WorkerProcess) -> None:
    process.says("measuring partition")


def committed(settings: Settings) -> dict[int, int | None]:
    reader = KafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap,
        group_id=f"{settings.kafka.prefix}velvetrope-measure",
        enable_auto_commit=False,
    )
    try:
        topic = f"{settings.kafka.prefix}access-logs"
        return {
            partition: reader.committed(TopicPartition(topic, partition))
            for partition in range(settings.measure.partitions)
        }
    finally:
        reader.close()


def counts(settings: Settings, records: Records) -> dict[int, int]:
    found = dict.fromkeys(range(settings.measure.partitions), 0)
    for account, _ in records:
        found[partition_of(account, settings.measure.partitions)] += 1
    return found


def test_blocks_are_those_of_the_log(deployment: Callable[..., Settings]) -> None:
    settings = deployment()
    records = log(6_000)
    with worker(settings, MEASURE):
        produce(settings, records, end=True)
        eventually(lambda: ended(settings), what="the end")
    assert measured(settings) == expected(settings, records)


def test_a_clean_stop_commits_all_that_was_processed(deployment: Callable[..., Settings]) -> None:
    settings = deployment()
    records = log(3_000)
    with worker(settings, MEASURE) as process:
        produce(settings, records, end=True)
        eventually(lambda: ended(settings), what="the end")
        assert process.end() == 0
    after = {partition: n + 1 for partition, n in counts(settings, records).items()}
    assert committed(settings) == after


def test_sigkill_loses_nothing_and_repeats_only_the_same(
    deployment: Callable[..., Settings],
) -> None:
    settings = deployment()
    records = log(12_000)
    parts = [records[i : i + 1_500] for i in range(0, len(records), 1_500)]
    for part in parts[:3]:
        with worker(settings, MEASURE) as process:
            ready(process)
            before = len(measured(settings))
            produce(settings, part)
            eventually(lambda b=before: len(measured(settings)) > b, what="more blocks")  # type: ignore[misc]
            process.kill()
    with worker(settings, MEASURE):
        for part in parts[3:]:
            produce(settings, part, end=part is parts[-1])
        eventually(lambda: ended(settings), what="the end")
    assert measured(settings) == expected(settings, records)


def test_what_is_committed_was_processed(deployment: Callable[..., Settings]) -> None:
    settings = deployment()
    records = log(4_000)
    with worker(settings, MEASURE) as process:
        ready(process)
        produce(settings, records)
        total = sum(counts(settings, records).values())
        eventually(
            lambda: sum(offset or 0 for offset in committed(settings).values()) == total,
            what="the commit of everything",
        )
        process.kill()
    # Everything was committed: the next worker has nothing to say about it again.
    blocks_before = len(read_blocks_with_content(settings))
    with worker(settings, MEASURE) as process:
        produce(settings, [], end=True)
        eventually(lambda: ended(settings), what="the end")
    assert measured(settings) == expected(settings, records)
    repeated = blocks_before + len(measured(settings)) - len(read_blocks_with_content(settings))
    assert repeated == blocks_before


def read_blocks_with_content(settings: Settings) -> list[tuple[int, int]]:
    """(partition, seq) of every block on the topic, repeats included."""
    return [
        (block.partition, block.seq)
        for _, value in read_topic(settings.kafka, f"{settings.kafka.prefix}blocks")
        if value is not None
        for block in decode_blocks(value).blocks
    ]


def test_workers_that_join_and_leave_change_nothing(deployment: Callable[..., Settings]) -> None:
    settings = deployment()
    records = log(12_000)
    parts = [records[i : i + 3_000] for i in range(0, len(records), 3_000)]
    with worker(settings, MEASURE) as first:
        ready(first)
        produce(settings, parts[0])
        with worker(settings, MEASURE) as second:
            ready(second)
            produce(settings, parts[1])
            assert first.end() == 0
            produce(settings, parts[2])
            with worker(settings, MEASURE) as third:
                ready(third)
                produce(settings, parts[3], end=True)
                eventually(lambda: ended(settings), what="the end")
    assert measured(settings) == expected(settings, records)


BAD = [
    b'{"ts": 1, "account": "a", "inp',
    b'{"ts": "soon", "account": "a", "input": "secret"}',
    b'{"ts": NaN, "account": "a"}',
    b'{"ts": 1, "account": "\xff"}',
    b"\x00\x01\x02\x89PNG",
    b'{"ts": 3786912000, "account": "a"}',
    b'{"ts": 1, "account": ""}',
    b'{"account": "a"}',
    b"[]",
    b"",
]


def test_bad_records_go_to_dead_letters_and_the_stream_goes_on(
    deployment: Callable[..., Settings],
) -> None:
    settings = deployment()
    records = log(2_000)
    with worker(settings, MEASURE) as process:
        produce(settings, [("a", bad) for bad in BAD])
        produce(settings, records, end=True)
        eventually(lambda: ended(settings), what="the end")
        assert process.alive()
    letters = [
        msgspec.json.decode(value or b"", type=DeadLetter)
        for _, value in read_topic(settings.kafka, f"{settings.kafka.prefix}dead-letters")
    ]
    source = f"{settings.kafka.prefix}access-logs-{partition_of('a', 4)}"
    assert [(letter.source, letter.position) for letter in letters] == [
        (source, i) for i in range(len(BAD))
    ]
    assert "secret" not in letters[1].record
    assert measured(settings) == expected(settings, records)


def test_an_account_in_a_wrong_partition_is_a_dead_letter(
    deployment: Callable[..., Settings],
) -> None:
    settings = deployment()
    (account, record), *_ = log(1)
    other = next(n for n in map(str, range(99)) if partition_of(n, 4) != partition_of(account, 4))
    with worker(settings, MEASURE):
        produce(settings, [(other, record)], end=True)
        eventually(lambda: ended(settings), what="the end")
    ((_, letter),) = read_topic(settings.kafka, f"{settings.kafka.prefix}dead-letters")
    assert f"belongs in partition {partition_of(account, 4)}".encode() in (letter or b"")


def test_records_that_are_gone_before_they_were_processed_end_the_process(
    deployment: Callable[..., Settings],
) -> None:
    settings = deployment(partitions=1)
    records = log(3_000)
    with worker(settings, MEASURE) as process:
        produce(settings, records[:1_000])
        eventually(lambda: committed(settings)[0] == 1_000, what="the commit")
        assert process.end() == 0
    produce(settings, records[1_000:])
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    tp = TopicPartition(f"{settings.kafka.prefix}access-logs", 0)
    admin.delete_records({tp: 2_000})
    admin.close()
    with worker(settings, MEASURE) as process:
        assert process.wait() == 1
        assert "goes on at offset 2000, but 1000 is next" in process.log()


def test_a_worker_without_topics_says_so_and_ends(broker: Broker) -> None:
    with worker(quick(broker), MEASURE) as process:
        assert process.wait() == 1
        assert "velvetrope topics create" in process.log()


def test_a_broker_that_comes_late_or_goes_away_costs_nothing(tmp_path: Path) -> None:
    own = Broker(tmp_path)
    settings = quick(own)
    records = log(9_000)
    try:
        own.start()
        topics.create(settings)
        own.kill()
        with worker(settings, MEASURE) as process:
            process.says("no broker at")
            own.start()
            ready(process)
            produce(settings, records[:3_000])
            eventually(lambda: measured(settings), what="blocks")
            own.kill()
            own.start()
            produce(settings, records[3_000:6_000])
            own.kill()
            own.start()
            produce(settings, records[6_000:], end=True)
            eventually(lambda: ended(settings), what="the end")
            assert process.alive()
        assert measured(settings) == expected(settings, records)
    finally:
        own.kill()
