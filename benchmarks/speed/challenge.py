"""What a challenge costs: the service to issue and verify, a client and a thief to solve.

Run: python -m benchmarks.speed.challenge [--solves 5] [--browser]

Times are CPU time of one thread, so that other work on the machine does not count. `--browser`
also times WebCrypto in a headless Chromium, in one worker, by the clock. Costs of a thief are
arithmetic on these figures and on the settings as they are shipped.
"""

from __future__ import annotations

import argparse
import json
import math
import queue
import statistics
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Final

import altcha
import jwt
from velvetrope_client.keys import Keyring
from velvetrope_client.proof import solve

from responders.actions.challenge import (
    COST,
    HARDEST,
    PAGE_PURPOSE,
    RETURN_AUDIENCE,
    Asked,
    Challenges,
)
from responders.gateways.challenge import client_script
from responders.settings import ChallengeSettings
from tests.real_chromium import chromium

__all__ = ["main"]

QUERIES: Final = 10_000
_RUNS: Final = 5
_PAGE: Final = """<!doctype html><script type="module">
import { solve } from "/client.js";
const challenge = await (await fetch("/challenge")).json();
await solve(challenge, { workers: 1 });  // the first also pays for starting up
const began = performance.now();
const { counter } = await solve(challenge, { workers: 1 });
const took = (performance.now() - began) / 1000;
await fetch("/report", { method: "POST", body: JSON.stringify({ took, tries: counter + 1 }) });
</script>"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--solves", type=int, default=5, help="challenges solved at each step")
    parser.add_argument("--browser", action="store_true", help="time Chromium too")
    options = parser.parse_args(arguments)

    settings = ChallengeSettings()
    keyring = Keyring.new("benchmark")
    challenges = Challenges(keyring, settings)
    asked = Asked(account="acct-1", decision="d-" + "0" * 32, difficulty=1)
    _service(challenges, keyring, asked)
    per_try = _per_try(challenges, asked)
    print(f"one try ({COST} iterations of PBKDF2-SHA-256), Python: {per_try * 1e3:.2f} ms")
    if options.browser:
        took = [_browser(challenges, asked) for _ in range(_RUNS)]
        print(
            f"one try, Chromium, one worker, by the clock: {statistics.median(took) * 1e3:.2f} ms"
        )
    _clients(challenges, settings, options.solves, per_try)
    _thief(settings, per_try)


def _service(challenges: Challenges, keyring: Keyring, asked: Asked) -> None:
    proof = solve(challenges.issue(asked))
    ticket = challenges.ticket(asked)
    key = keyring.current.derive(PAGE_PURPOSE)
    claims = jwt.decode(ticket, key, ["HS256"], audience="challenge-page")
    claims |= {"iss": "challenge-page", "aud": RETURN_AUDIENCE}
    token = jwt.encode(claims, key, "HS256", headers={"kid": keyring.current.id})
    small: list[tuple[str, Callable[[], object], int]] = [
        ("sign a ticket", lambda: challenges.ticket(asked), 2000),
        ("issue a challenge", lambda: challenges.issue(asked), 200),
        ("verify a proof", lambda: challenges.read(proof), 2000),
        ("verify a page's return", lambda: challenges.read(token), 2000),
    ]
    for name, act, times in small:
        runs = []
        for _ in range(_RUNS):
            began = time.thread_time()
            for _ in range(times):
                act()
            runs.append((time.thread_time() - began) / times)
        print(f"{name}: {statistics.median(runs) * 1e6:,.0f} us (median of {_RUNS})")
    print(f"an answer is {len(proof):,} bytes, a ticket {len(ticket):,}")


def _per_try(challenges: Challenges, asked: Asked) -> float:
    """Seconds of CPU for one derivation inside ALTCHA's own search: median of several."""
    document = challenges.issue(asked)
    document["parameters"]["keyPrefix"] = "ff" * 16  # never found
    parsed = altcha.Challenge.from_dict(document)
    runs = []
    for _ in range(_RUNS):
        tries = 0

        def derive(parameters: Any, salt: bytes, password: bytes) -> bytes:
            nonlocal tries
            tries += 1
            return altcha.derive_key_pbkdf2(parameters, salt, password)

        began = time.thread_time()
        altcha.solve_challenge(parsed, derive, timeout=1.0)
        runs.append((time.thread_time() - began) / tries)
    return statistics.median(runs)


def _clients(
    challenges: Challenges, settings: ChallengeSettings, solves: int, per_try: float
) -> None:
    print(f"\ndifficulty | mean tries | expected s | measured s, median of {solves} (min-max)")
    for difficulty in range(1, HARDEST + 1):
        asked = Asked(account="acct-1", decision="d-1", difficulty=difficulty)
        took = []
        for _ in range(solves):
            document = challenges.issue(asked)
            began = time.thread_time()
            solve(document, most_seconds=1e6)
            took.append(time.thread_time() - began)
        tries = settings.tries * 2 ** (difficulty - 1)
        print(
            f"{difficulty} | {tries:,} | {tries * per_try:.1f} | "
            f"{statistics.median(took):.1f} ({min(took):.1f}-{max(took):.1f})",
            flush=True,
        )


def _thief(settings: ChallengeSettings, per_try: float) -> None:
    print(f"\n{QUERIES:,} queries while challenged, {settings.rate_per_min:g} a minute once passed")
    print("a proof lifts for | challenges | hours at that rate | CPU hours at difficulty 1, 3, 6")
    for lifts_s in (settings.proof_lifts_s, 120.0, 60.0):
        each = settings.rate_per_min * lifts_s / 60 + settings.burst
        passes = math.ceil(QUERIES / each)
        hours = QUERIES / settings.rate_per_min / 60
        costs = [
            passes * settings.tries * 2 ** (difficulty - 1) * per_try / 3600
            for difficulty in (1, 3, 6)
        ]
        print(
            f"{lifts_s:g} s | {passes} | {hours:.1f} | "
            + ", ".join(f"{cost:.3f}" for cost in costs)
        )


def _browser(challenges: Challenges, asked: Asked) -> float:
    """Seconds a try of WebCrypto in one worker."""
    reports: queue.Queue[dict[str, float]] = queue.Queue()
    issued = json.dumps(challenges.issue(asked)).encode()

    class Site(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            kinds = {
                "/client.js": ("text/javascript", client_script()),
                "/challenge": ("application/json", issued),
            }
            kind, body = kinds.get(self.path, ("text/html", _PAGE.encode()))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with chromium(f"http://127.0.0.1:{server.server_port}/"):
            report = reports.get(timeout=300)
    finally:
        server.shutdown()
        server.server_close()
    return report["took"] / report["tries"]


if __name__ == "__main__":
    main()
