"""Train the models for text and their reference, and print what they catch on unseen sources.

    python -m benchmarks.detection.train_text --data DIR --out detector/models/text.npz

Weeks of the `train` sources teach the block model and the account models, weeks of the `calibrate`
sources set the bar and the reference, weeks of the `test` sources are only counted.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from benchmarks.detection.compose import Label, Settings, compose
from detector.baseline import Reference
from detector.blocks import Block
from detector.evidence import MIN_EVENTS, TextEvidence
from detector.measure import PartitionMeasure
from detector.score import TextModels
from detector.settings import MeasureSettings
from detector.trees import Trees
from features import NAMES

WEEK_S = 604_800.0
BLOCKS_TAUGHT = 24
HISTORY_WEEKS = 12  # of the training weeks, those whose accounts teach the account models
SHARES = (0.02, 0.09, 0.23)  # thieves among a week's accounts, in turn
# Chosen by leaving attack families and customers' kinds out, see docs/decisions: absolute speed
# and length, and the position of an account in its own history, did not transfer.
LEFT_OUT = frozenset(
    {
        "timing.gap_q25",
        "timing.gap_q50",
        "timing.gap_q75",
        "timing.span",
        "drift.has_past",
    }
)


@dataclass
class Week:
    """One week's scored blocks and the labels of its accounts."""

    blocks: list[Block]
    labels: dict[str, Label]

    def matrix(self, used: NDArray[np.int64]) -> NDArray[np.float64]:
        """Features of every block, float64 (B, len(used))."""
        joined = b"".join(block.features for block in self.blocks)
        return (
            np.frombuffer(joined, np.float32)
            .reshape(len(self.blocks), len(NAMES))[:, used]
            .astype(np.float64)
        )


def week(split: str, seed: int, data: Path, cache: Path | None) -> Week:
    """Compose a week and measure it; blocks too short to be scored are left out."""
    path = cache / f"{split}-{seed}.msgpack" if cache else None
    if path and path.exists():
        blocks, labels = msgspec.msgpack.decode(
            path.read_bytes(), type=tuple[list[Block], dict[str, Label]]
        )
        return Week(blocks, labels)
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
    return Week(blocks, labels)


def thinned(one: Week) -> Week:
    """A week with at most BLOCKS_TAUGHT blocks of an account: the first ones and every k-th after.

    The first blocks decide how early a thief is known; of a busy account the rest repeat.
    """
    total: dict[str, int] = defaultdict(int)
    for block in one.blocks:
        total[block.account] += 1
    seen: dict[str, int] = defaultdict(int)
    kept = []
    for block in one.blocks:
        n = seen[block.account]
        seen[block.account] += 1
        step = math.ceil(max(total[block.account] - 6, 0) / (BLOCKS_TAUGHT - 6)) or 1
        if n < 6 or n % step == 0:
            kept.append(block)
    return Week(kept, one.labels)


def block_model() -> HistGradientBoostingClassifier:
    """The booster for blocks: on 30 weeks, larger than the design's transferred better."""
    return HistGradientBoostingClassifier(
        max_leaf_nodes=16,
        min_samples_leaf=100,
        l2_regularization=50.0,
        learning_rate=0.08,
        max_iter=400,
        early_stopping=False,
        random_state=0,
    )


def account_model(columns: int) -> HistGradientBoostingClassifier:
    """A booster that cannot fall as scores rise; free in the number of events."""
    monotone = [1] * columns
    monotone[3] = 0
    return HistGradientBoostingClassifier(
        max_leaf_nodes=8,
        min_samples_leaf=100,
        l2_regularization=50.0,
        learning_rate=0.08,
        max_iter=120,
        monotonic_cst=monotone,
        early_stopping=False,
        random_state=0,
    )


def weights(accounts: Sequence[str]) -> NDArray[np.float64]:
    """1/√(rows of the account): busy accounts teach more, but not in proportion."""
    counts: dict[str, int] = defaultdict(int)
    for account in accounts:
        counts[account] += 1
    return np.array([1.0 / math.sqrt(counts[account]) for account in accounts])


def fold(account: str, label: Label, families: Sequence[str]) -> int:
    """Whole attack families and whole parts of the customers are left out together."""
    if label.harvesting:
        return families.index(label.group.split(" ")[0])
    digest = hashlib.blake2b(account.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % len(families)


def constant() -> Trees:
    """Trees that say nothing: for collecting histories before there are account models."""
    return Trees(
        0.0,
        {
            "feature": np.zeros(1),
            "threshold": np.zeros(1),
            "left": np.full(1, -1),
            "right": np.full(1, -1),
            "value": np.zeros(1),
            "root": np.zeros(1),
        },
    )


def histories(weeks: Sequence[tuple[Week, NDArray[np.float64]]], models: TextModels):  # type: ignore[no-untyped-def]
    """Account rows as they would have been seen online, after every block of every week.

    Returns:
        float64 (R, 8): mean, max, min, log2 events, linked, template and sketch means and sketch
        cosine (NaN where there is nobody); the accounts; whether each harvests.
    """
    rows, accounts, harvesting = [], [], []
    for number, (one, scores) in enumerate(weeks):
        evidence = TextEvidence(models, WEEK_S)
        for block, score in zip(one.blocks, scores, strict=True):
            row = evidence.add(block, float(score))
            mean, highest, lowest = evidence.history(row)
            others = evidence.others(row)
            events = max(evidence.week_events(row, block.events), 1)
            rows.append(
                (
                    mean,
                    highest,
                    lowest,
                    math.log2(events),
                    others.linked_mean,
                    mean if math.isnan(others.template_mean) else others.template_mean,
                    others.sketch_mean,
                    others.sketch_cosine,
                )
            )
            accounts.append(f"{number}/{block.account}")
            harvesting.append(one.labels[block.account].harvesting)
    return np.array(rows), accounts, np.array(harvesting)


def run(one: Week, models: TextModels) -> dict[str, tuple[float, float]]:
    """A week through the evidence: account → highest own log-odds, evidence."""
    evidence = TextEvidence(models, WEEK_S)
    own: dict[str, float] = {}
    matrix = one.matrix(models.used)
    for block, features in zip(one.blocks, matrix, strict=True):
        row = evidence.add(block, models.block.log_odds(features))
        evidence.judge(row, evidence.week_events(row, block.events))
        own[block.account] = max(own.get(block.account, -math.inf), float(evidence["own"][row]))
    return {
        account: (own[account], float(evidence["evidence"][row]))
        for account, row in evidence.accounts.items()
    }


def of_customers(weeks: Sequence[Week], models: TextModels) -> NDArray[np.float64]:
    """Highest own log-odds and evidence of every customer of the weeks, float64 (N, 2)."""
    return np.array(
        [
            values
            for one in weeks
            for account, values in run(one, models).items()
            if not one.labels[account].harvesting
        ]
    )


def train(weeks: Sequence[Week], calibration: Sequence[Week], name: str) -> TextModels:
    """The models of the training weeks, with bar and reference of the calibration weeks."""
    used = np.array([i for i, n in enumerate(NAMES) if n not in LEFT_OUT], dtype=np.int64)
    weeks = [thinned(one) for one in weeks]
    x = np.concatenate([one.matrix(used) for one in weeks])
    labels = [
        (f"{n}/{b.account}", one.labels[b.account])
        for n, one in enumerate(weeks)
        for b in one.blocks
    ]
    y = np.array([label.harvesting for _, label in labels])
    w = weights([account for account, _ in labels])
    families = sorted({label.group.split(" ")[0] for _, label in labels if label.harvesting})
    part = np.array([fold(account, label, families) for account, label in labels])
    out_of_fold = np.empty(len(y))
    for k in range(len(families)):
        model = block_model().fit(x[part != k], y[part != k], w[part != k])
        out_of_fold[part == k] = model.decision_function(x[part == k])
    block = block_model().fit(x, y, w)
    customers = x[~y]
    none = constant()
    models = TextModels(
        name=name,
        used=used,
        typical=np.quantile(customers, [0.05, 0.95], axis=0).T.copy(),
        own_bar=-math.inf,
        reference=np.zeros(0),
        block=Trees.of(block),
        account=none,
        linked=none,
        alike=none,
        about={},
    )
    bounds = np.cumsum([0] + [len(one.blocks) for one in weeks])
    scored = [(one, out_of_fold[bounds[i] : bounds[i + 1]]) for i, one in enumerate(weeks)]
    rows, accounts, harvesting = histories(scored[:HISTORY_WEEKS], models)
    weight = weights(accounts)
    fitted = {}
    for key, columns in (
        ("account", [0, 1, 2, 3]),
        ("linked", [0, 1, 2, 3, 4]),
        ("alike", [0, 1, 2, 3, 5, 6, 7]),
    ):
        there = ~np.isnan(rows[:, columns]).any(axis=1)
        model = account_model(len(columns)).fit(
            rows[there][:, columns], harvesting[there], weight[there]
        )
        fitted[key] = Trees.of(model)
    models = replace(models, **fitted)
    own = of_customers(calibration, models)[:, 0]
    models = replace(models, own_bar=float(np.quantile(own, 0.95)))
    return replace(models, reference=np.sort(of_customers(calibration, models)[:, 1]))


def report(models: TextModels, tests: Iterable[Week]) -> None:
    """Print recall and false alarms of the test weeks, by group."""
    reference = Reference(models.reference, len(models.reference))
    caught: dict[tuple[bool, str], list[bool]] = defaultdict(list)
    for one in tests:
        for account, (_, evidence) in run(one, models).items():
            label = one.labels[account]
            caught[(label.harvesting, label.group)].append(reference.rate(evidence) <= 1e-3)
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


def _week(arguments: tuple[str, int, Path, Path | None]) -> Week:
    return week(*arguments)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="keep measured weeks here")
    parser.add_argument(
        "--weeks", type=int, default=30, help="of training; a fifth as many of the rest"
    )
    arguments = parser.parse_args()
    if arguments.cache:
        arguments.cache.mkdir(parents=True, exist_ok=True)
    counts = {
        "train": arguments.weeks,
        "calibrate": max(arguments.weeks // 2, 1),
        "test": max(arguments.weeks // 2, 1),
    }
    jobs = [
        (split, seed, arguments.data, arguments.cache)
        for split, n in counts.items()
        for seed in range(n)
    ]
    with ProcessPoolExecutor(2) as pool:
        weeks = list(pool.map(_week, jobs))
    parts: dict[str, list[Week]] = defaultdict(list)
    for (split, *_), one in zip(jobs, weeks, strict=True):
        parts[split].append(one)
    models = train(parts["train"], parts["calibrate"], "velvetrope-text-1")
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
    report(models, parts["test"])
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
