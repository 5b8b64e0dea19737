"""Public tasks: what is taken out of packages, what is left out, and how weeks are widened."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

from benchmarks.detection import public
from benchmarks.detection.public import collected, read, widened, write
from benchmarks.detection.sources import load
from tests.benchmarks.tiny_sources import write_sources


def wheel(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


def tarball(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def samples(*inputs: Any) -> str:
    return "\n".join(json.dumps({"input": one, "ideal": "x"}) for one in inputs)


def texts_of(rows: list[dict[str, str]]) -> list[str]:
    return [row["text"] for row in rows]


def test_evaluations_are_read_as_their_messages_and_broken_lines_are_passed_over() -> None:
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why 0?"}]
    many = [f"Question number {i}" for i in range(30)]
    file = samples(said, *many) + '\n{"input": [{"role": "user"}]}\nno JSON\n[1]\n{"other": 1}'
    rows = collected({"evals": wheel({"evals/registry/data/sums/a.jsonl": file})}, [])
    assert {(row["use"], row["name"], row["part"]) for row in rows} == {
        ("task", "evals: sums", "a")
    }
    texts = texts_of(rows)
    assert set(many) <= set(texts)
    (first,) = set(texts) - set(many)
    assert first in ("system: Be brief.\nuser: Why 0?", "Be brief.\n\nWhy 0?")


def test_benchmark_tasks_have_their_prefix_choices_and_cue() -> None:
    task = {
        "task_prefix": "Pick one.\n",
        "example_input_prefix": "Input: ",
        "example_output_prefix": "\nOutput: ",
        "examples": [{"input": f"item {i}", "target_scores": {"a": 1, "b": 0}} for i in range(25)],
    }
    name = "bigbench-1.0.0/bigbench/benchmark_tasks/odd/part/task.json"
    rows = collected({"bigbench": tarball({name: json.dumps(task)})}, [])
    assert "Pick one.\nInput: item 3\n  choice: a\n  choice: b\nOutput:" in texts_of(rows)
    assert {(row["name"], row["part"]) for row in rows} == {("bigbench: odd", "part")}


def test_requests_to_write_and_dialogues_are_read() -> None:
    queries = "\n".join(
        json.dumps({"domain1": "Law", "domain2": "Notes", "query": f"Write note {i}"})
        for i in range(40)
    )
    lines = "categories: [x]\nconversations:\n" + "".join(
        f"- - Hello {i}\n  - Hi {i}\n" for i in range(20)
    )
    rows = collected(
        {
            "inspect-evals": wheel({"inspect_evals/writingbench/benchmark_all.jsonl": queries}),
            "chatterbot-corpus": wheel({"chatterbot_corpus/data/english/food.yml": lines}),
        },
        [],
    )
    assert {row["use"] for row in rows} == {"question", "utterance"}
    assert {row["name"] for row in rows if row["use"] == "question"} == {
        "inspect-evals: Law 0",
        "inspect-evals: Law 1",
    }
    assert "Hello 3" in texts_of(rows)
    assert "Write note 39" in texts_of(rows)


def test_what_shares_a_run_of_words_or_a_name_is_left_out() -> None:
    def file(first: str) -> str:
        return samples(first, *(f"Question number {i}" for i in range(30)))

    run = "one two three four five six seven eight nine ten eleven twelve thirteen"
    files = {
        "evals/registry/data/clean/a.jsonl": file("Nothing that anybody else has"),
        "evals/registry/data/near/a.jsonl": file(run.removesuffix(" thirteen")),
        "evals/registry/data/shared/a.jsonl": file(f"Say: {run.upper()}!"),
        "evals/registry/data/Web-of-Lies-2/a.jsonl": file("Nothing that anybody else has"),
        "evals/registry/data/few/a.jsonl": samples("Only one"),
    }
    rows = collected({"evals": wheel(files)}, [f"They counted {run} and stopped"], ["web_of_lies"])
    assert {row["name"] for row in rows} == {"evals: clean", "evals: near"}
    short = collected({"evals": wheel(files)}, [], ["a", "lie"])  # too short to be a name
    assert {row["name"] for row in short} >= {"evals: clean", "evals: Web-of-Lies-2"}


def test_tasks_that_share_words_teach_or_calibrate_together() -> None:
    def file(*own: str) -> str:
        return samples(*own, *(f"{own[0][:9]} number {i}" for i in range(30)))

    run = "one two three four five six seven eight nine ten eleven twelve thirteen"
    other = " ".join(f"word{i}" for i in range(20))
    files = {
        "evals/registry/data/first/a.jsonl": file("alpha beta", f"{run} one"),
        "evals/registry/data/second/a.jsonl": file("gamma delta", f"two {run}", other),
        "evals/registry/data/third/a.jsonl": file("epsilon ze", f"{other} and more"),
        "evals/registry/data/alone/a.jsonl": file("eta theta!"),
    }
    group = {row["name"]: row["group"] for row in collected({"evals": wheel(files)}, [])}
    assert len(group) == 4
    assert group["evals: first"] == group["evals: second"] == group["evals: third"]
    assert group["evals: alone"] != group["evals: first"]


def test_the_command_leaves_out_what_the_data_folder_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sources(tmp_path)
    test = load(tmp_path, "test")
    dataset, templates = next(iter(test.tasks.items()))
    prompts = next(iter(templates.values()))
    assert len(prompts[0].split()) > 13
    many = [f"Question number {i}" for i in range(30)]
    archive = tmp_path / "evals.whl"
    archive.write_bytes(
        wheel(
            {
                "evals/registry/data/copied/a.jsonl": samples(prompts[0], *many),
                f"evals/registry/data/{next(iter(test.puzzles))}/a.jsonl": samples(*many),
                f"evals/registry/data/{dataset}-again/a.jsonl": samples(*many),
                "evals/registry/data/new/a.jsonl": samples(*many),
            }
        )
    )
    monkeypatch.setattr(public, "_PACKAGES", {"evals": public._Package("", "")})
    monkeypatch.setattr(public, "_fetched", lambda *_: archive)
    out = tmp_path / "tasks.parquet"
    monkeypatch.setattr(
        "sys.argv", ["public", "--out", str(out), "--data", str(tmp_path), "--cache", str(tmp_path)]
    )
    public.main()
    found = {name for share in ("train", "calibrate") for name in read(share, out).tasks}
    assert found == {"evals: new"}


def test_a_task_gives_few_prompts_of_few_parts_each_once_and_none_too_long() -> None:
    files = {
        f"evals/registry/data/big/{part}.jsonl": samples(
            "x" * 9000, *(f"{part} {i % 200}" for i in range(400))
        )
        for part in range(9)
    }
    rows = collected({"evals": wheel(files)}, [])
    assert len({row["part"] for row in rows}) == 6
    texts = texts_of(rows)
    assert len(texts) == len(set(texts)) == 240
    assert max(map(len, texts)) <= 6000
    assert rows == collected({"evals": wheel(files)}, [])


def test_shares_are_disjoint_and_widen_sources_otherwise_each_week(tmp_path: Path) -> None:
    write_sources(tmp_path)
    rows = [
        {
            "use": use,
            "name": f"{use} {i}",
            "group": f"{use} {i // 2}",
            "part": str(k % 2),
            "text": f"{use} {i}: " + 60 * str(k),
        }
        for use in ("task", "question", "utterance")
        for i in range(100)
        for k in range(25)
    ]
    write(rows, tmp_path / "tasks.parquet")
    teach, calibrate = (read(s, tmp_path / "tasks.parquet") for s in ("train", "calibrate"))
    assert teach.tasks.keys().isdisjoint(calibrate.tasks)
    for i in range(0, 100, 2):  # those of a group are in one share
        assert (f"task {i}" in teach.tasks) == (f"task {i + 1}" in teach.tasks)
    assert len(teach.tasks) + len(calibrate.tasks) == 100
    assert 10 <= len(calibrate.tasks) <= 40
    sources = load(tmp_path, "train")
    first, second = (widened(sources, teach, np.random.default_rng(seed)) for seed in (1, 2))
    for wider in (first, second):
        for field in ("tasks", "passages", "puzzles", "instructions", "questions", "utterances"):
            assert getattr(wider, field).keys() > getattr(sources, field).keys(), field
    assert first.tasks.keys() != second.tasks.keys()
    again = widened(sources, teach, np.random.default_rng(1))
    assert again == first
    assert load(tmp_path, "train") is sources
    assert not any("task" in name for name in sources.tasks)


def test_a_file_that_is_not_what_it_was_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"other")
    package = public._Package("a.whl", "0" * 64)
    with Progress(disable=True) as progress, pytest.raises(SystemExit, match="SHA-256"):
        public._fetched("a", package, tmp_path, progress)
