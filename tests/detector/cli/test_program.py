"""The program as it is started: help, settings, usage errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from detector.cli import build
from detector.cli.options import print_table


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("VELVETROPE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def leaves(command: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    below = getattr(command, "commands", None)
    if below is None:
        return [path]
    return [leaf for name, child in below.items() for leaf in leaves(child, (*path, name))]


COMMANDS = leaves(get_command(build()))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_examples_in_its_help(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(build(), [*path, "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert f"velvetrope {' '.join(path)}" in result.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from detector.cli import build; build();"
        "print(sorted({'numba', 'numpy', 'faust', 'aiokafka', 'kafka', 'scipy', 'pydantic',"
        " 'starlette', 'redis', 'rich.table'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout == "[]\n"


def test_config_check_and_show() -> None:
    Path("velvetrope.toml").write_text("[judge]\ntick_s = 0.5\n[api]\nsecret = 's3cret'\n")
    result = CliRunner().invoke(build(), ["config", "check"])
    assert (result.exit_code, result.stdout) == (
        0,
        "The settings are right (velvetrope.toml, 2 set).\n",
    )
    shown = CliRunner().invoke(build(), ["config", "show"]).stdout
    assert "s3cret" not in shown
    assert "velvetrope.toml:2" in shown
    rows = CliRunner().invoke(build(), ["config", "show", "--json"]).stdout.splitlines()
    row = next(row for row in map(json.loads, rows) if row["name"] == "judge.tick_s")
    assert row == {"name": "judge.tick_s", "value": 0.5, "from": "velvetrope.toml:2"}


def test_wrong_settings_are_one_line_each_and_exit_code_2() -> None:
    Path("velvetrope.toml").write_text("[judge]\ntick = 0.5\ntick_s = 'x'\n")
    result = CliRunner().invoke(build(), ["config", "check"])
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert "velvetrope: velvetrope.toml:2: judge.tick is not a setting; did you mean " in lines[1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["replay", "nowhere.jsonl", "--out", "out"], 1, "nowhere.jsonl: No such file"),
        (["replay", "log", "--out", "out", "--format", "natve"], 2, "did you mean 'native'?"),
        (["replay", "log"], 2, "--out"),
        (["replay", "log", "--out", "out", "--labels", "log"], 2, "log: "),
        (["replay", "log", "--out", "out", "--feedback", "nowhere"], 2, "nowhere: No such file"),
        (["replay", "log", "--out", "out", "--baseline", "nowhere"], 2, "nowhere: No such file"),
        (["serve", "log", "--format", "natve"], 2, "did you mean 'native'?"),
        (["serve", "--port", "99999"], 2, "argument: api.port = 99999"),
        (["serve", "--host", "0.0.0.0"], 1, "set api.secret"),
    ],
)
def test_usage_errors_are_one_clear_line(arguments: list[str], code: int, said: str) -> None:
    Path("log").write_text("not json\n")
    result = CliRunner().invoke(build(), arguments)
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [["config", "check"], ["serve"], ["gateway"]], ids=" ".join)
def test_a_file_that_poison_misses_is_one_line_and_exit_code_2(arguments: list[str]) -> None:
    Path("velvetrope.toml").write_text("[api]\npoison = 'poison.toml'\nport = 0\n")
    Path("poison.toml").write_text("keys = 'keys.json'\n")
    result = CliRunner().invoke(build(), arguments)
    assert (result.exit_code, result.stderr) == (
        2,
        "velvetrope: api.poison: poison.toml: keys: keys.json: No such file or directory\n",
    )


@pytest.mark.parametrize("arguments", [["config", "check"], ["serve"], ["gateway"]], ids=" ".join)
def test_a_keyring_of_challenges_that_is_missing_is_one_line(arguments: list[str]) -> None:
    Path("velvetrope.toml").write_text("[api]\nport = 0\n[api.challenge]\nkeys = 'keys.json'\n")
    result = CliRunner().invoke(build(), arguments)
    assert (result.exit_code, result.stderr) == (
        2,
        "velvetrope: api.challenge.keys: keys.json: No such file or directory\n",
    )


def test_following_haproxy_without_a_folder_of_maps_names_the_setting(tmp_path: Path) -> None:
    result = CliRunner().invoke(build(), ["follow", "haproxy", "--maps", "nowhere"])
    assert result.exit_code == 1
    assert f"follow.haproxy_maps is {tmp_path}/nowhere: there is no such folder" in result.stderr


def test_build_makes_a_program_of_its_own_each_time() -> None:
    assert isinstance(build(), typer.Typer)
    assert build() is not build()


def test_a_table_that_is_no_terminal_s_cuts_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["acct-" + 60 * "a", "c-" + 60 * "b", 120 * "w "]
    print_table(("account", "campaign", "why"), [names])
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["account", "campaign", "why"]
    assert row.rstrip().split(maxsplit=2) == [*names[:2], names[2].strip()]


def test_replay_warns_when_nothing_is_of_its_format() -> None:
    Path("log").write_text("not json\nnor this\n")
    Path("labels.json").write_text('{"a": true}')
    result = CliRunner().invoke(build(), ["replay", "log", "--out", "o", "--labels", "labels.json"])
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: no record could be read as native: all 2 are in o/dead-letters.jsonl; "
        "--format names another format\n"
    )


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            '{"b": true}',
            "warning: labels.json names none of the log's 1 accounts: "
            "there is no recall and no count of false alarms\n",
        ),
        ('{"a": false, "b": true}', ""),
    ],
)
def test_replay_warns_when_no_label_is_of_the_log(labels: str, said: str) -> None:
    Path("log").write_text('{"ts": 1781000000, "account": "a", "input": "hello"}\n')
    Path("labels.json").write_text(labels)
    result = CliRunner().invoke(build(), ["replay", "log", "--out", "o", "--labels", "labels.json"])
    assert result.exit_code == 0
    assert result.stderr == said
