"""How fast the verdict API answers, and what 300,000 live decisions and 100 followers cost it.

Run: python -m benchmarks.speed.verdicts [--seconds 5] [--decisions 300000] [--followers 100]

`velvetrope gateway` on one core, over a real Redis; wrk (Debian's) with 16 connections on another.
The peer is a bare Starlette application under the same server, measured in the same rounds: what
the API costs beside it is the answer itself. Followers read the feed over HTTP as the SDK's do and
throw it away, but one, which is the SDK's own copy in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import redis
from pydantic import SecretStr

from responders.decisions import Decision, Reason
from responders.settings import RedisSettings
from responders.stores.redis import RedisStore
from tests.real_redis import free_port, redis_server

__all__ = ["main"]

_CONNECTIONS = 16
_ROUNDS = 3
_PEER = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from responders.gateways.protocol import TolerantProtocol
async def answer(request):
    return Response(status_code=200, headers={"X-Velvetrope-Action": "allow",
        "X-Velvetrope-Level": "0", "X-Velvetrope-Account": "acct-nobody"})
uvicorn.run(Starlette(routes=[Route("/authorize/forward", answer)]), port=int(sys.argv[1]),
    http=TolerantProtocol, log_level="warning", access_log=False, server_header=False,
    date_header=False)
"""
_FOLLOWER = """
import json, sys, time
from velvetrope_client.copy import Copy
def rss():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024
before, began = rss(), time.monotonic()
with Copy(sys.argv[1]) as copy:
    copy.wait(300)
    print(json.dumps({"s": time.monotonic() - began, "cpu": time.process_time(),
        "mb": rss() - before, "n": len(copy)}))
"""


def _decision(number: int, now: float, *, action: str = "block", version: int = 1) -> Decision:
    """As the judge's: a campaign of 100, its bucket, a reason."""
    return Decision(
        id=f"d-{number:016x}",
        version=version,
        scope="account",
        value=f"acct-{number:08}",
        action=action,
        level=1,
        mode="enforce",
        params={
            "rate_per_min": 6e6,
            "burst": 1_000_000,
            "bucket": f"campaign:c-{number // 100:012}",
        },
        reason=Reason(code="extraction", text="asks too broadly", technique="AML.T0024.002"),
        campaign=f"c-{number // 100:012}",
        n_events=640,
        issued_at=now,
        expires_at=now + 86_400.0,
        scorer="text-3",
        baseline="shipped-3",
    )


@contextlib.contextmanager
def _process(command: Sequence[str], port: int, core: int) -> Iterator[tuple[int, float]]:
    """A server on one core: its pid, and the seconds until it was ready."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, preexec_fn=lambda: os.sched_setaffinity(0, {core}), stderr=subprocess.DEVNULL
    )
    try:
        while True:
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
                connection.request("GET", "/readyz")
                if connection.getresponse().status != 503:
                    break
            if process.poll() is not None:
                raise SystemExit(f"{command[:4]} ended")
            time.sleep(0.02)
        yield process.pid, time.monotonic() - began
    finally:
        process.terminate()
        process.wait()


def _gateway(redis_url: str, port: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "detector.cli",
        "gateway",
        "--redis",
        redis_url,
        "--port",
        str(port),
    ]


def _megabytes(pid: int, what: str = "VmRSS") -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{what}:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) / 1024


def _redis_cpu_s(client: redis.Redis) -> float:
    info = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used: the machine may be shared."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wrk(port: int, account: str, seconds: float, core: int) -> tuple[float, float]:
    """Requests a second, and p99 in ms."""
    said = subprocess.run(
        [
            *("taskset", "-c", str(core), "wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds:g}s"),
            *("--latency", "-H", f"X-Account: {account}"),
            f"http://127.0.0.1:{port}/authorize/forward",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    assert rate is not None, said
    assert p99 is not None, said
    return float(rate[1]), float(p99[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[p99[2]]


def _rates(redis_url: str, store: RedisStore, seconds: float, cores: tuple[int, int]) -> None:
    now = time.time()
    store.set_mode("enforce")
    store.rebuild([_decision(1, now), _decision(2, now, action="throttle")])
    port, peer_port = free_port(), free_port()
    callers = {
        "allow": "acct-nobody",
        "block": "acct-00000001",
        "throttle, within its rate": "acct-00000002",
    }
    found: dict[str, list[tuple[float, float]]] = {}
    peer = [sys.executable, "-c", _PEER, str(peer_port)]
    with _process(_gateway(redis_url, port), port, cores[0]), _process(peer, peer_port, cores[0]):
        for _ in range(_ROUNDS):
            one = _wrk(peer_port, "acct-nobody", seconds, cores[1])
            found.setdefault("bare Starlette", []).append(one)
            for name, account in callers.items():
                found.setdefault(name, []).append(_wrk(port, account, seconds, cores[1]))
    bare = found["bare Starlette"]
    for name, runs in found.items():
        rate, p99 = (statistics.median(column) for column in zip(*runs, strict=True))
        shares = [run[0] / peer[0] for run, peer in zip(runs, bare, strict=True)]
        print(
            f"{name}: {rate:,.0f} requests/s, p99 {p99:.1f} ms, "
            f"{statistics.median(shares):.2f} of bare Starlette"
        )


class _Follower(threading.Thread):
    """Takes a snapshot, then follows, as the SDK's copy does, and throws it all away."""

    def __init__(self, port: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._stop_when = stop
        self.snapshot_s = 0.0
        self.seen: dict[str, float] = {}

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        began = time.monotonic()
        cursor, tag = self._snapshot(connection)
        self.snapshot_s = time.monotonic() - began
        while not self._stop_when.wait(0.35):
            connection.request("GET", f"/v1/decisions?since={cursor}&allow={tag}")
            document = json.loads(connection.getresponse().read())
            cursor = document["cursor"]
            for decision in document["decisions"]:
                self.seen.setdefault(decision["id"], time.monotonic())

    @staticmethod
    def _snapshot(connection: http.client.HTTPConnection) -> tuple[str, str]:
        while True:
            connection.request("GET", "/v1/decisions")
            answer = connection.getresponse()
            head = answer.read(4096)
            while answer.read(1 << 20):
                pass
            if answer.status == 200:
                break
            time.sleep(0.5)  # it is told to come back
        cursor = re.search(rb'"cursor":"([^"]*)"', head)
        tag = re.search(rb'"allow_tag":"([^"]*)"', head)
        assert cursor is not None
        assert tag is not None
        return cursor[1].decode(), tag[1].decode()


def _many(
    redis_url: str,
    store: RedisStore,
    decisions: int,
    followers: int,
    seconds: float,
    cores: tuple[int, int],
) -> None:
    now = time.time()
    port = free_port()
    store.rebuild([])
    with _process(_gateway(redis_url, port), port, cores[0]) as (pid, ready_s):
        empty_mb = _megabytes(pid)
        print(
            f"API without decisions: ready in {ready_s:.1f} s ({_cpu_s(pid):.1f} s of CPU), "
            f"{empty_mb:.0f} MB"
        )
    every = [_decision(number, now) for number in range(decisions)]
    with redis.Redis.from_url(redis_url) as client:
        began, own_s, redis_s = time.monotonic(), time.process_time(), _redis_cpu_s(client)
        store.rebuild(every)
        print(
            f"Redis filled with {decisions:,} decisions in {time.monotonic() - began:.1f} s "
            f"({time.process_time() - own_s:.1f} s of CPU, and "
            f"{_redis_cpu_s(client) - redis_s:.1f} s of Redis's)"
        )
    del every
    with _process(_gateway(redis_url, port), port, cores[0]) as (pid, ready_s):
        print(
            f"API: ready in {ready_s:.1f} s ({_cpu_s(pid):.1f} s of CPU), {_megabytes(pid):.0f} MB"
        )
        rate, p99 = _wrk(port, "acct-nobody", seconds, cores[1])
        print(f"  allow: {rate:,.0f} requests/s, p99 {p99:.1f} ms")
        command = [sys.executable, "-c", _FOLLOWER, f"http://127.0.0.1:{port}"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        own = json.loads(said)
        print(
            f"one follower (SDK): {own['n']:,} decisions in {own['s']:.1f} s "
            f"({own['cpu']:.1f} s of CPU), {own['mb']:.0f} MB"
        )
        print(f"  API then {_megabytes(pid):.0f} MB, at most {_megabytes(pid, 'VmHWM'):.0f} MB")
        stop = threading.Event()
        crowd = [_Follower(port, stop) for _ in range(followers)]
        before_s = _cpu_s(pid)
        for follower in crowd:
            follower.start()
        while not all(follower.snapshot_s for follower in crowd):
            time.sleep(0.1)
        waits = sorted(follower.snapshot_s for follower in crowd)
        print(
            f"{followers} followers at once: a snapshot after {statistics.median(waits):.1f} s "
            f"(median), {waits[-1]:.1f} s (last); API {_megabytes(pid):.0f} MB, "
            f"at most {_megabytes(pid, 'VmHWM'):.0f} MB, {_cpu_s(pid) - before_s:.1f} s of CPU"
        )
        before_s, began = _cpu_s(pid), time.monotonic()
        time.sleep(5)
        share = (_cpu_s(pid) - before_s) / (time.monotonic() - began)
        print(f"  following takes {100 * share:.0f} % of a core")
        rate, p99 = _wrk(port, "acct-nobody", seconds, cores[1])
        print(f"  allow, with {followers} followers: {rate:,.0f} requests/s, p99 {p99:.1f} ms")
        told = []
        for number in range(10):
            decided = time.monotonic()
            store.apply([_decision(decisions + number, now)])
            name = f"d-{decisions + number:016x}"
            while not all(name in follower.seen for follower in crowd):
                time.sleep(0.01)
            told.append(max(follower.seen[name] for follower in crowd) - decided)
        stop.set()
        print(
            f"  a decision reached the last of them after {statistics.median(told):.2f} s (median)"
        )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--decisions", type=int, default=300_000)
    parser.add_argument("--followers", type=int, default=100)
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    pair = (cores[0], cores[-1])
    with socket.socket(), redis_server() as server:
        settings = RedisSettings(
            url=SecretStr(server.url), changes_kept=2 * given.decisions, timeout_s=30
        )
        store = RedisStore(settings)
        _rates(server.url, store, given.seconds, pair)
        _many(server.url, store, given.decisions, given.followers, given.seconds, pair)
        store.close()


if __name__ == "__main__":
    main()
