"""The httpx transports that answer challenges, against a server in this process."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import altcha
import httpx
import pytest
from velvetrope_client.proof import (
    AsyncProofTransport,
    ChallengeFailed,
    ProofTransport,
    solve,
)

SECRET = b"s" * 32
PROBLEM = "application/problem+json"


def challenge(**changes: Any) -> dict[str, Any]:
    """An ALTCHA challenge that takes 3 tries at most."""
    made = altcha.create_challenge("PBKDF2/SHA-256", 10, counter=2, hmac_secret=SECRET)
    document: dict[str, Any] = made.to_dict()
    document["parameters"] |= changes
    return document


class Server:
    """Asks a challenge until one is answered; keeps what it was asked."""

    def __init__(self, place: str = "/challenge?ticket=t", **issued: Any) -> None:
        self.place = place
        self.issued = challenge(**issued)
        self.passed = False
        self.seen: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if request.url.path == "/challenge":
            if request.method == "GET":
                return httpx.Response(200, json=self.issued)
            answer = json.loads(request.content)["answer"]
            self.passed = altcha.verify_solution(answer, SECRET).verified
            return httpx.Response(200 if self.passed else 403, json={"expires_in": 600})
        if self.passed:
            return httpx.Response(200, content=request.content)
        document = {"status": 401, "challenge": self.place}
        return httpx.Response(401, headers={"Content-Type": PROBLEM}, content=json.dumps(document))

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(r.method, r.url.path) for r in self.seen]


def client(server: Any) -> httpx.Client:
    transport = ProofTransport(httpx.MockTransport(server))
    return httpx.Client(
        transport=transport, base_url="https://api.test", headers={"Authorization": "Bearer k"}
    )


def test_a_challenge_is_answered_and_the_request_sent_again() -> None:
    server = Server()
    answer = client(server).post("/v1/chat", json={"a": 1})
    assert (answer.status_code, answer.json()) == (200, {"a": 1})
    assert server.told == [
        ("POST", "/v1/chat"),
        ("GET", "/challenge"),
        ("POST", "/challenge"),
        ("POST", "/v1/chat"),
    ]
    assert {r.headers["authorization"] for r in server.seen} == {"Bearer k"}


async def test_the_async_transport_does_the_same() -> None:
    server = Server()
    transport = AsyncProofTransport(httpx.MockTransport(server))
    async with httpx.AsyncClient(transport=transport, base_url="https://api.test") as asynchronous:
        answer = await asynchronous.post("/v1/chat", json={"a": 1})
    assert (answer.status_code, answer.json()) == (200, {"a": 1})
    assert len(server.told) == 4


class SlowServer(Server):
    """Refuses eight requests before it issues a challenge to any."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = threading.Barrier(8)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/challenge" and not self.passed:
            self.refused.wait(timeout=10)
        return super().__call__(request)


def test_of_many_requests_refused_at_once_one_pays_for_all() -> None:
    server = SlowServer()
    with client(server) as shared, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: shared.get(f"/v1/{n}"), range(8)))
    assert [a.status_code for a in answers] == [200] * 8
    assert server.told.count(("GET", "/challenge")) == 1


async def test_of_many_async_requests_refused_at_once_one_pays_for_all() -> None:
    server = Server()
    refused = asyncio.Barrier(8)

    async def slow(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/challenge" and not server.passed:
            await refused.wait()
        return server(request)

    transport = AsyncProofTransport(httpx.MockTransport(slow))
    async with httpx.AsyncClient(transport=transport, base_url="https://api.test") as shared:
        answers = await asyncio.gather(*(shared.get(f"/v1/{n}") for n in range(8)))
    assert [a.status_code for a in answers] == [200] * 8
    assert server.told.count(("GET", "/challenge")) == 1


def test_the_key_goes_to_no_other_origin() -> None:
    server = Server("https://other.test/challenge?ticket=t")
    assert client(server).get("/v1/models").status_code == 200
    keys = [r.headers.get("authorization") for r in server.seen]
    assert keys == ["Bearer k", None, None, "Bearer k"]


def test_a_body_that_can_be_sent_once_gets_its_401() -> None:
    def body() -> Iterator[bytes]:
        yield b"x"

    server = Server()
    assert client(server).post("/v1/chat", content=body()).status_code == 401
    assert len(server.seen) == 1


def test_a_stream_that_is_allowed_is_not_read_ahead() -> None:
    def parts() -> Iterator[bytes]:
        yield b"first"
        raise AssertionError("read ahead")

    with client(lambda request: httpx.Response(200, content=parts())).stream("GET", "/") as answer:
        assert next(answer.iter_raw()) == b"first"


@pytest.mark.parametrize(
    "refusal",
    [
        httpx.Response(401, headers={"Content-Type": PROBLEM}, content=b'{"status":401}'),
        httpx.Response(401, headers={"Content-Type": PROBLEM}, content=b'{"challenge":7}'),
        httpx.Response(401, headers={"Content-Type": PROBLEM}, content=b'{"challenge":"ftp://x"}'),
        httpx.Response(401, headers={"Content-Type": PROBLEM}, content=b"[]"),
        httpx.Response(401, headers={"Content-Type": PROBLEM}, content=b"\xff"),
        httpx.Response(401, content=b'{"challenge":"/challenge"}'),
        httpx.Response(403, headers={"Content-Type": PROBLEM}, content=b'{"challenge":"/c"}'),
    ],
)
def test_any_other_refusal_comes_back_as_it_was(refusal: httpx.Response) -> None:
    asked = []

    def server(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return refusal

    answer = client(server).get("/v1/models")
    assert (answer.status_code, answer.content) == (refusal.status_code, refusal.content)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"cost": 10**9},
        {"cost": 0},
        {"cost": "10"},
        {"algorithm": "ARGON2ID"},
        {"nonce": "zz"},
        {"keyPrefix": 5},
        {"keyLength": -1},
    ],
)
def test_what_cannot_be_solved_comes_back_as_the_401_that_it_was(changes: dict[str, Any]) -> None:
    server = Server(**changes)
    assert client(server).get("/v1/models").status_code == 401
    assert server.told[1:] == [("GET", "/challenge")]


def test_an_answer_that_is_refused_leaves_the_401() -> None:
    server = Server(salt="00" * 16)  # not what was signed, so the answer is not valid
    server.issued["parameters"]["keyPrefix"] = ""
    answer = client(server).get("/v1/models")
    assert (answer.status_code, len(server.seen)) == (401, 3)


def test_it_gives_up_in_time() -> None:
    with pytest.raises(ChallengeFailed, match=r"not solved in 0\.01 s"):
        solve(challenge(keyPrefix="00" * 16), most_seconds=0.01)


@pytest.mark.parametrize("document", [{}, {"parameters": []}, {"parameters": {"nonce": ""}}])
def test_what_is_no_challenge_is_said_so(document: dict[str, Any]) -> None:
    with pytest.raises(ChallengeFailed, match="not an ALTCHA challenge"):
        solve(document)


def test_an_answer_is_altchas_payload() -> None:
    payload = json.loads(base64.b64decode(solve(challenge())))
    assert payload["solution"]["counter"] == 2
    assert set(payload) == {"challenge", "solution"}
