"""Redis down, slow, read-only, flushed, failing over: the verdict API over a real one that is."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
import redis
import uvicorn

from responders.allowlist import AllowEntry
from responders.gateways.app import create_app
from responders.gateways.protocol import TolerantProtocol
from responders.settings import ApiSettings, RedisSettings
from responders.stores.base import Identity, StoreUnavailable
from responders.stores.redis import RedisStore
from tests.real_redis import RedisServer, redis_server
from tests.responders.making import decision

FOREVER = 4e9
BLOCKED = {"X-Account": "acct-1"}
STALE_AFTER_S = 1.5


class Api:
    """The verdict API over a Redis at a URL."""

    def __init__(self, url: str, address: tuple[str, int], client: httpx.Client) -> None:
        self.store = RedisStore(RedisSettings(url=url))
        self._base = f"http://{address[0]}:{address[1]}"
        self._client = client

    def status(self, **headers: str) -> int:
        """The status for acct-1, or another caller."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()} or BLOCKED
        return self._client.get(f"{self._base}/authorize/forward", headers=fields).status_code

    def seconds(self, status: int, *, within_s: float) -> float:
        """Ask until the status is that one; seconds that it took."""
        began = time.monotonic()
        while (found := self.status()) != status:
            assert time.monotonic() - began < within_s, f"{found}, never {status}"
            time.sleep(0.02)
        return time.monotonic() - began


@contextmanager
def serving(url: str, **settings: float) -> Iterator[Api]:
    store = RedisStore(RedisSettings(url=url))
    app = create_app(store, ApiSettings(**{"stale_after_s": STALE_AFTER_S, **settings}))
    config = uvicorn.Config(app, log_level="error", http=TolerantProtocol, lifespan="off")
    server = uvicorn.Server(config)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    with httpx.Client(timeout=10) as client:
        api = Api(url, listening.getsockname(), client)
        try:
            yield api
        finally:
            server.should_exit = True
            thread.join()
            api.store.close()
            store.close()


def fill(store: RedisStore) -> None:
    """What an apply stage makes of the topics: acct-1 is blocked, acct-2 throttled."""
    store.set_mode("enforce")
    params = {"rate_per_min": 60.0, "burst": 1000, "bucket": "account:acct-2"}
    store.allow(AllowEntry(scope="account", value="acct-3"))
    store.rebuild(
        [
            decision(1, action="block", params={}, expires_at=FOREVER),
            decision(2, value="acct-2", params=params, expires_at=FOREVER),
            decision(3, value="acct-3", action="block", params={}, expires_at=FOREVER),
        ]
    )


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def api(server: RedisServer) -> Iterator[Api]:
    with serving(server.url) as running:
        fill(running.store)
        running.seconds(403, within_s=5)
        assert running.status(X_Account="acct-3") == 200
        yield running


def for_seconds(seconds: float, look: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        look()
        time.sleep(0.02)


def test_while_redis_is_down_the_copy_serves_then_the_api_is_ill_then_it_recovers(
    server: RedisServer, api: Api
) -> None:
    server.stop()
    for_seconds(STALE_AFTER_S * 0.6, lambda: _is(api.status(), 403))
    assert api.status(X_Account="acct-3") == 200
    api.seconds(503, within_s=STALE_AFTER_S + 2)
    server.start()
    fill(api.store)
    api.seconds(403, within_s=5)


def test_a_slow_redis_holds_up_no_answer_that_the_copy_can_give(
    server: RedisServer, api: Api
) -> None:
    server.pause()
    longest = 0.0
    try:
        until = time.monotonic() + STALE_AFTER_S * 0.6
        while time.monotonic() < until:
            began = time.monotonic()
            assert api.status() == 403
            longest = max(longest, time.monotonic() - began)
        api.seconds(503, within_s=STALE_AFTER_S + 2)
        began = time.monotonic()
        assert api.status() == 503
        assert time.monotonic() - began < 1.0
    finally:
        server.resume()
    assert longest < 0.5
    api.seconds(403, within_s=5)


def test_callers_that_redis_was_never_asked_about_do_not_queue_up_behind_a_slow_one(
    server: RedisServer, api: Api
) -> None:
    server.pause()
    try:
        api.seconds(503, within_s=STALE_AFTER_S + 3)
        began = time.monotonic()
        for i in range(20):
            assert api.status(Authorization=f"Bearer new-key-{i}") == 503
        assert time.monotonic() - began < 2.0
    finally:
        server.resume()
    api.seconds(403, within_s=5)
    assert api.status(Authorization="Bearer new-key-1") == 200


def test_a_known_key_keeps_its_account_while_redis_is_down(server: RedisServer) -> None:
    with serving(server.url, identity_kept_s=0.01, stale_after_s=5.0) as api:
        fill(api.store)
        api.store.set_identity(
            "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
            Identity(account="acct-1"),
        )
        api.seconds(403, within_s=5)
        assert api.status(Authorization="Bearer secret") == 403
        server.stop()
        for_seconds(1.0, lambda: _is(api.status(Authorization="Bearer secret"), 403))


def test_a_flushed_redis_frees_nobody_until_it_is_filled_again(
    server: RedisServer, api: Api
) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        for_seconds(STALE_AFTER_S * 0.6, lambda: _is(api.status(), 403))
        assert api.status(X_Account="acct-3") == 200
        fill(api.store)
        for_seconds(STALE_AFTER_S * 1.2, lambda: _is(api.status(), 403))
        assert api.status(X_Account="acct-3") == 200


def test_over_a_read_only_replica_all_but_throttles_hold() -> None:
    with redis_server() as primary, redis_server() as replica:
        with RedisStoreOf(primary.url) as store:
            fill(store)
        with redis.Redis.from_url(replica.url) as client:
            client.replicaof("127.0.0.1", str(primary.port))
            _until(lambda: client.info("replication")["master_link_status"] == "up")
        with serving(replica.url) as api:
            api.seconds(403, within_s=5)
            assert (
                api.status(X_Account="acct-2") == 200
            )  # without its limiter a throttle fails open
            assert api.status(X_Account="acct-9") == 200
            assert api.status() == 403


class Address:
    """An address that leads to one server and then to another, as a failover's does."""

    def __init__(self, to_port: int) -> None:
        self.to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.to_port))
            except OSError:
                return
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def test_after_a_failover_the_new_primary_is_asked_and_written_to() -> None:
    with redis_server() as first, redis_server() as second:
        address = Address(first.port)
        with serving(address.url, stale_after_s=5.0) as api:
            fill(api.store)
            with redis.Redis.from_url(second.url) as two, redis.Redis.from_url(first.url) as one:
                two.replicaof("127.0.0.1", str(first.port))
                _until(lambda: two.info("replication")["master_link_status"] == "up")
                api.seconds(403, within_s=5)
                assert api.status(X_Account="acct-2") == 200
                # The old primary stays up, and becomes a replica: its connections stay open.
                two.replicaof("NO", "ONE")
                one.replicaof("127.0.0.1", str(second.port))
                address.to_port = second.port
                began = time.monotonic()
                # A throttle passes while its limiter has nowhere to write.
                while not two.keys("velvetrope:limit:*"):
                    assert time.monotonic() - began < 5
                    assert api.status() == 403
                    assert api.status(X_Account="acct-2") in (200, 429)
                clear = decision(9, action="clear", level=0, expires_at=FOREVER)
                with pytest.raises(StoreUnavailable, match="read only"):
                    api.store.apply([clear])
                api.store.apply([clear])
                api.seconds(200, within_s=2)
        address.close()


class RedisStoreOf(RedisStore):
    def __init__(self, url: str) -> None:
        super().__init__(RedisSettings(url=url))

    def __enter__(self) -> RedisStoreOf:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is(found: int, expected: int) -> None:
    assert found == expected


def _until(true: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _pump(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65536):
            other.sendall(data)
    except OSError:
        pass
    finally:
        one.close()
        other.close()
