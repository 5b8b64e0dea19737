"""What the stages say to each other on the `blocks` topic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from detector.blocks import Block

__all__ = ["BlocksRecord", "decode_blocks", "encode_blocks", "split"]

# Well under a broker's usual limit of 1 MiB for a batch.
_RECORD_BYTES: Final = 800_000


class BlocksRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one access-log partition has come to, in the order in which it came to it.

    Attributes:
        partition: of `access-logs`.
        epoch: of the partition's owner; records of an older one are a zombie's.
        watermark: the partition's, after these blocks, Unix seconds.
        blocks: closed since the record before.
        silent: the owner has read to the end and waits: the partition holds no tick back.
        end: the input has ended.
    """

    partition: int
    epoch: int
    watermark: float
    blocks: tuple[Block, ...] = ()
    silent: bool = False
    end: bool = False


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(BlocksRecord)


def encode_blocks(record: BlocksRecord) -> bytes:
    """The record's value: msgpack."""
    return _encoder.encode(record)


def decode_blocks(value: bytes) -> BlocksRecord:
    """The record of a value; raises msgspec.MsgspecError on anything else."""
    return _decoder.decode(value)


def split(record: BlocksRecord, before: float) -> Iterator[bytes]:
    """The record as values that each fit a Kafka record.

    All but the last carry the watermark `before` these blocks: a tick must not be judged while
    blocks of it are still to come.
    """
    value = encode_blocks(record)
    if len(value) <= _RECORD_BYTES or len(record.blocks) < 2:
        yield value
        return
    middle = len(record.blocks) // 2
    yield from split(
        BlocksRecord(record.partition, record.epoch, before, record.blocks[:middle]), before
    )
    yield from split(msgspec.structs.replace(record, blocks=record.blocks[middle:]), before)
