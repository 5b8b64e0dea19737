"""deploy/haproxy on the real HAProxy, its maps kept by the follower from a real Redis."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from responders.actions import problem
from responders.allowlist import AllowEntry
from responders.decisions import AppliesTo
from responders.following.follow import follow
from responders.following.haproxy import Haproxy
from responders.following.haproxy_runtime import Runtime
from responders.following.source import StoreSource
from responders.gateways.caller import key_scope
from responders.limits import StaticPolicy
from responders.settings import RedisSettings
from responders.stores.base import Identity
from responders.stores.redis import RedisStore
from tests.deploy.battery import SECRET, Door, Person, verdict_api
from tests.deploy.gateway import CHAT, Model, served
from tests.real_haproxy import HaproxyServer, haproxy
from tests.real_redis import RedisServer, redis_server
from tests.responders.making import decision

FOREVER = 4e9
WITHIN_S = 1.0


@pytest.fixture(scope="module")
def model_port() -> Iterator[int]:
    with served(Model().handler()) as port:
        yield port


@pytest.fixture
def store(redis_running: RedisServer) -> Iterator[RedisStore]:
    store = RedisStore(RedisSettings(url=redis_running.url, prefix=f"{uuid.uuid4().hex}:"))
    store.set_mode("enforce")
    for name in ("ada", "bea"):
        key = key_scope(f"Bearer key-of-{name}".encode())
        assert key is not None
        store.set_identity(key, Identity(account=f"acct-{name}", org="org 1/ü"))
    yield store
    store.close()


@dataclass
class Gate:
    server: HaproxyServer
    store: RedisStore
    client: httpx.Client
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

    def post(
        self, key: str = "key-of-ada", path: str = "/v1/chat", **headers: str
    ) -> httpx.Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(
            path, json=CHAT, headers={"Authorization": f"Bearer {key}"} | fields
        )

    def status_of_path(self, path: str) -> int:
        """The status for a path as it stands: httpx would resolve it."""
        return Door(self.client).status_of_path(Person("acct-ada", "key-of-ada"), path)

    def until(self, status: int, key: str = "key-of-ada") -> None:
        """Ask until this is the answer, a second at most."""
        wait_for(lambda: self.post(key).status_code == status, f"never {status}")


def wait_for(true: Callable[[], bool], otherwise: str, within_s: float = WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


@contextmanager
def following(store: RedisStore, server: HaproxyServer) -> Iterator[None]:
    target = Haproxy(server.maps, Runtime(server.socket), stale_after_s=3.0)
    stop = threading.Event()
    thread = threading.Thread(
        target=follow, args=(StoreSource(store), target, stop), kwargs={"every_s": 0.1}
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def gate(store: RedisStore, model_port: int) -> Iterator[Gate]:
    with (
        haproxy(model_port) as server,
        following(store, server),
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as client,
    ):
        running = Gate(server, store, client)
        wait_for(lambda: "x-velvetrope-account" in running.post().json(), "the maps never came")
        yield running


def test_a_customer_is_allowed_and_named_to_the_model(gate: Gate) -> None:
    seen = gate.post().json()
    assert seen["x-velvetrope-action"] == "allow"
    assert seen["x-velvetrope-account"] == "acct-ada"
    assert seen["x-velvetrope-level"] == "0"
    nobody = gate.post("key-of-nobody").json()["x-velvetrope-account"]
    assert nobody == key_scope(b"Bearer key-of-nobody")


def test_a_blocked_account_gets_403_within_a_second(gate: Gate) -> None:
    gate.decide()
    gate.until(403)
    assert gate.post().json() == problem.block(403).document
    assert gate.post().headers["content-type"] == "application/problem+json"
    assert gate.post("key-of-bea").status_code == 200


def test_a_throttled_account_gets_its_burst_then_429(gate: Gate) -> None:
    params = {"rate_per_min": 6.0, "burst": 3, "bucket": "account:acct-ada"}
    gate.decide(action="throttle", params=params)
    wait_for(
        lambda: (
            gate.client.get("/", headers={"Authorization": "Bearer key-of-ada"}).status_code == 429
        ),
        "never 429",
    )
    refused = gate.post()
    assert refused.json()["type"] == problem.QUOTA_EXCEEDED
    assert refused.headers["content-type"] == "application/problem+json"
    assert 10 <= int(refused.headers["retry-after"]) <= 15
    assert refused.headers["ratelimit-policy"] == '"requests";q=6;w=60'
    assert refused.headers["ratelimit"] in ('"requests";r=0;t=30', '"requests";r=0;t=29')
    assert gate.post("key-of-bea").status_code == 200


def test_a_campaign_shares_a_bucket_that_refills_at_its_rate(gate: Gate) -> None:
    params = {"rate_per_min": 120.0, "burst": 4, "bucket": "campaign:c-1"}
    for name in ("ada", "bea"):
        gate.decide(action="throttle", params=params, value=f"acct-{name}")

    def passes(seconds: float) -> int:
        """How many of both members' requests pass."""
        began, passed = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            for name in ("ada", "bea"):
                passed += gate.post(f"key-of-{name}").status_code == 200
        return passed

    gate.until(429)
    gate.until(429, "key-of-bea")
    # Two a second, and at most one is due at once.
    assert 3 <= passes(2.0) <= 5


def test_a_challenged_account_gets_401(gate: Gate) -> None:
    gate.decide(action="challenge")
    gate.until(401)
    refused = gate.post()
    assert refused.json() == problem.challenge(None).document
    assert refused.headers["www-authenticate"] == 'Bearer error="insufficient_user_authentication"'


def test_a_challenged_account_is_told_where_to_authenticate(
    store: RedisStore, model_port: int
) -> None:
    url = "https://login.example.com/again?a=1"
    with (
        haproxy(model_port, VELVETROPE_CHALLENGE_URL=url) as server,
        following(store, server),
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        gate = Gate(server, store, client)
        gate.decide(action="challenge")
        gate.until(401)
        assert gate.post().json() == problem.challenge(url).document


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


def test_a_decision_ends_at_its_expiry_although_nobody_says_so(gate: Gate) -> None:
    gate.decide(expires_at=time.time() + 3)
    gate.until(403)
    wait_for(lambda: gate.post().status_code == 200, "never ended", within_s=4)


def test_the_kill_switch_lets_everybody_through_within_a_second(gate: Gate) -> None:
    gate.decide()
    gate.until(403)
    gate.store.set_mode("off")
    gate.until(200)
    gate.store.set_mode("enforce")
    gate.until(403)


@pytest.mark.parametrize(
    ("scope", "value"),
    [
        ("account", "acct-ada"),
        ("api_key", key_scope(b"key-of-ada")),
        ("org", "org 1/ü"),
        ("ip", "127.0.0.1"),
        ("cidr", "127.0.0.0/8"),
    ],
)
def test_the_allowlist_beats_a_decision_of_any_scope_within_a_second(
    gate: Gate, scope: Any, value: str
) -> None:
    gate.decide()
    gate.until(403)
    gate.store.allow(AllowEntry(scope=scope, value=value))
    gate.until(200)
    gate.store.disallow(scope, value)
    gate.until(403)


@pytest.mark.parametrize(
    ("scope", "value"),
    [
        ("api_key", key_scope(b"key-of-ada")),
        ("org", "org 1/ü"),
        ("ip", "127.0.0.1"),
        ("cidr", "127.0.0.0/8"),
    ],
)
def test_a_decision_of_any_scope_holds(gate: Gate, scope: str, value: str) -> None:
    gate.decide(scope=scope, value=value)
    gate.until(403)


def test_the_strongest_of_several_scopes_holds(gate: Gate) -> None:
    gate.decide(scope="cidr", value="127.0.0.0/8")
    gate.decide(scope="ip", value="127.0.0.1", action="poison")
    gate.decide(action="challenge")
    gate.until(403)
    gate.decide(scope="cidr", value="127.0.0.0/8", action="clear", level=0)
    wait_for(lambda: gate.post().json().get("x-velvetrope-action") == "poison", "never poison")
    gate.decide(scope="ip", value="127.0.0.1", action="clear", level=0)
    gate.until(401)


def test_a_decision_about_endpoints_holds_there_alone_however_they_are_spelt(gate: Gate) -> None:
    gate.decide(applies_to=AppliesTo(endpoints=("/v1/chat", "/v1/a b/*.json")))
    gate.until(403)
    spelt = (
        *("/v1//%63hat", "/v1/./chat?x=1", "/v1/a%20b/c/d.json"),
        *("/../v1/a/b/../../chat", "/a/../v1/chat"),
    )
    for path in spelt:
        assert gate.status_of_path(path) == 403, path
    assert gate.post(path="/v1/embeddings").status_code == 200


def test_forged_headers_reach_neither_the_model_nor_the_client(gate: Gate) -> None:
    answer = gate.post(
        X_Velvetrope_Action="forged",
        X_Velvetrope_Level="forged",
        X_Velvetrope_Account="forged",
        X_Velvetrope_Anything="forged",
        X_Account="forged",
        Challenge_Answer="forged",
    )
    forged = gate.client.post(
        "/v1/chat", json=CHAT, headers={"X_Velvetrope_Action": "forged", "x_account": "forged"}
    )
    assert "forged" not in answer.json().values()
    assert "forged" not in forged.json().values()
    assert not [name for name in answer.headers if name.startswith("x-velvetrope")]


def test_a_path_that_goes_up_more_often_than_is_followed_is_refused(gate: Gate) -> None:
    assert gate.status_of_path("/a/b/c/d/e/f" + "/.." * 6 + "/v1/chat") == 400


@pytest.mark.parametrize(
    "forged",
    [
        {"X_Account": "acct-bea"},
        {"X_Velvetrope_Account": "acct-bea"},
        {"X_Forwarded_For": "203.0.113.9"},
        {"Connection": "Authorization, X-Velvetrope-Account"},
    ],
)
def test_a_forged_identity_frees_nobody(gate: Gate, forged: dict[str, str]) -> None:
    gate.decide()
    gate.until(403)
    assert gate.post(**forged).status_code == 403


def test_a_connection_header_does_not_drop_the_verdict(gate: Gate) -> None:
    gate.decide(action="poison")
    wait_for(lambda: gate.post().json()["x-velvetrope-action"] == "poison", "never poison")
    seen = gate.post(Connection="X-Velvetrope-Action, X-Velvetrope-Account").json()
    assert (seen["x-velvetrope-action"], seen["x-velvetrope-account"]) == ("poison", "acct-ada")


def test_two_keys_in_one_request_are_refused(gate: Gate) -> None:
    keys = [("Authorization", "Bearer key-of-bea"), ("Authorization", "Bearer key-of-ada")]
    assert gate.client.post("/v1/chat", json=CHAT, headers=keys).status_code == 400


def test_a_trusted_front_names_the_account(store: RedisStore, model_port: int) -> None:
    with (
        haproxy(model_port, VELVETROPE_CALLER_HEADER="X-Account") as server,
        following(store, server),
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        gate = Gate(server, store, client)
        gate.decide(value="team a|b/1")
        wait_for(
            lambda: gate.post("key-of-nobody", X_Account="team a|b/1").status_code == 403,
            "never 403",
        )


def test_haproxy_restarted_has_everything_again(gate: Gate) -> None:
    gate.decide()
    gate.until(403)
    gate.server.stop()
    gate.decide(value="acct-bea")
    gate.server.start()
    gate.until(403)
    gate.until(403, "key-of-bea")


def test_haproxy_reloaded_has_everything_again(gate: Gate) -> None:
    gate.decide()
    gate.until(403)
    # What the files do not have yet, the new worker gets from the follower.
    gate.decide(value="acct-bea")
    gate.server.reload()
    with httpx.Client(base_url=gate.client.base_url) as client:
        new = Gate(gate.server, gate.store, client)
        wait_for(
            lambda: {new.post(key).status_code for key in ("key-of-ada", "key-of-bea")} == {403},
            "never 403",
            within_s=3,
        )
    gate.decide(value="acct-bea", action="clear", level=0)
    with httpx.Client(base_url=gate.client.base_url) as client:
        Gate(gate.server, gate.store, client).until(200, "key-of-bea")


def test_a_restarted_follower_goes_on(store: RedisStore, model_port: int) -> None:
    with (
        haproxy(model_port) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        gate = Gate(server, store, client)
        with following(store, server):
            gate.decide()
            gate.until(403)
        gate.decide(action="clear", level=0)
        with following(store, server):
            gate.until(200)


def test_the_program_follows_a_verdict_api_until_it_is_told_to_stop(
    redis_running: RedisServer, model_port: int
) -> None:
    with (
        verdict_api(redis_running) as api,
        haproxy(model_port) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        command = [sys.executable, "-c", "from detector.cli import main; main()"]
        command += ["follow", "haproxy", "--api", f"http://127.0.0.1:{api.port}"]
        command += ["--maps", str(server.maps), "--socket", str(server.socket)]
        secret = {**os.environ, "VELVETROPE_API__SECRET": SECRET}
        ada = api.person()
        api.decide(ada, "block")
        with subprocess.Popen(command, env=secret) as process:
            wait_for(lambda: Door(client).post(ada).status_code == 403, "never 403", within_s=30)
            api.decide(ada, "clear", level=0)
            wait_for(lambda: Door(client).post(ada).status_code == 200, "never 200")
            process.terminate()
            assert process.wait(10) == 0


def test_a_wave_of_changes_is_pushed_as_a_whole(gate: Gate) -> None:
    names = [f"acct-{i}" for i in range(200)]
    for name in names:
        gate.store.set_identity(str(key_scope(name.encode())), Identity(account=name))
    for action, status in (("block", 403), ("challenge", 401)):
        for name in names:
            gate.decide(value=name, action=action)
        gate.until(status, names[-1])
        assert {gate.post(name).status_code for name in names} == {status}


@pytest.mark.parametrize(("setting", "expected"), [("open", 200), ("closed", 503)])
def test_without_its_follower_it_fails_as_it_is_set_to(
    setting: str, expected: int, store: RedisStore, model_port: int
) -> None:
    with (
        haproxy(model_port, VELVETROPE_WHEN_AWAY=setting) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        gate = Gate(server, store, client)
        gate.decide()
        with following(store, server):
            gate.until(403)
        # The maps are believed for three seconds more.
        assert gate.post().status_code == 403
        wait_for(lambda: gate.post().status_code == expected, f"never {expected}", within_s=4)


def test_what_fails_closed_holds_on_without_the_follower(
    store: RedisStore, model_port: int
) -> None:
    store.set_policy(StaticPolicy(fail_closed=("block",)).encode())
    with (
        haproxy(model_port) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        gate = Gate(server, store, client)
        gate.decide()
        gate.decide(value="acct-bea", action="challenge")
        with following(store, server):
            gate.until(403)
            gate.until(401, "key-of-bea")
        wait_for(lambda: gate.post("key-of-bea").status_code == 200, "never 200", within_s=4)
        assert gate.post().status_code == 403


def test_redis_away_for_a_moment_changes_nothing(model_port: int) -> None:
    with redis_server() as server:
        store = RedisStore(RedisSettings(url=server.url, timeout_s=0.2))
        store.set_mode("enforce")
        with (
            haproxy(model_port) as running,
            following(store, running),
            httpx.Client(base_url=f"http://127.0.0.1:{running.port}") as client,
        ):
            gate = Gate(running, store, client)
            key = key_scope(b"key-of-ada")
            gate.decide(value=key)
            gate.until(403)
            server.stop()
            assert gate.post().status_code == 403
            server.start()
            store.set_mode("enforce")
            gate.decide(value=key, action="challenge")
            gate.until(401)
