"""Commands on a running deployment: what they say, what they leave for the judge, exit codes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from detector.cli import build
from detector.runners.ledger import Ledger
from responders.decisions import Decision, Evidence, Reason, Signal
from responders.feedback import Allow, Clear, Feedback, SetMode
from responders.stores.lock import StateLock
from responders.stores.sqlite import SqliteStore

Run = Callable[..., Result]
NOW = time.time()


def decision(value: str = "acct-1", version: int = 1, **fields: object) -> Decision:
    given: dict[str, object] = {
        "id": f"d-{value}-{version}",
        "version": version,
        "scope": "account",
        "value": value,
        "action": "throttle",
        "level": 1,
        "mode": "shadow",
        "reason": Reason(
            code="extraction", text="looks like harvesting", technique="AML.T0024.002"
        ),
        "evidence": Evidence(
            e_value=2310.0,
            signals=(
                Signal(
                    name="coverage.self_similarity",
                    value=0.03,
                    typical=(0.11, 0.42),
                    weight=0.37,
                    text="its inputs hardly resemble each other",
                ),
            ),
        ),
        "n_events": 640,
        "issued_at": NOW,
        "expires_at": NOW + 3600.0,
        "scorer": "text-1",
        "baseline": "shipped",
    }
    return Decision(**{**given, **fields})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("VELVETROPE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def run() -> Run:
    app = build()
    return lambda *arguments: CliRunner().invoke(app, [*arguments])


@pytest.fixture
def state() -> Path:
    """A state with two decisions about acct-1, one about an ended acct-2."""
    path = Path("velvetrope.db")
    store = SqliteStore(path)
    store.apply(
        [
            decision(),
            decision(version=2, action="challenge", campaign="c-1"),
            decision("acct-2", 3, expires_at=NOW - 10.0),
        ]
    )
    store.set_mode("shadow")
    Ledger(store, path).close()
    store.close()
    return path


def left(state: Path) -> list[Feedback]:
    store = SqliteStore(state)
    ledger = Ledger(store, state)
    said = [entry.feedback for entry in ledger.said(0)]
    ledger.close()
    store.close()
    return said


def test_explain_says_what_why_and_since_when(run: Run, state: Path) -> None:
    result = run("explain", "acct-1")
    assert result.exit_code == 0
    for part in (
        "challenge, shadow", "like harvesting", "AML.T0024.002", "c-1", "640 requests",
        "2,310", "coverage.self_similarity", "0.11 to 0.42", "37%", "hardly resemble",
    ):  # fmt: skip
        assert part in result.stdout


def test_explain_of_an_unknown_account_is_no_error(run: Run, state: Path) -> None:
    result = run("explain", "nobody")
    assert result.exit_code == 0
    assert result.stdout == "No decision was ever made about account nobody.\n"


def test_explain_reads_a_replay_as_well(run: Run) -> None:
    import msgspec

    Path("out").mkdir()
    Path("out/decisions.jsonl").write_bytes(msgspec.json.encode(decision()) + b"\n")
    result = run("explain", "acct-1", "--replay", "out", "--json")
    assert json.loads(result.stdout)["id"] == "d-acct-1-1"


def test_a_name_cannot_write_to_the_terminal(run: Run, state: Path) -> None:
    store = SqliteStore(state)
    store.apply([decision("evil\x1b[2J[red]x", 9)])
    store.close()
    result = run("decisions", "list")
    assert "\x1b[2J" not in result.stdout
    assert "evil\\x1b[2J[red]x" in result.stdout


def test_list_shows_what_is_in_force_or_all_that_is_kept(run: Run, state: Path) -> None:
    result = run("decisions", "list")
    assert "acct-1" in result.stdout
    assert "acct-2" not in result.stdout
    lines = run("decisions", "list", "--all", "--json").stdout.splitlines()
    assert [json.loads(line)["value"] for line in lines] == ["acct-1", "acct-2"]


def test_show_of_what_is_not_kept_is_exit_code_1(run: Run, state: Path) -> None:
    assert json.loads(run("decisions", "show", "acct-1", "--json").stdout)["version"] == 2
    result = run("decisions", "show", "nobody")
    assert result.exit_code == 1
    assert result.stderr == "velvetrope: no decision is kept about account nobody\n"


def test_clear_is_left_for_the_judge(run: Run, state: Path) -> None:
    result = run("decisions", "clear", "acct-1", "--reason", "partner", "--grace", "30d")
    assert result.exit_code == 0
    assert "not running" in result.stdout
    (said,) = left(state)
    assert isinstance(said, Clear)
    assert (said.value, said.reason, said.grace_s) == ("acct-1", "partner", 30 * 86_400.0)
    assert said.by


def test_allow_adds_with_an_end_and_canonical_values(run: Run, state: Path) -> None:
    run("allow", "add", "acct-1", "--reason", "load test", "--for", "12h", "--by", "ana")
    run("allow", "add", "203.0.113.9/24", "--scope", "cidr", "--reason", "monitors")
    account, network = left(state)
    assert isinstance(account, Allow)
    assert isinstance(network, Allow)
    assert account.by == "ana"
    assert account.expires_at == pytest.approx(time.time() + 12 * 3600, abs=60)
    assert (network.value, network.expires_at) == ("203.0.113.0/24", None)


def test_allow_check_and_list_and_remove(run: Run, state: Path) -> None:
    from responders.allowlist import AllowEntry

    assert run("allow", "check", "203.0.113.9", "--scope", "ip").exit_code == 1
    assert "Nobody" in run("allow", "list").stdout
    store = SqliteStore(state)
    store.allow(AllowEntry(scope="cidr", value="203.0.113.0/24", reason="monitors", by="ana"))
    store.close()
    result = run("allow", "check", "203.0.113.9", "--scope", "ip")
    assert result.exit_code == 0
    assert "203.0.113.0/24, for good: monitors" in result.stdout
    assert json.loads(run("allow", "list", "--json").stdout)["by"] == "ana"
    assert run("allow", "remove", "nobody").exit_code == 1
    assert run("allow", "remove", "203.0.113.0/24", "--scope", "cidr").exit_code == 0
    assert len(left(state)) == 1


@pytest.mark.parametrize("mode", ["enforce", "shadow", "off"])
def test_mode_is_left_for_the_judge(run: Run, state: Path, mode: str) -> None:
    assert run("mode", "show").stdout == "shadow\n"
    assert run("mode", mode).exit_code == 0
    (said,) = left(state)
    assert isinstance(said, SetMode)
    assert said.mode == mode


def test_a_busy_serve_is_said(run: Run, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.cli.deployment._TAKEN_UP_WITHIN_S", 0.1)
    with StateLock(state):
        result = run("mode", "off")
    assert "busy" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("mode", "show", "--state", "nowhere.db"), 1, "there is no such state file"),
        (("allow", "add", "x", "--scope", "ip", "--reason", "r"), 2, "not of scope ip"),
        (("allow", "add", "x", "--scope", "house", "--reason", "r"), 2, "unknown scope 'house'"),
        (("allow", "add", "x", "--reason", "r", "--for", "soon"), 2, "not a time such as"),
        (("decisions", "clear", "x"), 2, "--reason"),
        (("mode", "show", "--state", "a", "--redis", "redis://h"), 2, "give one or the other"),
        (("mode", "show", "--redis", "redis://127.0.0.1:1/0"), 1, "127.0.0.1:1"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_errors_are_clear_and_have_their_exit_code(
    run: Run, state: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr
