from __future__ import annotations

import pytest

from detector.kafka.checkpoints import CHUNK_BYTES, Plan, newest_whole, plan

NAME = "measure:3"


def written(
    topic: dict[str, bytes], planned: Plan, *, steps: int | None = None
) -> dict[str, bytes]:
    """The topic after the first `steps` records of a checkpoint (None: all) were written."""
    records: list[tuple[str, bytes | None]] = [
        *planned.parts.items(),
        planned.manifest,
        *((key, None) for key in planned.tombstones),
    ]
    after = dict(topic)
    for key, value in records[:steps]:
        if value is None:
            after.pop(key, None)
        else:
            after[key] = value
    return after


def first() -> Plan:
    return plan(NAME, 1, 1, {"offset": 10}, full=b"a" * (CHUNK_BYTES + 1))


def test_a_checkpoint_comes_back_as_it_was() -> None:
    topic = written({}, plan(NAME, 1, 1, {"offset": 10}, full=b"full", changes=b"more"))
    checkpoint = newest_whole(NAME, topic)
    assert checkpoint is not None
    assert (checkpoint.full, checkpoint.changes, checkpoint.meta) == (
        b"full",
        b"more",
        {"offset": 10},
    )


def test_a_large_state_is_cut_into_chunks_and_joined_again() -> None:
    planned = first()
    assert [len(chunk) for chunk in planned.parts.values()] == [CHUNK_BYTES, 1]
    checkpoint = newest_whole(NAME, written({}, planned))
    assert checkpoint is not None
    assert len(checkpoint.full) == CHUNK_BYTES + 1


def test_an_empty_state_is_a_state() -> None:
    checkpoint = newest_whole(NAME, written({}, plan(NAME, 1, 1, {}, full=b"")))
    assert checkpoint is not None
    assert checkpoint.full == b""


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_one_torn_before_its_manifest_leaves_the_one_before(steps: int) -> None:
    before = first()
    topic = written({}, before)
    torn = plan(NAME, 1, 2, {"offset": 20}, full=b"b" * (CHUNK_BYTES + 1), existing=before.keys)
    checkpoint = newest_whole(NAME, written(topic, torn, steps=steps))
    assert checkpoint is not None
    assert checkpoint.meta == {"offset": 10}


def test_changes_refer_to_the_full_part_of_an_earlier_checkpoint() -> None:
    before = first()
    topic = written({}, before)
    later = plan(
        NAME, 1, 2, {"offset": 20}, full=before.full_part, changes=b"more", existing=before.keys
    )
    checkpoint = newest_whole(NAME, written(topic, later))
    assert checkpoint is not None
    assert checkpoint.full == b"a" * (CHUNK_BYTES + 1)
    assert checkpoint.changes == b"more"
    assert checkpoint.meta == {"offset": 20}


def test_a_damaged_chunk_falls_back_to_the_checkpoint_before() -> None:
    before = first()
    topic = written({}, before)
    later = plan(NAME, 1, 2, {"offset": 20}, full=b"b", existing=before.keys, spare=before.keys)
    topic = written(topic, later)
    (chunk,) = later.parts
    topic[chunk] = b"x"
    checkpoint = newest_whole(NAME, topic)
    assert checkpoint is not None
    assert checkpoint.meta == {"offset": 10}


def test_a_damaged_manifest_falls_back_to_the_checkpoint_before() -> None:
    before = first()
    later = plan(NAME, 1, 2, {"offset": 20}, full=b"b", existing=before.keys, spare=before.keys)
    topic = written(written({}, before), later)
    topic[later.manifest[0]] = b"\xc1"
    checkpoint = newest_whole(NAME, topic)
    assert checkpoint is not None
    assert checkpoint.meta == {"offset": 10}


def test_nothing_whole_is_nothing() -> None:
    topic = written({}, first())
    topic.pop(next(iter(first().parts)))
    assert newest_whole(NAME, topic) is None


def test_a_later_epoch_wins_over_what_a_woken_zombie_writes() -> None:
    before = first()
    owner = plan(NAME, 2, 1, {"offset": 30}, full=b"owner", existing=before.keys)
    topic = written(written({}, before), owner)
    zombie = plan(NAME, 1, 9, {"offset": 15}, full=b"zombie", existing=before.keys)
    checkpoint = newest_whole(NAME, written(topic, zombie))
    assert checkpoint is not None
    assert checkpoint.full == b"owner"


def test_what_is_no_longer_needed_is_removed_and_the_spare_stays() -> None:
    oldest = first()
    middle = plan(NAME, 1, 2, {}, full=b"m", existing=oldest.keys, spare=oldest.keys)
    newest = plan(NAME, 1, 3, {}, full=b"n", existing=middle.keys, spare=middle.keys - oldest.keys)
    topic = written(written(written({}, oldest), middle), newest)
    assert set(topic) == newest.keys
    assert not set(topic) & set(oldest.parts)
    assert set(middle.parts) < set(topic)


def test_other_names_on_the_partition_are_left_alone() -> None:
    other = plan("judge", 9, 9, {}, full=b"judge")
    topic = written(written({}, first()), other)
    checkpoint = newest_whole(NAME, topic)
    assert checkpoint is not None
    assert not any(key.startswith("judge/") for key in checkpoint.keys)
