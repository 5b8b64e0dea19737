"""A folder of sources in the real files' formats, a few kilobytes of random words."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["write_sources"]

STRATEGIES = ("natural_pool", "uniform", "marginal_shuffle", "jbda", "active")


def write_sources(folder: Path, people: int = 240) -> None:
    """Write every file that `benchmarks.detection.sources.load` reads, with so many people."""
    rng = np.random.default_rng(5)
    vocabulary = ["".join(chr(97 + c) for c in rng.integers(26, size=6)) for _ in range(400)]

    def say(words: int) -> str:
        return " ".join(vocabulary[i] for i in rng.integers(len(vocabulary), size=words))

    def table(name: str, rows: list[dict[str, Any]]) -> None:
        pq.write_table(pa.Table.from_pylist(rows), folder / name)

    def person(user: int, messages: int) -> list[dict[str, Any]]:
        first = 1_200_000_000 + int(rng.integers(1000)) * 86_400
        minutes = np.sort(rng.integers(3 * 1440, size=messages)).tolist()
        return [
            {
                "user": user,
                "ts": first + 60 * minute,
                "line": line,
                "is_bot": user == 0,
                "text": say(int(rng.integers(3, 12))),
            }
            for line, minute in enumerate(minutes)
        ]

    table(
        "people_irc_ubuntu.parquet",
        [row for user in range(people) for row in person(user, 6 if user % 3 else 20)],
    )
    table(
        "prompts.parquet",
        [
            {
                "source": source,
                "author": f"author-{i % 30}",
                "meta": f"topic-{i % 30}",
                "text": text,
            }
            for source, words in (
                ("clinc150", 6),
                ("arena_hard_v0.1", 30),
                ("awesome_prompts", 90),
            )
            for i in range(120)
            if (text := say(words))
        ],
    )
    table(
        "batch_eval.parquet",
        [
            {
                "source": source,
                "task": f"{task}_{i % 12}",
                "text": f"Read:\n\n{say(30)}\n\n{say(5)}",
            }
            for source, task in (("bbh", "logic"), ("gsm8k", "train"))
            for i in range(180)
        ]
        + [
            {
                "source": "t0_p3",
                "task": f"set{i % 9}_{i % 4}",
                "text": f"Now answer with a reply\n{say(40)}\nthe reply is"
                if i % 2
                else f"{say(5)}\n\n{say(40)}",
            }
            for i in range(360)
        ],
    )
    shots = {f"logic_{i}": f"canary\n-----\n{say(30)}" for i in range(12)}
    (folder / "batch_bbh_cot_prefixes.json").write_text(json.dumps(shots))
    table(
        "attack_prompts.parquet",
        [
            {
                "source": "gpteacher_toolformer" if i % 2 else "gpteacher_codegen",
                "instruction": f"toolformer: enabled\ntoolformer access: t{i % 9}\n{say(9)}"
                if i % 2
                else f"Write {say(9)}",
                "input": say(3),
            }
            for i in range(240)
        ],
    )
    lines = [
        json.dumps({"name": f"{i}.txt", "text": f"{say(20)} {{batch_size}} {{topics}} {say(9)}"})
        for i in range(9)
    ]
    (folder / "attack_teacher_templates.jsonl").write_text("\n".join(lines))
    wiki = "".join(
        f" = Title {i} = \n \n" + "".join(f" {say(30)} . {say(20)} . \n" for _ in range(5))
        for i in range(9)
    )
    (folder / "wikitext2_valid.txt.gz").write_bytes(gzip.compress(wiki.encode()))
    table(
        "client_windows.parquet",
        [
            {
                "model": "m",
                "client": client,
                "ts": 600 * window,
                "rate": float(rng.uniform(0.01, 1)),
                "pat": "Gamma" if client % 2 else "Weibull",
                "p1": float(rng.uniform(0.2, 1.5)),
            }
            for client in range(9)
            for window in range(300)
        ],
    )
    table(
        "trace_mooncake.parquet",
        [
            {"trace": "chat", "session": i % 60, "ts_ms": 3000 * int(rng.integers(600))}
            for i in range(300)
        ],
    )
    agents = "ua,requests\nMozilla/5.0,9\ncurl/8.0,1\n"
    (folder / "ua_strings_elastic_apache.csv.gz").write_bytes(gzip.compress(agents.encode()))
    streams: dict[str, Any] = {}
    for strategy in ("benign", *STRATEGIES):
        x = rng.integers(16, size=(600, 6)).astype(np.float32)
        streams[f"toy__{strategy}_X"] = x
        streams[f"toy__{strategy}_y"] = (x.sum(axis=1) // 30).astype(np.int16)
    np.savez(folder / "tabular_streams.npz", **streams)
