"""`velvetrope config`: are the settings right, what are they, and who said so."""

from __future__ import annotations

import json

import typer

from detector.cli.options import (
    USAGE,
    ConfigOption,
    JsonOption,
    examples,
    fail,
    load_settings,
)

__all__ = ["app"]

app = typer.Typer(help="Check and show the settings.", no_args_is_help=True)


@app.command(
    epilog=examples(
        "velvetrope config check",
        "velvetrope config check --config /etc/velvetrope.toml",
    )
)
def check(config: ConfigOption = None) -> None:
    """Read the settings from everywhere, and say what is wrong. Exit code 2 when something is.

    The file of api.poison, the files it names and the keyring of api.challenge are read too.
    """
    loaded = load_settings(config)
    keys = loaded.settings.api.challenge.keys
    if keys is not None:
        from velvetrope_client.keys import BadKeys

        from responders.gateways.challenge import challenge_keys

        try:
            challenge_keys(keys)
        except BadKeys as error:
            fail(f"api.challenge.keys: {error}", USAGE)
    poison = loaded.settings.api.poison
    if poison is not None:
        from velvetrope_client import rewriter_settings

        try:
            rewriter_settings.check(poison)
        except rewriter_settings.BadSettings as error:
            fail(f"api.poison: {error}", USAGE)
    where = loaded.file if loaded.file is not None else "no file"
    typer.echo(f"The settings are right ({where}, {len(loaded.origins)} set).")


@app.command(
    epilog=examples(
        "velvetrope config show",
        "VELVETROPE_JUDGE__TICK_S=0.5 velvetrope config show --json",
    )
)
def show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show every setting, secrets masked, and where each that is not the default came from."""
    from rich.console import Console
    from rich.table import Table

    from detector.configuration import rows

    loaded = load_settings(config)
    if as_json:
        for name, value, origin in rows(loaded):
            typer.echo(json.dumps({"name": name, "value": value, "from": origin}))
        return
    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for name, value, origin in rows(loaded):
        given = origin != "default"
        shown = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        table.add_row(name, shown, origin if given else "", style="bold" if given else "")
    Console().print(table)
