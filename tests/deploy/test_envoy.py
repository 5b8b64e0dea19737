"""deploy/envoy on the real Envoy, in front of the real verdict API."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from detector.events import Event
from detector.formats import get
from tests.deploy.battery import SECRET, Battery, Door, Person, VerdictApi, eventually, verdict_api
from tests.deploy.gateway import Model, served
from tests.real_program import Program, configured, free_port, program, running
from tests.real_redis import RedisServer

CONFIG = Path(__file__).parents[2] / "deploy" / "envoy" / "envoy.yaml"


@contextmanager
def envoy(
    api_port: int,
    model_port: int,
    *,
    patient: bool = False,
    secret: str = SECRET,
    replace: dict[str, str] | None = None,
) -> Iterator[tuple[Door, Program]]:
    port = free_port()
    changes = {
        "address: 0.0.0.0, port_value: 8080": f"address: 127.0.0.1, port_value: {port}",
        "port_value: 8470": f"port_value: {api_port}",
        "port_value: 8000": f"port_value: {model_port}",
        "/var/log/envoy": "{folder}",
    }
    if patient:
        changes["timeout: 0.25s"] = "timeout: 10s"
    text = configured(CONFIG.read_text(), changes | (replace or {}))
    binary = program("envoy", "`uv sync`")
    command = [
        *(binary, "-c", "{folder}/envoy.yaml", "--concurrency", "1", "--disable-hot-restart"),
        *("--file-flush-interval-msec", "20"),
    ]
    with (
        running(command, {"envoy.yaml": text}, port, env={"VELVETROPE_SECRET": secret}) as up,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=15) as client,
    ):
        yield Door(client), up


class TestEnvoy(Battery):
    @classmethod
    @contextmanager
    def open(cls, api_port: int, model_port: int, **settings: Any) -> Iterator[Door]:
        with envoy(api_port, model_port, **settings) as (door, _):
            yield door


def logged(up: Program, count: int) -> list[bytes]:
    """The log's lines, when there are `count`."""
    log = up.folder / "velvetrope.log"
    deadline = time.monotonic() + 5
    while len(lines := log.read_bytes().split(b"\n")[:-1]) < count:
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)
    return lines


@pytest.fixture(scope="module")
def api(redis_running: RedisServer) -> Iterator[VerdictApi]:
    with verdict_api(redis_running) as running_api:
        yield running_api


@pytest.fixture
def logging_envoy(api: VerdictApi) -> Iterator[tuple[Door, Program]]:
    model = Model(headers={"X-Model-Label": "cat", "X-Model-Confidence": "0.5"})
    with served(model.handler()) as port, envoy(api.port, port, patient=True) as both:
        yield both


def test_the_log_says_who_asked_what_and_the_verdict(
    api: VerdictApi, logging_envoy: tuple[Door, Program]
) -> None:
    door, up = logging_envoy
    ada = api.person()
    before = time.time()
    door.post(ada, "/v1/chat/completions?key=secret")
    line = logged(up, 1)[0]
    (event,) = get("envoy").decode(line, time.time())
    assert isinstance(event, Event)
    assert (event.account, event.status, event.served) == (ada.account, 200, True)
    assert (event.input, event.model) == ("hello", "m")
    assert (event.endpoint, event.ip) == ("/v1/chat/completions", "127.0.0.1")
    assert event.output is not None
    assert (event.output.label, event.output.confidence) == ("cat", 0.5)
    assert before - 0.01 <= event.ts <= time.time()
    assert json.loads(line)["action"] == "allow"
    assert b"key-of" not in line


def test_a_refusal_is_in_the_log_and_no_event_of_anybody(
    api: VerdictApi, logging_envoy: tuple[Door, Program]
) -> None:
    door, up = logging_envoy
    ada = api.person()
    api.decide(ada, "block")
    eventually(door, ada, 403)
    line = logged(up, 1)[-1]
    assert json.loads(line)["status"] == 403
    assert get("envoy").decode(line, time.time()) == []


def test_a_challenge_is_no_event(api: VerdictApi, logging_envoy: tuple[Door, Program]) -> None:
    door, up = logging_envoy
    assert door.client.get("/challenge?ticket=x").status_code == 422
    ada = api.person()
    door.post(ada)
    assert [json.loads(line)["account"] for line in logged(up, 1)] == [ada.account]


def test_an_account_header_counts_where_it_is_trusted(api: VerdictApi) -> None:
    ada = api.person()
    api.decide(ada, "block")
    trusting = {"                - remove: x-account\n": ""}
    with (
        served(Model().handler()) as port,
        envoy(api.port, port, patient=True, replace=trusting) as (door, _),
    ):
        stranger = Person("", "key-of-nobody")
        deadline = time.monotonic() + 5
        while door.post(stranger, X_Account=ada.account).status_code != 403:
            assert time.monotonic() < deadline
        assert door.post(stranger).status_code == 200


def test_it_fails_closed_where_it_is_set_to() -> None:
    closed = {"failure_mode_allow: true": "failure_mode_allow: false"}
    with served(Model().handler()) as port, envoy(free_port(), port, replace=closed) as (door, _):
        assert door.post(Person("", "somebody")).status_code == 503


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (b'{"input": "caf\xc3\xa9 \\u0000 \\n \\"q\\""}', 'caf\xe9 \x00 \n "q"'),
        (b'{"input": "bad \xff byte"}', None),
        (b"\x00\x01\xff\xfe" * 100, None),
        (json.dumps({"input": "x" * 131_000}).encode(), "x" * 131_000),
        (json.dumps({"input": "x" * 2_000_000}).encode(), None),
    ],
    ids=["escapes", "invalid UTF-8", "binary", "128 KiB", "2 MB"],
)
def test_every_body_passes_and_its_line_is_counted(
    api: VerdictApi, logging_envoy: tuple[Door, Program], body: bytes, content: str | None
) -> None:
    door, up = logging_envoy
    ada = api.person()
    answer = door.client.post("/v1", content=body, headers={"Authorization": ada.key})
    assert answer.status_code == 200
    line = logged(up, 1)[0]
    (event,) = get("envoy").decode(line, time.time())
    assert isinstance(event, Event)
    assert event.account == ada.account
    if content is not None:
        assert event.input == content
