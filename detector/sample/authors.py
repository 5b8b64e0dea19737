"""What each kind of account sends: one class a kind, each writing one input after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, Protocol

from detector.sample.dice import Dice
from detector.sample.grammar import Grammar, load
from detector.sample.persona import Persona, all_subjects, name_from

__all__ = [
    "App",
    "Author",
    "BatchJob",
    "Evaluation",
    "Harvester",
    "LongPrompts",
    "Monitor",
    "Person",
]

_REGISTERS: Final = ("chatty", "search", "formal", "terse", "story", "pasted")
_HISTORY_TURNS: Final = 6
# Of a way's templates, how many one pipeline has. Instructions come out of a generator's pool.
_TEMPLATES: Final = {"instruction": 12, "reasoning": 4, "wrapped": 3}
_LEGAL_FORMS: Final = ("GmbH", "Ltd", "AB", "& Sons", "Co-op", "Labs")


class Author(Protocol):
    """Writes the inputs of one account, in order."""

    def write(self, turn: int) -> str:
        """The next input; `turn` counts from 0 within a session."""
        ...


class Person:
    """Asks about their own subjects in their own way, over several turns."""

    def __init__(self, habit: Dice, today: Dice) -> None:
        self._dice = today
        self._grammar = _people()
        self._persona = Persona.of(habit, habit.integer(1, 4))
        self._registers = habit.some(_REGISTERS, habit.integer(1, 3))
        self._resends = habit.chance(0.3)  # the client sends the whole conversation each time
        self._subject = self._persona.subject(today)
        self._history: list[str] = []

    def write(self, turn: int) -> str:
        """See Author."""
        if turn == 0:
            self._subject = self._persona.subject(self._dice)
            self._history = []
            rule = self._dice.pick(self._registers)
        else:
            rule = "follow" if self._dice.chance(0.75) else self._dice.pick(self._registers)
        text = self._grammar.write(rule, self._dice, self._subject)
        text = self._persona.style.apply(text, self._dice)
        if not self._resends:
            return text
        self._history.append(f"user: {text}")
        sent = "\n".join(self._history[-2 * _HISTORY_TURNS - 1 :])
        self._history.append(
            f"assistant: {self._grammar.write('reply', self._dice, self._subject)}"
        )
        return sent


class App:
    """A production application: its own fixed prompt, filled in for each of its users."""

    def __init__(self, habit: Dice, today: Dice) -> None:
        self._dice = today
        task = habit.pick(sorted(set(load("apps")) - {"common"}))
        self._grammar = _sub_grammar("apps", task)
        company = f"{name_from(habit).capitalize()} {habit.pick(_LEGAL_FORMS)}"
        self._words: dict[str, Sequence[str]] = {
            **all_subjects({}),
            **Persona.of(habit, 1).subjects[0],
            "company": [company],
        }
        # An application's own users come from everywhere and order all the time.
        self._words["friend"] = all_subjects({})["friend"]
        self._words["place"] = all_subjects({})["place"]
        self._head = self._grammar.write("head", habit, self._words)

    def write(self, turn: int) -> str:
        """See Author."""
        code = f"{self._dice.pick('ABCDEFGH')}{self._dice.integer(10_000, 99_999)}"
        words = {**self._words, "order": [code]}
        return self._head + self._grammar.write("body", self._dice, words)


class BatchJob:
    """One template over many inputs."""

    def __init__(self, habit: Dice, today: Dice) -> None:
        self._dice = today
        self._grammar = _sub_grammar("jobs", "batch")
        persona = Persona.of(habit, 1)
        surnames = [name_from(habit).capitalize() for _ in range(60)]
        words = all_subjects({"surname": surnames})
        self._words = {**words, **{k: persona.subjects[0][k] for k in ("thing", "act", "trait")}}
        self._template = habit.pick(load("jobs")["batch"]["template"])
        self._fill = Grammar({"input": [self._template]})

    def write(self, turn: int) -> str:
        """See Author."""
        slots = {
            name: [self._grammar.write(name, self._dice, self._words)]
            for name in ("review", "note", "address")
        }
        return self._fill.write("input", self._dice, {**self._words, **slots})


class Evaluation:
    """Benchmark questions, one task after another, behind a prefix of worked examples."""

    def __init__(self, habit: Dice, today: Dice) -> None:
        self._dice = today
        self._grammar = _sub_grammar("jobs", "evaluation")
        surnames = [name_from(habit).lower() for _ in range(40)]
        self._words = all_subjects({"surname": surnames})
        self._tasks = habit.some(load("jobs")["evaluation"]["task"], habit.integer(1, 3))
        self._style = habit.pick(load("jobs")["common"]["style"])
        self._shots = habit.pick((0, 0, 1, 2, 4))
        self._prefix = ""
        self._task = ""

    def write(self, turn: int) -> str:
        """See Author. A task lasts 60 questions."""
        task = self._tasks[turn // 60 % len(self._tasks)]
        if task != self._task:
            self._task = task
            examples = [
                self._question() + f" {self._dice.integer(2, 90)}." for _ in range(self._shots)
            ]
            self._prefix = "".join(f"{example}\n\n" for example in examples)
        return self._prefix + self._question()

    def _question(self) -> str:
        words = {**self._words, "style": [self._style]}
        return self._grammar.write(self._task, self._dice, words)


class LongPrompts:
    """Whole documents with a question, often several questions on the same document."""

    def __init__(self, habit: Dice, today: Dice) -> None:
        self._dice = today
        self._grammar = _documents()
        self._persona = Persona.of(habit, habit.integer(1, 3))
        self._paragraphs = habit.integer(6, 30)
        self._document = ""

    def write(self, turn: int) -> str:
        """See Author."""
        dice, subject = self._dice, self._persona.subject(self._dice)
        if turn == 0 or dice.chance(0.3):
            count = max(3, round(dice.lognormal(self._paragraphs, 0.4)))
            self._document = "\n\n".join(self._paragraph(subject) for _ in range(min(count, 80)))
        return f"{self._grammar.write('ask', dice, subject)}\n\n{self._document}"

    def _paragraph(self, subject: Mapping[str, Sequence[str]]) -> str:
        dice = self._dice
        sentences = [
            self._grammar.write("sentence", dice, subject) for _ in range(dice.integer(3, 7))
        ]
        text = " ".join(sentences)
        if dice.chance(0.2):
            return f"{self._grammar.write('title', dice, subject)}\n{text}"
        return text


class Monitor:
    """One probe, or two in turn, for ever."""

    def __init__(self, habit: Dice, today: Dice) -> None:
        grammar = _sub_grammar("jobs", "monitor")
        words = all_subjects({"surname": [name_from(habit)]})
        self._probes = [grammar.write("probe", habit, words) for _ in range(habit.integer(1, 2))]

    def write(self, turn: int) -> str:
        """See Author."""
        return self._probes[turn % len(self._probes)]


class Harvester:
    """Synthetic instructions on everything, in one of the campaign's three ways.

    A pipeline has some templates of its own, and its own few words to ask for reasoning with. A
    part of the requests is cover: what a person would ask.
    """

    def __init__(self, way: str, cover: float, today: Dice) -> None:
        rules: dict[str, list[str]] = load("harvest")
        own = {
            way: today.some(rules[way], _TEMPLATES[way]),
            "elicit": today.some(rules["elicit"], 2),
        }
        self._grammar = Grammar({**rules, **own})
        self._words = all_subjects({})
        self._way = way
        self._cover = cover
        self._dice = today
        self._person = Person(today, today)

    def write(self, turn: int) -> str:
        """See Author."""
        if self._dice.chance(self._cover):
            return self._person.write(0)
        return self._grammar.write(self._way, self._dice, self._words)


@cache
def _people() -> Grammar:
    documents: dict[str, Any] = dict(load("documents"))
    return Grammar({**documents, **load("people")})


@cache
def _documents() -> Grammar:
    return Grammar(load("documents"))


@cache
def _sub_grammar(file: str, task: str) -> Grammar:
    """A task's rules, and what it shares with the file's other tasks."""
    rules: dict[str, list[str]] = dict(load(file)["common"])
    if file == "jobs" and task == "evaluation":
        del rules["style"]  # an evaluation keeps to one style
    return Grammar({**rules, **load(file)[task]})
