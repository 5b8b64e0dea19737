"""deploy/nginx in front of the real verdict API."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from pydantic import SecretStr

from responders.actions import problem
from responders.actions.throttle import Left, Taken, limits_of
from responders.decisions import AppliesTo
from responders.gateways.app import create_app
from responders.gateways.caller import key_scope
from responders.settings import ApiSettings
from responders.stores.base import Identity
from responders.stores.memory import MemoryStore
from tests.deploy.gateway import Gateway, Model, gateway, served
from tests.real_nginx import free_port
from tests.responders.making import NOW, decision

URL = "https://login.example.com/again"
SETTINGS = ApiSettings(secret=SecretStr("s3cret"), challenge_url=URL, refresh_s=0.01)


def now() -> float:
    """Event time: it stands still, so that no token comes back while a test runs."""
    return NOW


@contextmanager
def verdict_api(store: MemoryStore) -> Iterator[int]:
    port = free_port()
    app = create_app(store, SETTINGS, clock=now)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore(clock=now)
    store.set_mode("enforce")
    for name in ("ada", "bea"):
        key = key_scope(f"Bearer key-of-{name}".encode())
        assert key is not None
        store.set_identity(key, Identity(account=f"acct-{name}"))
    return store


@pytest.fixture
def gate(store: MemoryStore) -> Iterator[Gateway]:
    with (
        served(Model().handler()) as model_port,
        verdict_api(store) as verdict_port,
        gateway(verdict_port, model_port, secret='"s3cret"') as running,
    ):
        yield running


def eventually(gate: Gateway, key: str, status: int) -> None:
    """The API's copy of the decisions is refreshed behind an answer: ask until it is in force."""
    deadline = time.monotonic() + 5
    while gate.post(key).status_code != status:
        assert time.monotonic() < deadline, f"never {status}"
        time.sleep(0.01)


def test_a_customer_is_allowed_and_named(gate: Gateway) -> None:
    answer = gate.post("key-of-ada")
    assert answer.status_code == 200
    assert answer.json()["x-velvetrope-action"] == "allow"
    assert answer.json()["x-velvetrope-account"] == "acct-ada"
    assert gate.events(1)[0].account == "acct-ada"


def test_a_key_of_nobody_is_named_by_its_hash(gate: Gateway) -> None:
    gate.post("key-of-nobody")
    event = gate.events(1)[0]
    assert event.account == event.api_key == key_scope(b"Bearer key-of-nobody")


def test_a_throttled_account_gets_its_burst_then_429(gate: Gateway, store: MemoryStore) -> None:
    params = {"rate_per_min": 6.0, "burst": 3, "bucket": "account:acct-ada"}
    store.apply([decision(value="acct-ada", params=params)])
    eventually(gate, "key-of-ada", 429)
    refused = gate.post("key-of-ada")
    assert refused.headers["content-type"] == "application/problem+json"
    limits, left = limits_of(params), (Left(False, 0, 10.0, 30.0),)
    assert refused.json() == problem.throttle(limits, Taken(False, left, 0.0), 10).document
    assert int(refused.headers["retry-after"]) >= 10
    assert refused.headers["ratelimit-policy"] == '"requests";q=6;w=60'
    assert refused.headers["ratelimit"].startswith('"requests";r=0;t=')
    assert gate.post("key-of-bea").status_code == 200


def test_a_challenged_account_is_told_where_to_authenticate(
    gate: Gateway, store: MemoryStore
) -> None:
    store.apply([decision(value="acct-ada", action="challenge", params={})])
    eventually(gate, "key-of-ada", 401)
    refused = gate.post("key-of-ada")
    assert refused.json() == problem.challenge(URL).document
    assert refused.headers["www-authenticate"].startswith("Bearer error=")


def test_a_blocked_account_gets_403(gate: Gateway, store: MemoryStore) -> None:
    store.apply([decision(value="acct-ada", action="block", params={})])
    eventually(gate, "key-of-ada", 403)
    refused = gate.post("key-of-ada")
    assert refused.json() == problem.block(403).document
    assert refused.headers["cache-control"] == "no-store"


def test_a_poisoned_account_is_let_through_and_the_model_is_told(
    gate: Gateway, store: MemoryStore
) -> None:
    store.apply([decision(value="acct-ada", action="poison", params={})])
    deadline = time.monotonic() + 5
    while gate.post("key-of-ada").json()["x-velvetrope-action"] != "poison":
        assert time.monotonic() < deadline
    assert gate.post("key-of-bea").json()["x-velvetrope-action"] == "allow"


def test_a_decision_about_an_endpoint_holds_there_alone(gate: Gateway, store: MemoryStore) -> None:
    applies_to = AppliesTo(endpoints=("/v1/chat/*",))
    store.apply([decision(value="acct-ada", action="block", params={}, applies_to=applies_to)])
    eventually(gate, "key-of-ada", 403)
    headers = {"Authorization": "Bearer key-of-ada"}
    assert gate.client.post("/v1/%63hat/completions", headers=headers).status_code == 403
    assert gate.client.post("/v1/embeddings", headers=headers).status_code == 200


def test_the_kill_switch_lets_everybody_through(gate: Gateway, store: MemoryStore) -> None:
    store.apply([decision(value="acct-ada", action="block", params={})])
    eventually(gate, "key-of-ada", 403)
    store.set_mode("off")
    began = time.monotonic()
    eventually(gate, "key-of-ada", 200)
    assert time.monotonic() - began < 1.0


def test_without_the_secret_the_gateway_fails_as_it_is_set_to(store: MemoryStore) -> None:
    store.apply([decision(value="acct-ada", action="block", params={})])
    with (
        served(Model().handler()) as model_port,
        verdict_api(store) as verdict_port,
    ):
        with gateway(verdict_port, model_port) as opened:
            assert opened.post("key-of-ada").status_code == 200
        with gateway(verdict_port, model_port, when_away="closed") as closed:
            assert closed.post("key-of-ada").status_code == 503
