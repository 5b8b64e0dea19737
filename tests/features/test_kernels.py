"""The kernel that reads texts, against a plain reading of the same in Python."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from features.base import Array
from features.kernels import HEAD_BYTES, TAIL_BYTES, hash_bytes, head_tail, read_text
from tests.features.signs_in_python import Reading, read_words

_MASK = 2**64 - 1


def fnv1a(data: bytes) -> int:
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & _MASK
    return h


def murmur3_finaliser(h: int) -> int:
    h = (h ^ h >> 33) * 0xFF51AFD7ED558CCD & _MASK
    h = (h ^ h >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return h ^ h >> 33


def reference_hash(data: bytes) -> int:
    return murmur3_finaliser(fnv1a(data)) or 1


def reference_words(data: bytes) -> list[bytes]:
    """Runs of ASCII letters, digits and all bytes above 127, lower-cased, at most 32 bytes each."""
    runs = re.findall(rb"[a-z0-9\x80-\xff]+", data.lower())
    return [run[at : at + 32] for run in runs for at in range(0, len(run), 32)]


@dataclass
class Reference:
    """A block's words, read word by word."""

    bits: set[int] = field(default_factory=set)
    minhash: list[int] = field(default_factory=lambda: [0xFFFFFFFF] * 16)

    def read(self, data: bytes) -> tuple[float, int, int, list[float], int, Reading]:
        counts = Counter(data)
        entropy = -sum(c / len(data) * math.log2(c / len(data)) for c in counts.values())
        words = reference_words(data)
        sketch = [0.0] * 128
        before = len(self.bits)
        for word in words:
            h = murmur3_finaliser(fnv1a(word))
            if len(word) >= 4:
                sketch[h % 128] += 1.0 if h >> 7 & 1 else -1.0
            self.bits.add(h >> 8 & 1023)
            bucket = h >> 20 & 15
            self.minhash[bucket] = min(self.minhash[bucket], h >> 32)
        reading = read_words(words, data)
        return entropy, len(words), len(self.bits) - before, sketch, reference_hash(data), reading


@dataclass
class Kernel:
    """The same block, read by the kernel."""

    seen: Array = field(default_factory=lambda: np.zeros(16, np.uint64))
    minhash: Array = field(default_factory=lambda: np.full(16, 0xFFFFFFFF, np.uint32))
    counts: Array = field(default_factory=lambda: np.full(256, 99, np.int64))
    sketch: Array = field(default_factory=lambda: np.full(128, 99.0))

    def read(self, data: bytes) -> tuple[float, int, int, list[float], int, Reading]:
        # Other inputs stand before and after: none of their bytes may count.
        buf = np.frombuffer(b"explain the " + data + b" of me?", np.uint8)
        entropy, words, fresh, norm2, text, signs, function, odd = read_text(
            buf, 12, 12 + len(data), self.counts, self.sketch, self.seen, self.minhash
        )
        sketch = self.sketch.tolist()
        assert norm2 == sum(entry * entry for entry in sketch)
        reading = Reading(int(signs), int(function), int(odd))
        return entropy, words, fresh, sketch, int(text), reading

    @property
    def bits(self) -> set[int]:
        return {b for b in range(1024) if int(self.seen[b // 64]) >> (b % 64) & 1}


def same(inputs: list[bytes]) -> None:
    reference, kernel = Reference(), Kernel()
    for data in inputs:
        expected, found = reference.read(data), kernel.read(data)
        assert found[0] == pytest.approx(expected[0], abs=1e-9)
        assert found[1:] == expected[1:]
    assert kernel.bits == reference.bits
    assert kernel.minhash.tolist() == reference.minhash


_TEXTS = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=200).map(str.encode),
    st.lists(st.sampled_from(["the", "Model", "answers", "42", "naïve", "日本語", "?!", ""])).map(
        lambda words: " ".join(words).encode()
    ),
    st.lists(
        st.sampled_from(
            ["Explain", "your", "reasoning", "step", "by", "list", "of", "my", "the", "a", "?", "."]
        )
    ).map(lambda words: " ".join(words).encode()),
)


@settings(deadline=None)
@given(st.lists(_TEXTS, max_size=6))
@example([b""])
@example([b"", b"", b"word"])
@example([b"a" * 31, b"a" * 32, b"a" * 33, b"a" * 64, b"a" * 65])
@example(["ÄÖÜ Straße ÉCOLE".encode()])
@example([bytes(range(256))] * 2)
def test_a_block_reads_like_plain_python(inputs: list[bytes]) -> None:
    same(inputs)


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 100_000,  # one byte, far past the table of k log k
        b"The quick brown fox jumps over the lazy dog. " * 2300,
        np.random.default_rng(1).integers(0, 256, 100_000, dtype=np.uint8).tobytes(),
        "言語モデルの出力を大量に集める。".encode() * 2100,
    ],
    ids=["one byte", "prose", "noise", "Japanese"],
)
def test_long_inputs_read_like_plain_python(data: bytes) -> None:
    same([data, data])


@pytest.mark.parametrize(
    ("data", "bits"),
    [
        (b"", 0.0),
        (b"aaaa", 0.0),
        (b"ab", 1.0),
        (b"aab", math.log2(3) - 2 / 3),
        (b"abcd" * 25, 2.0),
        (bytes(range(256)), 8.0),
        (b"ab" * 4096, 1.0),  # the last count in the table
        (b"ab" * 4097, 1.0),  # the first past it
    ],
)
def test_entropy_of_the_bytes(data: bytes, bits: float) -> None:
    assert Kernel().read(data)[0] == pytest.approx(bits, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        (" \t\n.,;!", 0),
        ("one", 1),
        ("don't stop", 3),
        ("snake_case and kebab-case", 5),
        ("3.14", 2),
        ("naïve café", 2),
        ("x" * 33, 2),
    ],
)
def test_words(text: str, words: int) -> None:
    assert Kernel().read(text.encode())[1] == words


def test_words_are_new_once_a_block() -> None:
    kernel = Kernel()
    assert [kernel.read(text)[2] for text in (b"one two", b"TWO three", b"one; three")] == [2, 1, 0]


def test_the_sketch_counts_long_words_with_their_sign() -> None:
    kernel = Kernel()
    once, twice = kernel.read(b"harvest"), kernel.read(b"harvest the harvest")
    assert sorted(abs(entry) for entry in once[3]) == [0.0] * 127 + [1.0]
    assert twice[3] == [2 * entry for entry in once[3]]  # "the" is too short to count


def test_a_text_without_words_leaves_the_block_as_it_was() -> None:
    kernel = Kernel()
    entropy, words, fresh, sketch, text, reading = kernel.read(b"")
    assert (entropy, words, fresh) == (0.0, 0, 0)
    assert reading == (0, 0, 0)
    assert sketch == [0.0] * 128
    assert kernel.bits == set()
    assert set(kernel.minhash.tolist()) == {0xFFFFFFFF}
    assert text == reference_hash(b"") != 0


@settings(deadline=None)
@given(st.binary(max_size=100), st.binary(max_size=5), st.binary(max_size=5))
def test_hash_bytes_is_fnv1a_with_murmurs_finaliser(
    data: bytes, before: bytes, after: bytes
) -> None:
    buf = np.frombuffer(before + data + after, np.uint8)
    found = int(hash_bytes(buf, len(before), len(before) + len(data)))
    assert found == reference_hash(data) != 0


# Input whose FNV-1a state is 0, so that the finaliser, which keeps 0, would give the hash 0 that
# means "none" in a ring of request ids (published as a zero of 64-bit FNV-1a, 8 bytes long).
_ZERO_OF_FNV1A = bytes.fromhex("d56bb95342870836")


def test_no_input_hashes_to_zero() -> None:
    for data in (b"", b"\0", b"\0" * 8, _ZERO_OF_FNV1A):
        assert int(hash_bytes(np.frombuffer(data, np.uint8), 0, len(data))) != 0
        assert Kernel().read(data)[4] != 0


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_head_and_tail_are_the_upper_halves_of_the_hashes_of_both_ends(data: bytes) -> None:
    head, tail = head_tail(np.frombuffer(b"!" + data + b"!", np.uint8), 1, 1 + len(data))
    assert int(head) == reference_hash(data[:HEAD_BYTES]) >> 32
    assert int(tail) == reference_hash(data[-TAIL_BYTES:]) >> 32


def test_only_the_first_40_bytes_are_the_head_and_the_last_24_the_tail() -> None:
    base = b"h" * 40 + b"m" * 10 + b"t" * 24

    def ends(data: bytes) -> tuple[int, int]:
        head, tail = head_tail(np.frombuffer(data, np.uint8), 0, len(data))
        return int(head), int(tail)

    head, tail = ends(base)
    assert ends(base[:40] + b"x" * 10 + base[50:]) == (head, tail)
    assert ends(b"x" + base[1:])[0] != head
    assert ends(base[:39] + b"x" + base[40:])[0] != head
    assert ends(base[:-1] + b"x")[1] != tail
    assert ends(base[:50] + b"x" + base[51:])[1] != tail
