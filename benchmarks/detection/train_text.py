"""Train the models for text and their reference, and print what they catch on unseen sources.

    python -m benchmarks.detection.public --data DIR --out tasks.parquet
    python -m benchmarks.detection.train_text --data DIR --public tasks.parquet \\
        --out detector/models/text.npz

Weeks of the `train` sources teach the block model and the account models, in three domains: the
data folder's sources; those that the project makes itself, widened by public tasks and by what the
folder's distillers sent; and the folder's widened by public tasks. Weeks of the `calibrate` sources
set the bar. They set the reference too, as they are and widened by other public tasks, with as many
weeks of the project's own, to equal shares. Weeks of the `test` sources are only counted.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.detection.compose import Label, Settings, compose_from, sources_of
from benchmarks.detection.customers import SHARES
from benchmarks.detection.public import read, widened
from benchmarks.detection.sources import SPLITS, Split, load, with_distillers_of
from detector.baseline import Reference
from detector.blocks import Block
from detector.evidence import MIN_EVENTS
from detector.measure import PartitionMeasure
from detector.score import TextModels
from detector.settings import MeasureSettings
from detector.training import Week, evidence_of, thinned, train

__all__ = ["calibrates", "composed_week", "main", "report", "teaches"]


@dataclass(frozen=True)
class Job:
    """One week: without `data`, of the sources that the project makes itself.

    Measured weeks are kept in the folder `cache`. It is one training's: what composes and measures
    is not in their names.

    Attributes:
        public: widens either.
        distilled: a data folder; what distillers sent there is sent here too.
    """

    split: Split
    seed: int
    data: Path | None
    cache: Path | None
    public: Path | None = None
    distilled: Path | None = None

    @property
    def name(self) -> str:
        wider = ("public-" if self.public else "") + ("distilled-" if self.distilled else "")
        made = wider + ("" if self.data else "built-in-")
        return f"{made}{self.split}-{self.seed}"


_THIEVES = (0.02, 0.09, 0.23)  # among a week's accounts, in turn
# What transfers is learned from many different campaigns, more than from many customers. Weeks of
# training are of three kinds in turn: the split's own wordings; wordings of that week alone, with
# more and smaller campaigns and more jobs; and such wordings with many evaluations. Jobs and
# evaluations are the customers that look most like thieves, and no other week has enough of them.
_LARGE = Settings(thieves=0.4, customers=1300, max_events=450_000)
_VARIED = msgspec.structs.replace(
    _LARGE,
    sizes=(1, 10, 50),
    composed_wordings=True,
    shares=SHARES
    | {"batch": 0.14, "ci_shards": 0.10, "classroom": 0.09, "person": 0.15, "app": 0.16},
)
_EVALUATED = msgspec.structs.replace(
    _VARIED,
    sizes=Settings().sizes,
    shares=SHARES | {"eval": 0.23, "ci_shards": 0.14, "person": 0.12, "app": 0.1, "agent": 0.02},
)
# One week in fifteen is that of an operator who has little but a classifier.
_CLASSIFIED = msgspec.structs.replace(
    _VARIED, shares={"classifier": 0.7, "batch": 0.1, "monitor": 0.1, "app": 0.1}
)
_SETTINGS = (_LARGE, _VARIED, _EVALUATED) * 4 + (_LARGE, _CLASSIFIED, _EVALUATED)


def composed_week(job: Job) -> tuple[list[Block], dict[str, Label]]:
    """Compose a week and measure it; blocks too short to be scored are left out."""
    path = job.cache / f"{job.name}.msgpack" if job.cache else None
    if path and path.exists():
        return msgspec.msgpack.decode(path.read_bytes(), type=tuple[list[Block], dict[str, Label]])
    settings = Settings(thieves=_THIEVES[job.seed % len(_THIEVES)])
    if job.split == "train":
        settings = _SETTINGS[job.seed % len(_SETTINGS)]
    sources = sources_of(job.split, job.data, tables=False)
    if job.distilled is not None:
        sources = with_distillers_of(sources, load(job.distilled, job.split))
    if job.public is not None:
        share = read("train" if job.split == "train" else "calibrate", job.public)
        rng = np.random.default_rng([job.seed, SPLITS.index(job.split), 0x9B])
        sources = widened(sources, share, rng)
    events, labels = compose_from(sources, job.seed, settings)
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


def teaches(weeks: int, data: Path, public: Path, cache: Path | None) -> list[list[Job]]:
    """The weeks of training by domain: in turn as many of each as there are settings.

    Raises:
        ValueError: they are too few for each domain to have all.
    """
    kinds = [
        Job("train", 0, data, cache),
        # Other customers, but every sort of thief: else whoever sends these texts were a thief.
        Job("train", 0, None, cache, public, distilled=data),
        Job("train", 0, data, cache, public),
    ]
    if weeks < (least := len(kinds) * len(_SETTINGS)):
        raise ValueError(f"{weeks} weeks; at least {least}, so that each domain has all kinds")
    return [
        [
            replace(kind, seed=seed)
            for seed in range(weeks)
            if seed // len(_SETTINGS) % len(kinds) == domain
        ]
        for domain, kind in enumerate(kinds)
    ]


def calibrates(weeks: int, data: Path, public: Path, cache: Path | None) -> list[list[Job]]:
    """Sets of weeks whose customers are what evidence is compared with, each of other sources."""
    sets: list[tuple[Path | None, Path | None]] = [(data, None), (None, None), (data, public)]
    return [
        [Job("calibrate", seed, folder, cache, wider) for seed in range(weeks)]
        for folder, wider in sets
    ]


def as_week(blocks: list[Block], labels: dict[str, Label]) -> Week:
    """A composed week as training takes it: whole attack families are left out together."""
    return Week(
        blocks,
        {name: label.harvesting for name, label in labels.items()},
        {name: label.group.split(" ")[0] for name, label in labels.items()},
        {name: label.campaign for name, label in labels.items() if label.campaign},
    )


def report(models: TextModels, tests: Sequence[Job], workers: int = 1) -> None:
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


def _evidence(job: tuple[Job, TextModels]) -> list[tuple[Label, float]]:
    week, models = job
    blocks, labels = composed_week(week)
    found = evidence_of(as_week(blocks, labels), models)
    return [(labels[account], evidence) for account, (_, evidence) in found.items()]


def _teaches(job: Job) -> Week:
    return thinned(as_week(*composed_week(job)))


def _calibrates(job: Job) -> Week:
    return as_week(*composed_week(job))


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--public", type=Path, required=True, help="what benchmarks.detection.public wrote"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="keep measured weeks here: an empty folder")
    parser.add_argument("--weeks", type=int, default=225, help="of training, of all domains")
    parser.add_argument("--calibration-weeks", type=int, default=24)
    parser.add_argument("--test-weeks", type=int, default=15)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    if arguments.cache:
        arguments.cache.mkdir(parents=True, exist_ok=True)

    data, public, cache = arguments.data, arguments.public, arguments.cache
    calibrating = calibrates(arguments.calibration_weeks, data, public, cache)
    try:
        teaching = teaches(arguments.weeks, data, public, cache)
    except ValueError as error:
        parser.error(str(error))
    with ProcessPoolExecutor(arguments.workers) as pool:
        taught = list(pool.map(_teaches, [job for jobs in teaching for job in jobs]))
        calibration, *others = [list(pool.map(_calibrates, jobs)) for jobs in calibrating]
    models = train(
        taught,
        calibration,
        "velvetrope-text-8",
        domains=[domain for domain, jobs in enumerate(teaching) for _ in jobs],
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
    tests = [Job("test", seed, data, cache) for seed in range(arguments.test_weeks)]
    report(TextModels.load(arguments.out), tests, arguments.workers)


if __name__ == "__main__":
    main()
