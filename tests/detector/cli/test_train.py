"""`velvetrope train`: a labelled log becomes models that replay takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from detector.cli import build
from detector.cli.train import print_trained
from detector.runners.labels import Label
from detector.runners.train import Trained, labelled
from detector.score import TextModels, shipped
from responders.feedback import Allow, Clear, Feedback


def run(*arguments: object) -> Result:
    return CliRunner().invoke(build(), [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample")
    made = run("sample", "--out", out, "--day", 1, "--customers", 130, "--thieves", 110)
    assert made.exit_code == 0, made.output
    return out


def test_models_of_ones_own_are_trained_and_used(day: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.npz"
    log, labels = day / "day1.jsonl", day / "labels1.json"
    made = run("train", log, "--labels", labels, "--out", out, "--name", "mine")
    assert made.exit_code == 0, made.output
    assert "nobody is rarer than 1 in" in made.output
    models = TextModels.load(out)
    assert models.name == "mine"
    about = models.about
    assert about["customers_in_reference"] == len(models.reference) >= 20
    known = {name: label["harvesting"] for name, label in json.loads(labels.read_text()).items()}
    assert about["harvesting"] < sum(known.values())  # the other half sets the thresholds
    assert about["customers"] + len(models.reference) <= len(known) - sum(known.values())
    replayed = run("replay", log, "--models", out, "--out", tmp_path / "results")
    assert replayed.exit_code == 0, replayed.output
    assert (tmp_path / "results" / "summary.json").exists()


def test_too_few_labels_say_how_many_there_are(day: Path, tmp_path: Path) -> None:
    labels = tmp_path / "few.json"
    known: dict[str, Any] = json.loads((day / "labels1.json").read_text())
    labels.write_text(json.dumps(dict(list(known.items())[:10])))
    made = run("train", day / "day1.jsonl", "--labels", labels, "--out", tmp_path / "own.npz")
    assert made.exit_code == 1
    assert "at least 20 of each are needed" in made.output
    assert not (tmp_path / "own.npz").exists()


@pytest.mark.parametrize(("recalled", "kept"), [(0, True), (1, False)])
def test_models_that_catch_nobody_are_advised_against(
    capsys: pytest.CaptureFixture[str], recalled: int, kept: bool
) -> None:
    models = shipped()
    made = Trained(models, 9, 0, {True: 30, False: 1200}, {True: (recalled, 30), False: (1, 1200)})
    print_trained(made, Path("own.npz"))
    said = capsys.readouterr()
    assert ("worse than none. Keep the shipped models." in said.err) == kept
    assert ("To use it" in said.out) != kept


def test_whom_analysts_cleared_is_a_customer() -> None:
    labels = {"a": Label(True, "thieves"), "b": Label(True, "thieves"), "c": Label(True, "x")}
    said: list[Feedback] = [
        Clear(id="1", by="ann", value="a", scope="account", reason="a demo"),
        Allow(id="2", by="ann", value="b", scope="account", reason="a test"),
        Allow(id="3", by="ann", value="c", scope="api_key", reason="a test"),
    ]
    found = labelled(labels, said)
    assert [found[name].harvesting for name in "abc"] == [False, False, True]
