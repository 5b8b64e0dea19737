"""What HAProxy's maps cost when they are large, and how exactly it counts a rate.

Run: python -m benchmarks.speed.haproxy [--decisions 100000]

The real HAProxy with deploy/haproxy, two threads. So many decisions, and as many keys of known
accounts, are pushed by the follower's own code: how long the first push takes, what it adds to
HAProxy's memory and holds in the follower's, and how long a change by itself and the whole map of
decisions take. Then wrk asks as fast as it can for one throttled account, over 64 connections for
5 s: how many requests pass, and how many are due (burst, and rate times time).
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from responders.decisions import Decision
from responders.following.haproxy import Haproxy
from responders.following.haproxy_runtime import Runtime
from responders.following.source import Followed
from responders.gateways.caller import key_scope
from responders.stores.base import Identity
from tests.real_haproxy import HaproxyServer, haproxy
from tests.real_nginx import free_port, nginx
from tests.responders.making import decision

__all__ = ["main"]

_SECONDS: Final = 5
_MODEL: Final = """
events { }
http {
    access_log off;
    server { listen 127.0.0.1:PORT; keepalive_requests 1000000000; location / { return 200; } }
}
"""
_WRK: Final = """
wrk.headers["Authorization"] = "Bearer key"
function done(summary)
  io.write(string.format("PASSED %d %f\\n", summary.requests - summary.errors.status,
    summary.duration / 1e6))
end
"""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decisions", type=int, default=100_000)
    given = parser.parse_args()
    model = free_port()
    with nginx(_MODEL.replace("PORT", str(model)), [model]):
        with haproxy(model) as server:
            _maps(server, given.decisions)
        with haproxy(model) as server:
            for rate, burst in ((6.0, 3), (600.0, 10), (6000.0, 50)):
                _rate(server, rate, burst)


def _maps(server: HaproxyServer, count: int) -> None:
    target = Haproxy(server.maps, Runtime(server.socket), stale_after_s=600)
    empty = server.resident_mb()
    ends = time.time() + 7200
    everything = [_block(number, number, ends) for number in range(count)]
    identities = {
        hashlib.sha256(str(number).encode()).hexdigest(): Identity(account=f"acct-{number}")
        for number in range(count)
    }
    followed = Followed(
        mode="enforce", decisions=everything, snapshot=True, allowed=[], identities=identities
    )
    began = time.monotonic()
    target.learn(followed, time.time())
    learnt = time.monotonic()
    target.push(time.time())
    pushed = time.monotonic()
    follower_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{count} decisions and keys: learnt in {learnt - began:.1f} s, written and pushed in "
        f"{pushed - learnt:.1f} s; HAProxy has {server.resident_mb() - empty:.0f} MB more, the "
        f"follower {follower_mb:.0f} MB"
    )
    for changes in (1, 40, 41):
        again = [
            _block(number, 2 * count + 100 * changes, ends + changes) for number in range(changes)
        ]
        target.learn(Followed(mode="enforce", decisions=again), time.time())
        began = time.monotonic()
        target.push(time.time())
        print(f"{changes} changes: {(time.monotonic() - began) * 1000:.0f} ms")


def _block(number: int, version: int, ends: float) -> Decision:
    name = f"acct-{number}"
    return decision(version, value=name, action="block", params={}, expires_at=ends)


def _rate(server: HaproxyServer, rate: float, burst: int) -> None:
    target = Haproxy(server.maps, Runtime(server.socket), stale_after_s=600)
    params = {"rate_per_min": rate, "burst": burst, "bucket": f"at {rate}"}
    ends = time.time() + 3600
    throttle = decision(1, value=key_scope(b"key"), params=params, expires_at=ends)
    target.learn(Followed(mode="enforce", decisions=[throttle], allowed=[]), time.time())
    target.push(time.time())
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "key.lua"
        script.write_text(_WRK)
        command = ["wrk", "-t2", "-c64", f"-d{_SECONDS}s", "-s", str(script)]
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{server.port}"],
            capture_output=True,
            text=True,
            check=True,
        )
    line = next(one for one in done.stdout.splitlines() if one.startswith("PASSED"))
    passed, seconds = (float(word) for word in line.split()[1:])
    due = burst + rate / 60 * seconds
    print(f"{rate:g} a minute, {burst} at once: {passed:.0f} passed, {due:.1f} were due")


if __name__ == "__main__":
    main()
