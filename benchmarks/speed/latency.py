"""Time from an event to the decision that it caused in Redis, at a steady rate.

Run: python -m benchmarks.speed.latency [--rate 5000] [--seconds 40] [--workers 1]

Real Kafka and Redis, one worker with all stages, 8 partitions, the shipped models under a bar so
low that ordinary traffic brings decisions all the time. An event counts from the moment at which
the producer is given it; the decision, from the time in the id that Redis gave its change. The
event that caused a decision is the account's `n_events`-th. The first quarter is left out: workers
join and kernels warm up in it.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import time
from collections import defaultdict

import msgspec
import redis
from kafka import KafkaProducer
from pydantic import SecretStr

from detector.kafka import topics
from detector.kafka.connection import kafka_python_options
from detector.partition import partition_of
from detector.settings import KafkaSettings, Settings
from responders.settings import PolicySettings, RedisSettings, RungSettings
from responders.stores.base import decode_decision
from tests.real_kafka import kafka
from tests.real_redis import redis_server
from tests.real_worker import worker

__all__ = ["main"]

_ACCOUNTS = 2_000
_STEP_S = 0.01
# Every rung in reach, so that accounts go up the ladder as their blocks come.
_LADDER = tuple(
    RungSettings(action=action, level=level, false_per_1000_week=bound)  # type: ignore[arg-type]
    for action, level, bound in (
        ("observe", 1, 999.0),
        ("throttle", 1, 990.0),
        ("throttle", 2, 980.0),
        ("challenge", 1, 970.0),
        ("block", 1, 960.0),
    )
)


def _send(settings: Settings, rate: int, seconds: float) -> dict[str, list[float]]:
    """Send `rate` events/s; account → when each of its events was handed over, Unix seconds."""
    sender = KafkaProducer(**kafka_python_options(settings.kafka), linger_ms=2, acks="all")
    topic = f"{settings.kafka.prefix}access-logs"
    handed: dict[str, list[float]] = defaultdict(list)
    started = time.time()
    sent = 0
    dice = random.Random(7)
    while (now := time.time()) - started < seconds:
        while sent < (now - started) * rate:
            # Some send much and most little, so that their blocks do not all close at once.
            account = f"acct-{int(_ACCOUNTS * dice.random() ** 2)}"
            at = time.time()
            fields = {
                "ts": at,
                "account": account,
                "request_id": str(sent),
                "endpoint": "/v1/chat/completions",
                "model": "large-1",
                "input": f"question {sent} about {sent % 97} things and {sent % 89} others, " * 5,
            }
            sender.send(
                topic,
                msgspec.json.encode(fields),
                partition=partition_of(account, settings.measure.partitions),
            )
            handed[account].append(at)
            sent += 1
        time.sleep(_STEP_S)
    sender.flush()
    sender.close()
    return handed


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(kafka(heap_mb=800))
        server = stack.enter_context(redis_server())
        settings = Settings(
            policy=PolicySettings(ladder=_LADDER, max_false_share=1.0, mode="enforce"),
            kafka=KafkaSettings(bootstrap=broker.bootstrap),
            redis=RedisSettings(url=SecretStr(server.url)),
        )
        topics.create(settings)
        workers = [stack.enter_context(worker(settings, wary=True)) for _ in range(given.workers)]
        for one in workers:
            one.says("measuring partition", within_s=180)
        started = time.time()
        handed = _send(settings, given.rate, given.seconds)
        actual = sum(map(len, handed.values())) / given.seconds
        client = stack.enter_context(redis.Redis.from_url(server.url))
        stream = f"{settings.redis.prefix}decisions"
        # The last decisions are still on their way.
        before = -1
        while before != (now := client.xlen(stream)):
            before = now
            time.sleep(1.0)
        waits = []
        for id_, fields in client.xrange(stream):
            decision = decode_decision(fields[b"decision"])
            events = handed.get(decision.value, [])
            if decision.action != "clear" and 0 < decision.n_events <= len(events):
                at = events[decision.n_events - 1]
                if at - started > given.seconds / 4:
                    waits.append(int(id_.split(b"-")[0]) / 1000 - at)
    if len(waits) < 100:
        raise SystemExit(f"only {len(waits)} decisions: too few to say anything")
    cuts = statistics.quantiles(waits, n=100)
    print(
        f"{actual:,.0f} events/s, {len(waits):,} decisions, {given.workers} worker(s): "
        f"p50 {1000 * cuts[49]:.0f} ms, p99 {1000 * cuts[98]:.0f} ms"
    )


if __name__ == "__main__":
    main()
