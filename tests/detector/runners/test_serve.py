"""Serve: what was promised is on the disk, and nothing counts twice, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from detector.runners.ledger import Ledger
from detector.runners.serve import CannotServe, Service
from detector.settings import MeasureSettings, ServeSettings, Settings
from responders.decisions import Decision
from responders.feedback import Allow, SetMode
from responders.settings import AlertSettings, ApiSettings
from responders.stores.sqlite import SqliteStore
from tests.detector.runners.fakes import FakePipeline, native_line

ROOT = Path(__file__).parents[3]


def settings_for(tmp_path: Path, **serve: Any) -> Settings:
    return Settings(
        serve=ServeSettings(
            state=tmp_path / "state.db", checkpoint_every_s=0.05, poll_every_s=0.02, **serve
        ),
        api=ApiSettings(port=0, max_body_bytes=1 << 20),
        alerts=AlertSettings(log=False),
    )


@contextlib.asynccontextmanager
async def serving(settings: Settings, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    service = Service(settings, FakePipeline, **options)  # type: ignore[arg-type]
    task = asyncio.create_task(service.serve(url.set_result))
    await asyncio.wait({task, url}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        async with httpx.AsyncClient(base_url=await url) as client:
            yield client
    finally:
        service.stop()
        await task


async def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        await asyncio.sleep(0.01)


def counts(state: Path) -> dict[str, int]:
    """Events of each account in the last checkpoint."""
    store = SqliteStore(state)
    ledger = Ledger(store, state)
    exported = ledger.value("pipeline")
    ledger.close()
    store.close()
    return {} if exported is None else msgspec.msgpack.decode(exported)[0]


def history(state: Path, account: str) -> list[Decision]:
    store = SqliteStore(state)
    found = store.history("account", account)
    store.close()
    return found


@contextlib.contextmanager
def opened(state: Path) -> Iterator[tuple[SqliteStore, Ledger]]:
    store = SqliteStore(state)
    ledger = Ledger(store, state)
    yield store, ledger
    ledger.close()
    store.close()


# Ingest


async def test_a_native_event_an_array_and_ndjson_are_accepted(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    one, two = native_line("a", 1.0).strip(), native_line("a", 2.0).strip()
    async with serving(settings) as client:
        for body in (one, b"[" + one + b"," + two + b"]", one + b"\n" + two + b"\n"):
            answer = await client.post("/v1/events", content=body)
            assert answer.status_code == 202
        assert answer.json() == {"accepted": 2, "rejected": []}
        await eventually(lambda: counts(settings.serve.state) == {"a": 5})


async def test_bad_records_are_named_and_the_good_ones_accepted(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    body = b"[" + native_line("a", 1.0) + b',{"ts": 1}, 5]'
    async with serving(settings) as client:
        answer = await client.post("/v1/events", content=body)
        assert answer.status_code == 202
        assert answer.json()["accepted"] == 1
        assert [bad["index"] for bad in answer.json()["rejected"]] == [1, 2]
    with opened(settings.serve.state) as (_, ledger):
        letters = ledger.buried()
    assert [(letter.source, letter.position) for letter in letters] == [
        ("POST /v1/events", 1),
        ("POST /v1/events", 2),
    ]


@pytest.mark.parametrize("body", [b"", b"[1", b'{"ts": 1}', b"\xff\xfe"])
async def test_a_body_without_a_good_event_is_422(tmp_path: Path, body: bytes) -> None:
    async with serving(settings_for(tmp_path)) as client:
        assert (await client.post("/v1/events", content=body)).status_code == 422


async def test_a_body_over_the_limit_is_413_announced_or_not(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * (1 << 16)

    async with serving(settings_for(tmp_path)) as client:
        answer = await client.post("/v1/events", content=b" " * ((1 << 20) + 1))
        assert answer.status_code == 413
        assert (await client.post("/v1/events", content=chunks())).status_code == 413


async def test_a_full_inbox_is_503_with_retry_after(tmp_path: Path) -> None:
    async with serving(settings_for(tmp_path, inbox_max_events=2)) as client:
        body = b"".join(native_line("a", float(i)) for i in range(3))
        answer = await client.post("/v1/events", content=body)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0


async def test_litellm_is_told_by_its_shape_or_by_name(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    payload = {
        "startTime": 1000.0, "endTime": 1001.0, "status": "success", "litellm_call_id": "c1",
        "metadata": {"user_api_key_user_id": "u1"}, "messages": "hello", "model": "m",
    }  # fmt: skip
    body = msgspec.json.encode([payload])
    async with serving(settings) as client:
        assert (await client.post("/v1/events", content=body)).status_code == 202
        answer = await client.post("/v1/events?format=litellm", content=body)
        assert answer.status_code == 202
        answer = await client.post("/v1/events?format=lite", content=body)
        assert answer.status_code == 422
        assert "lite" in answer.json()["detail"]
        await eventually(lambda: counts(settings.serve.state) == {"u1": 2})


async def test_ingest_needs_the_secret_where_one_is_set(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    api = ApiSettings.model_validate({"port": 0, "host": "0.0.0.0", "secret": "s3cret"})
    async with serving(settings.model_copy(update={"api": api})) as client:
        url = str(client.base_url.copy_with(host="127.0.0.1"))
        body = native_line("a", 1.0)
        assert (await client.post(f"{url}/v1/events", content=body)).status_code == 401
        headers = {"X-Velvetrope-Secret": "s3cret"}
        answer = await client.post(f"{url}/v1/events", content=body, headers=headers)
        assert answer.status_code == 202


async def test_off_loopback_without_a_secret_is_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path).model_copy(update={"api": ApiSettings(host="0.0.0.0")})
    with pytest.raises(CannotServe, match=r"set api\.secret"):
        await Service(settings, FakePipeline).serve()  # type: ignore[arg-type]


async def test_a_page_in_a_browser_cannot_post(tmp_path: Path) -> None:
    async with serving(settings_for(tmp_path)) as client:
        headers = {"Origin": "https://example.org"}
        answer = await client.post("/v1/events", content=native_line("a", 1.0), headers=headers)
        assert answer.status_code == 403


# Files, decisions, commands


async def test_a_followed_file_leads_to_decisions(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    log = tmp_path / "log"
    told: list[Decision] = []
    async with serving(settings, files=[log], committed=told.extend) as client:
        assert (await client.get("/healthz")).status_code == 200
        with log.open("ab") as file:
            for i in range(10):
                file.write(native_line("a", 1000.0 + i))
        await eventually(lambda: len(told) == 1)
        assert [d.level for d in history(settings.serve.state, "a")] == [1]


async def test_bad_lines_are_dead_letters_with_their_place(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    log = tmp_path / "log"
    log.write_bytes(native_line("a", 1.0) + b"{\n" + b"x" * (2 << 20) + b"\n")
    async with serving(settings, files=[log]):
        with opened(settings.serve.state) as (_, ledger):
            await eventually(lambda: len(ledger.buried()) == 2)
            letters = ledger.buried()
    first = len(native_line("a", 1.0))
    assert [(letter.source, letter.position) for letter in letters] == [
        (str(log), first),
        (str(log), first + 2),
    ]


async def test_a_file_that_is_not_there_is_warned_of_once_and_read_when_it_appears(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, log = settings_for(tmp_path), tmp_path / "later.jsonl"
    async with serving(settings, files=[log]):
        warned = [record.message for record in caplog.records if str(log) in record.message]
        assert warned == [f"{log}: there is no such file yet; it is read when it appears"]
        log.write_bytes(native_line("a", 1.0))
        await eventually(lambda: counts(settings.serve.state) == {"a": 1})


async def test_a_command_is_journalled_and_holds_at_once(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with serving(settings):
        with opened(settings.serve.state) as (store, ledger):
            with store.transaction() as db:
                ledger.say(db, SetMode(id="f1", by="me", mode="enforce"))
                ledger.say(
                    db, Allow(id="f2", by="me", scope="account", value="a", reason="partner")
                )
            await eventually(lambda: store.mode() == "enforce")
            assert store.allows({"account": "a"}, 0.0) is not None
            assert ledger.is_journalled("f1")
            assert ledger.is_journalled("f2")
            exported = ledger.value("pipeline")
    assert exported is not None
    assert msgspec.msgpack.decode(exported)[2] == ["f1", "f2"]


async def test_a_command_is_not_taken_twice_over_a_restart(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    for _ in range(2):
        async with serving(settings):
            with opened(settings.serve.state) as (store, ledger):
                with store.transaction() as db:
                    ledger.say(db, SetMode(id="f1", by="me", mode="off"))
                await eventually(lambda: ledger.is_journalled("f1"))
    with opened(settings.serve.state) as (_, ledger):
        exported = ledger.value("pipeline")
    assert exported is not None
    assert msgspec.msgpack.decode(exported)[2] == ["f1"]


async def test_another_number_of_partitions_is_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with serving(settings):
        pass
    other = settings.model_copy(update={"measure": MeasureSettings(partitions=4)})
    with pytest.raises(CannotServe, match=r"made with measure\.partitions = 8; it is 4 now"):
        await Service(other, FakePipeline).serve()  # type: ignore[arg-type]


async def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with serving(settings) as client:
        api = ApiSettings(port=client.base_url.port or 0)
        elsewhere = ServeSettings(state=tmp_path / "other.db")
        other = settings.model_copy(update={"api": api, "serve": elsewhere})
        with pytest.raises(CannotServe, match=r"cannot listen on 127\.0\.0\.1:\d+: Addr"):
            await Service(other, FakePipeline).serve()  # type: ignore[arg-type]


# As a process


class Process:
    """A serve of its own process."""

    def __init__(self, state: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.detector.runners.fake_serve", str(state)]
        self.process = subprocess.Popen(
            [*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def make(*arguments: Any) -> Process:
        started.append(Process(*arguments))
        return started[-1]

    yield make
    for process in started:
        if process.process.poll() is None:
            process.process.kill()
        process.process.communicate()


def test_once_reads_the_files_and_ends(tmp_path: Path, start: Callable[..., Process]) -> None:
    log, state = tmp_path / "log", tmp_path / "state.db"
    log.write_bytes(b"".join(native_line("a", float(i)) for i in range(25)).rstrip())
    assert start(state, str(log), "--once").process.wait(20) == 0
    assert counts(state) == {"a": 25}
    assert [d.n_events for d in history(state, "a")] == [10, 20]


def test_a_second_serve_on_the_same_state_is_refused(
    tmp_path: Path, start: Callable[..., Process]
) -> None:
    state = tmp_path / "state.db"
    first = start(state)
    first.url()
    second = start(state)
    assert second.process.wait(20) == 1
    assert second.process.stderr is not None
    (line,) = second.process.stderr.read().decode().splitlines()
    assert line.startswith(f"velvetrope: {state} is in use by process {first.process.pid}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_with_everything_kept(
    tmp_path: Path, start: Callable[..., Process], number: signal.Signals
) -> None:
    log, state = tmp_path / "log", tmp_path / "state.db"
    log.touch()
    process = start(state, str(log))
    url = process.url()
    with log.open("ab") as file:
        file.write(b"".join(native_line("a", float(i)) for i in range(7)))
    body = b"".join(native_line("b", float(i)) for i in range(5))
    assert httpx.post(f"{url}/v1/events", content=body).status_code == 202
    assert process.end(number) == 0
    assert start(state, str(log), "--once").process.wait(20) == 0
    assert counts(state) == {"a": 7, "b": 5}


def test_kills_at_any_moment_lose_and_repeat_nothing(
    tmp_path: Path, start: Callable[..., Process]
) -> None:
    """Killed five times while 40,000 lines and 100 posts come in: every event counts once."""
    log, state = tmp_path / "log", tmp_path / "state.db"
    log.touch()
    written = posted = 0
    with log.open("ab", buffering=0) as file:
        for kill in range(5):
            process = start(state, str(log))
            url = process.url()
            for _ in range(20):
                file.write(
                    b"".join(native_line(f"f{i % 7}", float(written + i)) for i in range(400))
                )
                written += 400
                answer = httpx.post(f"{url}/v1/events", content=native_line("p", float(posted)))
                assert answer.status_code == 202
                posted += 1
            if kill < 4:
                assert process.end(signal.SIGKILL) == -signal.SIGKILL
            else:
                assert process.end(signal.SIGTERM) == 0
    assert start(state, str(log), "--once").process.wait(20) == 0
    found = counts(state)
    assert sum(n for account, n in found.items() if account != "p") == written
    assert found["p"] == posted
    for account, n in found.items():
        assert [d.n_events for d in history(state, account)] == list(range(10, n + 1, 10))


# A full disk


def test_a_full_disk_is_said_and_nothing_is_lost(
    tmp_path: Path, start: Callable[..., Process]
) -> None:
    """The kernel refuses the process any longer file, as a full disk does, then lets it again."""
    log, state = tmp_path / "log", tmp_path / "state.db"
    log.touch()
    process = start(state, str(log))
    url = process.url()
    number = process.process.pid
    full = state.with_name("state.db-wal").stat().st_size + 50_000
    resource.prlimit(number, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
    with log.open("ab") as file:
        file.write(b"".join(native_line(f"a{i}", float(i)) for i in range(20_000)))
    assert process.process.stderr is not None
    said = process.process.stderr.readline().decode()
    assert "nothing is lost" in said
    assert httpx.get(f"{url}/healthz").status_code == 200
    answer = httpx.post(f"{url}/v1/events", content=native_line("p", 1.0, input="x" * 99_000))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(number, resource.RLIMIT_FSIZE, unlimited)
    deadline = time.monotonic() + 20
    while len(counts(state)) < 20_000:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert httpx.post(f"{url}/v1/events", content=native_line("p", 1.0)).status_code == 202
    assert process.end(signal.SIGTERM) == 0
    assert sum(counts(state).values()) == 20_001


def test_a_disk_that_stays_full_ends_with_one_line_and_the_rest_is_read_again(
    tmp_path: Path, start: Callable[..., Process]
) -> None:
    log, state = tmp_path / "log", tmp_path / "state.db"
    log.touch()
    process = start(state, str(log))
    process.url()
    full = state.with_name("state.db-wal").stat().st_size
    resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
    with log.open("ab") as file:
        file.write(b"".join(native_line(f"a{i}", float(i)) for i in range(2_000)))
    assert process.process.stderr is not None
    process.process.stderr.readline()
    assert process.end(signal.SIGTERM) == 1
    last = process.process.stderr.read().decode().splitlines()[-1]
    assert last.startswith("velvetrope: ")
    assert "will be read again" in last
    assert start(state, str(log), "--once").process.wait(20) == 0
    assert len(counts(state)) == 2_000
