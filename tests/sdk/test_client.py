"""The client for anything else: verdicts, and events in batches."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import pytest
from velvetrope_client.client import AsyncClient, Client, EventQueue, Unavailable, Verdict

from responders.allowlist import AllowEntry
from responders.gateways.app import create_app
from responders.limits import StaticLimit, StaticPolicy
from responders.settings import ApiSettings
from responders.stores.memory import MemoryStore
from tests.real_uvicorn import until
from tests.responders.making import NOW, decision

EVENT = {"ts": NOW, "account": "acct-1"}


def asking(store: MemoryStore, **settings: Any) -> AsyncClient:
    app = create_app(store, ApiSettings(**settings), clock=lambda: NOW)
    secret = settings.get("secret")
    return AsyncClient("http://velvetrope", secret=secret, transport=httpx.ASGITransport(app=app))


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore(clock=lambda: NOW)
    store.set_mode("enforce")
    return store


async def test_a_verdict_names_the_action_and_the_account(store: MemoryStore) -> None:
    store.apply([decision(action="poison", params={}, level=2)])
    async with asking(store) as client:
        assert await client.check({"X-Account": "acct-1"}) == Verdict("poison", 2, "acct-1")


async def test_a_refusal_is_what_the_client_should_be_answered(store: MemoryStore) -> None:
    store.apply([decision(action="block", params={})])
    async with asking(store) as client:
        refusal = (await client.check({"X-Account": "acct-1"}, path="/v1/chat")).refusal
    assert refusal is not None
    assert refusal.status == 403
    assert json.loads(refusal.body)["status"] == 403
    assert dict(refusal.headers)[b"content-type"] == b"application/problem+json"
    assert dict(refusal.headers)[b"content-length"] == str(len(refusal.body)).encode()


async def test_the_account_given_beats_the_clients_own_header(store: MemoryStore) -> None:
    async with asking(store) as client:
        verdict = await client.check(
            [(b"X-Account", b"forged"), (b"X-Velvetrope-Action", b"allow")], account="acct-1"
        )
    assert verdict.account == "acct-1"


async def test_an_account_that_is_not_known_is_not_the_clients_to_say(store: MemoryStore) -> None:
    async with asking(store) as client:
        assert (await client.check({"X-Account": "forged"}, account="")).account == ""


async def test_the_path_decides_what_a_decision_covers(store: MemoryStore) -> None:
    covers = decision().applies_to.__class__(endpoints=("/v1/chat",))
    store.apply([decision(action="block", params={}, applies_to=covers)])
    async with asking(store) as client:
        forged = {"X-Account": "acct-1", "X-Forwarded-Uri": "/elsewhere"}
        assert (await client.check(forged, path="/v1/chat")).refusal is not None
        assert (await client.check(forged, path="/v1/other")).refusal is None


async def test_the_secret_is_sent(store: MemoryStore) -> None:
    async with asking(store, secret="s3cret") as client:
        assert (await client.check({"X-Account": "a"})).action == "allow"


async def test_tokens_are_charged_by_an_estimate_and_settled(store: MemoryStore) -> None:
    params = {"tokens_per_day": 1000, "bucket": "account:acct-1"}
    store.apply([decision(params=params)])
    app = create_app(store, ApiSettings(tokens_header="X-Tokens"), clock=lambda: NOW)
    transport = httpx.ASGITransport(app=app)
    headers = {"X-Account": "acct-1", "X-Tokens": "1"}  # the client's own says nothing
    async with AsyncClient(
        "http://velvetrope", tokens_header="X-Tokens", transport=transport
    ) as client:
        verdict = await client.check(headers, tokens=900)
        assert verdict.charge is not None
        assert (await client.check(headers, tokens=200)).refusal is not None
        await client.settle(verdict.charge, 700)
        assert (await client.check(headers, tokens=200)).refusal is None


async def test_what_the_service_trusts_is_not_the_clients_to_say(store: MemoryStore) -> None:
    limits = [StaticLimit(name="plan", plans=("paid",), rate_per_min=600.0, burst=100)]
    limits += [StaticLimit(name="plan", rate_per_min=6.0)]
    store.set_policy(StaticPolicy(limits=tuple(limits)).encode())
    store.allow(AllowEntry(scope="ip", value="192.0.2.1"))
    forged = {"X-Plan": "paid", "X-Real-IP": "192.0.2.1"}
    async with asking(store, plan_header="X-Plan", ip_header="X-Real-IP") as client:
        refusals = [(await client.check(forged, account="a")).refusal for _ in range(2)]
    assert [refusal is not None for refusal in refusals] == [False, True]


async def test_what_something_in_front_sets_can_be_passed_on(store: MemoryStore) -> None:
    store.apply([decision(action="block", params={}, scope="ip", value="192.0.2.1")])
    app = create_app(store, ApiSettings(ip_header="X-Real-IP"), clock=lambda: NOW)
    transport = httpx.ASGITransport(app=app)
    async with AsyncClient("http://v", relay=("X-Real-IP",), transport=transport) as client:
        assert (await client.check({"X-Real-IP": "192.0.2.1"})).refusal is not None


@pytest.mark.parametrize("status", [302, 400, 403, 404, 429])
def test_what_is_not_the_verdict_api_refuses_nobody(status: int) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text="Not here"))
    with (
        Client("http://velvetrope", transport=transport) as client,
        pytest.raises(Unavailable, match=f"{status} from what is not"),
    ):
        client.check({})


@pytest.mark.parametrize("status", [500, 503])
def test_a_service_that_is_ill_is_unavailable(status: int) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status))
    with Client("http://velvetrope", transport=transport) as client:
        with pytest.raises(Unavailable, match=str(status)):
            client.check({})
        with pytest.raises(Unavailable, match=str(status)):
            client.post([EVENT])


def test_a_service_that_is_away_is_unavailable() -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with (
        Client("http://velvetrope", transport=httpx.MockTransport(away)) as client,
        pytest.raises(Unavailable, match="refused"),
    ):
        client.check({})


class Ingest:
    """Takes events as POST /v1/events does."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.batches: list[int] = []
        self.up = threading.Event()
        self.up.set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not self.up.is_set():
            return httpx.Response(503)
        lines = [json.loads(line) for line in request.content.splitlines()]
        bad = [{"index": i, "error": "no account"} for i, e in enumerate(lines) if not e["account"]]
        self.events += [event for event in lines if event["account"]]
        self.batches.append(len(lines))
        return httpx.Response(202, json={"accepted": len(lines) - len(bad), "rejected": bad})


def queue(ingest: Ingest, **settings: Any) -> EventQueue:
    transport = httpx.MockTransport(ingest)
    return EventQueue("http://velvetrope", **({"every_s": 0.02} | settings), transport=transport)


def test_events_are_posted_in_their_order() -> None:
    ingest = Ingest()
    posting = queue(ingest)
    for i in range(1000):
        assert posting.put(EVENT | {"request_id": str(i)})
    until(lambda: posting.posted == 1000, within_s=5.0)
    assert [event["request_id"] for event in ingest.events] == [str(i) for i in range(1000)]
    assert max(ingest.batches) <= 512
    posting.close()


def test_what_finds_no_room_is_dropped_and_counted() -> None:
    ingest = Ingest()
    ingest.up.clear()
    posting = queue(ingest, room=10, every_s=30.0)
    assert [posting.put(EVENT) for _ in range(12)] == [True] * 10 + [False] * 2
    assert posting.dropped == 2
    ingest.up.set()
    posting.close()
    assert (posting.posted, posting.dropped) == (10, 2)


def test_events_wait_while_the_service_is_away() -> None:
    ingest = Ingest()
    ingest.up.clear()
    posting = queue(ingest)
    posting.put(EVENT)
    until(lambda: bool(posting._batch), within_s=5.0)
    ingest.up.set()
    until(lambda: posting.posted == 1, within_s=5.0)
    assert (len(ingest.events), posting.dropped) == (1, 0)
    posting.close()


def test_close_does_not_wait_for_a_service_that_is_away() -> None:
    ingest = Ingest()
    ingest.up.clear()
    posting = queue(ingest)
    posting.put(EVENT)
    posting.close(timeout_s=0.2)
    assert (posting.posted, posting.dropped) == (0, 1)


def test_refused_events_are_counted_and_the_others_taken() -> None:
    ingest = Ingest()
    posting = queue(ingest)
    posting.put(EVENT | {"account": ""})
    posting.put(EVENT)
    until(lambda: posting.posted + posting.rejected == 2, within_s=5.0)
    assert (posting.posted, posting.rejected) == (1, 1)
    posting.close()


def test_an_event_that_cannot_be_made_costs_no_other() -> None:
    def broken() -> list[dict[str, Any]]:
        raise KeyError("label")

    ingest = Ingest()
    posting = queue(ingest)
    posting.put(broken)
    posting.put(lambda: [EVENT, EVENT])
    until(lambda: posting.posted == 2, within_s=5.0)
    assert posting.dropped == 1
    posting.close()
