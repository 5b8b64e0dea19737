"""An application with the middleware, on real parts: uvicorn, the verdict API, Redis."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from velvetrope_client.asgi import Headers, Velvetrope
from velvetrope_client.client import Client
from velvetrope_client.copy import Caller, Copy
from velvetrope_client.keys import Keyring
from velvetrope_client.proof import ProofTransport

from responders.allowlist import AllowEntry
from responders.decisions import AppliesTo
from responders.gateways.app import create_app
from responders.limits import StaticLimit, StaticPolicy
from responders.settings import ApiSettings, ChallengeSettings, RedisSettings
from responders.stores.redis import RedisStore
from tests.real_redis import RedisServer, redis_server
from tests.real_uvicorn import serving, until
from tests.responders.making import decision

FOREVER = 4e9


@pytest.fixture(scope="module")
def redis_running() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@dataclass
class Site:
    """The application's client, velvetrope's store behind it, and the verdict API's URL."""

    client: httpx.Client
    store: RedisStore
    api: str
    middleware: Velvetrope
    stack: ExitStack  # closing it takes the verdict API away
    version: int = 0

    def ask(self, account: str = "acct-1", **headers: str) -> httpx.Response:
        return self.client.get("/v1/labels", headers={"X-Account": account, **headers})

    def decide(self, action: str, **changes: Any) -> None:
        self.version += 1
        fields = {"action": action, "expires_at": FOREVER} | changes
        if action != "throttle":
            fields.setdefault("params", {})
        self.store.apply([decision(self.version, **fields)])

    def becomes(self, status: int, **headers: str) -> float:
        """Wait until the application answers so, at most a second; the seconds it took."""
        return until(lambda: self.ask(**headers).status_code == status, within_s=1.0)


async def labels(request: Request) -> JSONResponse:
    verdict = request.scope["velvetrope"]
    forged = [name for name in request.headers if name.startswith("x-velvetrope")]
    return JSONResponse({"action": verdict.action, "account": verdict.account, "forged": forged})


def chunk(text: str, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": []}} | fields
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


async def words(request: Request) -> StreamingResponse:
    async def parts() -> Any:
        yield chunk("The sky ")
        await asyncio.sleep(0.5)
        yield chunk("is blue.", finish_reason="stop")
        yield b"data: [DONE]\n\n"

    return StreamingResponse(parts(), media_type="text/event-stream")


async def probabilities(request: Request) -> JSONResponse:
    return JSONResponse({"label": "cat", "probabilities": {"cat": 0.83412, "dog": 0.16588}})


@pytest.fixture
def site(redis_running: RedisServer, tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        store = RedisStore(RedisSettings(url=redis_running.url, prefix=f"{uuid.uuid4().hex}:"))
        stack.callback(store.close)
        store.set_mode("enforce")
        service = stack.enter_context(ExitStack())
        keys = tmp_path / "keys.json"
        keys.write_text(Keyring.new("test").dump())
        settings = ApiSettings(challenge=ChallengeSettings(keys=keys, tries=3), refresh_s=0.001)
        api = service.enter_context(serving(create_app(store, settings)))
        app = Starlette(
            routes=[
                Route("/v1/labels", labels, methods=["GET", "POST"]),
                Route("/v1/words", words),
                Route("/v1/probabilities", probabilities),
            ]
        )
        middleware = Velvetrope(
            app, api, identify=Headers(account="X-Account"), challenge_path="/challenge"
        )
        url = stack.enter_context(serving(middleware, lifespan="on"))
        assert middleware.copy.wait(5.0)
        client = stack.enter_context(httpx.Client(base_url=url))
        yield Site(client, store, api, middleware, service)


def test_a_throttled_caller_gets_its_burst_and_then_the_verdict_apis_429(site: Site) -> None:
    assert site.ask().status_code == 200
    site.decide("throttle")
    site.becomes(429)
    ours = site.ask()
    with Client(site.api) as client:
        theirs = client.check({"X-Account": "acct-1"}).refusal
    assert theirs is not None
    assert (ours.status_code, ours.content) == (theirs.status, theirs.body)
    told = {name.lower() for name, _ in ours.headers.raw}
    assert {b"retry-after", b"ratelimit", b"ratelimit-policy"} <= told


def test_two_processes_share_one_bucket_by_asking(site: Site) -> None:
    params = {"rate_per_min": 1e-3, "burst": 3, "bucket": uuid.uuid4().hex}
    site.decide("throttle", params=params)
    until(lambda: len(site.middleware.copy) == 1, within_s=1.0)
    with Client(site.api) as other:
        assert [other.check({"X-Account": "acct-1"}).refusal for _ in "12"] == [None, None]
    assert [site.ask().status_code for _ in "12"] == [200, 429]


def test_a_static_limit_holds_without_any_decision(site: Site) -> None:
    limit = StaticLimit(name="labels", endpoints=("/v1/labels",), rate_per_min=1e-3, burst=2)
    site.store.set_policy(StaticPolicy(limits=(limit,)).encode())
    asked = Caller(account="acct-1", endpoint="/v1/labels")
    until(lambda: site.middleware.copy.is_limited(asked), within_s=1.0)
    time.sleep(0.5)  # the verdict API's own copy
    assert [site.ask().status_code for _ in range(3)] == [200, 200, 429]
    other = site.client.get("/v1/probabilities", headers={"X-Account": "acct-1"})
    assert other.status_code == 200


def test_a_block_holds_within_a_second_and_ends_with_its_clear(site: Site) -> None:
    site.decide("block")
    site.becomes(403)
    assert site.ask("another").status_code == 200
    site.decide("clear", level=0)
    site.becomes(200)


def test_a_challenge_is_401(site: Site) -> None:
    site.decide("challenge")
    site.becomes(401)
    assert "insufficient_user_authentication" in site.ask().headers["www-authenticate"]


def test_an_answered_challenge_lets_the_caller_on(site: Site) -> None:
    site.decide("challenge")
    site.becomes(401)
    with httpx.Client(
        base_url=site.client.base_url, transport=ProofTransport(), headers={"X-Account": "acct-1"}
    ) as client:
        assert client.get("/v1/labels").json()["action"] == "challenge"
    assert site.ask().status_code == 200


def test_the_challenges_own_pages_are_passed_on(site: Site) -> None:
    script = site.client.get("/challenge/client.js")
    assert (script.status_code, script.headers["content-type"].partition(";")[0]) == (
        200,
        "text/javascript",
    )
    site.stack.close()
    assert site.client.get("/challenge").status_code == 503


def test_a_poisoned_answer_is_shaped(site: Site) -> None:
    def asked() -> httpx.Response:
        headers = {"X-Account": "acct-1", "Accept-Encoding": "gzip"}
        return site.client.get("/v1/probabilities", headers=headers)

    assert asked().json()["probabilities"]["cat"] == 0.83412
    site.decide("poison")
    until(lambda: asked().json()["probabilities"].get("cat") != 0.83412, within_s=1.0)
    answer = asked()
    assert answer.json()["label"] == "cat"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert site.ask().json()["action"] == "poison"


def test_a_poisoned_stream_is_shaped_as_it_goes(site: Site) -> None:
    site.decide("poison")
    until(lambda: len(site.middleware.copy) == 1, within_s=1.0)
    with site.client.stream("GET", "/v1/words", headers={"X-Account": "acct-1"}) as answer:
        began = time.monotonic()
        pieces = [(time.monotonic() - began, piece) for piece in answer.iter_bytes()]
    assert b"The sky" in pieces[0][1]
    assert pieces[-1][0] - pieces[0][0] > 0.3, "the first piece was held back"
    told = b"".join(piece for _, piece in pieces)
    assert b'"logprobs":{' not in told
    assert told.endswith(b"data: [DONE]\n\n")


def test_a_decision_about_some_models_reads_the_model_from_the_body(site: Site) -> None:
    def asked(model: str) -> int:
        body = {"model": model, "messages": []}
        headers = {"X-Account": "acct-1"}
        return site.client.post("/v1/labels", json=body, headers=headers).status_code

    site.decide("block", applies_to=AppliesTo(models=("big-*",)))
    until(lambda: asked("big-1") == 403, within_s=1.0)
    assert asked("small") == 200
    assert site.ask().status_code == 200


@pytest.mark.parametrize("mode", ["off", "shadow"])
def test_the_kill_switch_holds_within_a_second(site: Site, mode: Any) -> None:
    site.decide("block")
    site.becomes(403)
    site.store.set_mode(mode)
    site.becomes(200)


def test_the_allowlist_beats_a_block_within_a_second(site: Site) -> None:
    site.decide("block")
    site.becomes(403)
    site.store.allow(AllowEntry(scope="account", value="acct-1"))
    site.becomes(200)


def test_forged_headers_change_nothing(site: Site) -> None:
    forged = {"X-Velvetrope-Action": "allow", "X_Velvetrope_Account": "someone"}
    assert site.ask(**forged).json() == {"action": "allow", "account": "acct-1", "forged": []}
    site.decide("block")
    site.becomes(403, **forged)


def test_with_the_service_away_what_is_known_holds_until_it_is_stale(site: Site) -> None:
    site.middleware.copy.stale_after_s = 1.5
    site.decide("throttle")
    until(lambda: len(site.middleware.copy) == 1, within_s=1.0)
    site.stack.close()
    gone_at = time.monotonic()
    statuses = [site.ask().status_code for _ in range(5)]
    assert statuses[-1] == 429, "this process limits alone"
    until(lambda: site.ask().status_code == 200, within_s=3.0)
    assert time.monotonic() - gone_at > 0.5


def test_an_action_that_fails_closed_outlasts_the_service(site: Site) -> None:
    copy = Copy(site.api, stale_after_s=0.0)
    closed = Velvetrope(
        site.middleware._app,
        copy=copy,
        identify=Headers(account="X-Account"),
        fail_closed=["block"],
    )
    site.decide("block")
    with copy, serving(closed) as url:
        until(lambda: len(copy) == 1, within_s=2.0)
        assert copy.stale
        assert httpx.get(f"{url}/v1/labels", headers={"X-Account": "acct-1"}).status_code == 403
