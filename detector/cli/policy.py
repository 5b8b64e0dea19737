"""`velvetrope policy test`: what another policy would have decided."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from detector.cli.options import (
    USAGE,
    ConfigOption,
    FormatOption,
    JsonOption,
    examples,
    fail,
    load_settings,
    print_table,
)
from detector.cli.replay import make_pipeline, open_inputs, open_progress, the_format

if TYPE_CHECKING:
    from detector.runners.policy_test import Compared

__all__ = ["register"]

# Beside 0, 1 and 2 of every command: the new policy touches more accounts than it may.
TOO_MANY: Final = 3
_SHOWN: Final = 50

_policy = typer.Typer(help="Policies: try one out.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(_policy, name="policy")


@_policy.callback()
def _group() -> None:
    """Policies: try one out before it decides."""


@_policy.command(
    "test",
    epilog=examples(
        "velvetrope policy test stricter.toml last-week.jsonl.gz",
        "velvetrope policy test stricter.toml --replay results --labels labels.json",
        "velvetrope policy test stricter.toml week.jsonl --at-most 0 --json | jq .newly",
    ),
)
def try_out(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Settings (TOML): its policy table is tried out.")
    ],
    logs: Annotated[
        list[Path] | None, typer.Argument(metavar="LOG…", help="Logs, in order; gzip works.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay",
            metavar="DIR",
            help="A replay's results instead of logs: quick, but thresholds must be the same.",
        ),
    ] = None,
    log_format: FormatOption = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE", help="As of replay: says who harvests."),
    ] = None,
    feedback: Annotated[
        Path | None,
        typer.Option("--feedback", metavar="FILE", help="Commands, as of replay."),
    ] = None,
    at_most: Annotated[
        int | None,
        typer.Option(
            "--at-most",
            metavar="N",
            min=0,
            help="Exit code 3 when more accounts than this are newly enforced against "
            "(those that --labels says harvest do not count).",
        ),
    ] = None,
    everybody: Annotated[
        bool, typer.Option("--all", help=f"List every account, not the first {_SHOWN}.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide on a log by the current policy and by another, and say whom it would touch."""
    if bool(logs) == (replay is not None):
        fail("give logs, or --replay DIR, and not both", USAGE)
    current = load_settings(config).settings
    other = load_settings(file).settings
    new = current.model_copy(update={"policy": other.policy})
    from detector.runners.inputs import UnreadableInput
    from detector.runners.labels import BadLabels, read_labels
    from detector.runners.policy_test import BadResults, compare_log, compare_results
    from detector.runners.replay import read_feedback
    from responders.feedback import BadFeedback

    try:
        known = None if labels is None else read_labels(labels)
        commands = [] if feedback is None else read_feedback(feedback)
    except (BadLabels, BadFeedback) as error:
        fail(str(error), USAGE)
    try:
        if replay is not None:
            compared = compare_results(
                replay, current.policy, new.policy, feedback=commands, labels=known
            )
        else:
            inputs = open_inputs(logs or [])
            chosen = the_format(log_format or current.serve.format, current)
            with open_progress(inputs) as progress:
                compared = compare_log(
                    inputs,
                    chosen,
                    make_pipeline(current),
                    make_pipeline(new),
                    feedback=commands,
                    labels=known,
                    progress=progress,
                )
    except (BadResults, UnreadableInput) as error:
        fail(str(error))
    if as_json:
        _write_json(compared)
    else:
        _print(compared, everybody)
    # Whom the labels do not know may be a customer.
    newly = [one for one in compared.newly if one.harvesting is not True]
    if at_most is not None and len(newly) > at_most:
        fail(f"{len(newly)} accounts are newly enforced against, {at_most} may be", TOO_MANY)


def _print(compared: Compared, everybody: bool) -> None:
    from detector.runners.policy_test import strongest_first

    def touched(new: bool) -> tuple[str, str]:
        after = [one.new_after if new else one.current_after for one in compared.touched]
        outcomes = compared.new if new else compared.current
        return f"{len(outcomes.enforced):,}", f"{sum(after):,}"

    accounts, requests = zip(touched(False), touched(True), strict=True)
    print_table(
        ("", "current", "new"),
        [
            ("decisions", f"{compared.current.decisions:,}", f"{compared.new.decisions:,}"),
            (f"accounts enforced, of {compared.accounts:,}", *accounts),
            (f"requests under enforcement, of {compared.requests:,}", *requests),
        ],
    )
    shown = strongest_first(compared.touched)
    if not shown:
        typer.echo("Neither policy touches anybody.")
        return
    typer.echo("")
    print_table(
        ("account", "campaign", "harvests", "requests", "current", "new", "from", "to"),
        [
            (
                one.account,
                one.campaign or "",
                {None: "", True: "yes", False: "no"}[one.harvesting],
                f"{one.requests:,}",
                one.current,
                one.new,
                f"{one.current_after:,}",
                f"{one.new_after:,}",
            )
            for one in (shown if everybody else shown[:_SHOWN])
        ],
    )
    if not everybody and len(shown) > _SHOWN:
        typer.echo(f"{len(shown) - _SHOWN} more: --all lists them.")
    typer.echo(
        f"{len(compared.newly)} newly touched, {len(compared.no_longer)} no longer; from and to: "
        "an account's requests after its first enforcement, by the current policy and by the new"
    )


def _write_json(compared: Compared) -> None:
    import msgspec

    document = {
        "accounts": compared.accounts,
        "requests": compared.requests,
        "current": {
            "decisions": compared.current.decisions,
            "enforced": len(compared.current.enforced),
        },
        "new": {"decisions": compared.new.decisions, "enforced": len(compared.new.enforced)},
        "newly": [one.account for one in compared.newly],
        "no_longer": [one.account for one in compared.no_longer],
        "touched": compared.touched,
    }
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
