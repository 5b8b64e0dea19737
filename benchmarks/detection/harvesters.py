"""Campaigns that harvest a text model: what they ask, over how many accounts, and at what times."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection import adversaries, arrivals
from benchmarks.detection.adversaries import Rotation, Wrapper
from benchmarks.detection.arrivals import DAY, WEEK
from benchmarks.detection.material import Material, Traffic, cut, sample
from benchmarks.detection.phrases import Voice, any_of

__all__ = [
    "ASSIGNMENTS",
    "FAMILIES",
    "SIZES",
    "TIMINGS",
    "Campaign",
    "campaigns",
    "harvest",
    "poison",
]

Ints = NDArray[np.int64]
Rng = np.random.Generator

SIZES: Final = (1, 10, 50, 200, 1000)
TIMINGS: Final = (*arrivals.PATTERNS, "human", "production")
_SLOW_TIMINGS: Final = ("fixed", "jittered", "poisson", "production")
ASSIGNMENTS: Final = ("random", "round_robin", "topic")
# How often a campaign of nominally so many accounts is drawn, and its requests an account:
# (median, spread, least, most).
_SIZE_WEIGHTS: Final = {1: 0.34, 10: 0.36, 50: 0.22, 200: 0.08, 1000: 0.01}
_LEAST_OF_SIZE: Final = 0.7  # a campaign has .7 to 1.2 of the accounts that its row is named for
_REQUESTS: Final = {
    1: (1500.0, 0.8, 300, 8000),
    10: (250.0, 0.8, 60, 2000),
    50: (110.0, 0.5, 60, 600),
    200: (85.0, 0.2, 60, 120),
    1000: (85.0, 0.2, 60, 120),
}
_COVERED: Final = 0.4  # of the campaigns; of these, so many hide half of their requests or more:
_MOSTLY_COVER: Final = 0.25
_LOW_AND_SLOW: Final = 0.1
# Who matches customers' lengths chooses among so many texts for each that is sent. A request stays
# whole, or its answer is worth nothing; what has no question in it may be cut.
_CHOICE: Final = 3
_CUT: Final = frozenset({"wiki", "word_salad"})


@dataclass(frozen=True, slots=True)
class Campaign:
    """How one campaign goes about it."""

    family: str
    size: int  # nominal: what the row is called
    accounts: int  # at the same time
    requests: int  # of one account, or of those that it is rotated through
    assignment: str
    timing: str
    joining: float  # seconds over which the accounts start
    duration: float  # seconds that one account is active, about
    cover: float  # share of an account's requests that are other people's ordinary messages
    length_matched: bool
    low_and_slow: bool = False
    shared: dict[str, float] = field(default_factory=dict)  # hint → share of accounts that share it
    form: str = "plain"  # one of adversaries.FORMS
    after: int = 0  # rotated: requests after which an account is left
    lives: int = 1  # rotated: accounts one after the other in place of one

    @property
    def group(self) -> str:
        if self.form == "poisoner":
            return self.form
        row = f"{self.family} x{self.size}"
        return row if self.form == "plain" else f"{row} {self.form}"


def campaigns(
    rng: Rng,
    accounts: int,
    families: Sequence[str],
    most_cover: float,
    sizes: Sequence[int] = SIZES,
    forms: Sequence[str] = ("plain",),
    rotation: Rotation | None = None,
) -> list[Campaign]:
    """Campaigns with `accounts` accounts in all: families and forms take turns, sizes are drawn.

    Accounts that are too few for any of `sizes` stay unused. Where a form makes no sense, as
    look-alikes of one account or a rotation without fresh accounts, the campaign is plain.

    Raises:
        ValueError: all of them are too few.
    """
    deck: list[str] = []
    drawn: list[Campaign] = []
    left = accounts
    while fitting := [s for s in sizes if max(_LEAST_OF_SIZE * s, 1) <= left]:
        form = forms[len(drawn) % len(forms)]
        if form == "rotated":  # leaves accounts to rotate through, where it can
            fitting = [s for s in fitting if 3 * s <= left] or fitting
        weights = np.array([_SIZE_WEIGHTS[s] for s in fitting])
        size = int(rng.choice(fitting, p=weights / weights.sum()))
        share = rng.uniform(0.8, 1.2)
        actual = 1 if size == 1 else min(max(2, round(size * share)), left)
        if not deck:
            deck = [families[i] for i in rng.permutation(len(families)).tolist()]
        campaign = _campaign(rng, deck.pop(), size, actual, most_cover)
        if form == "rotated":
            campaign = _rotated(rng, campaign, rotation or Rotation(), left)
        elif form != "look_alikes" or size > 1:
            campaign = replace(campaign, form=form)
        drawn.append(campaign)
        left -= campaign.accounts * campaign.lives
    if accounts and not drawn:
        raise ValueError(f"{accounts} accounts are too few for campaigns of {min(sizes)}")
    return drawn


def _campaign(rng: Rng, family: str, size: int, accounts: int, most_cover: float) -> Campaign:
    median, sigma, least, most = _REQUESTS[size]
    slow = rng.random() < _LOW_AND_SLOW
    small = slow or (size > 1 and rng.random() < 0.3)
    requests = (
        rng.integers(60, 121)
        if small
        else np.clip(rng.lognormal(math.log(median), sigma), least, most)
    )
    duration = float(np.clip(rng.lognormal(math.log(1.2 * DAY), 1.4), 1800.0, WEEK * 0.95))
    joining = 0.0 if size == 1 else float(rng.choice([0.0, 600.0, DAY, 3 * DAY, 5 * DAY]))
    if slow:  # ten to twenty requests a day, all week
        duration, joining = float(rng.uniform(0.85, 0.95)) * WEEK, 0.0
    linked = str(rng.choice(["none", "network", "payment", "both"], p=(0.4, 0.25, 0.2, 0.15)))
    shared = {}
    if linked in ("network", "both"):
        shared["network"] = float(rng.uniform(0.2, 1.0))
    if linked in ("payment", "both"):
        shared["payment"] = float(rng.uniform(0.2, 1.0))
    if rng.random() < 0.4:
        shared["client"] = float(rng.uniform(0.5, 1.0))
    return Campaign(
        family=family,
        size=size,
        accounts=accounts,
        requests=int(requests),
        assignment=str(rng.choice(ASSIGNMENTS)),
        timing=str(rng.choice(_SLOW_TIMINGS if slow else TIMINGS)),
        joining=joining,
        duration=duration,
        cover=_cover_share(rng, most_cover),
        length_matched=bool(rng.random() < 0.2) and family not in ("natural", "teacher_templates"),
        low_and_slow=slow,
        shared=shared,
    )


def _rotated(rng: Rng, campaign: Campaign, rotation: Rotation, left: int) -> Campaign:
    """The campaign through as many fresh accounts as its budget takes and `left` allows."""
    after = rotation.after(rng, campaign.group)
    lives = min(-(-campaign.requests // after), left // campaign.accounts)
    if lives < 2:
        return campaign
    requests = min(campaign.requests, lives * after)
    return replace(campaign, form="rotated", requests=requests, after=after, lives=lives)


def _cover_share(rng: Rng, most: float) -> float:
    """The share of an account's requests that hide the others: usually none, at most `most`."""
    if most <= 0.05 or rng.random() >= _COVERED:
        return 0.0
    if most > 0.5 and rng.random() < _MOSTLY_COVER:
        return float(rng.uniform(0.5, most))
    return float(rng.uniform(0.05, min(most, 0.5)))


def harvest(
    material: Material,
    rng: Rng,
    campaign: Campaign,
    lengths: Sequence[Ints],
    wrappers: Sequence[Wrapper] = (),
) -> list[Traffic]:
    """The traffic of each account in one week.

    `lengths` are customers' text lengths, to be matched. `wrappers`, where there are any, are dealt
    to the accounts in turn and stand around their texts in place of ways of their own.
    """
    own = np.maximum(
        (campaign.requests * rng.lognormal(0, 0.15, campaign.accounts)).astype(int), 20
    )
    covered = np.minimum((own * campaign.cover).astype(int), own - 8)
    asked = own - covered
    total = int(asked.sum())
    matched = campaign.length_matched and len(lengths) > 0
    texts, topics = FAMILIES[campaign.family](material, rng, total * (_CHOICE if matched else 1))
    if matched:
        like = lengths[int(rng.integers(len(lengths)))]
        texts, topics = _matched(rng, texts, topics, like, cuts=campaign.family in _CUT)
    owner = _assigned(rng, campaign.assignment, topics, asked)
    voice = Voice.draw(rng, plain=0.75)
    one_shape = rng.random() < 0.85
    # What they use for their own requests is nobody's business but theirs: often nothing at all.
    shape = material.shape(rng, chatty=0.08, headed=0.3)
    least = campaign.duration if campaign.low_and_slow else min(campaign.duration, 5 * DAY)
    start = rng.uniform(0, max(WEEK - campaign.joining - least, 60.0))
    night = rng.random() < 0.3
    out = []
    for account in range(campaign.accounts):
        mine = voice.say(rng, [texts[i] for i in np.flatnonzero(owner == account).tolist()])
        if not one_shape:
            shape = material.shape(rng, chatty=0.08, headed=0.3)
        wrapper = wrappers[account % len(wrappers)] if wrappers else None
        if wrapper:
            mine = wrapper.around(mine)
        else:
            mine = shape.apply(rng, mine, np.arange(len(mine)) // 4)
        if covered[account]:
            other = adversaries.honest(material, rng, int(covered[account]))
            other = wrapper.around(other) if wrapper else other
            place = np.sort(rng.choice(len(mine) + len(other), len(other), replace=False))
            merged = iter(mine)
            hidden = dict(zip(place.tolist(), other, strict=True))
            mine = [
                hidden[i] if i in hidden else next(merged) for i in range(len(mine) + len(other))
            ]
        began = start + (
            rng.uniform(0, campaign.joining) if campaign.joining else rng.uniform(0, 30.0)
        )
        times = _times(material, rng, campaign, len(mine), began)
        if night and campaign.timing in ("poisson", "jittered"):
            times = arrivals.diurnal(rng, times, depth=0.9)
        out.append(Traffic(times, mine[: len(times)]))
    if campaign.form == "rotated":
        return adversaries.rotated(rng, out, campaign.after, campaign.lives)
    return out


def poison(
    material: Material, rng: Rng, campaign: Campaign, weeks: int, a_day: float
) -> list[Traffic]:
    """The traffic of each account of slow poisoners over some weeks."""

    def ask(n: int) -> list[str]:
        return FAMILIES[campaign.family](material, rng, max(n, 1))[0]

    return adversaries.poisoned(material, rng, ask, campaign.accounts, weeks, a_day)


def _times(
    material: Material, rng: Rng, campaign: Campaign, n: int, start: float
) -> arrivals.Floats:
    # Late joiners hurry rather than fall silent at the week's end.
    length = min(campaign.duration * rng.lognormal(0, 0.1), (WEEK - start) * 0.97)
    if campaign.timing == "human":
        return arrivals.human(rng, material.their_people, n, start, length)
    if campaign.timing == "production":
        clients = material.sources.clients
        client = clients[int(rng.integers(len(clients)))]
        return arrivals.production(rng, client, n, start, length)
    return arrivals.paced(rng, campaign.timing, n, start, length)


def _assigned(rng: Rng, assignment: str, topics: Ints, asked: Ints) -> Ints:
    """Which account sends which text."""
    owner = np.repeat(np.arange(len(asked)), asked)
    if assignment == "topic":  # an account stays with a topic as long as it lasts
        result = np.empty_like(owner)
        result[np.argsort(topics, kind="stable")] = owner
        return result
    if assignment == "round_robin":
        turn = np.concatenate([np.arange(n) for n in asked.tolist()])
        return owner[np.argsort(turn, kind="stable")]
    return rng.permutation(owner)


def _matched(
    rng: Rng, texts: Sequence[str], topics: Ints, lengths: Ints, *, cuts: bool
) -> tuple[list[str], Ints]:
    """One of _CHOICE texts each, with its topic, as long as a customer's where there are any so
    short; joined where they are too short, and with `cuts` shortened at a sentence's end."""
    wanted = lengths[rng.integers(len(lengths), size=len(texts) // _CHOICE)]
    sizes = np.array([len(text) for text in texts])
    by_size = np.argsort(sizes, kind="stable")
    nearest = np.searchsorted(sizes[by_size], wanted)
    chosen = np.empty(len(wanted), dtype=np.int64)
    place = -1
    # The shortest wish first, each the nearest text that is left and leaves one for each after it.
    for done, i in enumerate(np.argsort(wanted, kind="stable").tolist()):
        place = min(max(place + 1, int(nearest[i])), len(texts) - len(wanted) + done)
        chosen[i] = by_size[place]
    out = []
    for i, size in zip(chosen.tolist(), wanted.tolist(), strict=True):
        text = texts[i]
        for step in range(1, 6):
            if len(text) >= 0.7 * size:
                break
            text = f"{text} {texts[(i + step) % len(texts)]}"
        if cuts and len(text) > 1.3 * size:
            end = max(text.rfind(mark, 24, int(size * 1.3)) for mark in (". ", "? ", "\n"))
            text = text[: end + 1] if end > 0 else text[: max(text.rfind(" ", 0, size + 1), 24)]
        out.append(text)
    return out, topics[chosen]


def _repeated(
    material: Material, rng: Rng, texts: Sequence[str], n: int, fresh: float
) -> tuple[list[str], Ints]:
    """`n` of the texts with their index; what comes again is evolved with probability `fresh`."""
    size = len(texts)
    index = np.concatenate([rng.permutation(size) for _ in range(-(-n // size))])[:n]
    again = np.arange(n) >= size
    evolve = (again & (rng.random(n) < fresh)) | (rng.random(n) < 0.05)
    return [
        material.phrases.evolved(rng, texts[i]) if new else texts[i]
        for i, new in zip(index.tolist(), evolve.tolist(), strict=True)
    ], index


def _instructions(material: Material, rng: Rng, n: int) -> tuple[list[str], Ints]:
    """Instruction sets: what distillers sent, or prompts of many public datasets mixed."""
    style = rng.random()
    groups: list[tuple[str, list[str]]] = []
    if style < 0.75:
        groups += list(material.sources.instructions.items())
        if rng.random() < 0.5:
            # Kinds stand before a colon; without any, all of it is of one kind.
            kinds = sorted({name.split(":")[0] for name, _ in groups if ":" in name})
            if len(kinds) > 1:
                kind = any_of(rng, kinds)
                groups = [g for g in groups if g[0].startswith(f"{kind}:")]
    if style >= 0.55:
        groups += [
            (task, texts)
            for templates in material.sources.tasks.values()
            for task, texts in templates.items()
        ]
    texts = [t for _, ts in groups for t in ts]
    topic = np.repeat(np.arange(len(groups)), [len(ts) for _, ts in groups])
    # A big pool with few topics is typical of one tool, a mixture of another: cap each group.
    if rng.random() < 0.3:
        keep = np.flatnonzero(rng.random(len(texts)) < rng.uniform(0.2, 1.0))
        if len(keep) >= 50:
            texts, topic = [texts[i] for i in keep.tolist()], topic[keep]
    sent, index = _repeated(material, rng, texts, n, fresh=0.9)
    return sent, topic[index]


def _chain_of_thought(material: Material, rng: Rng, n: int) -> tuple[list[str], Ints]:
    sources = material.sources
    style = rng.random()
    groups: list[list[str]] = []
    if style < 0.7:
        groups += [sources.problems[i::8] for i in range(8)]
    if style >= 0.45:
        groups += list(sources.puzzles.values())
        groups += [
            ts for templates in sources.tasks.values() for ts in list(templates.values())[:2]
        ]
    groups = [g for g in groups if g]
    texts = [t for g in groups for t in g]
    topic = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    sent, index = _repeated(material, rng, texts, n, fresh=0.5)
    elicit = [material.phrases.elicit[i] for i in rng.permutation(len(material.phrases.elicit))]
    elicit = elicit[: int(rng.integers(1, len(elicit) + 1))]
    which = rng.integers(len(elicit), size=n).tolist()
    joint = str(rng.choice(["\n\n", " ", "\n", "\nA: "]))
    if rng.random() < 0.3:
        return [f"{elicit[w]}{joint}{t}" for w, t in zip(which, sent, strict=True)], topic[index]
    lead = str(rng.choice(["", "", "Q: ", "Question: ", "Problem:\n"]))
    return [f"{lead}{t}{joint}{elicit[w]}" for w, t in zip(which, sent, strict=True)], topic[index]


def _teacher_templates(material: Material, rng: Rng, n: int) -> tuple[list[str], Ints]:
    """A distillation tool's templates, each request with topics and examples of its own."""
    names = sorted(material.sources.teacher_templates)
    few = rng.permutation(len(names))[: int(rng.integers(1, 7))].tolist()
    chosen = [material.sources.teacher_templates[names[i]] for i in few]
    seeds = [t for ts in material.sources.instructions.values() for t in ts]
    short = [t for t in seeds if len(t) < 300] or seeds
    articles = material.sources.articles
    titles = sorted(articles)
    which = rng.integers(len(chosen), size=n)
    batch, skip = str(int(rng.choice([1, 2, 5, 10, 20]))), str(int(rng.integers(1, 9)))

    def value(name: str) -> str:
        if name in ("batch_size", "question_count", "task_count", "input_count"):
            return batch
        if name in ("language", "languages"):
            return "English"
        if name in ("topics", "topic", "styles", "question_type", "target_selection"):
            return "\n".join(_topic() for _ in range(int(batch) if name == "topics" else 1))
        if name in ("example", "examples", "instruction", "task", "system_prompt"):
            return short[int(rng.integers(len(short)))]
        if name in ("reference_texts", "context", "response", "description"):
            paragraphs = articles[titles[int(rng.integers(len(titles)))]]
            return cut(rng, paragraphs[int(rng.integers(len(paragraphs)))], 600)
        if name in ("name", "character", "characters"):
            return material.phrases.name(rng)
        if name in ("word_count", "threshold", "next_year"):
            return str(int(rng.integers(2, 20)) * 100)
        return skip if name == "skip" else ""

    def _topic() -> str:
        if rng.random() < 0.5:
            return material.phrases.topic(rng)
        paragraphs = articles[titles[int(rng.integers(len(titles)))]]
        return cut(rng, paragraphs[int(rng.integers(len(paragraphs)))], int(rng.integers(15, 60)))

    texts = []
    for w in which.tolist():
        template = chosen[w]
        text, slots = re.subn(r"\{(\w+)\}", lambda m: value(m[1]), template)
        if slots < 2 or not ("{topic}" in template or "{topics}" in template):
            text += (
                f"\n\n{_topic() if rng.random() < 0.5 else short[int(rng.integers(len(short)))]}"
            )
        texts.append(text)
    return texts, which.astype(np.int64)


def _wiki(material: Material, rng: Rng, n: int) -> tuple[list[str], Ints]:
    """Sentences of an encyclopedia, one to four in a row, whole or broken off."""
    titles = sorted(material.sources.articles)
    sentences = [
        [s for p in material.sources.articles[t] for s in re.split(r"(?<=[.!?]) +", p)]
        for t in titles
    ]
    weight = np.array([len(s) for s in sentences], dtype=np.float64)
    topic = rng.choice(len(titles), size=n, p=weight / weight.sum())
    start = (rng.random(n) * weight[topic]).astype(int).tolist()
    most = int(rng.integers(1, 5))
    count = rng.integers(1, most + 1, size=n).tolist()
    broken = (rng.random(n) < rng.uniform(0, 0.8)).tolist()
    share = rng.uniform(0.4, 0.95, n).tolist()
    texts = []
    for t, s, k, b, f in zip(topic.tolist(), start, count, broken, share, strict=True):
        text = " ".join(sentences[t][s : s + k])
        texts.append(text[: max(int(len(text) * f), 12)] if b else text)
    return texts, topic.astype(np.int64)


def _word_salad(material: Material, rng: Rng, n: int) -> tuple[list[str], Ints]:
    """Random words of a vocabulary: sequences that no one would write, of any length."""
    words: dict[str, int] = {}
    for paragraphs in material.sources.articles.values():
        for paragraph in paragraphs:
            for word in paragraph.split():
                words[word] = words.get(word, 0) + 1
    vocabulary = sorted(words)
    frequency = np.array([words[w] for w in vocabulary], dtype=np.float64) ** rng.uniform(0, 1)
    if rng.random() < 0.4:  # only a part of it
        frequency *= rng.random(len(vocabulary)) < rng.uniform(0.05, 0.5)
    if rng.random() < 0.4:
        vocabulary = [re.sub(r"\W", "", w).lower() or "a" for w in vocabulary]
    if rng.random() < 0.3:
        size = np.full(n, int(rng.integers(4, 60)))
    else:
        size = np.clip(
            rng.lognormal(math.log(rng.uniform(5, 40)), rng.uniform(0.2, 0.8), n), 3, 300
        ).astype(int)
    picked = rng.choice(
        len(vocabulary), size=int(size.sum()), p=frequency / frequency.sum()
    ).tolist()
    end = str(rng.choice(["", "", ".", "?"]))
    texts, at = [], 0
    for k in size.tolist():
        texts.append(" ".join(vocabulary[i] for i in picked[at : at + k]) + end)
        at += k
    return texts, rng.integers(50, size=n)


def _natural(material: Material, rng: Rng, n: int) -> tuple[list[str], Ints]:
    """Other people's ordinary messages: people's own in their order, or prompts of every sort."""
    style = rng.random()
    if style < 0.4:
        texts: list[str] = []
        topic: list[int] = []
        for i in rng.permutation(len(material.their_people)).tolist():
            texts += material.their_people[i].texts
            topic += [i] * len(material.their_people[i].texts)
            if len(texts) >= n:
                break
        repeats = -(-n // len(texts))
        return (texts * repeats)[:n], np.array((topic * repeats)[:n], dtype=np.int64)
    pools = [
        material.their_lines,
        material.their_utterances,
        material.their_questions,
        material.their_personas,
    ]
    pools = pools[:3] if style < 0.7 else pools
    mixed = [t for pool in pools for t in pool[: int(rng.integers(100, 3000))] if t]
    return material.varied(rng, sample(rng, mixed, n)), rng.integers(40, size=n)


FAMILIES: Final[dict[str, Callable[[Material, Rng, int], tuple[list[str], Ints]]]] = {
    "instructions": _instructions,
    "chain_of_thought": _chain_of_thought,
    "teacher_templates": _teacher_templates,
    "wiki": _wiki,
    "word_salad": _word_salad,
    "natural": _natural,
}
