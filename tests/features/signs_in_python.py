"""The signs of an input once more, in plain Python, with words as words instead of hashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from features import signs
from features.signs import SIGNS

__all__ = ["Reading", "anywhere", "articles", "functions", "opening", "pairs", "read_words"]


class Reading(NamedTuple):
    """Bits of the signs, function words, and articles that such a word follows."""

    signs: int
    function: int
    odd: int


def _split(lists: Mapping[str, str], by: str | None = None) -> dict[str, list[str]]:
    return {
        sign: [" ".join(entry.split()) for entry in words.split(by)]
        for sign, words in lists.items()
    }


def opening() -> dict[str, list[str]]:
    """Words by the sign that they are where an input opens."""
    return _split(signs._OPENING)


def anywhere() -> dict[str, list[str]]:
    """Words by the sign that they are anywhere."""
    return _split(signs._ANYWHERE)


def pairs() -> dict[str, list[str]]:
    """Pairs of words by the sign that they are when one follows the other."""
    return _split(signs._PAIRS, ",")


def articles() -> list[str]:
    """Words that a function word hardly ever follows."""
    return signs._ARTICLES.split()


def functions() -> list[str]:
    """Function words."""
    return signs._FUNCTIONS.split()


def read_words(words: Sequence[bytes], data: bytes) -> Reading:
    """What `read_text` should find in these words of `data`, which are in lower case."""
    found = set()
    texts = [word.decode("latin-1") for word in words]
    for sign in SIGNS:
        if texts and texts[0] in opening().get(sign, []):
            found.add(sign)
        if set(texts) & set(anywhere().get(sign, [])):
            found.add(sign)
        following = {f"{a} {b}" for a, b in pairwise(texts)}
        if following & set(pairs().get(sign, [])):
            found.add(sign)
    # Bytes up to the space are white space or control characters.
    shown = data.rstrip(bytes(range(33)))
    if shown.endswith(b"?"):
        found.add("asks")
    function = [text in functions() for text in texts]
    odd = sum(
        now and before in articles() for before, now in zip(texts, function[1:], strict=False)
    )
    return Reading(sum(1 << SIGNS.index(sign) for sign in found), sum(function), odd)
