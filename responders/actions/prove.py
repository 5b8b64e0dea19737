"""Was a model trained on marked answers? The test behind `velvetrope prove`.

**The null hypothesis** is that the suspect's answers do not depend on the key. Then, whatever the
suspect answers, two things are left to the key's chance, and to it alone:

1. which of the registered questions are marked: n of N, each set of n as likely as any other;
2. which wrong label is the mark: any of the m - 1 labels but the model's own, equally likely.

So, given that the suspect disagrees with the model on D of N questions, the number J of marked
questions among those D is hypergeometric, and the number K of them on which it gives the mark
itself is binomial (J, 1/(m - 1)). The p-value is P(K ≥ what was seen). Nothing is assumed of the
suspect: not how good it is, nor how it errs, nor that its errors are independent. With two classes,
where every disagreement is the mark, all the evidence is in the first; with many, in the second.

DAWN (Szyller et al. 2021, section 4.4) tests a binomial with a fixed rate of 1/m for every mark.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from velvetrope_client.keys import Key, Keyring
from velvetrope_client.watermark import Draw, Question

__all__ = ["ALTERNATES", "Claim", "Stratum", "holm", "p_value", "prove", "question_id"]

ALTERNATES: Final = 999


@dataclass(frozen=True, slots=True)
class Stratum:
    """Questions under one key, at one rate, with one number of classes.

    `asked` of them were answered, `marked` of these are marked, on `disagreed` of all that were
    asked the suspect does not say what the model says, and `others` labels are not the model's.
    """

    asked: int
    marked: int
    disagreed: int
    others: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What the suspect's answers say about one subject.

    Attributes:
        subject: whose marks they are, an account or a campaign.
        marks: marked questions that the suspect answered.
        learned: those that it answered with the mark.
        disagreed: those that it answered otherwise than the model.
        controls: unmarked questions that it answered.
        controls_disagreed: those that it answered otherwise than the model.
        p_value: exact, under the null hypothesis above.
        adjusted: the same after Holm's correction for the subjects that were tested.
        p_alternates: share of alternate keys, the true one among them, that do as well.
        alternates: how many there were beside the true one.
    """

    subject: str
    marks: int
    learned: int
    disagreed: int
    controls: int
    controls_disagreed: int
    p_value: float
    adjusted: float
    p_alternates: float
    alternates: int


def question_id(key: Key, question: Question) -> str:
    """A name for a question that tells nothing of it: 24 hexadecimal digits."""
    return key.derive("question", question.subject, question.cell)[:12].hex()


def prove(
    questions: Iterable[Question],
    answers: Mapping[str, str],
    keyring: Keyring,
    *,
    alternates: int = ALTERNATES,
    done: Callable[[], None] = lambda: None,
) -> list[Claim]:
    """One claim for each subject with a marked question that was answered, the strongest first.

    `answers`: the suspect's label by `question_id`; questions without one do not count. `done` is
    called after each subject.
    """
    by_subject: dict[str, list[tuple[Question, str]]] = defaultdict(list)
    for question in questions:
        key = keyring.get(question.key_id)
        answer = answers.get(question_id(key, question))
        if answer is not None and question.draw(key) is not Draw.NEITHER:
            by_subject[question.subject].append((question, answer))
    claims = []
    for subject, answered in by_subject.items():
        claim = _claim(subject, answered, keyring, alternates)
        if claim.marks:
            claims.append(claim)
        done()
    adjusted = holm([claim.p_value for claim in claims])
    claims = [replace(c, adjusted=value) for c, value in zip(claims, adjusted, strict=True)]
    return sorted(claims, key=lambda claim: (claim.p_value, claim.subject))


def p_value(strata: Sequence[Stratum], learned: int) -> float:
    """P(K ≥ learned), K the sum over strata of the marks that an innocent suspect hits.

    >>> round(p_value([Stratum(asked=10, marked=10, disagreed=10, others=9)], 10) * 9**10, 6)
    1.0
    """
    null: NDArray[np.float64] = np.ones(1)
    for one in strata:
        most = min(one.marked, one.disagreed)
        among = np.arange(most + 1)
        chance = stats.hypergeom.pmf(among, one.asked, one.disagreed, one.marked)
        hits = chance @ stats.binom.pmf(among[None, :], among[:, None], 1 / one.others)
        null = np.convolve(null, hits)
    # Summed from the smallest up, so that a tail of 1e-40 keeps its digits.
    return min(float(null[learned:][::-1].sum()), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _claim(
    subject: str, answered: Sequence[tuple[Question, str]], keyring: Keyring, alternates: int
) -> Claim:
    groups: dict[tuple[str, float, int], list[tuple[Question, str]]] = defaultdict(list)
    for question, answer in answered:
        others = len(set(question.classes) - {question.label})
        groups[question.key_id, question.rate, others].append((question, answer))
    strata, marks, learned, disagreed = [], 0, 0, 0
    for (name, _, others), group in groups.items():
        key = keyring.get(name)
        marked = [pair for pair in group if pair[0].draw(key) is Draw.MARKED]
        strata.append(Stratum(len(group), len(marked), _disagreed(group), others))
        marks += len(marked)
        learned += _learned(marked, key)
        disagreed += _disagreed(marked)
    # Of no marks, every key has learned as many.
    tried = range(alternates) if learned else range(0)
    worse = sum(_under(_alternate(n), groups.values(), strata) < learned for n in tried)
    p = p_value(strata, learned)
    return Claim(
        subject=subject,
        marks=marks,
        learned=learned,
        disagreed=disagreed,
        controls=sum(one.asked for one in strata) - marks,
        controls_disagreed=sum(one.disagreed for one in strata) - disagreed,
        p_value=p,
        adjusted=p,
        p_alternates=(1 + alternates - worse) / (1 + alternates),
        alternates=alternates,
    )


def _under(
    key: Key, groups: Iterable[Sequence[tuple[Question, str]]], strata: Sequence[Stratum]
) -> int:
    """The marks that the suspect would have learned, had another key marked as many."""
    total = 0
    for group, one in zip(groups, strata, strict=True):
        # An answer that agrees with the model is no key's mark: it need not be looked up.
        placed = sorted((question.place(key), index) for index, (question, _) in enumerate(group))
        chosen = (group[index] for _, index in placed[: one.marked])
        total += _learned([pair for pair in chosen if pair[1] != pair[0].label], key)
    return total


def _learned(marked: Sequence[tuple[Question, str]], key: Key) -> int:
    return sum(
        answer != question.label and answer == question.wrong_label(key)
        for question, answer in marked
    )


def _disagreed(answered: Sequence[tuple[Question, str]]) -> int:
    return sum(answer != question.label for question, answer in answered)


def _alternate(number: int) -> Key:
    """Keys that anybody can make again, so that the second p-value can be checked."""
    return Key(
        f"alternate-{number}", sha256(f"velvetrope alternate key {number}".encode()).digest()
    )
