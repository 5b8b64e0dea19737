"""`velvetrope sample`: a made-up log with its labels, to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detector.cli.options import examples, fail, print_table

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog=examples(
            "velvetrope sample --out sample --day 0",
            "velvetrope sample --out sample --day 1 --seed 3 --thieves 12",
            "velvetrope replay sample/day1.jsonl --labels sample/labels1.json --out results",
        )
    )(sample)


def sample(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the files.")],
    day: Annotated[
        int, typer.Option("--day", min=0, max=365, help="Day 0 has no thief, later ones have.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Everything follows from it.")] = 1,
    customers: Annotated[int, typer.Option("--customers", min=1, help="Honest accounts.")] = 400,
    thieves: Annotated[
        int, typer.Option("--thieves", min=0, help="Harvesting accounts from day 1 on.")
    ] = 40,
) -> None:
    """Write a day of a made-up API: dayN.jsonl (native) and labelsN.json (who harvests)."""
    from detector.sample.day import Sample
    from detector.sample.files import write_day

    try:
        written = write_day(Sample(seed, customers, thieves), day, out)
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror}")
    print_table(
        ("", ""),
        [
            ("log", str(written.log)),
            ("labels", str(written.labels)),
            ("events", f"{written.events:,}"),
            ("accounts", f"{written.accounts:,}"),
        ],
    )
