"""deploy/caddy on the real Caddy, in front of the real verdict API."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.battery import SECRET, Battery, Door, Person, verdict_api
from tests.deploy.gateway import Model, served
from tests.real_program import configured, free_port, program, running
from tests.real_redis import RedisServer

CONFIG = Path(__file__).parents[2] / "deploy" / "caddy" / "Caddyfile"


@contextmanager
def caddy(
    api_port: int,
    model_port: int,
    *,
    patient: bool = False,
    secret: str = SECRET,
    replace: dict[str, str] | None = None,
) -> Iterator[Door]:
    port = free_port()
    changes = {":8080 {": f"http://127.0.0.1:{port} {{"}
    if patient:
        changes["response_header_timeout 250ms"] = "response_header_timeout 10s"
    text = configured(CONFIG.read_text(), changes | (replace or {}))
    binary = program("caddy", "`apt-get install caddy`")
    command = [binary, "run", "--config", "{folder}/Caddyfile", "--adapter", "caddyfile"]
    env = {
        "VELVETROPE_SECRET": secret,
        "VELVETROPE_ADDRESS": f"127.0.0.1:{api_port}",
        "MODEL_ADDRESS": f"127.0.0.1:{model_port}",
    }
    with (
        running(command, {"Caddyfile": text}, port, env=env),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=15) as client,
    ):
        yield Door(client)


class TestCaddy(Battery):
    @classmethod
    @contextmanager
    def open(cls, api_port: int, model_port: int, **settings: Any) -> Iterator[Door]:
        with caddy(api_port, model_port, **settings) as door:
            yield door


def test_an_account_header_counts_where_it_is_trusted(redis_running: RedisServer) -> None:
    trusting = {"\trequest_header -X-Account\n": ""}
    with (
        verdict_api(redis_running) as api,
        served(Model().handler()) as port,
        caddy(api.port, port, patient=True, replace=trusting) as door,
    ):
        ada = api.person()
        api.decide(ada, "block")
        stranger = Person("", "key-of-nobody")
        deadline = time.monotonic() + 5
        while door.post(stranger, X_Account=ada.account).status_code != 403:
            assert time.monotonic() < deadline
        assert door.post(stranger).status_code == 200


def test_it_fails_closed_where_it_is_set_to() -> None:
    closed = {"@away vars velvetrope away": "@away vars velvetrope never"}
    with served(Model().handler()) as port, caddy(free_port(), port, replace=closed) as door:
        assert door.post(Person("", "somebody")).status_code == 502


def test_a_model_that_is_away_is_asked_once(redis_running: RedisServer) -> None:
    with verdict_api(redis_running) as api, caddy(api.port, free_port(), patient=True) as door:
        assert door.post(api.person()).status_code == 502
        assert len(api.asked) == 1
