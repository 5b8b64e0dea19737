"""A model API behind the real nginx with deploy/nginx, between two small servers of our own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from detector.events import Event
from detector.formats import get
from tests.real_nginx import Nginx, free_port, nginx

__all__ = ["CHAT", "DEPLOY", "Answering", "Gateway", "Model", "Verdicts", "gateway", "served"]

DEPLOY = Path(__file__).parents[2] / "deploy" / "nginx"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@dataclass
class Verdicts:
    """The verdict service's contract with nginx: one (status, headers) for each bearer key."""

    answers: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    connections: set[tuple[str, int]] = field(default_factory=set)
    delay_s: float = 0.0

    def handler(self) -> type[Answering]:
        verdicts = self

        class Handler(Answering):
            def do_GET(self) -> None:
                verdicts.connections.add(self.client_address)
                verdicts.asked.append({k.lower(): v for k, v in self.headers.items()})
                if verdicts.delay_s:
                    time.sleep(verdicts.delay_s)
                key = self.headers.get("Authorization", "").removeprefix("Bearer ")
                allow = {"X-Velvetrope-Action": "allow", "X-Velvetrope-Level": "0"}
                status, headers = verdicts.answers.get(key, (200, allow))
                self.answer(status, {"X-Velvetrope-Account": f"acct-{key}", **headers})

        return Handler


@dataclass
class Model:
    """A model's server: it answers with the headers that reached it."""

    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200

    def handler(self) -> type[Answering]:
        model = self

        class Handler(Answering):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seen = {k.lower(): v for k, v in self.headers.items()}
                self.answer(model.status, model.headers, json.dumps(seen).encode())

        return Handler


@contextmanager
def served(handler: type[Answering]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Gateway:
    client: httpx.Client
    nginx: Nginx
    port: int

    def post(self, key: str, body: Any = CHAT, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(
            "/v1/chat/completions",
            content=content,
            headers={"Authorization": f"Bearer {key}"}
            | {name.replace("_", "-"): value for name, value in headers.items()},
        )

    def lines(self, count: int) -> list[bytes]:
        """The log's lines, when there are `count`."""
        log = self.nginx.folder / "velvetrope.log"
        deadline = time.monotonic() + 5
        while len(lines := log.read_bytes().split(b"\n")[:-1]) < count:
            assert time.monotonic() < deadline, f"{len(lines)} lines, not {count}: {lines}"
            time.sleep(0.01)
        return lines

    def events(self, count: int) -> list[Event]:
        """The log's events, when there are `count` lines. Every line must decode."""
        events, bad = get("nginx").decode_lines(self.lines(count), time.time())
        assert bad == []
        return [event for event in events if isinstance(event, Event)]


@contextmanager
def gateway(verdict_port: int, model_port: int, **settings: str) -> Iterator[Gateway]:
    port = free_port()
    replace = {
        "127.0.0.1:8080": f"127.0.0.1:{port}",
        "127.0.0.1:8470": f"127.0.0.1:{verdict_port}",
        "127.0.0.1:8000": f"127.0.0.1:{model_port}",
        "/var/log/nginx": "{folder}",
        "worker_processes auto": "worker_processes 1",
    }
    if settings.pop("patience", "") != "as deployed":
        # A busy machine that runs the tests must not look like a verdict service that is away.
        replace["proxy_read_timeout 250ms"] = "proxy_read_timeout 10s"
    lines = {
        "when_away": 'map "" $velvetrope_when_away { default open; }',
        "caller": 'map "" $velvetrope_caller { default ""; }',
        "secret": 'map "" $velvetrope_secret { default ""; }',
    }
    if unguarded := settings.pop("location", None):
        replace["location / {"] = unguarded
    for name, value in settings.items():
        replace[lines[name]] = f'map "" $velvetrope_{name} {{ default {value}; }}'
    with (
        nginx(DEPLOY, [port], replace) as running,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        yield Gateway(client, running, port)
