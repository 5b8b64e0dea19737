"""Sinks deliver each alert once, and never hold up the stream."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from responders.alerts.file import FileSink
from responders.alerts.log import LogSink
from responders.alerts.ocsf import Alert
from responders.alerts.sinks import open_sinks
from responders.alerts.webhook import WebhookSink
from responders.settings import AlertSettings
from tests.responders.making import NOW


def alert(n: int) -> Alert:
    document = {"metadata": {"uid": f"a-{n}"}, "message": f"finding {n}"}
    return Alert(id=f"a-{n}", uid="f-1", version=n, activity="update", time=NOW, finding=document)


def written(path: Path) -> list[str]:
    return [json.loads(line)["metadata"]["uid"] for line in path.read_bytes().splitlines()]


def test_the_file_has_one_document_a_line_and_no_doubles_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    sink = FileSink(path)
    sink.emit([alert(1), alert(2), alert(1)])
    sink.close()
    again = FileSink(path)
    again.emit([alert(1), alert(2), alert(3)])
    again.close()
    assert written(path) == ["a-1", "a-2", "a-3"]


def test_a_rotated_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    sink = FileSink(path)
    sink.emit([alert(1)])
    path.rename(tmp_path / "alerts.jsonl.1")
    sink.emit([alert(2)])
    assert written(path) == ["a-2"]


def test_alerts_wait_while_the_file_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    sink = FileSink(folder / "alerts.jsonl")
    (folder / "alerts.jsonl").unlink()
    folder.rmdir()
    sink.emit([alert(1)])
    sink.emit([alert(1), alert(2)])
    folder.mkdir()
    sink.emit([alert(3)])
    assert written(folder / "alerts.jsonl") == ["a-1", "a-2", "a-3"]


def test_a_line_torn_by_a_crash_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(b'{"metadata": {"uid": "a-0"}}\n{"metadata": {"ui')
    sink = FileSink(path)
    sink.emit([alert(0), alert(1)])
    lines = path.read_bytes().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["metadata"]["uid"] == "a-1"


def test_the_log_has_a_line_an_alert(caplog: pytest.LogCaptureFixture) -> None:
    sink = LogSink()
    with caplog.at_level(logging.WARNING, "velvetrope.alerts"):
        sink.emit([alert(1), alert(1), alert(2)])
    sink.close()
    assert [r.getMessage() for r in caplog.records] == [
        "update: finding 1 [f-1]",
        "update: finding 2 [f-1]",
    ]


@contextmanager
def receiver(statuses: list[int]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """An HTTP server that answers these statuses, then 200; what it got, as (id, message)."""
    got: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append((self.headers["Idempotency-Key"], body["message"]))
            self.send_response(statuses.pop(0) if statuses else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_webhook_gets_each_finding_once_in_order() -> None:
    with receiver([]) as (url, got):
        sink = WebhookSink(url)
        sink.emit([alert(1), alert(2), alert(1)])
        sink.emit([alert(2), alert(3)])
        sink.close()
    assert got == [(f"a-{n}", f"finding {n}") for n in (1, 2, 3)]


def test_the_webhook_tries_again_what_may_pass() -> None:
    done = threading.Event()
    statuses: list[int | Exception] = [503, 429, httpx.ConnectError("refused"), 200]
    tried: list[str] = []

    def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        tried.append(headers["Idempotency-Key"])
        status = statuses.pop(0)
        if not statuses:
            done.set()
        if isinstance(status, Exception):
            raise status
        return status

    sink = WebhookSink("http://hook", first_wait_s=0.001, post=post)
    sink.emit([alert(1)])
    assert done.wait(10)
    sink.close()
    assert tried == ["a-1"] * 4


@pytest.mark.parametrize(("status", "times"), [(400, 1), (404, 1), (500, 3)])
def test_the_webhook_gives_up_with_a_warning_that_keeps_the_urls_secret(
    caplog: pytest.LogCaptureFixture, status: int, times: int
) -> None:
    tried: list[str] = []
    done = threading.Event()

    def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        tried.append(headers["Idempotency-Key"])
        if tried[-1] == "a-2":
            done.set()
            return 200
        return status

    sink = WebhookSink("http://hook/s3cret", tries=3, first_wait_s=0.001, post=post)
    sink.emit([alert(1), alert(2)])
    assert done.wait(10)
    sink.close()
    assert tried == ["a-1"] * times + ["a-2"]
    assert f"HTTP {status}: gave up a-1" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_webhook_that_hangs_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    let_go = threading.Event()
    entered = threading.Event()

    def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        entered.set()
        let_go.wait(30)
        return 200

    sink = WebhookSink("http://hook", waiting=2, post=post)
    sink.emit([alert(0)])
    assert entered.wait(10)
    sink.emit([alert(n) for n in range(1, 5)])
    assert "gave up a-3" in caplog.text
    assert "gave up a-4" in caplog.text
    assert "gave up a-2" not in caplog.text
    let_go.set()
    sink.close()


def test_the_settings_open_the_sinks_they_name(tmp_path: Path) -> None:
    sinks = open_sinks(
        AlertSettings(file=tmp_path / "alerts.jsonl", webhook="http://127.0.0.1:1/x", log=False)
    )
    assert [type(sink) for sink in sinks] == [FileSink, WebhookSink]
    for sink in sinks:
        sink.close()
