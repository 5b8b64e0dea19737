"""The change feed, through its HTTP: what a local copy needs beside the decisions."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from responders.allowlist import AllowEntry
from responders.gateways import feed
from responders.gateways.app import create_app
from responders.limits import StaticLimit, StaticPolicy
from responders.settings import ApiSettings
from responders.stores.base import Identity
from responders.stores.memory import MemoryStore
from tests.responders.making import NOW, decision


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore(clock=lambda: NOW)
    store.set_mode("enforce")
    return store


@pytest.fixture
def api(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> httpx.AsyncClient:
    monkeypatch.setattr(feed, "_ALLOW_KEPT_S", 0.0)
    monkeypatch.setattr(feed, "_ALLOW_SHARE", 1e9)
    app = create_app(store, ApiSettings(refresh_s=1e-9), clock=lambda: NOW)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://velvetrope")


async def asked(api: httpx.AsyncClient, **query: str) -> dict[str, Any]:
    document: dict[str, Any] = (await api.get("/v1/decisions", params=query)).json()
    return document


async def test_the_allowlist_comes_with_its_expiry_and_without_its_reason(
    store: MemoryStore, api: httpx.AsyncClient
) -> None:
    store.allow(AllowEntry(scope="org", value="org-1", reason="ours", expires_at=NOW + 60))
    store.allow(AllowEntry(scope="account", value="old", expires_at=NOW - 1))
    assert (await asked(api))["allow"] == [
        {"scope": "org", "value": "org-1", "expires_at": NOW + 60}
    ]


async def test_the_allowlist_is_left_out_while_the_follower_has_it(
    store: MemoryStore, api: httpx.AsyncClient
) -> None:
    first = await asked(api)
    again = await asked(api, since=first["cursor"], allow=first["allow_tag"])
    assert "allow" not in again
    store.allow(AllowEntry(scope="account", value="acct-1"))
    changed = await asked(api, since=first["cursor"], allow=first["allow_tag"])
    assert [entry["value"] for entry in changed["allow"]] == ["acct-1"]


async def test_the_mode_and_the_decisions_come_as_before(
    store: MemoryStore, api: httpx.AsyncClient
) -> None:
    store.apply([decision()])
    document = await asked(api)
    assert (document["mode"], document["more"]) == ("enforce", False)
    assert [d["value"] for d in document["decisions"]] == ["acct-1"]


async def test_an_allowlist_of_another_revision_is_read_however_young_the_copy_is(
    store: MemoryStore, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_ALLOW_KEPT_S", 3600.0)
    assert (await asked(api))["allow"] == []
    store.allow(AllowEntry(scope="account", value="acct-1"))
    assert [entry["value"] for entry in (await asked(api))["allow"]] == ["acct-1"]


async def test_the_identities_tag_says_when_to_read_identities_again(
    store: MemoryStore, api: httpx.AsyncClient
) -> None:
    before = (await asked(api))["identities_tag"]
    assert (await asked(api))["identities_tag"] == before
    store.set_identity("sha256:aa", Identity(account="acct-1"))
    assert (await asked(api))["identities_tag"] != before
    known = (await api.get("/v1/identities")).json()["identities"]
    assert known["aa"]["account"] == "acct-1"


async def test_the_static_limits_come_until_the_follower_has_them(
    store: MemoryStore, api: httpx.AsyncClient
) -> None:
    limit = StaticLimit(name="free", plans=("free",), rate_per_min=6.0)
    store.set_policy(StaticPolicy(limits=(limit,), fail_closed=("block",)).encode())
    first = await asked(api)
    assert first["policy"]["fail_closed"] == ["block"]
    assert [one["name"] for one in first["policy"]["limits"]] == ["free"]
    again = await asked(api, since=first["cursor"], policy=first["policy_tag"])
    assert "policy" not in again


async def test_what_is_no_policy_leaves_the_former_one(
    store: MemoryStore, api: httpx.AsyncClient
) -> None:
    store.set_policy(StaticPolicy(fail_closed=("block",)).encode())
    assert (await asked(api))["policy"]["fail_closed"] == ["block"]
    store.set_policy(b"{}}")
    assert (await asked(api))["policy"]["fail_closed"] == ["block"]


async def test_an_old_cursor_is_told_the_mode(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/decisions", params={"since": "9.9"})
    assert (answer.status_code, answer.json()["mode"]) == (410, "enforce")


async def test_followers_that_take_nothing_do_not_keep_others_from_starting(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_SNAPSHOT_MOST_S", 0.05)
    app = create_app(store, ApiSettings(), clock=lambda: NOW)
    scope = {"type": "http", "method": "GET", "path": "/v1/decisions", "headers": []}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http"}

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await asyncio.gather(*(app(dict(scope), never, never) for _ in range(4)))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://v") as api:
        assert (await api.get("/v1/decisions")).status_code == 200


async def test_more_snapshots_at_once_than_four_are_told_to_come_back(
    store: MemoryStore, api: httpx.AsyncClient
) -> None:
    store.apply([decision(n, value=f"acct-{n}", action="block") for n in range(1, 3000)])
    first = await asked(api)
    answers = await asyncio.gather(*(api.get("/v1/decisions") for _ in range(12)))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(503)) == (4, 8)
    assert {a.headers.get("retry-after") for a in answers if a.status_code == 503} == {"1"}
    changes = await api.get("/v1/decisions", params={"since": first["cursor"]})
    assert changes.status_code == 200
    assert (await api.get("/v1/decisions")).status_code == 200
