"""Replay writes the files of contract 4, whatever the bytes are."""

from __future__ import annotations

import gzip
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from detector import formats
from detector.runners.inputs import STDIN, Inputs
from detector.runners.labels import BadLabels, Label, read_labels
from detector.runners.replay import Replayed, read_feedback, replay
from responders.feedback import BadFeedback
from tests.detector.runners.fakes import FakePipeline, native_line

NATIVE = formats.get("native")


def run(tmp_path: Path, *inputs: bytes, **options: Any) -> tuple[Replayed, Path]:
    files = []
    for number, content in enumerate(inputs):
        files.append(tmp_path / f"log{number}")
        files[-1].write_bytes(content)
    out = tmp_path / "out"
    return replay(Inputs(files), out, FakePipeline(), NATIVE, **options), out  # type: ignore[arg-type]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def events(account: str, n: int, start: float = 1000.0) -> bytes:
    return b"".join(native_line(account, start + i) for i in range(n))


def test_the_four_files_say_what_happened(tmp_path: Path) -> None:
    replayed, out = run(tmp_path, events("b", 20) + events("a", 5))
    assert [d["value"] for d in lines(out / "decisions.jsonl")] == ["b", "b"]
    a, b = lines(out / "accounts.jsonl")
    assert a == {
        "account": "a", "events": 5, "blocks": 0, "score": None, "e_value": 0.0, "action": None,
        "first_enforced_at": None, "events_before_enforcement": None, "campaign": None,
    }  # fmt: skip
    assert b == {
        "account": "b", "events": 20, "blocks": 2, "score": 1.5, "e_value": 20.0,
        "action": "throttle", "first_enforced_at": 1009.0, "events_before_enforcement": 10,
        "campaign": None,
    }  # fmt: skip
    assert lines(out / "campaigns.jsonl") == []
    summary = json.loads((out / "summary.json").read_text())
    assert summary == replayed.summary
    assert {k: summary[k] for k in ("events", "accounts", "dead_letters", "promise")} == {
        "events": 25, "accounts": 2, "dead_letters": 0, "promise": {"baseline": "fake"},
    }  # fmt: skip
    assert summary["wall_seconds"] >= 0
    assert summary["events_per_second"] > 0


def test_campaigns_are_those_that_stand_at_the_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(events("a", 10) + events("b", 20, 2000.0) + events("c", 1) + events("d", 1))
    pipeline = FakePipeline()
    for account in "abc":
        pipeline.judge.campaigns.watch(account, {"link:payment:1": 1})
    out = tmp_path / "out"
    replay(Inputs([log]), out, pipeline, NATIVE)
    (campaign,) = lines(out / "campaigns.jsonl")
    assert campaign["members"] == ["a", "b", "c"]
    assert (campaign["action"], campaign["first_enforced_at"]) == ("throttle", 1009.0)
    assert campaign["e_value"] == 20.0
    members = [a["account"] for a in lines(out / "accounts.jsonl") if a["campaign"]]
    assert members == ["a", "b", "c"]


def test_several_files_are_one_log(tmp_path: Path) -> None:
    _, out = run(tmp_path, events("a", 6), gzip.compress(events("a", 4, 2000.0)))
    (decision,) = lines(out / "decisions.jsonl")
    assert decision["issued_at"] == 2003.0


def test_stdin_is_an_input(tmp_path: Path) -> None:
    inputs = Inputs([STDIN], io.BytesIO(events("a", 10)))
    replayed = replay(inputs, tmp_path / "out", FakePipeline(), NATIVE)
    assert replayed.summary["decisions"] == 1


def test_a_last_line_without_a_line_end_counts(tmp_path: Path) -> None:
    replayed, _ = run(tmp_path, events("a", 3).rstrip())
    assert replayed.summary["events"] == 3


BAD = {
    "truncated JSON": b'{"ts": 1, "account": "a"',
    "wrong type": b'{"ts": 1, "account": 5}',
    "NaN": b'{"ts": NaN, "account": "a"}',
    "invalid UTF-8": b'{"ts": 1, "account": "a", "input": "\xff"}',
    "2 MiB line": b'{"ts": 1, "account": "a", "input": "' + b"x" * (2 << 20) + b'"}',
    "binary": bytes(range(11, 256)),
    "a time in 2090": b'{"ts": 3786912000, "account": "a"}',
    "empty account": b'{"ts": 1, "account": ""}',
    "no account": b'{"ts": 1}',
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_input_goes_to_dead_letters_and_the_rest_counts(tmp_path: Path, bad: bytes) -> None:
    before = events("a", 5)
    replayed, out = run(tmp_path, before + bad + b"\n" + events("a", 5, 2000.0))
    assert (replayed.summary["events"], replayed.summary["decisions"]) == (10, 1)
    (letter,) = lines(out / "dead-letters.jsonl")
    assert letter["source"] == str(tmp_path / "log0")
    assert letter["position"] == len(before)
    assert letter["error"]
    assert abs(letter["read_at"] - time.time()) < 60
    assert len(letter["record"]) <= 2048
    assert "xxx" not in letter["record"]


def test_every_kind_of_bad_input_at_once_keeps_its_position(tmp_path: Path) -> None:
    content = b"".join(bad.replace(b"\n", b"") + b"\n\n" + events("a", 1) for bad in BAD.values())
    replayed, out = run(tmp_path, content)
    assert replayed.summary["events"] == len(BAD)
    letters = lines(out / "dead-letters.jsonl")
    starts = [letter["position"] for letter in letters]
    assert len(letters) == len(BAD)
    assert starts == sorted(starts)
    for start, bad in zip(starts, BAD.values(), strict=True):
        assert content[start:].startswith(bad.replace(b"\n", b"")[:20])


def test_an_input_that_breaks_off_is_reported_and_the_rest_is_judged(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(gzip.compress(events("a", 2000))[:-30])
    replayed = replay(Inputs([log]), tmp_path / "out", FakePipeline(), NATIVE)
    assert replayed.unreadable is not None
    assert "damaged gzip data" in replayed.unreadable
    assert 0 < replayed.summary["events"] < 2000
    assert json.loads((tmp_path / "out/summary.json").read_text())["unreadable"]


def test_labels_give_recall_and_false_alarms_by_group(tmp_path: Path) -> None:
    log = b"".join(events(a, 10 if a in ("t1", "c1") else 3) for a in ("t1", "t2", "c1", "c2"))
    labels = {
        "t1": Label(True, "wiki"), "t2": Label(True, "wiki"), "c1": Label(False, "people"),
        "c2": Label(False), "not in the log": Label(True, "wiki"),
    }  # fmt: skip
    replayed, _ = run(tmp_path, log, labels=labels)
    found = [(g.group, g.harvesting, g.accounts, g.enforced) for g in replayed.groups]
    assert found == [
        ("wiki", True, 2, 1), ("customers", False, 1, 0), ("people", False, 1, 1)
    ]  # fmt: skip
    assert replayed.summary["labels"]["recall"] == 0.5
    assert replayed.summary["labels"]["false_per_1000"] == 500.0


def test_labels_are_booleans_or_objects(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    file.write_text('{"a": true, "b": {"harvesting": false, "group": "apps"}}')
    assert read_labels(file) == {"a": Label(True), "b": Label(False, "apps")}
    file.write_text('{"a": "yes"}')
    with pytest.raises(BadLabels, match=r"labels\.json: "):
        read_labels(file)


def test_commands_are_given_to_the_pipeline_in_the_order_of_their_times(tmp_path: Path) -> None:
    said = tmp_path / "said.jsonl"
    said.write_text(
        '{"type": "clear", "id": "f2", "by": "me", "at": 1005, "scope": "account", "value": "a",'
        ' "reason": "partner"}\n\n'
        '{"type": "mode", "id": "f1", "by": "me", "mode": "enforce"}\n'
    )
    log = tmp_path / "log"
    log.write_bytes(events("a", 1))
    pipeline = FakePipeline()
    replay(Inputs([log]), tmp_path / "out", pipeline, NATIVE, feedback=read_feedback(said))
    assert pipeline.commands == ["f1", "f2"]


def test_a_command_that_is_none_names_its_line(tmp_path: Path) -> None:
    said = tmp_path / "said.jsonl"
    said.write_text('{"type": "mode", "id": "f1", "by": "me", "mode": "enforce"}\n{"type": "x"}\n')
    with pytest.raises(BadFeedback, match=r"said\.jsonl:2: "):
        read_feedback(said)
