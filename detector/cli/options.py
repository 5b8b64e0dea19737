"""What every command shares: `--config`, settings or one clear line, and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

if TYPE_CHECKING:
    from detector.configuration import Loaded

__all__ = [
    "FAILED",
    "USAGE",
    "ConfigOption",
    "FormatOption",
    "JsonOption",
    "examples",
    "fail",
    "load_settings",
    "plain",
    "print_table",
]

FAILED: Final = 1  # an input could not be read, a service failed
USAGE: Final = 2
_UNBOUNDED: Final = 100_000  # columns: wider than any row

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings (TOML). Without it: VELVETROPE_CONFIG, else velvetrope.toml if it is here.",
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help="Of the log: native, nginx, litellm or envoy."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, one object a line, for scripts.")]


def examples(*lines: str) -> str:
    """The end of a command's `--help`: lines to copy."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)


def fail(text: str, code: int = FAILED) -> NoReturn:
    """One line on stderr, and out."""
    sys.stderr.write(f"velvetrope: {plain(text)}\n")
    raise typer.Exit(code)


def load_settings(config: Path | None, arguments: Mapping[str, object] | None = None) -> Loaded:
    """The settings, or one line for each mistake and exit code 2."""
    from detector.configuration import ConfigError, load

    try:
        return load(config, arguments)
    except ConfigError as error:
        for line in error.lines:
            sys.stderr.write(f"velvetrope: {line}\n")
        raise typer.Exit(USAGE) from None


def plain(text: str) -> str:
    """The text with control characters made visible: names in a log are not the operator's."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table without frames; cells are text as it is, never markup.

    No name is ever cut short: it may be wanted for the next command. Only a terminal wraps.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_UNBOUNDED)
    console.print(table)
