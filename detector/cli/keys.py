"""`velvetrope keys`: the secret keys that choose marks, canaries and wrong answers."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.options import FAILED, USAGE, JsonOption, examples, fail

if TYPE_CHECKING:
    from velvetrope_client.keys import Keyring

__all__ = ["commit", "keys", "new", "page", "register", "rotate"]

keys = typer.Typer(
    help="Secret keys of marks, canaries, wrong answers and challenges: new, rotate, commit, page.",
    no_args_is_help=True,
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The keyring (JSON).")]
IdOption = Annotated[
    str | None,
    typer.Option("--id", metavar="NAME", help="Name of the new key; today's date if not given."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.add_typer(keys, name="keys")


@keys.callback()
def _keys() -> None:
    """Secret keys of marks, canaries, wrong answers and challenges."""


@keys.command(
    epilog=examples("velvetrope keys new keys.json", "velvetrope keys new keys.json --id 2026-11")
)
def new(file: FileArgument, name: IdOption = None) -> None:
    """Write a keyring of one new key, readable by its owner alone, and print its commitment.

    An existing file is never overwritten: without its key nothing marked under it can be proved.
    """
    from velvetrope_client.keys import BadKeys, Keyring

    try:
        keyring = Keyring.new(name or _today())
    except BadKeys as error:
        fail(str(error), USAGE)
    try:
        _write_new(file, keyring.dump())
    except FileExistsError:
        fail(f"{file}: is there already; `velvetrope keys rotate` adds a key to it", USAGE)
    except OSError as error:
        fail(f"{file}: {error.strerror or error}", FAILED)
    _print_commitment(keyring)


@keys.command(
    epilog=examples(
        "velvetrope keys rotate keys.json", "velvetrope keys rotate keys.json --id 2026-12"
    )
)
def rotate(file: FileArgument, name: IdOption = None) -> None:
    """Put a new key in front of the others, and print its commitment.

    The older keys stay: they mark no more, and still prove. The file is replaced as a whole, so a
    program that reads it meanwhile sees the old ring or the new one.
    """
    from velvetrope_client.keys import BadKeys

    keyring = _load(file)
    try:
        rotated = keyring.rotated(name or _today())
    except BadKeys as error:
        fail(f"{error}; give another with --id", USAGE)
    file = file.resolve()  # a link stays a link
    # Not a fixed name: two that rotate at once must not write into one file.
    beside = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    try:
        _write_new(beside, rotated.dump())
        beside.replace(file)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        fail(f"{file}: {error.strerror or error}", FAILED)
    _print_commitment(rotated)


@keys.command(
    epilog=examples(
        "velvetrope keys commit keys.json", "velvetrope keys commit keys.json --json > keys.pub"
    )
)
def commit(file: FileArgument, as_json: JsonOption = False) -> None:
    """Print the commitment of every key, newest first: publish it before the key marks anything.

    A commitment tells nothing of the key. Shown later, the key is known to be the one that you had
    on the day of publishing, and not one chosen to fit.
    """
    for key in _load(file):
        if as_json:
            typer.echo(json.dumps({"id": key.id, "commitment": key.commitment}))
        else:
            typer.echo(f"{key.id} {key.commitment}")


@keys.command(epilog=examples("velvetrope keys page keys.json page-keys.json"))
def page(
    file: FileArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The keys for the page (JWK set).")],
) -> None:
    """Write what the page needs that challenged callers are sent to, readable by its owner alone.

    Its keys are derived from the keyring's: they sign returns, and tell nothing of marks and
    canaries. Again after each `keys rotate`; docs/challenge.md says what the page does with them.
    """
    from responders.actions.challenge import page_keys

    document = json.dumps(page_keys(_load(file)), indent=1) + "\n"
    try:
        _write_new(out, document)
    except FileExistsError:
        fail(f"{out}: is there already; remove it first", USAGE)
    except OSError as error:
        fail(f"{out}: {error.strerror or error}", FAILED)


def _load(file: Path) -> Keyring:
    from velvetrope_client.keys import BadKeys, Keyring

    try:
        return Keyring.load(file)
    except BadKeys as error:
        fail(str(error), FAILED)
    except OSError as error:
        fail(f"{file}: {error.strerror or error}", FAILED)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _write_new(file: Path, text: str) -> None:
    """Create the file with mode 0600 before there is anything in it, and wait for the disk."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def _print_commitment(keyring: Keyring) -> None:
    typer.echo(f"{keyring.current.id} {keyring.current.commitment}")
