"""`velvetrope gateway`: the verdict API over Redis."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from detector.cli.options import FAILED, USAGE, ConfigOption, examples, fail, load_settings

__all__ = ["gateway", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog=examples(
            "velvetrope gateway --redis redis://10.0.0.5:6379/0",
            "velvetrope gateway --port 8470 --config velvetrope.toml",
        )
    )(gateway)


def gateway(
    redis: Annotated[
        str | None, typer.Option("--redis", metavar="URL", help="Where workers keep decisions.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address of the API.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port of the API; 0: any.")] = None,
    config: ConfigOption = None,
) -> None:
    """Answer gateways from the decisions that workers keep in Redis.

    Runs until Ctrl-C or SIGTERM. It keeps no state: start one beside every gateway.
    """
    settings = load_settings(
        config, {"redis.url": redis, "api.host": host, "api.port": port}
    ).settings
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from velvetrope_client.keys import BadKeys
    from velvetrope_client.rewriter_settings import BadSettings

    from detector.runners.gateway import serve_verdicts

    try:
        serve_verdicts(
            settings.api,
            settings.redis,
            lambda url: typer.echo(f"velvetrope answers at {url}", err=True),
        )
    except BadSettings as error:
        fail(f"api.poison: {error}", USAGE)
    except BadKeys as error:
        fail(f"api.challenge.keys: {error}", USAGE)
    except ValueError as error:
        fail(str(error), USAGE)
    except OSError as error:
        fail(error.strerror or str(error), FAILED)
