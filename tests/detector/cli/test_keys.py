"""`velvetrope keys`: files that only their owner reads, and commitments to publish."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from jwt import PyJWKSet
from typer.testing import CliRunner
from velvetrope_client.keys import Keyring

from detector.cli import build


def keys(*arguments: str | Path) -> Result:
    return CliRunner().invoke(build(), ["keys", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    assert keys("new", tmp_path / "keys.json", "--id", "first").exit_code == 0
    return tmp_path / "keys.json"


def test_a_new_keyring_is_readable_by_its_owner_alone(file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_rotated_keyring_is_readable_by_its_owner_alone(file: Path) -> None:
    keys("rotate", file, "--id", "second")
    assert file.stat().st_mode & 0o777 == 0o600


def test_new_prints_the_commitment(tmp_path: Path) -> None:
    said = keys("new", tmp_path / "keys.json", "--id", "first")
    key = Keyring.load(tmp_path / "keys.json").current
    assert said.output == f"first {key.commitment}\n"


def test_an_existing_keyring_is_not_overwritten(file: Path) -> None:
    before = file.read_text()
    said = keys("new", file)
    assert (said.exit_code, file.read_text()) == (2, before)


def test_rotation_puts_a_key_in_front_of_the_others(file: Path) -> None:
    first = Keyring.load(file).current
    keys("rotate", file, "--id", "second")
    after = Keyring.load(file)
    assert (after.current.id, after.get("first")) == ("second", first)


def test_rotating_to_a_name_in_use_changes_nothing(file: Path) -> None:
    before = file.read_text()
    said = keys("rotate", file, "--id", "first")
    assert (said.exit_code, file.read_text()) == (2, before)
    assert "first is there twice" in said.output


def test_rotation_leaves_nothing_beside_the_keyring(file: Path) -> None:
    keys("rotate", file, "--id", "second")
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]


def test_commit_prints_every_key_newest_first(file: Path) -> None:
    keys("rotate", file, "--id", "second")
    said = keys("commit", file, "--json")
    ring = Keyring.load(file)
    assert [json.loads(line) for line in said.output.splitlines()] == [
        {"id": key.id, "commitment": key.commitment} for key in ring
    ]


def test_no_command_prints_a_secret(file: Path) -> None:
    said = keys("rotate", file, "--id", "second").output + keys("commit", file).output
    secrets = [entry["secret"] for entry in json.loads(file.read_text())["keys"]]
    assert not any(secret in said for secret in secrets)


def test_a_file_that_is_no_keyring_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")
    said = keys("commit", tmp_path / "keys.json")
    assert said.exit_code == 1
    assert "keys.json: expected" in said.output


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    said = keys("commit", tmp_path / "keys.json")
    assert said.exit_code == 1
    assert "keys.json: No such file" in said.output


def test_the_pages_keys_are_derived_and_readable_by_their_owner_alone(file: Path) -> None:
    keys("rotate", file, "--id", "second")
    out = file.with_name("page.json")
    assert keys("page", file, out).exit_code == 0
    assert out.stat().st_mode & 0o777 == 0o600
    kept = PyJWKSet.from_dict(json.loads(out.read_text()))
    assert [key.key_id for key in kept.keys] == ["second", "first"]
    assert [key.key for key in kept.keys] == [
        k.derive("challenge page") for k in Keyring.load(file)
    ]


def test_the_pages_keys_overwrite_nothing(file: Path) -> None:
    assert keys("page", file, file).exit_code == 2
    assert Keyring.load(file).current.id == "first"
