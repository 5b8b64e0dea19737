"""`velvetrope replay` and `velvetrope calibrate`: logs on log time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    print_table,
)

if TYPE_CHECKING:
    from detector.formats import Format
    from detector.runners.inputs import Inputs
    from detector.runners.pipeline import Pipeline
    from detector.runners.replay import Replayed
    from detector.settings import Settings

__all__ = ["FilesArgument", "open_inputs", "open_progress", "register", "the_format"]

FilesArgument = Annotated[
    list[Path], typer.Argument(metavar="FILE…", help="Logs, in order; - is stdin, gzip works.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command(
        epilog=examples(
            "velvetrope replay access.jsonl --out results",
            "zcat old/*.gz | velvetrope replay - --format nginx --out results",
            "velvetrope replay mon.jsonl.gz tue.jsonl.gz --baseline baseline.json --out results",
            "velvetrope replay week.jsonl --labels labels.json --feedback said.jsonl --out results",
        )
    )(replay)
    app.command(
        epilog=examples(
            "velvetrope calibrate last-month.jsonl.gz --out baseline.json",
            "velvetrope calibrate access.log --format nginx --name july --out baseline.json",
        )
    )(calibrate)


def replay(
    files: FilesArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")],
    log_format: FormatOption = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="Made by calibrate; else the shipped one."),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option("--models", metavar="FILE", help="Made by train; else the shipped ones."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help='JSON, account to true or false or {"harvesting": …, "group": …}: also report '
            "recall and false alarms.",
        ),
    ] = None,
    feedback: Annotated[
        Path | None,
        typer.Option(
            "--feedback",
            metavar="FILE",
            help="Commands (allow, disallow, clear, mode) as JSON lines, each at its time `at`.",
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Read a log as fast as it can be read, and write what would have been enforced."""
    settings = load_settings(config, {"judge.baseline": baseline, "judge.models": models}).settings
    chosen = the_format(log_format or settings.serve.format, settings)
    inputs = open_inputs(files)
    from detector.runners.labels import BadLabels, read_labels
    from detector.runners.replay import read_feedback
    from detector.runners.replay import replay as run
    from responders.feedback import BadFeedback

    try:
        known = None if labels is None else read_labels(labels)
        commands = [] if feedback is None else read_feedback(feedback)
    except (BadLabels, BadFeedback) as error:
        fail(str(error), USAGE)
    pipeline = make_pipeline(settings)
    try:
        with open_progress(inputs) as progress:
            replayed = run(
                inputs,
                out,
                pipeline,
                chosen,
                feedback=commands,
                labels=known,
                progress=progress,
            )
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror}")
    _print_replayed(replayed, out)
    _warn(replayed, out, chosen.name, labels)
    if replayed.unreadable is not None:
        fail(replayed.unreadable, FAILED)


def calibrate(
    files: FilesArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The baseline to write.")],
    log_format: FormatOption = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="TEXT", help="Stamped on decisions; else from the times."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Make a baseline from history that is believed clean."""
    settings = load_settings(config).settings
    chosen = the_format(log_format or settings.serve.format, settings)
    inputs = open_inputs(files)
    from detector.runners.calibrate import NothingToLearn, quality
    from detector.runners.calibrate import calibrate as run
    from detector.runners.inputs import UnreadableInput

    pipeline = make_pipeline(settings, calibrating=True)
    try:
        with open_progress(inputs) as progress:
            made = run(inputs, pipeline, chosen, name=name, progress=progress)
        made.baseline.save(out)
    except (UnreadableInput, NothingToLearn) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror}")
    print_table(
        ("", ""),
        [
            ("baseline", made.baseline.name),
            ("events", f"{made.baseline.events:,}"),
            ("dead letters", f"{made.dead_letters:,}"),
            *quality(made.baseline, settings.judge),
            ("written to", str(out)),
        ],
    )


def make_pipeline(settings: Settings, *, calibrating: bool = False) -> Pipeline:
    """A fresh pipeline with its baseline and models; what is wrong with them is one line."""
    from detector.baseline import BadBaseline, Baseline
    from detector.runners.pipeline import Pipeline
    from detector.score import BadModel
    from detector.vector_model import ModelError

    try:
        path = settings.judge.baseline
        baseline = None if path is None or calibrating else Baseline.load(path)
        return Pipeline(settings, baseline, calibrating=calibrating)
    except BadBaseline as error:
        fail(str(error), USAGE)
    except (BadModel, ModelError) as error:
        fail(str(error))


def the_format(name: str, settings: Settings) -> Format:
    """The format of this name; one line and exit code 2 when there is none."""
    from detector import formats

    try:
        return formats.get(name, settings.formats)
    except formats.UnknownFormat as error:
        fail(str(error), USAGE)


def open_inputs(files: list[Path]) -> Inputs:
    """The inputs, all of them readable; else one line and exit code 1."""
    from detector.runners.inputs import Inputs, UnreadableInput

    try:
        return Inputs(files)
    except UnreadableInput as error:
        fail(str(error))


@contextmanager
def open_progress(inputs: Inputs) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while it is a terminal."""
    if not sys.stderr.isatty():
        yield lambda read: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=inputs.size)
        yield lambda read: bar.update(task, completed=read)


def _warn(replayed: Replayed, out: Path, log_format: str, labels: Path | None) -> None:
    """One line on stderr about results that most likely are not what was asked for."""
    summary = replayed.summary
    if summary["dead_letters"] and not summary["events"]:
        typer.echo(
            f"warning: no record could be read as {log_format}: all {summary['dead_letters']:,} "
            f"are in {out / 'dead-letters.jsonl'}; --format names another format",
            err=True,
        )
    elif labels is not None and summary["accounts"] and not replayed.groups:
        typer.echo(
            f"warning: {labels} names none of the log's {summary['accounts']:,} accounts: "
            "there is no recall and no count of false alarms",
            err=True,
        )


def _print_replayed(replayed: Replayed, out: Path) -> None:
    summary = replayed.summary
    print_table(
        ("", ""),
        [
            ("events", f"{summary['events']:,}"),
            ("accounts", f"{summary['accounts']:,}"),
            ("dead letters", f"{summary['dead_letters']:,}"),
            ("time", f"{summary['wall_seconds']:,} s ({summary['events_per_second']:,.0f}/s)"),
            ("decisions", f"{summary['decisions']:,}"),
            ("accounts enforced", f"{summary['enforced_accounts']:,}"),
            ("campaigns", f"{summary['campaigns']:,}"),
            ("results", str(out)),
        ],
    )
    if "labels" not in summary:
        return
    totals = summary["labels"]
    print_table(
        ("group", "harvesting", "accounts", "enforced", "share"),
        [
            (
                group.group,
                "yes" if group.harvesting else "no",
                f"{group.accounts:,}",
                f"{group.enforced:,}",
                f"{group.share:.1%}",
            )
            for group in replayed.groups
        ],
    )
    recall, false = totals["recall"], totals["false_per_1000"]
    typer.echo(
        f"recall {'-' if recall is None else f'{recall:.3f}'}, "
        f"false alarms {'-' if false is None else f'{false:.2f}'} of 1,000 customers"
    )
