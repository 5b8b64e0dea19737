"""The topics of a deployment: their names, shapes, and how they come to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import TopicAlreadyExistsError

from detector.kafka.connection import kafka_python_options
from detector.settings import Settings

__all__ = ["Topic", "TopicMismatch", "Topics", "check", "create", "wanted"]

_FOREVER: Final = "-1"


class TopicMismatch(RuntimeError):
    """A topic is missing or is not what this deployment needs. The text says which and how."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as this deployment wants it."""

    name: str
    partitions: int
    policy: str  # cleanup.policy
    config: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of all topics under one prefix."""

    access_logs: str
    blocks: str
    decisions: str
    alerts: str
    dead_letters: str
    feedback: str
    checkpoints: str

    @classmethod
    def under(cls, prefix: str) -> Topics:
        """The names with `prefix` before each."""
        return cls(
            access_logs=f"{prefix}access-logs",
            blocks=f"{prefix}blocks",
            decisions=f"{prefix}decisions",
            alerts=f"{prefix}alerts",
            dead_letters=f"{prefix}dead-letters",
            feedback=f"{prefix}feedback",
            checkpoints=f"{prefix}checkpoints",
        )


def wanted(settings: Settings) -> tuple[Topic, ...]:
    """Every topic of the deployment, in the order of the flow.

    `blocks` and `feedback` have one partition: it gives the judge one order to read, and whoever
    owns it is the judge. `checkpoints` has one for each access-log partition and one for the judge,
    so that each reads only its own.
    """
    names = Topics.under(settings.kafka.prefix)
    partitions = settings.measure.partitions
    # A record of 1 MiB is allowed, and its headers and key come on top.
    room = {"max.message.bytes": str(2 << 20)}
    # Compaction works on closed segments: small ones keep the topic near the size of its content.
    small = {
        "segment.bytes": str(64 << 20),
        "segment.ms": "3600000",
        "min.cleanable.dirty.ratio": "0.2",
    }
    return (
        Topic(names.access_logs, partitions, "delete", room),
        Topic(names.blocks, 1, "delete", room),
        Topic(names.decisions, 1, "compact", small),
        Topic(names.alerts, 1, "delete", room),
        Topic(names.dead_letters, 1, "delete", room),
        Topic(
            names.feedback,
            1,
            "delete",
            {"retention.ms": _FOREVER, "retention.bytes": _FOREVER},
        ),
        Topic(names.checkpoints, partitions + 1, "compact", small),
    )


def create(settings: Settings) -> list[str]:
    """Create the topics that are missing.

    Returns:
        The names of those created now.

    Raises:
        TopicMismatch: a topic exists with another partition count or cleanup policy; nothing was
            created then.
        KafkaError: no broker answered.
    """
    admin = KafkaAdminClient(**kafka_python_options(settings.kafka))
    try:
        topics = wanted(settings)
        present = _present(admin, topics)
        _compare(topics, present)
        missing = [topic for topic in topics if topic.name not in present]
        if missing:
            try:
                admin.create_topics(
                    {
                        topic.name: {
                            "num_partitions": topic.partitions,
                            "replication_factor": settings.kafka.replication,
                            "configs": {"cleanup.policy": topic.policy, **topic.config},
                        }
                        for topic in missing
                    },
                    wait_for_metadata=True,
                )
            except TopicAlreadyExistsError:
                # Someone else creates them too; what counts is that they are as they should be.
                _compare(topics, _present(admin, topics))
        return [topic.name for topic in missing]
    finally:
        admin.close()


def check(settings: Settings) -> None:
    """Refuse to run on topics that are not as they should be.

    Raises:
        TopicMismatch: a topic is missing, or has another partition count or cleanup policy.
        KafkaError: no broker answered.
    """
    admin = KafkaAdminClient(**kafka_python_options(settings.kafka))
    try:
        topics = wanted(settings)
        present = _present(admin, topics)
        missing = [topic.name for topic in topics if topic.name not in present]
        if missing:
            raise TopicMismatch(
                f"missing: {', '.join(missing)}; `velvetrope topics create` makes them"
            )
        _compare(topics, present)
    finally:
        admin.close()


def _present(admin: KafkaAdminClient, topics: tuple[Topic, ...]) -> dict[str, tuple[int, str]]:
    """Name → (partitions, cleanup policy) of those that exist."""
    names = [topic.name for topic in topics]
    partitions = {
        topic["name"]: len(topic["partitions"])
        for topic in admin.describe_topics(names)
        if topic["error_code"] == 0
    }
    if not partitions:
        return {}
    described = admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name, ["cleanup.policy"]) for name in partitions],
        config_filter="all",
    )["topic"]
    return {
        name: (count, described[name]["cleanup.policy"]["value"])
        for name, count in partitions.items()
    }


def _compare(topics: tuple[Topic, ...], present: dict[str, tuple[int, str]]) -> None:
    problems = []
    for topic in topics:
        if topic.name not in present:
            continue
        partitions, policy = present[topic.name]
        if partitions != topic.partitions:
            problems.append(f"{topic.name} has {partitions} partitions, not {topic.partitions}")
        if policy != topic.policy:
            problems.append(f"{topic.name} has cleanup.policy {policy}, not {topic.policy}")
    if problems:
        raise TopicMismatch(
            "; ".join(problems) + ". Partition counts are fixed for the life of a deployment: "
            "set measure.partitions to fit, or use another kafka.prefix"
        )
