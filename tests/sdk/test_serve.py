"""An application with the middleware in front of a real `velvetrope serve`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from velvetrope_client.asgi import Headers, Velvetrope
from velvetrope_client.client import EventQueue
from velvetrope_client.sketch import Sketcher

from responders.stores.sqlite import SqliteStore
from tests.end_to_end.commands import running
from tests.real_uvicorn import serving, until
from tests.responders.making import decision

SECRET = "of-the-gateways"
FOREVER = 4e9


@dataclass
class Site:
    client: httpx.Client
    store: SqliteStore
    events: EventQueue
    config: Path
    state: Path

    def ask(self, text: str = "hello", account: str = "acct-1") -> int:
        body = {"model": "chat", "messages": [{"role": "user", "content": text}]}
        headers = {"X-Account": account}
        return self.client.post("/v1/chat/completions", json=body, headers=headers).status_code


async def chat(request: Request) -> JSONResponse:
    await request.body()
    return JSONResponse({"choices": [], "usage": {"completion_tokens": 12}})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("serve")
    config, state = folder / "velvetrope.toml", folder / "velvetrope.db"
    config.write_text(f'[api]\nsecret = "{SECRET}"\n[policy]\nmode = "enforce"\n')
    with ExitStack() as stack:
        arguments = ("serve", "--port", "0", "--state", str(state), "--config", str(config))
        serve = stack.enter_context(running(folder, "serve", *arguments))
        url = serve.says(r"answers at (http://127\.0\.0\.1:\d+)")[1]
        store = SqliteStore(state)
        stack.callback(store.close)
        events = EventQueue(url, secret=SECRET, every_s=0.1)
        stack.callback(events.close)
        middleware = Velvetrope(
            Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])]),
            url,
            secret=SECRET,
            identify=Headers(account="X-Account"),
            events=events,
            sketcher=Sketcher(bytes(32)),
        )
        app = stack.enter_context(serving(middleware, lifespan="on"))
        assert middleware.copy.wait(10.0)
        yield Site(stack.enter_context(httpx.Client(base_url=app)), store, events, config, state)


def test_events_with_sketches_are_taken(site: Site) -> None:
    before = site.events.posted
    assert [site.ask(f"question {i}") for i in range(40)] == [200] * 40
    until(lambda: site.events.posted == before + 40, within_s=15.0)
    assert (site.events.rejected, site.events.dropped) == (0, 0)


def test_a_block_holds_within_a_second_and_the_kill_switch_ends_it(site: Site) -> None:
    site.store.apply([decision(action="block", params={}, value="bob", expires_at=FOREVER)])
    until(lambda: site.ask(account="bob") == 403, within_s=1.0)
    assert site.ask(account="acct-1") == 200
    site.store.set_mode("off")
    until(lambda: site.ask(account="bob") == 200, within_s=1.0)
    site.store.set_mode("enforce")
    until(lambda: site.ask(account="bob") == 403, within_s=1.0)
