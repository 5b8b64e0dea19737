"""`velvetrope gateway`, as a process: what it needs, and how it starts and ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.commands import Command, running
from tests.real_redis import RedisServer, redis_server
from tests.real_worker import eventually


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def url_of(gateway: Command) -> str:
    return gateway.says(r"answers at (http://\S+)")[1]


def test_it_answers_and_ends_on_sigterm(tmp_path: Path, redis: RedisServer) -> None:
    with running(tmp_path, "gateway", "gateway", "--redis", redis.url, "--port", "0") as gateway:
        url = url_of(gateway)
        answer = httpx.get(f"{url}/authorize/nginx", headers={"Authorization": "Bearer k"})
        assert answer.status_code == 200
        assert answer.headers["x-velvetrope-action"] == "allow"
        assert gateway.end() == 0


def test_without_redis_it_answers_503_until_redis_is_there(
    tmp_path: Path, redis: RedisServer
) -> None:
    redis.stop()
    with running(tmp_path, "gateway", "gateway", "--redis", redis.url, "--port", "0") as gateway:
        url = url_of(gateway)
        assert httpx.get(f"{url}/authorize/nginx").status_code == 503
        redis.start()
        eventually(
            lambda: httpx.get(f"{url}/authorize/nginx").status_code == 200,
            within_s=10.0,
            what="an answer after Redis came",
        )


def test_connections_past_the_limit_are_answered_503(tmp_path: Path, redis: RedisServer) -> None:
    config = tmp_path / "velvetrope.toml"
    config.write_text("[api]\nmax_connections = 16\n")
    arguments = ("--redis", redis.url, "--port", "0", "--config", str(config))
    with running(tmp_path, "gateway", "gateway", *arguments) as gateway, ExitStack() as stack:
        url = url_of(gateway)
        clients = [stack.enter_context(httpx.Client(base_url=url)) for _ in range(17)]
        statuses = [client.get("/authorize/nginx").status_code for client in clients]
        assert (statuses[0], statuses[-1]) == (200, 503)
        clients[0].close()
        eventually(
            lambda: httpx.get(f"{url}/authorize/nginx").status_code == 200, what="a free place"
        )


@pytest.mark.parametrize(
    ("host", "code", "says"),
    [
        ("192.0.2.1", 2, "off loopback api.secret must be set"),
        ("127.0.0.1", 1, "cannot listen on 127.0.0.1:"),
    ],
)
def test_it_says_in_one_line_why_it_cannot_start(
    tmp_path: Path, redis: RedisServer, host: str, code: int, says: str
) -> None:
    taken = redis.url.rsplit(":", 1)[1].split("/")[0]
    options = ("--redis", redis.url, "--host", host, "--port", taken)
    with running(tmp_path, "gateway", "gateway", *options) as gateway:
        assert gateway.wait() == code
        assert says in gateway.log()
        assert gateway.log().count("\n") == 1
