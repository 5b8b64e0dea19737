"""One week's content: what customers say, what thieves say, and how either may be wrapped.

Natural texts are divided between the two for each week, so that no thief sends a customer's own
message. Task and problem texts are shared on purpose: the same item is an honest evaluation in one
account and a harvest in another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.phrases import Phrases, phrases
from benchmarks.detection.sources import Person, Sources
from benchmarks.detection.wordings import datasets, fragments, puzzles, records

__all__ = ["Material", "Shape", "Traffic", "cut", "sample"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rng = np.random.Generator
Unit = TypeVar("Unit")
# People with fewer messages than this are no account of their own; they speak through others'.
_ACCOUNT_MESSAGES = 12
_THIEVES_SHARE = 0.25
_HISTORY_CHARS = 4_000


@dataclass(slots=True)
class Traffic:
    """What one account sends in the week: times in seconds from its start, and texts."""

    times: Floats
    texts: list[str]

    def later(self, seconds: float) -> Traffic:
        return Traffic(self.times + seconds, self.texts)

    def trimmed(self, most: int) -> Traffic:
        return Traffic(self.times[:most], self.texts[:most])


@dataclass(frozen=True, slots=True)
class Shape:
    """How a text reaches the log: bare, behind a system prompt, or with its conversation."""

    head: str = ""
    roles: bool = False  # "user: " and "assistant: " in front of each turn
    turns: int = 0  # earlier turns that are sent again
    replies: tuple[str, ...] = ()

    def apply(self, rng: Rng, texts: Sequence[str], session: Ints | None = None) -> list[str]:
        """Shape texts; `session` numbers the conversation of each (default: one in all)."""
        user = "user: " if self.roles else ""
        head = self.head
        if head and self.roles:
            head = f"system: {head}\n"
        elif head and not head.endswith("\n"):
            head += "\n\n"
        if not self.turns:
            return [f"{head}{user}{text}" for text in texts] if head or user else list(texts)
        number = session.tolist() if session is not None else [0] * len(texts)
        reply = rng.integers(max(len(self.replies), 1), size=len(texts)).tolist()
        answer = "assistant: " if self.roles else ""
        past: dict[int, list[str]] = {}
        shaped = []
        for text, of, pick in zip(texts, number, reply, strict=True):
            turns = past.setdefault(of, [])
            turns.append(user + text)
            if len(turns) > 2 * self.turns + 1:
                del turns[:2]
            while len(turns) > 2 and sum(map(len, turns)) > _HISTORY_CHARS:
                del turns[:2]
            shaped.append(head + "\n".join(turns))
            turns.append(answer + (self.replies[pick] if self.replies else "ok"))
        return shaped


class Material:
    """What a week may be made of. Everything drawn from it is a function of `rng`."""

    def __init__(self, sources: Sources, rng: Rng, wordings: Phrases | None = None) -> None:
        self.phrases: Phrases = wordings or phrases(sources.split)
        self.composed = wordings is not None
        self.passages = [t for texts in sources.passages.values() for t in texts]
        if self.composed:  # tasks without end, for evaluations and for who harvests by them
            sources = replace(
                sources,
                puzzles=sources.puzzles | puzzles(rng, self.passages or [""]),
                tasks=sources.tasks | datasets(rng, sources.passages, self.phrases),
            )
        self.sources = sources
        talkers = [p for p in sources.people if len(p.texts) >= _ACCOUNT_MESSAGES]
        quiet = [p for p in sources.people if len(p.texts) < _ACCOUNT_MESSAGES]
        self.their_people, self.people = _divided(rng, talkers)
        self.their_quiet, self.quiet = _divided(rng, quiet)
        self.lines = [t for p in self.quiet for t in p.texts]
        self.their_lines = [t for p in self.their_quiet for t in p.texts]
        theirs, own = _divided(rng, list(sources.utterances))
        self.utterances = {k: sources.utterances[k] for k in own}
        self.their_utterances = [t for k in theirs for t in sources.utterances[k]]
        theirs, own = _divided(rng, list(sources.questions))
        self.questions = [t for k in own for t in sources.questions[k]]
        self.their_questions = [t for k in theirs for t in sources.questions[k]]
        theirs, own = _divided(rng, list(sources.personas))
        self.personas = [t for k in own for t in sources.personas[k]]
        self.their_personas = [t for k in theirs for t in sources.personas[k]]
        # Frameworks are chosen by many: a few customers' products stand behind most heads.
        self.systems = [self.phrases.system(rng) for _ in range(40)]
        self._next_person = 0

    def person(self) -> Person | None:
        """The next person who is no account yet, or None when all are."""
        if self._next_person >= len(self.people):
            return None
        self._next_person += 1
        return self.people[self._next_person - 1]

    def replies(self, rng: Rng, count: int = 40) -> tuple[str, ...]:
        """Stand-ins for the model's answers in a logged conversation."""
        texts = sample(rng, self.passages, count) if self.passages else ["ok"]
        return tuple(cut(rng, text, int(rng.integers(40, 400))) for text in texts)

    def shape(self, rng: Rng, *, chatty: float, headed: float) -> Shape:
        """Draw how an account's texts are wrapped: the same ways for customers and thieves."""
        roles = bool(rng.random() < 0.4)
        head = self.head(rng) if rng.random() < headed else ""
        if rng.random() < chatty:
            return Shape(head, roles, int(rng.integers(1, 9)), self.replies(rng))
        return Shape(head, roles and bool(head))

    def head(self, rng: Rng) -> str:
        """What a framework, or a system prompt of one's own, puts in front of every text."""
        source = rng.random()
        if source < 0.45:
            return self.phrases.frameworks[int(rng.integers(len(self.phrases.frameworks)))]
        if source < 0.65:
            return self.systems[int(rng.integers(len(self.systems)))]
        return self.phrases.system(rng)

    def requests(self, rng: Rng, n: int) -> list[str]:
        """`n` messages of one application's users: one of several registers, narrow or broad."""
        register = rng.random()
        if register < 0.4 and self.utterances:
            intents = sorted(self.utterances)
            few = rng.permutation(len(intents))[: int(rng.integers(1, 1 + len(intents)))]
            return sample(rng, [t for i in few.tolist() for t in self.utterances[intents[i]]], n)
        if register < 0.8:
            start = int(rng.integers(max(len(self.lines) - 2 * n, 1)))
            return sample(rng, self.lines[start : start + 4 * n], n)
        # Who asks a chat model whole questions is rare, and looks most like a thief: more of them
        # where there is something to learn.
        asked, coded = (0.92, 0.97) if self.composed else (0.86, 0.9)
        if register < asked:
            return self.varied(rng, sample(rng, self.questions, n))
        if register < coded and self.sources.instructions:  # a coding tool's users, a few topics
            topics = sorted(self.sources.instructions)
            few = rng.permutation(len(topics))[: int(rng.integers(1, 5))].tolist()
            return sample(rng, [t for i in few for t in self.sources.instructions[topics[i]]], n)
        return self.documents(rng, n)

    def documents(self, rng: Rng, n: int) -> list[str]:
        """`n` documents of one kind: reviews, articles, dialogues."""
        names = sorted(self.sources.passages)
        texts = self.sources.passages[names[int(rng.integers(len(names)))]]
        if self.composed:  # and headlines, queries, records
            style = rng.random()
            if style < 0.4:
                make = fragments if style < 0.25 else records
                return make(rng, texts, n)
        return self.varied(rng, sample(rng, texts, n))

    def varied(self, rng: Rng, texts: Sequence[str]) -> list[str]:
        """The same texts, but those that occur again are cut: documents seldom repeat whole."""
        seen: set[str] = set()
        out = []
        for text in texts:
            if text in seen and len(text) > 60:
                text = cut(rng, text, int(len(text) * rng.uniform(0.4, 0.95)))
            seen.add(text)
            out.append(text)
        return out


def cut(rng: Rng, text: str, size: int) -> str:
    """About `size` characters of a text, from one word's start to another's end."""
    if len(text) <= size:
        return text
    start = int(rng.integers(len(text) - size))
    start = text.find(" ", start) + 1 if start else 0
    end = text.find(" ", start + size)
    return text[start : end if end > 0 else len(text)] or text[:size]


def sample(rng: Rng, texts: Sequence[str], n: int) -> list[str]:
    """`n` texts: each once in random order, and over again when there are too few."""
    size = len(texts)
    if n <= size:
        return [texts[i] for i in rng.permutation(size)[:n].tolist()]
    rounds = [rng.permutation(size) for _ in range(-(-n // size))]
    return [texts[i] for i in np.concatenate(rounds)[:n].tolist()]


def _divided(rng: Rng, units: list[Unit]) -> tuple[list[Unit], list[Unit]]:
    """(thieves', customers') in random order."""
    order = rng.permutation(len(units)).tolist()
    theirs = max(1, round(len(units) * _THIEVES_SHARE)) if len(units) > 1 else 0
    return [units[i] for i in order[:theirs]], [units[i] for i in order[theirs:]]
