"""Sketches of inputs: against the test vectors, and against what the detector reads of the text."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from velvetrope_client.keys import Key
from velvetrope_client.sketch import Sketcher

from detector.sketches import BadSketch, decode_sketch
from features.kernels import head_tail, read_sketch, read_text
from features.signs import SIGNS
from tests.features import signs_in_python

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "sketch_vectors.json").read_text(encoding="utf-8")
)
KEY = bytes.fromhex(VECTORS["key"])


def raw(vector: dict[str, str]) -> bytes:
    if "base64" in vector:
        return base64.b64decode(vector["base64"])
    return vector["text"].encode()


def from_text(data: bytes) -> tuple[Any, ...]:
    """What the detector reads of a text: the numbers that a hash has no part in."""
    buf = np.frombuffer(data, np.uint8)
    counts, sums = np.zeros(256, np.int64), np.zeros(128)
    seen, minhash = np.zeros(16, np.uint64), np.full(16, 0xFFFFFFFF, np.uint32)
    entropy, words, _, _, _, signs, function, odd = read_text(
        buf, 0, len(data), counts, sums, seen, minhash
    )
    return pytest.approx(entropy, abs=2**-24), words, signs, function, odd, len(data)


def from_sketch(sketch: str) -> tuple[Any, ...]:
    buf = np.frombuffer(decode_sketch(sketch), np.uint8)
    seen, minhash = np.zeros(16, np.uint64), np.full(16, 0xFFFFFFFF, np.uint32)
    entropy, words, _, _, _, signs, function, odd, length, _, _ = read_sketch(
        buf, 0, np.zeros(128), seen, minhash
    )
    return entropy, words, signs, function, odd, length


@pytest.mark.parametrize("vector", VECTORS["texts"], ids=lambda v: v["name"])
def test_a_vector_gives_its_sketch(vector: dict[str, str]) -> None:
    assert Sketcher(KEY).sketch(raw(vector)) == vector["sketch"]


@pytest.mark.parametrize("vector", VECTORS["texts"], ids=lambda v: v["name"])
def test_what_has_no_hash_in_it_is_as_of_the_text(vector: dict[str, str]) -> None:
    assert from_sketch(vector["sketch"]) == from_text(raw(vector))


@given(st.binary(max_size=300) | st.text("tThe an of?! \nAZ9éx", max_size=80).map(str.encode))
@settings(deadline=None)
def test_any_bytes_give_the_same_numbers_as_the_text(data: bytes) -> None:
    assert from_sketch(Sketcher(KEY).sketch(data)) == from_text(data)


def test_the_key_is_derived_as_the_specification_says() -> None:
    secret = base64.b64decode(VECTORS["secret"])
    framed = (6).to_bytes(8, "big") + b"sketch"
    assert hmac.new(secret, framed, hashlib.sha256).digest() == KEY
    assert Key("any", secret).derive("sketch") == KEY


def test_the_hashes_of_a_word_count_where_the_specification_says() -> None:
    h = hmac.new(KEY, b"\x01hello", hashlib.sha256).digest()
    sketch = decode_sketch(Sketcher(KEY).sketch("Hello hello"))
    sums = np.frombuffer(sketch[41:169], np.int8)
    assert np.flatnonzero(sums).tolist() == [h[0] % 128]
    assert sums[h[0] % 128] == (2 if h[0] >= 128 else -2)
    bits = np.unpackbits(np.frombuffer(sketch[169:297], np.uint8), bitorder="little")
    assert np.flatnonzero(bits).tolist() == [(h[1] + 256 * h[2]) % 1024]
    smallest = np.frombuffer(sketch[297:], "<u4")
    assert smallest[h[3] % 16] == int.from_bytes(h[4:8], "little")
    assert (smallest == 0xFFFFFFFF).sum() == 15


def test_sums_beyond_a_byte_are_scaled_to_it() -> None:
    # 300 times one word, 100 times another: 127 and 42.
    sketch = decode_sketch(Sketcher(KEY).sketch("one: " + "translate " * 300 + "question " * 100))
    sums = np.abs(np.frombuffer(sketch[41:169], np.int8).astype(int))
    assert sorted(sums[sums > 0].tolist()) == [42, 127]


def test_another_key_gives_nothing_alike() -> None:
    text = "Write a list of examples of photosynthesis in everyday life"
    ours, theirs = (decode_sketch(Sketcher(bytes([k] * 32)).sketch(text)) for k in (1, 2))
    assert ours[1:5] != theirs[1:5]
    assert ours[25:41] != theirs[25:41]
    sums = [np.frombuffer(s[41:169], np.int8).astype(float) for s in (ours, theirs)]
    cosine = sums[0] @ sums[1] / np.linalg.norm(sums[0]) / np.linalg.norm(sums[1])
    assert abs(cosine) < 0.4


def test_the_lists_are_those_of_the_detector() -> None:
    source = Path(__file__).parents[2] / "sdk" / "velvetrope_client" / "words.json"
    lists = json.loads(source.read_text(encoding="utf-8"))
    assert lists == {
        "signs": list(SIGNS),
        "opening": signs_in_python.opening(),
        "anywhere": signs_in_python.anywhere(),
        "pairs": signs_in_python.pairs(),
        "articles": signs_in_python.articles(),
        "function_words": signs_in_python.functions(),
    }


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, this one 31"):
        Sketcher(bytes(31))


GOOD = Sketcher(KEY).sketch("What is it?")


@pytest.mark.parametrize(
    ("sketch", "error"),
    [
        ("2" + GOOD[1:], "not of version 1"),
        (GOOD[:-1], "483 characters, not 484"),
        ("1.+" + GOOD[3:], "not base64url"),
        ("1.é" + GOOD[3:], "not base64url"),
        (
            "1." + base64.urlsafe_b64encode(bytes(9) + b"\x01" + bytes(351)).decode().rstrip("="),
            "0 bytes, 1 words",
        ),
        (
            "1." + base64.urlsafe_b64encode(bytes(24) + b"\x09" + bytes(336)).decode().rstrip("="),
            "more than 8 bits",
        ),
    ],
)
def test_what_is_no_sketch_is_refused_with_the_reason(sketch: str, error: str) -> None:
    with pytest.raises(BadSketch, match=error):
        decode_sketch(sketch)


def test_the_hash_of_the_head_is_that_of_forty_bytes() -> None:
    one, other = (decode_sketch(Sketcher(KEY).sketch("x" * 40 + end)) for end in ("a", "b"))
    assert one[33:37] == other[33:37]
    assert one[37:41] != other[37:41]
    buf = np.frombuffer(b"x" * 40 + b"ax" * 40, np.uint8)
    assert head_tail(buf, 0, 41)[0] == head_tail(buf, 0, 60)[0]
