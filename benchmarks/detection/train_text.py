"""Train the models for text and their reference, and print what they catch on unseen sources.

    python -m benchmarks.detection.train_text --data DIR --out detector/models/text.npz

Weeks of the `train` sources, and one in five of the sources that the project makes itself, teach
the block model and the account models. Weeks of the `calibrate` sources set the bar, and with as
many weeks of the project's own the reference. Weeks of the `test` sources are only counted.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np

from benchmarks.detection.compose import Label, Settings, compose
from benchmarks.detection.customers import SHARES
from detector.baseline import Reference
from detector.blocks import Block
from detector.evidence import MIN_EVENTS
from detector.measure import PartitionMeasure
from detector.score import TextModels
from detector.settings import MeasureSettings
from detector.training import Week, evidence_of, thinned, train

__all__ = ["composed_week", "main", "report", "teaches"]

_Job: TypeAlias = tuple[str, int, Path | None, Path | None]  # split, seed, data, cache
_BUILT_IN = 5  # every so many of training's weeks is of the sources that the project makes itself
_THIEVES = (0.02, 0.09, 0.23)  # among a week's accounts, in turn
# What transfers is learned from many different campaigns, more than from many customers. Weeks of
# training are of three kinds in turn: the split's own wordings; wordings of that week alone, with
# more and smaller campaigns; and such wordings with many evaluations, which are the customers that
# look most like thieves, and of which no other week has enough.
_LARGE = Settings(thieves=0.4, customers=1300, max_events=450_000)
_VARIED = msgspec.structs.replace(_LARGE, sizes=(1, 10, 50), composed_wordings=True)
_EVALUATED = msgspec.structs.replace(
    _VARIED,
    sizes=Settings().sizes,
    shares=SHARES | {"eval": 0.23, "ci_shards": 0.14, "person": 0.15, "app": 0.1, "agent": 0.02},
)


def composed_week(
    split: str, seed: int, data: Path | None, cache: Path | None
) -> tuple[list[Block], dict[str, Label]]:
    """Compose a week and measure it; blocks too short to be scored are left out.

    Without `data` its sources are those that the project makes itself.
    """
    made = "" if data else "built-in-"
    path = cache / f"{made}{split}-{seed}.msgpack" if cache else None
    if path and path.exists():
        return msgspec.msgpack.decode(path.read_bytes(), type=tuple[list[Block], dict[str, Label]])
    settings = Settings(thieves=_THIEVES[seed % len(_THIEVES)])
    if split == "train":
        settings = (_LARGE, _VARIED, _EVALUATED)[seed % 3]
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


def teaches(weeks: int, data: Path, cache: Path | None) -> list[_Job]:
    """The weeks of training: of the sources under `data`, and one of five of the built-in ones.

    Half of the weeks scores the other by turns, so both halves need weeks of each.
    """
    return [
        ("train", seed, None if seed % _BUILT_IN == _BUILT_IN - 1 else data, cache)
        for seed in range(weeks)
    ]


def as_week(blocks: list[Block], labels: dict[str, Label]) -> Week:
    """A composed week as training takes it: whole attack families are left out together."""
    return Week(
        blocks,
        {name: label.harvesting for name, label in labels.items()},
        {name: label.group.split(" ")[0] for name, label in labels.items()},
        {name: label.campaign for name, label in labels.items() if label.campaign},
    )


def report(models: TextModels, tests: Sequence[_Job], workers: int = 1) -> None:
    """Print recall and false alarms of the test weeks, by group."""
    reference = Reference(models.reference, len(models.reference))
    caught: dict[tuple[bool, str], list[bool]] = defaultdict(list)
    with ProcessPoolExecutor(workers) as pool:
        for found in pool.map(_evidence, [(job, models) for job in tests]):
            for label, evidence in found:
                hit = reference.rate(evidence) <= 1e-3
                caught[(label.harvesting, label.group)].append(hit)
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


def _evidence(job: tuple[_Job, TextModels]) -> list[tuple[Label, float]]:
    week, models = job
    blocks, labels = composed_week(*week)
    found = evidence_of(as_week(blocks, labels), models)
    return [(labels[account], evidence) for account, (_, evidence) in found.items()]


def _teaches(job: _Job) -> Week:
    return thinned(as_week(*composed_week(*job)))


def _calibrates(job: _Job) -> Week:
    return as_week(*composed_week(*job))


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="keep measured weeks here")
    parser.add_argument("--weeks", type=int, default=180, help="of training")
    parser.add_argument("--calibration-weeks", type=int, default=24)
    parser.add_argument("--test-weeks", type=int, default=15)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    if arguments.cache:
        arguments.cache.mkdir(parents=True, exist_ok=True)

    def jobs(split: str, count: int) -> list[_Job]:
        return [(split, seed, arguments.data, arguments.cache) for seed in range(count)]

    with ProcessPoolExecutor(arguments.workers) as pool:
        teaching = teaches(arguments.weeks, arguments.data, arguments.cache)
        taught = list(pool.map(_teaches, teaching))
        held = jobs("calibrate", arguments.calibration_weeks)
        unlike: list[_Job] = [(split, seed, None, cache) for split, seed, _, cache in held]
        calibration = list(pool.map(_calibrates, held))
        others = list(pool.map(_calibrates, unlike))
    models = train(
        taught,
        calibration,
        "velvetrope-text-5",
        others=others,
        workers=arguments.workers,
        told=lambda step: print(step, flush=True),
    )
    models = replace(
        models,
        about={
            "made_by": "python -m benchmarks.detection.train_text",
            "training_weeks": arguments.weeks,
            "calibration_weeks": arguments.calibration_weeks,
            "customers_in_reference": len(models.reference),
        },
    )
    models.save(arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")
    report(TextModels.load(arguments.out), jobs("test", arguments.test_weeks), arguments.workers)


if __name__ == "__main__":
    main()
