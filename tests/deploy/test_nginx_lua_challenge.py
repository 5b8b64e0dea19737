"""Challenges at deploy/nginx-lua: issued by the verdict API, known to nginx from Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from velvetrope_client.proof import ProofTransport

from responders.actions.challenge import page_keys
from responders.settings import ChallengeSettings
from tests.deploy.battery import SECRET, Person, VerdictApi, verdict_api
from tests.deploy.challenges import KEYRING, PAGE, keys_of
from tests.deploy.gateway import Gateway, Model, served
from tests.deploy.lua_gateway import lua_gateway
from tests.real_redis import RedisServer

PAGE_KEYS = jwt.PyJWKSet.from_dict(page_keys(KEYRING))


@dataclass
class Asked:
    """A gateway and somebody whom it challenges."""

    gateway: Gateway
    api: VerdictApi
    person: Person

    def post(self) -> httpx.Response:
        return self.gateway.post(self.person.key)

    def ticket(self) -> str:
        url = urlsplit(self.post().json()["authenticate_at"])
        assert f"{url.scheme}://{url.netloc}{url.path}" == PAGE
        return parse_qs(url.query)["ticket"][0]


@pytest.fixture
def asked(redis_running: RedisServer, tmp_path: Path) -> Iterator[Asked]:
    keys = keys_of(tmp_path)
    challenge = ChallengeSettings(keys=keys, proof=True, tries=5)
    with (
        verdict_api(redis_running, challenge=challenge, challenge_url=PAGE) as api,
        served(Model().handler()) as model_port,
        lua_gateway(
            redis_running.url,
            model_port,
            prefix=api.store.settings.prefix,
            replace={
                "        location / {": "        include velvetrope/challenge.conf;\n"
                "        location / {",
                "http://127.0.0.1:8470": f"http://127.0.0.1:{api.port}",
                'X-Velvetrope-Secret ""': f"X-Velvetrope-Secret {SECRET}",
            },
            keys_file=str(keys),
            challenge_url=PAGE,
            challenge_place="/challenge",
            passed_burst=3,
        ) as gateway,
    ):
        running = Asked(gateway, api, api.person())
        api.decide(running.person, "challenge", params={"difficulty": 2})
        deadline = time.monotonic() + 1
        while running.post().status_code != 401:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield running


def test_a_client_that_pays_goes_on_at_once_and_at_a_rate(asked: Asked) -> None:
    headers = {"Authorization": f"Bearer {asked.person.key}"}
    url = asked.gateway.client.base_url
    with httpx.Client(transport=ProofTransport(), base_url=url) as client:
        answer = client.post("/v1/x", headers=headers)
    assert answer.status_code == 200
    assert answer.json()["x-velvetrope-action"] == "challenge"
    assert [asked.post().status_code for _ in range(3)] == [200, 200, 429]


def test_a_harder_challenge_is_asked_again(asked: Asked) -> None:
    headers = {"Authorization": f"Bearer {asked.person.key}"}
    url = asked.gateway.client.base_url
    with httpx.Client(transport=ProofTransport(), base_url=url) as client:
        assert client.post("/v1/x", headers=headers).status_code == 200
    asked.api.decide(asked.person, "challenge", id="d-harder", params={"difficulty": 3})
    deadline = time.monotonic() + 1
    while asked.post().status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_ticket_for_the_page_is_what_the_verdict_api_would_sign(asked: Asked) -> None:
    ticket = asked.ticket()
    kid = jwt.get_unverified_header(ticket)["kid"]
    claims = jwt.decode(ticket, PAGE_KEYS[kid].key, ["HS256"], audience="challenge-page")
    assert claims["sub"] == asked.person.account
    assert claims["difficulty"] == 2
    assert 590 < claims["exp"] - time.time() <= 601


def test_the_pages_word_lifts_the_challenge(asked: Asked) -> None:
    ticket = asked.ticket()
    kid = jwt.get_unverified_header(ticket)["kid"]
    key = PAGE_KEYS[kid].key
    claims = jwt.decode(ticket, key, ["HS256"], audience="challenge-page")
    token = jwt.encode(claims | {"aud": "velvetrope"}, key, "HS256", headers={"kid": kid})
    sent_back = asked.gateway.client.get("/challenge", params={"return": token})
    assert sent_back.status_code == 200
    assert asked.post().status_code == 200
