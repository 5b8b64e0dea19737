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
from responders.decisions import Decision, Evidence, Reason, Signal, Tie
from responders.feedback import Allow, Clear, Feedback, SetBaseline, SetMode
from responders.stores.base import Identity
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


def signal(name: str, log_odds: float, weight: float) -> Signal:
    return Signal(
        name=name, value=2.0, typical=(0.0, 1.0), weight=weight, text=f"{name} text",
        log_odds=log_odds,
    )  # fmt: skip


def member(value: str, version: int, *, odds: tuple[float, float], others: int) -> Decision:
    """One of c-7: base -4, and two signals."""
    signals = tuple(
        signal(name, part, part / sum(odds)) for name, part in zip("ab", odds, strict=True)
    )
    evidence = Evidence(
        e_value=40.0,
        signals=signals,
        log_odds=-4.0 + sum(odds),
        base=-4.0,
        false_per_1000_week=0.25,
        counted=False,
        ties=(Tie(plane="payment", weight=0.5, members=others),),
    )
    return decision(value, version, campaign="c-7", evidence=evidence)


def test_explain_shows_a_sum_that_can_be_checked(run: Run, state: Path) -> None:
    store = SqliteStore(state)
    store.apply([member("m-1", 10, odds=(6.0, 2.0), others=3)])
    store.close()
    lines = [line.split() for line in run("explain", "m-1").stdout.splitlines()]
    assert ["a", "2", "0", "to", "1", "+6.00", "75%", "a", "text"] in lines
    assert ["b", "2", "0", "to", "1", "+2.00", "25%", "b", "text"] in lines
    assert any(line[:2] == ["base", "-4.00"] for line in lines)
    assert any(line[:2] == ["evidence", "+4.00"] for line in lines)
    assert any(line[:3] == ["promise", "0.25", "of"] and "modelled" in line for line in lines)
    assert ["tied", "by", "payment,", "with", "3", "other", "members"] in lines


@pytest.mark.parametrize("where", ["state", "replay"])
def test_explain_of_a_campaign_shows_members_ties_and_mean_evidence(
    run: Run, state: Path, where: str
) -> None:
    import msgspec

    made = [
        member("m-2", 10, odds=(1.0, 1.0), others=1),  # replaced by its later one
        member("m-1", 11, odds=(6.0, 2.0), others=3),
        member("m-2", 12, odds=(4.0, 4.0), others=1),
        decision("other", 13, campaign="c-8"),
    ]
    if where == "state":
        store = SqliteStore(state)
        store.apply(made)
        store.close()
        result = run("explain", "c-7")
    else:
        Path("out").mkdir()
        lines = b"".join(msgspec.json.encode(each) + b"\n" for each in made)
        Path("out/decisions.jsonl").write_bytes(lines)
        result = run("explain", "c-7", "--replay", "out")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["campaign", "c-7"] in rows
    assert rows[1][:2] == ["members", "2"]
    assert ["payment", "2", "100%", "3", "others"] in rows
    assert ["a", "+5.00", "62%", "a", "text"] in rows
    assert ["b", "+3.00", "38%", "b", "text"] in rows
    assert any(row[:2] == ["evidence", "+4.00"] for row in rows)
    assert [row[0] for row in rows if row and row[0].startswith("m-")] == ["m-1", "m-2"]
    assert "other" not in [row[0] for row in rows if row]


def test_explain_of_an_unknown_campaign_is_no_error(run: Run, state: Path) -> None:
    result = run("explain", "c-9")
    assert (result.exit_code, result.stdout) == (
        0,
        "No decision was ever made about campaign c-9.\n",
    )


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


@pytest.mark.parametrize(
    ("value", "scope"),
    [
        ("203.0.113.0/24", "cidr"),
        ("203.0.113.9", "ip"),
        ("2001:db8::/32", "cidr"),
        (f"sha256:{64 * 'a'}", "api_key"),
        ("sha256:short", "account"),
        ("ip:203.0.113.9", "account"),
        ("acct-1", "account"),
    ],
)
def test_allow_takes_a_value_for_what_it_looks_like(
    run: Run, state: Path, value: str, scope: str
) -> None:
    result = run("allow", "add", value, "--reason", "monitors")
    assert f"{scope} {value} is allowed." in result.stdout
    assert run("allow", "add", value, "--reason", "r", "--scope", "org").stdout.startswith("org ")


def test_allow_check_and_list_and_remove(run: Run, state: Path) -> None:
    from responders.allowlist import AllowEntry

    assert run("allow", "check", "203.0.113.9", "--scope", "ip").exit_code == 1
    assert "Nobody" in run("allow", "list").stdout
    store = SqliteStore(state)
    store.allow(AllowEntry(scope="cidr", value="203.0.113.0/24", reason="monitors", by="ana"))
    store.close()
    result = run("allow", "check", "203.0.113.9", "--scope", "ip")
    assert result.exit_code == 0
    assert result.stdout == (
        "ip 203.0.113.9 is covered by cidr 203.0.113.0/24 (the address is in the network), "
        "for good by ana: monitors\n"
    )
    assert json.loads(run("allow", "list", "--json").stdout)["by"] == "ana"
    assert run("allow", "remove", "nobody").exit_code == 1
    assert run("allow", "remove", "203.0.113.0/24", "--scope", "cidr").exit_code == 0
    assert len(left(state)) == 1


def test_allow_check_takes_a_value_for_whatever_it_may_be(run: Run, state: Path) -> None:
    from responders.allowlist import AllowEntry

    store = SqliteStore(state)
    store.allow(AllowEntry(scope="org", value="org-7", reason="partner", by="ana"))
    store.set_identity("ab" * 32, Identity(account="acct-7", org="org-7"))
    store.close()
    assert "org org-7 is covered by org org-7" in run("allow", "check", "org-7").stdout
    for name in ("acct-7", "sha256:" + "ab" * 32):
        (covered,) = map(json.loads, run("allow", "check", name, "--json").stdout.splitlines())
        assert (covered["entry"]["value"], covered["entry"]["by"]) == ("org-7", "ana")
    nobody = run("allow", "check", "acct-8")
    assert nobody.exit_code == 1
    assert nobody.stderr == "velvetrope: no entry covers acct-8 as account or api_key or org\n"


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
        (("mode", "on"), 2, "no mode 'on': enforce, shadow or off"),
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


def test_the_baselines_versions_are_listed_from_serve_and_from_a_replay(
    run: Run, state: Path
) -> None:
    from detector.runners.pipeline import Pipeline
    from detector.settings import Settings

    assert "nothing was judged yet" in run("baseline", "list").stderr
    pipeline = Pipeline(Settings())
    store = SqliteStore(state)
    ledger = Ledger(store, state)
    for _ in range(2):  # a full state, and one with changes
        with store.transaction() as db:
            ledger.set_value(db, "pipeline", pipeline.export())
        listed = run("baseline", "list")
        assert "in force: shipped" in listed.stdout
        assert "the reference as it is" in listed.stdout
        assert json.loads(run("baseline", "list", "--json").stdout)["held"] is False
    ledger.close()
    store.close()
    Path("out").mkdir()
    promise = {"promise": pipeline.judge.promise()}
    Path("out/summary.json").write_text(json.dumps(promise))
    assert "in force: shipped" in run("baseline", "list", "--replay", "out").stdout
    Path("out/summary.json").write_text("{}")
    result = run("baseline", "list", "--replay", "out")
    assert (result.exit_code, "not the summary" in result.stderr) == (1, True)


def test_a_baseline_is_taken_back_and_let_go_by_feedback(run: Run, state: Path) -> None:
    assert run("baseline", "rollback", "shipped+2", "--by", "ann").exit_code == 0
    assert run("baseline", "resume").exit_code == 0
    back, follow = left(state)
    assert isinstance(back, SetBaseline)
    assert isinstance(follow, SetBaseline)
    assert (back.version, back.by, follow.version) == ("shipped+2", "ann", None)
