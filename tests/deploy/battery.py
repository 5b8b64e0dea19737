"""What must hold at every gateway that asks the verdict API, on the real programs.

A gateway's test file has a class of these, with `open` to put it between the real API, over a real
Redis, and a model's server that answers with the headers that reached it.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import uvicorn
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send
from velvetrope_client.keys import Keyring
from velvetrope_client.proof import solve

from responders.actions import problem
from responders.decisions import AppliesTo
from responders.gateways.app import create_app
from responders.gateways.caller import key_scope
from responders.gateways.protocol import TolerantProtocol
from responders.settings import ApiSettings, ChallengeSettings, RedisSettings
from responders.stores.base import Identity
from responders.stores.redis import RedisStore
from tests.deploy.gateway import CHAT, Model, served
from tests.real_program import free_port
from tests.real_redis import RedisServer
from tests.responders.making import decision

__all__ = ["SECRET", "Battery", "Door", "Person", "VerdictApi", "eventually", "verdict_api"]

SECRET = "s3cret"
_CHALLENGE_URL = "https://login.example.com/again"
_HOUR_S = 3600.0


@dataclass
class Person:
    """Somebody with a key, whose account velvetrope knows."""

    account: str
    key: str


@dataclass
class VerdictApi:
    """The real verdict API on a free port, over a real Redis. `delay_s` makes it slow."""

    store: RedisStore
    port: int
    delay_s: float = 0.0
    asked: list[dict[str, str]] = field(default_factory=list)
    _version: int = 0

    def person(self) -> Person:
        """Somebody new."""
        name = uuid.uuid4().hex[:12]
        person = Person(f"acct-{name}", f"key-of-{name}")
        scope = key_scope(person.key.encode())
        assert scope is not None
        self.store.set_identity(scope, Identity(account=person.account))
        return person

    def decide(self, person: Person, action: str, **changes: Any) -> None:
        """Enforce an action against somebody, from now on and for an hour."""
        self._version += 1
        now = time.time()
        params: dict[str, Any] = {}
        if action == "throttle":
            params = {"rate_per_min": 6.0, "burst": 3, "bucket": f"account:{person.account}"}
        fields = {
            "value": person.account,
            "action": action,
            "params": params,
            "issued_at": now,
            "expires_at": now + _HOUR_S,
        }
        self.store.apply([decision(self._version, **(fields | changes))])


@contextmanager
def verdict_api(redis: RedisServer, **settings: Any) -> Iterator[VerdictApi]:
    """Runs until the block ends, in enforcement, with a secret and a challenge's URL."""
    prefix = f"{uuid.uuid4().hex}:"
    store = RedisStore(RedisSettings(url=SecretStr(redis.url), prefix=prefix))
    store.set_mode("enforce")
    given = {"secret": SECRET, "challenge_url": _CHALLENGE_URL, "refresh_s": 0.02}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as keys:
        keys.write(Keyring.new("2026-11").dump())
        keys.flush()
        challenge = ChallengeSettings(keys=Path(keys.name), proof=True, tries=5)
        app = create_app(store, ApiSettings(**(given | {"challenge": challenge} | settings)))
    api = VerdictApi(store, free_port())

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        api.asked.append({k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]})
        if api.delay_s:
            await asyncio.sleep(api.delay_s)
        await app(scope, receive, send)

    try:
        with _listening(watched, api.port):
            yield api
    finally:
        store.close()


@contextmanager
def _listening(app: ASGIApp, port: int) -> Iterator[None]:
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host="127.0.0.1",
            port=port,
            log_level="error",
            lifespan="off",
            http=TolerantProtocol,
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


@dataclass
class Door:
    """A gateway that is open for requests."""

    client: httpx.Client

    def post(
        self, person: Person, path: str = "/v1/chat/completions", **headers: str
    ) -> httpx.Response:
        """Ask the model something. Underscores in header names are dashes."""
        fields = {"Authorization": f"Bearer {person.key}", "Content-Type": "application/json"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, content=json.dumps(CHAT).encode(), headers=fields)

    def status_of_path(self, person: Person, path: str) -> int:
        """The status for a path as it stands: httpx would write it in its own way."""
        at = self.client.base_url
        connection = http.client.HTTPConnection(at.host, at.port, timeout=15)
        try:
            connection.request("POST", path, b"{}", {"Authorization": f"Bearer {person.key}"})
            return connection.getresponse().status
        finally:
            connection.close()

    def reached(self, person: Person, **headers: str) -> dict[str, str]:
        """The headers that reached the model, lower-case."""
        answer = self.post(person, **headers)
        assert answer.status_code == 200, answer.text
        seen: dict[str, str] = answer.json()
        return seen


def eventually(door: Door, person: Person, status: int, *, within_s: float = 5.0) -> float:
    """Ask until the answer has a status; seconds that it took."""
    began = time.monotonic()
    while (answer := door.post(person)).status_code != status:
        assert time.monotonic() - began < within_s, f"{answer.status_code}, never {status}"
        time.sleep(0.01)
    return time.monotonic() - began


class Battery:
    """The tests. A subclass says how its gateway is started, and what it cannot do."""

    status_when_away: ClassVar[int] = 200
    forged: ClassVar[dict[str, str]] = {
        "X-Velvetrope-Action": "allow",
        "X-Velvetrope-Level": "0",
        "X-Velvetrope-Account": "acct-forged",
        "X-Velvetrope-Secret": "guess",
        "X-Velvetrope-Status": "200",
        "x-velvetrope-anything": "else",
    }

    @classmethod
    def open(cls, api_port: int, model_port: int, **settings: Any) -> AbstractContextManager[Door]:
        """The gateway. `patient`: it waits for verdicts longer than it is deployed to."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def api(cls, redis_running: RedisServer) -> Iterator[VerdictApi]:
        with verdict_api(redis_running) as running:
            yield running

    @pytest.fixture(scope="class")
    @classmethod
    def model_port(cls) -> Iterator[int]:
        with served(Model(headers={"X-Velvetrope-Account": "leaked"}).handler()) as port:
            yield port

    @pytest.fixture(scope="class")
    @classmethod
    def door(cls, api: VerdictApi, model_port: int) -> Iterator[Door]:
        with cls.open(api.port, model_port, patient=True) as door:
            yield door

    # Every action

    def test_a_customer_is_allowed_and_the_model_is_told_who(
        self, door: Door, api: VerdictApi
    ) -> None:
        ada = api.person()
        seen = door.reached(ada)
        assert (seen["x-velvetrope-action"], seen["x-velvetrope-level"]) == ("allow", "0")
        assert seen["x-velvetrope-account"] == ada.account

    def test_a_throttled_account_gets_its_burst_then_429(self, door: Door, api: VerdictApi) -> None:
        ada = api.person()
        assert door.reached(ada)["x-velvetrope-action"] == "allow"
        api.decide(ada, "throttle")
        eventually(door, ada, 429)
        refused = door.post(ada)
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"] == problem.QUOTA_EXCEEDED
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["ratelimit-policy"].startswith('"requests";q=6;w=60')
        assert refused.headers["ratelimit"].startswith('"requests";r=0')
        assert door.post(api.person()).status_code == 200

    def test_a_challenged_account_gets_401_and_where_to_authenticate(
        self, door: Door, api: VerdictApi
    ) -> None:
        ada = api.person()
        api.decide(ada, "challenge")
        eventually(door, ada, 401)
        refused = door.post(ada)
        assert refused.headers["content-type"] == "application/problem+json"
        assert _CHALLENGE_URL in refused.text
        assert "www-authenticate" in refused.headers

    def test_an_answer_submitted_once_lifts_a_challenge(self, door: Door, api: VerdictApi) -> None:
        ada = api.person()
        api.decide(ada, "challenge")
        eventually(door, ada, 401)
        answer = self._answer(door, ada)
        submitted = door.client.post("/challenge", json={"answer": answer})
        assert (submitted.status_code, submitted.json()["passed"]) == (200, True)
        assert door.post(ada).status_code == 200
        assert door.client.get("/challenge/client.js").status_code == 200

    def test_an_answer_may_come_with_the_request(self, door: Door, api: VerdictApi) -> None:
        ada = api.person()
        api.decide(ada, "challenge")
        eventually(door, ada, 401)
        answer = self._answer(door, ada)
        assert door.post(ada, Challenge_Answer=answer).status_code == 200

    @staticmethod
    def _answer(door: Door, person: Person) -> str:
        return solve(door.client.get(door.post(person).json()["challenge"]).json())

    def test_a_poisoned_account_is_let_through_and_the_model_is_told(
        self, door: Door, api: VerdictApi
    ) -> None:
        ada = api.person()
        api.decide(ada, "poison", level=2)
        deadline = time.monotonic() + 5
        while (seen := door.reached(ada))["x-velvetrope-action"] != "poison":
            assert time.monotonic() < deadline
        assert seen["x-velvetrope-level"] == "2"

    def test_a_blocked_account_gets_403(self, door: Door, api: VerdictApi) -> None:
        ada = api.person()
        api.decide(ada, "block")
        eventually(door, ada, 403)
        refused = door.post(ada)
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json() == problem.block(403).document

    def test_a_decision_and_the_kill_switch_hold_within_a_second(
        self, door: Door, api: VerdictApi
    ) -> None:
        ada = api.person()
        door.reached(ada)
        api.decide(ada, "block")
        assert eventually(door, ada, 403) < 1.0
        api.store.set_mode("off")
        try:
            assert eventually(door, ada, 200) < 1.0
        finally:
            api.store.set_mode("enforce")
            eventually(door, ada, 403)

    @pytest.mark.parametrize("path", ["/v1/%63hat/a", "/v1//chat/a", "/v1/x/../chat/a"])
    def test_no_spelling_of_a_path_escapes_a_decision_about_it(
        self, door: Door, api: VerdictApi, path: str
    ) -> None:
        ada = api.person()
        api.decide(ada, "block", applies_to=AppliesTo(endpoints=("/v1/chat/*",)))
        eventually(door, ada, 403)
        assert door.status_of_path(ada, path) == 403
        assert door.status_of_path(ada, "/v1/embeddings") == 200

    # What a client may not say

    def test_no_forged_verdict_reaches_the_model(self, door: Door, api: VerdictApi) -> None:
        ada = api.person()
        seen = door.reached(ada, **self.forged)
        ours = {name: value for name, value in seen.items() if name.startswith("x-velvetrope-")}
        assert ours == {
            "x-velvetrope-action": "allow",
            "x-velvetrope-level": "0",
            "x-velvetrope-account": ada.account,
        }

    def test_no_forged_header_reaches_the_check(self, door: Door, api: VerdictApi) -> None:
        ada = api.person()
        api.asked.clear()
        door.post(ada, **self.forged, X_Account="acct-forged", X_Real_IP="203.0.113.9")
        asked = api.asked[-1]
        assert asked["x-velvetrope-secret"] == SECRET
        for name in ("x-velvetrope-action", "x-velvetrope-account", "x-velvetrope-anything"):
            assert name not in asked
        assert asked.get("x-account", "") == ""
        assert asked.get("x-real-ip", "127.0.0.1") == "127.0.0.1"

    def test_a_forged_identity_frees_nobody(self, door: Door, api: VerdictApi) -> None:
        ada, bea = api.person(), api.person()
        api.decide(ada, "block")
        eventually(door, ada, 403)
        for forged in (
            {"X_Account": bea.account},
            {"X_Velvetrope_Account": bea.account, "X_Velvetrope_Action": "allow"},
            {"X_Original_URI": "/v1/embeddings", "X_Forwarded_Uri": "/v1/embeddings"},
            {"X_Forwarded_For": "203.0.113.9", "Connection": "X-Account"},
        ):
            assert door.post(ada, **forged).status_code == 403, forged

    def test_a_forged_identity_blames_nobody(self, door: Door, api: VerdictApi) -> None:
        ada = api.person()
        nobody = Person("", f"key-{uuid.uuid4().hex}")
        api.decide(ada, "block")
        eventually(door, ada, 403)
        seen = door.reached(nobody, X_Account=ada.account, X_Velvetrope_Account=ada.account)
        assert seen["x-velvetrope-account"] == key_scope(nobody.key.encode())
        assert seen.get("x-account", "") == ""

    def test_a_connection_header_does_not_drop_the_verdict(
        self, door: Door, api: VerdictApi
    ) -> None:
        ada = api.person()
        api.decide(ada, "poison")
        deadline = time.monotonic() + 5
        while door.reached(ada)["x-velvetrope-action"] != "poison":
            assert time.monotonic() < deadline
        names = "X-Velvetrope-Action, X-Velvetrope-Level, X-Velvetrope-Account"
        assert door.reached(ada, Connection=names)["x-velvetrope-action"] == "poison"

    def test_nothing_of_the_verdict_reaches_the_client(self, door: Door, api: VerdictApi) -> None:
        ada = api.person()
        api.decide(ada, "throttle")
        answers = [door.post(ada) for _ in range(6)]
        assert {answer.status_code for answer in answers} == {200, 429}
        for answer in answers:
            told = [name for name in answer.headers if name.startswith("x-velvetrope")]
            assert told == []

    # The verdict service is away

    def test_refused_connections_are_answered_as_configured(self, model_port: int) -> None:
        with self.open(free_port(), model_port) as door:
            self._away(door)

    def test_a_slow_service_is_answered_as_configured_and_soon(
        self, api: VerdictApi, model_port: int
    ) -> None:
        with self.open(api.port, model_port) as door:
            door.post(Person("", "warm"))
            api.delay_s = 5.0
            began = time.monotonic()
            try:
                self._away(door)
            finally:
                api.delay_s = 0.0
            assert time.monotonic() - began < 2.0

    def test_an_ill_service_is_answered_as_configured(
        self, api: VerdictApi, model_port: int
    ) -> None:
        with self.open(api.port, model_port, patient=True, secret="wrong") as door:
            self._away(door)

    def _away(self, door: Door) -> None:
        answer = door.post(Person("", "somebody"), **self.forged)
        assert answer.status_code == self.status_when_away
        if answer.status_code == 200:
            seen = answer.json()
            said = {k: v for k, v in seen.items() if k.startswith("x-velvetrope-") and v}
            assert said == {}
