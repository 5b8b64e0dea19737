"""The verdict API behind a real HTTP server, with its default ages."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from responders.allowlist import AllowEntry
from responders.gateways.app import create_app
from responders.gateways.protocol import TolerantProtocol
from responders.settings import ApiSettings, RedisSettings
from responders.stores.base import DecisionStore
from responders.stores.memory import MemoryStore
from responders.stores.redis import RedisStore
from tests.real_redis import RedisServer, redis_server
from tests.responders.making import decision

ACCOUNT = {"X-Account": "acct-1"}
FOREVER = 4e9


@contextmanager
def serving(store: DecisionStore) -> Iterator[tuple[str, int]]:
    """The API on a free loopback port."""
    app = create_app(store, ApiSettings(key_header="Authorization"))
    config = uvicorn.Config(app, port=0, log_level="error", http=TolerantProtocol, lifespan="off")
    server = uvicorn.Server(config)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    until(lambda: server.started, within_s=10)
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = True
        thread.join()


def until(true: Callable[[], bool], *, within_s: float) -> float:
    """Poll; the seconds it took."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < within_s, "did not happen in time"
        time.sleep(0.005)
    return time.monotonic() - start


@pytest.fixture
def redis_store(redis_running: RedisServer) -> Iterator[RedisStore]:
    store = RedisStore(RedisSettings(url=redis_running.url, prefix=f"{uuid.uuid4().hex}:"))
    yield store
    store.close()


def test_every_change_holds_within_a_second(redis_store: RedisStore) -> None:
    redis_store.set_mode("enforce")
    with serving(redis_store) as (host, port), httpx.Client() as client:

        def status() -> int:
            url = f"http://{host}:{port}/authorize/forward"
            return client.get(url, headers=ACCOUNT).status_code

        assert status() == 200
        redis_store.apply([decision(1, action="block", expires_at=FOREVER)])
        until(lambda: status() == 403, within_s=1)
        redis_store.set_mode("off")
        until(lambda: status() == 200, within_s=1)
        redis_store.set_mode("enforce")
        until(lambda: status() == 403, within_s=1)
        redis_store.allow(AllowEntry(scope="account", value="acct-1"))
        until(lambda: status() == 200, within_s=1)
        redis_store.disallow("account", "acct-1")
        until(lambda: status() == 403, within_s=1)
        redis_store.rebuild([])
        until(lambda: status() == 200, within_s=1)


def first_line(address: tuple[str, int], head: bytes) -> bytes:
    """What the server answers to a request head."""
    with socket.create_connection(address) as client:
        client.sendall(head + b"Connection: close\r\n\r\n")
        return client.makefile("rb").readline()


@pytest.fixture(scope="module")
def blocking() -> Iterator[tuple[str, int]]:
    """An API that blocks acct-1."""
    store = MemoryStore()
    store.set_mode("enforce")
    store.apply([decision(1, action="block", expires_at=FOREVER)])
    with serving(store) as address:
        yield address


@pytest.mark.parametrize("target", [b"/a/%2e%2e/../b?x=%", b"//", b"/%ff%00", b"?a?b", b"/" * 8000])
def test_any_path_behind_the_prefix_reaches_envoys_handler(
    blocking: tuple[str, int], target: bytes
) -> None:
    head = b"PROPFIND /authorize/envoy" + target + b" HTTP/1.1\r\nHost: x\r\nX-Account: acct-1\r\n"
    assert first_line(blocking, head).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "field",
    [b"X-A: \x01", b"X-A: \x7f\x80\xff", b"Cookie: " + b"x" * 100_000, b"X-A:", b"X-A: \t a\t"],
)
def test_no_header_field_of_a_client_gets_it_past_its_decision(
    blocking: tuple[str, int], field: bytes
) -> None:
    head = b"GET /authorize/nginx HTTP/1.1\r\nHost: x\r\nX-Account: acct-1\r\n" + field + b"\r\n"
    assert first_line(blocking, head).startswith(b"HTTP/1.1 403 ")


def test_a_throttle_is_kept_in_redis_for_every_service(redis_store: RedisStore) -> None:
    redis_store.set_mode("enforce")
    redis_store.apply([decision(1, expires_at=FOREVER)])
    with serving(redis_store) as one, serving(redis_store) as other, httpx.Client() as client:
        statuses = [
            client.get(f"http://{host}:{port}/authorize/forward", headers=ACCOUNT).status_code
            for host, port in (one, other, one, other)
        ]
    assert statuses == [200, 200, 200, 429]


def test_an_api_whose_redis_is_away_is_ill_and_recovers() -> None:
    with redis_server() as server:
        store = RedisStore(RedisSettings(url=server.url))
        server.stop()
        with serving(store) as (host, port), httpx.Client() as client:

            def status(path: str) -> int:
                return client.get(f"http://{host}:{port}{path}", headers=ACCOUNT).status_code

            assert status("/healthz") == 200
            assert status("/readyz") == 503
            assert status("/authorize/nginx") == 503
            server.start()
            until(lambda: status("/readyz") == 200, within_s=5)
            assert status("/authorize/nginx") == 200
        store.close()
