"""`velvetrope serve`: everything in one process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.options import (
    FAILED,
    USAGE,
    ConfigOption,
    FormatOption,
    examples,
    fail,
    load_settings,
    plain,
)
from detector.cli.replay import make_pipeline

if TYPE_CHECKING:
    from detector.runners.pipeline import Pipeline
    from detector.settings import Settings
    from responders.decisions import Decision

__all__ = ["pipeline_maker", "print_decisions", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog=examples(
            "velvetrope serve /var/log/api/access.jsonl",
            "velvetrope serve /var/log/nginx/velvetrope.log --format nginx --mode enforce",
            "velvetrope serve --port 0 --state /var/lib/velvetrope/velvetrope.db",
            "velvetrope serve old.jsonl --once --state old.db",
        )
    )(serve)


def serve(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE…]", help="Logs to follow.")
    ] = None,
    log_format: FormatOption = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="SQLite file that holds all state."),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address of the API.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port of the API; 0: any.")] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="Made by calibrate; else the shipped one."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option("--mode", metavar="MODE", help="On a new state: shadow (default) or enforce."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Read the files to their end, and stop.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Follow logs, take posted events, decide, and answer gateways, in one process."""
    settings = load_settings(
        config,
        {
            "serve.files": files or None,
            "serve.format": log_format,
            "serve.state": state,
            "api.host": host,
            "api.port": port,
            "judge.baseline": baseline,
            "policy.mode": mode,
        },
    ).settings
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from velvetrope_client.keys import BadKeys
    from velvetrope_client.rewriter_settings import BadSettings

    from detector import formats
    from detector.runners.serve import CannotServe, Service

    if settings.serve.format not in formats.names():
        try:
            formats.get(settings.serve.format)
        except formats.UnknownFormat as error:
            fail(str(error), USAGE)
    service = Service(
        settings,
        pipeline_maker(settings),
        files=settings.serve.files,
        log_format=settings.serve.format,
        once=once,
        committed=print_decisions,
    )
    try:
        service.run(lambda url: typer.echo(f"velvetrope answers at {url}", err=True))
    except BadSettings as error:
        fail(f"api.poison: {error}", USAGE)
    except BadKeys as error:
        fail(f"api.challenge.keys: {error}", USAGE)
    except CannotServe as error:
        fail(str(error), FAILED)


def pipeline_maker(settings: Settings) -> Callable[[bytes | None], Pipeline]:
    """Makes a pipeline from a checkpoint, or afresh from None."""

    def make(exported: bytes | None) -> Pipeline:
        from detector.baseline import BadBaseline, Baseline
        from detector.runners.pipeline import Pipeline
        from detector.runners.serve import CannotServe
        from detector.score import BadModel
        from detector.state import StateMismatch
        from detector.vector_model import ModelError

        if exported is None:
            return make_pipeline(settings)
        path = settings.judge.baseline
        try:
            baseline = None if path is None else Baseline.load(path)
            return Pipeline.restore(settings, baseline, exported)
        except (BadBaseline, BadModel, ModelError, StateMismatch) as error:
            raise CannotServe(f"{settings.serve.state}: {error}") from None

    return make


def print_decisions(decisions: Sequence[Decision]) -> None:
    """A line for each decision that has come into force."""
    log = logging.getLogger("velvetrope")
    for decision in decisions:
        level = f" {decision.level}" if decision.action == "throttle" else ""
        log.info(
            "%s %s: %s%s (%s): %s",
            decision.scope,
            plain(decision.value),
            decision.action,
            level,
            decision.mode,
            plain(decision.reason.text),
        )
