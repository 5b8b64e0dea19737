"""deploy/nginx-lua on the real nginx and a real Redis: no verdict service is in the path."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from responders.actions import problem
from responders.allowlist import AllowEntry
from responders.decisions import AppliesTo
from responders.gateways.caller import key_scope
from responders.limits import StaticLimit, StaticPolicy
from responders.settings import RedisSettings
from responders.stores.base import Identity
from responders.stores.redis import RedisStore
from tests.deploy.battery import Door, Person
from tests.deploy.gateway import CHAT, Gateway, Model, served
from tests.deploy.lua_gateway import DEPLOY, lua_gateway
from tests.real_nginx import free_port
from tests.real_redis import RedisServer, redis_server
from tests.responders.making import decision

FOREVER = 4e9


@dataclass
class Gate:
    """A gateway with two customers, ada and bea, whose keys velvetrope knows."""

    gateway: Gateway
    store: RedisStore
    version: int = 0

    def decide(self, **changes: Any) -> None:
        """An enforced block of acct-ada, unless told otherwise."""
        self.version += 1
        fields: dict[str, Any] = {
            "value": "acct-ada",
            "action": "block",
            "params": {},
            "expires_at": FOREVER,
        }
        self.store.apply([decision(self.version, **(fields | changes))])

    def post(self, key: str = "key-of-ada", **headers: str) -> httpx.Response:
        return self.gateway.post(key, **headers)

    def until(self, status: int, key: str = "key-of-ada", within_s: float = 1.0) -> httpx.Response:
        """Ask until this is the answer, a second at most."""
        wait_for(lambda: self.post(key).status_code == status, f"never {status}", within_s)
        return self.post(key)


def wait_for(true: Callable[[], bool], otherwise: str, within_s: float = 1.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def model_port(model: Model) -> Iterator[int]:
    with served(model.handler()) as port:
        yield port


def stocked(store: RedisStore) -> RedisStore:
    store.set_mode("enforce")
    for name in ("ada", "bea"):
        key = key_scope(f"Bearer key-of-{name}".encode())
        assert key is not None
        store.set_identity(key, Identity(account=f"acct-{name}", org="org 1/ü"))
    return store


@pytest.fixture
def store(redis_running: RedisServer) -> Iterator[RedisStore]:
    store = RedisStore(RedisSettings(url=redis_running.url, prefix=f"{uuid.uuid4().hex}:"))
    yield stocked(store)
    store.close()


@pytest.fixture
def gate(store: RedisStore, redis_running: RedisServer, model_port: int) -> Iterator[Gate]:
    prefix = store.settings.prefix
    with lua_gateway(redis_running.url, model_port, prefix=prefix, by_address=True) as gateway:
        yield Gate(gateway, store)


def test_its_gcra_is_the_one_that_every_gateway_runs() -> None:
    ours = (DEPLOY / "velvetrope" / "gcra.lua").read_text()
    theirs = DEPLOY.parents[1] / "responders" / "actions" / "gcra.lua"
    assert ours == theirs.read_text()


def test_a_customer_is_allowed_and_named_to_the_model(gate: Gate) -> None:
    seen = gate.post().json()
    assert seen["x-velvetrope-action"] == "allow"
    assert seen["x-velvetrope-account"] == "acct-ada"
    assert seen["x-velvetrope-level"] == "0"
    nobody = gate.post("key-of-nobody").json()["x-velvetrope-account"]
    assert nobody == key_scope(b"Bearer key-of-nobody")


def test_a_blocked_account_gets_403_within_a_second(gate: Gate) -> None:
    gate.post()
    gate.decide()
    refused = gate.until(403)
    assert refused.json() == problem.block(403).document
    assert refused.headers["content-type"] == "application/problem+json"
    assert gate.post("key-of-bea").status_code == 200


def test_an_address_is_the_same_on_a_socket_for_both_kinds(
    store: RedisStore, redis_running: RedisServer, model_port: int
) -> None:
    blocks = {"action": "block", "params": {}, "expires_at": FOREVER}
    store.apply([decision(scope="ip", value="127.0.0.1", **blocks)])
    port = free_port()
    listens = {"server {": f"server {{ listen [::ffff:127.0.0.1]:{port} ipv6only=off;"}
    prefix = store.settings.prefix
    with lua_gateway(
        redis_running.url, model_port, prefix=prefix, by_address=True, replace=listens
    ) as gateway:
        assert gateway.post("key-of-ada").status_code == 403
        assert httpx.get(f"http://127.0.0.1:{port}/v1/chat").status_code == 403


def throttled(**params: Any) -> dict[str, Any]:
    return {"action": "throttle", "params": {"bucket": "account:acct-ada", **params}}


def test_a_throttled_account_gets_its_burst_then_429(gate: Gate) -> None:
    gate.decide(**throttled(rate_per_min=6.0, burst=3))
    refused = gate.until(429)
    document = refused.json()
    assert document["type"] == problem.QUOTA_EXCEEDED
    assert document["violated-policies"] == ["requests"]
    assert refused.headers["content-type"] == "application/problem+json"
    # At most 10 s until the next of six a minute, and up to half of it of jitter.
    assert 1 <= int(refused.headers["retry-after"]) <= 15
    assert refused.headers["ratelimit-policy"] == '"requests";q=6;w=60'
    assert refused.headers["ratelimit"] in {f'"requests";r=0;t={t}' for t in (28, 29, 30)}
    assert gate.post("key-of-bea").status_code == 200


def test_a_days_quota_and_a_rate_are_told_together(gate: Gate) -> None:
    gate.decide(**throttled(rate_per_min=600.0, burst=100, requests_per_day=2))
    refused = gate.until(429)
    assert refused.json()["violated-policies"] == ["requests-day"]
    policy = '"requests";q=600;w=60, "requests-day";q=2;w=86400'
    assert refused.headers["ratelimit-policy"] == policy


def test_a_campaign_shares_a_bucket_with_the_verdict_api(
    gate: Gate, redis_running: RedisServer
) -> None:
    params = {"rate_per_min": 0.01, "burst": 4, "bucket": "campaign:c-1"}
    gate.decide(action="throttle", params=params)
    gate.decide(action="throttle", params=params, value="acct-bea")
    gate.until(429)
    gate.until(429, "key-of-bea")
    keys = gate.store._scan_keys("limit")
    assert keys == [f"{gate.store.settings.prefix}limit:campaign:c-1".encode()]


def test_members_refused_together_come_back_apart(gate: Gate) -> None:
    params = {"rate_per_min": 0.1, "burst": 1, "bucket": "campaign:c-1"}
    names = [f"acct-{i}" for i in range(8)]
    for name in names:
        gate.store.set_identity(str(key_scope(name.encode())), Identity(account=name))
        gate.decide(action="throttle", params=params, value=name)
    gate.post(names[0])
    waits = {int(gate.until(429, name).headers["retry-after"]) for name in names}
    assert len(waits) > 4
    assert all(590 <= wait <= 901 for wait in waits)


def test_a_challenged_account_gets_401(gate: Gate) -> None:
    gate.decide(action="challenge")
    refused = gate.until(401)
    assert refused.json() == problem.challenge(None).document
    assert refused.headers["www-authenticate"] == 'Bearer error="insufficient_user_authentication"'


def test_a_poisoned_account_is_let_through_and_the_model_is_told(gate: Gate) -> None:
    gate.decide(action="poison", level=2)
    wait_for(lambda: gate.post().json()["x-velvetrope-action"] == "poison", "never poison")
    assert gate.post().json()["x-velvetrope-level"] == "2"
    assert gate.post("key-of-bea").json()["x-velvetrope-action"] == "allow"


def test_a_cleared_decision_ends_within_a_second(gate: Gate) -> None:
    gate.decide()
    gate.until(403)
    gate.decide(action="clear", level=0)
    gate.until(200)


def test_a_decision_ends_at_its_expiry(gate: Gate) -> None:
    gate.decide(expires_at=time.time() + 1.5)
    gate.until(403)
    gate.until(200, within_s=2)


def test_the_kill_switch_lets_everybody_through_within_a_second(gate: Gate) -> None:
    gate.decide()
    gate.until(403)
    gate.store.set_mode("off")
    gate.until(200)
    gate.store.set_mode("enforce")
    gate.until(403)


SCOPES = [
    ("account", "acct-ada"),
    ("api_key", key_scope(b"key-of-ada")),
    ("org", "org 1/ü"),
    ("ip", "127.0.0.1"),
    ("cidr", "127.0.0.0/8"),
]


@pytest.mark.parametrize(("scope", "value"), SCOPES)
def test_the_allowlist_beats_a_decision_of_any_scope_within_a_second(
    gate: Gate, scope: Any, value: str
) -> None:
    gate.decide()
    gate.until(403)
    gate.store.allow(AllowEntry(scope=scope, value=value))
    gate.until(200)
    gate.store.disallow(scope, value)
    gate.until(403)


@pytest.mark.parametrize(("scope", "value"), SCOPES)
def test_a_decision_of_any_scope_holds(gate: Gate, scope: str, value: str) -> None:
    gate.decide(scope=scope, value=value)
    gate.until(403)


def test_the_strongest_of_several_scopes_holds(gate: Gate) -> None:
    gate.decide(action="challenge")
    gate.decide(scope="org", value="org 1/ü")
    gate.until(403)
    gate.decide(scope="org", value="org 1/ü", action="clear", level=0)
    gate.until(401)


def test_what_shadow_mode_decides_is_not_enforced(gate: Gate) -> None:
    gate.decide(mode="shadow")
    gate.decide(value="acct-bea")
    gate.until(403, "key-of-bea")
    assert gate.post().status_code == 200


@pytest.mark.parametrize("path", ["/v1/%63hat/a", "/v1//chat/a", "/v1/x/../chat/a?b"])
def test_no_spelling_of_a_path_escapes_a_decision_about_it(gate: Gate, path: str) -> None:
    gate.decide(applies_to=AppliesTo(endpoints=("/v1/ch[a-c]t/*",)))
    gate.until(403)
    door, ada = Door(gate.gateway.client), Person("acct-ada", "key-of-ada")
    assert door.status_of_path(ada, path) == 403
    assert door.status_of_path(ada, "/v1/embeddings") == 200


def test_forged_headers_reach_neither_the_model_nor_the_client(gate: Gate, model: Model) -> None:
    model.headers = {"X-Velvetrope-Action": "forged", "X-Velvetrope-Account": "forged"}
    try:
        answer = gate.post(
            X_Velvetrope_Action="forged",
            X_Velvetrope_Level="forged",
            X_Velvetrope_Anything="forged",
            X_Account="forged",
            Challenge_Answer="forged",
        )
    finally:
        model.headers = {}
    assert "forged" not in answer.json().values()
    assert "forged" not in answer.headers.values()
    assert answer.json()["x-velvetrope-account"] == "acct-ada"


@pytest.mark.parametrize(
    "forged",
    [
        {"X_Account": "acct-bea"},
        {"X_Velvetrope_Account": "acct-bea"},
        {"X_Forwarded_For": "203.0.113.9", "X_Real_IP": "203.0.113.9"},
        {"Connection": "Authorization, X-Velvetrope-Account"},
    ],
)
def test_a_forged_identity_frees_nobody(gate: Gate, forged: dict[str, str]) -> None:
    gate.decide()
    gate.until(403)
    assert gate.post(**forged).status_code == 403


def test_two_keys_in_one_request_are_refused(gate: Gate) -> None:
    keys = [("Authorization", "Bearer key-of-bea"), ("Authorization", "Bearer key-of-ada")]
    assert gate.gateway.client.post("/v1/chat", json=CHAT, headers=keys).status_code == 400


def test_a_trusted_front_names_the_account(
    store: RedisStore, redis_running: RedisServer, model_port: int
) -> None:
    prefix = store.settings.prefix
    with lua_gateway(
        redis_running.url, model_port, prefix=prefix, caller_header="X-Account"
    ) as gateway:
        gate = Gate(gateway, store)
        gate.decide(value="team 1")
        assert gate.post("key-of-nobody", X_Account="team 2").json()["x-account"] == "team 2"
        wait_for(
            lambda: gate.post("key-of-nobody", X_Account="team 1").status_code == 403, "never 403"
        )


def test_the_log_names_the_account_and_the_keys_hash(gate: Gate) -> None:
    gate.post()
    gate.decide(action="challenge")
    gate.until(401)
    event = gate.gateway.events(1)[0]
    assert (event.account, event.api_key) == ("acct-ada", key_scope(b"key-of-ada"))
    assert (event.input, event.served, event.ip) == ("hello", True, "127.0.0.1")
    served = [event.served for event in gate.gateway.events(2)]
    assert served[-1] is False


def test_workers_share_what_is_known_and_what_is_counted(
    store: RedisStore, redis_running: RedisServer, model_port: int
) -> None:
    prefix = store.settings.prefix
    with lua_gateway(redis_running.url, model_port, prefix=prefix, workers=4) as gateway:
        gate = Gate(gateway, store)
        gate.decide(**throttled(rate_per_min=0.01, burst=5))
        gate.until(429)
        url = f"http://127.0.0.1:{gateway.port}/v1/chat"
        headers = {"Authorization": "Bearer key-of-ada"}
        # A connection each, so that several workers have one.
        assert {httpx.post(url, headers=headers).status_code for _ in range(20)} == {429}


# Limits that hold without a decision


def test_static_limits_hold_by_plan_and_endpoint_without_a_decision(gate: Gate) -> None:
    policy = StaticPolicy(
        limits=(
            StaticLimit(name="costly", endpoints=("/v1/embeddings",), rate_per_min=0.01, burst=1),
            StaticLimit(name="plan", plans=("free",), rate_per_min=0.01, burst=2),
            StaticLimit(name="plan", rate_per_min=6000.0, burst=1000),
        )
    )
    gate.store.set_policy(policy.encode())
    free = str(key_scope(b"key-of-free"))
    gate.store.set_identity(free, Identity(account="acct-free", plan="free"))
    refused = gate.until(429, "key-of-free")
    assert refused.json()["violated-policies"] == ["plan-requests"]
    # A renewal of the cache asks for the static limits with it.
    assert gate.post("key-of-ada").status_code == 200
    ada = {"Authorization": "Bearer key-of-ada"}
    costly = [gate.gateway.client.post("/v1/embeddings", headers=ada) for _ in range(2)]
    assert [answer.status_code for answer in costly] == [200, 429]
    assert costly[1].json()["violated-policies"] == ["costly-requests"]
    policies = costly[1].headers["ratelimit-policy"]
    assert policies == '"costly-requests";q=14;w=86400, "plan-requests";q=6000;w=60'
    gate.store.allow(AllowEntry(scope="account", value="acct-free"))
    gate.until(200, "key-of-free")


# Redis goes away


def test_what_fails_closed_holds_while_redis_is_away(model_port: int) -> None:
    with redis_server() as server:
        store = stocked(RedisStore(RedisSettings(url=server.url)))
        store.set_policy(StaticPolicy(fail_closed=("block",)).encode())
        with lua_gateway(server.url, model_port, prefix="velvetrope:", stale_s=1.0) as gateway:
            gate = Gate(gateway, store)
            gate.decide()
            gate.decide(value="acct-bea", action="challenge")
            gate.until(403)
            gate.until(401, "key-of-bea")
            server.stop()
            gate.until(200, "key-of-bea", within_s=2)
            assert gate.post().status_code == 403


def test_a_throttle_that_fails_closed_refuses_while_nothing_can_be_counted(
    model_port: int,
) -> None:
    with redis_server() as server:
        store = stocked(RedisStore(RedisSettings(url=server.url)))
        store.set_policy(StaticPolicy(fail_closed=("throttle",)).encode())
        with lua_gateway(server.url, model_port, prefix="velvetrope:") as gateway:
            gate = Gate(gateway, store)
            store._client.replicaof("127.0.0.1", "1")
            store._client.config_set("replica-read-only", "no")
            gate.decide(**throttled(rate_per_min=600.0, burst=100))
            store._client.config_set("replica-read-only", "yes")
            refused = gate.until(429)
    assert refused.headers["ratelimit"] == '"requests";r=0;t=5'


@pytest.mark.parametrize(("setting", "expected"), [("open", 200), ("closed", 503)])
def test_redis_killed_fails_as_set_and_recovers_alone(
    setting: str, expected: int, model_port: int
) -> None:
    with redis_server() as server:
        store = stocked(RedisStore(RedisSettings(url=server.url)))
        with lua_gateway(
            server.url, model_port, prefix="velvetrope:", when_away=setting, stale_s=1.5
        ) as gateway:
            gate = Gate(gateway, store)
            gate.decide()
            gate.until(403)
            server.stop()
            # What was known holds for a while.
            assert gate.post().status_code == 403
            gate.until(expected, within_s=2.5)
            assert gate.post("key-of-nobody").status_code == expected
            server.start()
            stocked(store)
            gate.decide()
            gate.until(403, within_s=2)


def test_a_redis_that_hangs_costs_its_timeout_once(model_port: int) -> None:
    with redis_server() as server:
        stocked(RedisStore(RedisSettings(url=server.url)))
        with lua_gateway(
            server.url,
            model_port,
            prefix="velvetrope:",
            redis_connect_timeout_ms=100,
            redis_answer_timeout_ms=250,
        ) as gateway:
            gate = Gate(gateway, RedisStore(RedisSettings(url=server.url)))
            gate.post("warm")
            server.pause()
            began = time.monotonic()
            answers = [gate.post(f"key-{i}").status_code for i in range(20)]
            took = time.monotonic() - began
            server.resume()
    assert answers == [200] * 20
    # 250 ms for the first, and after half a second for another; 20 times that if all had asked.
    assert took < 3.0


def test_a_redis_that_takes_no_writes_lets_a_throttled_account_through(
    model_port: int,
) -> None:
    with redis_server() as server:
        store = stocked(RedisStore(RedisSettings(url=server.url)))
        with lua_gateway(server.url, model_port, prefix="velvetrope:") as gateway:
            gate = Gate(gateway, store)
            gate.decide(**throttled(rate_per_min=0.01, burst=1))
            store._client.replicaof("127.0.0.1", "1")
            assert {gate.post().status_code for _ in range(5)} == {200}
            store._client.replicaof("NO", "ONE")
            gate.until(429, within_s=2)


def test_a_password_from_a_file_is_used(model_port: int, tmp_path: Any) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    with redis_server() as server:
        store = stocked(RedisStore(RedisSettings(url=server.url)))
        store._client.config_set("requirepass", "s3cret")
        with lua_gateway(
            server.url, model_port, prefix="velvetrope:", redis_password_file=str(file)
        ) as gateway:
            answer = gateway.post("key-of-ada")
    assert answer.json()["x-velvetrope-account"] == "acct-ada"


def test_the_gateways_user_of_the_acl_is_enough(model_port: int, tmp_path: Any) -> None:
    acl = (DEPLOY.parent / "redis.acl").read_text()
    acl = acl.replace("user default off", "user default on nopass ~* &* +@all")
    file, password = tmp_path / "redis.acl", tmp_path / "password"
    file.write_text(acl.replace("resetpass", "resetpass >s3cret"))
    password.write_text("s3cret")
    with redis_server("--aclfile", str(file)) as server:
        store = stocked(RedisStore(RedisSettings(url=server.url)))
        with lua_gateway(
            server.url,
            model_port,
            prefix="velvetrope:",
            when_away="closed",
            redis_username="velvetrope-gateway",
            redis_password_file=str(password),
        ) as gateway:
            gate = Gate(gateway, store)
            gate.decide(**throttled(rate_per_min=0.01, burst=2))
            gate.until(429)
            gate.decide(action="challenge")
            gate.until(401)
            assert gate.post("key-of-bea").status_code == 200
