"""Checkpoints on a compacted topic: state in parts that never change, the manifest written last.

Every checkpoint writes keys of its own, `<name>/<epoch>.<number>/…`, so that neither a torn write
nor a woken zombie with an older epoch can harm one that is whole. A part is cut into chunks
that fit a record. The manifest names its parts with their checksums; only with it, and with every
chunk in place, is a checkpoint whole. What is no longer needed gets tombstones afterwards.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition

from detector.kafka.connection import consumer, read_to_end
from detector.settings import KafkaSettings

__all__ = [
    "CHUNK_BYTES",
    "Checkpoint",
    "Found",
    "Part",
    "Plan",
    "Writer",
    "due",
    "load",
    "newest_whole",
    "plan",
]

CHUNK_BYTES: Final = 900_000
_VERSION: Final = 1
# Changes are written until they are half as large as the state; then the state is, whole.
_CHANGES_SHARE: Final = 0.5
# Laying out checkpoints takes at most this share of the time.
_TIME_SHARE: Final = 0.05


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


def due(since_s: float, every_s: float, took_s: float) -> bool:
    """Whether it is time for another checkpoint, `since_s` after the last.

    Args:
        every_s: the interval wanted.
        took_s: what laying out the process's checkpoints takes, all other work waiting; a large
            state is written less often.
    """
    return since_s >= max(every_s, took_s / _TIME_SHARE)


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


class Found(msgspec.Struct, frozen=True):
    """What a partition of the topic holds.

    Attributes:
        checkpoint: the newest whole one of the name asked for.
        keys: all keys of that name, of whole checkpoints and of torn ones.
        others: key → value of everything else on the partition.
    """

    checkpoint: Checkpoint | None
    keys: frozenset[str]
    others: dict[str, bytes]


async def load(settings: KafkaSettings, topic: str, partition: int, name: str) -> Found:
    """Read the partition to its end."""
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
    mine = frozenset(key for key in records if key.startswith(f"{name}/"))
    others = {key: value for key, value in records.items() if key not in mine}
    return Found(newest_whole(name, records), mine, others)


class Exports(Protocol):
    """State that can be written whole, or as what changed since it last was."""

    def export(self) -> bytes: ...

    def export_changes(self) -> bytes: ...


class Writer:
    """Writes the checkpoints of one owner of one name: whole at first, then what changed.

    Attributes:
        epoch: the owner's.
        took_s: how long the last `plan` took, all other work waiting.
    """

    def __init__(self, topic: str, partition: int, name: str, epoch: int, found: Found) -> None:
        self.epoch = epoch
        self.took_s = 0.0
        self._topic = topic
        self._partition = partition
        self._name = name
        self._number = 0
        self._full: Part | None = None
        self._full_size = 0
        self._keys = found.keys
        self._spare = found.keys

    def plan(self, state: Exports, meta: Mapping[str, Any]) -> Plan:
        """Export this moment's state, and lay out its checkpoint."""
        started = time.monotonic()
        full: bytes | Part
        changes: bytes | None = None
        if self._full is not None:
            full, changes = self._full, state.export_changes()
        if changes is None or len(changes) > _CHANGES_SHARE * self._full_size:
            full, changes = state.export(), None
            self._full_size = len(full)
        planned = plan(
            self._name,
            self.epoch,
            self._number + 1,
            meta,
            full=full,
            changes=changes,
            existing=self._keys,
            spare=self._spare,
        )
        self.took_s = time.monotonic() - started
        return planned

    async def write(self, producer: AIOKafkaProducer, planned: Plan, *, wait: bool = True) -> None:
        """Send it.

        Args:
            wait: until the brokers hold the parts before the manifest is sent, and the manifest
                before the tombstones. Not needed inside a transaction: nothing of it counts before
                its commit. If that fails, this writer must not be used again.
        """
        steps: tuple[Iterable[tuple[str, bytes | None]], ...] = (
            planned.parts.items(),
            [planned.manifest],
            [(key, None) for key in sorted(planned.tombstones)],
        )
        for records in steps:
            sent = [
                await producer.send(self._topic, value, key=key.encode(), partition=self._partition)
                for key, value in records
            ]
            if wait:
                for future in sent:
                    await future
        self._number += 1
        self._full = planned.full_part
        self._spare = frozenset(
            {*planned.parts, planned.manifest[0], *planned.full_part.keys(self._name)}
        )
        self._keys = planned.keys


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
