"""`velvetrope trace` on files, folders and a chat API."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import (
    BaseHTTPRequestHandler,
    SimpleHTTPRequestHandler,
    ThreadingHTTPServer,
)
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner
from velvetrope_client.canary import Closings
from velvetrope_client.keys import Key, Keyring
from velvetrope_client.rewriter_settings import (
    CanarySettings,
    EndpointSettings,
    RewriterSettings,
)
from velvetrope_client.rewriting import Rewriter

from detector.cli import build

KEY = Key("k1", b"k" * 32)
PROSE = (
    "The tide rises and falls because of the pull of the moon and the sun on the water of the "
    "oceans. When both are in line with the earth, the pull is at its strongest and the tide is "
    "at its highest. This happens twice in a month, at the new moon and at the full moon."
)


def answers(account: str, count: int) -> list[str]:
    """Answers of a chat API as a suspect with canaries gets them."""
    endpoint = EndpointSettings(canaries=CanarySettings(from_level=1))
    rewriter = Rewriter(RewriterSettings((endpoint,), Keyring((KEY,))))
    said = []
    for n in range(count):
        message = {"role": "assistant", "content": f"{PROSE} Case {n}."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = rewriter.rewrite(
            action="poison",
            level=1,
            subject=account,
            endpoint="/v1/chat/completions",
            request=b'{"messages": []}',
            body=json.dumps({"choices": [choice]}).encode(),
            content_type="application/json",
        )
        said.append(json.loads(body)["choices"][0]["message"]["content"])
    return said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "keys.json").write_text(Keyring((KEY,)).dump())
    (tmp_path / "accounts.txt").write_text("".join(f"acct-{n}\n" for n in range(500)))
    (tmp_path / "corpus").mkdir()
    return tmp_path


def trace(folder: Path, *arguments: str | Path) -> Result:
    keys = ["--keys", folder / "keys.json"]
    listed = [] if "--accounts" in arguments else ["--accounts", folder / "accounts.txt"]
    return CliRunner().invoke(build(), ["trace", *map(str, [*arguments, *keys, *listed])])


def named(said: Result) -> list[str]:
    assert said.exit_code == 0, said.output
    return [json.loads(line)["account"] for line in said.stdout.splitlines()]


def test_accounts_whose_answers_are_in_a_dataset_are_named(folder: Path) -> None:
    with gzip.open(folder / "corpus" / "data.jsonl.gz", "wt") as out:
        for text in [*answers("acct-3", 20), *answers("acct-44", 20), *answers("other", 20)]:
            out.write(json.dumps({"instruction": "Why?", "output": text}) + "\n")
    said = trace(folder, folder / "corpus" / "data.jsonl.gz", "--json")
    assert sorted(named(said)) == ["acct-3", "acct-44"]


def test_a_folder_is_read_whole(folder: Path) -> None:
    one, two = answers("acct-3", 30)[:15], answers("acct-3", 30)[15:]
    (folder / "corpus" / "a.txt").write_text("\n\n".join(one))
    (folder / "corpus" / "deep").mkdir()
    (folder / "corpus" / "deep" / "b.txt").write_text("\n\n".join(two))
    assert named(trace(folder, folder / "corpus", "--json")) == ["acct-3"]


def test_a_clean_corpus_names_nobody(folder: Path) -> None:
    (folder / "corpus" / "a.txt").write_text(PROSE * 100)
    said = trace(folder, folder / "corpus")
    assert said.exit_code == 0
    assert "0 different remarks, 0 of 500 accounts named" in said.output


def test_campaigns_are_looked_for_as_well_as_accounts(folder: Path) -> None:
    (folder / "accounts.jsonl").write_text('{"account": "acct-1", "campaign": "c-9"}\n')
    (folder / "corpus" / "a.txt").write_text("\n".join(answers("c-9", 20)))
    said = trace(folder, folder / "corpus", "--accounts", folder / "accounts.jsonl", "--json")
    assert named(said) == ["c-9"]


def test_an_operators_own_wordings_are_found(folder: Path) -> None:
    slots = [[f" w{slot}x{n}" for n in range(16)] for slot in range(10)]
    (folder / "closings.json").write_text(json.dumps({"format": 1, "slots": slots}))
    closings = Closings.load(folder / "closings.json")
    remarks = " ".join(closings.write(KEY, "acct-1", n) for n in (1, 2))
    (folder / "corpus" / "a.txt").write_text(remarks)
    said = trace(folder, folder / "corpus", "--closings", folder / "closings.json", "--json")
    assert named(said) == ["acct-1"]


def test_the_report_says_what_must_have_been_published_before(folder: Path) -> None:
    slots = [[f" w{slot}x{n}" for n in range(16)] for slot in range(10)]
    (folder / "closings.json").write_text(json.dumps({"format": 1, "slots": slots}))
    (folder / "corpus" / "a.txt").write_text(PROSE)
    digest = hashlib.sha256((folder / "closings.json").read_bytes()).hexdigest()
    said = trace(folder, folder / "corpus", "--closings", folder / "closings.json")
    assert said.stdout.splitlines()[-2:] == [
        f"key k1 {KEY.commitment} (compare it with what you published)",
        f"closings sha256:{digest}",
    ]


def test_a_key_that_was_not_published_names_nobody(folder: Path) -> None:
    (folder / "corpus" / "a.txt").write_text("\n".join(answers("acct-5", 20)))
    (folder / "keys.pub").write_text(f"k1 {Key('k1', b'x' * 32).commitment}\n")
    said = trace(folder, folder / "corpus", "--published", folder / "keys.pub")
    assert said.exit_code == 1
    assert "key k1 is not the one whose commitment" in said.output


@pytest.fixture
def model() -> Iterator[str]:
    """A chat API that repeats what it was trained on."""
    learned = iter(answers("acct-5", 40))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            said: dict[str, Any] = {"choices": [{"message": {"content": next(learned)}}]}
            body = json.dumps(said).encode()
            self.send_response(200 if self.headers["authorization"] == "Bearer s3cret" else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
    server.shutdown()
    server.server_close()


def test_what_a_model_says_is_traced(folder: Path, model: str) -> None:
    (folder / "prompts.txt").write_text("Why do tides rise?\n" * 30)
    (folder / "bearer").write_text("s3cret\n")
    said = trace(
        folder,
        *(model, "--prompts", folder / "prompts.txt", "--api-key", folder / "bearer"),
        *("--save", folder / "answers.jsonl", "--json"),
    )
    assert named(said) == ["acct-5"]
    assert named(trace(folder, folder / "answers.jsonl", "--json")) == ["acct-5"]


def test_a_model_that_refuses_is_an_error(folder: Path, model: str) -> None:
    (folder / "prompts.txt").write_text("Why do tides rise?\n")
    said = trace(folder, model, "--prompts", folder / "prompts.txt")
    assert said.exit_code == 1
    assert "no answer of a chat API came back" in said.output


def test_another_machine_must_be_named_twice(folder: Path) -> None:
    (folder / "prompts.txt").write_text("Why?\n")
    said = trace(folder, "https://models.example/v1", "--prompts", folder / "prompts.txt")
    assert said.exit_code == 2
    assert "--confirm-target models.example" in said.output


@pytest.mark.parametrize(
    ("accounts", "said"),
    [
        ("", "nothing in it"),
        ("{", "not JSON"),
        ('{"x":' + "[" * 200_000, "not JSON"),
        ('{"x": 1}', "no account or campaign"),
    ],
)
def test_a_list_of_accounts_that_is_none_is_refused(folder: Path, accounts: str, said: str) -> None:
    (folder / "accounts.txt").write_text(accounts)
    result = trace(folder, folder / "corpus")
    assert result.exit_code == 1
    assert said in result.output


def test_a_missing_corpus_is_named(folder: Path) -> None:
    said = trace(folder, folder / "none.jsonl")
    assert said.exit_code == 1
    assert "none.jsonl: No such file" in said.output


@pytest.fixture
def served(folder: Path) -> Iterator[str]:
    """The folder `corpus` behind HTTP."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(folder / "corpus"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_dataset_is_read_from_a_url(folder: Path, served: str) -> None:
    with gzip.open(folder / "corpus" / "data.txt.gz", "wt") as out:
        out.write("\n".join(answers("acct-3", 30)))
    assert named(trace(folder, f"{served}/data.txt.gz", "--json")) == ["acct-3"]


def test_a_url_that_has_nothing_is_an_error(folder: Path, served: str) -> None:
    said = trace(folder, f"{served}/none.txt")
    assert said.exit_code == 1
    assert "none.txt: 404" in said.output


def test_prompts_without_a_url_are_a_usage_error(folder: Path) -> None:
    (folder / "prompts.txt").write_text("Why?\n")
    said = trace(folder, folder / "corpus", "--prompts", folder / "prompts.txt")
    assert said.exit_code == 2
