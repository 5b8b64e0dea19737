from __future__ import annotations

import hashlib

import pytest

from responders.gateways.caller import key_scope, plain_path


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/v1/chat", "/v1/chat"),
        ("/v1/chat/?a=/b", "/v1/chat/"),
        ("/v1/chat#x", "/v1/chat"),
        ("/v1/chat%23x", "/v1/chat#x"),
        ("/v1/%63hat", "/v1/chat"),
        ("/v1/%2563hat", "/v1/%63hat"),
        ("//v1///chat", "/v1/chat"),
        ("/v1/x/../chat", "/v1/chat"),
        ("/v1/x/%2e%2E/chat", "/v1/chat"),
        ("/../../v1/./chat/.", "/v1/chat/"),
        ("/.well-known/x", "/.well-known/x"),
        ("https://host/v1/chat?x", "/v1/chat"),
        ("/", "/"),
        ("/..", "/"),
    ],
)
def test_a_path_has_one_spelling(uri: str, path: str) -> None:
    assert plain_path(uri) == path


def test_a_decoded_path_is_not_decoded_again() -> None:
    assert plain_path("/v1//%63hat?", decoded=True) == "/v1/%63hat?"


@pytest.mark.parametrize("field", [b"k", b"Bearer k", b"bearer\tk", b" BEARER \t k "])
def test_a_key_is_the_same_however_it_is_brought(field: bytes) -> None:
    assert key_scope(field) == "sha256:" + hashlib.sha256(b"k").hexdigest()


@pytest.mark.parametrize("field", [b"", b"Bearer", b"Bearer \t"])
def test_no_key_is_none(field: bytes) -> None:
    assert key_scope(field) is None
