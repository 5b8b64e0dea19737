"""The browser's client of /challenge in a real Chromium, through the real nginx and Redis."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from responders.stores.redis import RedisStore
from tests.deploy.challenges import challenge, guarded, keys_of
from tests.deploy.gateway import Answering
from tests.real_chromium import chromium
from tests.real_redis import redis_server

PAGE = """<!doctype html><script type="module">
import { fetchAnswering, solve } from "/challenge/client.js";

const workers = [];
const RealWorker = Worker;
window.Worker = class extends RealWorker {
  constructor(...given) { super(...given); workers.push(given[1].type); }
};
const told = [];
const ask = { method: "POST", body: "{}", headers: { Authorization: "Bearer key-of-ada" } };
const report = {};
try {
  const how = { onSolving: (on) => told.push(on), workers: 2 };
  const answers = await Promise.all([1, 2, 3].map(() => fetchAnswering("/v1/chat", ask, how)));
  const answer = answers[0];
  report.statuses = answers.map((one) => one.status);
  report.status = answer.status;
  report.account = (await answer.json())["x-velvetrope-account"];
  report.again = (await fetchAnswering(new Request("/v1/chat", ask))).status;
  report.workers = workers;
  report.told = told;
  const odd = { parameters: { algorithm: "PBKDF2/SHA-256", cost: 1e9 } };
  report.odd = await solve(odd).catch((error) => error.constructor.name);
} catch (error) {
  report.error = String(error);
}
await fetch("/report", { method: "POST", body: JSON.stringify(report) });
</script>"""


def site(reports: queue.Queue[dict[str, Any]]) -> type[Answering]:
    """A page, a model that answers with the headers that it saw, and where the page reports."""

    class Site(Answering):
        def do_GET(self) -> None:  # noqa: N802  http.server's name
            self.answer(200, {"Content-Type": "text/html"}, PAGE.encode())

        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/report":
                reports.put(json.loads(body))
            seen = {k.lower(): v for k, v in self.headers.items()}
            self.answer(200, {"Content-Type": "application/json"}, json.dumps(seen).encode())

    return Site


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the page found, with ada challenged."""
    reports: queue.Queue[dict[str, Any]] = queue.Queue()
    keys: Path = keys_of(tmp_path_factory.mktemp("keys"))
    with redis_server() as redis, guarded(redis, keys, site(reports), tries=300) as (gate, store):
        assert isinstance(store, RedisStore)
        challenge(store, gate)
        with chromium(f"{gate.client.base_url}/page"):
            yield reports.get(timeout=60)


def test_the_page_pays_and_its_request_is_answered(report: dict[str, Any]) -> None:
    assert "error" not in report
    assert (report["status"], report["account"]) == (200, "acct-ada")


def test_of_requests_refused_at_once_one_pays_for_all_in_workers(report: dict[str, Any]) -> None:
    assert report["statuses"] == [200, 200, 200]
    assert report["workers"] == ["module", "module"]


def test_the_page_is_told_when_it_waits(report: dict[str, Any]) -> None:
    assert (report["told"][0], report["told"][-1]) == (True, False)


def test_it_goes_on_without_paying_again(report: dict[str, Any]) -> None:
    assert report["again"] == 200


def test_what_would_take_for_ever_is_not_begun(report: dict[str, Any]) -> None:
    assert report["odd"] == "ChallengeError"
