"""Whose answers are in a corpus? Reads closing remarks back, and names accounts with a p-value.

**The null hypothesis**, for one account: the corpus does not depend on its tag. A remark read under
a key gives a nonce and a tag of 35 bits; masks are the key's, a new one for each nonce, so each of
the M different remarks in the corpus has the account's tag with probability 2^-35, and remarks of
different nonces do so independently. K of them, of different nonces, then have at most the
probability (M / 2^35)^K / K! (the expected number of such sets of K). Nothing is assumed of the
text: a corpus may be full of polite sentences. Copies of one remark count once, so that a document
that is in the corpus a thousand times is one piece of evidence.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from velvetrope_client.canary import TAG_BITS, Closings, tag
from velvetrope_client.keys import Keyring

__all__ = ["Found", "Remarks", "name", "p_value"]

_CODED: Final = re.compile(rb"\\u00([2-7][0-9a-fA-F])")
_ESCAPES: Final = (
    *((b"\\n", b" "), (b"\\r", b" "), (b"\\t", b" ")),
    *((b'\\"', b'"'), (b"\\'", b"'"), (b"\\/", b"/")),
)
_SPACES: Final = bytes.maketrans(b"\n\r\t\v\f", b"     ")
_RUN: Final = re.compile(rb"  +")
_ROOM: Final = 200  # bytes that a remark may have in spaces beyond its own


@dataclass(frozen=True, slots=True)
class Found:
    """An account whose remarks are in the corpus.

    Attributes:
        account: as it was asked for.
        key_id: of the key that its remarks were written with.
        remarks: how many different ones are there.
        times: how often they are there in all.
        p_value: of this account alone, under the null hypothesis above.
        adjusted: after Bonferroni's correction for all accounts and keys that were tried.
    """

    account: str
    key_id: str
    remarks: int
    times: int
    p_value: float
    adjusted: float


class Remarks:
    """Collects the remarks of a corpus, which comes in pieces of any size.

    Text, JSON and CSV are read alike: a JSON string's escapes are undone wherever they stand.
    """

    def __init__(self, closings: Closings) -> None:
        self._closings = closings
        self._openings = closings.openings
        longest = sum(max(map(len, slot)) for slot in closings.slots)
        self._overlap = 2 * longest + _ROOM
        self._held = b""
        self.numbers: Counter[int] = Counter()

    def feed(self, chunk: bytes) -> None:
        """The next bytes of a file."""
        block = self._held + chunk
        # A remark that begins in the last bytes may go on in the next chunk. Cut at a space, so
        # that no escape is torn.
        edge = max(len(block) - self._overlap, 0)
        space = block.rfind(b" ", 0, edge)
        cut = space if space >= 0 else edge
        self._scan(block, cut)
        self._held = block[cut:]

    def end(self) -> None:
        """The file is at its end; what comes next is another's."""
        self._scan(self._held, len(self._held))
        self._held = b""

    def _scan(self, block: bytes, cut: int) -> None:
        """Count the remarks that begin before `cut`."""
        if not cut:
            return
        before, after = _plain(block[:cut]), _plain(block[cut:])
        cut = len(before)
        block = before + (after.lstrip() if before.endswith(b" ") else after)
        lower = block.lower()
        for opening in self._openings:
            end = cut + len(opening) - 1
            at = lower.find(opening, 0, end)
            while at >= 0:
                if (found := self._closings.pattern.match(block, at)) is not None:
                    number = self._closings.number(found)
                    if number is not None:
                        self.numbers[number] += 1
                at = lower.find(opening, at + 1, end)


def name(
    numbers: Counter[int], accounts: Iterable[str], keyring: Keyring, *, below: float
) -> list[Found]:
    """The accounts whose adjusted p-value is at most `below`, the surest first.

    `numbers`: what `Remarks` collected. Every account is tried under every key, and that many
    tests are corrected for.
    """
    # key id → tag → nonce → how often
    read: dict[str, dict[int, Counter[int]]] = {}
    for key in keyring:
        by_tag: dict[int, Counter[int]] = defaultdict(Counter)
        for number, times in numbers.items():
            nonce, its_tag = Closings.read(key, number)
            by_tag[its_tag][nonce] += times
        read[key.id] = by_tag
    tried = 0
    found: list[Found] = []
    for account in accounts:
        for key in keyring:
            tried += 1
            if nonces := read[key.id].get(tag(key, account)):
                p = p_value(len(nonces), len(numbers))
                found.append(Found(account, key.id, len(nonces), nonces.total(), p, p))
    named = [
        Found(f.account, f.key_id, f.remarks, f.times, f.p_value, min(1.0, f.p_value * tried))
        for f in found
    ]
    return sorted((f for f in named if f.adjusted <= below), key=lambda f: (f.p_value, f.account))


def p_value(matching: int, remarks: int) -> float:
    """At most this likely: `matching` of `remarks` different ones have one account's tag by chance.

    >>> p_value(1, 1) == 2.0**-35
    True
    """
    return min(1.0, (remarks / 2.0**TAG_BITS) ** matching / math.factorial(min(matching, 170)))


def _plain(block: bytes) -> bytes:
    """Without escapes, every run of white space one space."""
    if b"\\" in block:
        while b"\\\\" in block:  # JSON within JSON
            block = block.replace(b"\\\\", b"\\")
        for escape, character in _ESCAPES:
            block = block.replace(escape, character)
        if b"\\u00" in block:
            block = _CODED.sub(lambda code: bytes.fromhex(code[1].decode()), block)
    block = block.translate(_SPACES)
    return _RUN.sub(b" ", block) if b"  " in block else block
