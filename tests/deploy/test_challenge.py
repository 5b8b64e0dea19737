"""Challenges from end to end: clients, the real nginx with deploy/nginx, and a real Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
import redis
from velvetrope_client.proof import AsyncProofTransport, ProofTransport, solve

from responders.actions.challenge import page_keys
from responders.stores.redis import RedisStore
from tests.deploy.challenges import KEYRING, PAGE, challenge, guarded, keys_of
from tests.deploy.gateway import CHAT, Gateway
from tests.real_redis import RedisServer, redis_server

DOCS = Path(__file__).parents[2] / "docs" / "challenge.md"
PAGE_KEYS = jwt.PyJWKSet.from_dict(page_keys(KEYRING))


@pytest.fixture(scope="module")
def redis_running() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def running(redis_running: RedisServer, tmp_path: Path) -> Iterator[tuple[Gateway, RedisStore]]:
    with guarded(redis_running, keys_of(tmp_path)) as both:
        yield both


@pytest.fixture
def gate(running: tuple[Gateway, RedisStore]) -> Gateway:
    return running[0]


@pytest.fixture
def store(running: tuple[Gateway, RedisStore]) -> RedisStore:
    return running[1]


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


def the_page() -> Callable[[str, str, jwt.PyJWKSet], str]:
    """The page's part, as docs/challenge.md gives it."""
    code = DOCS.read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    signed_return: Callable[[str, str, jwt.PyJWKSet], str] = names["signed_return"]
    return signed_return


def test_the_operators_page_sends_the_client_back(gate: Gateway, store: RedisStore) -> None:
    challenge(store, gate)
    url = urlsplit(gate.post("key-of-ada").json()["authenticate_at"])
    (ticket,) = parse_qs(url.query)["ticket"]
    token = the_page()(ticket, "acct-ada", PAGE_KEYS)
    sent_back = gate.client.get("/challenge", params={"return": token})
    assert (sent_back.status_code, sent_back.json()["passed"]) == (200, True)
    assert gate.post("key-of-ada").status_code == 200
    assert gate.client.get("/challenge", params={"return": token}).status_code == 403


def test_the_page_vouches_for_nobody_else(gate: Gateway, store: RedisStore) -> None:
    challenge(store, gate)
    url = urlsplit(gate.post("key-of-ada").json()["authenticate_at"])
    (ticket,) = parse_qs(url.query)["ticket"]
    with pytest.raises(PermissionError):
        the_page()(ticket, "acct-bea", PAGE_KEYS)


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
