"""Serve: the whole of velvetrope in one process, with nothing to install beside it.

The verdict API and the ingest answer on the event loop; one thread reads, judges and commits. It
gives the interpreter up every slice, so answers wait some milliseconds for it at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from detector import formats
from detector.runners.engine import Engine, Runs
from detector.runners.ingest import Ingest
from detector.runners.ledger import Ledger
from detector.runners.sources import FileSource, Source
from detector.settings import Settings
from responders.alerts.sinks import open_sinks
from responders.decisions import Decision
from responders.gateways.app import create_app
from responders.gateways.protocol import TolerantProtocol
from responders.limits import StaticPolicy
from responders.metrics import Metrics
from responders.stores.base import StoreUnavailable
from responders.stores.lock import StateInUse, StateLock
from responders.stores.sqlite import SqliteStore

__all__ = ["CannotServe", "Committed", "Service"]

_log: Final = logging.getLogger("velvetrope.serve")
_BACKLOG: Final = 1024

Committed = Callable[[Sequence[Decision]], None]


class CannotServe(Exception):
    """The service cannot start, or had to stop. Says why, and what to do."""


class Service:
    """One deployment: a state file, its sources, and an address.

    Args:
        settings: all of them; `serve` and `api` say where.
        pipeline: makes the pipeline from an earlier `export`, or afresh from None.
        files: logs to follow, all of `log_format`.
        sources: further sources of that format, for playing a log.
        once: read every source to its end, take that for the end of the input, and return.
        clock: event time now, for expiries; a played log brings its own.
        committed: told of decisions once they are in force, in the engine's thread.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: Callable[[bytes | None], Runs],
        *,
        files: Sequence[Path] = (),
        log_format: str = "native",
        sources: Sequence[Source] = (),
        once: bool = False,
        clock: Callable[[], float] = time.time,
        committed: Committed = lambda decisions: None,
    ) -> None:
        self._settings = settings
        self._make_pipeline = pipeline
        self._files = files
        self._log_format = log_format
        self._sources = sources
        self._once = once
        self._clock = clock
        self._committed = committed
        self._metrics = Metrics()
        self._stop: Callable[[], None] | None = None
        self.address: tuple[str, int] | None = None  # once it listens

    def run(self, listening: Callable[[str], None] = lambda url: None) -> None:
        """Until SIGINT or SIGTERM, or with `once` until the sources end.

        Args:
            listening: told the API's URL as soon as it answers.

        Raises:
            CannotServe: with one line that says why.
            BadSettings: velvetrope_client's, of the file of poison.
        """
        asyncio.run(self.serve(listening))

    def stop(self) -> None:
        """End cleanly; from the event loop's thread."""
        if self._stop is not None:
            self._stop()

    async def serve(self, listening: Callable[[str], None] = lambda url: None) -> None:
        """`run` on an event loop that is there already."""
        with contextlib.ExitStack() as stack:
            opened = self._open(stack)
            try:
                await self._serve(*opened, listening)
            except StoreUnavailable as error:
                raise CannotServe(
                    f"{error}; what was not committed will be read again at the next start"
                ) from None

    def _open(self, stack: contextlib.ExitStack) -> tuple[Engine, ASGIApp, socket.socket]:
        settings = self._settings
        if not _is_loopback(settings.api.host) and settings.api.secret is None:
            raise CannotServe(
                f"api.host {settings.api.host} is not loopback: set api.secret "
                "(VELVETROPE_API__SECRET or VELVETROPE_API__SECRET_FILE) first"
            )
        path = settings.serve.state
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(StateLock(path))
            store = SqliteStore(path, clock=self._clock)
            stack.callback(store.close)
            ledger = Ledger(store, path)
            stack.callback(ledger.close)
            mode = store.init_mode(settings.policy.mode)
            store.set_policy(StaticPolicy.of(settings.policy).encode())
            if mode != settings.policy.mode:
                _log.warning(
                    "the mode is %s, as it was set on this state; `velvetrope mode` changes it",
                    mode,
                )
            pipeline = self._restored(store, ledger)
            sinks = open_sinks(settings.alerts)
            for sink in sinks:
                stack.callback(sink.close)
            sources = [*self._sources]
            for file in self._files:
                sources.append(
                    FileSource(
                        file,
                        ledger.position(str(file)),
                        grace_s=0.0 if self._once else 1.0,
                        notice=_log.warning,
                    )
                )
        except (StateInUse, StoreUnavailable) as error:
            raise CannotServe(str(error)) from None
        except OSError as error:
            raise CannotServe(f"{error.filename or path}: {error.strerror}") from None
        for file in () if self._once else self._files:
            with contextlib.suppress(OSError):  # what may not be looked at is told by reading it
                if not file.exists():
                    _log.warning("%s: there is no such file yet; it is read when it appears", file)
        missing = [str(file) for file in self._files if self._once and not file.is_file()]
        if missing:
            raise CannotServe(f"{missing[0]}: there is no such file")
        known = {name: formats.get(name, settings.formats) for name in formats.names()}
        engine = Engine(
            pipeline,
            store,
            ledger,
            sources,
            known[self._log_format],
            known,
            settings.serve,
            once=self._once,
            sinks=sinks,
            committed=self._in_force,
        )
        ingest = Ingest(
            store,
            ledger,
            known,
            max_waiting=settings.serve.inbox_max_events,
            api=settings.api,
            wake=engine.wake,
            dead_letters_kept=settings.serve.dead_letters_kept,
        )
        engine.taken_out = ingest.taken_out
        app = create_app(
            store,
            settings.api,
            clock=self._clock,
            routes=[ingest.route()],
            metrics=self._metrics,
        )
        return engine, app, stack.enter_context(self._listen())

    def _in_force(self, decisions: Sequence[Decision]) -> None:
        self._metrics.decisions(decisions)
        self._committed(decisions)

    def _restored(self, store: SqliteStore, ledger: Ledger) -> Runs:
        """The pipeline, from the last checkpoint if there is one."""
        partitions = str(self._settings.measure.partitions).encode()
        kept = ledger.value("partitions")
        if kept is None:
            with store.transaction() as db:
                ledger.set_value(db, "partitions", partitions)
        elif kept != partitions:
            raise CannotServe(
                f"{self._settings.serve.state} was made with measure.partitions = {kept.decode()}; "
                f"it is {partitions.decode()} now, and is fixed for the life of a deployment"
            )
        return self._make_pipeline(ledger.value("pipeline"))

    def _listen(self) -> socket.socket:
        host, port = self._settings.api.host, self._settings.api.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise CannotServe(f"cannot listen on {host}:{port}: {error.strerror}") from None
        self.address = listener.getsockname()[:2]
        return listener

    async def _serve(
        self,
        engine: Engine,
        app: ASGIApp,
        listener: socket.socket,
        listening: Callable[[str], None],
    ) -> None:
        config = uvicorn.Config(
            app,
            http=TolerantProtocol,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=5,
            limit_concurrency=self._settings.api.max_connections,
        )
        server = _Server(config)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            engine.stop()
            server.should_exit = True
            # A second signal ends the process at once; the state survives that as well.
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

        self._stop = stop
        with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: a test
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop)
        with ThreadPoolExecutor(1, "engine") as thread:
            answering = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started and not answering.done():
                await asyncio.sleep(0.01)
            assert self.address is not None  # noqa: S101
            listening(_url(*self.address))
            working = loop.run_in_executor(thread, engine.run)
            await asyncio.wait({answering, working}, return_when=asyncio.FIRST_COMPLETED)
            engine.stop()
            server.should_exit = True
            await asyncio.wait({answering, working})
            answering.result()
            working.result()


class _Server(uvicorn.Server):
    """Leaves the signals to the service, which has a state to save."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
