"""Static limits and what fails closed, through the verdict API's HTTP."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from responders.actions.throttle import Limit, MemoryLimiter, Taken
from responders.allowlist import AllowEntry
from responders.gateways.app import create_app
from responders.limits import StaticLimit, StaticPolicy
from responders.settings import ApiSettings
from responders.stores.base import Identity, StoreUnavailable
from tests.responders.gateways.test_app import ACCOUNT, KEY, KEY_HASH, Clock, Flaky, blocked
from tests.responders.making import decision

FREE = StaticLimit(name="plan", plans=("free",), rate_per_min=6.0, burst=2)
ANY = StaticLimit(name="plan", rate_per_min=60.0, burst=4)
COSTLY = StaticLimit(name="logprobs", endpoints=("/v1/completions*",), requests_per_day=1)


class FlakyLimiter(MemoryLimiter):
    """A limiter that a test can take away."""

    away = False

    async def take(self, limits: Sequence[Limit], costs: Sequence[float], now: float) -> Taken:
        if self.away:
            raise StoreUnavailable("gone")
        return await super().take(limits, costs, now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Flaky:
    store = Flaky(clock=clock)
    store.set_mode("enforce")
    return store


@pytest.fixture
def limiter() -> FlakyLimiter:
    return FlakyLimiter()


@pytest.fixture
def api(store: Flaky, clock: Clock, limiter: FlakyLimiter) -> httpx.AsyncClient:
    settings = ApiSettings(refresh_s=1e-9, plan_header="X-Plan", tokens_header="X-Tokens")
    app = create_app(store, settings, clock=clock, limiter=limiter)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://velvetrope")


def set_policy(store: Flaky, *limits: StaticLimit, **changes: Any) -> None:
    store.set_policy(StaticPolicy(limits=limits, **changes).encode())


async def statuses(
    api: httpx.AsyncClient, times: int, path: str = "/authorize/forward", **headers: str
) -> list[int]:
    sent = {**ACCOUNT, **headers}
    return [(await api.get(path, headers=sent)).status_code for _ in range(times)]


async def test_a_static_limit_holds_without_any_decision(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    set_policy(store, ANY)
    assert await statuses(api, 5) == [200] * 4 + [429]
    assert await statuses(api, 1, **{"X-Account": "acct-2"}) == [200]


async def test_a_refusal_by_a_static_limit_names_it(store: Flaky, api: httpx.AsyncClient) -> None:
    set_policy(store, ANY)
    await statuses(api, 4)
    refused = await api.get("/authorize/nginx", headers=ACCOUNT)
    assert refused.json()["violated-policies"] == ["plan-requests"]
    assert refused.headers["ratelimit-policy"] == '"plan-requests";q=60;w=60'
    assert refused.headers["x-velvetrope-action"] == "throttle"
    assert refused.headers["x-velvetrope-level"] == "0"


async def test_the_plan_is_that_of_the_key_or_of_the_gateways_header(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    set_policy(store, FREE, ANY)
    store.set_identity(KEY_HASH, Identity(account="acct-7", plan="free"))
    assert await statuses(api, 3, Authorization=f"Bearer {KEY}") == [200, 200, 429]
    assert await statuses(api, 3, **{"X-Plan": "free"}) == [200, 200, 429]
    assert await statuses(api, 3, **{"X-Account": "acct-3"}) == [200, 200, 200]


async def test_a_costly_endpoint_has_a_stricter_cap(store: Flaky, api: httpx.AsyncClient) -> None:
    set_policy(store, ANY, COSTLY)
    assert await statuses(api, 2, "/authorize/envoy/v1/completions") == [200, 429]
    assert await statuses(api, 2, "/authorize/envoy/v1/chat") == [200, 200]


async def test_a_throttled_account_is_charged_to_both_or_to_none(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    set_policy(store, ANY)
    store.apply([decision(params={"rate_per_min": 6.0, "burst": 1, "bucket": "b"})])
    assert await statuses(api, 5) == [200, 429, 429, 429, 429]
    allowed = await api.get("/authorize/forward", headers={"X-Account": "acct-2"})
    assert allowed.headers["ratelimit"] == '"plan-requests";r=3;t=1'


@pytest.mark.parametrize("mode", ["shadow", "off"])
async def test_static_limits_refuse_nobody_unless_the_mode_is_enforce(
    store: Flaky, api: httpx.AsyncClient, mode: Any
) -> None:
    set_policy(store, ANY)
    store.set_mode(mode)
    assert await statuses(api, 6) == [200] * 6


async def test_the_allowlist_beats_static_limits(store: Flaky, api: httpx.AsyncClient) -> None:
    set_policy(store, ANY)
    store.allow(AllowEntry(scope="account", value="acct-1"))
    assert await statuses(api, 6) == [200] * 6


async def test_a_policy_that_somebody_broke_leaves_the_former_one(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    set_policy(store, ANY)
    await statuses(api, 1)
    store.set_policy(b"nonsense")
    assert await statuses(api, 4) == [200, 200, 200, 429]


async def test_tokens_are_charged_by_an_estimate_and_settled_afterwards(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    set_policy(store, StaticLimit(name="plan", tokens_per_day=1000))
    sent = {**ACCOUNT, "X-Tokens": "800"}
    first = await api.get("/authorize/nginx", headers=sent)
    assert first.headers["ratelimit"].startswith('"plan-tokens-day";r=200;')
    assert (await api.get("/authorize/nginx", headers=sent)).status_code == 403
    settled = await api.post(
        "/v1/settle", json={"charge": first.headers["x-velvetrope-charge"], "tokens": 100}
    )
    assert settled.status_code == 204
    second = await api.get("/authorize/nginx", headers=sent)
    assert second.headers["ratelimit"].startswith('"plan-tokens-day";r=100;')


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"charge": "!", "tokens": 1}', b'{"charge": "k", "tokens": -1}']
)
async def test_what_is_no_charge_is_422(api: httpx.AsyncClient, body: bytes) -> None:
    assert (await api.post("/v1/settle", content=body)).status_code == 422


# -- the store, or the limiter's state, away -----------------------------------------------------


def go_away(store: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the store away, for so long that the copy is too old."""
    store.away = True
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 60.0)
    monkeypatch.setattr("responders.gateways.view.time", later)


async def test_a_block_that_fails_closed_goes_on_while_the_store_is_away(
    store: Flaky, api: httpx.AsyncClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_policy(store, fail_closed=("block",))
    block = blocked()
    store.apply([block])
    assert await statuses(api, 1) == [403]
    go_away(store, monkeypatch)
    assert await statuses(api, 1) == [403]
    assert await statuses(api, 1, **{"X-Account": "acct-2"}) == [503]
    clock.now = block.expires_at
    assert await statuses(api, 1) == [503]


async def test_a_block_that_fails_open_is_503_while_the_store_is_away(
    store: Flaky, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply([blocked()])
    assert await statuses(api, 1) == [403]
    go_away(store, monkeypatch)
    assert await statuses(api, 1) == [503]


@pytest.mark.parametrize(("closed", "status"), [(("throttle",), 429), ((), 200)])
async def test_a_throttle_without_its_limiter_fails_as_set(
    store: Flaky, api: httpx.AsyncClient, limiter: FlakyLimiter, closed: Any, status: int
) -> None:
    set_policy(store, fail_closed=closed)
    store.apply([decision()])
    await statuses(api, 1)
    limiter.away = True
    answer = await api.get("/authorize/forward", headers=ACCOUNT)
    assert answer.status_code == status
    assert (answer.headers.get("retry-after") is not None) == (status == 429)


async def test_an_account_that_is_no_utf_8_is_limited_like_any_other(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    set_policy(store, StaticLimit(name="plan", rate_per_min=6.0, tokens_per_min=9.0))
    headers = [(b"X-Account", b"caf\xe9"), (b"X-Tokens", b"5")]
    answers = [await api.get("/authorize/forward", headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[0].headers["x-velvetrope-account"] == r"caf\xe9"


async def test_decisions_of_other_programs_are_no_error_for_whom_they_are_about(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    store.apply([decision(1, params={"rate_per_min": 0}), decision(1, value="b", params={})])
    store.apply([decision(1, value=name, params={"rate_per_min": 6}) for name in ("c", "d")])
    assert await statuses(api, 2) == [200, 200]
    assert await statuses(api, 2, **{"X-Account": "c"}) == [200, 429]
    assert await statuses(api, 1, **{"X-Account": "d"}) == [200]
