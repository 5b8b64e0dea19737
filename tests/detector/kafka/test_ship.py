from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from detector import formats
from detector.dead_letters import DeadLetter
from detector.events import Event, decode
from detector.kafka import topics
from detector.kafka.ship import FromFile, FromTopic, Shipped, Shipper, StateInUse
from detector.partition import partition_of
from detector.settings import Settings
from tests.detector.kafka.conftest import quick
from tests.real_kafka import Broker
from tests.real_worker import eventually, read_topic


def line(i: int, **more: object) -> bytes:
    fields = {"ts": 1000.0 + i, "account": f"a{i % 5}", "input": f"request {i}", **more}
    return json.dumps(fields).encode()


def shipped(settings: Settings) -> list[Event]:
    """What is on `access-logs`, each in the partition of its account, by time."""
    found = []
    for partition in range(settings.measure.partitions):
        topic = f"{settings.kafka.prefix}access-logs"
        for key, value in read_topic(settings.kafka, topic, partition=partition):
            event = decode(value or b"", time.time())
            if isinstance(event, Event):
                assert key == event.account.encode()
                assert partition == partition_of(event.account, settings.measure.partitions)
                found.append(event)
    return sorted(found, key=lambda event: event.ts)


def ship(settings: Settings, file: Path, state: Path, *, end: bool = False) -> Shipped:
    """One run over what the file holds now."""
    shipper = Shipper(settings, formats.get("native"), threading.Event())
    assert shipper.wait_for_topics()
    source = FromFile(file, state)
    try:
        return shipper.run(source, once=True, end=end)
    finally:
        source.close()


def test_a_log_arrives_keyed_by_account(
    deployment: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = deployment()
    log = tmp_path / "access.jsonl"
    log.write_bytes(b"\n".join(line(i) for i in range(300)) + b"\n")
    assert ship(settings, log, tmp_path / "state") == Shipped(events=300, dead_letters=0)
    assert [event.input for event in shipped(settings)] == [f"request {i}" for i in range(300)]


def test_the_next_run_goes_on_where_the_last_one_ended(
    deployment: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = deployment()
    log, state = tmp_path / "access.jsonl", tmp_path / "state"
    log.write_bytes(b"\n".join(line(i) for i in range(10)) + b"\n")
    ship(settings, log, state)
    with log.open("ab") as file:
        file.write(line(10) + b"\n")
    assert ship(settings, log, state).events == 1
    assert [event.ts for event in shipped(settings)] == [1000.0 + i for i in range(11)]


def test_what_is_shipped_again_has_the_same_request_id(
    deployment: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = deployment()
    log = tmp_path / "access.jsonl"
    log.write_bytes(line(1) + b"\n" + line(1) + b"\n" + line(2, request_id="own") + b"\n")
    ship(settings, log, tmp_path / "one")
    ship(settings, log, tmp_path / "other")  # as after a crash before the position was saved
    ids = [event.request_id for event in shipped(settings)]
    assert len(ids) == 6
    assert len(set(ids)) == 3  # two equal lines are two requests
    assert ids.count("own") == 2


def test_a_rotated_log_is_shipped_once(deployment: Callable[..., Settings], tmp_path: Path) -> None:
    settings = deployment()
    log, state = tmp_path / "access.jsonl", tmp_path / "state"
    log.write_bytes(line(0) + b"\n")
    ship(settings, log, state)
    with log.open("ab") as file:
        file.write(line(1) + b"\n")
    log.rename(tmp_path / "access.jsonl.1")
    log.write_bytes(line(2) + b"\n")
    stop = threading.Event()
    shipper = Shipper(settings, formats.get("native"), stop)
    source = FromFile(log, state)
    thread = threading.Thread(target=shipper.run, args=(source,))
    thread.start()
    try:
        eventually(lambda: len(shipped(settings)) == 3, what="three events")
    finally:
        stop.set()
        thread.join()
        source.close()
    assert [event.ts for event in shipped(settings)] == [1000.0, 1001.0, 1002.0]


def test_bad_lines_go_to_dead_letters_with_their_position(
    deployment: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = deployment()
    log = tmp_path / "access.jsonl"
    good, bad = line(0), b'{"ts": "soon", "account": "a", "input": "secret"}'
    log.write_bytes(good + b"\n" + bad + b"\n" + b"x" * (2 << 20) + b"\n" + good + b"\n")
    assert ship(settings, log, tmp_path / "state") == Shipped(events=2, dead_letters=2)
    letters = [
        msgspec.json.decode(value or b"", type=DeadLetter)
        for _, value in read_topic(settings.kafka, f"{settings.kafka.prefix}dead-letters")
    ]
    assert [letter.position for letter in letters] == [
        len(good) + 1,
        len(good) + len(bad) + 2,
    ]
    assert "secret" not in letters[0].record
    assert f"{2 << 20} bytes" in letters[1].error


def test_end_reaches_every_partition(deployment: Callable[..., Settings], tmp_path: Path) -> None:
    settings = deployment()
    log = tmp_path / "access.jsonl"
    log.write_bytes(line(0))  # without its line end: the input has ended
    ship(settings, log, tmp_path / "state", end=True)
    for partition in range(settings.measure.partitions):
        topic = f"{settings.kafka.prefix}access-logs"
        _, value = read_topic(settings.kafka, topic, partition=partition)[-1]
        assert value == b'{"control": "end"}'
    assert len(shipped(settings)) == 1


def test_a_second_ship_from_the_same_state_is_refused(tmp_path: Path) -> None:
    log, state = tmp_path / "access.jsonl", tmp_path / "state"
    log.touch()
    source = FromFile(log, state)
    try:
        with pytest.raises(StateInUse, match="another ship works from"):
            FromFile(log, state)
    finally:
        source.close()
    FromFile(log, state).close()


def test_a_damaged_state_file_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("{")
    with pytest.raises(ValueError, match="is not a position of ship"):
        FromFile(tmp_path / "access.jsonl", state)


def test_a_topic_without_keys_is_shipped_and_its_offsets_are_committed(
    deployment: Callable[..., Settings],
) -> None:
    settings = deployment()
    name = f"{settings.kafka.prefix}gateway"
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    admin.create_topics({name: {"num_partitions": 3}}, wait_for_metadata=True)
    admin.close()
    sender = KafkaProducer(bootstrap_servers=settings.kafka.bootstrap)
    for i in range(30):
        sender.send(name, line(i), partition=i % 3)
    sender.send(name, b"{", partition=0)
    sender.flush()
    sender.close()
    runs = []
    for _ in range(2):
        shipper = Shipper(settings, formats.get("native"), threading.Event())
        source = FromTopic(settings, name, f"{name}-group")
        try:
            runs.append(shipper.run(source, once=True))
        finally:
            source.close()
    assert runs == [Shipped(events=30, dead_letters=1), Shipped(events=0, dead_letters=0)]
    assert len(shipped(settings)) == 30


def test_a_broker_that_goes_away_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    own = Broker(tmp_path / "broker")
    settings = quick(own)
    log, state = tmp_path / "access.jsonl", tmp_path / "state"
    stop = threading.Event()
    shipper = Shipper(settings, formats.get("native"), stop)
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(shipper.wait_for_topics()))
    try:
        own.start()
        topics.create(settings)
        own.kill()
        waiting.start()
        own.start()
        waiting.join()
        assert found == [True]
        log.write_bytes(line(0) + b"\n")
        source = FromFile(log, state)
        running = threading.Thread(target=shipper.run, args=(source,))
        running.start()
        eventually(lambda: len(shipped(settings)) == 1, what="the first event")
        saved = eventually(lambda: state.exists() and state.read_bytes(), what="the position")
        own.kill()
        with log.open("ab") as file:
            file.write(b"".join(line(i) + b"\n" for i in range(1, 500)))
            os.fsync(file.fileno())
        # Sent, and not acknowledged: the position must not move.
        eventually(lambda: shipper.shipped.events == 500, what="the sending")
        assert state.read_bytes() == saved
        own.start()
        eventually(lambda: state.read_bytes() != saved, what="the position moving on")
        stop.set()
        running.join()
        source.close()
        assert [event.ts for event in shipped(settings)] == [1000.0 + i for i in range(500)]
    finally:
        stop.set()
        own.kill()
