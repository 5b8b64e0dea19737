"""Demo: the play is whole, the API answers on the log's clock, and the table is honest."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from detector import formats
from detector.events import Event
from detector.runners.calibrate import NothingToLearn
from detector.runners.demo import Demo, Play, free_port, play_of_log
from detector.runners.labels import Label
from detector.settings import Settings
from responders.decisions import Decision
from tests.detector.runners.fakes import FakePipeline, native_line

DAY = 86_400.0
START = 1_770_000_000.0


class Enforcing(FakePipeline):
    """Throttles at an account's 10th event, enforced for 1,000 s."""

    def decide(self, account: str, ts: float, count: int) -> Decision:
        decided = super().decide(account, ts, count)
        return msgspec.structs.replace(
            decided,
            mode="enforce",
            expires_at=ts + 1000.0,
            params={"rate_per_min": 6.0, "burst": 3, "bucket": f"account:{account}"},
        )

    def accounts(self) -> Iterator[tuple[str, int, int]]:
        for account, count in self.counts.items():
            yield account, count, count


def busy_and_quiet(path: Path) -> Path:
    """`early` sends 10 requests at the start, `late` 10 at the end, 5,000 s on; `quiet` sends 3."""
    lines = [native_line("early", START + second) for second in range(10)]
    lines += [native_line("quiet", START + 100.0 * second) for second in range(1, 4)]
    lines += [native_line("late", START + 5000.0 + second) for second in range(10)]
    path.write_bytes(b"".join(lines))
    return path


def prepared(log: Path, folder: Path, said: list[str] | None = None) -> Play:
    say = (said if said is not None else []).append
    return play_of_log([log], formats.get("native"), folder, Settings(), say)


@contextlib.asynccontextmanager
async def playing(play: Play, folder: Path) -> AsyncIterator[Demo]:
    demo = Demo(
        play,
        folder,
        Settings(),
        seconds=0.2,
        port=0,
        pipeline=lambda settings, baseline: Enforcing(),  # type: ignore[arg-type, return-value]
    )
    listening = asyncio.Event()
    task = asyncio.create_task(demo.run(listening.set))
    try:
        async with asyncio.timeout(20.0):
            await listening.wait()
            while not demo.finished.is_set():
                assert not task.done(), task.exception()
                await asyncio.sleep(0.02)
        yield demo
    finally:
        demo.stop()
        await task


async def test_all_is_played_and_the_clock_stands_at_the_logs_end(tmp_path: Path) -> None:
    play = prepared(busy_and_quiet(tmp_path / "my.jsonl"), tmp_path)
    assert (play.events, play.first_ts, play.last_ts) == (23, START, START + 5009.0)
    async with playing(play, tmp_path) as demo:
        assert demo.events == 23
        assert demo.clock() == START + 5009.0
        assert [c.decision.value for c in demo.caught()] == ["early", "late"]


async def test_the_api_refuses_who_is_refused_at_the_logs_time(tmp_path: Path) -> None:
    play = prepared(busy_and_quiet(tmp_path / "my.jsonl"), tmp_path)
    async with playing(play, tmp_path) as demo, httpx.AsyncClient(base_url=demo.url) as client:
        path = "/authorize/envoy/v1/chat/completions"
        answers = {
            account: [
                (await client.get(path, headers={"X-Account": account})).status_code
                for _ in range(5)
            ]
            for account in ("early", "late", "quiet")
        }
        live = demo.live()
    # The decision on `early` ended 4,000 s before the log did; a burst of 3 is let through.
    assert answers == {"early": [200] * 5, "late": [200] * 3 + [429] * 2, "quiet": [200] * 5}
    assert live is not None
    assert live.decision.value == "late"


async def test_labels_give_the_closing_table(tmp_path: Path) -> None:
    play = prepared(busy_and_quiet(tmp_path / "my.jsonl"), tmp_path)
    labels = {"early": Label(True, "crew"), "late": Label(False, "apps"), "quiet": Label(False)}
    play = Play(**{**vars(play), "labels": labels})
    async with playing(play, tmp_path) as demo:
        counted = {g.group: (g.harvesting, g.accounts, g.enforced) for g in demo.groups()}
    assert counted == {"crew": (True, 1, 1), "apps": (False, 1, 1), "customers": (False, 1, 0)}


async def test_without_labels_there_is_no_table(tmp_path: Path) -> None:
    async with playing(prepared(busy_and_quiet(tmp_path / "my.jsonl"), tmp_path), tmp_path) as demo:
        assert demo.groups() == []


def test_a_log_of_one_day_is_judged_by_the_shipped_reference(tmp_path: Path) -> None:
    play = prepared(busy_and_quiet(tmp_path / "my.jsonl"), tmp_path)
    assert play.baseline is None
    assert "shipped reference" in play.about


def test_the_first_day_of_a_longer_log_is_its_baseline(tmp_path: Path) -> None:
    log = tmp_path / "my.jsonl"
    log.write_bytes(
        b"".join(
            native_line(f"acct-{n % 7}", START + 60.0 * n, input=f"request number {n}")
            for n in range(2 * 1440)
        )
    )
    play = prepared(log, tmp_path)
    assert play.baseline is not None
    assert play.baseline.is_file()
    assert (play.events, play.first_ts) == (1440, START + DAY)
    assert "first day" in play.about


def test_what_cannot_be_read_is_counted_and_left_out(tmp_path: Path) -> None:
    log = busy_and_quiet(tmp_path / "my.jsonl")
    log.write_bytes(b"{not json}\n" + log.read_bytes())
    said: list[str] = []
    assert prepared(log, tmp_path, said).events == 23
    assert any(line.startswith("1 records could not be read") for line in said)


def test_a_log_without_events_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"\n")
    with pytest.raises(NothingToLearn, match="no event"):
        prepared(tmp_path / "empty.jsonl", tmp_path)


def test_what_is_played_is_the_log_in_native_form(tmp_path: Path) -> None:
    play = prepared(busy_and_quiet(tmp_path / "my.jsonl"), tmp_path)
    lines = play.log.read_bytes().splitlines()
    native = formats.get("native")
    events, bad = native.decode_lines(lines, START + DAY)
    assert bad == []
    assert lines[-1] == b'{"control":"end"}'
    assert [event.account for event in events[:-1] if isinstance(event, Event)][:1] == ["early"]


def test_a_taken_port_gives_any_other() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert free_port(taken.getsockname()[1]) == 0
