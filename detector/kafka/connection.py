"""How every client reaches the brokers: one set of settings, three clients' spellings of it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import faust
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from detector.settings import KafkaSettings

__all__ = [
    "aiokafka_options",
    "broker_urls",
    "consumer",
    "faust_credentials",
    "kafka_python_options",
    "producer",
    "read_to_end",
    "wait_for_broker",
]

log: Final = logging.getLogger(__name__)

_FIRST_BACKOFF_S: Final = 0.2
_LONGEST_BACKOFF_S: Final = 5.0


def kafka_python_options(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments for kafka-python's clients."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap.split(","),
        "security_protocol": settings.security_protocol,
    }
    if settings.ssl_cafile is not None:
        options["ssl_cafile"] = str(settings.ssl_cafile)
    if settings.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = _secret(settings)
    return options


def aiokafka_options(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments for aiokafka's clients."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap.split(","),
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    if settings.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = _secret(settings)
    return options


def faust_credentials(settings: KafkaSettings) -> Any:
    """What Faust calls `broker_credentials`, or None for a plain connection."""
    context = _ssl_context(settings) if settings.security_protocol.endswith("SSL") else None
    if settings.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=_secret(settings),
            ssl_context=context,
            mechanism=settings.sasl_mechanism,
        )
    return faust.SSLCredentials(context) if context is not None else None


def producer(settings: KafkaSettings, *, transactional_id: str | None = None) -> AIOKafkaProducer:
    """A producer that loses, repeats and reorders nothing within its life.

    Idempotence also means that aiokafka retries a batch for as long as the broker is away.
    """
    return AIOKafkaProducer(
        **aiokafka_options(settings),
        acks="all",
        enable_idempotence=True,
        compression_type="zstd",
        max_request_size=1 << 20,
        max_batch_size=1 << 18,
        linger_ms=0,
        transactional_id=transactional_id,
    )


def consumer(settings: KafkaSettings, *topics: str, **options: Any) -> AIOKafkaConsumer:
    """A consumer of whole records from the start, that commits nothing by itself."""
    return AIOKafkaConsumer(
        *topics,
        **aiokafka_options(settings),
        **{
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "isolation_level": "read_committed",
            "fetch_max_wait_ms": 500,
            **options,
        },
    )


async def wait_for_broker(settings: KafkaSettings) -> None:
    """Return once a broker answers; until then retry, and say so once."""
    backoff = _FIRST_BACKOFF_S
    said = False
    while True:
        admin = AIOKafkaAdminClient(**aiokafka_options(settings), request_timeout_ms=5_000)
        try:
            await admin.start()
        except (KafkaError, OSError) as error:
            if not said:
                log.warning("no broker at %s (%s); trying on", settings.bootstrap, error)
                said = True
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF_S)
        else:
            if said:
                log.warning("broker at %s answers", settings.bootstrap)
            return
        finally:
            await admin.close()


def broker_urls(settings: KafkaSettings, scheme: str) -> Sequence[str]:
    """The brokers as Faust wants them, each with the transport's scheme."""
    return [f"{scheme}://{address.strip()}" for address in settings.bootstrap.split(",")]


async def read_to_end(
    reader: AIOKafkaConsumer, partition: TopicPartition, *, start: int | None = None
) -> AsyncIterator[ConsumerRecord]:
    """Records of an assigned partition, from `start` (None: its first) to where it ends now."""
    if start is None:
        await reader.seek_to_beginning(partition)
    else:
        reader.seek(partition, start)
    end = (await reader.end_offsets([partition]))[partition]
    # The position passes transaction markers and compacted holes, which the last record does not.
    while await reader.position(partition) < end:
        for record in (await reader.getmany(partition, timeout_ms=200)).get(partition, ()):
            yield record


def _secret(settings: KafkaSettings) -> str:
    return settings.sasl_password.get_secret_value() if settings.sasl_password else ""


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=settings.ssl_cafile)
