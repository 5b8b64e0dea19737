"""The same log and the same commands give the same decisions, whatever runs them.

A rough day of the sample API goes through replay, serve and worker: event by event and in batches,
in one process and in two, and with kills in the middle.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from detector.configuration import load
from detector.events import BadRecord, Event, decode
from detector.kafka import topics
from detector.kafka.connection import kafka_python_options
from detector.kafka.records import decode_blocks
from detector.measure import PartitionMeasure
from detector.partition import partition_of
from detector.runners.ledger import Ledger
from detector.runners.pipeline import Pipeline
from detector.runners.tail import TailPosition
from detector.sample.clocks import DAY_S
from detector.settings import Settings
from responders.decisions import Decision
from responders.feedback import Allow, Clear, Feedback, encode_feedback
from responders.stores.base import decode_decision
from responders.stores.sqlite import SqliteStore
from tests.end_to_end.rough_log import RoughLog, rough_log
from tests.real_kafka import Broker, kafka
from tests.real_redis import RedisServer, redis_server
from tests.real_worker import WorkerProcess, eventually, produce, read_topic, worker

ROOT: Final = Path(__file__).resolve().parents[2]
Made = tuple[str, str, str, int, float]

# Lenient, so that any model that knows a harvester at all leads to many decisions.
CONFIG: Final = """\
[measure]
partitions = 6
account_idle_after = 600

[policy]
mode = "enforce"
new_evidence_events = 24
max_false_share = 0.95
ladder = [
  {action = "observe", false_per_1000_week = 900, ttl_s = 1200},
  {action = "throttle", level = 1, false_per_1000_week = 600, ttl_s = 2400},
  {action = "throttle", level = 2, false_per_1000_week = 500, ttl_s = 2400},
  {action = "challenge", false_per_1000_week = 400, ttl_s = 3600},
  {action = "block", false_per_1000_week = 300, ttl_s = 864000},
]

[serve]
checkpoint_every_s = 0.05

[kafka]
checkpoint_every_s = 0.5
session_timeout_s = 2.0
# What is silent depends on when it is looked at, by design: here only the records count.
heartbeat_after_s = 600
owner_missing_after_s = 600

[api]
port = 0

[alerts]
log = false
"""


class Case(NamedTuple):
    """The log, what people said, and what replay makes of it."""

    log: RoughLog
    file: Path
    config: Path
    settings: Settings
    commands: list[Feedback]
    expected: list[Decision]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("same")
    config, file = folder / "velvetrope.toml", folder / "access.jsonl"
    config.write_text(CONFIG)
    settings = load(config).settings
    # Yesterday, or the day before: what lives for days is still live when Redis is looked at.
    log = rough_log((time.time() // DAY_S - 2) * DAY_S)
    file.write_bytes(b"".join(record + b"\n" for _, record in log.records))
    commands = interventions(through_pipeline(settings, log, [], batch=5_000))
    expected = through_pipeline(settings, log, commands, batch=5_000)
    return Case(log, file, config, settings, commands, expected)


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with kafka() as running:
        yield running


@pytest.fixture(scope="module")
def redis_running() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def made(decision: Decision) -> Made:
    return (
        decision.scope, decision.value, decision.action, decision.level, decision.issued_at
    )  # fmt: skip


def by_key(decisions: Sequence[Decision]) -> dict[tuple[str, str], list[Made]]:
    """What was decided about each (scope, value), in order."""
    found: dict[tuple[str, str], list[Made]] = {}
    for decision in decisions:
        found.setdefault((decision.scope, decision.value), []).append(made(decision))
    return found


def events(log: RoughLog) -> list[Event]:
    found = []
    for _, record in log.records:
        with contextlib.suppress(BadRecord):
            event = decode(record, time.time())
            assert isinstance(event, Event)
            found.append(event)
    return found


def through_pipeline(
    settings: Settings, log: RoughLog, commands: Sequence[Feedback], *, batch: int
) -> list[Decision]:
    """What the pipeline decides when it is fed `batch` events at a time."""
    pipeline = Pipeline(settings)
    for command in commands:
        pipeline.command(command)
    found: list[Decision] = []
    everything = events(log)
    for first in range(0, len(everything), batch):
        found += pipeline.feed(everything[first : first + batch]).decisions
    return found + pipeline.end().decisions


def interventions(decisions: Sequence[Decision]) -> list[Feedback]:
    """A clear and an allow, each in the middle of a decision that the log alone leads to."""
    often = sorted(by_key(decisions).values(), key=lambda found: (-len(found), found))
    cleared, allowed = often[0], often[1]
    return [
        Clear(
            id="f-clear", by="analyst", at=cleared[2][-1] + 300.1, scope="account",
            value=cleared[0][1], reason="a contractor of ours", grace_s=1500.0,
        ),
        Allow(
            id="f-allow", by="analyst", at=allowed[1][-1] + 299.9, scope="account",
            value=allowed[0][1], reason="research partner", expires_at=allowed[1][-1] + 9000.0,
        ),
        Allow(id="f-org", by="sales", scope="org", value="org-nobody", reason="contract"),
    ]  # fmt: skip


# The log is as rough as it is meant to be


def test_the_log_leads_to_decisions_of_every_kind(case: Case) -> None:
    actions = [decision.action for decision in case.expected]
    assert len(actions) >= 20
    assert len(set(actions) - {"clear"}) >= 2
    reasons = {d.reason.code: d.value for d in case.expected if d.action == "clear"}
    assert reasons == {"cleared": case.commands[0].value, "allowlisted": case.commands[1].value}  # type: ignore[union-attr]


def test_decisions_end_and_are_made_again(case: Case) -> None:
    ended = [
        (before, after)
        for before in case.expected
        for after in case.expected
        if (before.scope, before.value) == (after.scope, after.value)
        and before.action != "clear"
        and before.expires_at <= after.issued_at
    ]
    assert ended


def test_the_log_has_idle_closings_disorder_repeats_refusals_and_broken_records(
    case: Case,
) -> None:
    everything = events(case.log)
    assert case.log.broken == len(case.log.records) - len(everything) > 5
    assert sum(not event.served for event in everything) > 100
    ids = [event.request_id for event in everything]
    assert len(ids) - len(set(ids)) > 100
    stamps = [float(event.ts) for event in everything]
    assert sum(a > b for a, b in pairwise(stamps)) > 1_000
    assert max(b - a for a, b in pairwise(stamps)) > 3600.0
    partitions = case.settings.measure.partitions
    parts: list[list[Event]] = [[] for _ in range(partitions)]
    for event in everything:
        parts[partition_of(event.account, partitions)].append(event)
    idle = 0
    for number, part in enumerate(parts):
        assert len(part) > 200
        blocks = PartitionMeasure(number, case.settings.measure).feed(part)
        # Short, and neither a first look nor the end of the input.
        idle += sum(block.n not in (8, 16, 32) for block in blocks)
    assert idle > 100


# Replay


def test_event_by_event_is_as_in_batches(case: Case) -> None:
    found = through_pipeline(case.settings, case.log, case.commands, batch=1)
    assert [made(d) for d in found] == [made(d) for d in case.expected]


def test_replay(case: Case, tmp_path: Path) -> None:
    said = tmp_path / "said.jsonl"
    said.write_bytes(b"".join(encode_feedback(command) + b"\n" for command in case.commands))
    done = velvetrope(
        "replay", case.file, "--out", tmp_path / "out", "--feedback", said, "--config", case.config
    )
    assert done.wait(60) == 0
    lines = (tmp_path / "out/decisions.jsonl").read_bytes().splitlines()
    found = [msgspec.json.decode(line, type=Decision) for line in lines]
    assert [made(d) for d in found] == [made(d) for d in case.expected]
    summary = json.loads((tmp_path / "out/summary.json").read_bytes())
    assert summary["dead_letters"] == case.log.broken


# Serve


def velvetrope(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "detector.cli", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def opened(state: Path) -> Iterator[tuple[SqliteStore, Ledger]]:
    store = SqliteStore(state)
    ledger = Ledger(store, state)
    try:
        yield store, ledger
    finally:
        ledger.close()
        store.close()


@contextlib.contextmanager
def serving(case: Case, state: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = velvetrope("serve", case.file, "--once", "--state", state, "--config", case.config)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def say(case: Case, state: Path) -> None:
    with opened(state) as (store, ledger), store.transaction() as db:
        for command in case.commands:
            ledger.say(db, command)


def served(state: Path) -> dict[tuple[str, str], list[Made]]:
    with opened(state) as (store, _):
        with store.transaction() as db:
            keys = db.execute("SELECT DISTINCT scope, value FROM history").fetchall()
        return {key: [made(d) for d in store.history(*key)] for key in keys}


def test_serve(case: Case, tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    say(case, state)
    with serving(case, state) as process:
        assert process.wait(60) == 0
    assert served(state) == by_key(case.expected)


def test_serve_killed_twice_in_the_middle(case: Case, tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    say(case, state)
    size = case.file.stat().st_size
    with opened(state) as (_, ledger):

        def read() -> int:
            position = ledger.position(str(case.file))
            if position is None:
                return 0
            return msgspec.json.decode(position, type=TailPosition).offset

        for share in (0.2, 0.6):
            with serving(case, state) as process:
                eventually(lambda s=share: read() > s * size, what="half of it", every_s=0.005)  # type: ignore[misc]
                process.kill()
                process.wait()
            assert share * size < read() < size
    with serving(case, state) as process:
        assert process.wait(60) == 0
    assert served(state) == by_key(case.expected)


# Worker


@pytest.fixture
def deployment(
    case: Case, broker: Broker, redis_running: RedisServer, request: pytest.FixtureRequest
) -> Settings:
    """The case's settings on topics of their own, with the commands said."""
    own = "".join(c for c in request.node.name if c.isalnum())
    settings = load(
        case.config,
        {
            "kafka.bootstrap": broker.bootstrap,
            "kafka.prefix": f"{own}.",
            "redis.url": redis_running.url,
            "redis.prefix": f"{own}:",
        },
    ).settings
    topics.create(settings)
    sender = KafkaProducer(**kafka_python_options(settings.kafka))
    try:
        for command in case.commands:
            sender.send(f"{own}.feedback", encode_feedback(command)).get(10)
    finally:
        sender.close()
    return settings


def decided(settings: Settings) -> list[Decision]:
    found = read_topic(settings.kafka, f"{settings.kafka.prefix}decisions")
    return [decode_decision(value) for _, value in found if value is not None]


def judged(settings: Settings) -> Callable[[], bool]:
    """Whether every partition has ended, and the judge has come to the end of `blocks`."""
    tp = TopicPartition(f"{settings.kafka.prefix}blocks", 0)

    def look() -> bool:
        said = [
            decode_blocks(value)
            for _, value in read_topic(settings.kafka, tp.topic)
            if value is not None
        ]
        if {one.partition for one in said if one.end} != set(range(settings.measure.partitions)):
            return False
        reader = KafkaConsumer(
            **kafka_python_options(settings.kafka),
            group_id=f"{settings.kafka.prefix}velvetrope-judge",
            enable_auto_commit=False,
        )
        try:
            return bool(reader.committed(tp) == reader.end_offsets([tp])[tp])
        finally:
            reader.close()

    return look


def assert_same(case: Case, settings: Settings) -> None:
    found = decided(settings)
    assert by_key(found) == by_key(case.expected)
    assert [d.version for d in found] == sorted({d.version for d in found})


def assert_in_redis(case: Case, settings: Settings) -> None:
    """The last decision of each, as far as it is still in force."""
    last = {(d.scope, d.value): d for d in case.expected}
    live = {
        f"{settings.redis.prefix}decision:{d.scope}:{d.value}": made(d)
        for d in last.values()
        if d.action not in ("clear", "observe") and d.expires_at > time.time() + 60.0
    }
    assert live
    with redis.Redis.from_url(settings.redis.url.get_secret_value()) as client:

        def shown() -> dict[str, Any]:
            keys = [key.decode() for key in client.keys(f"{settings.redis.prefix}decision:*")]
            values = [(key, client.get(key)) for key in keys]
            decisions = [(key, decode_decision(value)) for key, value in values if value]
            return {key: made(d) for key, d in decisions if d.action != "clear"}

        deadline = time.monotonic() + 20.0
        while shown() != live and time.monotonic() < deadline:
            time.sleep(0.1)
        assert shown() == live


def working(*processes: WorkerProcess) -> None:
    for process in processes:
        eventually(lambda p=process: "measuring partition" in p.log(), what="measuring")  # type: ignore[misc]


def generation(process: WorkerProcess) -> int:
    """Of the process as a judge, the last one counts; 0 for one that never was."""
    return max(map(int, re.findall(r"judging, generation (\d+)", process.log())), default=0)


def test_one_worker(case: Case, deployment: Settings) -> None:
    produce(deployment, case.log.records, end=True)
    with worker(deployment):
        eventually(judged(deployment), within_s=120.0, what="the end", every_s=0.4)
        assert_same(case, deployment)
        assert_in_redis(case, deployment)


def test_two_workers(case: Case, deployment: Settings) -> None:
    with worker(deployment) as one, worker(deployment) as other:
        working(one, other)
        produce(deployment, case.log.records, end=True)
        eventually(judged(deployment), within_s=120.0, what="the end", every_s=0.4)
    assert_same(case, deployment)


def test_two_workers_and_the_judge_killed_in_the_middle(case: Case, deployment: Settings) -> None:
    records = case.log.records
    first = int(0.7 * len(records))
    with worker(deployment) as one, worker(deployment) as other:
        working(one, other)
        produce(deployment, records[:first])
        eventually(lambda: decided(deployment), what="a first decision")
        max(one, other, key=generation).kill()
        produce(deployment, records[first:], end=True)
        eventually(judged(deployment), within_s=120.0, what="the end", every_s=0.4)
        assert_same(case, deployment)
        assert_in_redis(case, deployment)
    # One judge decided a part, and its successor the rest.
    assert len({d.version >> 32 for d in decided(deployment)}) >= 2
