"""deploy/redis.acl on a real Redis: a gateway does all that it has to, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from pydantic import SecretStr

from responders.actions.challenge import Passed
from responders.allowlist import AllowEntry
from responders.gateways.app import create_app
from responders.gateways.caller import key_scope
from responders.settings import ApiSettings, ChallengeSettings, RedisSettings
from responders.stores.base import Identity
from responders.stores.redis import AsyncRedisStore, RedisStore
from tests.real_redis import RedisServer, redis_server
from tests.responders.making import decision

ACL = Path(__file__).parents[2] / "deploy" / "redis.acl"
FOREVER = 4e9
KEYS = """
{"format": 1, "keys": [
  {"id": "2026-11", "secret": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}
]}
"""
PASSWORDS = {"velvetrope-apply": "of-apply", "velvetrope-gateway": "of-gateway"}


def with_passwords(text: str) -> str:
    """As the file's own words say, and with a default user for the test itself."""
    lines = []
    for line in text.splitlines():
        for user, password in PASSWORDS.items():
            if line.startswith(f"user {user} "):
                digest = hashlib.sha256(password.encode()).hexdigest()
                line = line.replace(" +", f" #{digest} +", 1)
        if line == "user default off":
            line = "user default on nopass ~* &* +@all"
        lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    file = tmp_path_factory.mktemp("acl") / "velvetrope.acl"
    file.write_text(with_passwords(ACL.read_text()))
    with redis_server("--aclfile", str(file)) as running:
        yield running


def settings(server: RedisServer, user: str) -> RedisSettings:
    url = f"redis://{user}:{PASSWORDS[user]}@127.0.0.1:{server.port}/0"
    return RedisSettings(url=SecretStr(url))


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        client.acl_log_reset()
        yield client


@pytest.fixture
def gateway(server: RedisServer) -> Iterator[redis.Redis]:
    url = settings(server, "velvetrope-gateway").url.get_secret_value()
    with redis.Redis.from_url(url) as client:
        yield client


def denied(admin: redis.Redis) -> list[str]:
    """What was refused, but the client's name of itself, which is a courtesy."""
    entries = admin.acl_log()
    return [e["object"] for e in entries if not str(e["object"]).startswith("client|setinfo")]


async def test_apply_does_all_that_it_has_to(server: RedisServer, admin: redis.Redis) -> None:
    asynchronous = AsyncRedisStore(settings(server, "velvetrope-apply"))
    await asynchronous.instance()
    await asynchronous.epoch()
    await asynchronous.init_mode("enforce")
    await asynchronous.set_mode("enforce")
    await asynchronous.rebuild([decision(1, expires_at=FOREVER)])
    await asynchronous.apply([decision(2, expires_at=FOREVER), decision(3, mode="shadow")])
    await asynchronous.rebuild([decision(4, expires_at=FOREVER)])
    await asynchronous.allow(AllowEntry(scope="account", value="a"))
    await asynchronous.disallow("account", "a")
    await asynchronous.get("account", "acct-1")
    await asynchronous.set_identity("ab", Identity(account="a"))
    await asynchronous.close()
    people = RedisStore(settings(server, "velvetrope-apply"))
    people.allow(AllowEntry(scope="account", value="a"))
    people.live(0.0)
    people.allowed(0.0)
    people.changes(people.changes().cursor)
    people.close()
    assert denied(admin) == []


async def test_the_gateway_does_all_that_it_has_to(
    server: RedisServer, admin: redis.Redis, tmp_path: Path
) -> None:
    writer = RedisStore(settings(server, "velvetrope-apply"))
    writer.set_mode("enforce")
    writer.allow(AllowEntry(scope="account", value="allowed"))
    key = key_scope(b"a-key")
    assert key is not None
    writer.set_identity(key, Identity(account="acct-1"))
    writer.rebuild(
        [
            decision(1, expires_at=FOREVER),
            decision(2, value="allowed", action="block", expires_at=FOREVER),
            decision(3, value="challenged", action="challenge", params={}, expires_at=FOREVER),
            decision(4, value="shadowed", mode="shadow", expires_at=FOREVER),
        ]
    )
    keys = tmp_path / "keys.json"
    keys.write_text(KEYS)
    own = settings(server, "velvetrope-gateway")
    store = RedisStore(own)
    challenge = ChallengeSettings(keys=keys, tries=1)
    app = create_app(store, ApiSettings(refresh_s=1e-9, challenge=challenge))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://v") as api:

        async def status(path: str = "/authorize/forward", **fields: str) -> int:
            headers = {name.replace("_", "-"): value for name, value in fields.items()}
            return (await api.get(path, headers=headers)).status_code

        assert [await status(Authorization="Bearer a-key") for _ in "1234"] == [200] * 3 + [429]
        assert await status(X_Account="allowed") == 200
        assert await status(X_Account="shadowed") == 200
        assert await status(X_Account="challenged") == 401
        assert await status("/challenge", X_Account="challenged") == 200
        feed = await api.get("/v1/decisions")
        since = {"since": feed.json()["cursor"]}
        assert (await api.get("/v1/decisions", params=since)).status_code == 200
        assert await status("/v1/identities") == 200
        assert await status("/readyz") == 200
    assert await _passes(store)
    store.close()
    writer.close()
    assert denied(admin) == []
    assert admin.exists("velvetrope:limit:account:acct-1") == 1


async def _passes(store: RedisStore) -> bool:
    passed = Passed(decision="d-3", difficulty=1, how="proof", until=FOREVER)
    first = store.pass_challenge("challenged", passed, "an-answer", 60.0)
    return first and store.passed("challenged") is not None


OTHERS = [
    "decision:account:acct-1",
    "shadow:account:acct-1",
    "mode",
    "epoch",
    "policy",
    "allow:account:acct-1",
    "identity:ab",
    "revision:allowed",
    "decisions",
]
WRITES = [
    ("SET", "{}", "x"),
    ("DEL", "{}"),
    ("UNLINK", "{}"),
    ("EXPIRE", "{}", "1"),
    ("APPEND", "{}", "x"),
    ("GETDEL", "{}"),
    ("INCR", "{}"),
    ("XADD", "{}", "*", "decision", "x"),
    ("XTRIM", "{}", "MAXLEN", "0"),
    ("RENAME", "velvetrope:limit:a", "{}"),
    ("COPY", "velvetrope:limit:a", "{}", "REPLACE"),
    ("RESTORE", "{}", "0", "x"),
    ("EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", "{}"),
    ("EVAL", "return redis.call('SET', ARGV[1], 'x')", "0", "{}"),
    ("EVAL", "return redis.call('DEL', ARGV[1])", "0", "{}"),
]


@pytest.mark.parametrize("write", WRITES, ids=lambda w: " ".join(w[:2])[:40])
@pytest.mark.parametrize("key", OTHERS)
def test_the_gateway_writes_no_key_but_its_own(
    admin: redis.Redis, gateway: redis.Redis, key: str, write: tuple[str, ...]
) -> None:
    name = f"velvetrope:{key}"
    admin.set("velvetrope:limit:a", "1 1")
    if key != "decisions":
        admin.set(name, "before")
    before = admin.dump(name)
    with pytest.raises(redis.ResponseError, match=r"(?i)permission|NOPERM|can't access"):
        gateway.execute_command(*(part.replace("{}", name) for part in write))
    assert admin.dump(name) == before


@pytest.mark.parametrize("key", ["limit:account:a", "challenge:passed:a", "challenge:answer:b"])
def test_the_gateway_writes_its_own_keys(gateway: redis.Redis, key: str) -> None:
    name = f"velvetrope:{key}"
    assert gateway.set(name, "1", px=1000)
    assert gateway.get(name) == b"1"
    assert gateway.eval("return redis.call('DEL', KEYS[1])", 1, name) == 1


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL",
        "FLUSHDB",
        "SWAPDB 0 1",
        "KEYS *",
        "RANDOMKEY",
        "CONFIG GET requirepass",
        "CONFIG SET dir /tmp",
        "ACL LIST",
        "ACL SETUSER velvetrope-gateway +@all",
        "SHUTDOWN NOSAVE",
        "SAVE",
        "REPLICAOF NO ONE",
        "MONITOR",
        "CLIENT LIST",
        "CLIENT KILL ID 1",
        "SCRIPT FLUSH",
        "FUNCTION LIST",
        "MODULE LIST",
        "PUBLISH velvetrope:x y",
        "SUBSCRIBE velvetrope:x",
        "INFO server",
        "GET another:key",
        "SET another:key x",
        "GET velvetrope:shadow:account:a",
        "OBJECT ENCODING velvetrope:mode",
    ],
)
def test_the_gateway_can_do_nothing_else(gateway: redis.Redis, command: str) -> None:
    with pytest.raises(redis.ResponseError, match=r"(?i)permission|NOPERM"):
        gateway.execute_command(*command.split())


def test_nobody_can_log_in_with_the_file_as_it_is(tmp_path: Path) -> None:
    default, *users = ACL.read_text().splitlines()
    assert default == "user default off"
    file = tmp_path / "velvetrope.acl"
    file.write_text("\n".join(["user default on nopass ~* &* +@all", *users]) + "\n")
    with redis_server("--aclfile", str(file)) as server:
        for user in PASSWORDS:
            url = f"redis://{user}:guess@127.0.0.1:{server.port}/0"
            with (
                redis.Redis.from_url(url) as client,
                pytest.raises(redis.AuthenticationError),
            ):
                client.ping()
