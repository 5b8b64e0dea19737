"""`velvetrope policy test`: whom another policy would touch, on a log and on a replay."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from detector import formats
from detector.cli import build
from detector.events import EndOfInput, Event
from detector.judge import Judged, Judgement
from detector.runners.inputs import Inputs
from detector.runners.labels import Label
from detector.runners.policy_test import compare_log
from responders.settings import PolicySettings
from responders.verdict import Verdict
from tests.detector.runners.fakes import FakePipeline, native_line
from tests.responders.making import NOW
from tests.responders.test_policy import verdict

LIMITS = tuple(rung.false_per_1000_week for rung in PolicySettings().rungs())


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def run() -> Callable[..., Result]:
    app = build()
    return lambda *arguments: CliRunner().invoke(app, ["policy", "test", *arguments])


def results(verdicts: Iterable[tuple[float, Verdict]], **requests: int) -> Path:
    """A replay's results that hold these verdicts and accounts."""
    folder = Path("results")
    folder.mkdir()
    judged = [Judged(at=at, limits=LIMITS, verdict=v) for at, v in verdicts]
    rows = [{"account": name, "events": count} for name, count in requests.items()]
    for name, lines in (("verdicts", judged), ("accounts", rows)):
        text = b"\n".join(msgspec.json.encode(line) for line in lines)
        (folder / f"{name}.jsonl").write_bytes(text)
    nominal = {f"{r.action} {r.level}": r.false_per_1000_week for r in PolicySettings().rungs()}
    share = {"nominal": PolicySettings().max_false_share}
    promise = {"nominal_false_per_1000_week": nominal, "max_false_share": share}
    (folder / "summary.json").write_text(json.dumps({"promise": promise}))
    return folder


def policy(text: str) -> str:
    Path("new.toml").write_text(f"[policy]\n{text}\n")
    return "new.toml"


def thief(blocks: int) -> list[tuple[float, Verdict]]:
    """A verdict for each of its blocks, a minute apart, that deserves a block."""
    return [
        (NOW + 60.0 * i, verdict(0.01, value="thief", n_events=32 * (i + 1))) for i in range(blocks)
    ]


def test_a_lower_ceiling_on_a_replays_verdicts(run: Callable[..., Result]) -> None:
    folder = results(thief(5), thief=400, other=100)
    said = run(policy('ceiling = "throttle"'), "--replay", str(folder), "--json")
    assert said.exit_code == 0
    document = json.loads(said.stdout)
    assert (document["accounts"], document["requests"]) == (2, 500)
    (touched,) = document["touched"]
    assert (touched["account"], touched["requests"]) == ("thief", 400)
    assert (touched["current"], touched["new"]) == ("block", "throttle")
    assert touched["current_after"] == touched["new_after"] == 400 - 32
    assert document["newly"] == document["no_longer"] == []


def test_a_delay_moves_when_an_account_is_first_touched(run: Callable[..., Result]) -> None:
    folder = results(thief(2), thief=400)
    said = run(policy("delay_s = 90"), "--replay", str(folder), "--json")
    (touched,) = json.loads(said.stdout)["touched"]
    assert (touched["current_at"], touched["new_at"]) == (NOW, NOW + 90.0)


def test_an_allow_in_the_feedback_counts_for_both(run: Callable[..., Result]) -> None:
    folder = results(thief(5), thief=400)
    allow = {"type": "allow", "id": "f-1", "by": "ann", "scope": "account", "value": "thief"}
    Path("said.jsonl").write_text(json.dumps({**allow, "reason": "partner"}))
    said = run(policy("delay_s = 0"), "--replay", str(folder), "--feedback", "said.jsonl", "--json")
    assert json.loads(said.stdout)["touched"] == []


def test_the_table_says_who_and_how_much(run: Callable[..., Result]) -> None:
    folder = results(thief(5), thief=400, other=100)
    said = run(policy('ceiling = "observe"'), "--replay", str(folder))
    assert said.exit_code == 0
    rows = [line.split() for line in said.stdout.splitlines()]
    assert ["accounts", "enforced,", "of", "2", "1", "0"] in rows
    assert ["requests", "under", "enforcement,", "of", "500", "368", "0"] in rows
    assert ["thief", "400", "block", "allow", "368", "0"] in rows


@pytest.mark.parametrize(
    "text", ["false_per_1000_week = 2", "max_false_share = 0.2", 'ladder = [{action = "observe", '
             "false_per_1000_week = 1.0}]"]
)  # fmt: skip
def test_thresholds_that_move_need_the_log(run: Callable[..., Result], text: str) -> None:
    folder = results(thief(1), thief=400)
    said = run(policy(text), "--replay", str(folder))
    assert said.exit_code == 1
    assert "moves thresholds" in said.stderr
    assert "give the log itself" in said.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("new.toml",), 2, "give logs, or --replay DIR, and not both"),
        (("none.toml", "log"), 2, "none.toml: there is no such file"),
        (("new.toml", "--replay", "nowhere"), 1, "nowhere/verdicts.jsonl: No such file"),
        (("new.toml", "nowhere.jsonl"), 1, "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    run: Callable[..., Result], arguments: tuple[str, ...], code: int, line: str
) -> None:
    policy("delay_s = 0")
    said = run(*arguments)
    assert said.exit_code == code
    assert line in said.stderr
    assert len(said.stderr.splitlines()) == 1


def test_a_damaged_verdict_is_named_by_its_line(run: Callable[..., Result]) -> None:
    folder = results(thief(1), thief=400)
    with (folder / "verdicts.jsonl").open("ab") as file:
        file.write(b"\n{}")
    said = run(policy("delay_s = 0"), "--replay", str(folder))
    assert said.exit_code == 1
    assert "verdicts.jsonl:2:" in said.stderr


@pytest.mark.parametrize("line", [b'{"x": 1}', b'{"account": "\xff"}', b'{"account": 1}'])
def test_a_damaged_account_is_named_by_its_line(run: Callable[..., Result], line: bytes) -> None:
    folder = results(thief(1), thief=400)
    with (folder / "accounts.jsonl").open("ab") as file:
        file.write(b"\n" + line)
    said = run(policy("delay_s = 0"), "--replay", str(folder))
    assert said.exit_code == 1
    assert "accounts.jsonl:2:" in said.stderr


def test_results_of_other_thresholds_are_refused_though_both_policies_agree(
    run: Callable[..., Result],
) -> None:
    folder = results(thief(1), thief=400)
    both = policy("false_per_1000_week = 0.8")
    said = run(both, "--config", both, "--replay", str(folder))
    assert said.exit_code == 1
    assert "the replay was under other thresholds" in said.stderr


class Silent(FakePipeline):
    """Counts, and never decides."""

    def feed(self, events: list[Event | EndOfInput]) -> Judgement:  # type: ignore[override]
        super().feed(events)
        return Judgement()


def test_a_log_is_decided_on_by_both_policies(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(native_line(name, NOW + i) for i in range(25) for name in "ab"))
    compared = compare_log(
        Inputs([log]),
        formats.get("native"),
        Silent(),  # type: ignore[arg-type]
        FakePipeline(),  # type: ignore[arg-type]
        labels={"a": Label(harvesting=False)},
    )
    assert (compared.accounts, compared.requests) == (2, 50)
    assert [one.account for one in compared.newly] == ["a", "b"]
    assert [one.harvesting for one in compared.touched] == [False, None]
    assert [one.new_after for one in compared.touched] == [15, 15]


def test_too_many_newly_touched_customers_are_exit_code_3(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = iter([Silent(), FakePipeline()] * 4)
    monkeypatch.setattr("detector.cli.policy.make_pipeline", lambda settings: next(made))
    Path("log").write_bytes(b"".join(native_line("a", NOW + i) for i in range(20)))
    Path("labels.json").write_text('{"a": true}')
    new = policy("delay_s = 0")
    assert run(new, "log").exit_code == 0
    too_many = run(new, "log", "--at-most", "0")
    assert too_many.exit_code == 3
    assert "1 accounts are newly enforced against, 0 may be" in too_many.stderr
    # Of those that the labels say harvest, any number may be.
    assert run(new, "log", "--at-most", "0", "--labels", "labels.json").exit_code == 0
    # One that the labels do not know may be a customer.
    Path("labels.json").write_text('{"b": true}')
    assert run(new, "log", "--at-most", "0", "--labels", "labels.json").exit_code == 3
