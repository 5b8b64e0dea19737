"""Partitions: the same as every Kafka client that follows the Java one's murmur2."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.partition import partition_of

# murmur2 of Apache Kafka's own org.apache.kafka.common.utils.UtilsTest, as signed 32 bits.
_JAVA_HASHES = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}
# Partitions of 1,000 that the Java producer's partitioner gave, from kafka-python's own tests.
_JAVA_PARTITIONS = {"": 681, "a": 524, "ab": 434, "abc": 107, "123456789": 566, "\x00 ": 742}


@pytest.mark.parametrize(("account", "murmur2"), _JAVA_HASHES.items())
@pytest.mark.parametrize("partitions", [1, 8, 1000, 1024])
def test_partitions_are_those_of_javas_murmur2(account: str, murmur2: int, partitions: int) -> None:
    assert partition_of(account, partitions) == (murmur2 & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize(("account", "partition"), _JAVA_PARTITIONS.items())
def test_partitions_are_those_of_the_java_producer(account: str, partition: int) -> None:
    assert partition_of(account, 1000) == partition


@given(st.text(), st.integers(1, 1024))
def test_every_account_has_a_partition(account: str, partitions: int) -> None:
    assert 0 <= partition_of(account, partitions) < partitions


def test_accounts_spread_over_the_partitions() -> None:
    # 8,000 accounts over 8: 1,000 each, with a standard deviation of 30.
    counts = Counter(partition_of(f"acct-{i}", 8) for i in range(8000))
    assert sorted(counts) == list(range(8))
    assert all(850 < count < 1150 for count in counts.values())
