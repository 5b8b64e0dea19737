"""Sources without a data folder, so that anybody can compose weeks of the same shape.

Texts are written by the grammars of the project's sample. What they are about is dealt three ways
like any other source, subjects and names, and so is what stands around it: the wordings of
instructions, problems, benchmarks, jobs, datasets' and distillers' templates. How ordinary
sentences are built is common to all, as a language is. Libraries' manuals stand in for an
encyclopedia. Tables are scikit-learn's wine and breast cancer, their rows dealt likewise, and the
attacks on them are run against a model of the split's own rows. Loads, sessions and user agents are
drawn from distributions like those that public traces show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection import manuals, vectors
from benchmarks.detection.sources import (
    Client,
    Person,
    Rows,
    Sources,
    Split,
    VectorSource,
    third,
)
from detector.sample import clocks
from detector.sample.clocks import DAY_S
from detector.sample.dice import Dice
from detector.sample.grammar import Grammar, load
from detector.sample.persona import Persona, name_from, vocabulary

__all__ = ["built_in", "recorded_tables"]

Floats = NDArray[np.float64]
Words = dict[str, Sequence[str]]

_TALKERS, _QUIET = 1200, 3000  # people with an account of their own, and others
_EPOCH: Final = 1_200_000_000.0
_SENTENCE: Final = 16  # characters: a rule whose longest alternative has fewer gives mere words
_REGISTERS: Final = ("chatty", "search", "formal", "terse", "story", "pasted")
_ATTACK_ROWS: Final = 704

# What dataset builders put around a passage.
_TASKS: Final = (
    "{text}\n\nWhat is the passage above about?",
    "Read the passage.\n\n{text}\n\nIs anything in it out of order? Yes or no.",
    "Passage:\n{text}\n\nTitle:",
    "I will show you a text. Your task is to find its main claim.\n\n{text}",
    "{text}\n\nBased on the above, who acted first?",
    "Given the following context:\n\n{text}\n\nwrite a question that it answers.",
    "Which of these fits the text best: report, complaint, instruction, story?\n\n{text}",
    "{text}\n===\nGenerate a summary of at most twenty words.",
    "Label the following text as positive or negative.\n\n{text}\n\nLabel:",
    "Can the last sentence be inferred from the others? {text}",
    "Text: {text}\n\nList the places that it names, separated by commas.",
    "What would come next?\n\n{text}",
    "Pretend to be a reader who disagrees. What do you ask?\n\n{text}",
    "{text}\n\nDo the first and the last sentence contradict each other?",
    "Fix nothing, only count: how many numbers are in this?\n\n{text}",
    "Here is a paragraph: {text}\n\nRewrite it for a child.",
    "An exam asks for the date in the text. What is the answer?\n\n{text}",
    "How certain is the author of the following, from 1 to 5?\n\n{text}",
)

# What distillation tools wrap their seeds in. Slots are filled by the harvesters.
_TEACHERS: Final = (
    "Write {batch_size} new instructions for a language model about {topics}. Make each unlike the others, and answer every one in full.",  # noqa: E501
    "You are asked to come up with a set of {batch_size} diverse task instructions. Topics:\n{topics}\nEach line: the task, then the solution.",  # noqa: E501
    "Produce {batch_size} question and answer pairs that a curious expert on {topic} would want to see. No yes or no questions.",  # noqa: E501
    "Create a multi-turn conversation between a user and an assistant on {topic}. Flesh out each answer. Language: {language}.",  # noqa: E501
    "Below are examples of good prompts.\n{examples}\nWrite {batch_size} more on these topics: {topics}",  # noqa: E501
    "Take the following text and write {question_count} questions about it that need several steps of reasoning, with answers.\n\n{reference_texts}",  # noqa: E501
    "Write a story of {word_count} words about {topic} in which {name} makes a discovery. Show, do not tell.",  # noqa: E501
    "Give me {batch_size} riddles that are original, with a detailed explanation of each. Theme: {topic}",  # noqa: E501
    "Generate {task_count} programming tasks that involve {topics}, each with a tested solution in {language}.",  # noqa: E501
    "Rewrite the instruction so that it becomes harder but stays answerable. Instruction: {instruction}\nThen answer the new one.",  # noqa: E501
    "Write a card for the character {name}: appearance, history, speech, and {batch_size} sample dialogues about {topic}.",  # noqa: E501
    "Here is a response: {response}\nWrite the instruction that would lead to it, in {batch_size} versions.",  # noqa: E501
    "Grade the following answer with a rubric of your own making, then write an answer that gets full marks.\n{instruction}\n{response}",  # noqa: E501
    "List {batch_size} facts about {topics}. For each, write a question, a chain of reasoning, and a final answer.",  # noqa: E501
    "Act as the teacher of a smaller model. Explain {topic} so that it can learn all of it from your explanation alone, in {word_count} words.",  # noqa: E501
    "Come up with {batch_size} role-play scenarios about {topics}. For each write the first {input_count} messages.",  # noqa: E501
    "Provide {batch_size} multiple-choice questions on {topic}, four options each, the right option and why the others are wrong.",  # noqa: E501
    "Use this seed: {example}\nEvolve it into {batch_size} tasks of growing depth on {topic}, and solve each step by step.",  # noqa: E501
)
# What such tools ask of each answer, in a list of which every template has a part of its own.
_DEMANDS: Final = (
    "Do not repeat the verb of an earlier instruction.",
    "Every answer must be complete and correct without looking anything up.",
    "Leave out anything that needs a picture, a link or a file.",
    "Include some that are imperative and some that are questions.",
    "The difficulty should grow from the first to the last.",
    "Write the answers in Markdown, with headings where they are long.",
    "Never mention that you are a language model.",
    "Be objective, without bias or moralising.",
    "Number them TSK 1, TSK 2 and so on; put the answer below each, after ANS.",
    "Half of them should have an input of their own, realistic and not longer than a page.",
    "Vary the length: one line for some, several paragraphs for others.",
    "Explain each step, as for somebody who meets the topic for the first time.",
    "Use proper nouns, dates and figures that could be true.",
    "Do not start two of them with the same word.",
    "Check each for mistakes before you give it, and mend what you find.",
    "No introduction and no closing remark, only what was asked for.",
    "Some should combine two of the topics in a way that surprises.",
    "Keep away from topics that were in the examples.",
)


@lru_cache(maxsize=6)
def built_in(split: Split, tables: bool = True) -> Sources:
    """One split's share of what the project itself can make (some seconds, then cached).

    Without `tables` there are no vectors, whose attacks take most of the time.
    """
    writer = _Writer(split)
    passages = writer.passages()
    puzzles = writer.puzzles()
    return Sources(
        split=split,
        people=list(writer.everybody()),
        utterances=writer.utterances(),
        questions=writer.questions(),
        personas=writer.personas(),
        tasks=writer.tasks(passages),
        passages=passages,
        puzzles=puzzles,
        few_shot={name: writer.shots(items) for name, items in puzzles.items()},
        problems=writer.problems(1500),
        instructions=writer.instructions(),
        teacher_templates=writer.teacher_templates(),
        articles=manuals.articles(split),
        clients=_clients(split),
        sessions=_sessions(split),
        user_agents=_user_agents(),
        vectors={source.name: source for source in (recorded_tables(split) if tables else ())},
    )


class _Writer:
    """Writes all of a split's texts: its share of the sample's grammars and words."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._dice = Dice("built-in sources", split)
        words = load("words")
        self._subjects = sorted(third(words["subjects"], split))
        self._friends = sorted(third(words["general"]["first_names"].split(", "), split))
        self._places = sorted(third(words["general"]["places"].split(", "), split))
        jobs, documents = load("jobs"), load("documents")
        harvest = self._share(load("harvest"))
        self._people = Grammar({**documents, **load("people")})
        self._documents = Grammar(documents)
        self._jobs = Grammar({**self._share(jobs["common"]), **self._share(jobs["batch"])})
        common = {k: v for k, v in self._share(jobs["common"]).items() if k != "style"}
        evaluation = self._share(jobs["evaluation"])
        self._suites = sorted(evaluation.keys() - {"task"})
        self._evaluation = Grammar({**common, **evaluation})
        self._minutes = Grammar(
            {**self._share(load("apps")["common"]), **self._share(load("apps")["minutes"])}
        )
        self._harvest = harvest
        self._everything = self._words(self._subjects, 1.0)

    def everybody(self) -> Iterator[Person]:
        """People with messages and times, most of them of few words."""
        for number in range(_TALKERS + _QUIET):
            dice = Dice("built-in person", self._split, number)
            if number < _TALKERS:
                count = int(np.clip(dice.lognormal(24.0, 1.0), 12, 1500))
            else:
                count = min(1 + int(dice.generator.geometric(0.22)), 11)
            yield self._person(dice, f"person-{self._split}-{number}", count)

    def _person(self, dice: Dice, name: str, count: int) -> Person:
        chosen = dice.some(self._subjects, dice.integer(1, 4))
        own = self._own(dice)
        persona = Persona(
            tuple(vocabulary(subject, own, dice, 0.55) for subject in chosen),
            Persona.of(dice, 1).style,
        )
        registers = dice.some(_REGISTERS, dice.integer(1, 3))
        often, turns, peak = dice.lognormal(2.0, 0.8), dice.lognormal(6.0, 0.6), dice.uniform(8, 20)
        texts: list[str] = []
        times: list[float] = []
        day, subject = 0, persona.subject(dice)
        while len(texts) < count:
            arrivals = clocks.sessions(dice, often, turns, peak)
            left = count - len(texts)
            for at, turn in zip(
                arrivals.at[:left].tolist(), arrivals.turn[:left].tolist(), strict=True
            ):
                if turn == 0:
                    subject = persona.subject(dice)
                follows = turn > 0 and dice.chance(0.75)
                rule = "follow" if follows else dice.pick(registers)
                said = persona.style.apply(self._people.write(rule, dice, subject), dice)
                texts.append(said)
                times.append(_EPOCH + day * DAY_S + at)
            day += 1
        return Person(name, np.array(times), texts)

    def utterances(self) -> dict[str, list[str]]:
        """Short requests of an application's users, by what they want."""
        return {
            f"{rule} {subject}": [
                self._people.write(rule, self._dice, self._words([subject], 1.0))
                for _ in range(100)
            ]
            for subject in self._subjects
            for rule in ("search", "terse", "chatty")
        }

    def questions(self) -> dict[str, list[str]]:
        """Considered questions, two on each topic, some with what they are about."""
        return {
            f"question {subject} {i}": [
                self._people.write(rule, self._dice, self._words([subject], 0.6))
                for rule in self._dice.some(("formal", "story", "pasted"), 2)
            ]
            for subject in self._subjects
            for i in range(6)
        }

    def personas(self) -> dict[str, list[str]]:
        """Long prompts: a role, and pages of what it should know."""
        found: dict[str, list[str]] = {}
        for number in range(240):
            words = self._words(self._dice.some(self._subjects, 2), 0.7)
            role = self._dice.pick(self._harvest["role"])
            size = round(self._dice.lognormal(12.0, 0.9)) + 2
            found[f"author {self._split} {number}"] = [
                f"I want you to act as {role} for {words['project'][0]}. {self._prose(size, words)}"
            ]
        return found

    def passages(self) -> dict[str, list[str]]:
        """Datasets of one kind of text on one subject."""
        datasets: dict[str, list[str]] = {}
        kinds = ("review", "note", "paragraph", "minutes")
        for number, subject in enumerate(self._subjects):
            kind, texts = kinds[number % len(kinds)], []
            for _ in range(300):
                words = self._words([subject], 0.8)
                if kind == "paragraph":
                    texts.append(self._prose(self._dice.integer(3, 14), words))
                elif kind == "minutes":
                    texts.append(self._minutes.write("body", self._dice, words))
                else:
                    count = self._dice.integer(1, 5)
                    parts = [self._jobs.write(kind, self._dice, words) for _ in range(count)]
                    texts.append(" ".join(parts))
            datasets[f"{kind} {subject}"] = list(dict.fromkeys(t for t in texts if len(t) >= 40))
        return datasets

    def tasks(self, passages: Mapping[str, list[str]]) -> dict[str, dict[str, list[str]]]:
        """Each dataset under a few templates."""
        templates = sorted(third(_TASKS, self._split))
        return {
            dataset: {
                f"{dataset} {template}": [template.replace("{text}", text) for text in texts]
                for template in self._dice.some(templates, self._dice.integer(2, 5))
            }
            for dataset, texts in passages.items()
        }

    def puzzles(self) -> dict[str, list[str]]:
        """Benchmark questions: suites of one kind each."""
        suites: dict[str, list[str]] = {}
        for number, subject in enumerate(self._subjects[:6]):
            kind = self._suites[number % len(self._suites)]
            words = {**self._words([subject], 1.0), "style": [""]}
            items = [self._evaluation.write(kind, self._dice, words) for _ in range(400)]
            items = [text.removeprefix("Q: ").strip() for text in items]
            suites[f"{kind} {subject}"] = list(dict.fromkeys(items))[:250]
        return suites

    def shots(self, items: Sequence[str]) -> str:
        """Worked examples of a suite."""
        shots = []
        for item in self._dice.some(items, 3):
            reasons = self._prose(self._dice.integer(2, 5), self._everything)
            shots.append(
                f"Q: {item}\nA: Let's think step by step. {reasons} "
                f"So the answer is {self._dice.integer(2, 90)}."
            )
        return "\n\n".join(shots)

    def problems(self, count: int) -> list[str]:
        """Sums in words, some with a sentence that has nothing to do with them."""
        grammar = Grammar(self._harvest)
        words = {**self._everything, "style": [""]}
        found: dict[str, None] = {}
        while len(found) < count:
            if self._dice.chance(0.7):
                text = grammar.write("problem", self._dice, words)
            else:
                text = self._evaluation.write("arithmetic", self._dice, words)
            text = text.removeprefix("Q: ").strip()
            found[f"{self._prose(1, words)} {text}" if self._dice.chance(0.5) else text] = None
        return list(found)

    def instructions(self) -> dict[str, list[str]]:
        """What instruction tuning sends to a teacher, in clusters of one wording and subject."""
        clusters: dict[str, list[str]] = {}
        for number, wording in enumerate(self._harvest["instruction"]):
            grammar = Grammar({**self._harvest, "instruction": [wording]})
            for subject in self._subjects:
                words = self._words([subject], 1.0)
                texts = [grammar.write("instruction", self._dice, words) for _ in range(40)]
                clusters[f"wording {self._split} {number} {subject}"] = list(dict.fromkeys(texts))
        return clusters

    def teacher_templates(self) -> dict[str, str]:
        """What distillers wrap their seeds in, each with demands of its own."""
        demands = sorted(third(_DEMANDS, self._split))
        return {
            f"template-{_TEACHERS.index(text)}": "\n * ".join(
                [text, *self._dice.some(demands, self._dice.integer(2, len(demands)))]
            )
            for text in sorted(third(_TEACHERS, self._split))
        }

    def _prose(self, sentences: int, words: Words) -> str:
        return " ".join(
            self._documents.write("sentence", self._dice, words) for _ in range(sentences)
        )

    def _words(self, subjects: Sequence[str], share: float) -> Words:
        """A share of the words of some subjects, together, and names."""
        own = self._own(self._dice)
        words: dict[str, list[str]] = {}
        for subject in subjects:
            for slot, some in vocabulary(subject, own, self._dice, share).items():
                words.setdefault(slot, []).extend(some)
        return dict(words)

    def _own(self, dice: Dice) -> Words:
        return {
            "friend": dice.some(self._friends, dice.integer(2, 6)),
            "place": dice.some(self._places, dice.integer(1, 4)),
            "project": [name_from(dice).capitalize() for _ in range(dice.integer(1, 3))],
            "surname": [name_from(dice).capitalize() for _ in range(8)],
        }

    def _share(self, rules: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """The split's alternatives of each rule; single words belong to everybody."""
        kept = {}
        for name, texts in rules.items():
            cut = len(set(texts)) >= 3 and max(map(len, texts)) >= _SENTENCE
            own = third(texts, self._split) if cut else set(texts)
            kept[name] = [text for text in texts if text in own]
        return kept


def _clients(split: Split) -> list[Client]:
    """Applications' loads over two weeks in windows of ten minutes.

    Shapes of gaps are spread as those of production clients are: median .85, from .05 to 25, most
    of them Gamma (ServeGen, arXiv 2505.09999, describes such clients).
    """
    rng = Dice("built-in clients", split).generator
    clients = []
    for number in range(90):
        windows = int(np.clip(rng.lognormal(math.log(900.0), 1.0), 24, 2016))
        slots = np.sort(rng.choice(2016, windows, replace=False))
        start: Floats = 600.0 * slots.astype(np.float64)
        hour = start / 3600.0
        wave = 1 + rng.uniform(0, 0.95) * np.cos(2 * np.pi * (hour - rng.uniform(0, 24)) / 24)
        rate = rng.lognormal(0.0, 1.5) * wave * rng.lognormal(0.0, rng.uniform(0.1, 1.0), windows)
        middle = rng.lognormal(math.log(0.85), 0.8)
        shape: Floats = np.clip(middle * rng.lognormal(0.0, 0.25, windows), 0.05, 25.0)
        weibull = rng.random(windows) < rng.choice([0.05, 0.1, 0.9])
        clients.append(Client(f"client-{split}-{number}", start, rate, weibull, shape))
    return clients


def _sessions(split: Split) -> list[Floats]:
    """Conversations: two turns or more, a minute or two apart."""
    rng = Dice("built-in sessions", split).generator
    turns = 1 + rng.geometric(0.4, size=880)
    return [
        np.concatenate([[0.0], np.cumsum(rng.lognormal(math.log(105.0), 1.0, n - 1))])
        for n in np.maximum(turns, 2).tolist()
    ]


def _user_agents() -> list[tuple[str, int]]:
    """Browsers with how often each is seen; shared by all, as in life."""
    systems = (
        "Windows NT 10.0; Win64; x64",
        "Macintosh; Intel Mac OS X 10_15_7",
        "X11; Linux x86_64",
    )
    agents = []
    for rank, (system, version) in enumerate((s, v) for v in range(126, 134) for s in systems):
        agents.append(
            (
                f"Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) "
                f"Chrome/{version}.0.0.0 Safari/537.36",
                1000 // (rank + 1),
            )
        )
        agents.append(
            (f"Mozilla/5.0 ({system}; rv:{version}.0) Gecko/20100101 Firefox/{version}.0", 300)
        )
    return agents


def recorded_tables(split: Split) -> Iterator[VectorSource]:
    """scikit-learn's wine and breast cancer, with attacks on a model of the split's rows."""
    from sklearn.datasets import load_breast_cancer, load_wine

    for name, loader in (("wine", load_wine), ("breast_cancer", load_breast_cancer)):
        table: Any = loader()
        own = sorted(third(range(len(table.data)), split))
        x = np.ascontiguousarray(table.data[own], dtype=np.float32)
        benign = Rows(x, table.target[own].astype(np.int64))
        rng = Dice("built-in tables", name, split).generator
        victim = vectors.Population(VectorSource(name, benign, {}), rng)
        attacks = {}
        for strategy, ask in vectors.STRATEGIES.items():
            asked = ask(victim, rng, _ATTACK_ROWS)
            attacks[strategy] = Rows(asked, victim.answers(asked)[0])
        yield VectorSource(name, benign, attacks)
