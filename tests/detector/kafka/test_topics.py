from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from detector.kafka import topics
from detector.kafka.topics import TopicMismatch
from detector.settings import KafkaSettings, MeasureSettings, Settings
from tests.detector.kafka.conftest import quick
from tests.real_kafka import Broker


def test_create_makes_every_topic_once(broker: Broker) -> None:
    settings = quick(broker)
    prefix = settings.kafka.prefix
    assert topics.create(settings) == [
        f"{prefix}{name}"
        for name in (
            "access-logs",
            "blocks",
            "decisions",
            "alerts",
            "dead-letters",
            "feedback",
            "checkpoints",
        )
    ]
    assert topics.create(settings) == []


def test_check_passes_on_what_create_made(deployment: Callable[..., Settings]) -> None:
    topics.check(deployment())


def test_missing_topics_are_named_with_the_command_that_makes_them(broker: Broker) -> None:
    with pytest.raises(TopicMismatch, match=r"access-logs.*velvetrope topics create"):
        topics.check(quick(broker))


def test_another_partition_count_is_refused(deployment: Callable[..., Settings]) -> None:
    settings = deployment(partitions=4)
    other = settings.model_copy(update={"measure": MeasureSettings(partitions=8)})
    with pytest.raises(TopicMismatch, match="access-logs has 4 partitions, not 8"):
        topics.create(other)


def refused(settings: Settings) -> bool:
    try:
        topics.check(settings)
    except TopicMismatch:
        return True
    return False


def test_another_cleanup_policy_is_refused(deployment: Callable[..., Settings]) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

    settings = deployment()
    name = f"{settings.kafka.prefix}decisions"
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    admin.alter_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name, {"cleanup.policy": "delete"})]
    )
    admin.close()
    deadline = time.monotonic() + 20.0
    while not refused(settings):  # brokers hear of a change a little later than the controller
        assert time.monotonic() < deadline, "the change was never seen"
        time.sleep(0.05)
    with pytest.raises(TopicMismatch, match=r"decisions has cleanup\.policy delete, not compact"):
        topics.check(settings)


def test_prefix_separates_deployments() -> None:
    names = topics.wanted(Settings(kafka=KafkaSettings(prefix="a.")))
    assert all(topic.name.startswith("a.") for topic in names)
