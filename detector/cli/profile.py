"""`velvetrope profile`: what customers send, learned from examples, for wrong answers elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.cli.options import examples, fail, print_table

if TYPE_CHECKING:
    from detector.runners.lines import LineBatch, LineSplitter

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog=examples(
            "velvetrope profile training.jsonl --out classify.profile.json",
            "velvetrope profile access.jsonl.gz --out classify.profile.json --touched 0.002",
        )
    )(profile)


def profile(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="One example a line: a JSON text, a JSON array of numbers, or an object with "
            "`input`, such as a native event. '-' is stdin, .gz works.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The profile.")],
    touched: Annotated[
        float,
        typer.Option(
            "--touched", min=1e-6, max=0.49, help="Share of inputs like these that may be far."
        ),
    ] = 0.005,
) -> None:
    """Learn what customers send, so that wrong answers are given only far from it.

    Examples are inputs like theirs: the model's training or validation rows, or a log. At most
    4,000, evenly spaced, are kept, in the file too; texts as hashes of their words.
    """
    from velvetrope_client import profile as profiles

    try:
        found = _examples(files)
        learned = profiles.fit(found, touched=touched)
        out.write_text(profiles.dump(learned), encoding="utf-8")
    except profiles.BadProfile as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror}")
    kind = "texts" if isinstance(learned, profiles.TextProfile) else "rows of numbers"
    print_table(
        ("", ""),
        [("examples", f"{len(found):,} {kind}"), ("limit", f"{learned.limit:.3f}")],
    )


def _examples(files: list[Path]) -> list[Any]:
    """The examples of all lines. Ends the program at a line that is none."""
    from detector.runners.inputs import Inputs, UnreadableInput
    from detector.runners.lines import LineSplitter

    found = []
    try:
        for name, chunks in Inputs(files):
            splitter = LineSplitter(name)
            number = 0
            batches = (batch for chunk in chunks for batch in splitter.feed(chunk))
            for batch in chain(batches, _rest(splitter)):
                for line in batch.lines:
                    number += 1
                    if line.strip() and (example := _example(line, f"{name}:{number}")) is not None:
                        found.append(example)
                number += bool(batch.dropped)
    except UnreadableInput as error:
        fail(str(error))
    return found


def _rest(splitter: LineSplitter) -> Iterator[LineBatch]:
    yield from splitter.finish()  # once all chunks were read, not before


def _example(line: bytes, where: str) -> str | list[Any] | None:
    """A line's example; None for an event without an input."""
    import msgspec

    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        fail(f"{where}: not JSON: {error}")
    if isinstance(value, dict):
        value = value.get("input")
        if value is None:
            return None
    if not isinstance(value, str | list) or value == []:
        fail(f"{where}: expected a text, numbers, or an object with `input`")
    return value
