"""`velvetrope baseline`: which version decisions rest on, and back to an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from detector.cli.deployment import (
    ByOption,
    KafkaOption,
    RedisOption,
    StateOption,
    deployment,
    feedback_id,
    tell,
    whoami,
)
from detector.cli.explaining import moment
from detector.cli.options import (
    ConfigOption,
    JsonOption,
    examples,
    fail,
    load_settings,
    print_table,
)

__all__ = ["register"]

_baseline = typer.Typer(help="Versions of the baseline: list, go back.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(_baseline, name="baseline")


@_baseline.command(
    "list",
    epilog=examples("velvetrope baseline list", "velvetrope baseline list --replay out --json"),
)
def list_versions(
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="DIR", help="Those of a replay instead of serve's."),
    ] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the versions that decisions rested on, and from when (workers: see `decisions show`)."""
    import msgspec

    refreshed = _of_replay(replay) if replay is not None else _of_serve(state, config)
    if as_json:
        typer.echo(msgspec.json.encode(refreshed).decode())
        return
    print_table(
        ("version", "from", "log-odds above", "account-weeks", "why"),
        [
            (
                version["name"],
                "the start" if not version["tick"] else moment(version["time"]),
                f"{version['shift']:+.2f}",
                f"{version['weeks']:,}",
                version["why"],
            )
            for version in refreshed["versions"]
        ],
    )
    held = "; kept until `velvetrope baseline resume`" if refreshed["held"] else ""
    typer.echo(f"in force: {refreshed['active']}{held}")


@_baseline.command(epilog=examples("velvetrope baseline rollback shipped"))
def rollback(
    version: str,
    by: ByOption = None,
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
) -> None:
    """Rest decisions on an earlier version, and keep it."""
    from responders.feedback import SetBaseline

    command = SetBaseline(id=feedback_id(), by=by or whoami(), version=version)
    with deployment(config, state, redis, kafka) as running:
        typer.echo(tell(running, command, f"The baseline is {version}, if there was such a one."))


@_baseline.command(epilog=examples("velvetrope baseline resume"))
def resume(
    by: ByOption = None,
    state: StateOption = None,
    redis: RedisOption = None,
    kafka: KafkaOption = None,
    config: ConfigOption = None,
) -> None:
    """Let the baseline follow customers again, from the version that is in force."""
    from responders.feedback import SetBaseline

    command = SetBaseline(id=feedback_id(), by=by or whoami())
    with deployment(config, state, redis, kafka) as running:
        typer.echo(tell(running, command, "The baseline follows customers."))


def _of_replay(folder: Path) -> dict[str, Any]:
    import msgspec

    file = folder / "summary.json"
    try:
        found: dict[str, Any] = msgspec.json.decode(file.read_bytes())["promise"]["refreshed"]
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    except (msgspec.DecodeError, KeyError, TypeError):
        fail(f"{file}: not the summary of a replay that has versions")
    return found


def _of_serve(state: Path | None, config: Path | None) -> dict[str, Any]:
    from detector.judge import versions_in
    from detector.runners.ledger import Ledger
    from detector.runners.pipeline import judge_in
    from detector.state import StateMismatch
    from responders.stores.base import StoreUnavailable
    from responders.stores.sqlite import SqliteStore

    path = load_settings(config, {"serve.state": state}).settings.serve.state
    if not path.is_file():
        fail(f"{path}: there is no such state file; name that of the running serve with --state")
    try:
        store = SqliteStore(path)
        ledger = Ledger(store, path)
        packed = ledger.value("pipeline")
        ledger.close()
        store.close()
        if packed is None:
            fail(f"{path}: nothing was judged yet")
        return versions_in(judge_in(packed))
    except (StoreUnavailable, StateMismatch) as error:
        fail(str(error))
