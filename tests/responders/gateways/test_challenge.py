"""Challenges through the verdict API's HTTP, over memory and over a real Redis."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from pydantic import SecretStr
from velvetrope_client.keys import Keyring
from velvetrope_client.proof import solve

from responders.actions.challenge import PAGE_PURPOSE, Asked, Challenges
from responders.actions.throttle import MemoryLimiter
from responders.decisions import Decision
from responders.gateways.app import create_app
from responders.settings import ApiSettings, ChallengeSettings, RedisSettings
from responders.stores.base import DecisionStore, Identity
from responders.stores.memory import MemoryStore
from responders.stores.redis import RedisStore
from tests.real_redis import redis_server
from tests.responders.making import NOW, decision

KEYRING = Keyring.new("2026-11")
PAGE = "https://login.example.com/again?tenant=1"
ACCOUNT = {"X-Account": "acct-1"}
FORWARD = "/authorize/forward"


class Clock:
    """Event time that a test sets."""

    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, clock: Clock) -> Iterator[DecisionStore]:
    store: DecisionStore
    if request.param == "memory":
        store = MemoryStore(clock=clock)
    else:
        url = request.getfixturevalue("redis_running").url
        store = RedisStore(RedisSettings(url=url, prefix=f"{uuid.uuid4().hex}:"), clock=clock)
    store.set_mode("enforce")
    yield store
    store.close()


@pytest.fixture
def make_api(
    store: DecisionStore, clock: Clock, tmp_path: Path
) -> Callable[..., httpx.AsyncClient]:
    keys = tmp_path / "keys.json"
    keys.write_text(KEYRING.dump())

    def make(challenge: dict[str, Any] | None = None, **settings: Any) -> httpx.AsyncClient:
        fields = {"keys": keys, "tries": 2, "asks_per_min": 1000} | (challenge or {})
        api = ApiSettings(
            refresh_s=1e-9,
            challenge=ChallengeSettings(**fields),
            **({"challenge_url": PAGE} | settings),
        )
        app = create_app(store, api, clock=clock, limiter=MemoryLimiter())
        transport = httpx.ASGITransport(app=app)
        return httpx.AsyncClient(transport=transport, base_url="http://velvetrope")

    return make


@pytest.fixture
def api(make_api: Callable[..., httpx.AsyncClient]) -> httpx.AsyncClient:
    return make_api({"proof": True})


def challenged(version: int = 1, difficulty: int = 1, **changes: Any) -> Decision:
    fields = {"action": "challenge", "params": {"difficulty": difficulty}}
    return decision(version, **(fields | changes))


async def refused(api: httpx.AsyncClient, **headers: str) -> dict[str, Any]:
    """The document of a 401."""
    answer = await api.get(FORWARD, headers=ACCOUNT | headers)
    assert answer.status_code == 401
    document: dict[str, Any] = answer.json()
    return document


async def proof(api: httpx.AsyncClient) -> str:
    issued = await api.get((await refused(api))["challenge"])
    assert issued.status_code == 200
    return solve(issued.json())


def vouched(document: dict[str, Any], **changes: Any) -> str:
    """What the operator's page signs for the ticket in `authenticate_at`."""
    (ticket,) = parse_qs(urlsplit(document["authenticate_at"]).query)["ticket"]
    key = KEYRING.current.derive(PAGE_PURPOSE)
    claims = jwt.decode(ticket, key, ["HS256"], audience="challenge-page", issuer="velvetrope")
    claims |= {"iss": "challenge-page", "aud": "velvetrope"} | changes
    return jwt.encode(claims, key, "HS256", headers={"kid": KEYRING.current.id})


async def submit(api: httpx.AsyncClient, answer: str, **headers: str) -> httpx.Response:
    return await api.post("/challenge", json={"answer": answer}, headers=headers)


async def status(api: httpx.AsyncClient, **headers: str) -> int:
    return (await api.get(FORWARD, headers=ACCOUNT | headers)).status_code


async def counted(api: httpx.AsyncClient, outcome: str) -> float:
    line = f'velvetrope_challenges_total{{outcome="{outcome}"}} '
    lines = (await api.get("/metrics")).text.splitlines()
    return next((float(x.removeprefix(line)) for x in lines if x.startswith(line)), 0.0)


async def test_a_proof_submitted_once_lifts_the_challenge(
    store: DecisionStore, api: httpx.AsyncClient
) -> None:
    store.apply([challenged()])
    answer = await submit(api, await proof(api))
    assert (answer.status_code, answer.json()) == (200, {"passed": True, "expires_in": 600})
    allowed = await api.get(FORWARD, headers=ACCOUNT)
    assert allowed.status_code == 200
    assert allowed.headers["x-velvetrope-action"] == "challenge"
    assert await counted(api, "issued") == await counted(api, "passed") == 1


@pytest.mark.parametrize("path", [FORWARD, "/authorize/nginx", "/authorize/envoy/v1/chat"])
async def test_a_proof_in_a_header_lifts_it_for_that_request_and_the_next(
    store: DecisionStore, api: httpx.AsyncClient, path: str
) -> None:
    store.apply([challenged()])
    headers = ACCOUNT | {"Challenge-Answer": await proof(api)}
    assert (await api.get(path, headers=headers)).status_code == 200
    assert (await api.get(path, headers=ACCOUNT)).status_code == 200


async def test_the_pages_word_lifts_the_challenge_for_longer(
    store: DecisionStore, api: httpx.AsyncClient
) -> None:
    store.apply([challenged()])
    answer = await submit(api, vouched(await refused(api)))
    assert (answer.status_code, answer.json()["expires_in"]) == (200, 3600)
    assert await status(api) == 200


async def test_a_page_may_send_a_browser_back(store: DecisionStore, api: httpx.AsyncClient) -> None:
    store.apply([challenged()])
    token = vouched(await refused(api))
    assert (await api.get("/challenge", params={"return": token})).status_code == 200
    assert await status(api) == 200


async def test_passing_ends_no_decision_and_lasts_for_its_life(
    store: DecisionStore, api: httpx.AsyncClient, clock: Clock
) -> None:
    store.apply([challenged()])
    await submit(api, await proof(api))
    assert [d.action for d in store.changes().decisions] == ["challenge"]
    clock.now = NOW + 599
    assert await status(api) == 200
    clock.now = NOW + 600
    assert await status(api) == 401


async def test_a_renewal_no_stronger_stays_lifted_and_a_stronger_decision_asks_again(
    store: DecisionStore, api: httpx.AsyncClient
) -> None:
    store.apply([challenged(1, difficulty=2)])
    await submit(api, await proof(api))
    store.apply([challenged(2, difficulty=2)])
    assert await status(api) == 200
    store.apply([challenged(3, difficulty=3)])
    assert await status(api) == 401
    store.apply([decision(4, action="block")])
    assert await status(api) == 403


async def test_an_answer_to_a_weaker_challenge_does_not_lift_a_stronger_one(
    store: DecisionStore, api: httpx.AsyncClient
) -> None:
    store.apply([challenged(1)])
    weak = await proof(api)
    store.apply([challenged(2, difficulty=2)])
    assert await status(api, **{"Challenge-Answer": weak}) == 401


async def test_who_passed_goes_on_at_a_rate_that_a_campaign_shares(
    store: DecisionStore, make_api: Callable[..., httpx.AsyncClient]
) -> None:
    api = make_api({"proof": True, "rate_per_min": 6, "burst": 3})
    store.apply([challenged(n, value=f"acct-{n}", campaign="c-1") for n in (1, 2)])
    await submit(api, await proof(api))
    assert [await status(api) for _ in "123"] == [200, 200, 200]
    document = (await api.get(FORWARD, headers={"X-Account": "acct-2"})).json()
    issued = await api.get(document["challenge"])
    await submit(api, solve(issued.json()))
    over = await api.get(FORWARD, headers={"X-Account": "acct-2"})
    assert over.status_code == 429
    assert over.headers["ratelimit-policy"] == '"requests";q=6;w=60'


async def test_an_answer_counts_once(store: DecisionStore, api: httpx.AsyncClient) -> None:
    store.apply([challenged()])
    for answer in (await proof(api), vouched(await refused(api))):
        assert (await submit(api, answer)).status_code == 200
        assert (await submit(api, answer)).status_code == 403
    assert await counted(api, "replayed") == 2


async def test_of_many_who_bring_one_answer_at_once_one_passes(
    store: DecisionStore, api: httpx.AsyncClient
) -> None:
    store.apply([challenged()])
    answer = await proof(api)
    answers = await asyncio.gather(*(submit(api, answer) for _ in range(5)))
    assert sorted(a.status_code for a in answers) == [200, *[403] * 4]
    assert await counted(api, "replayed") == 4


async def test_an_answer_of_another_account_is_refused_and_not_used_up(
    store: DecisionStore, api: httpx.AsyncClient
) -> None:
    store.apply([challenged(1), challenged(2, value="acct-2")])
    answer = await proof(api)
    other = {"X-Account": "acct-2"}
    assert (await submit(api, answer, **other)).status_code == 403
    headers = other | {"Challenge-Answer": answer}
    assert (await api.get(FORWARD, headers=headers)).status_code == 401
    assert await counted(api, "other_account") == 2
    assert (await submit(api, answer, **ACCOUNT)).status_code == 200
    assert (await api.get(FORWARD, headers=other)).status_code == 401


async def test_forged_and_expired_answers_are_refused_and_counted(
    store: DecisionStore, api: httpx.AsyncClient
) -> None:
    store.apply([challenged()])
    asked = Asked(account="acct-1", decision="d-1", difficulty=1)
    settings = ChallengeSettings(tries=1)
    forged = solve(Challenges(Keyring.new("2026-11"), settings).issue(asked))
    old = solve(Challenges(KEYRING, settings, wall=lambda: 1.0).issue(asked))
    assert (await submit(api, forged)).json()["detail"].startswith("The answer is not valid")
    assert (await submit(api, old)).json()["detail"].startswith("The challenge has expired")
    assert [await counted(api, o) for o in ("forged", "expired", "passed")] == [1, 1, 0]
    assert await status(api) == 401


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"answer":1}', b"\xff", b"{}", b'{"answer":"x"}']
)
async def test_what_is_no_answer_is_refused(api: httpx.AsyncClient, body: bytes) -> None:
    assert (await api.post("/challenge", content=body)).status_code == 422


async def test_a_large_body_is_refused(api: httpx.AsyncClient) -> None:
    assert (await api.post("/challenge", content=b" " * 16_385)).status_code == 413


async def test_an_account_may_ask_and_answer_only_so_often(
    store: DecisionStore, make_api: Callable[..., httpx.AsyncClient]
) -> None:
    api = make_api({"proof": True, "asks_per_min": 1})
    store.apply([challenged()])
    place = (await refused(api))["challenge"]
    answers = [await api.get(place) for _ in range(7)]
    assert [a.status_code for a in answers] == [200] * 6 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert (await submit(api, solve(answers[0].json()))).status_code == 429


async def test_a_caller_without_a_ticket_is_known_by_the_gateways_headers(
    store: DecisionStore, api: httpx.AsyncClient
) -> None:
    assert (await api.get("/challenge", headers=ACCOUNT)).status_code == 404
    store.apply([challenged()])
    issued = await api.get("/challenge", headers=ACCOUNT)
    assert (await submit(api, solve(issued.json()))).status_code == 200
    assert await status(api) == 200
    assert (await api.get("/challenge", headers={"X-Account": "acct-2"})).status_code == 404


@pytest.mark.parametrize(
    ("settings", "page", "challenge"),
    [
        ({"challenge_url": PAGE}, True, False),
        ({"challenge_url": PAGE, "proof": True}, True, True),
        ({"challenge_url": None}, False, True),
        ({"challenge_url": None, "proof": False}, False, False),
        ({"challenge_url": PAGE, "keys": None, "proof": True}, True, False),
    ],
)
async def test_the_page_comes_first_and_a_proof_is_offered_where_there_is_none(
    store: DecisionStore,
    make_api: Callable[..., httpx.AsyncClient],
    settings: dict[str, Any],
    page: bool,
    challenge: bool,
) -> None:
    own = {name: value for name, value in settings.items() if name != "challenge_url"}
    api = make_api(own, challenge_url=settings["challenge_url"])
    store.apply([challenged()])
    document = await refused(api)
    assert ("authenticate_at" in document, "challenge" in document) == (page, challenge)
    issued = await api.get("/challenge", headers=ACCOUNT)
    assert issued.status_code == (200 if challenge else 404)


async def test_without_keys_a_challenge_ends_with_its_decision_alone(
    store: DecisionStore, make_api: Callable[..., httpx.AsyncClient]
) -> None:
    api = make_api({"keys": None})
    store.apply([challenged()])
    assert (await refused(api))["authenticate_at"] == PAGE
    assert (await submit(api, "x")).status_code == 404
    assert await status(api, **{"Challenge-Answer": "x"}) == 401


async def test_no_score_signal_or_threshold_is_told(
    store: DecisionStore, api: httpx.AsyncClient
) -> None:
    store.apply([challenged()])
    document = await refused(api)
    told = [json.dumps(document), (await api.get(document["challenge"])).text]
    told.append(str(jwt.decode(vouched(document), options={"verify_signature": False})))
    for secret in ("2310", "self_similarity", "extraction", "asks too broadly", "0.37"):
        assert not [text for text in told if secret in text]


async def test_nginx_is_given_the_document_in_a_header(
    store: DecisionStore, api: httpx.AsyncClient
) -> None:
    store.apply([challenged()])
    answer = await api.get("/authorize/nginx", headers=ACCOUNT)
    assert json.loads(answer.headers["x-velvetrope-document"]) == answer.json()


async def test_litellms_users_are_told_where_and_pass_by_their_ticket(
    store: DecisionStore, make_api: Callable[..., httpx.AsyncClient]
) -> None:
    place = "https://velvetrope.example.com/challenge"
    api = make_api({"proof": True, "place": place})
    store.apply([challenged(value="user-7")])
    guard = {
        "input_type": "request",
        "request_data": {"user_api_key_hash": "a" * 64, "user_api_key_user_id": "user-7"},
    }
    path = "/beta/litellm_basic_guardrail_api"
    blocked = (await api.post(path, json=guard)).json()
    assert blocked["action"] == "BLOCKED"
    url = blocked["blocked_reason"].rpartition(" ")[2]
    assert url.startswith(f"{place}?ticket=")
    # Whoever asks there brings a key of LiteLLM's, which names no account here.
    key = {"Authorization": "Bearer sk-of-user-7"}
    issued = await api.get(url.removeprefix("https://velvetrope.example.com"), headers=key)
    assert (await submit(api, solve(issued.json()), **key)).status_code == 200
    assert (await api.post(path, json=guard)).json() == {"action": "NONE"}


async def test_a_key_with_an_identity_answers_for_its_account_alone(
    store: DecisionStore, api: httpx.AsyncClient
) -> None:
    hashed = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"  # of "secret"
    store.set_identity(hashed, Identity(account="acct-2"))
    store.apply([challenged()])
    answer = await proof(api)
    assert (await submit(api, answer, Authorization="Bearer secret")).status_code == 403


async def test_without_the_secret_headers_name_nobody_and_tokens_count(
    store: DecisionStore, make_api: Callable[..., httpx.AsyncClient]
) -> None:
    api = make_api({"proof": True}, secret="s3cret")
    store.apply([challenged()])
    secret = {"X-Velvetrope-Secret": "s3cret"}
    assert (await api.get("/challenge", headers=ACCOUNT | secret)).status_code == 200
    assert (await api.get("/challenge", headers=ACCOUNT)).status_code == 404
    place = (await refused(api, **secret))["challenge"]
    answer = solve((await api.get(place)).json())
    forged = {"X-Account": "acct-2"}
    assert (await submit(api, answer, **forged)).status_code == 200
    assert await status(api, **secret) == 200


async def test_the_kill_switch_asks_nothing_of_anyone(
    store: DecisionStore, api: httpx.AsyncClient
) -> None:
    store.apply([challenged()])
    store.set_mode("off")
    assert await status(api) == 200
    assert (await api.get("/challenge", headers=ACCOUNT)).status_code == 404


async def test_the_browsers_client_is_served(api: httpx.AsyncClient) -> None:
    answer = await api.get("/challenge/client.js")
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "export async function fetchAnswering" in answer.text


def test_a_keyring_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")
    settings = ApiSettings(challenge=ChallengeSettings(keys=tmp_path / "keys.json"))
    with pytest.raises(ValueError, match=r"keys\.json"):
        create_app(MemoryStore(), settings)


@pytest.mark.parametrize("url", ["javascript:alert(1)", "login", 'https://x/"', "https://x/\\", ""])
def test_an_address_that_could_not_stand_in_a_document_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="challenge_url"):
        ApiSettings(challenge_url=url)


async def test_no_work_is_lost_on_a_store_that_is_away(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(KEYRING.dump())
    settings = ApiSettings(
        refresh_s=1e-9, challenge=ChallengeSettings(keys=tmp_path / "keys.json", tries=2)
    )
    with redis_server() as server:
        store = RedisStore(RedisSettings(url=SecretStr(server.url)), clock=clock)
        app = create_app(store, settings, clock=clock, limiter=MemoryLimiter())
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://velvetrope") as api:
            store.set_mode("enforce")
            store.apply([challenged()])
            answer = await proof(api)
            server.stop()
            assert (await submit(api, answer)).status_code == 503
            server.start()
            assert (await submit(api, answer)).status_code == 200
        store.close()
