"""How fast `replay` is on one core: events/s at 400 bytes, MB/s at 4 KB inputs, bytes an account.

Run: python -m benchmarks.speed.replay [--events 300000] [--accounts 2000] [--runs 5]

It makes its own log: accounts send at random times, inputs are seeded sentences of a 4,000-word
vocabulary, one in a hundred requests was refused. Each run is `velvetrope replay` in a process of
its own on one core; the figure is the median, and comes from the run's own summary.json, so it
leaves the interpreter's start out and has everything else in.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from detector.measure import PartitionMeasure
from detector.settings import Settings

__all__ = ["main", "write_log"]

_START = 1_780_000_000.0
_RATE = 50.0  # events a second of log time


def write_log(path: Path, events: int, accounts: int, line_bytes: int, seed: int = 7) -> None:
    """A log of lines of about `line_bytes` bytes."""
    dice = random.Random(seed)
    letters = "etaoinshrdlucmfwyp"
    words = ["".join(dice.choices(letters, k=dice.randint(2, 9))) for _ in range(4_000)]
    corpus = " ".join(dice.choices(words, k=200_000))
    ts = _START
    with path.open("w") as file:
        for number in range(events):
            ts += dice.expovariate(_RATE)
            account = dice.randrange(accounts)
            fields = {
                "ts": round(ts, 3),
                "account": f"acct-{account}",
                "request_id": f"req-{number:08d}",
                "org": f"org-{account // 5}",
                "plan": "pro",
                "ip": f"10.{account >> 8 & 255}.{account & 255}.7",
                "endpoint": "/v1/chat/completions",
                "model": "large-1",
                "status": 429 if dice.random() < 0.01 else 200,
                "latency_ms": round(dice.uniform(50, 3_000), 1),
                "output_tokens": dice.randrange(10, 800),
            }
            fixed = len(json.dumps(fields)) + len(', "input": ""') + 1
            size = max(line_bytes - fixed, 8)
            start = dice.randrange(len(corpus) - size)
            fields["input"] = corpus[start : start + size]
            file.write(json.dumps(fields) + "\n")


def _replay(log: Path, folder: Path) -> dict[str, float]:
    """The summary of one replay on one core."""
    command = [sys.executable, "-m", "detector.cli", "replay", str(log), "--out", str(folder)]
    core = min(os.sched_getaffinity(0))
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    }
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    summary: dict[str, float] = json.loads((folder / "summary.json").read_text())
    return summary


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--accounts", type=int, default=2_000)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for line_bytes, events in ((400, given.events), (4_400, given.events // 5)):
            log = folder / f"log{line_bytes}.jsonl"
            write_log(log, events, given.accounts, line_bytes)
            size = log.stat().st_size
            walls = [_replay(log, folder / "out")["wall_seconds"] for _ in range(given.runs)]
            wall = statistics.median(walls)
            print(
                f"{size / events:.0f}-byte events: {events / wall:,.0f} events/s, "
                f"{size / wall / 1e6:.1f} MB/s (median of {given.runs}; "
                f"{min(walls):.2f} to {max(walls):.2f} s)"
            )
    state = PartitionMeasure(0, Settings().measure).bytes_per_account
    print(f"state of measure: {state:,} bytes an account")


if __name__ == "__main__":
    main()
