"""What only the Redis stores do: the keys of the contract, expiry, an absent server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from responders.allowlist import AllowEntry
from responders.settings import RedisSettings
from responders.stores.base import CursorTooOld, Identity, StoreUnavailable
from responders.stores.redis import AsyncRedisStore, RedisStore
from tests.real_redis import RedisServer, free_port, redis_server
from tests.responders.making import NOW, decision


@pytest.fixture
def prefix() -> str:
    return f"{uuid.uuid4().hex}:"


@pytest.fixture
def settings(redis_running: RedisServer, prefix: str) -> RedisSettings:
    return RedisSettings(url=redis_running.url, prefix=prefix)


@pytest.fixture
def store(settings: RedisSettings) -> Iterator[RedisStore]:
    store = RedisStore(settings, clock=lambda: NOW)
    yield store
    store.close()


@pytest.fixture
def raw(redis_running: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_running.url, decode_responses=True) as client:
        yield client


def keys(raw: redis.Redis, prefix: str) -> set[str]:
    return {key.removeprefix(prefix) for key in raw.scan_iter(f"{prefix}*")}


def test_the_keys_are_those_of_the_contract(
    store: RedisStore, raw: redis.Redis, prefix: str
) -> None:
    store.apply(
        [
            decision(1, value="throttled"),
            decision(2, value="shadowed", mode="shadow", action="block"),
            decision(3, value="observed", action="observe"),
            decision(4, scope="api_key", value="sha256:ab", action="clear", level=0),
        ]
    )
    store.set_mode("enforce")
    store.allow(AllowEntry(scope="cidr", value="10.0.0.0/8", reason="ours"))
    store.set_identity("sha256:ab", Identity(account="a", org="o", plan="p"))
    store.rebuild(store.live(NOW))
    assert keys(raw, prefix) == {
        "decision:account:throttled",
        "shadow:account:shadowed",
        "shadow:account:observed",
        "decisions",
        "epoch",
        "mode",
        "allow:cidr:10.0.0.0/8",
        "identity:ab",
        "revision:allowed",
        "revision:identities",
    }
    assert raw.get(f"{prefix}mode") == "enforce"
    assert raw.type(f"{prefix}decisions") == "stream"
    assert json.loads(raw.get(f"{prefix}identity:ab") or "") == {
        "account": "a",
        "org": "o",
        "plan": "p",
    }


def test_a_decision_is_whole_but_for_its_evidence(
    store: RedisStore, raw: redis.Redis, prefix: str
) -> None:
    store.apply([decision()])
    kept = json.loads(raw.get(f"{prefix}decision:account:acct-1") or "")
    assert "evidence" not in kept
    assert set(kept) == {
        *("schema", "id", "version", "scope", "value", "action", "level", "mode", "params"),
        *("applies_to", "reason", "campaign", "n_events", "issued_at", "expires_at"),
        *("scorer", "baseline"),
    }
    ((_, fields),) = raw.xrange(f"{prefix}decisions")
    assert json.loads(fields["decision"]) == kept


def test_a_decision_that_had_ended_before_it_came_is_nothing_to_enforce(
    store: RedisStore, raw: redis.Redis, prefix: str
) -> None:
    store.apply([decision(3, action="block", expires_at=NOW - 5)])
    kept = json.loads(raw.get(f"{prefix}decision:account:acct-1") or "")
    assert (kept["action"], kept["version"]) == ("clear", 3)
    ((_, fields),) = raw.xrange(f"{prefix}decisions")
    assert json.loads(fields["decision"]) == kept


def test_keys_expire_with_their_decision_a_clear_a_day_after(
    store: RedisStore, raw: redis.Redis, prefix: str
) -> None:
    store.apply(
        [
            decision(1, value="live"),
            decision(2, value="cleared", action="clear", level=0),
            decision(3, value="past", expires_at=NOW - 5),
        ]
    )
    left = {
        name: raw.pttl(f"{prefix}decision:account:{name}") / 1000
        for name in ("live", "cleared", "past")
    }
    assert left == pytest.approx({"live": 3600, "cleared": 3600 + 86_400, "past": 86_400}, abs=10)


def test_an_allowlist_entry_expires(store: RedisStore, raw: redis.Redis, prefix: str) -> None:
    store.allow(AllowEntry(scope="account", value="a", expires_at=NOW + 60))
    assert 0 < raw.pttl(f"{prefix}allow:account:a") <= 60_000
    store.allow(AllowEntry(scope="account", value="a", expires_at=NOW - 1))
    assert keys(raw, prefix) == {"revision:allowed"}


def test_the_stream_is_capped(redis_running: RedisServer, raw: redis.Redis, prefix: str) -> None:
    capped = RedisSettings(url=redis_running.url, prefix=prefix, changes_kept=100)
    store = RedisStore(capped, clock=lambda: NOW)
    store.apply([decision(v, value=f"a{v}") for v in range(1, 2001)])
    assert 100 <= raw.xlen(f"{prefix}decisions") <= 300  # trimmed by whole nodes
    store.close()


def test_what_is_no_decision_is_passed_over_and_overwritten(
    store: RedisStore, raw: redis.Redis, prefix: str
) -> None:
    for i, junk in enumerate(["", "{", "[1]", "{}", '{"version":"x"}']):
        raw.set(f"{prefix}decision:account:junk{i}", junk)
    assert store.changes().decisions == []
    assert store.apply([decision(i + 1, value=f"junk{i}") for i in range(5)]) == [True] * 5


def test_an_unknown_mode_enforces_nothing(store: RedisStore, raw: redis.Redis, prefix: str) -> None:
    raw.set(f"{prefix}mode", "full steam")
    assert store.mode() == "shadow"


def test_of_many_writers_the_highest_version_wins(settings: RedisSettings) -> None:
    def write(first: int) -> int:
        store = RedisStore(settings, clock=lambda: NOW)
        written = [store.apply([decision(v)]) for v in range(first, 200, 4)]
        store.close()
        return sum(done for (done,) in written)

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(write, [1, 2, 3, 4]))
    last = RedisStore(settings, clock=lambda: NOW)
    kept = last.get("account", "acct-1")
    assert kept is not None
    assert kept.version == 199
    assert len(last.changes("0.0-0").decisions) == sum(counts)
    last.close()


async def test_the_store_for_asyncio_writes_what_the_other_reads(
    store: RedisStore, settings: RedisSettings
) -> None:
    writer = AsyncRedisStore(settings, clock=lambda: NOW)
    assert await writer.apply([decision(1), decision(2, value="b")]) == [True, True]
    assert await writer.apply([decision(1)]) == [False]
    assert await writer.get("account", "acct-1") == store.get("account", "acct-1")
    assert await writer.init_mode("enforce") == "enforce"
    await writer.set_mode("off")
    assert (await writer.mode(), store.mode()) == ("off", "off")
    await writer.set_policy(b"{}")
    assert store.policy() == b"{}"
    await writer.allow(AllowEntry(scope="account", value="a"))
    assert store.allows({"account": "a"}, NOW) is not None
    assert await writer.disallow("account", "a") is True
    await writer.set_identity("ab", Identity(account="a"))
    assert store.identity("ab") == Identity(account="a")
    cursor = store.changes().cursor
    await writer.rebuild([decision(1, value="c")])
    assert [d.value for d in store.live(NOW)] == ["c"]
    assert store.changes().cursor.split(".")[0] != cursor.split(".")[0]
    await writer.close()


async def test_an_absent_server_is_unavailable() -> None:
    settings = RedisSettings(url=f"redis://127.0.0.1:{free_port()}/0")
    store, writer = RedisStore(settings), AsyncRedisStore(settings)
    with pytest.raises(StoreUnavailable, match="redis"):
        store.apply([decision()])
    with pytest.raises(StoreUnavailable, match="redis"):
        await writer.apply([decision()])
    store.close()
    await writer.close()


async def test_a_server_that_went_and_came_back_is_used_again() -> None:
    with redis_server() as server:
        settings = RedisSettings(url=server.url)
        store, writer = RedisStore(settings), AsyncRedisStore(settings)
        fresh = decision(1, expires_at=4e9)
        assert store.apply([fresh]) == [True]
        assert await writer.apply([fresh]) == [False]
        server.stop()
        with pytest.raises(StoreUnavailable):
            store.apply([fresh])
        with pytest.raises(StoreUnavailable):
            await writer.apply([fresh])
        server.start()
        assert store.apply([fresh]) == [True]
        assert await writer.apply([fresh]) == [False]
        store.close()
        await writer.close()


def test_an_emptied_redis_says_nothing_until_it_is_filled_again(
    store: RedisStore, raw: redis.Redis, prefix: str
) -> None:
    store.set_mode("enforce")
    store.rebuild([decision(1)])
    before = store.changes().cursor
    raw.delete(*raw.scan_iter(f"{prefix}*"))
    for ask in (
        store.mode,
        store.changes,
        lambda: store.changes(before),
        lambda: store.allows({"account": "acct-1"}, NOW),
        lambda: store.identity("ab"),
    ):
        with pytest.raises(StoreUnavailable, match="emptied"):
            ask()
    store.set_mode("enforce")
    store.rebuild([decision(1)])
    assert store.mode() == "enforce"
    with pytest.raises(CursorTooOld):
        store.changes(before)
    assert [d.value for d in store.changes().decisions] == ["acct-1"]


async def test_a_server_that_was_started_again_is_another_one() -> None:
    with redis_server() as server:
        store = AsyncRedisStore(RedisSettings(url=server.url))
        first = await store.instance()
        assert first == await store.instance() != ""
        server.stop()
        server.start()
        assert await store.instance() not in (first, "")
        await store.close()


def test_an_identity_that_another_program_wrote_wrongly_hides_no_other(
    store: RedisStore, raw: redis.Redis, prefix: str
) -> None:
    store.set_identity("aa", Identity(account="acct-1"))
    raw.set(f"{prefix}identity:bb", "{not JSON")
    assert store.identities() == {"aa": Identity(account="acct-1")}
