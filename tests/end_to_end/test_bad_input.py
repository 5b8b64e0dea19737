"""What cannot be read is refused the same way everywhere, and nothing else suffers from it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import httpx
import msgspec
import pytest
from kafka import KafkaProducer
from pydantic import SecretStr

from detector.dead_letters import DeadLetter
from detector.kafka import topics
from detector.kafka.connection import kafka_python_options
from detector.partition import partition_of
from detector.runners.ledger import Ledger
from detector.runners.pipeline import Pipeline
from detector.sample.clocks import DAY_S
from detector.settings import KafkaSettings, MeasureSettings, Settings
from responders.decisions import Decision
from responders.settings import PolicySettings, RedisSettings, RungSettings
from responders.stores.base import decode_decision
from responders.stores.sqlite import SqliteStore
from tests.end_to_end.rough_log import RoughLog, rough_log
from tests.real_kafka import Broker, kafka
from tests.real_redis import RedisServer, redis_server
from tests.real_worker import eventually, produce, read_topic, worker

ROOT: Final = Path(__file__).resolve().parents[2]
SECRET: Final = "my secret prompt"

# Each names what is wrong with it in what it is refused for.
BAD: Final = {
    "truncated JSON": (b'{"ts": 1, "account": "a", "input": "my secret prompt', "truncated"),
    "a wrong type": (b'{"ts": 1, "account": 5, "input": "my secret prompt"}', "account"),
    "a list": (b'["my secret prompt"]', "object"),
    "a text for a vector": (b'{"ts": 1, "account": "a", "input": [1, "x"]}', "input"),
    "NaN": (b'{"ts": NaN, "account": "a", "input": "my secret prompt"}', "invalid"),
    "NaN in a vector": (b'{"ts": 1, "account": "a", "input": [NaN]}', "invalid"),
    "a number past all floats": (b'{"ts": 1, "account": "a", "input": [1e999]}', "out of range"),
    "invalid UTF-8": (b'{"ts": 1, "account": "a", "input": "my secret prompt\xff"}', "utf-8"),
    "binary": (b"\x89PNG\r\x1a\x00\xff my secret prompt", "malformed|utf-8|invalid"),
    "a time in 2090": (b'{"ts": 3786912000, "account": "a", "input": "my secret prompt"}', "ts "),
    "a negative time": (b'{"ts": -1, "account": "a"}', "ts "),
    "a time without a zone": (b'{"ts": "2026-01-01T00:00:00", "account": "a"}', "time zone"),
    "an empty account": (b'{"ts": 1, "account": "", "input": "my secret prompt"}', "account"),
    "no account": (b'{"ts": 1, "input": "my secret prompt"}', "account"),
    "a long account": (b'{"ts": 1, "account": "' + b"a" * 257 + b'"}', "account"),
    "over 1 MiB": (
        b'{"ts": 1, "account": "a", "input": "' + b"my secret prompt" * 70_000 + b'"}',
        r"\d+ bytes; the limit is 1048576",
    ),
    "deep nesting": (b'{"ts": 1, "account": "a", "params": {"x": ' + b"[" * 90_000, "."),
}  # fmt: skip
# Past what a broker's topic takes: only where lines are read.
TWO_MIB: Final = b'{"ts": 1, "account": "a", "input": "' + b"my secret prompt" * (1 << 17) + b'"}'


def good(number: int) -> bytes:
    return json.dumps(
        {"ts": 1.7e9 + number, "account": "a", "request_id": f"r{number}", "input": f"n {number}"}
    ).encode()


def mixed(bad: Sequence[bytes]) -> list[bytes]:
    """A good record before, between and after the bad ones."""
    records = [good(0)]
    for number, record in enumerate(bad, 1):
        records += [record, good(number)]
    return records


LINES: Final = [*(record for record, _ in BAD.values()), TWO_MIB]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "access.jsonl"
    file.write_bytes(b"".join(record + b"\n" for record in mixed(LINES)))
    return file


def offsets(records: Sequence[bytes]) -> list[int]:
    """Where each line begins."""
    found, at = [], 0
    for record in records:
        found.append(at)
        at += len(record) + 1
    return found


def assert_refused(letters: Sequence[DeadLetter], bad: Sequence[bytes] = LINES) -> None:
    """A letter for each bad record, that says what was wrong with it and not what was in it."""
    reasons = dict(BAD.values())
    reasons[TWO_MIB] = r"\d+ bytes; the limit is 1048576"
    assert len(letters) == len(bad)
    for letter, record in zip(letters, bad, strict=True):
        assert re.search(reasons[record], letter.error, re.IGNORECASE), letter.error
        assert SECRET not in letter.record
        assert len(letter.record) <= 2048
        assert abs(letter.read_at - time.time()) < 120


def velvetrope(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "detector.cli", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def buried(state: Path) -> list[DeadLetter]:
    store = SqliteStore(state)
    ledger = Ledger(store, state)
    try:
        return ledger.buried()
    finally:
        ledger.close()
        store.close()


def test_replay_refuses_each_and_counts_the_rest(log: Path, tmp_path: Path) -> None:
    assert velvetrope("replay", log, "--out", tmp_path / "out").wait(60) == 0
    lines = (tmp_path / "out/dead-letters.jsonl").read_bytes().splitlines()
    letters = [msgspec.json.decode(line, type=DeadLetter) for line in lines]
    assert_refused(letters)
    assert [letter.position for letter in letters] == offsets(mixed(LINES))[1::2]
    assert {letter.source for letter in letters} == {str(log)}
    summary = json.loads((tmp_path / "out/summary.json").read_bytes())
    assert (summary["events"], summary["dead_letters"]) == (len(LINES) + 1, len(LINES))


def test_serve_refuses_each_and_counts_the_rest(log: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    assert velvetrope("serve", log, "--once", "--port", 0, "--state", state).wait(60) == 0
    letters = buried(state)
    assert_refused(letters)
    assert [letter.position for letter in letters] == offsets(mixed(LINES))[1::2]
    store = SqliteStore(state)
    ledger = Ledger(store, state)
    kept = ledger.value("pipeline")
    ledger.close()
    store.close()
    assert kept is not None
    counted = Pipeline.restore(Settings(), None, kept).accounts()
    assert list(counted) == [("a", len(LINES) + 1, len(LINES) + 1)]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A serve that follows nothing."""
    process = velvetrope("serve", "--port", 0, "--state", tmp_path / "state.db")
    try:
        assert process.stderr is not None
        for line in process.stderr:
            answers = re.search(rb"answers at (\S+)", line)
            if answers:
                yield answers[1].decode()
                break
        else:
            raise AssertionError("serve ended")
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_a_sender_is_told_which_of_its_records_were_refused(url: str, tmp_path: Path) -> None:
    # The line ends of a body are those of its records.
    body = b"".join(record + b"\n" for record in mixed(LINES))
    answer = httpx.post(f"{url}/v1/events", content=body, timeout=30.0)
    assert answer.status_code == 202
    told = answer.json()
    assert told["accepted"] == len(LINES) + 1
    assert [one["index"] for one in told["rejected"]] == list(range(1, 2 * len(LINES), 2))
    assert SECRET not in answer.text
    letters = buried(tmp_path / "state.db")
    assert_refused(letters)
    assert [letter.error for letter in letters] == [one["error"] for one in told["rejected"]]


# Workers


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with kafka() as running:
        yield running


@pytest.fixture(scope="module")
def redis_running() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def deployment(broker: Broker, redis_running: RedisServer, name: str) -> Settings:
    """On which any model that knows a harvester decides a lot."""
    settings = Settings(
        measure=MeasureSettings(partitions=4),
        policy=PolicySettings(
            max_false_share=1.0,
            ladder=(
                RungSettings(action="observe", false_per_1000_week=900.0),
                RungSettings(action="throttle", false_per_1000_week=600.0),
                RungSettings(action="block", false_per_1000_week=300.0),
            ),
        ),
        kafka=KafkaSettings(
            bootstrap=broker.bootstrap,
            prefix=f"{name}.",
            checkpoint_every_s=0.3,
            session_timeout_s=2.0,
            heartbeat_after_s=600.0,
            owner_missing_after_s=600.0,
        ),
        redis=RedisSettings(url=SecretStr(redis_running.url), prefix=f"{name}:"),
    )
    topics.create(settings)
    return settings


def dead_letters(settings: Settings) -> list[DeadLetter]:
    found = read_topic(settings.kafka, f"{settings.kafka.prefix}dead-letters")
    return [msgspec.json.decode(value or b"", type=DeadLetter) for _, value in found]


def decided(settings: Settings) -> list[tuple[str, str, int, float]]:
    found = read_topic(settings.kafka, f"{settings.kafka.prefix}decisions")
    return brief([decode_decision(value) for _, value in found if value is not None])


def brief(decisions: Sequence[Decision]) -> list[tuple[str, str, int, float]]:
    return [(d.value, d.action, d.level, d.issued_at) for d in decisions]


def test_a_worker_refuses_each_and_goes_on(broker: Broker, redis_running: RedisServer) -> None:
    settings = deployment(broker, redis_running, "refuses")
    bad = [record for record, _ in BAD.values()]
    partition = partition_of("a", settings.measure.partitions)
    sender = KafkaProducer(**kafka_python_options(settings.kafka), max_request_size=4 << 20)
    try:
        for record in mixed(bad):
            sender.send("refuses.access-logs", record, key=b"a", partition=partition).get(10)
    finally:
        sender.close()
    with worker(settings) as process:
        eventually(lambda: len(dead_letters(settings)) >= len(bad), what="the dead letters")
        assert process.end() == 0
    letters = dead_letters(settings)
    assert_refused(letters, bad)
    assert [letter.position for letter in letters] == list(range(1, 2 * len(bad), 2))
    assert {letter.source for letter in letters} == {f"refuses.access-logs-{partition}"}


def through_pipeline(settings: Settings, log: RoughLog) -> list[tuple[str, str, int, float]]:
    from detector import formats

    pipeline = Pipeline(settings)
    events, bad = formats.get("native").decode_lines([r for _, r in log.records], time.time())
    assert len(bad) == log.broken
    return brief([*pipeline.feed(events).decisions, *pipeline.end().decisions])


def test_a_broker_that_is_away_at_the_start_and_in_the_middle_changes_no_decision(
    tmp_path: Path, redis_running: RedisServer
) -> None:
    own = Broker(tmp_path)
    log = rough_log((time.time() // DAY_S - 2) * DAY_S)
    half = len(log.records) // 2
    try:
        own.start()
        settings = deployment(own, redis_running, "away")
        expected = through_pipeline(settings, log)
        assert len(expected) >= 10
        own.kill()
        with worker(settings) as process:
            eventually(lambda: "no broker at" in process.log(), what="a word on it")
            own.start()
            produce(settings, log.records[:half])
            eventually(lambda: decided(settings), what="a first decision")
            own.kill()
            own.start()
            produce(settings, log.records[half:], end=True)
            eventually(lambda: len(decided(settings)) >= len(expected), what="all decisions")
            assert process.end() == 0
        assert decided(settings) == expected
    finally:
        own.kill()
