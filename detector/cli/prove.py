"""`velvetrope prove`: was a model trained on marked answers?"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from detector.cli.options import FAILED, USAGE, JsonOption, examples, fail, print_table
from detector.cli.target import ConfirmOption, bearer, confirmed

if TYPE_CHECKING:
    import httpx
    from velvetrope_client.keys import Keyring
    from velvetrope_client.watermark import Question

    from responders.actions.prove import Claim

__all__ = [
    "ApiKeyOption",
    "PublishedOption",
    "asking_client",
    "check_published",
    "load_keyring",
    "post",
    "print_commitments",
    "prove",
    "register",
    "shown_p",
]

ApiKeyOption = Annotated[
    Path | None,
    typer.Option("--api-key", metavar="FILE", help="File with the bearer key for a URL."),
]
PublishedOption = Annotated[
    Path | None,
    typer.Option(
        "--published", metavar="FILE", help="Commitments as published, to check the keys by."
    ),
]

_TRIES: Final = 4  # of one question, when the suspect is busy
_LONGEST_WAIT_S: Final = 60.0


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        epilog=examples(
            "velvetrope prove --register marks.register --keys keys.json"
            " --questions questions.jsonl",
            "velvetrope prove --register marks.register --keys keys.json --suspect predictions.csv"
            " --published keys.pub",
            "velvetrope prove --register marks.register --keys keys.json"
            " --suspect http://127.0.0.1:9000/predict --save predictions.csv",
        )
    )(prove)


def prove(
    register: Annotated[
        Path, typer.Option("--register", metavar="FILE", help="The mark register of the gateway.")
    ],
    keys: Annotated[Path, typer.Option("--keys", metavar="FILE", help="The keyring.")],
    suspect: Annotated[
        str | None,
        typer.Option(
            "--suspect",
            metavar="FILE|URL",
            help="The suspect's answers (CSV: id,label), or where to ask for them.",
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option("--questions", metavar="FILE", help="Write the questions to ask, and stop."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Only this account's or campaign's marks.")
    ] = None,
    published: PublishedOption = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Keep what a URL answered, as such a CSV."),
    ] = None,
    field: Annotated[
        str, typer.Option("--field", help="Name of the input in what is posted to a URL.")
    ] = "input",
    api_key: ApiKeyOption = None,
    alternates: Annotated[
        int, typer.Option("--alternates", min=0, max=100_000, help="How many other keys to try.")
    ] = 999,
    confirm_target: ConfirmOption = None,
    as_json: JsonOption = False,
) -> None:
    """Test whether a model was trained on answers that were marked.

    First write the questions, marked and unmarked ones mixed, and have the suspect model answer
    them; then give its answers, `id,label` a line. A URL is asked here: each question is posted as
    {"input": …}, and the label is read from the JSON that comes back.

    The p-value is exact: the chance that a model which knows nothing of the key would give as many
    marks. The second one is the share of other keys that do as well on the same answers.
    """
    if (suspect is None) == (questions is None):
        fail("give either --suspect, or --questions to write what to ask", USAGE)
    is_url = suspect is not None and "://" in suspect
    if suspect is not None and is_url:
        confirmed(suspect, confirm_target)
    keyring = load_keyring(keys)
    asked, subjects = _questions(register, keyring, subject)
    if published is not None:
        check_published(published, keyring, {question.key_id for question in asked})
    if questions is not None:
        _write(questions, asked, keyring)
        return
    if suspect is None:
        return
    answers = _ask(suspect, asked, keyring, field, api_key) if is_url else _read(Path(suspect))
    if save is not None:
        _save(save, answers)
    _report(asked, answers, keyring, alternates, as_json)
    # For whoever has to believe it: what could have been chosen after the answers were seen.
    if subject is not None and subjects > 1:
        typer.echo(
            f"only {subject} was tested, one of {subjects} in the register: adjusted says nothing"
            " of the others, so it must have been named before",
            err=as_json,
        )
    print_commitments({q.key_id for q in asked}, keyring, published is not None, err=as_json)
    digest = hashlib.sha256(register.read_bytes()).hexdigest()
    typer.echo(f"register sha256:{digest}", err=as_json)


def load_keyring(path: Path) -> Keyring:
    """The keyring, or one line and exit code 1."""
    from velvetrope_client.keys import BadKeys, Keyring

    try:
        return Keyring.load(path)
    except BadKeys as error:
        fail(str(error), FAILED)
    except OSError as error:
        fail(f"{path}: {error.strerror or error}", FAILED)


def _questions(path: Path, keyring: Keyring, subject: str | None) -> tuple[list[Question], int]:
    """The register's questions, and how many subjects it has.

    They are in the order of their ids, which tells nothing of what is marked.
    """
    from velvetrope_client.register import BadRegister, read

    from responders.actions.prove import question_id

    try:
        everything = list(read(path, keyring))
    except BadRegister as error:
        fail(str(error), FAILED)
    except OSError as error:
        fail(f"{path}: {error.strerror or error}", FAILED)
    found = [q for q in everything if subject in (None, q.subject)]
    if not found:
        about = "" if subject is None else f" of {subject}"
        fail(f"{path}: no questions{about}", FAILED)
    found.sort(key=lambda q: question_id(keyring.get(q.key_id), q))
    return found, len({q.subject for q in everything})


def check_published(published: Path, keyring: Keyring, used: Iterable[str]) -> None:
    """Stop unless the commitment of every key that was used is among those published."""
    try:
        lines = published.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{published}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}", FAILED)
    commitments: dict[str, str] = {}
    for number, line in _numbered(lines):
        where = f"{published}: line {number}"
        name, commitment = _commitment(line, where)
        if commitments.setdefault(name, commitment) != commitment:
            fail(f"{where}: a second commitment of key {name}", FAILED)
    for name in sorted(used):
        if name not in commitments:
            fail(f"{published}: no commitment of key {name}", FAILED)
        if commitments[name] != keyring.get(name).commitment:
            fail(f"key {name} is not the one whose commitment {published} holds", FAILED)


def print_commitments(used: Iterable[str], keyring: Keyring, published: bool, *, err: bool) -> None:
    """One line a key: a report under a key that was chosen to fit it proves nothing."""
    word = "as published" if published else "compare it with what you published"
    for name in sorted(used):
        typer.echo(f"key {name} {keyring.get(name).commitment} ({word})", err=err)


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _commitment(line: str, where: str) -> tuple[str, str]:
    if line.lstrip().startswith("{"):
        try:
            document = json.loads(line)
            return str(document["id"]), str(document["commitment"])
        except (ValueError, KeyError, TypeError):
            fail(f'{where}: expected {{"id": …, "commitment": …}}', FAILED)
    name, _, value = line.strip().partition(" ")
    if not value.startswith("sha256:"):
        fail(f"{where}: expected an id and sha256:…, as `velvetrope keys commit` prints", FAILED)
    return name, value.strip()


def _write(path: Path, asked: list[Question], keyring: Keyring) -> None:
    from responders.actions.prove import question_id

    try:
        # These are customers' inputs, in the clear.
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(opened, "w", encoding="utf-8") as out:
            for question in asked:
                name = question_id(keyring.get(question.key_id), question)
                out.write(json.dumps({"id": name, "input": question.value}) + "\n")
    except OSError as error:
        fail(f"{path}: {error.strerror or error}", FAILED)
    typer.echo(f"{len(asked)} questions in {path}: what suspects asked, in the clear", err=True)


def _read(path: Path) -> dict[str, str]:
    answers: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            if not {"id", "label"} <= set(rows.fieldnames or ()):
                fail(f"{path}: the first line must name the columns id and label", FAILED)
            for row in rows:
                name, label = row["id"], row["label"]
                if label is None:
                    fail(f"{path}: line {rows.line_num}: expected id,label", FAILED)
                if not label.strip():  # not answered
                    continue
                if answers.setdefault(name, label.strip()) != label.strip():
                    fail(f"{path}: line {rows.line_num}: {name} has two labels", FAILED)
    except (UnicodeDecodeError, csv.Error):
        fail(f"{path}: not a CSV file in UTF-8", FAILED)
    except OSError as error:
        fail(f"{path}: {error.strerror or error}", FAILED)
    return answers


def _save(path: Path, answers: Mapping[str, str]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as out:
            rows = csv.writer(out)
            rows.writerow(("id", "label"))
            rows.writerows(answers.items())
    except OSError as error:
        fail(f"{path}: {error.strerror or error}", FAILED)


def _ask(
    url: str, asked: list[Question], keyring: Keyring, field: str, api_key: Path | None
) -> dict[str, str]:
    """Post every question, one after another; what is not answered with a label is left out."""
    import httpx
    from rich.console import Console
    from rich.progress import Progress

    from responders.actions.prove import question_id

    answers: dict[str, str] = {}
    with (
        asking_client(api_key) as client,
        Progress(console=Console(stderr=True), transient=True) as bar,
    ):
        for question in bar.track(asked, description="asking"):
            try:
                label = _answer(client, url, {field: question.value})
            except httpx.HTTPError as error:
                fail(f"{url}: {str(error) or type(error).__name__}", FAILED)
            if label is not None:
                answers[question_id(keyring.get(question.key_id), question)] = label
    if not answers:
        fail(f"{url}: no answer had a label that could be read", FAILED)
    return answers


def _answer(client: httpx.Client, url: str, body: dict[str, Any]) -> str | None:
    from velvetrope_client.classifier_answers import ClassifierPaths, read_answers

    response = post(client, url, body)
    if not response.is_success:
        return None
    try:
        found = read_answers(response.json(), ClassifierPaths())
    except (ValueError, RecursionError):  # a suspect may well be hostile
        return None
    return found[0].label if found else None


def asking_client(api_key: Path | None) -> httpx.Client:
    """A client of one target, with the bearer key from a file if one is given."""
    import httpx

    headers = {}
    if api_key is not None:
        try:
            key = api_key.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            fail(f"{api_key}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}", FAILED)
        headers["Authorization"] = bearer(key, api_key)
    # Proxies of the environment are not for this: the target is the one that was named.
    return httpx.Client(timeout=120.0, trust_env=False, headers=headers)


def post(client: httpx.Client, url: str, body: dict[str, Any]) -> httpx.Response:
    """The answer to one question, asked again after 429 and 503, as Retry-After says."""
    for attempt in range(_TRIES - 1):
        response = client.post(url, json=body)
        if response.status_code not in (429, 503):
            return response
        asked_to_wait = response.headers.get("retry-after", "")
        is_seconds = asked_to_wait.isascii() and asked_to_wait.isdigit()
        wait = float(asked_to_wait) if is_seconds else 2.0**attempt
        time.sleep(min(wait, _LONGEST_WAIT_S))
    return client.post(url, json=body)


def _report(
    asked: list[Question],
    answers: Mapping[str, str],
    keyring: Keyring,
    alternates: int,
    as_json: bool,
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from responders.actions.prove import prove as test
    from responders.actions.prove import question_id

    subjects = len({question.subject for question in asked})
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("testing", total=subjects)
        claims = test(
            asked, answers, keyring, alternates=alternates, done=lambda: bar.advance(task)
        )
    said = [(q, answers.get(question_id(keyring.get(q.key_id), q))) for q in asked]
    answered = [(question, label) for question, label in said if label is not None]
    strange = sum(label not in question.classes for question, label in answered)
    if not claims:
        fail("no marked question was answered: nothing can be said", FAILED)
    if as_json:
        for claim in claims:
            typer.echo(json.dumps(asdict(claim)))
    else:
        print_table(_COLUMNS, map(_row, claims))
        typer.echo()
    typer.echo(f"{len(answered)} of {len(asked)} questions answered", err=as_json)
    if strange:
        typer.echo(
            f"{strange} answers are no label of the model: are they spelled as it spells them?",
            err=as_json,
        )


_COLUMNS: Final = ("subject", "marks", "learned", "other", "controls", "p", "adjusted", "p (keys)")


def _row(claim: Claim) -> tuple[str, ...]:
    return (
        claim.subject,
        str(claim.marks),
        str(claim.learned),
        str(claim.disagreed - claim.learned),
        f"{claim.controls_disagreed}/{claim.controls}",
        shown_p(claim.p_value),
        shown_p(claim.adjusted),
        f"{claim.p_alternates:.2g} of {claim.alternates}",
    )


def shown_p(p: float) -> str:
    """A p-value in two digits; 0 is what a float cannot hold."""
    return f"{p:.2g}" if p else "<1e-300"
