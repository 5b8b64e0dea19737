"""`velvetrope ship`: a gateway's log to Kafka."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from detector.cli.options import (
    FAILED,
    USAGE,
    ConfigOption,
    FormatOption,
    examples,
    fail,
    load_settings,
)

__all__ = ["register", "ship"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog=examples(
            "velvetrope ship /var/log/nginx/velvetrope.log --format nginx --kafka 10.0.0.6:9092",
            "velvetrope ship access.jsonl --state /var/lib/velvetrope/ship.json",
            "velvetrope ship --from-topic litellm-logs --format litellm",
            "velvetrope ship old.jsonl --once --end",
        )
    )(ship)


def ship(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The log to follow.")
    ] = None,
    from_topic: Annotated[
        str | None,
        typer.Option(
            "--from-topic", metavar="TOPIC", help="Read this topic instead; its keys do not matter."
        ),
    ] = None,
    group: Annotated[
        str, typer.Option("--group", metavar="NAME", help="With --from-topic: the consumer group.")
    ] = "velvetrope-ship",
    log_format: FormatOption = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="FILE",
            help="Where the position is kept. Default: velvetrope-ship-FILE.json, here.",
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Stop at the end instead of waiting for more.")
    ] = False,
    end: Annotated[
        bool,
        typer.Option("--end", help="With --once: tell every partition that the input has ended."),
    ] = False,
    kafka: Annotated[
        str | None, typer.Option("--kafka", metavar="HOST:PORT", help="Brokers, comma-separated.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Follow a gateway's log and produce its events to Kafka, keyed by account.

    It goes on where it left off: the position is saved once the brokers have acknowledged what is
    before it. Records that cannot be read go to dead letters, their input redacted.
    """
    if (file is None) == (from_topic is None):
        fail("give a FILE or --from-topic", USAGE)
    if end and not once:
        fail("--end needs --once", USAGE)
    if state is not None and file is None:
        fail("--state is for a FILE; a topic's offsets are kept by its group", USAGE)
    settings = load_settings(config, {"kafka.bootstrap": kafka}).settings
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.WARNING)
    from detector import formats
    from detector.kafka.ship import FromFile, FromTopic, Shipper, StateInUse
    from detector.kafka.topics import TopicMismatch

    try:
        decoder = formats.get(log_format or settings.serve.format, settings.formats)
    except formats.UnknownFormat as error:
        fail(str(error), USAGE)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    shipper = Shipper(settings, decoder, stop)
    try:
        if not shipper.wait_for_topics():
            return
        source: FromFile | FromTopic
        if file is not None:
            source = FromFile(file, state or Path(f"velvetrope-ship-{file.name}.json"))
        else:
            assert from_topic is not None  # noqa: S101
            source = FromTopic(settings, from_topic, group)
        try:
            shipped = shipper.run(source, once=once, end=end)
        finally:
            source.close()
    except (TopicMismatch, StateInUse, ValueError, OSError) as error:
        fail(str(error), FAILED)
    typer.echo(f"{shipped.events} events, {shipped.dead_letters} dead letters")
