"""Customers of named kinds. Each kind is drawn wide, since what is rare here is a false alarm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.detection import arrivals
from benchmarks.detection.arrivals import DAY, WEEK
from benchmarks.detection.material import Material, Shape, Traffic, cut, sample
from benchmarks.detection.phrases import Voice, any_of
from benchmarks.detection.wordings import fragments

__all__ = ["KINDS", "SHARES", "Kind", "over", "volume"]

Rng = np.random.Generator
_STAMPS: Final = (
    "{text} [{t}]",
    "{n} {text}",
    "{text}\nrequest id: {n:08x}",
    "[probe {t}] {text}",
    "{text} {n}",
    "# {n:x}\n{text}",
)
_SHORT: Final = 18  # words
_JOINTS: Final = ("\n\n", " ", "\n", "\nA: ", "\n---\n")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of customer: how many requests, and what they are.

    `accounts` is the range of accounts that one customer of the kind has. `close` is how often
    those share a payer, a network and a client.
    """

    median: float
    sigma: float
    least: int
    most: int
    make: Callable[[Material, Rng, int, int], list[Traffic]]  # (material, rng, requests, accounts)
    accounts: tuple[int, int] = (1, 1)
    close: float = 0.0


def volume(rng: Rng, kind: Kind) -> int:
    """Requests in the week of one account of a kind."""
    drawn = rng.lognormal(math.log(kind.median), kind.sigma)
    return int(min(max(drawn, kind.least), kind.most))


def over(
    kind: Kind, material: Material, rng: Rng, requests: int, accounts: int, weeks: int
) -> list[Traffic]:
    """The traffic of one customer's accounts over some weeks, `requests` a week each.

    What would be one busy week is dealt over them: its sessions in turn, so that nothing within a
    session changes; work without pauses is cut into as many runs, each as long as the whole.
    People say what they have to say: over two weeks, half of it in each.
    """
    made = kind.make(material, rng, requests * weeks, accounts)
    return [_dealt(one, weeks) for one in made] if weeks > 1 else made


def _dealt(traffic: Traffic, weeks: int) -> Traffic:
    times, n = traffic.times, len(traffic.times)
    session = np.concatenate([[0], np.cumsum(np.diff(times) > 1800)]).astype(np.int64)[:n]
    if n and session[-1] >= 4 * weeks:
        moved = times + WEEK * (session % weeks)
    else:
        run = np.arange(n) * weeks // max(n, 1)
        start = times[np.searchsorted(run, run)]
        first = times[0] if n else 0.0
        moved = run * WEEK + np.minimum(first + (times - start) * weeks, WEEK - 0.001)
    order = np.argsort(moved, kind="stable")
    return Traffic(moved[order], [traffic.texts[i] for i in order.tolist()])


def _person(material: Material, rng: Rng, n: int, accounts: int) -> list[Traffic]:
    person = material.person()
    if person is None:
        return []
    times, texts = arrivals.folded(rng, person, least=12)
    session = np.concatenate([[0], np.cumsum(np.diff(times) > 1800)]).astype(np.int64)
    shape = material.shape(rng, chatty=0.3, headed=0.25)
    return [Traffic(times, shape.apply(rng, texts, session))]


def _writer(material: Material, rng: Rng, n: int, accounts: int) -> list[Traffic]:
    """A person whose messages are as long as mails: at human times, several lines each."""
    times = arrivals.human(
        rng, material.people, n, rng.uniform(0, 2 * DAY), 5 * DAY * rng.random() + DAY
    )
    if rng.random() < 0.6:
        lines = _own_lines(material, rng, 4 * n)
        size = rng.integers(2, int(rng.integers(4, 16)), size=n)
        end = np.cumsum(size)
        joint = str(rng.choice([" ", "\n", ". ", "\n\n"]))
        texts = [
            joint.join(lines[(e - k) % len(lines) : (e - k) % len(lines) + k])
            for e, k in zip(end.tolist(), size.tolist(), strict=True)
        ]
        if rng.random() < 0.5:
            hello, bye = (
                f"Hi {material.phrases.name(rng)},\n\n",
                f"\n\nBest,\n{material.phrases.name(rng)}",
            )
            texts = [f"{hello}{text}{bye}" for text in texts]
    else:  # pastes what they read and asks about it
        asked = sample(rng, material.lines, n)
        documents = material.documents(rng, n)
        texts = [
            f"{q}\n\n{d}" if k else d
            for q, d, k in zip(asked, documents, (rng.random(n) < 0.7).tolist(), strict=True)
        ]
    shape = material.shape(rng, chatty=0.3, headed=0.2)
    session = np.concatenate([[0], np.cumsum(np.diff(times) > 1800)]).astype(np.int64)
    return [
        Traffic(times, shape.apply(rng, Voice.draw(rng).say(rng, texts[: len(times)]), session))
    ]


def _own_lines(material: Material, rng: Rng, n: int) -> list[str]:
    """Lines of a few people who have no account of their own."""
    lines: list[str] = []
    while len(lines) < n:
        lines += material.quiet[int(rng.integers(len(material.quiet)))].texts
    return lines


def _long_prompt(material: Material, rng: Rng, n: int, accounts: int) -> list[Traffic]:
    times, session = arrivals.sessions(rng, material.sources.sessions, n)
    style = rng.random()
    shape = Shape()
    if style < 0.35:  # a persona, then a conversation in it
        persona = sample(rng, material.personas, int(rng.integers(1, 4)))
        texts = sample(rng, material.lines, n)
        shapes = [
            Shape(p, bool(rng.random() < 0.5), int(rng.integers(0, 6)), material.replies(rng))
            for p in persona
        ]
        out = [""] * n
        for i, one in enumerate(shapes):
            at = np.flatnonzero(session % len(shapes) == i)
            said = one.apply(rng, [texts[j] for j in at.tolist()], session[at])
            for j, text in zip(at.tolist(), said, strict=True):
                out[j] = text
        return [Traffic(times, out)]
    if style < 0.55:  # tries one long prompt in many versions
        base = sample(rng, material.personas + material.questions, max(1, n // 25))
        texts = [cut(rng, base[i % len(base)], int(rng.integers(200, 1500))) for i in range(n)]
    elif style < 0.75:  # a paper or an article at a time, several questions each
        documents = material.documents(rng, max(1, n // 3))
        asked = sample(rng, material.lines + material.questions, n)
        texts = [
            f"{documents[s % len(documents)]}\n\n{q}"
            for s, q in zip(session.tolist(), asked, strict=True)
        ]
    else:  # long questions of every sort
        texts = material.varied(rng, sample(rng, material.questions + material.personas, n))
        shape = material.shape(rng, chatty=0.4, headed=0.2)
    return [Traffic(times, shape.apply(rng, Voice.draw(rng).say(rng, texts), session))]


def _app(material: Material, rng: Rng, n: int, accounts: int) -> list[Traffic]:
    clients = material.sources.clients
    times = arrivals.production(rng, clients[int(rng.integers(len(clients)))], n)
    n = len(times)
    features = int(rng.choice([1, 1, 1, 2, 3]))  # an application has a few prompts, unevenly used
    part = np.sort(rng.random(features - 1)) if features > 1 else np.array([])
    which = np.searchsorted(part, rng.random(n))
    texts = [""] * n
    for feature in range(features):
        at = np.flatnonzero(which == feature).tolist()
        for j, text in zip(at, _application(material, rng, len(at)), strict=True):
            texts[j] = text
    return [Traffic(times, texts)]


def _application(material: Material, rng: Rng, n: int) -> list[str]:
    if n == 0:
        return []
    texts = material.requests(rng, n)
    style = rng.random()
    if style < 0.6:
        templates = material.phrases.templates
        template = templates[int(rng.integers(len(templates)))]
        texts = material.phrases.fill(rng, template, texts, material.questions)
        if rng.random() < 0.25:
            texts = material.shape(rng, chatty=0.0, headed=1.0).apply(rng, texts)
        return texts
    if style < 0.75:  # retrieval: passages first, then what the user asked
        documents = material.documents(rng, max(n // 2, 1))
        pick = rng.integers(len(documents), size=n).tolist()
        head = material.phrases.frameworks[int(rng.integers(len(material.phrases.frameworks)))]
        return [
            f"{head}{documents[i][:1200]}\n\nQuestion: {t[:300]}"
            for i, t in zip(pick, texts, strict=True)
        ]
    return material.shape(rng, chatty=0.3, headed=0.7).apply(
        rng, texts, np.arange(n) // int(rng.integers(2, 9))
    )


def _classifier(material: Material, rng: Rng, n: int, accounts: int) -> list[Traffic]:
    """A client of a text classifier: one short text a request, without a head or a history."""
    style = rng.random()
    if style < 0.5 and material.utterances:
        intents = _shuffled(rng, sorted(material.utterances))
        few = intents[: int(rng.integers(1, 1 + len(intents)))]
        texts = sample(rng, [t for intent in few for t in material.utterances[intent]], n)
    elif style < 0.75:
        texts = [" ".join(t.split()[:_SHORT]) for t in sample(rng, material.lines, n)]
    else:
        # Of what people type. Pieces of passages are what a thief sends who has an encyclopedia.
        texts = [t or "?" for t in fragments(rng, material.lines, n)]
    pace = rng.random()
    if pace < 0.55:
        clients = material.sources.clients
        times = arrivals.production(rng, clients[int(rng.integers(len(clients)))], n)
    elif pace < 0.85:
        times = _job_times(material, rng, n)
    else:
        times = arrivals.human(rng, material.people, n, rng.uniform(0, 2 * DAY), 4 * DAY)
    return [Traffic(times, Voice.draw(rng).say(rng, texts[: len(times)]))]


def _job_times(material: Material, rng: Rng, n: int) -> arrivals.Floats:
    """A job's run: at once, on some evenings, or spread by a scheduler over days."""
    start = rng.uniform(0, 5 * DAY)
    style = rng.random()
    if style < 0.15:
        clients = material.sources.clients
        return arrivals.production(rng, clients[int(rng.integers(len(clients)))], n)
    pattern = str(rng.choice(arrivals.PATTERNS, p=(0.2, 0.15, 0.15, 0.5)))
    if style < 0.45:  # nightly or hourly: the same hour, some days
        runs = int(rng.integers(2, 8))
        length = min(rng.lognormal(math.log(1200.0), 1.0), 20 * 3600.0)
        size = -(-n // runs)
        first = rng.uniform(0, DAY)
        pieces = [
            arrivals.paced(rng, pattern, min(size, n - i * size), first + i * DAY, length)
            for i in range(runs)
            if n - i * size > 0
        ]
        return np.sort(np.concatenate(pieces))
    length = float(np.clip(rng.lognormal(math.log(2 * 3600.0), 1.6), 60.0, WEEK - start))
    times = arrivals.paced(rng, pattern, n, start, length)
    return arrivals.diurnal(rng, times) if style > 0.9 else times


def _batch_texts(material: Material, rng: Rng, n: int) -> list[str]:
    sources = material.sources
    style = rng.random()
    if style < 0.3:  # one public template over its dataset
        names = sorted(sources.tasks)
        templates = sources.tasks[names[int(rng.integers(len(names)))]]
        chosen = sorted(templates)[int(rng.integers(len(templates)))]
        return material.varied(rng, sample(rng, templates[chosen], n))
    if style < 0.4:
        texts = sample(rng, sources.problems, n)
    elif style < 0.5:
        texts = sample(rng, [p for ps in sources.articles.values() for p in ps], n)
        texts = [cut(rng, t, int(rng.integers(80, 900))) for t in texts]
    elif style < 0.7:
        return material.shape(rng, chatty=0.0, headed=0.6).apply(rng, material.documents(rng, n))
    elif material.composed and rng.random() < 0.3:
        texts = material.varied(rng, sample(rng, material.questions, n))
    else:
        texts = material.requests(rng, n) if style < 0.85 else material.documents(rng, n)
    templates_own = material.phrases.templates
    template = templates_own[int(rng.integers(len(templates_own)))]
    return material.phrases.fill(rng, template, texts, material.questions)


def _batch(material: Material, rng: Rng, n: int, accounts: int) -> list[Traffic]:
    times = _job_times(material, rng, n)
    return [Traffic(times, _batch_texts(material, rng, n)[: len(times)])]


def _eval_texts(material: Material, rng: Rng, n: int) -> list[str]:
    """A suite: tasks one after the other, each behind its own fixed head, run once or again."""
    sources = material.sources
    suite: list[list[str]] = []
    size = int(rng.integers(20, 251))
    style = rng.random()
    thinks = rng.random() < (0.5 if material.composed else 0.25)
    if style < 0.35:
        for task in _shuffled(rng, sorted(sources.puzzles))[: int(rng.integers(1, 7))]:
            head = ""
            if rng.random() < 0.5:
                head = (
                    sources.few_shot.get(task, "") if thinks else _shots(rng, sources.puzzles[task])
                )
            suite.append(
                [f"{head}\n\nQ: {t}\nA:" if head else t for t in sources.puzzles[task][:size]]
            )
    elif style < 0.55:
        head = _shots(rng, sources.problems) if rng.random() < 0.5 else ""
        first = int(rng.integers(max(len(sources.problems) - n, 1)))
        items = sources.problems[first : first + max(n, 1)]
        phrase = (
            f" {any_of(rng, material.phrases.elicit)}" if thinks and not material.composed else ""
        )
        suite.append([f"{head}Question: {t}\nAnswer:{phrase}" for t in items])
    elif style < 0.85:
        names = [(d, t) for d in sorted(sources.tasks) for t in sorted(sources.tasks[d])]
        for i in rng.permutation(len(names))[: int(rng.integers(2, 12))].tolist():
            items = sources.tasks[names[i][0]][names[i][1]]
            suite.append(sample(rng, items, min(size, len(items))))
    else:  # regression tests of a product: its prompts, a fixed set, again for each version
        fixed = _application(material, rng, int(rng.integers(15, 200)))
        suite.append(fixed)
    if material.composed:
        suite = _harness(material, rng, suite, thinks)
    texts = [t for task in suite for t in task]
    if rng.random() < 0.2:  # some harnesses shuffle
        texts = _shuffled(rng, texts)
    return (texts * (-(-n // max(len(texts), 1))))[:n]


def _harness(material: Material, rng: Rng, suite: list[list[str]], thinks: bool) -> list[list[str]]:
    """How a harness of its own puts a suite's questions: its form, its reasons, its samples."""
    phrases = material.phrases
    if phrases.items and rng.random() < 0.6:
        item = any_of(rng, phrases.items)
        suite = [[item.replace("{text}", text) for text in task] for task in suite]
    if thinks:
        joint, place, each = any_of(rng, _JOINTS), rng.random(), rng.random() < 0.3
        # Some compare ways of asking: the same questions again with another.
        runs = int(rng.integers(2, 5)) if rng.random() < 0.1 else 1
        asked = []
        for _ in range(runs):
            phrase = any_of(rng, phrases.elicit)
            for task in suite:
                if each:
                    phrase = any_of(rng, phrases.elicit)
                before = f"{_worked(material, rng, task) if place < 0.25 else ''}{phrase}{joint}"
                asked.append(
                    [f"{text}{joint}{phrase}" for text in task]
                    if place > 0.5
                    else [f"{before}{text}" for text in task]
                )
        suite = asked
    if rng.random() < 0.15:  # several answers to each question
        times = int(rng.integers(2, 9))
        suite = [[text for text in task for _ in range(times)] for task in suite]
    return suite


def _worked(material: Material, rng: Rng, items: list[str]) -> str:
    """A fixed few-shot head with reasons, which read like anybody's sentences."""
    shots = sample(rng, items, min(int(rng.integers(1, 5)), len(items)))
    why = sample(rng, material.passages or items, len(shots))
    form = any_of(rng, ("Q: {q}\nA: {a}\n\n", "{q}\nReasoning: {a}\n\n", "### {q}\n{a}\n"))
    return "".join(
        form.format(q=q, a=f"{cut(rng, a, int(rng.integers(40, 400)))} So {rng.integers(100)}.")
        for q, a in zip(shots, why, strict=True)
    )


def _eval(material: Material, rng: Rng, n: int, accounts: int) -> list[Traffic]:
    times = _job_times(material, rng, n)
    return [Traffic(times, _eval_texts(material, rng, n)[: len(times)])]


def _monitor(material: Material, rng: Rng, n: int, accounts: int) -> list[Traffic]:
    probes = sample(
        rng,
        material.lines + material.questions + ["ping", "Say OK.", "2+2?"],
        int(rng.choice([1, 1, 2, 3, 5, 10, 20])),
    )
    start = rng.uniform(0, 2 * DAY) if rng.random() < 0.3 else 0.0
    pattern = "jittered" if rng.random() < 0.15 else "fixed"
    times = arrivals.paced(rng, pattern, n, start, WEEK - start)
    order = (
        np.arange(len(times)) if rng.random() < 0.7 else rng.integers(len(probes), size=len(times))
    )
    stamp = rng.random() < (0.4 if material.composed else 0.15)
    texts = [probes[i % len(probes)] for i in order.tolist()]
    if stamp:  # some add a time, or a number, so that no cache answers
        form, numbers = _STAMPS[0], [0] * len(times)
        if material.composed:
            form = any_of(rng, _STAMPS)
            numbers = rng.integers(10**9, size=len(times)).tolist()
        texts = [
            form.format(text=text, t=int(t), n=n)
            for text, t, n in zip(texts, times.tolist(), numbers, strict=True)
        ]
    return [Traffic(times, texts)]


def _reseller(material: Material, rng: Rng, n: int, accounts: int) -> list[Traffic]:
    """One account that carries many people, each with a conversation of their own."""
    shape = material.shape(rng, chatty=0.5, headed=0.7)
    times: list[arrivals.Floats] = []
    texts: list[str] = []
    have = 0
    while have < n:
        person = material.quiet[int(rng.integers(len(material.quiet)))]
        when, said = arrivals.folded(rng, person, least=1)
        times.append(when)
        texts += shape.apply(rng, said)
        have += len(said)
    every = np.concatenate(times)
    order = np.argsort(every, kind="stable")
    return [Traffic(every[order], [texts[i] for i in order.tolist()]).trimmed(n)]


def _classroom(material: Material, rng: Rng, n: int, accounts: int) -> list[Traffic]:
    """Many accounts, one assignment, one hour: each student pastes it, asks, and asks again."""
    exercises = _exercises(material, rng)
    start = rng.integers(5) * DAY + rng.uniform(8, 17) * 3600.0
    length = rng.uniform(0.5, 2.0) * 3600.0
    framework = material.shape(rng, chatty=0.3, headed=0.4)
    students = []
    for _ in range(accounts):
        own = int(np.clip(rng.lognormal(math.log(n), 0.5), 8, 120))
        times = arrivals.paced(
            rng,
            "poisson",
            own,
            start + rng.uniform(0, 0.3) * length,
            length * rng.uniform(0.4, 1.0),
        )
        voice = Voice.draw(rng, plain=0.2)
        pasted = (np.arange(own) * len(exercises) // own).tolist()
        follow = sample(rng, material.lines, own)
        whole = (rng.random(own) < rng.uniform(0.2, 0.8)).tolist()
        said = [
            exercises[e] if paste else f"{cut(rng, exercises[e], 120)} {f}"
            for e, paste, f in zip(pasted, whole, follow, strict=True)
        ]
        students.append(Traffic(times, framework.apply(rng, voice.say(rng, said))[: len(times)]))
    return students


def _exercises(material: Material, rng: Rng) -> list[str]:
    """What a class is given: a question or a few, a sheet of problems, a document."""
    style = rng.random()
    if material.composed and rng.random() < 0.5:  # or of a collection that anybody may know
        sources = material.sources
        pools = [
            *(texts for templates in sources.tasks.values() for texts in templates.values()),
            *sources.puzzles.values(),
            *sources.instructions.values(),
        ]
        pool = pools[int(rng.integers(len(pools)))]
        return sample(rng, pool, min(len(pool), int(rng.choice([1, 1, 2, 3, 5, 10, 20]))))
    if style < 0.4:
        return sample(rng, material.questions, int(rng.integers(1, 6)))
    if style < 0.7:
        return sample(rng, material.sources.problems, int(rng.integers(3, 25)))
    return material.documents(rng, int(rng.integers(1, 4)))


def _ci_shards(material: Material, rng: Rng, n: int, accounts: int) -> list[Traffic]:
    """One job over many keys: a test suite cut into shards that start together, on each push."""
    texts = (
        _eval_texts(material, rng, n * accounts)
        if rng.random() < 0.6
        else _batch_texts(material, rng, n * accounts)
    )
    pushes = np.sort(rng.uniform(0, WEEK - 3600, int(rng.integers(1, 12))))
    pattern = str(rng.choice(arrivals.PATTERNS, p=(0.2, 0.1, 0.1, 0.6)))
    dealt = rng.random() < 0.5
    shards = []
    for shard in range(accounts):
        own = texts[shard::accounts] if dealt else texts[shard * n : (shard + 1) * n]
        size = -(-len(own) // len(pushes))
        pieces = [
            arrivals.paced(
                rng,
                pattern,
                min(size, len(own) - i * size),
                push + rng.uniform(0, 20),
                rng.uniform(120, 2400),
            )
            for i, push in enumerate(pushes.tolist())
            if len(own) - i * size > 0
        ]
        times = np.sort(np.concatenate(pieces))
        shards.append(Traffic(times, own[: len(times)]))
    return shards


def _agent(material: Material, rng: Rng, n: int, accounts: int) -> list[Traffic]:
    """A tool-using agent: the same long head, then what it did so far, step after step."""
    shape = Shape(
        material.phrases.tools(rng),
        bool(rng.random() < 0.6),
        int(rng.integers(3, 20)),
        tuple(material.phrases.action(rng) for _ in range(30)),
    )
    steps = np.maximum(rng.geometric(1 / rng.uniform(5, 30), size=n), 2)
    steps = steps[: int(np.searchsorted(np.cumsum(steps), n)) + 1]
    starts = arrivals.diurnal(rng, np.sort(rng.uniform(0, WEEK * 0.98, len(steps))))
    pace = rng.lognormal(math.log(8.0), 0.5)
    every = np.concatenate(
        [
            s + np.cumsum(rng.lognormal(math.log(pace), 0.7, k))
            for s, k in zip(starts.tolist(), steps.tolist(), strict=True)
        ]
    )
    session = np.repeat(np.arange(len(steps)), steps)
    order = np.argsort(every, kind="stable")[:n]
    every, session = every[order], session[order]
    keep = every < WEEK
    every, session = every[keep], session[keep]
    goals = material.requests(rng, len(steps))
    results = [
        cut(rng, t, int(rng.integers(20, 500)))
        for t in sample(rng, material.passages + material.lines, len(every))
    ]
    first = np.unique(session, return_index=True)[1]
    texts = results
    for i in first.tolist():
        texts[i] = goals[int(session[i])]
    return [Traffic(every, shape.apply(rng, texts, session))]


KINDS: Final[dict[str, Kind]] = {
    "person": Kind(40, 0.0, 12, 20_000, _person),
    "writer": Kind(45, 0.8, 12, 400, _writer),
    "long_prompt": Kind(60, 0.9, 20, 800, _long_prompt),
    "app": Kind(260, 1.5, 20, 20_000, _app),
    "classifier": Kind(90, 1.0, 12, 4_000, _classifier),
    "batch": Kind(300, 1.2, 40, 20_000, _batch),
    "eval": Kind(300, 1.0, 40, 8_000, _eval),
    "monitor": Kind(500, 1.0, 84, 10_080, _monitor),
    "reseller": Kind(600, 0.8, 150, 6_000, _reseller),
    "classroom": Kind(22, 0.4, 8, 80, _classroom, (12, 45), 0.6),
    "ci_shards": Kind(70, 0.7, 20, 400, _ci_shards, (10, 50), 0.8),
    "agent": Kind(180, 0.9, 20, 1_500, _agent),
}
# Of a week's customer accounts.
SHARES: Final[dict[str, float]] = {
    "person": 0.27,
    "writer": 0.06,
    "long_prompt": 0.09,
    "app": 0.18,
    "classifier": 0.03,
    "batch": 0.09,
    "eval": 0.06,
    "monitor": 0.05,
    "reseller": 0.02,
    "classroom": 0.05,
    "ci_shards": 0.05,
    "agent": 0.05,
}


def _shots(rng: Rng, items: list[str]) -> str:
    """A fixed few-shot head of a benchmark, without the reasoning."""
    shots = sample(rng, items, min(int(rng.integers(2, 6)), len(items)))
    return "".join(f"Question: {t}\nAnswer: {int(rng.integers(100))}\n\n" for t in shots)


def _shuffled(rng: Rng, items: list[str]) -> list[str]:
    return [items[i] for i in rng.permutation(len(items)).tolist()]
