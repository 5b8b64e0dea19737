"""`velvetrope topics`: the topics of a deployment."""

from __future__ import annotations

from typing import Annotated

import typer

from detector.cli.options import FAILED, ConfigOption, examples, fail, load_settings

__all__ = ["create", "register", "topics"]

topics = typer.Typer(help="The topics of a deployment: create.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.add_typer(topics, name="topics")


@topics.callback()
def _topics() -> None:
    """The topics of a deployment."""


@topics.command(
    epilog=examples(
        "velvetrope topics create --kafka 10.0.0.6:9092",
        "velvetrope topics create --config velvetrope.toml",
    )
)
def create(
    kafka: Annotated[
        str | None, typer.Option("--kafka", metavar="HOST:PORT", help="Brokers, comma-separated.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Create the topics that are missing; refuse any that is not as it should be.

    Partition counts are fixed for the life of a deployment (`measure.partitions`), since accounts
    are kept apart by them. Running it again changes nothing.
    """
    settings = load_settings(config, {"kafka.bootstrap": kafka}).settings
    from kafka.errors import KafkaError

    from detector.kafka.topics import TopicMismatch
    from detector.kafka.topics import create as create_topics

    try:
        created = create_topics(settings)
    except TopicMismatch as error:
        fail(str(error), FAILED)
    except (KafkaError, OSError) as error:
        fail(f"no broker at {settings.kafka.bootstrap}: {error}", FAILED)
    for name in created:
        typer.echo(f"created {name}")
    if not created:
        typer.echo("all topics are there, as they should be")
