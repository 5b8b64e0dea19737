"""Challenges from end to end: clients, the real nginx with deploy/nginx, the verdict API, a real
Redis, and for browsers a headless Chromium.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
import redis
import uvicorn
from pydantic import SecretStr
from velvetrope_client.keys import Keyring
from velvetrope_client.proof import AsyncProofTransport, ProofTransport, solve

from responders.gateways.app import create_app
from responders.gateways.caller import key_scope
from responders.gateways.protocol import TolerantProtocol
from responders.settings import ApiSettings, ChallengeSettings, RedisSettings
from responders.stores.base import Identity
from responders.stores.redis import RedisStore
from tests.deploy.gateway import CHAT, Gateway, Model, gateway, served
from tests.real_nginx import free_port
from tests.real_redis import RedisServer, redis_server
from tests.responders.making import decision

KEYRING = Keyring.new("2026-11")
PAGE = "https://login.example.com/again"


@pytest.fixture(scope="module")
def redis_running() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def store(redis_running: RedisServer) -> Iterator[RedisStore]:
    settings = RedisSettings(url=SecretStr(redis_running.url), prefix=f"{uuid.uuid4().hex}:")
    store = RedisStore(settings)
    store.set_mode("enforce")
    for name in ("ada", "bea"):
        key = key_scope(f"Bearer key-of-{name}".encode())
        assert key is not None
        store.set_identity(key, Identity(account=f"acct-{name}"))
    yield store
    store.close()


@pytest.fixture
def gate(store: RedisStore, tmp_path: Path) -> Iterator[Gateway]:
    keys = tmp_path / "keys.json"
    keys.write_text(KEYRING.dump())
    settings = ApiSettings(
        secret=SecretStr("s3cret"),
        challenge_url=PAGE,
        challenge=ChallengeSettings(keys=keys, proof=True, tries=5),
        refresh_s=0.01,
    )
    with (
        served(Model().handler()) as model_port,
        verdict_api(store, settings) as verdict_port,
        gateway(verdict_port, model_port, secret='"s3cret"') as running,
    ):
        yield running


@contextmanager
def verdict_api(store: RedisStore, settings: ApiSettings) -> Iterator[int]:
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(store, settings),
            host="127.0.0.1",
            port=port,
            log_level="error",
            lifespan="off",
            http=TolerantProtocol,
        )
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


def challenge(store: RedisStore, gate: Gateway, version: int = 1, difficulty: int = 1) -> None:
    """Challenge ada, and wait until it is in force."""
    now = time.time()
    changes = {"issued_at": now, "expires_at": now + 3600, "params": {"difficulty": difficulty}}
    store.apply([decision(version, value="acct-ada", action="challenge", **changes)])
    deadline = time.monotonic() + 5
    while gate.post("key-of-ada").status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_refusal_names_the_page_and_the_challenge_for_this_client(
    gate: Gateway, store: RedisStore
) -> None:
    challenge(store, gate)
    refused = gate.post("key-of-ada")
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["www-authenticate"].startswith("Bearer error=")
    assert refused.json()["authenticate_at"].startswith(f"{PAGE}?ticket=")
    assert refused.json()["challenge"].startswith("/challenge?ticket=")
    assert not [name for name in refused.headers if name.startswith("x-velvetrope")]
    assert gate.post("key-of-bea").status_code == 200


def test_an_httpx_client_pays_once_and_goes_on(gate: Gateway, store: RedisStore) -> None:
    challenge(store, gate)
    headers = {"Authorization": "Bearer key-of-ada"}
    with httpx.Client(transport=ProofTransport(), base_url=gate.client.base_url) as client:
        answer = client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert (answer.status_code, answer.json()["x-velvetrope-account"]) == (200, "acct-ada")
    assert gate.post("key-of-ada").status_code == 200


async def test_an_async_client_pays_once_and_goes_on(gate: Gateway, store: RedisStore) -> None:
    challenge(store, gate)
    headers = {"Authorization": "Bearer key-of-ada"}
    transport = AsyncProofTransport()
    async with httpx.AsyncClient(transport=transport, base_url=gate.client.base_url) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert answer.status_code == 200


def test_an_answer_may_come_with_the_request_and_never_reaches_the_model(
    gate: Gateway, store: RedisStore
) -> None:
    challenge(store, gate)
    issued = gate.client.get(gate.post("key-of-ada").json()["challenge"])
    answer = solve(issued.json())
    stolen = gate.post("key-of-bea", Challenge_Answer=answer)
    assert stolen.status_code == 200
    passed = gate.post("key-of-ada", Challenge_Answer=answer)
    assert passed.status_code == 200
    assert "challenge-answer" not in passed.json()


def test_a_stronger_decision_asks_again(gate: Gateway, store: RedisStore) -> None:
    challenge(store, gate)
    with httpx.Client(transport=ProofTransport(), base_url=gate.client.base_url) as client:
        headers = {"Authorization": "Bearer key-of-ada"}
        assert client.post("/v1/x", headers=headers).status_code == 200
        challenge(store, gate, version=2, difficulty=2)
        assert client.post("/v1/x", headers=headers).status_code == 200


def test_the_operators_page_sends_the_client_back(gate: Gateway, store: RedisStore) -> None:
    challenge(store, gate)
    ticket = parse_qs(urlsplit(gate.post("key-of-ada").json()["authenticate_at"]).query)["ticket"]
    # The page: it knows who has logged in, and holds the page's key (docs/challenge.md).
    page_key = KEYRING.current.derive("challenge page")
    claims = jwt.decode(ticket[0], page_key, ["HS256"], audience="challenge-page")
    assert claims["sub"] == "acct-ada"
    claims |= {"iss": "challenge-page", "aud": "velvetrope"}
    token = jwt.encode(claims, page_key, "HS256", headers={"kid": KEYRING.current.id})
    sent_back = gate.client.get("/challenge", params={"return": token})
    assert (sent_back.status_code, sent_back.json()["passed"]) == (200, True)
    assert gate.post("key-of-ada").status_code == 200
    assert gate.client.get("/challenge", params={"return": token}).status_code == 403


def test_what_a_gateway_keeps_in_redis_ends_by_itself(
    gate: Gateway, store: RedisStore, redis_running: RedisServer
) -> None:
    challenge(store, gate)
    with httpx.Client(transport=ProofTransport(), base_url=gate.client.base_url) as client:
        client.post("/v1/x", headers={"Authorization": "Bearer key-of-ada"})
    prefix = store.settings.prefix
    with redis.Redis.from_url(redis_running.url, decode_responses=True) as raw:
        names = [str(name) for name in raw.scan_iter(f"{prefix}challenge:*")]
        kinds = sorted(name.removeprefix(prefix).split(":")[1] for name in names)
        assert kinds == ["answer", "passed"]
        assert all(0 < raw.ttl(name) <= 661 for name in names)
