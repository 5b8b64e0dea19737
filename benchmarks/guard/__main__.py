"""python -m benchmarks.guard --data DIR [--tuning]

How many probes the guard of requests catches, and how many ordinary texts it takes for one: prompts
of people and applications, and what people say in Ubuntu's channels. Half of each was for tuning,
half is reported; `--tuning` shows the other half, and what was missed and mistaken in it.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from velvetrope_client.guard import KINDS, kind_of

from benchmarks.guard.probes import PROBES


def main() -> None:
    """The command line."""
    parser = ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the ordinary texts")
    parser.add_argument(
        "--tuning", action="store_true", help="the half for tuning, with its errors"
    )
    options = parser.parse_args()
    half = slice(0, None, 2) if options.tuning else slice(1, None, 2)
    console = Console()
    caught = Table("probe", "asked", "caught", "as its kind")
    for kind, probes in PROBES.items():
        own = probes[half]
        found = [kind_of(text) for text in own]
        caught.add_row(
            kind,
            str(len(own)),
            str(sum(one is not None for one in found)),
            str(sum(one == kind for one in found)),
        )
        if options.tuning:
            for text, one in zip(own, found, strict=True):
                if one is None:
                    console.print(f"missed ({kind}): {text}", highlight=False, markup=False)
    console.print(caught)
    mistaken = Table("ordinary", "texts", "taken for a probe", *KINDS, "µs each")
    for source, texts in ordinary(options.data).items():
        own_texts = texts[half]
        start = time.perf_counter()
        kinds = [kind_of(text) for text in own_texts]
        took = (time.perf_counter() - start) / len(own_texts)
        mistaken.add_row(
            source,
            f"{len(own_texts):,}",
            str(sum(one is not None for one in kinds)),
            *(str(kinds.count(kind)) for kind in KINDS),
            f"{1e6 * took:.0f}",
        )
        if options.tuning:
            for text, one in zip(own_texts, kinds, strict=True):
                if one is not None:
                    console.print(f"mistaken ({one}): {text[:300]}", highlight=False, markup=False)
    console.print(mistaken)


def ordinary(data: Path) -> dict[str, Sequence[str]]:
    """Ordinary texts by source."""
    prompts = pq.read_table(data / "prompts.parquet").to_pydict()
    found: dict[str, list[str]] = {}
    for source, text in zip(prompts["source"], prompts["text"], strict=True):
        found.setdefault(source, []).append(text)
    people = pq.read_table(data / "people_irc_ubuntu.parquet", columns=["text"]).to_pydict()
    found["people_irc_ubuntu"] = people["text"]
    return found


if __name__ == "__main__":
    main()
