from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from detector.kafka import topics
from detector.settings import KafkaSettings, MeasureSettings, Settings
from tests.real_kafka import Broker, kafka

_numbers = itertools.count()


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    with kafka() as running:
        yield running


@pytest.fixture
def deployment(broker: Broker) -> Callable[..., Settings]:
    """Settings of a deployment of its own on the shared broker, its topics created."""

    def make(**options: Any) -> Settings:
        settings = quick(broker, **options)
        topics.create(settings)
        return settings

    return make


def quick(broker: Broker, **options: Any) -> Settings:
    """Settings that let a test see in seconds what takes minutes in production."""
    return Settings(
        measure=MeasureSettings(partitions=options.pop("partitions", 4)),
        kafka=KafkaSettings(
            **{
                "bootstrap": broker.bootstrap,
                "prefix": f"t{next(_numbers)}.",
                "checkpoint_every_s": 0.3,
                "heartbeat_after_s": 0.5,
                "session_timeout_s": 2.0,
                **options,
            }
        ),
    )
