"""Keyrings: what a key derives, what is published of it, and which files are refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from velvetrope_client.keys import BadKeys, Key, Keyring

KEY = Key("2026-11", bytes(range(32)))


def ring(*entries: object) -> str:
    return json.dumps({"format": 1, "keys": list(entries)})


def entry(name: str, secret: bytes = b"s" * 32) -> dict[str, str]:
    return {"id": name, "secret": base64.b64encode(secret).decode()}


def test_derive_is_hmac_sha256_over_length_prefixed_strings() -> None:
    framed = b"".join(
        struct.pack(">Q", len(part)) + part for part in (b"watermark", b"acct-1", b"x")
    )
    expected = hmac.new(bytes(range(32)), framed, hashlib.sha256).digest()
    assert KEY.derive("watermark", "acct-1", "x") == expected


@given(st.lists(st.text(), min_size=1, max_size=4), st.lists(st.text(), min_size=1, max_size=4))
def test_different_parts_derive_different_bytes(one: list[str], other: list[str]) -> None:
    assert (KEY.derive(*one) == KEY.derive(*other)) == (one == other)


def test_lone_surrogates_are_inputs_like_others() -> None:
    assert KEY.derive("p", "\ud800") != KEY.derive("p", "\udbff")


def test_the_commitment_hashes_a_label_the_id_and_the_secret() -> None:
    label = b"velvetrope key commitment 1"
    framed = struct.pack(">Q", len(label)) + label + struct.pack(">Q", 7) + b"2026-11"
    expected = hashlib.sha256(framed + bytes(range(32))).hexdigest()
    assert KEY.commitment == f"sha256:{expected}"


def test_a_key_under_another_id_has_another_commitment() -> None:
    assert Key("a", KEY.secret).commitment != Key("b", KEY.secret).commitment


def test_a_secret_is_in_no_repr() -> None:
    keyring = Keyring((Key("k", b"0123456789abcdef0123456789abcdef"),))
    assert "0123456789" not in f"{keyring!r} {keyring.current!r}"


def test_a_keyring_reads_what_it_wrote() -> None:
    keyring = Keyring.new("old").rotated("new")
    assert list(Keyring.parse(keyring.dump())) == list(keyring)


def test_the_newest_key_is_the_current_one() -> None:
    assert Keyring.parse(ring(entry("new"), entry("old"))).current.id == "new"


def test_rotation_keeps_the_older_key() -> None:
    keyring = Keyring.new("old")
    assert keyring.rotated("new").get("old") == keyring.current


def test_an_unknown_id_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Keyring.new("a").get("b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5000, "not JSON"),
        ("[]", 'expected {"format": 1'),
        ('{"format": 2, "keys": []}', 'expected {"format": 1'),
        ('{"format": 1, "keys": {}}', "keys: expected a list"),
        (ring(), "at least one key"),
        (ring("a"), r"keys\[0\]: expected an object"),
        (ring(entry("a"), {"secret": "x"}), r"keys\[1\]\.id: expected text"),
        (ring({"id": "a"}), r"keys\[0\]\.secret: expected base64"),
        (ring({"id": "a", "secret": "%%%"}), r"keys\[0\]\.secret: not base64"),
        (ring({"id": "a", "secret": "é"}), r"keys\[0\]\.secret: not base64"),
        (ring(entry("a", b"short")), r"keys\[0\]: key a: a secret has 32 bytes, this one 5"),
        (ring(entry("a b")), "letters, digits"),
        (ring(entry("a"), entry("a")), "a is there twice"),
    ],
)
def test_a_bad_keyring_is_refused_with_what_and_where(text: str, said: str) -> None:
    with pytest.raises(BadKeys, match=said):
        Keyring.parse(text)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_bytes(b"\xff")
    with pytest.raises(BadKeys, match=r"keys\.json: not UTF-8"):
        Keyring.load(tmp_path / "keys.json")


def test_no_error_quotes_a_secret() -> None:
    with pytest.raises(BadKeys) as raised:
        Keyring.parse(ring(entry("a", b"hunter2-hunter2")))
    assert base64.b64encode(b"hunter2-hunter2").decode() not in str(raised.value)
