"""`velvetrope train`: models of an operator's own, from labelled history."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from detector.cli.options import (
    USAGE,
    ConfigOption,
    FormatOption,
    examples,
    fail,
    load_settings,
    print_table,
)
from detector.cli.replay import FilesArgument, open_inputs, open_progress, the_format

if TYPE_CHECKING:
    from detector.runners.train import Trained

__all__ = ["print_trained", "register"]

_ENOUGH: Final = 1000  # customers to compare with, from which 1 in 1,000 can be counted


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog=examples(
            "velvetrope train may.jsonl.gz june.jsonl.gz --labels labels.json --out own.npz",
            "velvetrope train log.jsonl --labels thieves.json --others-are-customers --out own.npz",
            "velvetrope replay july.jsonl.gz --models own.npz --labels july.json --out results",
        )
    )(train)


def train(
    files: FilesArgument,
    labels: Annotated[
        Path,
        typer.Option(
            "--labels",
            metavar="FILE",
            help='JSON, account to true or false or {"harvesting": …, "group": …}. Give at least '
            "two groups of harvesting accounts: scores are learned from some and tried on others.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The models to write (.npz).")],
    log_format: FormatOption = None,
    feedback: Annotated[
        Path | None,
        typer.Option(
            "--feedback",
            metavar="FILE",
            help="Analysts' commands as JSON lines: whom they cleared or allowed is a customer.",
        ),
    ] = None,
    others_are_customers: Annotated[
        bool,
        typer.Option(
            "--others-are-customers", help="Accounts without a label are customers, not left out."
        ),
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="TEXT", help="Stamped on decisions.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Train models for text on a labelled log: half of the accounts teach, half set thresholds."""
    settings = load_settings(config).settings
    chosen = the_format(log_format or settings.serve.format, settings)
    inputs = open_inputs(files)
    from detector.runners.inputs import UnreadableInput
    from detector.runners.labels import BadLabels, read_labels
    from detector.runners.replay import read_feedback
    from detector.runners.train import labelled, train_on
    from detector.training import TooLittle
    from responders.feedback import BadFeedback

    try:
        verdicts = [] if feedback is None else read_feedback(feedback)
        known = labelled(read_labels(labels), verdicts)
    except (BadLabels, BadFeedback) as error:
        fail(str(error), USAGE)
    try:
        with open_progress(inputs) as progress:
            made = train_on(
                inputs,
                known,
                chosen,
                settings.measure,
                name or f"own-{datetime.now(UTC):%Y%m%d}",
                others_are_customers=others_are_customers,
                workers=os.cpu_count() or 1,
                progress=progress,
                told=lambda step: typer.echo(step, err=True),
            )
        made.models.save(out)
    except (UnreadableInput, TooLittle) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror}")
    print_trained(made, out)


def print_trained(made: Trained, out: Path) -> None:
    """What came of it, and whether it is worth using."""
    recalled, harvesting = made.caught[True]
    false, customers = made.caught[False]
    print_table(
        ("", ""),
        [
            ("models", made.models.name),
            ("events", f"{made.events:,}"),
            ("dead letters", f"{made.dead_letters:,}"),
            (
                "taught by",
                f"{made.accounts[True]:,} harvesting, {made.accounts[False]:,} customers",
            ),
            ("caught of the others", f"{recalled:,} of {harvesting:,} harvesting accounts"),
            # The thresholds come from these very customers: by construction about 1 in 1,000.
            ("past the threshold they set", f"{false:,} of {customers:,} customers"),
            ("written to", str(out)),
        ],
    )
    if customers < _ENOUGH:
        typer.echo(
            f"With {customers:,} customers to compare with, nobody is rarer than "
            f"1 in {customers:,}: few are enforced against at 1 in 1,000. "
            f"Train on {_ENOUGH:,} or more, or keep the shipped models.",
            err=True,
        )
    if harvesting and not recalled:
        typer.echo(
            f"Of {harvesting:,} harvesting accounts that did not teach them, these models catch "
            "none: they are worse than none. Keep the shipped models.",
            err=True,
        )
        return
    typer.echo(f'To use it, set judge.models = "{out}"; to go back, take the setting out again.')
