"""`velvetrope demo`: a campaign caught in front of one's eyes, on a sample or on one's own log."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final

import typer

from detector.cli.options import (
    FAILED,
    USAGE,
    ConfigOption,
    FormatOption,
    examples,
    fail,
    load_settings,
    plain,
    print_table,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from detector.runners.demo import Caught, Demo, Play
    from detector.runners.labels import Group
    from detector.settings import Settings

__all__ = ["register"]

_PATH: Final = "/authorize/envoy/v1/chat/completions"
_FRAME_S: Final = 0.25
_SPOKEN_EVERY_S: Final = 5.0


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog=examples(
            "velvetrope demo",
            "velvetrope demo my.jsonl",
            "velvetrope demo /var/log/nginx/velvetrope.log --format nginx --seconds 60",
            "velvetrope demo --seed 7 --thieves 12 --exit",
        )
    )(demo)


def demo(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[LOG…]", help="Your own log; without it a sample is made."),
    ] = None,
    log_format: FormatOption = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="For your own log; made by calibrate."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1.0, help="How long the play lasts.")
    ] = 30.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sample.")] = 1,
    thieves: Annotated[
        int, typer.Option("--thieves", min=0, help="Harvesting accounts in the sample.")
    ] = 40,
    port: Annotated[int, typer.Option("--port", help="Of the API; another one if taken.")] = 8470,
    stay: Annotated[
        bool | None,
        typer.Option("--stay/--exit", help="Go on answering at the end; default on a terminal."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Play a log at speed, show who is caught and why, and answer for it on loopback.

    Decisions are enforced, in a state of the demo's own that is thrown away at the end.
    """
    settings = load_settings(config).settings
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    from rich.console import Console

    from detector.baseline import BadBaseline
    from detector.runners.calibrate import NothingToLearn
    from detector.runners.demo import Demo, free_port
    from detector.runners.inputs import UnreadableInput
    from detector.runners.serve import CannotServe

    console = Console()
    with TemporaryDirectory(prefix="velvetrope-demo-") as folder:
        try:
            play = _prepare(
                console, Path(folder), settings, files or [], log_format, baseline, seed, thieves
            )
            shown = Demo(play, Path(folder), settings, seconds=seconds, port=free_port(port))
            staying = console.is_terminal if stay is None else stay
            asyncio.run(_show(shown, console, stay=staying))
        except (UnreadableInput, NothingToLearn, CannotServe, BadBaseline) as error:
            fail(str(error), FAILED)
        except OSError as error:
            fail(f"{error.filename or folder}: {error.strerror}", FAILED)


def _prepare(
    console: Console,
    folder: Path,
    settings: Settings,
    files: list[Path],
    log_format: str | None,
    baseline: Path | None,
    seed: int,
    thieves: int,
) -> Play:
    from detector import formats
    from detector.baseline import Baseline
    from detector.runners.demo import play_of_log, play_of_sample
    from detector.sample import Sample

    began = time.monotonic()

    def say(text: str) -> None:
        console.print(
            f"[dim]{time.monotonic() - began:5.1f} s[/]  {plain(text)}",
            highlight=False,
            soft_wrap=True,
        )

    if not files:
        play = play_of_sample(Sample(seed, thieves=thieves), folder, settings, say)
    else:
        try:
            chosen = formats.get(log_format or settings.serve.format, settings.formats)
        except formats.UnknownFormat as error:
            fail(str(error), USAGE)
        if baseline is not None:
            Baseline.load(baseline)  # says what is wrong with it before the log is read
        play = play_of_log(files, chosen, folder, settings, say, baseline)
        if play.cut:
            say("the log is long: this plays its beginning; `velvetrope replay` reads all of it")
    say(f"playing {play.events:,} events, {play.about}")
    return play


async def _show(shown: Demo, console: Console, *, stay: bool) -> None:
    """Run the service and the view beside it, until the play is over or somebody ends it."""
    answers = asyncio.Event()
    serving = asyncio.create_task(shown.run(answers.set))
    view = asyncio.create_task(_view(shown, console, answers, stay=stay))
    try:
        await asyncio.wait({serving, view}, return_when=asyncio.FIRST_COMPLETED)
        if view.done():
            view.result()
    finally:
        view.cancel()
        with suppress(asyncio.CancelledError):
            await view
        shown.stop()
        await serving


async def _view(shown: Demo, console: Console, answers: asyncio.Event, *, stay: bool) -> None:
    await answers.wait()
    if console.is_terminal:
        await _live(shown, console)
    else:
        await _spoken(shown)
    _closing(shown, console)
    if stay:
        console.print("\nCtrl-C ends it.", highlight=False)
        await asyncio.Event().wait()


async def _live(shown: Demo, console: Console) -> None:
    """A picture that is drawn anew four times a second."""
    from rich.live import Live

    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not shown.finished.is_set():
            live.update(_picture(shown, console.height), refresh=True)
            await asyncio.sleep(_FRAME_S)


async def _spoken(shown: Demo) -> None:
    """A line for each account that is caught, and now and then one on how far it is."""
    told: set[str] = set()
    said_at = 0.0
    while True:
        over = shown.finished.is_set()
        for caught in shown.caught():
            if caught.decision.value not in told:
                told.add(caught.decision.value)
                typer.echo(f"{_moment(caught.first.issued_at)}  {_line(caught)}")
        if over:
            return
        if shown.seconds - said_at >= _SPOKEN_EVERY_S:
            said_at = shown.seconds
            typer.echo(_state(shown))
        await asyncio.sleep(_FRAME_S)


def _picture(shown: Demo, height: int) -> RenderableType:
    from rich import console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, expand=True)
    for name, width in (("log time", 8), ("account", 14), ("now", 11), ("requests", 8)):
        table.add_column(name, width=width, no_wrap=True)
    table.add_column("why", ratio=1, no_wrap=True, overflow="ellipsis")
    newest = sorted(shown.caught(), key=lambda c: -c.first.issued_at)
    for caught in newest[: max(3, height - 10)]:
        table.add_row(
            _moment(caught.first.issued_at),
            Text(plain(caught.decision.value)),
            Text(_action(caught), style="bold red"),
            f"{caught.first.n_events:,}",
            Text(plain(_why(caught))),
        )
    return console.Group(
        Text(_state(shown), style="bold"),
        Text(_ask(shown), style="cyan"),
        Text(),
        table,
    )


def _state(shown: Demo) -> str:
    rate = shown.events / shown.seconds if shown.seconds else 0.0
    return (
        f"log clock {_moment(shown.clock())}  {shown.events:,} of {shown.play.events:,} events  "
        f"{rate:,.0f}/s  caught {len(shown.caught())}  campaigns {len(shown.campaigns())}"
    )


def _ask(shown: Demo) -> str:
    """How to ask the API, about somebody whom it holds back at this moment if there is one.

    Five requests: a throttled account may still send a few.
    """
    live = shown.live()
    account = plain(live.decision.value) if live else "anybody"
    return (
        f"curl -s -o /dev/null -w '%{{http_code}} ' -H 'X-Account: {account}' "
        f"'{shown.url}{_PATH}?try=[1-5]'"
    )


def _line(caught: Caught) -> str:
    decision = caught.decision
    campaign = f", campaign {decision.campaign}" if decision.campaign else ""
    return (
        f"{plain(decision.value)}  {_action(caught)} after {caught.first.n_events:,} requests"
        f"{campaign}: {plain(_why(caught))}"
    )


def _action(caught: Caught) -> str:
    decision = caught.decision
    return (
        f"{decision.action} {decision.level}" if decision.action == "throttle" else decision.action
    )


def _why(caught: Caught) -> str:
    """The two signals that weigh most, with what is typical of customers."""
    evidence = caught.decision.evidence
    if evidence is None or not evidence.signals:
        return caught.decision.reason.text
    return "; ".join(
        f"{signal.text}: {signal.value:.2f} "
        f"(usual {signal.typical[0]:.2f} to {signal.typical[1]:.2f})"
        for signal in evidence.signals[:2]
    )


def _moment(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%H:%M:%S")


def _closing(shown: Demo, console: Console) -> None:
    groups = shown.groups()
    if groups:
        print_table(
            ("group", "harvests", "accounts", "enforced", "share"),
            [
                (g.group, "yes" if g.harvesting else "no", f"{g.accounts}", f"{g.enforced}",
                 f"{g.share:.0%}")
                for g in groups
            ],
        )  # fmt: skip
        caught, thieves = _sums(groups, harvesting=True)
        wrong, customers = _sums(groups, harvesting=False)
        console.print(
            f"\nCaught {caught} of {thieves} harvesting accounts; "
            f"wrongly touched {wrong} of {customers} customers.",
            highlight=False,
        )
    else:
        worst = sorted(
            shown.caught(),
            key=lambda c: -shown.outcome(c.decision.value).e_value,
        )
        print_table(
            ("account", "strongest", "after requests", "campaign", "why"),
            [
                (
                    c.decision.value,
                    shown.outcome(c.decision.value).action,
                    f"{c.first.n_events:,}",
                    c.decision.campaign or "-",
                    _why(c),
                )
                for c in worst[:20]
            ],
        )
        console.print(
            f"\nEnforced on {len(shown.caught())} accounts; nobody has said which of them harvest.",
            highlight=False,
        )
    for campaign, members in sorted(shown.campaigns().items()):
        console.print(f"Campaign {campaign}: {len(members)} accounts.", highlight=False)
    console.print(
        f"{shown.events:,} events in {shown.seconds:.1f} s, {shown.play.about}.\n"
        "Decisions are enforced here, in a state of the demo's own. "
        + ("Ask the API for one:" if shown.live() else "None is live at the log's end; ask:"),
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"  {_ask(shown)}", highlight=False, soft_wrap=True, style="cyan")


def _sums(groups: list[Group], *, harvesting: bool) -> tuple[int, int]:
    chosen = [group for group in groups if group.harvesting == harvesting]
    return sum(group.enforced for group in chosen), sum(group.accounts for group in chosen)
