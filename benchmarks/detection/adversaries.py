"""Thieves who know that they are watched: what a campaign does on top of its harvesting.

A campaign has one form. `plain` is the ordinary one. `rotated` leaves an account when it is flagged
and goes on in a fresh one. `framing` copies customers' templates, clients and networks, so that a
detector that links accounts takes them for members. `look_alikes` shares its framework and client
with innocent customers. `warmed` accounts send honest traffic for days before they harvest.
`poisoner` accounts turn by a little each day, so that an operator's baseline follows them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.detection import arrivals
from benchmarks.detection.arrivals import DAY, WEEK
from benchmarks.detection.material import Material, Traffic, sample
from benchmarks.detection.sources import common_start

__all__ = ["FORMS", "HEAD", "Rotation", "Wrapper", "honest", "poisoned", "rotated", "warmed"]

Rng = np.random.Generator

FORMS: Final = ("plain", "rotated", "framing", "look_alikes", "warmed", "poisoner")
HEAD: Final = 40  # characters at a text's start by which accounts are linked


@dataclass(frozen=True, slots=True)
class Rotation:
    """After how many requests an account is left.

    `measured` goes from a campaign's plain group, such as "wiki x50", to the requests that such an
    account got before it was enforced: a thief who is told so leaves there. Other campaigns draw
    one number each between `least` and `most`.
    """

    least: int = 8
    most: int = 200
    measured: tuple[tuple[str, int], ...] = ()

    def after(self, rng: Rng, group: str) -> int:
        """The requests of one account in a campaign of the group."""
        drawn = rng.uniform(math.log(self.least), math.log(self.most))
        return dict(self.measured).get(group) or round(math.exp(drawn))


@dataclass(frozen=True, slots=True)
class Wrapper:
    """What stands around every text of an account."""

    head: str
    tail: str = ""

    def around(self, texts: Sequence[str]) -> list[str]:
        return [f"{self.head}{text}{self.tail}" for text in texts]

    @staticmethod
    def of(texts: Sequence[str]) -> Wrapper | None:
        """The template behind most of an account's texts, or None where there is none to copy.

        That is the longest start and end of the texts that begin with its commonest HEAD
        characters; at least a third of all, with three different texts, must.
        """
        counts = Counter(text[:HEAD] for text in texts if len(text) > HEAD)
        if not counts:
            return None
        head, count = counts.most_common(1)[0]
        alike = list(dict.fromkeys(text for text in texts if text.startswith(head)))
        if 3 * count < len(texts) or len(alike) < 3:
            return None
        start = common_start(alike)
        backwards = [text[len(start) :][::-1] for text in alike]
        return Wrapper(start, common_start(backwards)[::-1])


def rotated(rng: Rng, traffic: Sequence[Traffic], after: int, lives: int) -> list[Traffic]:
    """Each account's traffic cut into up to `lives` accounts of about `after` requests."""
    out = []
    for one in traffic:
        sizes = np.maximum(after * rng.lognormal(0, 0.15, lives), 1).round().astype(int)
        start = 0
        for size in sizes.tolist():
            if start >= len(one.times):
                break
            own = slice(start, start + size)
            out.append(Traffic(one.times[own], one.texts[own]))
            start += size
    return out


def honest(material: Material, rng: Rng, n: int) -> list[str]:
    """`n` ordinary messages of a person who is nobody's customer, then of others like him."""
    person = material.their_people[int(rng.integers(len(material.their_people)))]
    texts = person.texts if len(person.texts) >= n else person.texts + material.their_lines
    start = int(rng.integers(max(len(texts) - n, 1)))
    return sample(rng, texts[start : start + n], n)


def warmed(material: Material, rng: Rng, traffic: Sequence[Traffic], week: int) -> list[Traffic]:
    """The traffic in week `week` (from 0), each account's after three to seven honest days."""
    out = []
    for one in traffic:
        began = week * WEEK + (float(one.times[0]) if len(one.times) else 0.0)
        n = int(np.clip(len(one.times) * rng.uniform(0.5, 1.5), 20, 400))
        length = rng.uniform(3, 7) * DAY
        times = arrivals.human(rng, material.their_people, n, 0.0, 0.97 * length)
        # However short his sessions, he comes back until the days are over.
        times = times * (rng.uniform(0.9, 0.99) * length / max(float(times[-1]), 1.0))
        texts = honest(material, rng, len(times))
        out.append(
            Traffic(
                np.concatenate([began - length + times, week * WEEK + one.times]),
                texts + one.texts,
            )
        )
    return out


def poisoned(
    material: Material,
    rng: Rng,
    ask: Callable[[int], list[str]],
    accounts: int,
    weeks: int,
    a_day: float,
) -> list[Traffic]:
    """Accounts that send honest messages for weeks, and each day more of what `ask(n)` gives.

    On day d, counted from 1, so many harvest: d times `a_day`.
    """
    out: list[Traffic] = []
    turned: list[list[int]] = []
    for _ in range(accounts):
        a_week = int(np.clip(rng.lognormal(math.log(150.0), 0.4), 70, 400))
        times = np.concatenate(
            [
                week * WEEK + arrivals.diurnal(rng, np.sort(rng.uniform(0, WEEK, a_week)))
                for week in range(weeks)
            ]
        )
        share = np.minimum(a_day * (np.floor(times / DAY) + 1), 1.0)
        out.append(Traffic(times, honest(material, rng, len(times))))
        turned.append(np.flatnonzero(rng.random(len(times)) < share).tolist())
    texts = iter(ask(sum(map(len, turned))))
    for one, at in zip(out, turned, strict=True):
        for i in at:
            one.texts[i] = next(texts)
    return out
