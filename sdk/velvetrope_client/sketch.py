"""Sketches of inputs, version 1: what velvetrope reads of a text, without the text.

A sketch goes into an access event as `input_sketch`, in place of `input`. It holds counts, and
hashes under a key that only gateways have, so that whoever reads the log cannot look a text or a
word up. `docs/sketch.md` is the specification; `tests/sdk/sketch_vectors.json` has test vectors.
"""

from __future__ import annotations

import base64
import hmac
import json
import math
import re
import struct
from collections import Counter
from functools import cache
from importlib import resources
from typing import Any, Final

__all__ = ["PREFIX", "SIZE", "Sketcher"]

PREFIX: Final = "1."  # the version
SIZE: Final = 361  # bytes, before base64url
_HEAD_BYTES: Final = 40
_TAIL_BYTES: Final = 24
_LOWER: Final = bytes(range(65)) + bytes(range(97, 123)) + bytes(range(91, 256))
_WORD: Final = re.compile(rb"[0-9a-z\x80-\xff]{1,32}")
_VISIBLE: Final = re.compile(rb"[^\x00-\x20]")
_KEY, _OF_WORD, _OF_TEXT, _OF_HEAD, _OF_TAIL = (bytes([tag]) for tag in range(5))
_FIXED: Final = struct.Struct("<B4sIIIII8s4s4s")
_MOST: Final = 2**32 - 1
_MIN_SUMMED: Final = 4  # bytes of a word that counts in the sums
_REMEMBERED: Final = 65_536  # words
_ARTICLE: Final = 1 << 16
_FUNCTION: Final = 1 << 17


class Sketcher:
    """Makes sketches under one key.

    Args:
        key: 32 bytes, the same at every gateway: `Keyring.load(path).current.derive("sketch")`.

    >>> len(Sketcher(bytes(32)).sketch("What is the capital of France?"))
    484
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError(f"the key of sketches has 32 bytes, this one {len(key)}")
        self._key = key
        self._tag = self._hash(_KEY, b"")[:4]
        self._words: dict[bytes, tuple[int, int, int, int, int]] = {}

    def sketch(self, text: str | bytes) -> str:
        """The sketch of a text: 484 characters. Text is UTF-8; a lone surrogate becomes `?`."""
        data = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
        words = _WORD.findall(data.translate(_LOWER))
        signs, function, odd = _read(words, data)
        sums, bitmap, smallest = self._fold(words)
        fixed = _FIXED.pack(
            signs,
            self._tag,
            min(len(data), _MOST),
            min(len(words), _MOST),
            min(function, _MOST),
            min(odd, _MOST),
            _entropy(data),
            self._hash(_OF_TEXT, data)[:8],
            self._hash(_OF_HEAD, data[:_HEAD_BYTES])[:4],
            self._hash(_OF_TAIL, data[-_TAIL_BYTES:])[:4],
        )
        body = fixed + sums + bitmap + smallest
        return PREFIX + base64.urlsafe_b64encode(body).rstrip(b"=").decode()

    def _hash(self, tag: bytes, data: bytes) -> bytes:
        return hmac.digest(self._key, tag + data, "sha256")

    def _fold(self, words: list[bytes]) -> tuple[bytes, bytes, bytes]:
        """The sums (int8, 128), the bitmap (1,024 bits) and the MinHash (uint32, 16)."""
        sums = [0] * 128
        bitmap = bytearray(128)
        smallest = [_MOST] * 16
        for word, count in Counter(words).items():
            dim, sign, bit, bucket, value = self._places(word)
            if len(word) >= _MIN_SUMMED:
                sums[dim] += sign * count
            bitmap[bit >> 3] |= 1 << (bit & 7)
            if value < smallest[bucket]:
                smallest[bucket] = value
        most = max(map(abs, sums))
        if most > 127:
            sums = [int(total * 127 / most) for total in sums]
        return struct.pack("<128b", *sums), bytes(bitmap), struct.pack("<16I", *smallest)

    def _places(self, word: bytes) -> tuple[int, int, int, int, int]:
        """Where a word counts: dimension, sign, bit, bucket and its value there."""
        places = self._words.get(word)
        if places is None:
            h = self._hash(_OF_WORD, word)
            places = (
                h[0] & 127,
                1 if h[0] & 128 else -1,
                (h[1] | h[2] << 8) & 1023,
                h[3] & 15,
                int.from_bytes(h[4:8], "little"),
            )
            if len(self._words) >= _REMEMBERED:
                self._words.clear()
            self._words[word] = places
        return places


def _read(words: list[bytes], data: bytes) -> tuple[int, int, int]:
    """Signs of how a text is put, function words, and those that follow an article."""
    lists, pairs, asks = _lists()
    signs = function = odd = 0
    article = False
    before = b""
    for word in words:
        known = lists.get(word, 0)
        signs |= known >> 8 & 255
        if not before:
            signs |= known & 255
        else:
            signs |= pairs.get((before, word), 0)
        if known & _FUNCTION:
            function += 1
            odd += article
        article = bool(known & _ARTICLE)
        before = word
    visible = _VISIBLE.findall(data[-256:]) or _VISIBLE.findall(data)
    if visible and visible[-1] == b"?":
        signs |= asks
    return signs, function, odd


def _entropy(data: bytes) -> int:
    """Bits a byte, in units of 2^-24, the nearest."""
    if not data:
        return 0
    counts = Counter(data)
    total = sum(counts[byte] * math.log2(counts[byte]) for byte in sorted(counts))
    return int(max(0.0, math.log2(len(data)) - total / len(data)) * 2**24 + 0.5)


@cache
def _lists() -> tuple[dict[bytes, int], dict[tuple[bytes, bytes], int], int]:
    """Words and pairs with their bits, and the bit of a question.

    The low byte of a word is what it says where a text opens, the next what it says anywhere.
    """
    text = (resources.files("velvetrope_client") / "words.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    bit = {name: 1 << i for i, name in enumerate(document["signs"])}
    words: dict[bytes, int] = {}
    pairs: dict[tuple[bytes, bytes], int] = {}
    for shift, group in ((0, "opening"), (8, "anywhere")):
        for sign, entries in document[group].items():
            for word in entries:
                words[word.encode()] = words.get(word.encode(), 0) | bit[sign] << shift
    for name, entries in (
        (_ARTICLE, document["articles"]),
        (_FUNCTION, document["function_words"]),
    ):
        for word in entries:
            words[word.encode()] = words.get(word.encode(), 0) | name
    for sign, entries in document["pairs"].items():
        for entry in entries:
            first, second = entry.encode().split()
            pairs[first, second] = pairs.get((first, second), 0) | bit[sign]
    return words, pairs, bit["asks"]
