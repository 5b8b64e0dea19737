"""Accounts to partitions, by the Java client's murmur2, so that every producer agrees."""

from __future__ import annotations

from functools import lru_cache

from kafka.partitioner.default import murmur2

__all__ = ["partition_of"]


@lru_cache(maxsize=1 << 17)
def partition_of(account: str, partitions: int) -> int:
    """The partition of an account, as the Java client's default partitioner picks it."""
    return int(murmur2(account.encode()) & 0x7FFFFFFF) % partitions
