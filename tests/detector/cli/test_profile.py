"""`velvetrope profile`: examples of every form, and errors that say where."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result
from velvetrope_client import profile

from detector.cli import build

ROWS = np.random.default_rng(1).normal(size=(80, 3)).round(4).tolist()


def run(folder: Path, text: str, *options: str) -> Result:
    path = folder / "examples.jsonl"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    out = str(folder / "p.json")
    return CliRunner().invoke(build(), ["profile", str(path), "--out", out, *options])


def test_rows_events_and_blank_lines_make_a_profile(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in ROWS[:40]]
    lines += [json.dumps({"account": "a", "input": row}) for row in ROWS[40:]]
    lines += ["", json.dumps({"account": "a"})]
    result = run(tmp_path, "\n".join(lines))
    assert (result.exit_code, "80 rows of numbers" in result.stdout) == (0, True)
    known = profile.load(tmp_path / "p.json")
    assert known.distance(ROWS[79]) == pytest.approx(0.0, abs=1e-9)


def test_gzipped_texts_make_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    texts = "\n".join(json.dumps(f"order number {n} please") for n in range(60))
    path.write_bytes(gzip.compress(texts.encode()))
    out = tmp_path / "p.json"
    result = CliRunner().invoke(build(), ["profile", str(path), "--out", str(out)])
    assert (result.exit_code, "60 texts" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[1]\n{", r"examples.jsonl:2: not JSON"),
        ("[1]\n" + "[" * 200_000, r"examples.jsonl:2: not JSON"),
        ('[1]\n"\udcff"', r"examples.jsonl:2: not JSON"),
        ("[]", r"examples.jsonl:1: expected a text, numbers, or"),
        (f"[1, {'9' * 400}]\n" * 60, "all texts, or all rows of numbers"),
        ("3", r"examples.jsonl:1: expected a text, numbers, or an object with `input`"),
        ("[1, 2]\n" * 9, "9 examples; a profile needs at least 50"),
        ("[1, 2]\n" * 60 + '"a"', "all texts, or all rows of numbers"),
    ],
)
def test_what_makes_no_profile_is_said(tmp_path: Path, text: str, error: str) -> None:
    result = run(tmp_path, text)
    assert (result.exit_code, error in result.stderr) == (1, True)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    arguments = ["profile", str(tmp_path / "none"), "--out", str(tmp_path / "p")]
    result = CliRunner().invoke(build(), arguments)
    assert (result.exit_code, "none: No such file" in result.stderr) == (1, True)
