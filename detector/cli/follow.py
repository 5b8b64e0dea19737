"""`velvetrope follow TARGET`: keeps a gateway's own copy of what is enforced."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.options import FAILED, USAGE, ConfigOption, examples, fail, load_settings

if TYPE_CHECKING:
    from detector.settings import Settings
    from responders.following.source import Source

__all__ = ["register"]

_follow = typer.Typer(
    help="Keep a gateway's own copy of what is enforced: haproxy.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(_follow, name="follow")


@_follow.command(
    epilog=examples(
        "velvetrope follow haproxy",
        "velvetrope follow haproxy --api http://10.0.0.7:8470 --maps /var/lib/velvetrope/haproxy",
        "velvetrope follow haproxy --redis redis://10.0.0.5:6379/0",
    )
)
def haproxy(
    api: Annotated[
        str | None,
        typer.Option("--api", metavar="URL", help="Follow this verdict API. Default: this host's."),
    ] = None,
    redis: Annotated[
        str | None, typer.Option("--redis", metavar="URL", help="Follow the decisions in Redis.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="Follow the state file of serve."),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option("--maps", metavar="DIR", help="Folder of HAProxy's map files."),
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option("--socket", metavar="PATH", help="HAProxy's stats socket, of level admin."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Keep HAProxy's maps: who is throttled, challenged or blocked there.

    Runs until Ctrl-C or SIGTERM, beside each HAProxy. The map files are there for HAProxy's next
    start; changes reach it through its socket. deploy/haproxy has the configuration.
    """
    arguments = {
        "redis.url": redis,
        "serve.state": state,
        "follow.haproxy_maps": maps,
        "follow.haproxy_socket": socket,
    }
    settings = load_settings(config, arguments).settings
    if sum(one is not None for one in (api, redis, state)) > 1:
        fail("give one of --api, --redis and --state", USAGE)
    folder = settings.follow.haproxy_maps.absolute()
    if not folder.is_dir():
        fail(
            f"follow.haproxy_maps is {folder}: there is no such folder; create it, owned by the "
            "user who runs this, or name another with --maps",
            FAILED,
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from responders.following.follow import follow
    from responders.following.haproxy import Haproxy
    from responders.following.haproxy_runtime import Runtime

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    target = Haproxy(
        folder,
        Runtime(settings.follow.haproxy_socket),
        stale_after_s=settings.follow.stale_after_s,
    )
    with _source(settings, api, redis, state) as source:
        try:
            follow(source, target, stop, every_s=settings.follow.every_s)
        except OSError as error:
            fail(f"{error.filename or folder}: {error.strerror}", FAILED)


@contextmanager
def _source(
    settings: Settings, api: str | None, redis: str | None, state: Path | None
) -> Iterator[Source]:
    from responders.following.source import ApiSource, StoreSource

    if redis is not None:
        from responders.stores.redis import RedisStore

        with contextlib.closing(RedisStore(settings.redis)) as store:
            yield StoreSource(store)
    elif state is not None:
        from responders.stores.sqlite import SqliteStore

        if not state.is_file():
            fail(f"{state}: there is no such state file", FAILED)
        with contextlib.closing(SqliteStore(state)) as store:
            yield StoreSource(store)
    else:
        secret = settings.api.secret
        with ApiSource(
            api or _own_url(settings), None if secret is None else secret.get_secret_value()
        ) as source:
            yield source


def _own_url(settings: Settings) -> str:
    host = settings.api.host
    return (
        f"http://[{host}]:{settings.api.port}"
        if ":" in host
        else f"http://{host}:{settings.api.port}"
    )
