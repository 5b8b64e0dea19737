"""What a check costs at nginx, and how soon a decision holds at nginx and HAProxy.

Run: python -m benchmarks.speed.gateways [--rounds 20] [--seconds 1] [--decisions 10000]
         [--trials 40] [--connections 1 16]

The real nginx with deploy/nginx (auth_request, `velvetrope gateway`) and with deploy/nginx-lua, and
the same proxy without a check, in front of an nginx that answers at once; a real Redis holds
`--decisions` decisions. wrk (Debian's) posts a chat of 300 bytes, over one connection for latency
and over 16 for throughput. Lua has 10 keys, whose callers its cache knows, or 20,000, who are all
looked up in Redis; the others 1,000. Inputs are in the log, or sketches of them. All take turns,
round after round, so that they see the same machine; medians of rounds are told, what is added is
of one round's own, and the least of all rounds is what a machine with nothing else to do comes to.
CPU is that of the gateway's worker, of the verdict service and of Redis together, from /proc.

Then decisions are applied to the store at random moments, and the time is taken until a client that
asks 100 times a second is refused. HAProxy has its follower (`velvetrope follow haproxy`) on Redis.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import httpx
from pydantic import SecretStr
from velvetrope_client.keys import Keyring

from responders.decisions import Decision
from responders.gateways.caller import key_scope
from responders.settings import RedisSettings
from responders.stores.base import Identity
from responders.stores.redis import RedisStore
from tests.deploy.gateway import gateway
from tests.deploy.lua_gateway import lua_gateway
from tests.real_haproxy import haproxy
from tests.real_nginx import free_port, nginx
from tests.real_redis import redis_server
from tests.responders.making import decision

__all__ = ["main"]

_KEYS: Final = 20_000
_FEW: Final = 1_000
_PLAIN: Final = """
worker_processes 1;
events { worker_connections 4096; }
http {
    upstream model { server 127.0.0.1:MODEL; keepalive 64; }
    server {
        listen 127.0.0.1:PORT;
        access_log {folder}/access.log;
        location / {
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
        }
    }
}
"""
_MODEL: Final = """
worker_processes 1;
events { worker_connections 4096; }
http {
    access_log off;
    server {
        listen 127.0.0.1:PORT;
        keepalive_requests 1000000000;
        location / { default_type application/json; return 200 '{"ok":true}'; }
    }
}
"""
_WRK: Final = """
local words = string.rep("word ", 48)
local body = '{"model":"m","messages":[{"role":"user","content":"' .. words .. '"}]}'
function init() math.randomseed(os.time()) end
function request()
  local key = "key-" .. math.random(KEYS)
  return wrk.format("POST", "/v1/chat/completions",
    { ["Authorization"] = "Bearer " .. key, ["Content-Type"] = "application/json" }, body)
end
function done(summary, latency)
  io.write(string.format("FIGURES %d %d %d %d\\n", latency:percentile(50),
    latency:percentile(99), summary.errors.status, summary.requests))
end
"""


class Check(NamedTuple):
    """A gateway: its port, how many keys ask there, and whose CPU time counts."""

    port: int
    keys: int
    pids: list[int]


class Figures(NamedTuple):
    """Of one turn of wrk, in microseconds; `cpu` is a request's."""

    p50: float
    p99: float
    cpu: float


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--decisions", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=40, help="0: latency alone")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        prefix = f"{uuid.uuid4().hex}:"
        store = RedisStore(RedisSettings(url=SecretStr(redis.url), prefix=prefix))
        stack.callback(store.close)
        _fill(store, given.decisions)
        model = free_port()
        stack.enter_context(nginx(_MODEL.replace("PORT", str(model)), [model]))
        api, service = stack.enter_context(_verdict_service(redis.url, prefix))
        plain = free_port()
        text = _PLAIN.replace("PORT", str(plain)).replace("MODEL", str(model))
        proxied = stack.enter_context(nginx(text, [plain]))
        auth = stack.enter_context(gateway(api, model, patience="as deployed"))
        lua = stack.enter_context(
            lua_gateway(
                redis.url,
                model,
                prefix=prefix,
                redis_connect_timeout_ms=100,
                redis_answer_timeout_ms=250,
            )
        )
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "keys.json").write_text(Keyring.new("2026-11").dump())
        sketching = stack.enter_context(
            lua_gateway(
                redis.url,
                model,
                prefix=prefix,
                redis_connect_timeout_ms=100,
                redis_answer_timeout_ms=250,
                log_input="sketch",
                keys_file=str(folder / "keys.json"),
            )
        )
        checks = {
            "no check": Check(plain, 1_000, [proxied.pid]),
            "auth_request": Check(auth.port, 1_000, [auth.nginx.pid, service, redis.pid]),
            "Lua, cached": Check(lua.port, 10, [lua.nginx.pid, redis.pid]),
            "Lua, not cached": Check(lua.port, _KEYS, [lua.nginx.pid, redis.pid]),
            "Lua, cached, sketches": Check(sketching.port, 10, [sketching.nginx.pid, redis.pid]),
        }
        for connections in given.connections:
            _latency(checks, connections, given.rounds, given.seconds)
        if not given.trials:
            return
        proxy = stack.enter_context(haproxy(model))
        follower = ["follow", "haproxy", "--redis", redis.url]
        follower += ["--maps", str(proxy.maps), "--socket", str(proxy.socket)]
        stack.enter_context(_velvetrope(*follower, prefix=prefix))
        ports = {"nginx auth_request": auth.port, "nginx Lua": lua.port, "HAProxy": proxy.port}
        _enforcement(store, ports, given.trials)


def _fill(store: RedisStore, decisions: int) -> None:
    """Identities of the keys, and decisions about others."""
    store.set_mode("enforce")
    for number in range(1, _FEW + 1):
        key = key_scope(f"key-{number}".encode())
        assert key is not None
        store.set_identity(key, Identity(account=f"acct-{number}"))
    ends = time.time() + 7200
    others = [
        decision(number, value=f"other-{number}", action="block", params={}, expires_at=ends)
        for number in range(decisions)
    ]
    store.apply(others)


@contextmanager
def _velvetrope(*arguments: str, prefix: str) -> Iterator[int]:
    """The program itself, as an operator runs it: its process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from detector.cli import main; main()", *arguments],
        env={**os.environ, "VELVETROPE_REDIS__PREFIX": prefix},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _verdict_service(redis_url: str, prefix: str) -> Iterator[tuple[int, int]]:
    port = free_port()
    with _velvetrope("gateway", "--redis", redis_url, "--port", str(port), prefix=prefix) as pid:
        _until(lambda: _answers(f"http://127.0.0.1:{port}/readyz"), 60.0)
        yield port, pid


def _latency(checks: dict[str, Check], connections: int, rounds: int, seconds: float) -> None:
    turns: dict[str, list[Figures]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for check in checks.values():
            _wrk(Path(folder), check, connections, seconds)  # caches and connections warm up
        for _ in range(rounds):
            for name, check in checks.items():
                turns[name].append(_wrk(Path(folder), check, connections, seconds))
    print(f"\n{connections} connection(s), {rounds} rounds of {seconds:g} s; times in us")
    print("| | p50 | p99 | added p50 | added p99 | least p50 | least p99 | CPU | added CPU |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, figures in turns.items():
        cells = [
            _median(figures, lambda one: one.p50),
            _median(figures, lambda one: one.p99),
            _added(figures, turns, lambda one: one.p50),
            _added(figures, turns, lambda one: one.p99),
            min(one.p50 for one in figures),
            min(one.p99 for one in figures),
            _median(figures, lambda one: one.cpu),
            _added(figures, turns, lambda one: one.cpu),
        ]
        print(f"| {name} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |")


def _median(figures: list[Figures], of: Callable[[Figures], float]) -> float:
    return statistics.median(of(one) for one in figures)


def _added(
    figures: list[Figures], turns: dict[str, list[Figures]], of: Callable[[Figures], float]
) -> float:
    pairs = zip(figures, turns["no check"], strict=True)
    return statistics.median(of(one) - of(base) for one, base in pairs)


def _wrk(folder: Path, check: Check, connections: int, seconds: float) -> Figures:
    script = folder / f"{check.keys}.lua"
    script.write_text(_WRK.replace("KEYS", str(check.keys)))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script)]
    before = _cpu_s(check.pids)
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{check.port}"], capture_output=True, text=True, check=True
    )
    spent = _cpu_s(check.pids) - before
    line = next(one for one in done.stdout.splitlines() if one.startswith("FIGURES"))
    p50, p99, errors, requests = (float(word) for word in line.split()[1:])
    assert errors == 0, done.stdout
    return Figures(p50, p99, spent / requests * 1e6)


def _cpu_s(pids: list[int]) -> float:
    """CPU seconds of processes and their children, so far."""
    ticks = 0
    for pid in pids:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in (pid, *children):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _enforcement(store: RedisStore, ports: dict[str, int], trials: int) -> None:
    dice = random.Random(7)
    print(f"\nfrom decision to enforcement, {trials} decisions at each")
    print("| | median, s | 95 %, s | longest, s |")
    print("|---|---|---|---|")
    version = 1_000_000
    for name, port in ports.items():
        took = []
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            for trial in range(-1, trials):  # the first is to find it up
                number = 2 + trial % (_FEW - 2)
                headers = {"Authorization": f"Bearer key-{number}"}

                def refused(headers: dict[str, str] = headers) -> bool:
                    return client.post("/v1/x", headers=headers).status_code == 403

                _until(lambda refused=refused: not refused(), 10.0)  # type: ignore[misc]
                _ask_for(refused, dice.uniform(0.2, 1.3))
                version += 1
                store.apply([_block(version, number)])
                seconds = _until(refused, 60.0 if trial < 0 else 10.0)
                took += [seconds] if trial >= 0 else []
                version += 1
                store.apply([_clear(version, number)])
        took.sort()
        late = took[min(len(took) - 1, int(0.95 * len(took)))]
        print(f"| {name} | {statistics.median(took):.2f} | {late:.2f} | {took[-1]:.2f} |")


def _block(version: int, number: int) -> Decision:
    ends = time.time() + 3600
    return decision(version, value=f"acct-{number}", action="block", params={}, expires_at=ends)


def _clear(version: int, number: int) -> Decision:
    ends = time.time() + 3600
    return decision(version, value=f"acct-{number}", action="clear", level=0, expires_at=ends)


def _ask_for(refused: Callable[[], bool], seconds: float) -> None:
    """Keep asking, as a client does that is in every cache."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        refused()
        time.sleep(0.01)


def _until(true: Callable[[], bool], within_s: float) -> float:
    """Seconds until it is true, asked 100 times a second."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within_s, "never"
        time.sleep(0.01)
    return time.monotonic() - began


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    main()
