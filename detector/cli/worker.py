"""`velvetrope worker`: measure, judge and apply on Kafka."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from detector.cli.options import FAILED, USAGE, ConfigOption, examples, fail, load_settings

__all__ = ["register", "worker"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog=examples(
            "velvetrope worker --kafka 10.0.0.6:9092 --redis redis://10.0.0.5:6379/0",
            "velvetrope worker --workers 4 --config velvetrope.toml",
            "velvetrope worker --stage measure --stage judge",
            "velvetrope worker --stage apply",
        )
    )(worker)


def worker(
    stages: Annotated[
        list[str] | None,
        typer.Option(
            "--stage", metavar="NAME", help="measure, judge or apply; repeatable. Default: all."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes of the same group, on this machine.")
    ] = 1,
    kafka: Annotated[
        str | None, typer.Option("--kafka", metavar="HOST:PORT", help="Brokers, comma-separated.")
    ] = None,
    redis: Annotated[
        str | None, typer.Option("--redis", metavar="URL", help="Where gateways read decisions.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Measure, judge and apply on Kafka. Make the topics first: `velvetrope topics create`.

    Runs until Ctrl-C or SIGTERM, and waits for brokers and Redis when they are away. Ends with
    code 1 on anything else, to be started again: it goes on from its checkpoints.
    """
    settings = load_settings(config, {"kafka.bootstrap": kafka, "redis.url": redis}).settings
    from detector.kafka.topics import TopicMismatch
    from detector.runners.worker import STAGES, run_workers

    for stage in stages or ():
        if stage not in STAGES:
            fail(f"unknown stage {stage!r}; they are {', '.join(STAGES)}", USAGE)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(processName)s %(levelname)s %(message)s"
    )
    try:
        code = run_workers(settings, workers, stages or STAGES)
    except TopicMismatch as error:
        fail(str(error), FAILED)
    raise typer.Exit(code)
