"""What the ASGI middleware adds to a request while nothing is wrong, and what its copy weighs.

Run: python -m benchmarks.speed.asgi [--decisions 0 1000 300000] [--requests 20000] [--events]
                                     [--changes 50]

An application that answers at once is called as a server calls it (14 header fields, a bearer key),
with the middleware and without, in alternating rounds of one process; the time of each request is
taken, and the medians are compared. The decisions, about other accounts, come through the change
feed of a real verdict API in a process of its own (a store in memory). Callers are 1,000 keys.
While the copy is read, requests come a thousand a second: their p99 and the longest are told too.
Memory is what the process holds more once the copy has been read, by its resident pages.
Then a throttled caller is asked about, over loopback, 1,000 times one after the other.
Last, decisions are written to a store at random moments, and the time is taken until the copy, at
its default pace, has each: from decision to enforcement.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import multiprocessing
import os
import resource
import socket
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, Final

import uvicorn
from starlette.responses import JSONResponse
from starlette.routing import Route
from velvetrope_client.asgi import App, Velvetrope
from velvetrope_client.client import EventQueue
from velvetrope_client.copy import Caller, Copy

from responders.decisions import Decision, Reason
from responders.gateways.app import create_app
from responders.settings import ApiSettings
from responders.stores.memory import MemoryStore
from tests.real_uvicorn import serving

__all__ = ["main"]

_ROUND: Final = 500
_CALLERS: Final = 1000
_BODY: Final = (
    b'{"model":"m","messages":[{"role":"user","content":"What is the capital of France?"}]}'
)


def main(arguments: list[str] | None = None) -> None:
    """Print a line for each number of decisions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--decisions", type=int, nargs="+", default=[0, 1000, 300_000])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--events", action="store_true", help="post access events as well")
    parser.add_argument("--changes", type=int, default=50)
    options = parser.parse_args(arguments)
    print(
        f"{'decisions':>9} {'read in s':>9} {'CPU s':>6} {'MB':>6} {'without us':>10} "
        f"{'with us':>8} {'added us':>8} {'ratio':>6} {'p99 us: without':>15} {'with':>6} "
        f"{'while reading':>13} {'longest':>8}"
    )
    for count in options.decisions:
        with _verdict_api(count) as url:
            _measure(url, count, options.requests, options.events)
    with _verdict_api(1000) as url:
        times = sorted(_asking(url))
    print(
        f"a throttled caller, asked about and refused: median {statistics.median(times):.2f} ms, "
        f"p99 {times[int(len(times) * 0.99)]:.2f} ms"
    )
    times = sorted(_enforcement(options.changes))
    print(
        f"from decision to enforcement, {len(times)} times: "
        f"median {statistics.median(times):.2f} s, longest {times[-1]:.2f} s"
    )


def _asking(url: str) -> list[float]:
    """Milliseconds of each request of a throttled caller, whose rate is used up."""
    caller = Caller(account="acct-00000000", endpoint="/v1/chat/completions")

    async def timed() -> list[float]:
        app = Velvetrope(_application, url, copy=copy, identify=lambda _: caller)
        times = []
        for _ in range(1010):
            began = time.perf_counter()
            await app(_scope(0), _receive, _send)
            times.append((time.perf_counter() - began) * 1e3)
        return times[10:]

    with Copy(url) as copy:
        while not copy.wait(0.05):
            pass
        return asyncio.run(timed())


def _enforcement(changes: int) -> Iterator[float]:
    """Seconds until the copy has a decision, for each of so many."""
    store = MemoryStore()
    store.set_mode("enforce")
    with serving(create_app(store, ApiSettings())) as url, Copy(url) as copy:
        while not copy.wait(0.05):
            pass
        random = Random(1)
        for number in range(changes):
            time.sleep(random.uniform(0.0, 0.5))
            store.apply([_decided(number)])
            began = time.perf_counter()
            while copy.find(Caller(account=f"acct-{number:08d}")) is None:
                time.sleep(0.001)
            yield time.perf_counter() - began


def _decided(number: int) -> Decision:
    now = time.time()
    return Decision(
        id=f"d-{number:032x}",
        version=number + 1,
        scope="account",
        value=f"acct-{number:08d}",
        action="throttle",
        level=1,
        mode="enforce",
        params={"rate_per_min": 6.0, "burst": 3, "bucket": f"account:acct-{number:08d}"},
        reason=Reason(code="extraction", text="asks like a copier", technique="AML.T0024"),
        campaign=f"c-{number % 1000:032x}",
        issued_at=now,
        expires_at=now + 86_400.0,
    )


def _measure(url: str, count: int, requests: int, events: bool) -> None:
    gc.collect()
    before = _resident_mb()
    began, used = time.perf_counter(), time.process_time()
    with Copy(url) as copy, contextlib.ExitStack() as stack:
        stalled = asyncio.run(_while_reading(copy))
        read_s, cpu_s = time.perf_counter() - began, time.process_time() - used
        assert len(copy) == count, f"{len(copy)} decisions of {count}"
        gc.collect()
        weighs = _resident_mb() - before
        queue = None
        if events:
            queue = EventQueue(url, room=10**9)
            stack.callback(queue.close, 30.0)
        guarded = Velvetrope(_application, url, copy=copy, events=queue)
        plain, kept = asyncio.run(_timed(_application, guarded, requests))
    without, with_ = statistics.median(plain), statistics.median(kept)
    print(
        f"{count:9} {read_s:9.2f} {cpu_s:6.2f} {weighs:6.0f} {without / 1e3:10.2f} "
        f"{with_ / 1e3:8.2f} {(with_ - without) / 1e3:8.2f} {with_ / without:6.2f} "
        f"{_p99(plain) / 1e3:15.1f} {_p99(kept) / 1e3:6.1f} "
        f"{_p99(stalled) / 1e3:13.1f} {max(stalled) / 1e3:8.0f}"
    )


async def _while_reading(copy: Copy) -> list[int]:
    """Nanoseconds of requests, a thousand a second, until the copy has been read."""
    app = Velvetrope(_application, copy=copy)
    scope, times = _scope(0), []
    while not copy.wait(0.0):
        began = time.perf_counter_ns()
        await app(dict(scope), _receive, _send)
        times.append(time.perf_counter_ns() - began)
        await asyncio.sleep(0.001)
    return times


async def _receive() -> Any:
    return {"type": "http.request", "body": _BODY, "more_body": False}


async def _send(_: Any) -> None:
    return None


async def _application(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}", "more_body": False})


async def _timed(plain: App, guarded: App, requests: int) -> tuple[list[int], list[int]]:
    """Nanoseconds of each request, without and with."""
    scopes = [_scope(i) for i in range(_CALLERS)]
    times: tuple[list[int], list[int]] = ([], [])
    for at in range(-2 * _ROUND, requests, _ROUND):
        for app, into in ((plain, times[0]), (guarded, times[1])):
            for i in range(_ROUND):
                scope = dict(scopes[i % _CALLERS])
                began = time.perf_counter_ns()
                await app(scope, _receive, _send)
                took = time.perf_counter_ns() - began
                if at >= 0:
                    into.append(took)
            await asyncio.sleep(0)
    return times


def _scope(caller: int) -> dict[str, Any]:
    headers = [
        (b"host", b"api.example.com"),
        (b"authorization", b"Bearer sk-%048d" % caller),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(_BODY)),
        (b"accept", b"application/json"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"user-agent", b"OpenAI/Python 1.99.0"),
        (b"x-stainless-lang", b"python"),
        (b"x-stainless-os", b"Linux"),
        (b"x-stainless-arch", b"x64"),
        (b"x-stainless-runtime", b"CPython"),
        (b"x-stainless-async", b"false"),
        (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        (b"connection", b"keep-alive"),
    ]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": headers,
        "client": ("203.0.113.7", 40_000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


def _p99(times: list[int]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@contextlib.contextmanager
def _verdict_api(count: int) -> Iterator[str]:
    """The URL of a verdict API with so many decisions, in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, count))
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Connection, count: int) -> None:
    store = MemoryStore()
    store.set_mode("enforce")
    store.apply([_decided(number) for number in range(count)])
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))

    async def taken(request: Any) -> JSONResponse:
        lines = (await request.body()).count(b"\n") + 1
        return JSONResponse({"accepted": lines, "rejected": []}, 202)

    routes = [Route("/v1/events", taken, methods=["POST"])]
    app = create_app(store, ApiSettings(), routes=routes)
    config = uvicorn.Config(app, log_level="error", lifespan="off")
    pipe.send(f"http://127.0.0.1:{listening.getsockname()[1]}")
    os.nice(5)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
