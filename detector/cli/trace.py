"""`velvetrope trace`: whose answers are in a corpus, or in what a model says?"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.cli.options import FAILED, USAGE, JsonOption, examples, fail, print_table
from detector.cli.prove import (
    ApiKeyOption,
    PublishedOption,
    asking_client,
    check_published,
    load_keyring,
    post,
    print_commitments,
    shown_p,
)
from detector.cli.target import ConfirmOption, confirmed

if TYPE_CHECKING:
    from velvetrope_client.canary import Closings

    from detector.runners.inputs import Inputs
    from responders.actions.trace import Remarks

__all__ = ["register", "trace"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog=examples(
            "velvetrope trace dataset.jsonl.gz --accounts accounts.txt --keys keys.json",
            "velvetrope trace corpus/ --accounts results/accounts.jsonl --keys keys.json --json",
            "velvetrope trace https://data.example/set.jsonl.gz --confirm-target data.example"
            " --accounts accounts.txt --keys keys.json",
            "velvetrope trace http://127.0.0.1:9000/v1/chat/completions --prompts prompts.txt"
            " --model suspect --accounts accounts.txt --keys keys.json --save answers.jsonl",
        )
    )(trace)


def trace(
    corpus: Annotated[
        list[str],
        typer.Argument(
            metavar="CORPUS…|URL",
            help="Files or folders (text, JSONL, CSV; gzip works; - is stdin), or a URL.",
        ),
    ],
    accounts: Annotated[
        Path,
        typer.Option(
            "--accounts",
            metavar="FILE",
            help="Whom to look for: a name a line, or JSON lines with `account` or `campaign`.",
        ),
    ],
    keys: Annotated[Path, typer.Option("--keys", metavar="FILE", help="The keyring.")],
    closings: Annotated[
        Path | None,
        typer.Option("--closings", metavar="FILE", help="Your own wordings, if you use any."),
    ] = None,
    published: PublishedOption = None,
    below: Annotated[
        float,
        typer.Option("--below", min=0.0, max=1.0, help="Name accounts at this adjusted p-value."),
    ] = 1e-3,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="The URL is a chat API: ask it these, one a line."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="The model to ask a chat API for.")
    ] = "default",
    api_key: ApiKeyOption = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Keep what a chat API said (JSON lines)."),
    ] = None,
    confirm_target: ConfirmOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name the accounts whose answers are in a corpus, by their closing remarks.

    Each account has its p-value, corrected for the number of accounts and keys. A URL is read as it
    comes, like a file; with --prompts it is an OpenAI-compatible chat API, and what it answers to
    them is the corpus.
    """
    is_url = any("://" in place for place in corpus)
    if is_url and len(corpus) > 1:
        fail("give one URL, or files", USAGE)
    if prompts is not None and not is_url:
        fail("--prompts goes with the URL of a chat API", USAGE)
    if is_url:
        confirmed(corpus[0], confirm_target)
    keyring = load_keyring(keys)
    if published is not None:
        check_published(published, keyring, [key.id for key in keyring])
    wordings = _closings(closings)
    named = _accounts(accounts)
    from responders.actions.trace import Remarks, name

    remarks = Remarks(wordings)
    if prompts is not None:
        _listen(remarks, corpus[0], _lines(prompts), model, api_key, save)
    elif is_url:
        _download(remarks, corpus[0], api_key)
    else:
        _read(remarks, [Path(place) for place in corpus])
    found = name(remarks.numbers, named, keyring, below=below)
    if as_json:
        for one in found:
            typer.echo(json.dumps(asdict(one)))
    elif found:
        print_table(
            ("account", "key", "remarks", "times", "p", "adjusted"),
            [
                (
                    one.account,
                    one.key_id,
                    str(one.remarks),
                    str(one.times),
                    shown_p(one.p_value),
                    shown_p(one.adjusted),
                )
                for one in found
            ],
        )
    typer.echo(
        f"{len(remarks.numbers)} different remarks, {len(found)} of {len(named)} accounts named"
        f" (adjusted p at most {below:g})",
        err=as_json,
    )
    # For whoever has to believe it: a key, or wordings in another order, can be chosen so that
    # they read any account's name in a corpus that is known.
    print_commitments([key.id for key in keyring], keyring, published is not None, err=as_json)
    if closings is not None:
        digest = hashlib.sha256(closings.read_bytes()).hexdigest()
        typer.echo(f"closings sha256:{digest}", err=as_json)


def _closings(path: Path | None) -> Closings:
    from velvetrope_client.canary import BadClosings, Closings

    if path is None:
        return Closings.shipped()
    try:
        return Closings.load(path)
    except BadClosings as error:
        fail(str(error), FAILED)
    except OSError as error:
        fail(f"{path}: {error.strerror or error}", FAILED)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        fail(f"{path}: not UTF-8 text", FAILED)
    except OSError as error:
        fail(f"{path}: {error.strerror or error}", FAILED)
    kept = [line.strip() for line in lines if line.strip()]
    if not kept:
        fail(f"{path}: nothing in it", FAILED)
    return kept


def _accounts(path: Path) -> list[str]:
    """Each name once, in the order of the file."""
    return list(dict.fromkeys(_names(path)))


def _names(path: Path) -> Iterator[str]:
    for line in _lines(path):
        if not line.startswith("{"):
            yield line
            continue
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            fail(f"{path}: not JSON: {line[:40]}", FAILED)
        known = [document.get(field) for field in ("account", "campaign")]
        if not any(isinstance(value, str) for value in known):
            fail(f"{path}: no account or campaign in {line[:40]}", FAILED)
        # Answers of a campaign's members carry the campaign's remarks.
        yield from (value for value in known if isinstance(value, str))


def _read(remarks: Remarks, places: list[Path]) -> None:
    from detector.cli.replay import open_inputs

    _collect(remarks, open_inputs(list(_files(places))))


def _download(remarks: Remarks, url: str, api_key: Path | None) -> None:
    """Read what a URL holds without keeping it. Redirects are not followed: name the last URL."""
    import httpx

    from detector.runners.inputs import STDIN, Inputs

    try:
        with asking_client(api_key) as client, client.stream("GET", url) as response:
            if not response.is_success:
                to = response.headers.get("location")
                fail(f"{url}: {response.status_code}" + (f", is at {to}" if to else ""), FAILED)
            pieces = response.iter_bytes()
            _collect(remarks, Inputs([STDIN], stdin=io.BufferedReader(_Pieces(pieces))))
    except httpx.HTTPError as error:
        fail(f"{url}: {str(error) or type(error).__name__}", FAILED)


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file to read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._held = piece
        size = min(len(buffer), len(self._held))
        buffer[:size] = self._held[:size]
        self._held = self._held[size:]
        return size


def _collect(remarks: Remarks, inputs: Inputs) -> None:
    from detector.cli.replay import open_progress
    from detector.runners.inputs import UnreadableInput

    with open_progress(inputs) as advance:
        try:
            for _, chunks in inputs:
                for chunk in chunks:
                    remarks.feed(chunk)
                    advance(inputs.read)
                remarks.end()
        except UnreadableInput as error:
            fail(str(error), FAILED)


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(path for path in place.rglob("*") if path.is_file())
        else:
            yield place


def _listen(
    remarks: Remarks,
    url: str,
    prompts: list[str],
    model: str,
    api_key: Path | None,
    save: Path | None,
) -> None:
    import httpx
    from rich.console import Console
    from rich.progress import Progress

    heard = 0
    try:
        kept = None if save is None else save.open("w", encoding="utf-8")
    except OSError as error:
        fail(f"{save}: {error.strerror or error}", FAILED)
    with (
        asking_client(api_key) as client,
        Progress(console=Console(stderr=True), transient=True) as bar,
    ):
        for prompt in bar.track(prompts, description="asking"):
            body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
            try:
                text = _said(post(client, url, body))
            except httpx.HTTPError as error:
                fail(f"{url}: {str(error) or type(error).__name__}", FAILED)
            if text is None:
                continue
            heard += 1
            remarks.feed(text.encode("utf-8", "replace"))
            remarks.end()
            if kept is not None:
                kept.write(json.dumps({"prompt": prompt, "answer": text}) + "\n")
    if kept is not None:
        kept.close()
    if not heard:
        fail(f"{url}: no answer of a chat API came back", FAILED)


def _said(response: Any) -> str | None:
    """The text of a chat completion, or None."""
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return content if response.is_success and isinstance(content, str) else None
