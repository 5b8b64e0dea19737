"""Train the models for text and their reference, and print what they catch on unseen sources.

    python -m benchmarks.detection.train_text --data DIR --out detector/models/text.npz

Weeks of the `train` sources teach the block model and the account models, weeks of the `calibrate`
sources set the bar and the reference, weeks of the `test` sources are only counted.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.detection.compose import Label, Settings, compose
from detector.baseline import Reference
from detector.blocks import Block
from detector.evidence import MIN_EVENTS
from detector.measure import PartitionMeasure
from detector.score import TextModels
from detector.settings import MeasureSettings
from detector.training import Week, evidence_of, train

__all__ = ["composed_week", "main", "report"]

SHARES = (0.02, 0.09, 0.23)  # thieves among a week's accounts, in turn


def composed_week(
    split: str, seed: int, data: Path, cache: Path | None
) -> tuple[list[Block], dict[str, Label]]:
    """Compose a week and measure it; blocks too short to be scored are left out."""
    path = cache / f"{split}-{seed}.msgpack" if cache else None
    if path and path.exists():
        return msgspec.msgpack.decode(path.read_bytes(), type=tuple[list[Block], dict[str, Label]])
    if split == "train":
        # What transfers is learned from many different campaigns, more than from many customers.
        settings = Settings(thieves=0.4, customers=1300, max_events=450_000)
    else:
        settings = Settings(thieves=SHARES[seed % len(SHARES)])
    events, labels = compose(split, seed, data, settings)  # type: ignore[arg-type]
    measure = PartitionMeasure(0, MeasureSettings())
    blocks = []
    for start in range(0, len(events), 5000):
        batch = events[start : start + 5000]
        for event in batch:
            event.served = event.status < 400 if event.served is None else event.served
        blocks += measure.feed(batch)
    blocks += measure.end()
    blocks = [b for b in blocks if b.kind == "text" and b.n >= MIN_EVENTS]
    if path:
        path.write_bytes(msgspec.msgpack.encode((blocks, labels)))
    return blocks, labels


def as_week(blocks: list[Block], labels: dict[str, Label]) -> Week:
    """A composed week as training takes it: whole attack families are left out together."""
    return Week(
        blocks,
        {name: label.harvesting for name, label in labels.items()},
        {name: label.group.split(" ")[0] for name, label in labels.items()},
    )


def report(
    models: TextModels, tests: Sequence[tuple[list[Block], dict[str, Label]]], workers: int = 1
) -> None:
    """Print recall and false alarms of the test weeks, by group."""
    reference = Reference(models.reference, len(models.reference))
    caught: dict[tuple[bool, str], list[bool]] = defaultdict(list)
    with ProcessPoolExecutor(workers) as pool:
        found = pool.map(_evidence, [(as_week(*one), models) for one in tests])
        for (_, labels), evidence in zip(tests, found, strict=True):
            for account, (_, value) in evidence.items():
                label = labels[account]
                caught[(label.harvesting, label.group)].append(reference.rate(value) <= 1e-3)
    rows: dict[bool, list[bool]] = {False: [], True: []}
    means = []
    for (harvesting, group), hits in sorted(caught.items()):
        rate = sum(hits) / len(hits)
        print(f"{'harvest' if harvesting else 'customer':9} {group:26} {len(hits):5} {rate:7.4f}")
        rows[harvesting] += hits
        if harvesting and not group.startswith("natural"):
            means.append(rate)
    print(f"customers enforced per 1,000: {1000 * np.mean(rows[False]):.2f} of {len(rows[False])}")
    print(f"harvesting accounts enforced, mean over rows without natural: {np.mean(means):.3f}")


def _evidence(job: tuple[Week, TextModels]) -> dict[str, tuple[float, float]]:
    return evidence_of(*job)


def _composed(
    arguments: tuple[str, int, Path, Path | None],
) -> tuple[list[Block], dict[str, Label]]:
    return composed_week(*arguments)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="keep measured weeks here")
    parser.add_argument(
        "--weeks", type=int, default=30, help="of training; half as many of the rest"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    if arguments.cache:
        arguments.cache.mkdir(parents=True, exist_ok=True)
    half = max(arguments.weeks // 2, 1)
    counts = {"train": arguments.weeks, "calibrate": half, "test": half}
    jobs = [
        (split, seed, arguments.data, arguments.cache)
        for split, n in counts.items()
        for seed in range(n)
    ]
    with ProcessPoolExecutor(arguments.workers) as pool:
        weeks = list(pool.map(_composed, jobs))
    parts: dict[str, list[tuple[list[Block], dict[str, Label]]]] = defaultdict(list)
    for (split, *_), one in zip(jobs, weeks, strict=True):
        parts[split].append(one)
    models = train(
        [as_week(*one) for one in parts["train"]],
        [as_week(*one) for one in parts["calibrate"]],
        "velvetrope-text-2",
        workers=arguments.workers,
        told=lambda step: print(step, flush=True),
    )
    models = replace(
        models,
        about={
            "made_by": "python -m benchmarks.detection.train_text",
            "training_weeks": counts["train"],
            "calibration_weeks": counts["calibrate"],
            "customers_in_reference": len(models.reference),
        },
    )
    models.save(arguments.out)
    models = TextModels.load(arguments.out)
    report(models, parts["test"], arguments.workers)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
