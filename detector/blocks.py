"""The block: 32 served events of one (account, population), as measure hands it to judge."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["BLOCK_EVENTS", "FIRST_BLOCK_REVISIONS", "SKETCH_DIMS", "Block", "Identity"]

BLOCK_EVENTS: Final = 32
# The first block of an account is given out at 8, 16 and 32 events, as revisions 0, 1, 2.
FIRST_BLOCK_REVISIONS: Final = (8, 16, 32)
SKETCH_DIMS: Final = 128


class Identity(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Whom the last event of the block says it is from."""

    api_key: str | None = None
    org: str | None = None
    plan: str | None = None
    ip: str | None = None
    user_agent: str | None = None
    ja4: str | None = None
    endpoint: str | None = None
    model: str | None = None
    links: dict[str, str] = {}


class Block(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One block. `seq` counts the blocks of its partition, so that a repeat is known as one."""

    partition: int
    seq: int
    time: float  # the partition's watermark when the block closed, Unix seconds
    account: str
    population: str
    kind: str  # "text", "vector" or "metadata" (no inputs in the log)
    index: int  # 0, 1, 2, … within (account, population)
    revision: int  # 0, 1, 2 for index 0; 2 otherwise. Each replaces the one before
    n: int  # events in the block, 1 to 32
    events: int  # served events of (account, population) so far, this block's included
    refused: int  # refused requests of the account so far
    first_ts: float  # smallest and largest `ts` in the block
    last_ts: float
    features: bytes  # float32 (F,), in the order of features.NAMES
    sketch: bytes  # int8 (128,): mean sketch of the block, scaled to a norm of 127
    minhash: bytes  # uint32 (16,)
    # Most common 40-byte heads: (hash, events with it, distinct texts with it), at most 4.
    heads: tuple[tuple[int, int, int], ...]
    identity: Identity
    dims: int = 0  # vectors only: columns of `vectors`
    vectors: bytes = b""  # float32 (n, dims)
    labels: tuple[str, ...] = ()  # model's label per event, "" where it is not logged
    confidences: bytes = b""  # float32 (n,), NaN where it is not logged

    @property
    def id(self) -> tuple[str, str, int, int]:
        """Names the block: the same events give the same id on every run."""
        return (self.account, self.population, self.index, self.revision)
