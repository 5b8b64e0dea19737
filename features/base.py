"""What every feature family implements, and the registry of them.

A family turns closed blocks into numbers. It gets the blocks of one partition in the order in which
they closed, with the rows of its own state, and writes one column a feature. It knows nothing of
events, accounts or judgement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

from numpy.typing import NDArray

__all__ = [
    "BLOCK_EVENTS",
    "SKETCH_DIMS",
    "Array",
    "Family",
    "Feature",
    "Kind",
    "Slots",
    "StateColumn",
]

Array: TypeAlias = NDArray[Any]
Kind: TypeAlias = Literal["text", "vector", "metadata"]

BLOCK_EVENTS: Final = 32
SKETCH_DIMS: Final = 128


@dataclass(frozen=True, slots=True)
class Feature:
    """One number of a block: its name within the family and what it says, in plain words."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class StateColumn:
    """One column of a family's own state: a fixed shape a row, zeros for a new row."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Slots:
    """B closed blocks as arrays; in the second dimension only the first `n` of 32 count.

    Attributes:
        n: int32 (B,), events in the block, 1 to 32.
        index: int32 (B,), 0 for an account's first block.
        final: bool (B,), False for an early revision of a first block: state must not move.
        ts: float64 (B, 32), arrival, Unix seconds, in the order of the log.
        latency: float32 (B, 32), seconds, 0 where it is not logged.
        length: int32 (B, 32), bytes of the input (4 per number for a vector).
        entropy: float32 (B, 32), Shannon entropy of the input's bytes, bits, 0 to 8.
        words: int32 (B, 32), words of the input.
        fresh_words: int32 (B, 32), of these, words that the block had not seen before.
        function_words: int32 (B, 32), of the words, articles, prepositions, pronouns and the like.
        odd_pairs: int32 (B, 32), articles that such a word follows: rare in prose.
        head: uint32 (B, 32), hash of the input's first 40 bytes.
        tail: uint32 (B, 32), hash of its last 24 bytes.
        text: uint64 (B, 32), hash of the whole input.
        signs: uint8 (B, 32), how the input is put, bits as `features.signs.SIGNS` names them.
        answer: float32 (B, 32), tokens of the answer, 0 where they are not logged.
        sketch_sum: float32 (B, 128), sum of the events' sketches, each of norm 1 (0: no words).
        sketched: int32 (B,), events whose sketch is not 0.
        minhash: uint32 (B, 16), one-permutation MinHash of the block's words.
    """

    n: Array
    index: Array
    final: Array
    ts: Array
    latency: Array
    length: Array
    entropy: Array
    words: Array
    fresh_words: Array
    function_words: Array
    odd_pairs: Array
    head: Array
    tail: Array
    text: Array
    signs: Array
    answer: Array
    sketch_sum: Array
    sketched: Array
    minhash: Array

    def __len__(self) -> int:
        return len(self.n)


class Family(Protocol):
    """One family of features."""

    @property
    def name(self) -> str:
        """Prefix of its features' names."""
        ...

    @property
    def version(self) -> int:
        """Grows when a number changes its meaning."""
        ...

    @property
    def features(self) -> tuple[Feature, ...]:
        """What it writes, in the order of `out`."""
        ...

    @property
    def state(self) -> tuple[StateColumn, ...]:
        """What it keeps of an account between blocks."""
        ...

    def measure(self, slots: Slots, rows: Array, state: Mapping[str, Array], out: Array) -> None:
        """Write the features of each block, in order, and move the state of final ones.

        Args:
            slots: B blocks, in the order in which they closed.
            rows: int64 (B,), the state row of each; a row may occur more than once.
            state: the family's columns, each (rows, *shape), changed in place.
            out: float32 (B, len(features)), finite numbers only.
        """
        ...
