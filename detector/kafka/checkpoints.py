"""Checkpoints on a compacted topic: state in parts that never change, the manifest written last.

Every checkpoint writes keys of its own, `<name>/<epoch>.<number>/…`, so that neither a torn write
nor a woken zombie with an older epoch can harm one that is whole. A part is cut into chunks
that fit a record. The manifest names its parts with their checksums; only with it, and with every
chunk in place, is a checkpoint whole. What is no longer needed gets tombstones afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition

from detector.kafka.connection import consumer, read_to_end
from detector.settings import KafkaSettings

__all__ = ["CHUNK_BYTES", "Checkpoint", "Part", "Plan", "load", "newest_whole", "plan", "write"]

CHUNK_BYTES: Final = 900_000
_VERSION: Final = 1


class Part(msgspec.Struct, frozen=True):
    """Where a part's bytes are: the checkpoint that wrote them, and each chunk's SHA-256."""

    id: str
    kind: str  # "full" or "changes"
    chunks: tuple[bytes, ...]

    def keys(self, name: str) -> list[str]:
        return [f"{name}/{self.id}/{self.kind}/{i}" for i in range(len(self.chunks))]


class _Manifest(msgspec.Struct, frozen=True):
    version: int
    epoch: int
    number: int
    meta: dict[str, Any]
    full: Part
    changes: Part | None


class Checkpoint(msgspec.Struct, frozen=True):
    """A whole checkpoint, as it was read.

    Attributes:
        epoch: of the owner that wrote it; a later owner's is higher.
        number: counts the checkpoints of one epoch.
        meta: what its writer wanted known beside the state: offset, watermark, …
        full: the state, whole.
        changes: what changed since `full`, or None.
        full_part: names the full part, for later checkpoints that only add changes to it.
        keys: every key of this name seen on the topic, whole or not.
    """

    epoch: int
    number: int
    meta: dict[str, Any]
    full: bytes
    changes: bytes | None
    full_part: Part
    keys: frozenset[str]


class Plan(msgspec.Struct, frozen=True):
    """What to write, in this order: parts, then the manifest, then tombstones."""

    parts: dict[str, bytes]
    manifest: tuple[str, bytes]
    tombstones: frozenset[str]
    full_part: Part
    keys: frozenset[str]  # that exist once all is written


_encode: Final = msgspec.msgpack.encode
_decode_manifest: Final = msgspec.msgpack.Decoder(_Manifest).decode


def plan(
    name: str,
    epoch: int,
    number: int,
    meta: Mapping[str, Any],
    *,
    full: bytes | Part,
    changes: bytes | None = None,
    existing: Iterable[str] = (),
    spare: Iterable[str] = (),
) -> Plan:
    """Lay out one checkpoint.

    Args:
        name: whose state: `measure:3`, `judge`.
        epoch, number: together higher than those of every checkpoint of this name before it.
        meta: msgpack-able, small.
        full: the whole state, or the part of an earlier checkpoint that still holds.
        changes: what changed since `full`.
        existing: the keys of this name that the topic holds.
        spare: of these, the ones to keep although this checkpoint does not need them: those of the
            checkpoint before it, to fall back on.
    """
    id_ = f"{epoch:010}.{number:010}"
    parts: dict[str, bytes] = {}
    full_part = full if isinstance(full, Part) else _cut(name, id_, "full", full, parts)
    changes_part = None if changes is None else _cut(name, id_, "changes", changes, parts)
    manifest = _Manifest(_VERSION, epoch, number, dict(meta), full_part, changes_part)
    manifest_key = f"{name}/{id_}/manifest"
    needed = {*parts, manifest_key, *full_part.keys(name)}
    tombstones = frozenset(existing) - needed - set(spare)
    return Plan(
        parts,
        (manifest_key, _encode(manifest)),
        tombstones,
        full_part,
        frozenset((needed | set(existing)) - tombstones),
    )


def newest_whole(name: str, records: Mapping[str, bytes]) -> Checkpoint | None:
    """The newest checkpoint of this name whose manifest and chunks are all there and unharmed.

    Args:
        name: whose state.
        records: key → value of the topic's partition, tombstones already applied.
    """
    mine = {key for key in records if key.startswith(f"{name}/")}
    # Zero-padded, so that text order is the order of (epoch, number).
    for key in sorted((key for key in mine if key.endswith("/manifest")), reverse=True):
        try:
            manifest = _decode_manifest(records[key])
        except msgspec.MsgspecError:
            continue
        if manifest.version != _VERSION:
            continue
        full = _join(name, manifest.full, records)
        changes = None if manifest.changes is None else _join(name, manifest.changes, records)
        if full is None or (changes is None and manifest.changes is not None):
            continue
        return Checkpoint(
            manifest.epoch,
            manifest.number,
            manifest.meta,
            full,
            changes,
            manifest.full,
            frozenset(mine),
        )
    return None


async def load(
    settings: KafkaSettings, topic: str, partition: int, name: str
) -> tuple[Checkpoint | None, frozenset[str]]:
    """Read the partition to its end.

    Returns:
        The newest whole checkpoint, and every key of this name on the topic.
    """
    tp = TopicPartition(topic, partition)
    records: dict[str, bytes] = {}
    reader = consumer(settings)
    await reader.start()
    try:
        reader.assign([tp])
        async for record in read_to_end(reader, tp):
            key = record.key.decode()
            if record.value is None:
                records.pop(key, None)
            else:
                records[key] = record.value
    finally:
        await reader.stop()
    checkpoint = newest_whole(name, records)
    return checkpoint, frozenset(key for key in records if key.startswith(f"{name}/"))


async def write(
    producer: AIOKafkaProducer, topic: str, partition: int, planned: Plan, *, wait: bool = True
) -> None:
    """Write a checkpoint.

    Args:
        wait: until the brokers hold the parts before the manifest is sent, and the manifest before
            the tombstones. Not needed inside a transaction, where nothing counts before the commit.
    """
    steps: tuple[Iterable[tuple[str, bytes | None]], ...] = (
        planned.parts.items(),
        [planned.manifest],
        [(key, None) for key in sorted(planned.tombstones)],
    )
    for records in steps:
        sent = [
            await producer.send(topic, value, key=key.encode(), partition=partition)
            for key, value in records
        ]
        if wait:
            for future in sent:
                await future


def _cut(name: str, id_: str, kind: str, data: bytes, parts: dict[str, bytes]) -> Part:
    view = memoryview(data)
    chunks = [bytes(view[i : i + CHUNK_BYTES]) for i in range(0, len(data), CHUNK_BYTES)] or [b""]
    part = Part(id_, kind, tuple(hashlib.sha256(chunk).digest() for chunk in chunks))
    parts.update(zip(part.keys(name), chunks, strict=True))
    return part


def _join(name: str, part: Part, records: Mapping[str, bytes]) -> bytes | None:
    chunks = []
    for key, digest in zip(part.keys(name), part.chunks, strict=True):
        chunk = records.get(key)
        if chunk is None or hashlib.sha256(chunk).digest() != digest:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
