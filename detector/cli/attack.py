"""`velvetrope attack`: how far real extraction comes at one's own gateway."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from detector.cli.options import USAGE, JsonOption, examples, fail, print_table
from detector.cli.target import ConfirmOption, bearer, confirmed

if TYPE_CHECKING:
    from detector.attack.api import Account
    from detector.attack.campaign import Run
    from detector.attack.strategies import Strategy

__all__ = ["attack", "register"]

_TEXT: Final = ("instructions", "reasoning", "templates")
_VECTOR: Final = ("random", "uniform", "active", "jbda")
_KEYS_VARIABLE: Final = "VELVETROPE_ATTACK_KEYS"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog=examples(
            "velvetrope attack http://127.0.0.1:8080/v1/chat/completions --strategy instructions"
            " --keys keys.txt",
            "velvetrope attack http://127.0.0.1:8080/predict --strategy jbda --seeds rows.csv"
            ' --body \'{"instances": ["$INPUT"]}\' --answer predictions.0 --accounts 10'
            " --header 'X-Account: trial-{n}'",
            "velvetrope attack https://staging.example.com/predict --confirm-target"
            " staging.example.com --strategy active --seeds rows.csv --held-out answers.csv"
            " --keys keys.txt --out rehearsal.json",
        )
    )(attack)


def attack(
    url: Annotated[str, typer.Argument(metavar="URL", help="Your own gateway's endpoint.")],
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            metavar="NAME",
            help=f"Texts: {', '.join(_TEXT)}. Vectors: {', '.join(_VECTOR)}.",
        ),
    ],
    confirm: ConfirmOption = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            metavar="FILE",
            help=f"Bearer keys, one a line, an account each. Or in {_KEYS_VARIABLE}.",
        ),
    ] = None,
    accounts: Annotated[
        int, typer.Option("--accounts", min=1, max=10_000, help="So many, without keys.")
    ] = 1,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            metavar="'NAME: VALUE'",
            help="Sent with every request; {n} is the account's number.",
        ),
    ] = None,
    seeds: Annotated[
        Path | None,
        typer.Option("--seeds", metavar="FILE", help="Vectors: ordinary rows of numbers (CSV)."),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            "--held-out",
            metavar="FILE",
            help="Inputs and, last, the model's own answer (CSV): what a copy is compared on.",
        ),
    ] = None,
    body: Annotated[
        str | None,
        typer.Option("--body", metavar="JSON", help='What is posted; "$INPUT" is the input.'),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option("--answer", metavar="PATH", help="Where the answer is: choices.0.message…"),
    ] = None,
    budget: Annotated[int, typer.Option("--budget", min=1, help="Answers that are enough.")] = 1000,
    most_requests: Annotated[
        int | None,
        typer.Option("--requests", min=1, help="Requests at most; twice the budget if not given."),
    ] = None,
    gap: Annotated[
        float,
        typer.Option("--gap", min=0.001, help="Seconds between requests, all accounts, mean."),
    ] = 0.2,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.01, max=10_080, help="The run ends by then.")
    ] = 10.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Everything follows from it.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Keep the figures (JSON).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rehearse an extraction at your own gateway: when is it held up, and what did it get?

    Sends what thieves send, over as many accounts as there are keys, and obeys Retry-After. Ask
    only what you may ask: a host other than this machine must be named a second time.
    """
    import httpx

    from detector.attack.api import CHAT_ANSWER, CHAT_BODY, Api, BadAnswer
    from detector.attack.campaign import Plan, Unreachable, run

    confirmed(url, confirm)
    asked = _strategy(strategy, seeds, seed)
    members = _accounts(keys, accounts, header or [])
    if not any(member.headers for member in members):
        sys.stderr.write("velvetrope: neither --keys nor --header says who asks\n")
    compared = _held_out(held_out, strategy in _TEXT) if held_out else None
    if strategy in _VECTOR and (body is None or answer is None):
        fail(f"{strategy} asks rows of numbers: say how with --body and --answer", USAGE)
    plan = Plan(budget, most_requests or 2 * budget, gap, 60.0 * minutes)
    # No proxy and no redirect: what was confirmed is what is asked.
    with httpx.Client(trust_env=False, follow_redirects=False, timeout=60.0) as client:
        try:
            api = Api(client, url, body or CHAT_BODY, answer or CHAT_ANSWER)
        except ValueError as error:
            fail(f"--body: {error}", USAGE)
        try:
            with _Progress(budget) as told:
                found = run(
                    api,
                    members,
                    asked,
                    plan,
                    seed=seed,
                    labels_repeat=strategy in _VECTOR,
                    told=told,
                )
        except Unreachable as error:
            fail(f"{url}: {error}")
        except BadAnswer as error:
            fail(str(error))
    document = {"target": url, "strategy": strategy, "accounts": len(members)} | found.document()
    document["agreement"] = _agreement(found, compared) if compared else None
    if out is not None:
        try:
            out.write_text(json.dumps(document, indent=2) + "\n")
        except OSError as error:
            fail(f"{out}: {error.strerror}")
    if as_json:
        typer.echo(json.dumps(document))
    else:
        _print(found, document, len(members))


def _strategy(name: str, seeds: Path | None, seed: int) -> Strategy:
    from detector.attack.strategies import text_strategy, vector_strategy

    if name in _TEXT:
        return text_strategy(name, seed)
    if name not in _VECTOR:
        fail(f"no strategy {name!r}: one of {', '.join(_TEXT + _VECTOR)}", USAGE)
    if seeds is None:
        fail(f"{name} begins with ordinary rows: give some with --seeds FILE", USAGE)
    import numpy as np

    rows = _numbers(seeds, _rows(seeds))
    if len(rows) < 2:
        fail(f"{seeds}: {len(rows)} rows; at least two are needed")
    return vector_strategy(name, np.array(rows), seed)


def _accounts(keys: Path | None, count: int, headers: Sequence[str]) -> list[Account]:
    from detector.attack.api import Account

    fixed = []
    for text in headers:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            fail(f"--header {text!r}: expected 'NAME: VALUE'", USAGE)
        if not (text.isascii() and text.isprintable()):
            fail(f"--header {name.strip()!r}: only visible ASCII characters", USAGE)
        fixed.append((name.strip(), value.strip()))
    secrets: list[str | None] = []
    if keys is not None:
        try:
            secrets += [line.strip() for line in keys.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            fail(f"{keys}: {getattr(error, 'strerror', None) or 'not text'}")
        if not secrets:
            fail(f"{keys}: no key in it")
    elif os.environ.get(_KEYS_VARIABLE):
        secrets += os.environ[_KEYS_VARIABLE].split()
    else:
        secrets += [None] * count
    members = []
    for number, secret in enumerate(secrets, 1):
        own = {name: value.replace("{n}", str(number)) for name, value in fixed}
        if secret is not None:
            own["Authorization"] = bearer(secret, keys or _KEYS_VARIABLE)
        members.append(Account(number, own))
    return members


def _held_out(path: Path, texts: bool) -> tuple[list[Any], list[str]]:
    rows = _rows(path)
    if not rows or min(map(len, rows)) < 2:
        fail(f"{path}: expected an input and the model's answer in every row")
    labels = [row[-1] for row in rows]
    if texts:
        return [row[0] for row in rows], labels
    return _numbers(path, [row[:-1] for row in rows]), labels


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        fail(f"{path}: {getattr(error, 'strerror', None) or error}")


def _numbers(path: Path, rows: Sequence[Sequence[str]]) -> list[list[float]]:
    found = []
    for place, row in enumerate(rows, 1):
        try:
            found.append([float(cell) for cell in row])
        except ValueError as error:
            if place == 1:  # names of columns
                continue
            fail(f"{path}, row {place}: {error}")
        if not all(map(math.isfinite, found[-1])):
            fail(f"{path}, row {place}: a number is not finite")
        if len(found[-1]) != len(found[0]):
            fail(f"{path}, row {place}: {len(row)} numbers, {len(found[0])} in the first")
    return found


def _agreement(found: Run, compared: tuple[list[Any], list[str]]) -> dict[str, float | None]:
    from detector.attack.copies import agreement

    held_out, expected = compared
    before = len(found.labels) if found.before is None else found.before
    commonest = max(expected.count(label) for label in set(expected)) / len(expected)
    return {
        "without_a_query": commonest,
        "before_first_response": agreement(
            found.inputs[:before], found.labels[:before], held_out, expected
        ),
        "at_the_end": agreement(found.inputs, found.labels, held_out, expected),
    }


def _print(found: Run, document: dict[str, Any], accounts: int) -> None:
    def number(value: float | None, form: str = ",.0f") -> str:
        return "-" if value is None else format(value, form)

    rows = [
        ("requests", f"{found.sent:,} in {found.seconds:,.0f} s, over {accounts:,} accounts"),
        ("answers", f"{len(found.labels):,}"),
        ("answers before anything was done", number(found.before)),
    ]
    rows += [(f"  {what}", f"{n:,}") for what, n in sorted(found.outcomes.items())]
    print_table(("", ""), rows)
    print_table(
        ("", "accounts", "requests until then, median"),
        [
            (what, f"{len(reached):,} of {accounts:,}", number(found.requests_until(what)))
            for what, reached in found.reached.items()
        ],
    )
    if not any(found.reached.values()):
        typer.echo("Nothing was done to any account: is velvetrope in front, and enforcing?")
    agreement = document["agreement"]
    if agreement is not None:
        print_table(
            ("a copy agrees with the model", ""),
            [(name.replace("_", " "), number(value, ".3f")) for name, value in agreement.items()],
        )


class _Progress:
    """A bar on a terminal: answers so far, and what was refused."""

    def __init__(self, budget: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("answers"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=budget)

    def __enter__(self) -> Any:
        self._bar.start()
        return self._tell

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def _tell(self, found: Run) -> None:
        refused = ", ".join(
            f"{n} {what}" for what, n in sorted(found.outcomes.items()) if what != "answered"
        )
        self._bar.update(self._task, completed=len(found.labels), description=refused)
