"""Our answers at Traefik, APISIX and Kong, as documented (see documented.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy import documented
from tests.deploy.battery import SECRET, Battery, Door, Person, VerdictApi, verdict_api
from tests.deploy.gateway import served
from tests.real_redis import RedisServer

DEPLOY = Path(__file__).parents[2] / "deploy"


@contextmanager
def door(
    check: Callable[[int, str], documented.Check],
    api_port: int,
    model_port: int,
    *,
    patient: bool = False,
    secret: str = SECRET,
) -> Iterator[Door]:
    handler = documented.proxy(check(api_port, secret), model_port, api_port, secret)
    with (
        served(handler) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        yield Door(client)


class Documented(Battery):
    """What of the battery says something of our answers, and not of the gateway's own HTTP."""

    test_a_connection_header_does_not_drop_the_verdict = None  # type: ignore[assignment]


class TestTraefik(Documented):
    status_when_away = 500  # it cannot fail open

    @classmethod
    @contextmanager
    def open(cls, api_port: int, model_port: int, **settings: Any) -> Iterator[Door]:
        with door(documented.traefik, api_port, model_port, **settings) as opened:
            yield opened

    test_a_slow_service_is_answered_as_configured_and_soon = None  # type: ignore[assignment]

    def test_an_ill_service_is_answered_as_configured(
        self, api: VerdictApi, model_port: int
    ) -> None:
        with self.open(api.port, model_port, secret="wrong") as opened:
            assert opened.post(Person("", "somebody")).status_code == 503


class TestApisix(Documented):
    @classmethod
    @contextmanager
    def open(cls, api_port: int, model_port: int, **settings: Any) -> Iterator[Door]:
        with door(documented.apisix, api_port, model_port, **settings) as opened:
            yield opened

    def test_an_ill_service_is_answered_as_configured(
        self, api: VerdictApi, model_port: int
    ) -> None:
        with self.open(api.port, model_port, secret="wrong") as opened:
            assert opened.post(Person("", "somebody")).status_code == 503


class TestKong(Documented):
    status_when_away = 500  # it cannot fail open

    @pytest.fixture(scope="class")
    @classmethod
    def api(cls, redis_running: RedisServer) -> Iterator[VerdictApi]:
        with verdict_api(redis_running, secret=None) as running:
            yield running

    @classmethod
    @contextmanager
    def open(cls, api_port: int, model_port: int, **settings: Any) -> Iterator[Door]:
        with door(documented.kong, api_port, model_port, **settings) as opened:
            yield opened

    test_a_slow_service_is_answered_as_configured_and_soon = None  # type: ignore[assignment]
    test_no_forged_header_reaches_the_check = None  # type: ignore[assignment]
    test_an_ill_service_is_answered_as_configured = None  # type: ignore[assignment]


@pytest.mark.parametrize("file", ["kong/kong.yaml", "apisix/apisix.yaml"])
def test_the_pre_function_removes_what_is_modelled(file: str) -> None:
    text = (DEPLOY / file).read_text()
    assert re.search(r'lower == "x-account" or lower:find\("\^x%-velvetrope%-"\)', text)
