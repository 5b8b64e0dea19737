"""The `velvetrope` command. Commands import what is heavy when they run, so `--help` is quick."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import typer

__all__ = ["build", "main"]

# In the order of `--help`. Each module has `register(app)`.
_MODULES: Final = (
    "demo",
    "replay",
    "train",
    "serve",
    "worker",
    "gateway",
    "follow",
    "ship",
    "topics",
    "operate",
    "policy",
    "keys",
    "prove",
    "trace",
    "profile",
    "attack",
    "baseline",
    "sample",
)


def build() -> typer.Typer:
    """The program with all its commands."""
    app = typer.Typer(
        name="velvetrope",
        help="Finds the accounts that copy a model through its API, and tells the gateway.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_show_locals=False,
    )
    for module in _MODULES:
        import_module(f"detector.cli.{module}").register(app)
    app.add_typer(import_module("detector.cli.config").app, name="config")
    return app


def main() -> None:
    """Entry point. Exit codes: 0; 1 an input or a service failed; 2 a usage error."""
    build()()
