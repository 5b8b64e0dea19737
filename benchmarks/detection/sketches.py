"""What judging sketches in place of inputs costs: the same days, as inputs and as sketches.

Run: python -m benchmarks.detection.sketches [--seeds 1 2 3 4] [--log FILE --labels FILE]

Each seed is a day of `velvetrope sample` (400 customers, 40 thieves), or `--log` is a native log of
one's own. It is replayed by `velvetrope replay` as it is, and again with each text turned into its
sketch, under a key of the seed. Both are held against the labels, and against each other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from velvetrope_client.sketch import Sketcher

__all__ = ["main"]


class Judged(NamedTuple):
    """One replay: accounts that were enforced, the highest e-value of each, and the summary."""

    enforced: set[str]
    e_values: dict[str, float]
    summary: dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Print a line for each day, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--log", type=Path)
    parser.add_argument("--labels", type=Path)
    options = parser.parse_args(arguments)
    print(
        "day    enforced: inputs sketches both   recall: inputs sketches   false: inputs sketches"
    )
    with tempfile.TemporaryDirectory() as folder:
        totals = [0.0] * 7
        differences: list[float] = []
        days = [0] if options.log else options.seeds
        for seed in days:
            at = Path(folder) / str(seed)
            at.mkdir()
            log, labels = options.log, options.labels
            if log is None:
                _velvetrope("sample", "--out", str(at), "--day", "1", "--seed", str(seed))
                log, labels = at / "day1.jsonl", at / "labels1.json"
            key = hashlib.sha256(f"sketch key {seed}".encode()).digest()
            _sketched(log, at / "sketched.jsonl", Sketcher(key))
            plain = _replayed(log, labels, at / "plain")
            kept = _replayed(at / "sketched.jsonl", labels, at / "kept")
            row = [
                len(plain.enforced),
                len(kept.enforced),
                len(plain.enforced & kept.enforced),
                *(one.summary.get("labels", {}).get("recall", math.nan) for one in (plain, kept)),
                *(
                    one.summary.get("labels", {}).get("false_per_1000", math.nan)
                    for one in (plain, kept)
                ),
            ]
            totals = [total + value for total, value in zip(totals, row, strict=True)]
            differences += [
                abs(math.log10(plain.e_values[name]) - math.log10(kept.e_values[name]))
                for name in plain.e_values.keys() & kept.e_values.keys()
                if max(plain.e_values[name], kept.e_values[name]) > 10
            ]
            print(_line(str(seed), row))
        share = [total / len(days) for total in totals]
        print(_line("mean", share))
        differences.sort()
        print(
            f"accounts whose e-value is over 10 in either: {len(differences)}; it differs by a "
            f"factor of {10 ** differences[len(differences) // 2]:.2f} (median), "
            f"{10 ** differences[int(len(differences) * 0.95)]:.1f} (95 %)"
        )


def _line(name: str, row: list[float]) -> str:
    one, other, both, *shares = row
    told = "   ".join(f"{share:.3f}" for share in shares[:2])
    false = "   ".join(f"{share:.2f}" for share in shares[2:])
    return f"{name:6} {one:16.4g} {other:8.4g} {both:4.4g}   {told:>22}   {false:>21}"


def _velvetrope(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "detector.cli", *arguments],
        check=True,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _sketched(log: Path, to: Path, sketcher: Sketcher) -> None:
    with log.open("rb") as lines, to.open("wb") as out:
        for line in lines:
            event = msgspec.json.decode(line)
            if isinstance(event.get("input"), str):
                event["input_sketch"] = sketcher.sketch(event.pop("input"))
            out.write(msgspec.json.encode(event) + b"\n")


def _replayed(log: Path, labels: Path | None, to: Path) -> Judged:
    told = [] if labels is None else ["--labels", str(labels)]
    _velvetrope("replay", str(log), *told, "--out", str(to))
    enforced, e_values = set(), {}
    for line in (to / "accounts.jsonl").read_text().splitlines():
        account = json.loads(line)
        if account["first_enforced_at"] is not None:
            enforced.add(account["account"])
        if account["e_value"]:
            e_values[account["account"]] = account["e_value"]
    return Judged(enforced, e_values, json.loads((to / "summary.json").read_text()))


if __name__ == "__main__":
    main()
