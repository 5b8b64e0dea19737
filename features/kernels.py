"""Numba kernels over the joined bytes of inputs, shared by the families.

One pass over the bytes of an input gives its byte entropy, its words, its signed hash sketch
(Weinberger et al. 2009, feature hashing), its share of a one-permutation MinHash (Li, Owen, Zhang
2012) and its hashes. Nothing here allocates; all arithmetic is in a fixed order, so that a result
does not depend on how events were batched.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from features.signs import ARTICLE, FUNCTION, PAIRS, SIGNS, WORDS

__all__ = [
    "HEAD_BYTES",
    "OPENS_UP",
    "SIGNS",
    "SKETCH_BYTES",
    "TAIL_BYTES",
    "hash_bytes",
    "head_tail",
    "mix",
    "read_sketch",
    "read_text",
]

HEAD_BYTES: Final = 40
TAIL_BYTES: Final = 24
SKETCH_BYTES: Final = 361  # of an input that stays at its gateway: docs/sketch.md has the layout
_MAX_COUNT: Final = 2**31 - 1
_OFFSET = np.uint64(0xCBF29CE484222325)  # FNV-1a, 64 bits
_PRIME = np.uint64(0x100000001B3)
_MAX_WORD = 32  # scripts without spaces would make one word of a whole text
OPENS_UP: Final = 1 << SIGNS.index("opens_up")
_ASKS = np.uint64(1 << SIGNS.index("asks"))
_ARTICLE = np.uint64(ARTICLE)
_FUNCTION = np.uint64(FUNCTION)
_QUESTION_MARK = np.uint8(63)
_MIN_SKETCH_WORD = 4  # shorter words are mostly grammar: alike in everybody's text

# k·log2(k) for the byte counts of ordinary inputs: 256 logarithms an input would cost 2 µs.
_K_LOG_K: Final = np.zeros(4097)
_K_LOG_K[1:] = np.arange(1, 4097) * np.log2(np.arange(1, 4097))

# Letters and digits, lower-cased; 0 ends a word. Bytes above 127 belong to words.
_WORD: Final = np.zeros(256, dtype=np.uint8)
for _c in range(256):
    if 97 <= _c <= 122 or 48 <= _c <= 57 or _c >= 128:
        _WORD[_c] = _c
    elif 65 <= _c <= 90:
        _WORD[_c] = _c + 32


@njit(cache=True, inline="always")
def mix(h):  # type: ignore[no-untyped-def]
    """MurmurHash3's 64-bit finaliser: spreads the entropy of FNV into all bits."""
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    h ^= h >> np.uint64(33)
    return h


@njit(cache=True)
def hash_bytes(buf, lo, hi):  # type: ignore[no-untyped-def]
    """64-bit hash of `buf[lo:hi]` (uint8), never 0."""
    h = _OFFSET
    for i in range(lo, hi):
        h = (h ^ np.uint64(buf[i])) * _PRIME
    h = mix(h)
    return h if h != np.uint64(0) else np.uint64(1)


@njit(cache=True)
def head_tail(buf, lo, hi):  # type: ignore[no-untyped-def]
    """Hashes (uint32, uint32) of the first 40 and the last 24 bytes of `buf[lo:hi]`."""
    head = hash_bytes(buf, lo, min(hi, lo + HEAD_BYTES))
    tail = hash_bytes(buf, max(lo, hi - TAIL_BYTES), hi)
    return np.uint32(head >> np.uint64(32)), np.uint32(tail >> np.uint64(32))


@njit(cache=True, inline="always")
def _looked_up(table, key):  # type: ignore[no-untyped-def]
    # Bits of a word or pair, 0 for one that is not in the table.
    size = np.uint64(table.shape[0] - 1)
    place = key & size
    while table[place, 0] != np.uint64(0):
        if table[place, 0] == key:
            return table[place, 1]
        place = (place + np.uint64(1)) & size
    return np.uint64(0)


@njit(cache=True)
def read_text(buf, lo, hi, counts, sketch, seen, minhash):  # type: ignore[no-untyped-def]
    """Read one text input.

    Args:
        buf: uint8, the joined inputs; this one is `buf[lo:hi]`.
        counts: int64 (256,), scratch.
        sketch: float64 (128,), scratch; holds the unnormalised sketch afterwards.
        seen: uint64 (16,), bitmap of the block's words so far; the input's are added.
        minhash: uint32 (16,), of the block; the input's words are folded in.

    Returns:
        Byte entropy in bits, words, words not seen in the block before, squared norm of the
        sketch, 64-bit hash of the text, signs of how it is put (bits, as SIGNS names them),
        function words, articles that such a word follows.
    """
    counts[:] = 0
    sketch[:] = 0.0
    words = 0
    fresh = 0
    length = 0
    h = _OFFSET
    whole = _OFFSET
    signs = np.uint64(0)
    before = np.uint64(0)  # hash of the word before
    article = False  # whether that was one
    function = 0
    odd = 0
    last = np.uint8(0)  # last byte that is not white space
    for i in range(lo, hi + 1):
        c = np.uint8(0)
        if i < hi:
            b = buf[i]
            if b > 32:
                last = b
            counts[b] += 1
            whole = (whole ^ np.uint64(b)) * _PRIME
            c = _WORD[b]
        if c != 0 and length < _MAX_WORD:
            h = (h ^ np.uint64(c)) * _PRIME
            length += 1
            continue
        if length:
            w = mix(h)
            found = _looked_up(WORDS, w)
            if words == 0:
                signs |= found & np.uint64(255)
            else:
                signs |= _looked_up(PAIRS, mix((before * np.uint64(3)) ^ w))
            signs |= (found >> np.uint64(8)) & np.uint64(255)
            if found & _FUNCTION:
                function += 1
                if article:
                    odd += 1
            article = (found & _ARTICLE) != np.uint64(0)
            before = w
            words += 1
            if length >= _MIN_SKETCH_WORD:
                sign = 1.0 if w & np.uint64(128) else -1.0
                sketch[w & np.uint64(127)] += sign
            bit = (w >> np.uint64(8)) & np.uint64(1023)
            mask = np.uint64(1) << (bit & np.uint64(63))
            if not seen[bit >> np.uint64(6)] & mask:
                seen[bit >> np.uint64(6)] |= mask
                fresh += 1
            bucket = (w >> np.uint64(20)) & np.uint64(15)
            value = np.uint32(w >> np.uint64(32))
            if value < minhash[bucket]:
                minhash[bucket] = value
            h = _OFFSET
            length = 0
        if c != 0:
            h = (h ^ np.uint64(c)) * _PRIME
            length = 1
    n = hi - lo
    entropy = 0.0
    if n:
        total = 0.0
        for k in range(256):
            if counts[k]:
                if counts[k] <= 4096:
                    total += _K_LOG_K[counts[k]]
                else:
                    total += counts[k] * np.log2(counts[k])
        entropy = max(0.0, np.log2(n) - total / n)
    norm2 = 0.0
    for k in range(128):
        norm2 += sketch[k] * sketch[k]
    if last == _QUESTION_MARK:
        signs |= _ASKS
    whole = mix(whole)
    if whole == np.uint64(0):
        whole = np.uint64(1)
    return entropy, words, fresh, norm2, whole, signs, function, odd


@njit(cache=True, inline="always")
def _unsigned(buf, at, size):  # type: ignore[no-untyped-def]
    # Little-endian.
    value = np.uint64(0)
    for k in range(size):
        value |= np.uint64(buf[at + k]) << np.uint64(8 * k)
    return value


@njit(cache=True)
def read_sketch(buf, lo, sketch, seen, minhash):  # type: ignore[no-untyped-def]
    """Read the sketch of one text input, in place of the text.

    Args:
        buf: uint8, in which the sketch's 361 bytes begin at `lo`.
        sketch, seen, minhash: as of `read_text`.

    Returns:
        What `read_text` returns, and then: bytes of the text, hashes (uint32, uint32) of its head
        and tail.
    """
    signs = np.uint64(buf[lo]) & ~np.uint64(OPENS_UP)
    length = min(np.int64(_unsigned(buf, lo + 5, 4)), _MAX_COUNT)
    words = min(np.int64(_unsigned(buf, lo + 9, 4)), _MAX_COUNT)
    function = min(np.int64(_unsigned(buf, lo + 13, 4)), _MAX_COUNT)
    odd = min(np.int64(_unsigned(buf, lo + 17, 4)), _MAX_COUNT)
    entropy = np.float64(_unsigned(buf, lo + 21, 4)) / 2.0**24
    whole = _unsigned(buf, lo + 25, 8)
    if whole == np.uint64(0):
        whole = np.uint64(1)
    head = np.uint32(_unsigned(buf, lo + 33, 4))
    tail = np.uint32(_unsigned(buf, lo + 37, 4))
    norm2 = 0.0
    for k in range(128):
        total = np.int64(buf[lo + 41 + k])
        sketch[k] = total - 256 if total > 127 else total
        norm2 += sketch[k] * sketch[k]
    fresh = 0
    for k in range(16):
        new = _unsigned(buf, lo + 169 + 8 * k, 8) & ~seen[k]
        seen[k] |= new
        while new:
            new &= new - np.uint64(1)
            fresh += 1
        value = np.uint32(_unsigned(buf, lo + 297 + 4 * k, 4))
        if value < minhash[k]:
            minhash[k] = value
    return entropy, words, fresh, norm2, whole, signs, function, odd, length, head, tail
