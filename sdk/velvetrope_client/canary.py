"""Canaries: a harmless closing remark that says whose answer it was, to a holder of the key alone.

A remark is two sentences written from a list of slots with interchangeable wordings. Its choices
spell a number of two parts: a nonce, taken from the answer, and the account's tag (35 bits of an
HMAC of its name), masked by an HMAC of the nonce. So an account's remarks differ from answer to
answer, nothing is kept of what was given out, and a remark found in a corpus is read back without
trying accounts. In a text that knows nothing of the key it names any one account with probability
2^-35, whatever the text says.

Only English prose gets one: never code, JSON, lists, tables, short answers or answers cut short.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from velvetrope_client.keys import Key

__all__ = ["SHARE", "TAG_BITS", "BadClosings", "Canaries", "CanaryStream", "Closings", "tag"]

SHARE: Final = 0.25  # share of prose answers that get a remark
TAG_BITS: Final = 35
_LONGEST_TEXT: Final = 1 << 20  # characters of a stream that are kept to judge it
_FEWEST_WORDS: Final = 40
# 8 remarks an account: few enough that a model which learned them says one word for word, and
# enough that the same sentences are in no more than one answer of 32.
_NONCE_BITS: Final = 3
_GOLDEN: Final = 0x9E3779B97F4A7C15  # multiples of it spread over any power of two

_PUNCTUATION: Final = ".,;:!?"
_NO_PUNCTUATION: Final = str.maketrans("", "", _PUNCTUATION)

# Any wording of a slot must go with any of every other. 2^38 remarks.
_SHIPPED: Final = (
    (
        *("Hopefully", "I hope", "I do hope", "I trust", "Ideally", "With any luck"),
        *("My hope is that", "The hope is that"),
    ),
    (
        *(" this", " the above", " all of this", " this answer", " the text above"),
        *(" what I wrote", " this explanation", " the answer above"),
    ),
    (" gives you", " offers you", " hands you", " leaves you with"),
    (
        *(" a clear", " a good", " a solid", " a useful", " a workable", " a fair", " a helpful"),
        *(" a decent", " a reasonable", " a practical", " a sound", " a proper", " a quick"),
        *(" a fuller", " a sensible", " a broad"),
    ),
    (
        *(" picture", " overview", " outline", " starting point", " foundation", " basis"),
        *(" summary", " view of things"),
    ),
    (
        *(" to build on.", " to start from.", " to work with.", " to go on.", " to begin with."),
        *(" for now.", " to refer back to.", " for a first pass."),
    ),
    (" If", " In case", " Where", " Whenever"),
    (
        *(" anything", " any part", " any point", " something", " some detail", " any step"),
        *(" any of it", " one of the points"),
    ),
    (" is", " seems", " looks", " remains"),
    (
        *(" unclear", " confusing", " incomplete", " too brief", " too dense", " vague"),
        *(" doubtful", " hard to follow"),
    ),
    (", just", ", please", ", feel free to", ", simply"),
    (
        *(" ask", " say so", " tell me", " let me know", " mention it", " write back"),
        *(" point it out", " speak up"),
    ),
    (" and I can", " and I will gladly", " and I would be happy to", " so that I can"),
    (
        *(" expand on it.", " rework it.", " go deeper.", " add an example.", " break it down."),
        *(" explain it differently.", " fill in the gaps.", " simplify it."),
    ),
)


class BadClosings(ValueError):
    """Closing remarks that cannot carry a tag; the text says why."""


class Closings:
    """The wordings of a closing remark: a list of slots, each a list of alternatives.

    Parts are written one after another as they are, spaces included. Reading is blind to case,
    punctuation and how many spaces there are.
    """

    __slots__ = ("_limit", "_numbers", "pattern", "slots")

    def __init__(self, slots: Sequence[Sequence[str]]) -> None:
        """BadClosings when there are under 2^38 remarks, or two would read alike."""
        self.slots = tuple(
            tuple(part if index else part.lstrip() for part in slot)
            for index, slot in enumerate(slots)
        )
        for index, slot in enumerate(self.slots):
            if not slot or len({_folded(part) for part in slot}) < len(slot):
                raise BadClosings(f"slot {index}: its wordings must be there, and differ")
            if not all(part.isascii() and part.strip() for part in slot):
                raise BadClosings(f"slot {index}: wordings are ASCII text")
        remarks = math.prod(len(slot) for slot in self.slots) if self.slots else 0
        bits = max(remarks, 1).bit_length() - 1
        if bits < TAG_BITS + _NONCE_BITS:
            raise BadClosings(f"2^{bits} remarks: at least 2^{TAG_BITS + _NONCE_BITS}")
        self._limit = 1 << (TAG_BITS + _NONCE_BITS)
        self._numbers = tuple(
            {_folded(part): number for number, part in enumerate(slot)} for slot in self.slots
        )
        self.pattern = re.compile("".join(map(_group, self.slots)).encode(), re.IGNORECASE)
        self._check_readable()

    @classmethod
    def shipped(cls) -> Closings:
        """The wordings that come with the package."""
        return cls(_SHIPPED)

    @classmethod
    def load(cls, path: Path | str) -> Closings:
        """Read `{"format": 1, "slots": [["wording", …], …]}`; BadClosings names the file."""
        try:
            document: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise BadClosings(f"{path}: not JSON") from None
        slots = document.get("slots") if isinstance(document, dict) else None
        if (
            not isinstance(document, dict)
            or document.get("format") != 1
            or not isinstance(slots, list)
            or not all(isinstance(s, list) and all(isinstance(p, str) for p in s) for s in slots)
        ):
            raise BadClosings(f'{path}: expected {{"format": 1, "slots": [["wording", …], …]}}')
        try:
            return cls(slots)
        except BadClosings as error:
            raise BadClosings(f"{path}: {error}") from None

    @property
    def openings(self) -> tuple[bytes, ...]:
        """The wordings of the first slot in lower case: what to look for first."""
        return tuple(part.lower().encode() for part in self.slots[0])

    def write(self, key: Key, account: str, nonce: int) -> str:
        """The remark of an account with that nonce (0 to 7)."""
        return self._spell((nonce << TAG_BITS) | (tag(key, account) ^ _mask(key, nonce)))

    def number(self, remark: re.Match[bytes]) -> int | None:
        """The number that a remark spells, or None if none of ours could."""
        value = 0
        parts = remark.groups()
        for slot, numbers, part in zip(self.slots, self._numbers, parts, strict=True):
            value = value * len(slot) + numbers[_folded(part.decode())]
        return value if value < self._limit else None

    @staticmethod
    def read(key: Key, number: int) -> tuple[int, int]:
        """(nonce, tag) of a number under a key."""
        nonce, masked = number >> TAG_BITS, number & ((1 << TAG_BITS) - 1)
        return nonce, masked ^ _mask(key, nonce)

    def _spell(self, number: int) -> str:
        parts = []
        for slot in reversed(self.slots):
            number, choice = divmod(number, len(slot))
            parts.append(slot[choice])
        return "".join(reversed(parts))

    def _check_readable(self) -> None:
        for step in range(500):
            number = step * _GOLDEN % self._limit
            found = self.pattern.fullmatch(self._spell(number).encode())
            if found is None or self.number(found) != number:
                raise BadClosings(f"reads as another: {self._spell(number)!r}")


class Canaries:
    """Adds closing remarks to answers."""

    __slots__ = ("_closings", "_key", "_share")

    def __init__(self, key: Key, *, share: float = SHARE, closings: Closings | None = None) -> None:
        """`share` of the prose answers get a remark: above 0, at most 1."""
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share {share}: above 0, at most 1")
        self._key = key
        self._share = share
        self._closings = closings or Closings.shipped()

    def closing(self, account: str, text: str) -> str:
        """What to put after a complete answer: a space or an empty line and the remark, or "".

        The same answer to the same account always gets the same.
        """
        if not _is_prose(text):
            return ""
        drawn = self._key.derive("canary draw", account, text.strip())
        if int.from_bytes(drawn[:8], "big") / 2.0**64 >= self._share:
            return ""
        nonce = int.from_bytes(drawn[8:16], "big") >> (64 - _NONCE_BITS)
        between = "" if text[-1].isspace() else ("\n\n" if "\n\n" in text else " ")
        return between + self._closings.write(self._key, account, nonce)

    def apply(self, account: str, text: str) -> str:
        """A complete answer, with its remark where it gets one."""
        return text + self.closing(account, text)

    def stream(self, account: str) -> CanaryStream:
        """For an answer that comes in pieces."""
        return CanaryStream(self, account)


class CanaryStream:
    """Watches the pieces of one answer go by, and says at its end what to add."""

    __slots__ = ("_account", "_canaries", "_length", "_pieces")

    def __init__(self, canaries: Canaries, account: str) -> None:
        self._canaries = canaries
        self._account = account
        self._pieces: list[str] = []
        self._length = 0

    def feed(self, piece: str) -> None:
        """A piece that was passed on as it is."""
        self._length += len(piece)
        if self._length <= _LONGEST_TEXT:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def close(self) -> str:
        """The text to send after the last piece of a complete answer, often "".

        Call it only when the model stopped by itself: an answer that was cut short has no end.
        """
        return self._canaries.closing(self._account, "".join(self._pieces))


def tag(key: Key, account: str) -> int:
    """An account's tag under a key: 35 bits."""
    return int.from_bytes(key.derive("canary tag", account)[:8], "big") >> (64 - TAG_BITS)


def _mask(key: Key, nonce: int) -> int:
    return int.from_bytes(key.derive("canary mask", str(nonce))[:8], "big") >> (64 - TAG_BITS)


def _folded(part: str) -> str:
    return " ".join(part.lower().translate(_NO_PUNCTUATION).split())


def _group(slot: tuple[str, ...]) -> str:
    # The longest first: "I hope that" before "I hope".
    parts = sorted(slot, key=len, reverse=True)
    return "(" + "|".join("".join(map(_character, part)) for part in parts) + ")"


def _character(character: str) -> str:
    if character == " ":
        return r"\s+"
    escaped = re.escape(character)
    return f"{escaped}?" if character in _PUNCTUATION else escaped


_NOT_PROSE_LINE: Final = re.compile(r"\s*(?:[-*+#>|`]|\d+[.)]|[A-Za-z][.)]\s)|\t| {4}")
_ENDED_POLITELY: Final = ("let me know", "feel free", "hope this", "hope that", "happy to help")
_COMMON: Final = frozenset(
    (
        *("the", "of", "and", "to", "a", "in", "is", "that", "for", "it", "as", "with", "are"),
        *("be", "on", "by", "or"),
    )
)
_SENTENCE_ENDS: Final = (".", "!", "?")


def _is_prose(text: str) -> bool:
    """Whether a closing remark would do no harm: English prose of at least 40 words to its end."""
    stripped = text.strip()
    if not stripped.endswith(_SENTENCE_ENDS) or stripped.startswith(("{", "[", "<")):
        return False
    if text.count("```") % 2:  # ends inside a block of code
        return False
    letters = [c for c in stripped if c.isalpha()]
    if sum(map(str.isascii, letters)) < 0.97 * len(letters):
        return False
    words = stripped.lower().split()
    if len(words) < _FEWEST_WORDS:
        return False
    if sum(word in _COMMON for word in words) < 0.15 * len(words):
        return False
    if _NOT_PROSE_LINE.match(stripped.rsplit("\n", 1)[-1]):
        return False
    end = stripped[-300:].lower()
    return not any(phrase in end for phrase in _ENDED_POLITELY)
