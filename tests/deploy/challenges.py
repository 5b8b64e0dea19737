"""A model API behind the real nginx, the verdict API and a real Redis, that asks challenges."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from pydantic import SecretStr
from velvetrope_client.keys import Keyring

from responders.gateways.app import create_app
from responders.gateways.caller import key_scope
from responders.gateways.protocol import TolerantProtocol
from responders.settings import ApiSettings, ChallengeSettings, RedisSettings
from responders.stores.base import Identity
from responders.stores.redis import RedisStore
from tests.deploy.gateway import Answering, Gateway, Model, gateway, served
from tests.real_nginx import free_port
from tests.real_redis import RedisServer
from tests.responders.making import decision

__all__ = ["KEYRING", "PAGE", "challenge", "guarded", "keys_of"]

KEYRING = Keyring.new("2026-11")
PAGE = "https://login.example.com/again"


def keys_of(folder: Path) -> Path:
    """KEYRING as a file."""
    path = folder / "keys.json"
    path.write_text(KEYRING.dump())
    return path


@contextmanager
def guarded(
    redis: RedisServer, keys: Path, model: type[Answering] | None = None, *, tries: int = 5
) -> Iterator[tuple[Gateway, RedisStore]]:
    """In enforcement; the keys of ada and bea are known, and a proof takes `tries` on average."""
    settings = ApiSettings(
        secret=SecretStr("s3cret"),
        challenge_url=PAGE,
        challenge=ChallengeSettings(keys=keys, proof=True, tries=tries),
        refresh_s=0.01,
    )
    prefix = f"{uuid.uuid4().hex}:"
    store = RedisStore(RedisSettings(url=SecretStr(redis.url), prefix=prefix))
    try:
        store.set_mode("enforce")
        for name in ("ada", "bea"):
            key = key_scope(f"Bearer key-of-{name}".encode())
            assert key is not None
            store.set_identity(key, Identity(account=f"acct-{name}"))
        with (
            served(model or Model().handler()) as model_port,
            _verdict_api(store, settings) as verdict_port,
            gateway(verdict_port, model_port, secret='"s3cret"') as running,
        ):
            yield running, store
    finally:
        store.close()


def challenge(store: RedisStore, gate: Gateway, version: int = 1, difficulty: int = 1) -> None:
    """Challenge ada, and wait until it is in force."""
    now = time.time()
    changes = {"issued_at": now, "expires_at": now + 3600, "params": {"difficulty": difficulty}}
    store.apply([decision(version, value="acct-ada", action="challenge", **changes)])
    deadline = time.monotonic() + 5
    while gate.post("key-of-ada").status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def _verdict_api(store: RedisStore, settings: ApiSettings) -> Iterator[int]:
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(store, settings),
            host="127.0.0.1",
            port=port,
            log_level="error",
            lifespan="off",
            http=TolerantProtocol,
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()
