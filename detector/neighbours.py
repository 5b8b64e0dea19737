"""Accounts that send alike: nearest directions, independent of the order in which they came.

A direction is a row of int8 of norm 127: a mean sketch, or mean features, as seen from the
population's centre. Up to `EXACT_ROWS` eligible rows are compared one by one. Of more, the
`CANDIDATES` whose 256-bit codes differ least from the query's are, and the rest are not looked at:
a bit is the side of a random hyperplane on which a row lies, so that codes differ in proportion to
the angle (Charikar, 2002). All of it is integer arithmetic on what the rows are now, so what is
found does not depend on batches, restarts or the machine.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = [
    "CANDIDATES",
    "EXACT_ROWS",
    "NeighbourIndex",
    "centred",
]

EXACT_ROWS: Final = 4096  # eligible rows up to which every one is compared
CANDIDATES: Final = 1024  # beyond: rows compared after the codes have chosen them
_WORDS: Final = 4  # of 64 bits, a code
_FAR: Final = 64 * _WORDS + 1  # bits apart that nothing is
_SMALLEST: Final = 64
_SCALE: Final = 127.0 * 127.0  # dot product of a direction with itself


@intrinsic  # type: ignore[untyped-decorator]
def _ones(typing_context: Any, word: Any) -> Any:
    """Bits that are set in a uint64: one instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return word(word), generate


@njit(cache=True)
def _centre(mean, centre, out):  # type: ignore[no-untyped-def]
    norm2 = 0.0
    for j in range(len(out)):
        away = float(mean[j]) - centre[j]
        norm2 += away * away
    norm = max(np.sqrt(norm2), 1e-9)
    for j in range(len(out)):
        out[j] = np.int8(np.rint(127.0 * (float(mean[j]) - centre[j]) / norm))


@njit(cache=True)
def _centre_all(means, centre, out):  # type: ignore[no-untyped-def]
    for r in range(len(means)):
        _centre(means[r], centre, out[r])


@njit(cache=True)
def _code(planes, direction, code):  # type: ignore[no-untyped-def]
    # `planes` has a row of ±1 for each bit.
    for word in range(len(code)):
        bits = np.uint64(0)
        for bit in range(64):
            side = np.int32(0)
            plane = planes[64 * word + bit]
            for j in range(len(direction)):
                side += np.int32(plane[j]) * np.int32(direction[j])
            if side > 0:
                bits |= np.uint64(1) << np.uint64(bit)
        code[word] = bits


@njit(cache=True)
def _code_all(planes, directions, codes):  # type: ignore[no-untyped-def]
    code = np.empty(len(codes), np.uint64)
    for r in range(len(directions)):
        _code(planes, directions[r], code)
        codes[:, r] = code


@njit(cache=True)
def _put(planes, direction, row, directions, codes):  # type: ignore[no-untyped-def]
    directions[row] = direction
    code = np.empty(len(codes), np.uint64)
    _code(planes, direction, code)
    codes[:, row] = code


@njit(cache=True)
def _offer(row, dot, count, found, rows, dots):  # type: ignore[no-untyped-def]
    # Keeps the `count` highest dots, the highest first; an equal one stays behind those before it.
    if found == count:
        if dot <= dots[found - 1]:
            return found
        found -= 1
    at = found
    while at > 0 and dots[at - 1] < dot:
        dots[at] = dots[at - 1]
        rows[at] = rows[at - 1]
        at -= 1
    dots[at] = dot
    rows[at] = row
    return found + 1


@njit(cache=True)
def _one_dot(directions, row, query):  # type: ignore[no-untyped-def]
    # int8 times int8 in int32 is exact: no order of summation, no SIMD width changes a result.
    total = np.int32(0)
    for j in range(directions.shape[1]):
        total += np.int32(directions[row, j]) * np.int32(query[j])
    return total


@njit(cache=True)
def _nearest_of(directions, candidates, query, own, rows, dots):  # type: ignore[no-untyped-def]
    found = 0
    for row in candidates:
        if row != own:
            dot = _one_dot(directions, row, query)
            found = _offer(row, dot, len(rows), found, rows, dots)
    return found


@njit(cache=True)
def _apart(one, other, used, code_one, code_other, out):  # type: ignore[no-untyped-def]
    # Two words at a time, each word a contiguous row of its own: this loop runs in SIMD.
    for r in range(used):
        out[r] += np.uint16(_ones(one[r] ^ code_one) + _ones(other[r] ^ code_other))


@njit(cache=True)
def _trim(kept, n, apart, most):  # type: ignore[no-untyped-def]
    # The `most` of the first `n` kept rows that are least apart; of equals, the lower rows.
    counts = np.zeros(64 * _WORDS + 1, np.int64)
    for i in range(n):
        counts[apart[kept[i]]] += 1
    bar, below = 0, 0
    while below + counts[bar] < most:
        below += counts[bar]
        bar += 1
    at_bar = most - below
    left = 0
    for i in range(n):
        distance = apart[kept[i]]
        if distance < bar or (distance == bar and at_bar > 0):
            if distance == bar:
                at_bar -= 1
            kept[left] = kept[i]
            left += 1
    return left, bar


@njit(cache=True)
def _closest_codes(codes, used, code, own, eligible, most, apart, kept):  # type: ignore[no-untyped-def]
    # Rows of the `most` eligible codes that differ least, ascending, into `kept`; how many.
    apart[:used] = 0
    for word in range(0, len(codes), 2):
        _apart(codes[word], codes[word + 1], used, code[word], code[word + 1], apart)
    if own >= 0:
        apart[own] = _FAR
    n, bar = 0, 64 * _WORDS
    for r in range(used):
        if apart[r] <= bar and eligible[r]:
            kept[n] = r
            n += 1
            if n == len(kept):
                n, worst = _trim(kept, n, apart, most)
                bar = worst - 1  # rows come in order, so later ones as far lose
    if n > most:
        n, _ = _trim(kept, n, apart, most)
    return n


class NeighbourIndex:
    """Directions by row number, and which are nearest to one.

    Args:
        width: columns of a direction. Every index of a width has the same hyperplanes.
        expected: rows to make room for; more may come.
    """

    def __init__(self, width: int, expected: int = 0) -> None:
        self.width = width
        self._planes = _planes(64 * _WORDS, width)
        self._used = 0
        size = max(expected, _SMALLEST)
        self._directions = np.zeros((size, width), np.int8)
        self._codes = np.zeros((_WORDS, size), np.uint64)
        self._everybody = np.ones(size, np.bool_)
        self._apart = np.zeros(size, np.uint16)  # to work in

    def __len__(self) -> int:
        return self._used

    def __getitem__(self, row: int) -> NDArray[np.int8]:
        """A row's direction, int8 (width,), to be read only."""
        if not 0 <= row < self._used:
            raise IndexError(f"row {row} of {self._used}")
        direction: NDArray[np.int8] = self._directions[row]
        return direction

    @property
    def nbytes(self) -> int:
        """Memory of the rows, in bytes."""
        return self._directions.nbytes + self._codes.nbytes + self._apart.nbytes

    def put(self, row: int, direction: NDArray[np.int8]) -> None:
        """Set a row, int8 (width,): one that is there, or the next.

        Raises:
            IndexError: rows would be missing before it.
        """
        if row > self._used or row < 0:
            raise IndexError(f"row {row} after {self._used}")
        if row == self._used:
            self._grow(row + 1)
        _put(self._planes, direction, row, self._directions, self._codes)

    def put_all(self, directions: NDArray[np.int8]) -> None:
        """Set the first rows, int8 (rows, width), adding those that are not there."""
        rows = len(directions)
        self._grow(rows)
        self._directions[:rows] = directions
        _code_all(self._planes, self._directions[:rows], self._codes)

    def nearest(
        self,
        query: int | NDArray[np.int8],
        count: int,
        eligible: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The `count` eligible rows with the highest cosine; ties go to the lower row.

        Args:
            query: a direction, int8 (width,), or the number of a row, which is then left out.
            count: at least 1.
            eligible: bool (at least as long as this index); None for all rows.

        Returns:
            Row numbers and cosines, the nearest first; fewer than `count` when fewer are eligible.
        """
        own = -1
        if not isinstance(query, np.ndarray):
            own = query
            query = self[query]
        used = self._used
        if eligible is None:
            eligible = self._everybody
        elif len(eligible) < used:
            raise ValueError(f"{len(eligible)} eligible flags for {used} rows")
        rows = np.empty(count, np.int64)
        dots = np.empty(count, np.int32)
        eligible = eligible[:used]
        if used <= EXACT_ROWS or np.count_nonzero(eligible) <= EXACT_ROWS:
            candidates = np.flatnonzero(eligible)
        else:
            code = np.empty(_WORDS, np.uint64)
            _code(self._planes, query, code)
            most = max(CANDIDATES, count)
            candidates = np.empty(4 * most, np.int64)
            chosen = _closest_codes(
                self._codes, used, code, own, eligible, most, self._apart, candidates
            )
            candidates = candidates[:chosen]
        found = _nearest_of(self._directions, candidates, query, own, rows, dots)
        return rows[:found], dots[:found] / _SCALE

    def _grow(self, rows: int) -> None:
        size = len(self._directions)
        if rows > size:
            size = max(rows, 2 * size)
            directions = np.zeros((size, self.width), np.int8)
            directions[: self._used] = self._directions[: self._used]
            codes = np.zeros((_WORDS, size), np.uint64)
            codes[:, : self._used] = self._codes[:, : self._used]
            self._directions, self._codes = directions, codes
            self._everybody = np.ones(size, np.bool_)
            self._apart = np.zeros(size, np.uint16)
        self._used = max(self._used, rows)


def _planes(count: int, width: int) -> NDArray[np.int8]:
    """Random hyperplanes, int8 (count, width) of ±1: SplitMix64's top bits, the same for ever."""
    state = np.arange(1, count * width + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    top = (state ^ (state >> np.uint64(31))) >> np.uint64(63)
    return np.where(top == 1, 1, -1).astype(np.int8).reshape(count, width)


def centred(means: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.int8]:
    """Directions of mean vectors from the population's median one, as int8 of norm 127.

    Args:
        means: float32 (A, width), mean of each account's block sketches.
        centre: float32 (width,).
    """
    out = np.empty(means.shape, np.int8)
    _centre_all(np.ascontiguousarray(means), centre, out)
    return out
