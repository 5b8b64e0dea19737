from __future__ import annotations

import shutil

import pytest

from tests.real_nginx import free_port, nginx

EMPTY = "events {} http { server { listen 127.0.0.1:%d; } }"


def test_a_missing_nginx_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with (
        pytest.raises(RuntimeError, match="nginx is not installed: `apt-get install"),
        nginx("", []),
    ):
        pass


def test_a_refused_configuration_is_named() -> None:
    with pytest.raises(RuntimeError, match='unknown directive "nonsense"'), nginx("nonsense;", []):
        pass


def test_a_replacement_that_replaces_nothing_is_an_error() -> None:
    replace = {"not there": "x"}
    with pytest.raises(RuntimeError, match="not there"), nginx(EMPTY % 1, [], replace):
        pass


def test_it_ends_with_its_block_and_leaves_nothing() -> None:
    port = free_port()
    with nginx(EMPTY % port, [port]) as running:
        assert running.process.poll() is None
    assert running.process.poll() == 0
    assert not running.folder.exists()
