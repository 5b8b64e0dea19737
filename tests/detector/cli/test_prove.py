"""`velvetrope prove`, from the questions to the p-value, on a clone that was really trained."""

from __future__ import annotations

import csv
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from typer.testing import CliRunner
from velvetrope_client.keys import Key, Keyring
from velvetrope_client.register import MarkRegister
from velvetrope_client.rewriter_settings import load
from velvetrope_client.rewriting import Rewriter
from velvetrope_client.watermark import Watermark

from detector.cli import build

KEY = Key("k1", b"k" * 32)


def prove(folder: Path, *arguments: str | Path) -> Result:
    shared = ["--register", folder / "marks.jsonl", "--keys", folder / "keys.json"]
    return CliRunner().invoke(build(), ["prove", *map(str, [*shared, *arguments])])


@dataclass(frozen=True)
class Gateway:
    """A folder with the keyring and the register, and what a suspect was answered."""

    folder: Path
    pixels: Any
    answers: list[str]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """A suspect asks for every one of the digits: 1,797 questions, 7 marks expected."""
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "keys.json").write_text(Keyring((KEY,)).dump())
    (folder / "keys.pub").write_text(f"k1 {KEY.commitment}\n")
    (folder / "poison.toml").write_text(
        """
        keys = "keys.json"
        [[endpoint]]
        paths = { classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"] }
        watermark = { from_level = 1, register = "marks.jsonl" }
        """
    )
    rewriter = Rewriter(load(folder / "poison.toml"))
    pixels, digits = load_digits(return_X_y=True)
    answers = []
    for row, digit in zip(pixels.tolist(), digits.tolist(), strict=True):
        body = rewriter.rewrite(
            action="poison",
            level=1,
            subject="acct-1",
            endpoint="/v1/classify",
            request=json.dumps({"input": row}).encode(),
            body=json.dumps({"label": str(digit)}).encode(),
            content_type="application/json",
        )
        answers.append(json.loads(body)["label"])
    return Gateway(folder, pixels, answers)


@pytest.fixture
def folder(tmp_path: Path, gateway: Gateway) -> Path:
    """A copy of the gateway's folder."""
    shutil.copytree(gateway.folder, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def clone(gateway: Gateway) -> KNeighborsClassifier:
    return KNeighborsClassifier(1).fit(gateway.pixels, gateway.answers)


@pytest.fixture
def innocent() -> KNeighborsClassifier:
    pixels, digits = load_digits(return_X_y=True)
    return KNeighborsClassifier(1).fit(pixels, digits.astype(str))


def answers_of(model: KNeighborsClassifier, folder: Path) -> Path:
    """The suspect's answers to the questions, as an operator would get them."""
    assert prove(folder, "--questions", folder / "questions.jsonl").exit_code == 0
    asked = [json.loads(line) for line in (folder / "questions.jsonl").open()]
    labels = model.predict([question["input"] for question in asked])
    rows = zip((question["id"] for question in asked), labels, strict=True)
    with (folder / "predictions.csv").open("w", newline="") as out:
        csv.writer(out).writerows([("id", "label"), *rows])
    return folder / "predictions.csv"


@pytest.fixture
def serving(clone: KNeighborsClassifier) -> Iterator[str]:
    """The clone behind HTTP, which refuses the first question with 429."""
    refused: list[bool] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if not refused:
                refused.append(True)
                self.send_response(429)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            said = json.dumps({"label": clone.predict([body["input"]])[0]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/predict"
    server.shutdown()
    server.server_close()


def claim(said: Result) -> dict[str, Any]:
    assert said.exit_code == 0, said.output
    return dict(json.loads(said.stdout))


def test_a_clone_is_recognised(folder: Path, clone: KNeighborsClassifier) -> None:
    found = claim(prove(folder, "--suspect", answers_of(clone, folder), "--json"))
    assert found["subject"] == "acct-1"
    assert found["learned"] == found["marks"] >= 3
    assert found["p_value"] < 9.0 ** -found["marks"]


def test_a_model_of_the_same_data_is_not(folder: Path, innocent: KNeighborsClassifier) -> None:
    found = claim(prove(folder, "--suspect", answers_of(innocent, folder), "--json"))
    assert (found["learned"], found["p_value"]) == (0, 1.0)


def test_questions_are_readable_by_their_owner_alone(folder: Path) -> None:
    prove(folder, "--questions", folder / "questions.jsonl")
    assert (folder / "questions.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_server_on_this_machine_is_asked(folder: Path, serving: str) -> None:
    found = claim(prove(folder, "--suspect", serving, "--json"))
    assert found["learned"] == found["marks"] >= 3


def test_what_a_server_answered_can_be_kept(folder: Path, serving: str) -> None:
    asked = prove(folder, "--suspect", serving, "--json", "--save", folder / "kept.csv")
    again = prove(folder, "--suspect", folder / "kept.csv", "--json")
    assert claim(again) == claim(asked)


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (httpx.Response(200, text="[" * 200_000), "no answer had a label"),
        (httpx.Response(429, headers=[(b"Retry-After", b"\xb2")]), "no answer had a label"),
    ],
)
def test_a_hostile_suspect_is_an_error_of_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, response: httpx.Response, said: str
) -> None:
    transport = httpx.MockTransport(lambda _: response)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(
        "detector.cli.prove.asking_client", lambda _: httpx.Client(transport=transport)
    )
    result = prove(folder, "--suspect", "http://127.0.0.1:1/")
    assert result.exit_code == 1
    assert said in result.output


@pytest.mark.parametrize("key", ["secret\u00e9", "secret\nvalue", "secret\x00", ""])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(folder: Path, key: str) -> None:
    (folder / "api.key").write_text(key)
    said = prove(folder, "--suspect", "http://127.0.0.1:1/", "--api-key", folder / "api.key")
    assert (said.exit_code, "secret" in said.output) == (1, False)
    assert "api.key: a key is one line of visible ASCII" in said.output


def test_a_url_with_a_password_is_refused_and_not_shown(folder: Path) -> None:
    said = prove(folder, "--suspect", "http://me:secret@127.0.0.1:1/")
    assert (said.exit_code, "secret" in said.output) == (2, False)


def test_another_machine_must_be_named_twice(folder: Path) -> None:
    said = prove(folder, "--suspect", "https://models.example/predict")
    assert said.exit_code == 2
    assert "--confirm-target models.example" in said.output


@pytest.mark.parametrize(
    "url", ["ftp://localhost/x", "http://", "http://localhost:99999/", "http://localhost/\x01"]
)
def test_a_url_that_is_none_is_a_usage_error(folder: Path, url: str) -> None:
    assert prove(folder, "--suspect", url).exit_code == 2


def test_the_report_names_the_key_as_published(folder: Path, clone: KNeighborsClassifier) -> None:
    said = prove(folder, "--suspect", answers_of(clone, folder), "--published", folder / "keys.pub")
    assert f"key k1 {KEY.commitment} (as published)" in said.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("published", "said"),
    [
        (f"k1 {Key('k1', b'x' * 32).commitment}", "key k1 is not the one"),
        (f"k2 {KEY.commitment}", "no commitment of key k1"),
        ("k1", "line 1: expected an id and sha256"),
        ('{"id": 1}', "line 1: expected"),
        (f"k1 sha256:0\nk1 {KEY.commitment}", "line 2: a second commitment of key k1"),
    ],
)
def test_a_key_that_was_not_published_proves_nothing(
    folder: Path, published: str, said: str
) -> None:
    (folder / "keys.pub").write_text(published)
    answers = folder / "predictions.csv"
    answers.write_text("id,label\n")
    result = prove(folder, "--suspect", answers, "--published", folder / "keys.pub")
    assert result.exit_code == 1
    assert said in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "columns id and label"),
        ("id,label\nx\n", "line 2: expected id,label"),
        ("id,label\nx,1\nx,2\n", "line 3: x has two labels"),
        ("id,label\nx,1\n", "no marked question was answered"),
    ],
)
def test_answers_that_cannot_be_read_are_refused(folder: Path, text: str, said: str) -> None:
    (folder / "predictions.csv").write_text(text)
    result = prove(folder, "--suspect", folder / "predictions.csv")
    assert result.exit_code == 1
    assert said in result.output


def test_a_question_without_a_label_counts_as_not_answered(
    folder: Path, clone: KNeighborsClassifier
) -> None:
    path = answers_of(clone, folder)
    whole = claim(prove(folder, "--suspect", path, "--json"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1].split(",")[0] + ","]))
    part = claim(prove(folder, "--suspect", path, "--json"))
    assert part["marks"] + part["controls"] == whole["marks"] + whole["controls"] - 1


def test_labels_in_another_spelling_are_pointed_out(
    folder: Path, clone: KNeighborsClassifier
) -> None:
    path = answers_of(clone, folder)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-2], *(f"{line}.0" for line in lines[-2:])]))
    assert "2 answers are no label of the model" in prove(folder, "--suspect", path).stdout


def test_one_subject_picked_out_of_several_is_said_to_be(
    folder: Path, gateway: Gateway, clone: KNeighborsClassifier
) -> None:
    register = MarkRegister(folder / "marks.jsonl", KEY)
    marks = Watermark(KEY, rate=0.0049, register=register)
    for row in gateway.pixels.tolist()[:500]:
        marks.answer("acct-2", row, "0", ("0", "1"))
    register.close()
    path = answers_of(clone, folder)
    said = prove(folder, "--suspect", path, "--subject", "acct-1").stdout
    assert "only acct-1 was tested, one of 2 in the register" in said


def test_a_subject_without_marks_is_an_error(folder: Path) -> None:
    said = prove(folder, "--subject", "acct-9", "--questions", folder / "q.jsonl")
    assert said.exit_code == 1
    assert "no questions of acct-9" in said.output


def test_either_answers_or_questions_must_be_asked_for(folder: Path) -> None:
    assert prove(folder).exit_code == 2
