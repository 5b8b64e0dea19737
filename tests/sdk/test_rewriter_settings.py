"""The file of what poison does: what it says is what is set, and what is wrong is said where."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from velvetrope_client import profile
from velvetrope_client.keys import Keyring
from velvetrope_client.rewriter_settings import BadSettings, RewriterSettings, check, load


def written(folder: Path, text: str) -> Path:
    (folder / "keys.json").write_text(Keyring.new("k").dump())
    path = folder / "poison.toml"
    path.write_text(text)
    return path


def test_an_empty_file_is_shaping_alone(tmp_path: Path) -> None:
    assert load(written(tmp_path, "")) == RewriterSettings()


def test_a_file_says_everything(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(60, 3)).tolist()
    (tmp_path / "p.json").write_text(profile.dump(profile.fit(rows)))
    text = """
        keys = "keys.json"
        max_body_bytes = 1000
        [guard]
        jailbreak = "block"
        [[endpoint]]
        match = "/v1/classify*"
        shaping = { digits = 2, shorten_from = 0 }
        paths = { classes = ["spam", "ham"], label = ["answer.label"] }
        wrong_answers = { perturb_from = 1, bound = 1, wrong_from = 2, profile = "p.json" }
        watermark = { from_level = 1, rate = 0.002, scale = [1, 2.5], register = "marks" }
        [[endpoint]]
        canaries = { from_level = 3, share = 0.5 }
    """
    settings = load(written(tmp_path, text))
    first, second = settings.endpoints
    assert (settings.max_body_bytes, settings.guard.jailbreak) == (1000, "block")
    assert (first.match, first.shaping.digits, first.shaping.shorten_from) == (
        "/v1/classify*",
        2,
        0,
    )
    assert first.paths.classes == ("spam", "ham")
    assert (first.wrong_answers.wrong_from, first.wrong_answers.bound) == (2, 1.0)
    assert first.wrong_answers.profile is not None
    assert first.wrong_answers.profile.is_far([99.0, 99.0, 99.0])
    assert (first.watermark.rate, first.watermark.scale) == (0.002, (1, 2.5))
    assert (tmp_path / "marks").exists()
    assert (second.match, second.canaries.from_level, second.canaries.share) == ("*", 3, 0.5)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("keys = 3", r"poison\.toml: keys: expected text, not 3"),
        ("key = 'x'", r"key: no such setting; there are keys, "),
        ("[[endpoint]]\nshaping = 1", r"endpoint\[0\]\.shaping: expected a table, not 1"),
        ("[[endpoint]]\nshaping = {digit = 1}", r"endpoint\[0\]\.shaping\.digit: no such setting"),
        ("[[endpoint]]\nshaping = {digits = 9}", r"endpoint\[0\]\.shaping: .*0 to 6, not 9"),
        ("[[endpoint]]\nshaping = {digits = true}", "expected a whole number, not True"),
        ("[[endpoint]]\npaths = {label = ['a..b']}", r"path 'a\.\.b': a step is empty"),
        ("[[endpoint]]\nwrong_answers = {wrong_from = 1}", r"\[0\]\.wrong_answers: .*`profile`"),
        ("[[endpoint]]\ncanaries = {from_level = 1}", "endpoint '\\*': .* need `keys`"),
        ("[[endpoint]]\nwrong_answers = {profile = 'keys.json'}", r"keys\.json: no profile"),
        ("[[endpoint]]\nwatermark = {register = 'x'}", "a register needs `keys`"),
        ("[guard]\njailbreak = 'deny'", "guard.*one of off, block, generic, not 'deny'"),
        ("[[endpoint]]\ncanaries = {share = 2}", r"\[0\]\.canaries: share: .*not 2\.0"),
        ("[[endpoint]]\nwatermark = {rate = 0.1}", r"\[0\]\.watermark: rate: .*not 0\.1"),
        ("x = ", r"poison\.toml: "),
    ],
)
def test_what_is_wrong_is_said_where(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(BadSettings, match=error):
        load(written(tmp_path, text))


def test_a_bad_keyring_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, 'keys = "keys.json"')
    (tmp_path / "keys.json").write_text(json.dumps({"format": 1, "keys": []}))
    with pytest.raises(BadSettings, match=r"poison\.toml: .*keys\.json: .*at least one key"):
        load(path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("keys = 'no.json'", r"poison\.toml: keys: .*/no\.json: No such file"),
        (
            "[[endpoint]]\nwrong_answers = {profile = 'no.json'}",
            r"poison\.toml: endpoint\[0\]\.wrong_answers: profile: .*/no\.json: No such file",
        ),
        (
            "[[endpoint]]\ncanaries = {closings = 'no.json'}",
            r"poison\.toml: endpoint\[0\]\.canaries: closings: .*/no\.json: No such file",
        ),
        (
            "keys = 'keys.json'\n[[endpoint]]\nwatermark = {register = 'no/marks'}",
            r"poison\.toml: endpoint\[0\]\.watermark: register: .*/no/marks: .*no such folder",
        ),
    ],
)
@pytest.mark.parametrize("reads", [load, check])
def test_a_missing_file_is_named_with_its_setting(
    tmp_path: Path, reads: Callable[[Path], object], text: str, error: str
) -> None:
    with pytest.raises(BadSettings, match=error):
        reads(written(tmp_path, text))


def test_a_missing_file_of_settings_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"/poison\.toml: No such file"):
        load(tmp_path / "poison.toml")


def test_checking_creates_no_register(tmp_path: Path) -> None:
    check(written(tmp_path, "keys = 'keys.json'\n[[endpoint]]\nwatermark = {register = 'marks'}"))
    assert not (tmp_path / "marks").exists()


@pytest.mark.parametrize(
    ("module", "text", "error"),
    [
        (
            "numpy",
            "[[endpoint]]\nwrong_answers = {profile = 'p.json'}",
            "poison.toml: endpoint[0].wrong_answers: profile = 'p.json' needs numpy, which is not "
            "installed: install velvetrope-client[profile]",
        ),
        (
            "cryptography",
            "keys = 'keys.json'\n[[endpoint]]\nwatermark = {register = 'marks'}",
            "poison.toml: endpoint[0].watermark: register = 'marks' needs cryptography, which is "
            "not installed: install velvetrope-client[register]",
        ),
    ],
)
def test_an_extra_that_is_not_installed_is_named(
    tmp_path: Path, module: str, text: str, error: str
) -> None:
    code = (
        "import sys; sys.modules[sys.argv[1]] = None\n"  # as if it were not installed
        "from velvetrope_client.rewriter_settings import BadSettings, load\n"
        "try: load(sys.argv[2])\n"
        "except BadSettings as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, module, written(tmp_path, text)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path}/{error}\n"
