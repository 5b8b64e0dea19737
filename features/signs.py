"""Words and pairs of words that say how a request is put, as tables of hashes.

The lists are general English, written down before any traffic was looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["ARTICLE", "FUNCTION", "PAIRS", "SIGNS", "WORDS", "word_hash"]

ARTICLE: Final = 1 << 16  # bits of a word of WORDS, beside its signs
FUNCTION: Final = 1 << 17
_ARTICLES: Final = "the a an"
# Words of which half of any English prose consists, and which hardly ever follow an article.
_FUNCTIONS: Final = """the a an of in to and is was for on with as by at from or but that which are
    were be been has had have it its he she they his her their this these those not if when than
    then there who into i you we my your our do does did will would can could should"""

# Bits of an event's signs, in order. The first three look at how the input opens.
SIGNS: Final = (
    "instructs",
    "asks",
    "refers_back",
    "personal",
    "reasons",
    "generates",
    "probes",
    "opens_up",  # from the request's parameters, not from words
)
_OPENING: Final[Mapping[str, str]] = {
    "instructs": """write create generate explain describe list give provide compose design develop
        summarize summarise translate classify identify compare implement rewrite suggest construct
        calculate compute find determine convert discuss outline propose edit draft make build
        produce formulate name categorize rank evaluate analyze analyse imagine pretend act tell
        solve sort extract answer complete add show state define recommend transform simplify
        paraphrase predict infer select choose pick rate score review correct fix arrange combine
        brainstorm invent devise craft illustrate demonstrate detect assign estimate generate
        please you your given using consider take read based""",
    "asks": """what why how when where who which whose whom is are was were do does did can could
        should would will has have had am may might shall isn aren don doesn""",
    "refers_back": """it that this these those and but so ok okay yes no yeah yep nope thanks thank
        also then because or well hmm ah oh lol haha sure right sorry nice cool great maybe he she
        they him her them same still again now actually anyway wait""",
}
_ANYWHERE: Final[Mapping[str, str]] = {
    "personal": "i my me mine myself im ive id we our us ours",
    "reasons": "rationale reasoning derivation justify intermediate",
    "generates": "rubric rubrics jsonl diverse",
    "probes": "jailbreak logprobs logits hyperparameters uncensored unfiltered",
}
_PAIRS: Final[Mapping[str, str]] = {
    "reasons": """step by,by step,chain of,of thought,show your,your reasoning,explain your,
        your work,think through,think carefully,reason about,work through,work it,final answer,
        each step,every step,in detail,break down,think about,thought process""",
    "generates": """list of,set of,more examples,examples of,following format,output format,
        json format,the format,in json,each question,question and,questions and,answer pairs,
        topics to,on topic,topic of,random topics,word count,for each,the following,
        paragraph on,essay on,story about,dialogue between,given topic,such as""",
    "probes": """ignore previous,ignore all,ignore the,previous instructions,system prompt,
        your instructions,your prompt,developer mode,no restrictions,without restrictions,
        your parameters,training data,hidden layers,context window,knowledge cutoff,
        were trained,you trained,language model,which model,what model,your creators""",
}
_MASK: Final = (1 << 64) - 1
_TABLE: Final = 1024  # a power of two, several times the number of entries


def word_hash(word: str) -> int:
    """The hash by which `features.kernels.read_text` knows a word of lower-case ASCII."""
    h = 0xCBF29CE484222325
    for byte in word.encode():
        h = ((h ^ byte) * 0x100000001B3) & _MASK
    return _mix(h)


def _mix(h: int) -> int:
    h ^= h >> 33
    h = (h * 0xFF51AFD7ED558CCD) & _MASK
    h ^= h >> 33
    h = (h * 0xC4CEB9FE1A85EC53) & _MASK
    return h ^ (h >> 33)


def _pair_hash(first: str, second: str) -> int:
    return _mix((word_hash(first) * 3 & _MASK) ^ word_hash(second))


def _table(entries: Mapping[int, int]) -> NDArray[np.uint64]:
    """Open addressing, uint64 (_TABLE, 2): hash (0: free) and bits, at the hash's last ten bits."""
    table = np.zeros((_TABLE, 2), np.uint64)
    for key in sorted(entries):
        place = key % _TABLE
        while table[place, 0]:
            place = (place + 1) % _TABLE
        table[place] = key, entries[key]
    return table


def _words() -> dict[int, int]:
    # The low byte holds what a word says where an input opens, the next what it says anywhere.
    entries: dict[int, int] = {}
    for shift, lists in ((0, _OPENING), (8, _ANYWHERE)):
        for sign, words in lists.items():
            for word in words.split():
                key = word_hash(word)
                entries[key] = entries.get(key, 0) | 1 << (SIGNS.index(sign) + shift)
    for bit, words in ((ARTICLE, _ARTICLES), (FUNCTION, _FUNCTIONS)):
        for word in words.split():
            key = word_hash(word)
            entries[key] = entries.get(key, 0) | bit
    return entries


def _pairs() -> dict[int, int]:
    entries: dict[int, int] = {}
    for sign, pairs in _PAIRS.items():
        for pair in pairs.split(","):
            key = _pair_hash(*pair.split())
            entries[key] = entries.get(key, 0) | 1 << SIGNS.index(sign)
    return entries


WORDS: Final = _table(_words())
PAIRS: Final = _table(_pairs())
