"""Settings: which source wins, and errors that say what, where and what was probably meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detector.configuration import ConfigError, load, rows


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from where the tests happen to run."""
    for name in list(os.environ):
        if name.startswith("VELVETROPE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def toml(text: str, name: str = "velvetrope.toml") -> Path:
    file = Path(name)
    file.write_text(text)
    return file


def refused(**arguments: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(arguments=arguments or None)
    return caught.value.lines


def origin_of(name: str) -> str:
    return next(origin for dotted, _, origin in rows(load()) if dotted == name)


def test_without_any_source_the_defaults_hold() -> None:
    loaded = load()
    assert loaded.settings.judge.tick_s == 0.2
    assert {origin for _, _, origin in rows(loaded)} == {"default"}


def test_a_file_in_the_current_folder_is_read() -> None:
    toml("[judge]\ntick_s = 0.5\n")
    assert load().settings.judge.tick_s == 0.5
    assert origin_of("judge.tick_s") == "velvetrope.toml:2"


def test_a_named_file_is_read_instead() -> None:
    toml("[judge]\ntick_s = 0.5\n")
    assert load(toml("[judge]\ntick_s = 0.7\n", "other.toml")).settings.judge.tick_s == 0.7


def test_the_environment_beats_the_file_and_an_argument_beats_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toml("[judge]\ntick_s = 0.5\n")
    monkeypatch.setenv("VELVETROPE_JUDGE__TICK_S", "0.6")
    assert load().settings.judge.tick_s == 0.6
    assert origin_of("judge.tick_s") == "environment VELVETROPE_JUDGE__TICK_S"
    assert load(arguments={"judge.tick_s": 0.7}).settings.judge.tick_s == 0.7
    assert load(arguments={"judge.tick_s": None}).settings.judge.tick_s == 0.6


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELVETROPE_JUDGE__TICK_S", "")
    assert load().settings.judge.tick_s == 0.2


def test_lists_in_the_environment_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELVETROPE_SERVE__FILES", '["a.log", "b.log"]')
    assert load().settings.serve.files == (Path("a.log"), Path("b.log"))


def test_a_list_that_is_not_json_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELVETROPE_SERVE__FILES", "a.log")
    (line,) = refused()
    assert "VELVETROPE_SERVE" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[judge]\ntick = 1\n", "velvetrope.toml:2: judge.tick is not a setting; "
         "did you mean judge.tick_s?"),
        ("[jugde]\ntick_s = 1\n", "velvetrope.toml:1: jugde is not a setting; did you mean judge?"),
        ("partitions = 4\n", "velvetrope.toml:1: partitions is not a setting; "
         "did you mean measure.partitions?"),
        ("[policy.throttle]\n\nburts = 4\n", "velvetrope.toml:3: policy.throttle.burts is not a "
         "setting; did you mean policy.throttle.burst?"),
        ("[[measure.populations]]\nname = 'a'\nmodel = ['b']\n", "velvetrope.toml:1: "
         "measure.populations[0].model is not a setting; did you mean "
         "measure.populations[0].models?"),
    ],
)  # fmt: skip
def test_an_unknown_key_names_its_place_and_the_nearest_valid_one(text: str, expected: str) -> None:
    toml(text)
    assert refused() == [expected]


def test_an_unknown_variable_names_the_nearest_valid_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELVETROPE_API_PORT", "1")
    assert refused() == [
        "environment: VELVETROPE_API_PORT is not a setting; did you mean VELVETROPE_API__PORT?"
    ]


def test_every_mistake_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    toml("[api]\nport = 70000\nhots = ''\n")
    monkeypatch.setenv("VELVETROPE_JUDGE__TICK_S", "soon")
    lines = refused()
    assert len(lines) == 3
    assert any("api.port = 70000: input should be less than or equal to 65535" in x for x in lines)
    assert any(x.startswith("environment VELVETROPE_JUDGE__TICK_S: judge.tick_s") for x in lines)


def test_a_file_that_is_not_toml_is_one_line() -> None:
    toml("[judge\n")
    (line,) = refused()
    assert line.startswith("velvetrope.toml: ")
    assert "line 1" in line


def test_a_named_file_that_is_missing_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: there is no such file"):
        load(Path("nowhere.toml"))


def test_secrets_come_from_a_named_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("token").write_text("s3cret\n")
    monkeypatch.setenv("VELVETROPE_API__SECRET_FILE", "token")
    secret = load().settings.api.secret
    assert secret is not None
    assert secret.get_secret_value() == "s3cret"
    assert origin_of("api.secret") == "file token (VELVETROPE_API__SECRET_FILE)"


def test_secrets_come_from_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("secrets").mkdir()
    Path("secrets/api__secret").write_text("s3cret")
    Path("secrets/somebody_elses").write_text("x")
    monkeypatch.setenv("VELVETROPE_SECRETS_DIR", "secrets")
    secret = load().settings.api.secret
    assert secret is not None
    assert secret.get_secret_value() == "s3cret"


def test_a_secret_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELVETROPE_API__SECRET_FILE", "token")
    monkeypatch.setenv("VELVETROPE_API__SECRET", "x")
    assert "set one" in refused()[0]


def test_a_secret_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELVETROPE_API__SECRET", "s3cret")
    assert "s3cret" not in str(list(rows(load())))
    toml("[api]\nsecret = 12345678\n", "wrong.toml")
    monkeypatch.delenv("VELVETROPE_API__SECRET")
    with pytest.raises(ConfigError) as caught:
        load(Path("wrong.toml"))
    assert "12345678" not in str(caught.value)


def test_settings_that_contradict_one_another_are_named_and_no_secret_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VELVETROPE_API__LITELLM_ACCOUNT", "org")
    monkeypatch.setenv("VELVETROPE_API__SECRET", "hunter2")
    with pytest.raises(ConfigError) as raised:
        load()
    (line,) = raised.value.lines
    assert line.startswith("settings: api.litellm_account is 'org', but formats.litellm_account")
    assert "hunter2" not in line
