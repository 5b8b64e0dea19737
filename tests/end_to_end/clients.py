"""Clients of the digits API, and the model's own server behind nginx."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["PATH", "Answer", "Client", "model_server"]

PATH = "/v1/models/digits:predict"


@dataclass(frozen=True)
class Answer:
    """What came back. `label` is None on a refusal."""

    status: int
    headers: dict[str, str]
    document: Any

    @property
    def label(self) -> int | None:
        return self.document["predictions"][0] if self.status == 200 else None


@dataclass
class Client:
    """One client with its key, its own network and its pace.

    Attributes:
        account: whom the key belongs to.
        gaps: seconds from one request to the next, one for each request.
        next_image: what to ask.
        learn: is told the image and its label when there is an answer.
        statuses: of the answers so far.
    """

    account: str
    address: str
    port: int
    gaps: Sequence[float]
    next_image: Callable[[], list[int]]
    learn: Callable[[list[int], int], None] = lambda image, label: None
    statuses: list[int] = field(default_factory=list)
    _connection: http.client.HTTPConnection | None = None

    @property
    def key(self) -> str:
        return f"key-of-{self.account}"

    def run(self, cancelled: threading.Event) -> None:
        """Send everything at its pace; a late answer does not move the requests after it."""
        due = time.monotonic()
        try:
            for gap in self.gaps:
                due += gap
                if cancelled.wait(max(0.0, due - time.monotonic())):
                    return
                self.ask()
        finally:
            self.close()

    def ask(self) -> Answer:
        """One request."""
        image = self.next_image()
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                "127.0.0.1", self.port, timeout=20, source_address=(self.address, 0)
            )
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        self._connection.request("POST", PATH, json.dumps({"instances": [image]}), headers)
        response = self._connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        answer = Answer(response.status, fields, json.loads(response.read()))
        self.statuses.append(answer.status)
        if answer.label is not None:
            self.learn(image, answer.label)
        return answer

    def close(self) -> None:
        """Hang up; the next request connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def model_server(label: Callable[[list[float]], int]) -> Iterator[int]:
    """The model's port: `{"instances": [image]}` is answered with its label."""
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one packet

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with one_at_a_time:
                found = label(asked["instances"][0])
            body = json.dumps({"predictions": [found]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Model-Label", str(found))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
