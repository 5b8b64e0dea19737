"""The main job on real parts: nginx, Kafka, two workers and Redis, and a thief among 41 clients.

A digits classifier answers behind nginx as deploy/nginx configures it. Forty ordinary clients and
an extraction client ask it over HTTP; one of the ordinary ones asks as often, as fast and as
regularly as the extraction. Everything of velvetrope is a process of its own, started by its
commands.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from detector.kafka.connection import kafka_python_options
from detector.settings import KafkaSettings
from responders.decisions import Decision, is_enforcement
from responders.gateways.caller import key_scope
from responders.settings import RedisSettings
from responders.stores.base import Identity, decode_decision
from responders.stores.redis import RedisStore
from tests.deploy.gateway import Gateway, gateway
from tests.end_to_end.clients import Answer, Client, model_server
from tests.end_to_end.commands import Command, running, velvetrope
from tests.end_to_end.digits import Extraction, Victim, customers_images
from tests.real_kafka import Broker, kafka
from tests.real_redis import RedisServer, redis_server
from tests.real_worker import eventually, read_topic
from tests.responders.making import decision

EXTRACTION = "acct-23"
TWIN = "acct-11"  # the ordinary client that sends what the extraction sends, as it does
ACCOUNTS = [f"acct-{i:02d}" for i in range(41)]
EXTRACTION_REQUESTS = 400
SPAN_S = 12.0
EXTRACTION_FROM_S = 4.0  # the API is in use before the extraction begins
QUOTA = "https://iana.org/assignments/http-problem-types#quota-exceeded"


@pytest.fixture(scope="module")
def victim() -> Victim:
    return Victim.train()


@pytest.fixture
def extraction(victim: Victim) -> Extraction:
    return Extraction(victim, np.random.default_rng(23))


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with kafka() as running_broker:
        yield running_broker


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@dataclass
class Api:
    """The model API as clients see it, and velvetrope's store behind it."""

    gate: Gateway
    store: RedisStore
    config: Path

    @property
    def access_log(self) -> Path:
        return self.gate.nginx.folder / "velvetrope.log"


@contextmanager
def model_api(folder: Path, redis: RedisServer, victim: Victim, **stream: str) -> Iterator[Api]:
    """nginx in front of the model, asking `velvetrope gateway`, whose settings are in a file."""
    settings = RedisSettings(url=redis.url)
    config = folder / "velvetrope.toml"
    config.write_text(
        "\n".join(
            [
                "[policy]",
                'mode = "enforce"',
                # What is served while a decision is on its way is evidence too: without a ceiling
                # the first answer may be the rung after 429.
                'ceiling = "throttle"',
                "[redis]",
                f'url = "{redis.url}"',
                "timeout_s = 5",
                "[api]",
                "port = 0",
                "[kafka]",
                *(f'{name} = "{value}"' for name, value in stream.items()),
                "session_timeout_s = 3",
                "heartbeat_after_s = 0.5",
                "checkpoint_every_s = 1",
            ]
        )
    )
    with ExitStack() as stack:
        store = RedisStore(settings)
        stack.callback(store.close)
        for account in ACCOUNTS:
            key = key_scope(f"Bearer key-of-{account}".encode())
            assert key is not None
            store.set_identity(key, Identity(account=account))
        verdicts = stack.enter_context(
            running(folder, "gateway", "gateway", "--config", str(config))
        )
        port = int(verdicts.says(r"answers at http://127\.0\.0\.1:(\d+)")[1])
        model_port = stack.enter_context(model_server(victim.label))
        gate = stack.enter_context(gateway(port, model_port))
        yield Api(gate, store, config)


def clients(api: Api, victim: Victim, extraction: Extraction) -> Iterator[Client]:
    """Forty ordinary ones, each of its own kind and pace, and the extraction's."""
    even = [(SPAN_S - EXTRACTION_FROM_S) / EXTRACTION_REQUESTS] * EXTRACTION_REQUESTS
    even[0] += EXTRACTION_FROM_S
    for i, account in enumerate(ACCOUNTS):
        rng = np.random.default_rng([7, i])
        address = f"127.0.{i + 1}.1"
        if account == EXTRACTION:
            asks, learns = extraction.query, extraction.answer
            yield Client(account, address, api.gate.port, even, asks, learns)
            continue
        if account == TWIN:
            gaps = even
        else:
            count = int(rng.integers(64, 129))
            uneven = rng.lognormal(0.0, rng.uniform(0.2, 1.2), count)
            gaps = list(uneven / uneven.sum() * SPAN_S * rng.uniform(0.7, 1.0))
        images = customers_images(victim, int(rng.integers(3, 7)), rng)
        yield Client(account, address, api.gate.port, gaps, images.__next__)


def test_nginx_obeys_what_is_in_redis(
    tmp_path: Path, redis: RedisServer, victim: Victim, extraction: Extraction
) -> None:
    with model_api(tmp_path, redis, victim) as api:
        by_account = {client.account: client for client in clients(api, victim, extraction)}
        thief, twin = by_account[EXTRACTION], by_account[TWIN]
        api.store.set_mode("enforce")
        with closing(thief), closing(twin):
            assert (thief.ask().status, twin.ask().status) == (200, 200)
        now = time.time()
        bucket = f"account:{EXTRACTION}"
        api.store.apply(
            [
                decision(
                    value=EXTRACTION,
                    params={"rate_per_min": 6.0, "burst": 3, "bucket": bucket},
                    issued_at=now,
                    expires_at=now + 3600.0,
                )
            ]
        )
        assert_throttled(refused(thief))
        with closing(twin):
            assert twin.ask().status == 200


@pytest.mark.parametrize("killed", [False, True], ids=["two-workers", "one-killed"])
def test_the_extraction_is_refused_and_nobody_else(
    tmp_path: Path,
    broker: Broker,
    redis: RedisServer,
    victim: Victim,
    extraction: Extraction,
    killed: bool,
    record_property: Callable[[str, object], None],
) -> None:
    stream = KafkaSettings(bootstrap=broker.bootstrap, prefix="killed." if killed else "whole.")
    with (
        model_api(tmp_path, redis, victim, bootstrap=stream.bootstrap, prefix=stream.prefix) as api,
        workers(tmp_path, api) as both,
    ):
        everybody = list(clients(api, victim, extraction))
        thief = next(client for client in everybody if client.account == EXTRACTION)
        ordinary = [client for client in everybody if client is not thief]

        with sending(everybody):
            if killed:
                eventually(lambda: len(thief.statuses) >= 48, what="the start of the extraction")
                judging(both).kill()
                assert enforced(api.store.live(time.time())) == set()
        eventually(lambda: judged(stream, everybody), what="the judgement of the last request")
        found = decisions(stream)
        assert enforced(found) == {EXTRACTION}, told(found)
        assert_throttled(refused(thief))
        for client in ordinary:
            with closing(client):
                client.ask()

        asked = {client.account: len(client.statuses) for client in ordinary}
        answered = {client.account: client.statuses.count(200) for client in ordinary}
        assert answered == asked
        assert asked[TWIN] > EXTRACTION_REQUESTS
        assert enforced(api.store.live(time.time())) == {EXTRACTION}
        assert read_topic(stream, f"{stream.prefix}dead-letters") == []
        assert [worker.alive() for worker in both].count(True) == (1 if killed else 2)
        record_property("student agrees with the model on", extraction.agreement(victim))


@contextmanager
def workers(folder: Path, api: Api) -> Iterator[list[Command]]:
    """Two at work, one of which judges, and `ship` at nginx's log."""
    config = ("--config", str(api.config))
    velvetrope("topics", "create", *config)
    state = ("--state", str(folder / "ship.json"))
    with (
        running(folder, "worker-0", "worker", *config) as one,
        running(folder, "worker-1", "worker", *config) as other,
        running(
            *(folder, "ship", "ship", str(api.access_log), "--format", "nginx", *state, *config)
        ) as ship,
    ):
        both = [one, other]
        for worker in both:
            worker.says("working: measure, judge, apply")
            worker.says("measuring partition")
        eventually(lambda: any(generation(worker) for worker in both), what="a judge")
        yield both
        assert ship.alive(), ship.log()


def generation(worker: Command) -> int:
    """Of its last turn as the judge; 0 before the first."""
    turns = re.findall(r"judging, generation (\d+)", worker.log())
    return int(turns[-1]) if turns else 0


def judging(workers: list[Command]) -> Command:
    """The one that judges now: whoever took over last."""
    return max(workers, key=generation)


@contextmanager
def sending(everybody: list[Client]) -> Iterator[None]:
    """Everybody sends everything, at once; the block ends when all have."""
    cancelled = threading.Event()
    with ThreadPoolExecutor(len(everybody)) as pool:
        runs = [pool.submit(client.run, cancelled) for client in everybody]
        try:
            yield
            for run in runs:
                run.result()
        finally:
            cancelled.set()


def judged(stream: KafkaSettings, everybody: list[Client]) -> bool:
    """Whether all that was sent has come through `ship`, measure and judge."""
    admin = KafkaAdminClient(**kafka_python_options(stream))
    reader = KafkaConsumer(**kafka_python_options(stream))
    try:

        def ends(topic: str) -> dict[TopicPartition, int]:
            parts = [TopicPartition(topic, p) for p in reader.partitions_for_topic(topic) or ()]
            found: dict[TopicPartition, int] = reader.end_offsets(parts)
            return found

        def come_to(group: str) -> dict[TopicPartition, int]:
            name = f"{stream.prefix}{group}"
            found = admin.list_group_offsets(name)[name]
            return {tp: offset.offset for tp, offset in found.items()}

        logged = ends(f"{stream.prefix}access-logs")
        if sum(logged.values()) < sum(len(client.statuses) for client in everybody):
            return False
        measured = come_to("velvetrope-measure")
        if any(measured.get(tp, 0) < end for tp, end in logged.items()):
            return False
        blocks = ends(f"{stream.prefix}blocks")
        eventually(
            lambda: all(
                come_to("velvetrope-judge").get(tp, 0) >= end for tp, end in blocks.items()
            ),
            what="the judgement of the last block",
        )
        return True
    finally:
        reader.close()
        admin.close()


def refused(client: Client) -> Answer:
    """Its first refusal; a throttle lets a few requests through before it."""

    def ask() -> Answer | None:
        answer = client.ask()
        return answer if answer.status != 200 else None

    with closing(client):
        found = eventually(ask, within_s=10.0, what=f"a refusal of {client.account}")
    assert found is not None
    return found


def assert_throttled(answer: Answer) -> None:
    assert answer.status == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.document["type"] == QUOTA
    assert int(answer.headers["retry-after"]) > 0


def decisions(stream: KafkaSettings) -> list[Decision]:
    """All that the judge has decided so far."""
    records = read_topic(stream, f"{stream.prefix}decisions")
    return [decode_decision(value) for _, value in records if value is not None]


def enforced(found: Iterable[Decision]) -> set[str]:
    """The accounts that decisions reach; one to observe reaches nobody."""
    return {one.value for one in found if is_enforcement(one.action)}


def told(found: list[Decision]) -> str:
    """For a failure's message."""
    lines = ["decided was:"]
    for one in found:
        lines.append(
            f"{one.value} {one.action} {one.level} after {one.n_events} events: {one.reason.text}; "
            f"{one.evidence}"
        )
    return "\n".join(lines)
