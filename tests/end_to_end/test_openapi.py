"""docs/openapi.yaml and the real verdict API hold each other to their word, by schemathesis."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
import yaml
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route

from detector import formats
from detector.runners.ingest import Ingest
from detector.runners.ledger import Ledger
from responders.gateways.app import create_app
from responders.gateways.protocol import TolerantProtocol
from responders.settings import ApiSettings, ChallengeSettings
from responders.stores.sqlite import SqliteStore
from tests.responders.making import decision

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.yaml"
FOREVER = 4e9
KEYS = """
{"format": 1, "keys": [
  {"id": "2026-11", "secret": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}
]}
"""
schema = schemathesis.openapi.from_path(str(DOCUMENT))
# What a document says beyond its shape is for other tests: the names of the callers that are
# refused, and that any text may stand where a header or a query has one.
NOT_ABOUT = CHECKS.get_by_names(["positive_data_acceptance", "negative_data_rejection"])
ANY_METHOD = CHECKS.get_by_names(["unsupported_method"])


def application(folder: Path) -> Starlette:
    """The whole API of `velvetrope serve`, with a caller for each action."""
    keys = folder / "keys.json"
    keys.write_text(KEYS)
    state = folder / "velvetrope.db"
    store = SqliteStore(state)
    store.set_mode("enforce")
    actions = {"0": "throttle", "1": "challenge", "2": "poison", "3": "block"}
    store.apply(
        [
            decision(
                version,
                value=value,
                action=action,
                params={"rate_per_min": 6.0, "burst": 3, "bucket": "b"},
                expires_at=FOREVER,
            )
            for version, (value, action) in enumerate(actions.items(), start=1)
        ]
    )
    api = ApiSettings(challenge=ChallengeSettings(keys=keys, tries=1))
    ingest = Ingest(
        store,
        Ledger(store, state),
        {name: formats.get(name) for name in formats.names()},
        max_waiting=1_000_000,
        api=api,
        wake=lambda: None,
        dead_letters_kept=100,
    )
    return create_app(store, api, routes=[ingest.route()])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Starlette:
    return application(tmp_path_factory.mktemp("api"))


@pytest.fixture(scope="module")
def url(app: Starlette) -> Iterator[str]:
    config = uvicorn.Config(app, log_level="critical", http=TolerantProtocol, lifespan="off")
    server = uvicorn.Server(config)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield "http://{}:{}".format(*listening.getsockname())
    server.should_exit = True
    thread.join()


@schema.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_service_keeps_to_the_document(case: schemathesis.Case, url: str) -> None:
    relays = case.path.startswith(("/authorize/nginx", "/authorize/envoy", "/authorize/forward"))
    excluded = NOT_ABOUT + ANY_METHOD if relays else NOT_ABOUT
    case.call_and_validate(base_url=url, excluded_checks=excluded)


def test_every_route_is_in_the_document(app: Starlette) -> None:
    def path_of(route: BaseRoute) -> str:
        if isinstance(route, Route):
            return route.path
        path: str = route._path.decode()  # type: ignore[attr-defined]
        return f"{path}/{{path}}" if path == "/authorize/envoy" else path

    documented: dict[str, dict[str, Any]] = yaml.safe_load(DOCUMENT.read_text())["paths"]
    assert sorted(map(path_of, app.routes)) == sorted(documented)
    for route in app.routes:
        if isinstance(route, Route):
            methods = {method.lower() for method in route.methods or ()} - {"head"}
            assert methods <= documented[route.path].keys()
