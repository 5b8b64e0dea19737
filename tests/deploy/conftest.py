"""Fixtures of the gateways' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.real_redis import RedisServer, redis_server


@pytest.fixture(scope="session")
def redis_running() -> Iterator[RedisServer]:
    """A real Redis for the session; whoever uses it takes a prefix of their own."""
    with redis_server() as server:
        yield server
