"""Whole workers on real Kafka and Redis: the same log, the same decisions, whatever happens."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from kafka import KafkaProducer
from pydantic import SecretStr

from detector.events import EndOfInput, encode
from detector.kafka import topics
from detector.runners.pipeline import Pipeline
from detector.sample.day import Sample
from detector.settings import KafkaSettings, MeasureSettings, Settings
from responders.alerts.ocsf import Alert
from responders.decisions import Decision
from responders.feedback import Allow, Clear, Feedback, SetMode, encode_feedback
from responders.limits import StaticPolicy
from responders.settings import PolicySettings, RedisSettings, RungSettings
from responders.stores.base import decode_decision
from tests.real_kafka import Broker, kafka
from tests.real_redis import RedisServer, redis_server
from tests.real_worker import (
    WorkerProcess,
    eventually,
    produce,
    read_topic,
    wary_models,
    worker,
)

_LADDER = tuple(
    RungSettings(action=action, level=level, false_per_1000_week=bound, ttl_s=ttl)  # type: ignore[arg-type]
    for action, level, bound, ttl in (
        ("observe", 1, 500.0, 7200.0),
        ("throttle", 1, 300.0, 3600.0),
        ("throttle", 2, 250.0, 3600.0),
        ("challenge", 1, 200.0, 3600.0),
        ("block", 1, 100.0, 7200.0),
    )
)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with kafka() as running:
        yield running


@pytest.fixture(scope="module")
def redis_() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def deployment(broker: Broker, redis_: RedisServer) -> Callable[..., Settings]:
    """Settings of a deployment of its own, its topics created. Nothing falls silent by itself."""

    def make(**options: Any) -> Settings:
        number = next(_numbers)
        settings = Settings(
            measure=MeasureSettings(partitions=4),
            policy=PolicySettings(ladder=_LADDER, max_false_share=1.0, mode="enforce"),
            kafka=KafkaSettings(
                **{
                    "bootstrap": broker.bootstrap,
                    "prefix": f"w{number}.",
                    "checkpoint_every_s": 0.3,
                    "heartbeat_after_s": 600.0,
                    "session_timeout_s": 2.0,
                    **options,
                }
            ),
            redis=RedisSettings(url=SecretStr(redis_.url), prefix=f"w{number}:"),
        )
        topics.create(settings)
        return settings

    return make


@dataclass(frozen=True)
class Log:
    """A day that ends now, with what a pipeline decides on it."""

    records: list[tuple[str, bytes]]
    commands: list[Feedback]
    decisions: list[Decision]
    alerts: list[Alert]


@functools.cache
def day() -> Log:
    events = list(Sample(11, 30, 4).events(1))
    ends = max(float(event.ts) for event in events)
    shift = time.time() - ends
    for event in events:
        event.ts = float(event.ts) + shift
    # A stamp that is late, one far ahead, and one that agrees with nobody.
    events[1000].ts = float(events[1000].ts) - 40.0
    events[2000].ts = float(events[2000].ts) + 3_000.0
    middle = float(events[len(events) // 2].ts)
    cleared, allowed = _some_accounts(events, middle)
    commands: list[Feedback] = [
        Clear(id="f-1", by="test", at=middle, scope="account", value=cleared, reason="a friend"),
        Allow(id="f-2", by="test", at=middle, scope="account", value=allowed, reason="ours"),
    ]
    records = [(event.account, encode(event)) for event in events]
    pipeline = Pipeline(_settings(), models=wary_models())
    for command in commands:
        pipeline.command(command)
    decisions: list[Decision] = []
    alerts: list[Alert] = []
    for first in range(0, len(events), 500):
        judged = pipeline.feed(events[first : first + 500])
        decisions += judged.decisions
        alerts += judged.alerts
    judged = pipeline.feed([EndOfInput()])
    return Log(records, commands, decisions + judged.decisions, alerts + judged.alerts)


def _settings() -> Settings:
    return Settings(
        measure=MeasureSettings(partitions=4),
        policy=PolicySettings(ladder=_LADDER, max_false_share=1.0, mode="enforce"),
    )


def _some_accounts(events: Sequence[Any], middle: float) -> tuple[str, str]:
    """Two accounts that are decided against before the middle of the day and after it."""
    pipeline = Pipeline(_settings(), models=wary_models())
    found = pipeline.feed(events).decisions
    early = {d.value for d in found if d.issued_at < middle < d.expires_at}
    both = sorted(early & {d.value for d in found if d.issued_at > middle})
    return both[0], both[1]


def outcome(decisions: Sequence[Decision]) -> list[tuple[Any, ...]]:
    return [(d.id, d.scope, d.value, d.action, d.level, d.issued_at) for d in decisions]


def decided(settings: Settings) -> list[Decision]:
    """Every decision on the topic; versions of a value must grow."""
    found = [
        decode_decision(value or b"")
        for _, value in read_topic(settings.kafka, f"{settings.kafka.prefix}decisions")
    ]
    newest: dict[str, int] = {}
    for decision in found:
        assert decision.version > newest.get(decision.value, -1)
        newest[decision.value] = decision.version
    return found


def alerted(settings: Settings) -> list[str]:
    return [
        msgspec.json.decode(value or b"", type=Alert).id
        for _, value in read_topic(settings.kafka, f"{settings.kafka.prefix}alerts")
    ]


def tell(settings: Settings, *feedback: Feedback) -> None:
    sender = KafkaProducer(bootstrap_servers=settings.kafka.bootstrap, acks="all")
    for one in feedback:
        sender.send(f"{settings.kafka.prefix}feedback", encode_feedback(one)).get(10)
    sender.close()


def view(settings: Settings) -> dict[str, str]:
    """value → action of what Redis keeps for gateways: what had ended is a clear."""
    with redis.Redis.from_url(settings.redis.url.get_secret_value()) as client:
        prefix = f"{settings.redis.prefix}decision:account:"
        found = {}
        for key in client.scan_iter(f"{prefix}*"):
            text = client.get(key)
            if text is not None:
                decision = decode_decision(text)
                found[decision.value] = decision.action
    return found


def in_force(settings: Settings) -> dict[str, str]:
    """value → action of what Redis enforces."""
    return {value: action for value, action in view(settings).items() if action != "clear"}


def newest(decisions: Sequence[Decision]) -> dict[str, str]:
    """value → action of the newest decision of each, where it is to be enforced now."""
    last = {d.value: d for d in decisions}
    return {
        value: d.action
        for value, d in last.items()
        if d.action not in ("observe", "clear") and d.expires_at > time.time()
    }


def ready(process: WorkerProcess) -> None:
    process.says("measuring partition")


def wait_for(settings: Settings, count: int) -> None:
    eventually(lambda: len(decided(settings)) >= count, within_s=90, what=f"{count} decisions")


def test_the_log_brings_enough_to_compare() -> None:
    log = day()
    assert len(log.decisions) >= 20
    assert {"throttle", "challenge", "clear"} <= {d.action for d in log.decisions}
    assert newest(log.decisions)


def test_one_worker_decides_as_the_pipeline_does(deployment: Callable[..., Settings]) -> None:
    settings, log = deployment(), day()
    tell(settings, *log.commands)
    with worker(settings, wary=True) as process:
        produce(settings, log.records, end=True)
        wait_for(settings, len(log.decisions))
        eventually(lambda: in_force(settings) == newest(log.decisions), what="the view")
        assert process.end() == 0
    assert outcome(decided(settings)) == outcome(log.decisions)
    assert alerted(settings) == [alert.id for alert in log.alerts]


def test_two_workers_of_which_each_is_killed_decide_the_same(
    deployment: Callable[..., Settings],
) -> None:
    settings, log = deployment(), day()
    tell(settings, *log.commands)
    fifth = len(log.records) // 5
    parts = [log.records[i * fifth : (i + 1) * fifth] for i in range(5)]
    parts[-1] += log.records[5 * fifth :]
    with worker(settings, wary=True) as first, worker(settings, wary=True) as second:
        ready(first)
        ready(second)
        produce(settings, parts[0])
        wait_for(settings, 1)
        first.kill()
        produce(settings, parts[1])
        with worker(settings, wary=True) as third:
            ready(third)
            produce(settings, parts[2])
            second.kill()
            produce(settings, parts[3])
            produce(settings, parts[4], end=True)
            wait_for(settings, len(log.decisions))
    assert outcome(decided(settings)) == outcome(log.decisions)
    assert alerted(settings) == [alert.id for alert in log.alerts]


def test_a_judge_that_wakes_up_late_changes_nothing(deployment: Callable[..., Settings]) -> None:
    settings, log = deployment(), day()
    tell(settings, *log.commands)
    half = len(log.records) // 2
    with (
        worker(settings, ("measure", "apply")),
        worker(settings, ("judge",), wary=True) as zombie,
    ):
        zombie.says("judging, generation")
        produce(settings, log.records[:half])
        wait_for(settings, 3)
        zombie.signal(signal.SIGSTOP)
        with worker(settings, ("judge",), wary=True) as successor:
            successor.says("judging, generation")
            zombie.signal(signal.SIGCONT)
            produce(settings, log.records[half:], end=True)
            wait_for(settings, len(log.decisions))
    assert outcome(decided(settings)) == outcome(log.decisions)


def test_redis_that_goes_away_is_filled_again(
    deployment: Callable[..., Settings], redis_: RedisServer
) -> None:
    settings, log = deployment(), day()
    tell(settings, *log.commands)
    half = len(log.records) // 2
    with worker(settings, wary=True) as process:
        produce(settings, log.records[:half])
        eventually(lambda: view(settings), what="a view")
        redis_.stop()
        produce(settings, log.records[half:], end=True)
        wait_for(settings, len(log.decisions))
        process.says("Redis is away")
        redis_.start()
        back_at = time.monotonic()
        eventually(lambda: in_force(settings) == newest(log.decisions), what="the view")
        assert time.monotonic() - back_at < 5.0
        assert process.log().count("Redis is away") == 1
        assert "Redis is back" in process.log()
        assert process.alive()


def test_a_redis_that_is_flushed_or_comes_back_with_less_is_whole_within_five_seconds(
    deployment: Callable[..., Settings], redis_: RedisServer
) -> None:
    settings, log = deployment(), day()
    tell(settings, *log.commands)
    prefix = settings.redis.prefix
    with (
        worker(settings, wary=True) as process,
        redis.Redis.from_url(settings.redis.url.get_secret_value()) as client,
    ):
        produce(settings, log.records, end=True)
        wait_for(settings, len(log.decisions))
        whole = newest(log.decisions)
        eventually(lambda: in_force(settings) == whole, what="the view")
        client.flushall()
        eventually(lambda: in_force(settings) == whole, within_s=5, what="the view after FLUSHALL")
        # What a failover to a replica that lagged behind leaves: the epoch, and not every key.
        epoch = client.get(f"{prefix}epoch")
        redis_.stop()
        redis_.start()
        client.set(f"{prefix}epoch", epoch or b"")
        eventually(lambda: in_force(settings) == whole, within_s=5, what="the view, restarted")
        limits = StaticPolicy.of(settings.policy).encode()
        eventually(lambda: client.get(f"{prefix}policy") == limits, within_s=5, what="the limits")
        assert process.alive()


def test_redis_may_be_away_at_the_start(
    deployment: Callable[..., Settings], redis_: RedisServer
) -> None:
    settings = deployment()
    redis_.stop()
    try:
        with worker(settings, ("apply",)) as process:
            process.says("Redis is away")
            redis_.start()
            process.says("Redis is back")
    finally:
        redis_.stop()
        redis_.start()


def test_the_kill_switch_and_an_allow_act_without_a_judge(
    deployment: Callable[..., Settings],
) -> None:
    settings = deployment()
    with (
        worker(settings, ("apply",)),
        redis.Redis.from_url(settings.redis.url.get_secret_value()) as client,
    ):
        prefix = settings.redis.prefix
        eventually(lambda: client.get(f"{prefix}mode") == b"enforce", what="the mode")
        tell(settings, SetMode(id="f-1", by="test", mode="off"))
        eventually(lambda: client.get(f"{prefix}mode") == b"off", within_s=5, what="off")
        tell(settings, Allow(id="f-2", by="test", scope="account", value="a", reason="ours"))
        eventually(lambda: client.get(f"{prefix}allow:account:a"), within_s=5, what="the allow")


def test_a_clear_acts_without_a_judge(deployment: Callable[..., Settings]) -> None:
    settings, log = deployment(), day()
    with worker(settings, ("measure", "apply")), worker(settings, ("judge",), wary=True) as judge:
        produce(settings, log.records, end=True)
        live = eventually(lambda: [*in_force(settings)], what="a view")
        judge.kill()
        tell(
            settings,
            Clear(id="f-9", by="test", scope="account", value=live[0], reason="a mistake"),
        )
        eventually(lambda: view(settings)[live[0]] == "clear", within_s=5, what="the clear")


def test_a_partition_without_an_owner_is_alerted_on(deployment: Callable[..., Settings]) -> None:
    settings = deployment(owner_missing_after_s=1.0)
    with worker(settings, ("judge",)):
        eventually(lambda: len(alerted(settings)) == 4, what="an alert for each partition")
        with worker(settings, ("measure",)):
            eventually(lambda: len(alerted(settings)) == 8, what="the all-clear for each")


def _workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_workers_of_one_machine_end_together(deployment: Callable[..., Settings]) -> None:
    settings = deployment()
    with worker(settings, ("measure",), workers=2) as supervisor:
        eventually(lambda: supervisor.log().count("working: measure") == 2, what="both")
        children = _workers_of(supervisor.pid)
        os.kill(children[0], signal.SIGKILL)
        assert supervisor.wait() != 0
        assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_workers_of_one_machine_stop_on_sigterm(deployment: Callable[..., Settings]) -> None:
    settings = deployment()
    with worker(settings, ("measure",), workers=2) as supervisor:
        eventually(lambda: supervisor.log().count("working: measure") == 2, what="both")
        assert supervisor.end() == 0
