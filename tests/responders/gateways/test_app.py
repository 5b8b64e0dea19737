"""The verdict API, through its HTTP."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from responders.allowlist import AllowEntry
from responders.decisions import AppliesTo, Decision
from responders.feedback import RunMode
from responders.gateways.app import create_app
from responders.settings import ApiSettings
from responders.stores.base import Changes, Identity, StoreUnavailable
from responders.stores.memory import MemoryStore
from tests.responders.making import NOW, decision

KEY = "sk-secret"
KEY_HASH = hashlib.sha256(KEY.encode()).hexdigest()


class Clock:
    """Event time that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Flaky(MemoryStore):
    """A store that a test can take away."""

    away = False

    def mode(self) -> RunMode:
        if self.away:
            raise StoreUnavailable("gone")
        return super().mode()

    def changes(self, since: str | None = None, limit: int = 10_000) -> Changes:
        if self.away:
            raise StoreUnavailable("gone")
        return super().changes(since, limit)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Flaky:
    store = Flaky(clock=clock)
    store.set_mode("enforce")
    return store


def client(store: MemoryStore, clock: Clock, **settings: Any) -> httpx.AsyncClient:
    app = create_app(store, ApiSettings(**settings), clock=clock)
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://velvetrope")


@pytest.fixture
def api(store: Flaky, clock: Clock) -> httpx.AsyncClient:
    return client(store, clock, refresh_s=1e-9)


def blocked(**changes: Any) -> Decision:
    return decision(**({"action": "block", "params": {}} | changes))


ACCOUNT = {"X-Account": "acct-1"}
HTTP_PATHS = ["/authorize/nginx", "/authorize/envoy/v1/chat", "/authorize/forward"]


@pytest.mark.parametrize("path", HTTP_PATHS)
async def test_without_a_decision_everyone_passes_with_all_headers(
    api: httpx.AsyncClient, path: str
) -> None:
    answer = await api.get(path, headers={**ACCOUNT, "X-Velvetrope-Action": "forged"})
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["x-velvetrope-action"] == "allow"
    assert answer.headers["x-velvetrope-level"] == "0"
    assert answer.headers["x-velvetrope-account"] == "acct-1"


async def test_a_caller_without_any_identity_passes_with_an_empty_account(
    api: httpx.AsyncClient,
) -> None:
    answer = await api.get("/authorize/nginx")
    assert (answer.status_code, answer.headers["x-velvetrope-account"]) == (200, "")


async def test_a_throttled_caller_gets_its_burst_and_then_429(
    store: Flaky, api: httpx.AsyncClient, clock: Clock
) -> None:
    store.apply([decision()])
    statuses = [(await api.get("/authorize/forward", headers=ACCOUNT)).status_code for _ in "12345"]
    assert statuses == [200, 200, 200, 429, 429]
    clock.now += 10.0  # 6 a minute
    answers = [await api.get("/authorize/forward", headers=ACCOUNT) for _ in "12"]
    assert [a.status_code for a in answers] == [200, 429]
    assert answers[0].headers["x-velvetrope-action"] == "throttle"


async def test_a_429_is_a_quota_problem_that_says_nothing_of_suspicion(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    store.apply([decision()])
    for _ in range(3):
        await api.get("/authorize/envoy", headers=ACCOUNT)
    answer = await api.get("/authorize/envoy", headers=ACCOUNT)
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "violated-policies": ["requests"],
    }
    assert 10 <= int(answer.headers["retry-after"]) <= 15
    assert answer.headers["ratelimit-policy"] == '"requests";q=6;w=60'
    assert answer.headers["ratelimit"] == '"requests";r=0;t=30'
    assert not [name for name in answer.headers if name.startswith("x-velvetrope")]


async def test_nginx_is_told_the_status_to_answer(store: Flaky, api: httpx.AsyncClient) -> None:
    store.apply([decision()])
    for _ in range(3):
        await api.get("/authorize/nginx", headers=ACCOUNT)
    answer = await api.get("/authorize/nginx", headers=ACCOUNT)
    assert answer.status_code == 403
    assert answer.headers["x-velvetrope-status"] == "429"
    assert answer.headers["x-velvetrope-action"] == "throttle"
    assert answer.headers["x-velvetrope-level"] == "1"
    assert "retry-after" in answer.headers
    assert "ratelimit" in answer.headers
    assert "ratelimit-policy" in answer.headers


@pytest.mark.parametrize(
    ("action", "path", "status"),
    [
        ("block", "/authorize/nginx", 403),
        ("block", "/authorize/envoy", 403),
        ("block", "/authorize/forward", 403),
        ("challenge", "/authorize/nginx", 401),
        ("challenge", "/authorize/envoy", 401),
        ("challenge", "/authorize/forward", 401),
        ("poison", "/authorize/nginx", 200),
        ("poison", "/authorize/envoy", 200),
    ],
)
async def test_each_action_has_its_status(
    store: Flaky, api: httpx.AsyncClient, action: str, path: str, status: int
) -> None:
    store.apply([decision(action=action, params={})])
    assert (await api.get(path, headers=ACCOUNT)).status_code == status


async def test_a_poisoned_caller_is_allowed_within_its_rate_and_marked(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    store.apply([decision(action="poison")])
    answers = [await api.get("/authorize/forward", headers=ACCOUNT) for _ in "1234"]
    assert [a.status_code for a in answers] == [200, 200, 200, 429]
    assert answers[0].headers["x-velvetrope-action"] == "poison"


async def test_a_block_tells_of_abnormal_usage_and_nothing_more(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    store.apply([blocked()])
    answer = await api.get("/authorize/forward", headers=ACCOUNT)
    kind = "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"
    assert answer.json()["type"] == kind
    told = answer.text + str(answer.headers)
    for secret in ("2310", "self_similarity", "extraction", "asks too broadly", "acct-1", "d-1"):
        assert secret not in told


async def test_a_challenge_names_where_to_authenticate(store: Flaky, clock: Clock) -> None:
    store.apply([decision(action="challenge")])
    api = client(store, clock, challenge_url="https://example.com/login")
    answer = await api.get("/authorize/forward", headers=ACCOUNT)
    assert answer.json()["authenticate_at"] == "https://example.com/login"
    assert "insufficient_user_authentication" in answer.headers["www-authenticate"]


@pytest.mark.parametrize("mode", ["off", "shadow"])
async def test_the_kill_switch_allows_everything(
    store: Flaky, api: httpx.AsyncClient, mode: RunMode
) -> None:
    store.apply([blocked()])
    assert (await api.get("/authorize/nginx", headers=ACCOUNT)).status_code == 403
    store.set_mode(mode)
    answer = await api.get("/authorize/nginx", headers=ACCOUNT)
    assert (answer.status_code, answer.headers["x-velvetrope-action"]) == (200, "allow")


async def test_a_shadow_decision_is_not_enforced(store: Flaky, api: httpx.AsyncClient) -> None:
    store.apply([blocked(mode="shadow")])
    assert (await api.get("/authorize/nginx", headers=ACCOUNT)).status_code == 200


async def test_an_expired_decision_is_not_enforced(
    store: Flaky, api: httpx.AsyncClient, clock: Clock
) -> None:
    store.apply([blocked()])
    clock.now = NOW + 3600
    assert (await api.get("/authorize/nginx", headers=ACCOUNT)).status_code == 200


async def test_a_clear_ends_enforcement(store: Flaky, api: httpx.AsyncClient) -> None:
    store.apply([blocked()])
    assert (await api.get("/authorize/nginx", headers=ACCOUNT)).status_code == 403
    store.apply([decision(2, action="clear", level=0)])
    assert (await api.get("/authorize/nginx", headers=ACCOUNT)).status_code == 200


async def test_the_allowlist_beats_every_decision(store: Flaky, api: httpx.AsyncClient) -> None:
    store.apply([blocked()])
    store.allow(AllowEntry(scope="account", value="acct-1", reason="our own tests"))
    answer = await api.get("/authorize/nginx", headers=ACCOUNT)
    assert (answer.status_code, answer.headers["x-velvetrope-action"]) == (200, "allow")


async def test_the_strongest_of_all_matching_scopes_wins(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    store.set_identity(KEY_HASH, Identity(account="acct-1", org="org-1"))
    store.apply(
        [
            decision(3),
            blocked(version=2, scope="org", value="org-1"),
            decision(4, scope="api_key", value=f"sha256:{KEY_HASH}", action="challenge"),
        ]
    )
    answer = await api.get("/authorize/nginx", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.headers["x-velvetrope-action"] == "block"


@pytest.mark.parametrize("value", [f"Bearer {KEY}", f"bearer  {KEY} ", KEY])
async def test_a_key_is_known_by_its_hash(store: Flaky, api: httpx.AsyncClient, value: str) -> None:
    store.set_identity(KEY_HASH, Identity(account="acct-1"))
    answer = await api.get("/authorize/nginx", headers={"Authorization": value})
    assert answer.headers["x-velvetrope-account"] == "acct-1"


async def test_the_account_of_a_key_beats_a_header_beats_the_key(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    store.set_identity(KEY_HASH, Identity(account="acct-of-key"))
    other = hashlib.sha256(b"other").hexdigest()
    accounts = [
        (await api.get("/authorize/nginx", headers=headers)).headers["x-velvetrope-account"]
        for headers in (
            {**ACCOUNT, "Authorization": f"Bearer {KEY}"},
            {**ACCOUNT, "Authorization": "Bearer other"},
            {"Authorization": "Bearer other"},
        )
    ]
    assert accounts == ["acct-of-key", "acct-1", f"sha256:{other}"]


async def test_forwarded_addresses_are_not_believed_unless_a_header_is_named(
    store: Flaky, api: httpx.AsyncClient, clock: Clock
) -> None:
    store.apply([blocked(scope="cidr", value="203.0.113.0/24")])
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9"}
    assert (await api.get("/authorize/nginx", headers=headers)).status_code == 200
    named = client(store, clock, ip_header="X-Real-IP")
    answer = await named.get("/authorize/nginx", headers=headers)
    assert answer.status_code == 403
    assert answer.headers["x-velvetrope-account"] == "ip:203.0.113.9"
    other = {"X-Real-IP": "203.0.114.9"}
    assert (await named.get("/authorize/nginx", headers=other)).status_code == 200


async def test_a_decision_about_some_endpoints_leaves_the_others_alone(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    store.apply([blocked(applies_to=AppliesTo(endpoints=("/v1/chat/*",)))])
    uris = ["/v1/chat/completions?x=/v1/embeddings", "/v1/embeddings"]
    nginx = [
        (await api.get("/authorize/nginx", headers={**ACCOUNT, "X-Original-URI": uri})).status_code
        for uri in uris
    ]
    envoy = [(await api.get(f"/authorize/envoy{uri}", headers=ACCOUNT)).status_code for uri in uris]
    assert nginx == envoy == [403, 200]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize(
    "path", ["", "/", "/a//b/../c", "/%2e%2e/%ff", "*", "/v1?key=a&b=%zz", "/authorize/nginx"]
)
async def test_envoy_may_send_any_method_and_path(
    store: Flaky, api: httpx.AsyncClient, method: str, path: str
) -> None:
    store.apply([blocked()])
    answer = await api.request(method, f"/authorize/envoy{path}", headers=ACCOUNT)
    assert answer.status_code == 403


async def test_account_names_cannot_break_out_of_their_header(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    store.set_identity(KEY_HASH, Identity(account="a\r\nX-Evil: 1"))
    answer = await api.get("/authorize/nginx", headers={"Authorization": KEY})
    assert answer.headers["x-velvetrope-account"] == "a%0D%0AX-Evil: 1"


async def test_account_names_beyond_ascii_match(store: Flaky, api: httpx.AsyncClient) -> None:
    store.apply([blocked(value="Zoë")])
    headers = {b"x-account": "Zoë".encode()}
    answer = await api.get("/authorize/forward", headers=headers)
    assert answer.status_code == 403
    other = await api.get("/authorize/forward", headers={b"x-account": "Zoé".encode()})
    assert (b"x-velvetrope-account", "Zoé".encode()) in other.headers.raw


KONG = {"input": {"request": {"http": {"method": "POST", "path": "/", "headers": ACCOUNT}}}}
APISIX = {"input": {"type": "http", "request": {"path": "/", "headers": {"x-account": ["acct-1"]}}}}


@pytest.mark.parametrize("query", [KONG, APISIX])
async def test_opa_allows_and_refuses(
    store: Flaky, api: httpx.AsyncClient, query: dict[str, Any]
) -> None:
    answer = await api.post("/authorize/opa", json=query)
    result = answer.json()["result"]
    assert (answer.status_code, result["allow"]) == (200, True)
    assert result["headers"]["X-Velvetrope-Account"] == "acct-1"
    store.apply([decision(action="block", params={})])
    answer = await api.post("/authorize/opa", json=query)
    result = answer.json()["result"]
    assert (answer.status_code, result["allow"], result["status"]) == (200, False, 403)
    assert json.loads(result["body"])["type"].endswith("#abnormal-usage-detected")
    assert json.loads(result["body"]) == result["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"input": 1}', b"\xff", b'{"input": {}}'])
async def test_opa_refuses_what_is_no_query(api: httpx.AsyncClient, body: bytes) -> None:
    assert (await api.post("/authorize/opa", content=body)).status_code == 422


GUARD = {
    "input_type": "request",
    "texts": ["hi"],
    "request_data": {"user_api_key_hash": KEY_HASH, "user_api_key_user_id": "acct-1"},
    "model": "gpt",
}
LITELLM = "/beta/litellm_basic_guardrail_api"


async def test_litellm_is_told_none_or_blocked(store: Flaky, api: httpx.AsyncClient) -> None:
    answer = await api.post(LITELLM, json=GUARD)
    assert (answer.status_code, answer.json()) == (200, {"action": "NONE"})
    store.apply([decision()])
    answers = [await api.post(LITELLM, json=GUARD) for _ in "1234"]
    assert [a.json()["action"] for a in answers] == ["NONE", "NONE", "NONE", "BLOCKED"]
    assert {a.status_code for a in answers} == {200}
    assert "Retry after" in answers[-1].json()["blocked_reason"]


async def test_litellms_response_side_passes_and_costs_nothing(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    store.apply([decision()])
    for _ in range(5):
        answer = await api.post(LITELLM, json={**GUARD, "input_type": "response"})
        assert answer.json() == {"action": "NONE"}
    assert (await api.post(LITELLM, json=GUARD)).json() == {"action": "NONE"}


async def test_litellm_callers_without_a_user_are_their_key(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    store.apply([blocked(value=f"sha256:{KEY_HASH}")])
    only_key = {**GUARD, "request_data": {"user_api_key_hash": KEY_HASH}}
    assert (await api.post(LITELLM, json=only_key)).json()["action"] == "BLOCKED"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
async def test_litellm_bodies_that_are_no_object_are_refused(
    api: httpx.AsyncClient, body: bytes
) -> None:
    assert (await api.post(LITELLM, content=body)).status_code == 422


async def test_bodies_past_the_limit_are_refused(store: Flaky, clock: Clock) -> None:
    api = client(store, clock, max_body_bytes=1024)
    for path in (LITELLM, "/authorize/opa"):
        assert (await api.post(path, content=b" " * 1025)).status_code == 413


async def test_the_feed_gives_a_snapshot_then_changes_then_410(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    store.apply([blocked()])
    snapshot = (await api.get("/v1/decisions")).json()
    assert [d["value"] for d in snapshot["decisions"]] == ["acct-1"]
    assert "evidence" not in snapshot["decisions"][0]
    assert snapshot["mode"] == "enforce"
    store.apply([decision(2, action="clear", level=0)])
    after = (await api.get("/v1/decisions", params={"since": snapshot["cursor"]})).json()
    assert [d["action"] for d in after["decisions"]] == ["clear"]
    store.rebuild([])
    gone = await api.get("/v1/decisions", params={"since": after["cursor"]})
    assert gone.status_code == 410


def test_off_loopback_a_secret_is_needed(store: Flaky) -> None:
    with pytest.raises(ValueError, match=r"api\.secret must be set"):
        create_app(store, ApiSettings(host="0.0.0.0"))
    create_app(store, ApiSettings(host="0.0.0.0", secret="s3cret"))


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_secret_is_none(store: Flaky, empty: str) -> None:
    with pytest.raises(ValueError, match=r"api\.secret must be set"):
        create_app(store, ApiSettings(host="0.0.0.0", secret=empty))


@pytest.mark.parametrize("status", [200, 302, 500])
def test_a_block_is_a_refusal_that_gateways_relay(status: int) -> None:
    with pytest.raises(ValueError, match="status_block"):
        ApiSettings(status_block=status)


@pytest.mark.parametrize("name", ["", "X-Account ", "X Account", "X-Äccount"])
def test_a_header_that_cannot_come_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="account_header"):
        ApiSettings(account_header=name)


async def test_the_secret_guards_every_way_in(store: Flaky, clock: Clock) -> None:
    store.apply([blocked()])
    api = client(store, clock, secret="s3cret")
    # 5xx: gateways fail as they are set to, rather than refuse every customer.
    for path in HTTP_PATHS:
        assert (await api.get(path, headers=ACCOUNT)).status_code == 503
        wrong = {**ACCOUNT, "X-Velvetrope-Secret": "s3cre"}
        assert (await api.get(path, headers=wrong)).status_code == 503
        right = {**ACCOUNT, "X-Velvetrope-Secret": "s3cret"}
        assert (await api.get(path, headers=right)).status_code == 403
    assert (await api.post("/authorize/opa", json=KONG)).status_code == 503
    assert (await api.post(LITELLM, json=GUARD)).status_code == 503
    assert (await api.get("/v1/decisions")).status_code == 401
    bearer = {"Authorization": "Bearer s3cret"}
    assert (await api.get("/v1/decisions", headers=bearer)).status_code == 200
    answer = await api.post(LITELLM, json=GUARD, headers={"x-api-key": "s3cret"})
    assert answer.json()["action"] == "BLOCKED"


async def test_a_callers_own_bearer_key_is_not_taken_for_the_secret(
    store: Flaky, clock: Clock
) -> None:
    api = client(store, clock, secret="s3cret")
    bearer = {"Authorization": "Bearer s3cret"}
    assert (await api.get("/authorize/nginx", headers=bearer)).status_code == 503


async def test_with_the_store_away_the_last_copy_serves_until_it_is_stale(
    store: Flaky, clock: Clock
) -> None:
    store.apply([blocked()])
    patient = client(store, clock, refresh_s=1e-9, stale_after_s=3600)
    hasty = client(store, clock, refresh_s=1e-9, stale_after_s=1e-9)
    for api in (patient, hasty):
        assert (await api.get("/authorize/nginx", headers=ACCOUNT)).status_code in (403, 503)
    store.away = True
    assert (await patient.get("/authorize/nginx", headers=ACCOUNT)).status_code == 403
    assert (await patient.get("/readyz")).status_code == 200
    assert (await hasty.get("/authorize/nginx", headers=ACCOUNT)).status_code == 503
    assert (await hasty.get("/readyz")).status_code == 503
    assert (await hasty.get("/v1/decisions")).status_code == 503
    assert (await hasty.get("/healthz")).status_code == 200


async def test_metrics_count_verdicts_and_show_the_copy(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    store.apply([blocked()])
    await api.get("/authorize/nginx", headers=ACCOUNT)
    await api.get("/authorize/envoy", headers={"X-Account": "acct-2"})
    text = (await api.get("/metrics")).text
    assert 'velvetrope_verdicts_total{gateway="nginx",outcome="refused"} 1.0' in text
    assert 'velvetrope_verdicts_total{gateway="envoy",outcome="allow"} 1.0' in text
    assert "velvetrope_enforced_decisions 1.0" in text
    assert 'velvetrope_mode{mode="enforce"} 1.0' in text


async def test_other_routes_can_be_mounted_beside(store: Flaky, clock: Clock) -> None:
    async def events(request: object) -> PlainTextResponse:
        return PlainTextResponse("mine", 202)

    app = create_app(
        store, ApiSettings(), clock=clock, routes=[Route("/v1/events", events, methods=["POST"])]
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as api:
        assert (await api.post("/v1/events")).status_code == 202


@pytest.mark.parametrize("path", ["/authorize/envoy/v1/chat", "/authorize/forward"])
async def test_of_two_keys_neither_hides_the_other(
    store: Flaky, api: httpx.AsyncClient, path: str
) -> None:
    store.set_identity(KEY_HASH, Identity(account="acct-1"))
    store.apply([blocked()])
    keys = [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer of nobody")]
    for order in (keys, keys[::-1]):
        assert (await api.get(path, headers=order)).status_code == 400
    assert (await api.get(path, headers=[keys[0], keys[0]])).status_code == 403


async def test_nobody_is_refused_for_two_keys_while_the_kill_switch_is_off(
    store: Flaky, api: httpx.AsyncClient
) -> None:
    store.set_mode("off")
    keys = [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer of nobody")]
    assert (await api.get("/authorize/forward", headers=keys)).status_code == 200


@pytest.mark.parametrize("scope", ["ip", "cidr"])
async def test_an_address_is_the_same_on_a_socket_for_both_kinds(
    store: Flaky, clock: Clock, scope: str
) -> None:
    store.apply([blocked(scope=scope, value="192.0.2.1" + "/32" * (scope == "cidr"))])
    api = client(store, clock, refresh_s=1e-9, ip_header="X-Real-IP")
    for address in ("192.0.2.1", "::ffff:192.0.2.1"):
        asked = await api.get("/authorize/forward", headers={"X-Real-IP": address})
        assert asked.status_code == 403


async def test_a_fault_of_ours_is_told_as_illness(store: Flaky, clock: Clock) -> None:
    async def faulty(request: Any) -> Any:
        raise RuntimeError("a fault")

    app = create_app(store, ApiSettings(), clock=clock, routes=[Route("/faulty", faulty)])
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://v") as api:
        answer = await api.get("/faulty")
    assert answer.status_code == 503
    assert "a fault" not in answer.text


@pytest.mark.parametrize("path", [LITELLM, "/authorize/opa"])
async def test_a_document_nested_too_deeply_is_no_illness(
    api: httpx.AsyncClient, path: str
) -> None:
    nested = b'{"input": %s%s}' % (b"[" * 5000, b"]" * 5000)
    assert (await api.post(path, content=nested)).status_code == 422
