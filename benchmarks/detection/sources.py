"""What weeks are composed of: texts, times and vectors, each split three ways by its source unit.

A unit is what must not cross from training to testing: a person, a production client, a dataset, a
cluster of similar prompts, a template, an article, a row of a table. Units are dealt to the three
splits in the order of a hash, whatever their names are. Half of the texts teach, since what is
caught elsewhere grows with how many sorts of text a model has met; a quarter calibrates, a quarter
tests. Times and tables go by thirds.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

__all__ = [
    "SPLITS",
    "Client",
    "Person",
    "Rows",
    "Sources",
    "Split",
    "VectorSource",
    "common_start",
    "dealt",
    "load",
    "passages",
    "third",
    "with_distillers_of",
]

Split = Literal["train", "calibrate", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "calibrate", "test")
Floats = NDArray[np.float64]
Unit = TypeVar("Unit", bound=Hashable)

_BBH_CANARY: Final = "-----\n"
# Attack streams have a history: these are cut into runs of this many rows, each dealt whole.
_RUN_ROWS: Final = 64
# Of the texts' units in their order: two of four, one, one.
_TEXTS: Final = {
    "train": slice(0, None, 2),
    "calibrate": slice(1, None, 4),
    "test": slice(3, None, 4),
}
_STRATEGIES: Final = ("natural_pool", "uniform", "marginal_shuffle", "jbda", "active")


@dataclass(frozen=True, slots=True)
class Person:
    """One person's messages, in order. `times` are Unix seconds, within the minute by order."""

    name: str
    times: Floats
    texts: list[str]


@dataclass(frozen=True, slots=True)
class Client:
    """A production client's load: per 10-minute window its rate and its gaps' distribution."""

    name: str
    start: Floats  # (w,) seconds from the trace's start
    rate: Floats  # (w,) requests a second
    weibull: NDArray[np.bool_]  # (w,) Weibull gaps, otherwise Gamma
    shape: Floats  # (w,)


@dataclass(frozen=True, slots=True)
class Rows:
    """Queries of one strategy, in the order in which it sends them, with the victim's labels."""

    x: NDArray[np.float32]  # (n, d)
    y: NDArray[np.int64]  # (n,)


@dataclass(frozen=True, slots=True)
class VectorSource:
    """A model that answers vectors: what customers send it, and what attacks on it sent."""

    name: str
    benign: Rows
    attacks: dict[str, Rows]


@dataclass(frozen=True, slots=True)
class Sources:
    """One split's share of everything. Nested mappings go from a unit to its content."""

    split: Split
    people: list[Person]
    utterances: dict[str, list[str]]  # intent → short requests to an assistant
    questions: dict[str, list[str]]  # topic → questions put to a chat model
    personas: dict[str, list[str]]  # author → long prompts
    tasks: dict[str, dict[str, list[str]]]  # dataset → template → filled-in prompts
    passages: dict[str, list[str]]  # dataset → the longest paragraph of each of its prompts
    puzzles: dict[str, list[str]]  # benchmark task → items
    few_shot: dict[str, str]  # benchmark task → chain-of-thought examples
    problems: list[str]  # grade-school mathematics
    instructions: dict[str, list[str]]  # cluster → instructions once sent to a teacher
    teacher_templates: dict[str, str]
    articles: dict[str, list[str]]  # title → paragraphs
    clients: list[Client]
    sessions: list[Floats]  # times within multi-turn sessions, seconds from the first turn
    user_agents: list[tuple[str, int]]
    vectors: dict[str, VectorSource]


def with_distillers_of(sources: Sources, other: Sources) -> Sources:
    """Sources with what distillers of another collection send, beside their own: instructions,
    templates, an encyclopedia. Its customers stay out."""
    return replace(
        sources,
        instructions=sources.instructions | other.instructions,
        teacher_templates=sources.teacher_templates | other.teacher_templates,
        articles=sources.articles | other.articles,
    )


def third(units: Iterable[Unit], split: Split) -> set[Unit]:
    """The units of a split: every third in the order of their hashes. Splits are disjoint."""
    ordered = sorted(set(units), key=_rank)
    return set(ordered[SPLITS.index(split) :: len(SPLITS)])


def dealt(units: Iterable[Unit], split: Split) -> set[Unit]:
    """The units of texts of a split: two of four teach, one calibrates, one tests.

    The order is another than `third`'s: a cut of its own, made when the test third had been looked
    at, so that the task which was does not test (docs/decisions/0006).
    """
    ordered = sorted(set(units), key=lambda unit: _rank(("texts", unit)))
    return set(ordered[_TEXTS[split]])


def _rank(unit: Hashable) -> bytes:
    return blake2b(repr(unit).encode(), digest_size=8).digest()


@lru_cache(maxsize=3)
def load(data: Path, split: Split) -> Sources:
    """Read one split's share of the sources under the folder `data` (about 3 s, then cached)."""
    prompts = _columns(data / "prompts.parquet")
    by_source = _grouped(
        prompts["source"], zip(prompts["author"], prompts["meta"], prompts["text"], strict=True)
    )
    batch = _columns(data / "batch_eval.parquet")
    rows = _grouped(batch["source"], zip(batch["task"], batch["text"], strict=True))
    few_shot = json.loads((data / "batch_bbh_cot_prefixes.json").read_text())
    puzzles = _kept(_grouped(*_unzip(rows["bbh"])), split)
    utterances = [(meta, text) for _, meta, text in by_source["clinc150"]]
    questions = [(meta, text) for _, meta, text in by_source["arena_hard_v0.1"]]
    personas = [(author or text, text) for author, _, text in by_source["awesome_prompts"]]
    datasets: dict[str, dict[str, list[str]]] = {}
    for task, texts in _grouped(*_unzip(rows["t0_p3"])).items():
        datasets.setdefault(task.split("_")[0], {})[task] = texts
    tasks = _kept(datasets, split)
    problems = [text for _, text in rows["gsm8k"]]
    keep = dealt(problems, split)
    return Sources(
        split=split,
        people=_people(data / "people_irc_ubuntu.parquet", split),
        utterances=_kept(_grouped(*_unzip(utterances)), split),
        questions=_kept(_grouped(*_unzip(questions)), split),
        personas=_kept(_grouped(*_unzip(personas)), split),
        tasks=tasks,
        passages={name: passages(templates) for name, templates in tasks.items()},
        puzzles=puzzles,
        few_shot={
            task: few_shot[task].split(_BBH_CANARY)[-1] for task in puzzles if task in few_shot
        },
        problems=[text for text in problems if text in keep],
        instructions=_instructions(data / "attack_prompts.parquet", split),
        teacher_templates=_teacher_templates(data / "attack_teacher_templates.jsonl", split),
        articles=_kept(_articles(data / "wikitext2_valid.txt.gz"), split),
        clients=_clients(data / "client_windows.parquet", split),
        sessions=_sessions(data / "trace_mooncake.parquet", split),
        user_agents=_user_agents(data / "ua_strings_elastic_apache.csv.gz"),
        vectors=_vectors(data / "tabular_streams.npz", split),
    )


def _columns(path: Path) -> dict[str, list[Any]]:
    return dict(pq.read_table(path).to_pydict())


def _unzip(pairs: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    pairs = list(pairs)
    return [a for a, _ in pairs], [b for _, b in pairs]


def _grouped(keys: Iterable[str], values: Iterable[Unit]) -> dict[str, list[Unit]]:
    groups: dict[str, list[Unit]] = defaultdict(list)
    for key, value in zip(keys, values, strict=True):
        groups[key].append(value)
    return groups


def _kept(groups: dict[str, Any], split: Split) -> dict[str, Any]:
    keep = dealt(groups, split)
    return {unit: groups[unit] for unit in sorted(keep)}


def passages(templates: dict[str, list[str]]) -> list[str]:
    """What a dataset's prompts are about, without the words with which all prompts of a template
    start and end, once each."""
    found = {
        max(re.split(r"\n\s*\n", text), key=len).strip(): None
        for texts in templates.values()
        for text in _bare(texts)
    }
    return [text for text in found if len(text) >= 40]


def _bare(texts: list[str]) -> list[str]:
    """One template's prompts without the words with which all of them start and end."""
    if len(texts) < 2:
        return texts
    start = _common(texts)
    end = _common([text[:start:-1] for text in texts])
    return [text[start : len(text) - end] for text in texts]


def _common(texts: list[str]) -> int:
    """Characters with which all texts start, up to the end of a word."""
    return len(re.sub(r"\w+\Z", "", common_start(texts)))


def common_start(texts: Iterable[str]) -> str:
    """The longest start that all texts have: what the first and the last in order share."""
    ordered = sorted(texts)
    first, last = ordered[0], ordered[-1]  # all others lie between, so they start as these do
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))]


def _people(path: Path, split: Split) -> list[Person]:
    table = _columns(path)
    rows: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for user, ts, line, is_bot, text in zip(
        table["user"], table["ts"], table["line"], table["is_bot"], table["text"], strict=True
    ):
        if not is_bot and text:
            rows[user].append((ts, line, text))
    people = []
    for user in sorted(dealt(rows, split)):
        said = sorted(rows[user])
        minutes = np.array([ts for ts, _, _ in said], dtype=np.float64)
        # The clock has minutes: the lines of one minute are spread over it, in order.
        first = np.searchsorted(minutes, minutes)
        count = np.searchsorted(minutes, minutes, side="right") - first
        within = (np.arange(len(said)) - first + 0.5) / count * 60.0
        people.append(Person(f"irc-{user}", minutes + within, [text for _, _, text in said]))
    return people


def _instructions(path: Path, split: Split) -> dict[str, list[str]]:
    table = _columns(path)
    code: list[str] = []
    by_tool: dict[str, list[str]] = defaultdict(list)
    for source, instruction, extra in zip(
        table["source"], table["instruction"], table["input"], strict=True
    ):
        text = f"{instruction}\n\n{extra}" if extra else instruction
        tools = re.search(r"^toolformer access: (.+)$", instruction, re.MULTILINE)
        if "toolformer" not in source:
            code.append(text)
        elif tools:
            by_tool[tools[1]].append(text)
    kept_tools = dealt({tool.split(", ")[0] for tool in by_tool}, split)
    tools_kept = {
        f"tools:{tools}": texts
        for tools, texts in sorted(by_tool.items())
        if kept_tools.issuperset(tools.split(", "))
    }
    return _kept(_clusters(code), split) | tools_kept


def _clusters(texts: Sequence[str]) -> dict[str, list[str]]:
    """Group similar prompts, so that two wordings of one request stay in one split."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from threadpoolctl import threadpool_limits

    count = min(120, len(texts) // 6)
    if count < 2:
        return {f"code:{i}": [text] for i, text in enumerate(texts)}
    terms = TfidfVectorizer(min_df=1, sublinear_tf=True).fit_transform(texts)
    plane = TruncatedSVD(min(48, terms.shape[1] - 1), random_state=0).fit_transform(terms)
    # One thread: in a forked process, OpenMP waits for ever for the threads of its parent.
    with threadpool_limits(1, "openmp"):
        labels = MiniBatchKMeans(count, n_init=1, random_state=0).fit_predict(plane)
    return _grouped([f"code:{label}" for label in labels], texts)


def _teacher_templates(path: Path, split: Split) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return _kept({(row := json.loads(line))["name"]: row["text"] for line in lines}, split)


def _articles(path: Path) -> dict[str, list[str]]:
    articles: dict[str, list[str]] = {}
    title = ""
    for line in gzip.decompress(path.read_bytes()).decode().split("\n"):
        if heading := re.match(r"^ = ([^=].*) = $", line):
            title = heading[1]
            articles[title] = []
        elif title and len(line) > 80:
            articles[title].append(_detokenised(line))
    return {title: paragraphs for title, paragraphs in articles.items() if paragraphs}


def _detokenised(line: str) -> str:
    """WikiText's spaced-out tokens as a person would write them."""
    line = re.sub(r" @(.)@ ", r"\1", line.strip()).replace("<unk> ", "")
    line = re.sub(r" ([.,;:!?%)\]]|'s\b|n't\b)", r"\1", line)
    line = re.sub(r"([(\[$£]) ", r"\1", line)
    return re.sub(r'" (.*?) "', r'"\1"', line)


def _clients(path: Path, split: Split) -> list[Client]:
    table = pq.read_table(path)
    model, client = table["model"].to_pylist(), table["client"].to_pylist()
    names = [f"{m}/{c}" for m, c in zip(model, client, strict=True)]
    keep = third(names, split)
    index: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        if name in keep:
            index[name].append(row)
    start, rate, shape = (table[c].to_numpy().astype(np.float64) for c in ("ts", "rate", "p1"))
    weibull = np.array(table["pat"].to_pylist()) == "Weibull"
    clients = []
    for name in sorted(index):
        at = np.array(index[name])
        at = at[np.argsort(start[at], kind="stable")]
        at = at[(rate[at] > 0) & (shape[at] > 0) & np.isfinite(shape[at])]
        if len(at):
            clients.append(Client(name, start[at], rate[at], weibull[at], shape[at]))
    return clients


def _sessions(path: Path, split: Split) -> list[Floats]:
    table = _columns(path)
    times: dict[str, list[float]] = defaultdict(list)
    for trace, session, ts in zip(table["trace"], table["session"], table["ts_ms"], strict=True):
        times[f"{trace}/{session}"].append(ts / 1000.0)
    keep = sorted(third((name for name, ts in times.items() if len(ts) > 1), split))
    return [np.sort(np.array(times[name])) - min(times[name]) for name in keep]


def _user_agents(path: Path) -> list[tuple[str, int]]:
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return [(row["ua"], int(row["requests"])) for row in csv.DictReader(lines) if row["ua"]]


def _vectors(path: Path, split: Split) -> dict[str, VectorSource]:
    arrays = np.load(path)
    names = sorted({key.split("__")[0] for key in arrays.files})
    return {name: _vector_source(arrays, name, split) for name in names}


def _vector_source(arrays: Any, name: str, split: Split) -> VectorSource:
    def rows(strategy: str, run: int) -> Rows:
        x, y = arrays[f"{name}__{strategy}_X"], arrays[f"{name}__{strategy}_y"]
        runs = np.arange(len(x)) // run
        keep = np.isin(runs, sorted(third(runs.tolist(), split)))
        return Rows(np.ascontiguousarray(x[keep], dtype=np.float32), y[keep].astype(np.int64))

    attacks = {s: rows(s, _RUN_ROWS) for s in _STRATEGIES if f"{name}__{s}_X" in arrays.files}
    return VectorSource(name, rows("benign", 1), attacks)
