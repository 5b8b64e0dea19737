"""`input_sketch`: what a gateway tells of a text that it keeps to itself (docs/sketch.md)."""

from __future__ import annotations

import binascii
import struct
from typing import Final

from features.kernels import SKETCH_BYTES

__all__ = ["BadSketch", "decode_sketch"]

_PREFIX: Final = "1."
_CHARACTERS: Final = len(_PREFIX) + (SKETCH_BYTES * 4 + 2) // 3
_COUNTS: Final = struct.Struct("<5x5I")
_MOST_ENTROPY: Final = 8 << 24
_STANDARD: Final = str.maketrans("-_+/", "+/??")


class BadSketch(ValueError):
    """A sketch that cannot be read; the text says why."""


def decode_sketch(text: str) -> bytes:
    """The 361 bytes of a sketch of version 1. Raises BadSketch."""
    if not text.startswith(_PREFIX):
        raise BadSketch(f"input_sketch {text[:8]!r}…: not of version 1, which begins with 1.")
    if len(text) != _CHARACTERS:
        raise BadSketch(f"input_sketch has {len(text)} characters, not {_CHARACTERS}")
    try:
        encoded = text[len(_PREFIX) :].translate(_STANDARD) + "=="
        sketch = binascii.a2b_base64(encoded, strict_mode=True)
    except (binascii.Error, ValueError):
        raise BadSketch("input_sketch is not base64url after its version") from None
    length, words, function, odd, entropy = _COUNTS.unpack_from(sketch)
    if not length >= words >= function >= odd:
        raise BadSketch(
            f"input_sketch has {length} bytes, {words} words, {function} function words, "
            f"{odd} after an article: none can be more than the one before"
        )
    if entropy > _MOST_ENTROPY:
        raise BadSketch("input_sketch has an entropy of more than 8 bits a byte")
    return sketch
