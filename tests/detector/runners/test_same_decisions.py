"""The same log gives the same decisions through replay and serve, killed or not, real parts all."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from detector.runners.ledger import Ledger
from responders.decisions import Decision, is_enforcement
from responders.feedback import Clear, encode_feedback
from responders.stores.sqlite import SqliteStore

ROOT = Path(__file__).parents[3]
START = 1_780_000_000.0
GAP_S = 100_000.0
CLEARED = "acct-3"
END = b'{"control": "end"}'


def write_log(path: Path) -> list[bytes]:
    """Two stretches of traffic, a day apart: blocks close idle and decisions expire between.

    Every tenth event comes up to 4 s late. Inputs are cut from one random text, which no customer
    sends.
    """
    dice = random.Random(11)
    words = ["".join(dice.choices("etaoinshrdlucm", k=dice.randint(2, 9))) for _ in range(3_000)]
    corpus = " ".join(dice.choices(words, k=50_000))
    lines = []
    for begin in (START, START + GAP_S):
        ts = begin
        for _ in range(4_000):
            ts += dice.expovariate(20.0)
            at = dice.randrange(len(corpus) - 300)
            late = dice.uniform(0.0, 4.0) if dice.random() < 0.1 else 0.0
            event = {
                "ts": round(ts - late, 3),
                "account": f"acct-{dice.randrange(24)}",
                "status": 429 if dice.random() < 0.02 else 200,
                "latency_ms": round(dice.uniform(20, 2_000), 1),
                "input": corpus[at : at + dice.randrange(40, 300)],
            }
            lines.append(json.dumps(event).encode())
    path.write_bytes(b"\n".join(lines) + b"\n")
    return lines


def clear() -> Clear:
    return Clear(
        id="f-1", by="ana", at=START + 120.0, scope="account", value=CLEARED, reason="partner"
    )


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VELVETROPE_")}
    # Time in a log that is read in one go must not pass because a test's machine is slow.
    kept["VELVETROPE_SERVE__SILENCE_AFTER_S"] = "3600"
    kept["VELVETROPE_SERVE__CHECKPOINT_EVERY_S"] = "0.2"
    kept["VELVETROPE_ALERTS__LOG"] = "false"
    # Steps wait for their delay and for a place, the same for all.
    kept["VELVETROPE_POLICY__NEW_ENFORCEMENTS_PER_MIN"] = "20"
    kept["VELVETROPE_POLICY__JITTER_S"] = "9"
    return kept


class Serve:
    """The real program, on any port."""

    def __init__(self, state: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "detector.cli", "serve", *arguments]
        self.process = subprocess.Popen(
            [*command, "--state", str(state), "--port", "0"],
            cwd=ROOT,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "answers at" in line:
                return line.split()[-1]
        raise AssertionError("it ended before it answered")

    def drain(self, number: int) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    return path, write_log(path)


@pytest.fixture(scope="module")
def replayed(
    log: tuple[Path, list[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("replay")
    said = folder / "said.jsonl"
    said.write_bytes(encode_feedback(clear()) + b"\n")
    command = [sys.executable, "-m", "detector.cli", "replay", str(log[0])]
    subprocess.run(
        [*command, "--out", str(folder), "--feedback", str(said)],
        cwd=ROOT,
        env=environment(),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    lines = (folder / "decisions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def essence(decisions: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    keys = ("version", "scope", "value", "action", "level", "issued_at", "id", "n_events")
    return sorted(tuple(decision[key] for key in keys) for decision in decisions)


def decided(state: Path) -> list[Decision]:
    store = SqliteStore(state)
    found = [d for i in range(24) for d in store.history("account", f"acct-{i}")]
    store.close()
    return found


def of_serve(state: Path) -> list[tuple[Any, ...]]:
    return essence([msgspec.to_builtins(decision) for decision in decided(state)])


def tell(state: Path) -> None:
    store = SqliteStore(state)
    ledger = Ledger(store, state)
    with store.transaction() as db:
        ledger.say(db, clear())
    ledger.close()
    store.close()


@pytest.fixture
def serves() -> Iterator[list[Serve]]:
    started: list[Serve] = []
    yield started
    for serve in started:
        if serve.process.poll() is None:
            serve.process.kill()
            serve.process.communicate()


def test_the_log_is_worth_the_comparison(replayed: list[dict[str, Any]]) -> None:
    actions = {decision["action"] for decision in replayed}
    assert len(replayed) >= 20
    assert sum(map(is_enforcement, actions)) >= 2
    assert [d["value"] for d in replayed if d["action"] == "clear"] == [CLEARED]
    # After the gap everything has expired, and is decided anew.
    assert any(d["issued_at"] > START + GAP_S for d in replayed)
    assert all(d["expires_at"] < START + GAP_S for d in replayed if d["issued_at"] < START + 3600)


def test_serve_once_decides_as_replay_does(
    tmp_path: Path,
    log: tuple[Path, list[bytes]],
    replayed: list[dict[str, Any]],
    serves: list[Serve],
) -> None:
    state = tmp_path / "state.db"
    tell(state)
    serves.append(Serve(state, str(log[0]), "--once"))
    serves[-1].process.communicate(timeout=120)
    assert serves[-1].process.returncode == 0
    assert of_serve(state) == essence(replayed)


def test_serve_killed_in_the_middle_decides_as_replay_does(
    tmp_path: Path,
    log: tuple[Path, list[bytes]],
    replayed: list[dict[str, Any]],
    serves: list[Serve],
) -> None:
    """SIGKILL twice while the file grows; half of the log is posted, the end as well."""
    _, lines = log
    state, grown = tmp_path / "state.db", tmp_path / "grown.jsonl"
    tell(state)
    grown.touch()
    half = len(lines) // 2
    for number, (begin, end) in enumerate(((0, half // 2), (half // 2, half))):
        serves.append(Serve(state, str(grown)))
        serves[-1].url()
        with grown.open("ab") as file:
            file.write(b"\n".join(lines[begin:end]) + b"\n")
        _until_decided(state, 20 * (number + 1))
        assert serves[-1].drain(signal.SIGKILL) == -signal.SIGKILL
    serves.append(Serve(state, str(grown)))
    url = serves[-1].url()
    _until_read(state)
    for begin in range(half, len(lines), 500):
        answer = httpx.post(f"{url}/v1/events", content=b"\n".join(lines[begin : begin + 500]))
        assert answer.status_code == 202
    assert httpx.post(f"{url}/v1/events", content=END).status_code == 202
    assert serves[-1].drain(signal.SIGTERM) == 0
    # What was accepted and not read before the end is read at the next start.
    serves.append(Serve(state))
    serves[-1].url()
    _until_empty(state)
    assert serves[-1].drain(signal.SIGTERM) == 0
    assert of_serve(state) == essence(replayed)


def _until_decided(state: Path, number: int) -> None:
    _until(lambda: len(decided(state)) >= number)


def _until_read(state: Path) -> None:
    """Until the file's lines are part of the state: posts are not to overtake them."""

    def read() -> bool:
        with closing(sqlite3.connect(state)) as db:
            row = db.execute("SELECT source, position FROM positions").fetchone()
        return bool(row) and json.loads(row[1])["offset"] == Path(row[0]).stat().st_size

    _until(read)


def _until_empty(state: Path) -> None:
    def empty() -> bool:
        with closing(sqlite3.connect(state)) as db:
            return not db.execute("SELECT 1 FROM inbox").fetchone()

    _until(empty)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.01)
