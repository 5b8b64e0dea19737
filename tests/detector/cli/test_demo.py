"""`velvetrope demo` and `velvetrope sample`, as a stranger runs them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from detector.cli import build


def velvetrope(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "detector.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300.0,
        check=False,
    )


def test_sample_writes_a_log_and_its_labels(tmp_path: Path) -> None:
    said = CliRunner().invoke(
        build(),
        ["sample", "--out", str(tmp_path), "--day", "1", "--customers", "15", "--thieves", "3"],
    )
    assert said.exit_code == 0, said.output
    labels = json.loads((tmp_path / "labels1.json").read_bytes())
    assert sum(label["harvesting"] for label in labels.values()) == 3
    accounts = {json.loads(line)["account"] for line in (tmp_path / "day1.jsonl").open()}
    assert accounts == labels.keys()


def test_sample_says_in_one_line_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = CliRunner().invoke(build(), ["sample", "--out", str(tmp_path / "file" / "folder")])
    assert said.exit_code == 1
    assert said.stderr.startswith("velvetrope: ")
    assert len(said.stderr.splitlines()) == 1


def test_demo_plays_ones_own_log_and_ends(tmp_path: Path) -> None:
    lines = [
        {"ts": 1.77e9 + 40.0 * n, "account": f"acct-{n % 5}", "input": f"what is {n} plus {n}?"}
        for n in range(600)
    ]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = velvetrope("demo", "my.jsonl", "--seconds", "1", "--exit", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "600 events in" in done.stdout
    assert "shipped reference" in done.stdout
    assert "nobody has said which of them harvest" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.jsonl"]


def test_demo_says_in_one_line_what_it_cannot_read(tmp_path: Path) -> None:
    done = velvetrope("demo", "missing.jsonl", "--exit", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "velvetrope: missing.jsonl: No such file or directory\n"


def test_demo_refuses_an_unknown_format_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "my.log").touch()
    done = velvetrope("demo", "my.log", "--format", "ngnix", "--exit", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'nginx'" in done.stderr


def test_demo_catches_the_campaign_of_the_sample(tmp_path: Path) -> None:
    done = velvetrope("demo", "--seconds", "10", "--exit", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    counted = re.search(
        r"Caught (\d+) of (\d+) harvesting accounts; wrongly touched (\d+) of (\d+)", done.stdout
    )
    assert counted is not None, done.stdout
    caught, thieves, wrong, customers = map(int, counted.groups())
    assert (thieves, customers > 300) == (40, True)
    assert caught >= 20
    # 3 of 1,000 in a week is 1 of these at most.
    assert wrong <= 1
