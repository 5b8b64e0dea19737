"""Train the model for vector APIs and its reference, and print what it catches elsewhere.

    python -m benchmarks.detection.train_vectors --data DIR --out detector/models/vector.npz

Weeks of the `train` sources and of made-up tables teach the block and account models, weeks of the
`calibrate` sources give the reference, weeks of the `test` sources (letter and magic by other rows,
breast cancer and drawings, which nothing trains on) are only counted. `--model FILE` takes what was
learned from there and makes the reference alone. `--cache` keeps what was composed, so that a run
that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import math
import pickle
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection import vectors
from benchmarks.detection.built_in import recorded_tables
from benchmarks.detection.drawings import drawings
from benchmarks.detection.sources import SPLITS, Split, load
from benchmarks.detection.vectors import VectorTraffic
from detector.baseline import Reference
from detector.blocks import BLOCK_EVENTS, FIRST_BLOCK_REVISIONS, Block, Identity
from detector.score import Committee
from detector.training import Pace, fit_networks, fit_trees
from detector.trees import Trees
from detector.vector_alike import Alike, squashed
from detector.vector_evidence import VectorEvidence
from detector.vector_kernels import FEATURES
from detector.vector_model import (
    ALIKE_INPUTS,
    LABEL_FEATURES,
    OWN_INPUTS,
    SIZE_CLASSES,
    VectorModel,
    account_inputs,
    size_class,
)
from detector.vectors import VectorPopulation

Floats = NDArray[np.float64]

WEEK_S = 604_800.0
IDLE_S = 21_600.0
SHARES = (0.02, 0.05, 0.12, 0.25)  # thieves among a week's accounts, in turn
TAUGHT = 0.4  # the same in weeks that teach: many campaigns, more than ever are there
RATE = 1e-3
TRIM_RATE = 1e-2  # from here an account teaches no population, as in the judge
_ROUNDS = 200
_PARTS = 4  # in which block scores are cross-fitted
_NETWORKS = 3
_ALL_UNTIL = 6
_THEN_EVERY = 4
_SCALED_BY = (0.9, 0.995)
_OWN_BAR = 0.9  # quantile of customers' own log-odds in a week from which company counts
_LABEL = np.array([name in LABEL_FEATURES for name in FEATURES])


@dataclass(frozen=True)
class Label:
    """What an account is: its group, and whether it harvests."""

    group: str
    harvesting: bool


@dataclass(frozen=True)
class Week:
    """One population's week: blocks in the order in which the judge sees them."""

    model: str
    blocks: list[Block]
    labels: dict[str, Label]

    @property
    def dims(self) -> int:
        return self.blocks[0].dims

    def without_answers(self) -> Week:
        """The same week where the log has no labels."""
        blank = [_replace_labels(block) for block in self.blocks]
        return Week(f"{self.model} without answers", blank, self.labels)


def _replace_labels(block: Block) -> Block:
    values = {name: getattr(block, name) for name in block.__struct_fields__}
    return Block(**{**values, "labels": ("",) * block.n, "confidences": b""})


def blocks_of(account: str, traffic: VectorTraffic) -> list[Block]:
    """An account's blocks as measure gives them out: revisions of the first, idle closings."""
    x = np.ascontiguousarray(traffic.x, dtype="<f4")
    labels = traffic.labels if traffic.labels is not None else np.zeros(len(x), dtype=np.int64)
    times, n = traffic.times, len(x)
    confidence = traffic.confidence if traffic.confidence is not None else np.full(n, np.nan)
    sure = np.ascontiguousarray(confidence, dtype="<f4")
    found: list[Block] = []

    def give(start: int, end: int, index: int, revision: int, time: float) -> None:
        found.append(
            Block(
                partition=0,
                seq=0,
                time=time,
                account=account,
                population="vector",
                kind="vector",
                index=index,
                revision=revision,
                n=end - start,
                events=end,
                refused=0,
                first_ts=float(times[start:end].min()),
                last_ts=float(times[start:end].max()),
                features=b"",
                sketch=b"",
                minhash=b"",
                heads=(),
                identity=Identity(),
                dims=x.shape[1],
                vectors=x[start:end].tobytes(),
                labels=tuple(str(v) for v in labels[start:end].tolist()),
                confidences=sure[start:end].tobytes(),
            )
        )

    start, index = 0, 0
    for i in range(n):
        held = i + 1 - start
        last = i + 1 == n or times[i + 1] - times[i] > IDLE_S
        if index == 0 and held in FIRST_BLOCK_REVISIONS[:2]:
            give(start, i + 1, 0, FIRST_BLOCK_REVISIONS.index(held), float(times[i]))
        if held == BLOCK_EVENTS or last:
            give(start, i + 1, index, 2, float(times[i]) + (IDLE_S if held < BLOCK_EVENTS else 0.0))
            start, index = i + 1, index + 1
    return found


@dataclass(frozen=True)
class Job:
    """What to compose: `only` are recorded sets, `made_up` tables come beside them."""

    split: Split
    seed: int
    data: Path
    customers: int
    thieves: float = TAUGHT  # share of the accounts
    only: tuple[str, ...] = ("letter", "magic", "wine")
    made_up: int = 6
    drawn: int = 0


def weeks(job: Job) -> list[Week]:
    """The job's populations."""
    warnings.filterwarnings("ignore")
    rng = np.random.default_rng([job.seed, SPLITS.index(job.split), 77])
    sources = load(job.data, job.split)
    every = {**sources.vectors, **{one.name: one for one in recorded_tables(job.split)}}
    known = {name: every[name] for name in job.only}
    known |= {name: drawings(rng, name) for name in (f"drawings-{i}" for i in range(job.drawn))}
    sources = replace(sources, vectors=known)
    thieves = round(job.customers * job.thieves / (1.0 - job.thieves))
    traffic: dict[str, list[tuple[str, Label, VectorTraffic]]] = defaultdict(list)
    for number, part in enumerate(vectors.week(sources, rng, job.customers, thieves, job.made_up)):
        covered = " + own traffic" if part.traits.get("cover") else ""
        label = Label(part.group + covered, part.harvesting)
        for i, one in enumerate(part.traffic):
            if len(one.x):
                traffic[part.model].append((f"a{number}-{i}", label, one))
    found = []
    for model, accounts in sorted(traffic.items()):
        blocks = [block for name, _, one in accounts for block in blocks_of(name, one)]
        blocks.sort(key=lambda block: (block.time, block.id))
        labels = {name: label for name, label, _ in accounts}
        found.append(Week(model, blocks, labels))
    return found


# -- training ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collected:
    """Blocks of one week as the population measured them."""

    accounts: list[str]
    harvesting: NDArray[np.bool_]  # (B,)
    natural: NDArray[np.bool_]
    events: NDArray[np.int64]
    index: NDArray[np.int64]
    features: Floats  # (B, F)
    standard: Floats  # (B, F)
    sizes: NDArray[np.int64]
    answered: NDArray[np.bool_]  # whether the answers are in the log


def _without_confidence(block: Block) -> Block:
    values = {name: getattr(block, name) for name in block.__struct_fields__}
    return Block(**{**values, "confidences": b""})


def _patience(rng: np.random.Generator, labels: dict[str, Label]) -> dict[str, int]:
    """Scored blocks after which each account leaves the population: when a detector would see it.

    Accounts of one campaign are seen together, some campaigns soon, some never: what these teach a
    population is what makes the next block of theirs look ordinary.
    """
    never = 1 << 30
    seen: dict[str, float] = {}
    patience = dict.fromkeys(labels, never)
    for name, label in sorted(labels.items()):
        if not label.harvesting:
            continue
        campaign = name.split("-")[0]
        if campaign not in seen:
            seen[campaign] = float(rng.choice([0.0, 0.2, 0.8, 1.0], p=[0.2, 0.15, 0.25, 0.4]))
        if label.group.startswith("natural") or rng.random() >= seen[campaign]:
            continue
        patience[name] = 1 if rng.random() < 0.7 else int(rng.integers(2, 8))
    return patience


def collect(week: Week, model: VectorModel, seed: int) -> Collected:
    """Measure a week while thieves leave the population; of an account's seventh and later blocks
    every fourth."""
    rng = np.random.default_rng(seed)
    population = VectorPopulation(week.dims, model)
    patience = _patience(rng, week.labels)
    # A third of the logs has the model's confidence, a third no answers.
    logged = (lambda block: block, _without_confidence, _replace_labels)[seed % 3]
    seen = dict.fromkeys(week.labels, 0)
    rows = []
    for whole in week.blocks:
        if whole.index >= _ALL_UNTIL and whole.index % _THEN_EVERY:
            continue
        block = logged(whole)
        standard = population.standardise(block)
        features = population.measure(block)
        if standard is not None and features is not None:
            rows.append((block, features, standard, population.labelled(block)))
            seen[block.account] += 1
            if seen[block.account] == patience[block.account]:
                population.trim({block.account})
        if seen[block.account] < patience[block.account]:
            population.observe(block)
        population.remember(block)
    labels = [week.labels[block.account] for block, *_ in rows]
    width = len(FEATURES)
    return Collected(
        [block.account for block, *_ in rows],
        np.array([label.harvesting for label in labels], dtype=np.bool_),
        np.array([label.group.startswith("natural") for label in labels], dtype=np.bool_),
        np.array([block.events for block, *_ in rows], dtype=np.int64),
        np.array([block.index for block, *_ in rows], dtype=np.int64),
        np.array([features for _, features, *_ in rows]).reshape(-1, width),
        np.array([standard for _, _, standard, _ in rows]).reshape(-1, width),
        np.array([size_class(block.n) for block, *_ in rows], dtype=np.int64),
        np.array([answered for *_, answered in rows], dtype=np.bool_),
    )


def blank() -> VectorModel:
    """A model that knows nothing, to measure with before there is one."""
    n = len(FEATURES)
    nothing = Committee((Trees.silent(),))
    return VectorModel(
        *(nothing,) * 4,
        own_bar=np.zeros(1),
        bare=np.array([1.0, 0.0]),
        typical_middle=np.zeros((SIZE_CLASSES, n)),
        typical_spread=np.ones((SIZE_CLASSES, n)),
        reference=np.zeros(1),
        metadata={},
    )


def typical(collected: Iterable[Collected]) -> tuple[Floats, Floats]:
    """Medians, over populations, of customers' median and interquartile range / 1.349."""
    every = list(collected)
    middle = np.zeros((SIZE_CLASSES, len(FEATURES)))
    spread = np.ones((SIZE_CLASSES, len(FEATURES)))
    for size in range(SIZE_CLASSES):
        quartiles = [
            np.nanpercentile(one.features[mine], (25, 50, 75), axis=0)
            for one in every
            if (mine := (one.sizes == size) & ~one.harvesting).sum() >= 30
        ]
        table = np.array(quartiles)
        middle[size] = np.nanmedian(table[:, 1], axis=0)
        spread[size] = np.maximum(np.nanmedian(table[:, 2] - table[:, 0], axis=0) / 1.349, 1e-3)
    return middle, spread


def _fitted(x: Floats, y: NDArray[np.bool_], weight: Floats, leaves: int) -> Committee:
    """Boosted trees, strongly ridged, and networks; both classes weigh the same.

    A logistic regression caught .41 of the test weeks' thieves where trees caught .68, and .22
    where they caught .64 on drawings (docs/decisions/0051).
    """
    weight = _balanced(y, weight)
    trees = fit_trees(x, y, weight, leaves, _ROUNDS)
    return Committee((Trees.of(trees), fit_networks(x, y, weight, _NETWORKS, Pace())))


def _odds(model: Committee, x: Floats) -> Floats:
    return np.array([model.log_odds(row) for row in x])


def _balanced(y: NDArray[np.bool_], weight: Floats) -> Floats:
    level = np.where(y, 1.0 / weight[y].sum(), 1.0 / weight[~y].sum())
    return np.asarray(weight * level * (len(y) / 2.0))


def _weights(collected: Sequence[Collected]) -> Floats:
    """1/√(rows of the account), and of thieves by 1/√(accounts of the campaign): busy accounts and
    large campaigns teach more, but not in proportion."""
    weight = []
    for one in collected:
        _, at, rows = np.unique(one.accounts, return_inverse=True, return_counts=True)
        members: dict[str, set[str]] = defaultdict(set)
        for name in one.accounts:
            members[name.split("-")[0]].add(name)
        campaign = np.array([len(members[name.split("-")[0]]) for name in one.accounts])
        weight.append(1.0 / np.sqrt(rows[at] * np.where(one.harvesting, campaign, 1)))
    return np.concatenate(weight)


@dataclass(frozen=True)
class _Fit:
    """One model to fit, and the rows that it leaves out, to be scored."""

    x: Floats
    y: NDArray[np.bool_]
    weight: Floats
    left_out: Floats
    leaves: int


def _fit(job: _Fit) -> tuple[Committee, Floats]:
    model = _fitted(job.x, job.y, job.weight, job.leaves)
    return model, _odds(model, job.left_out)


def train(
    teaching: Sequence[Collected],
    middle: Floats,
    spread: Floats,
    fit: Callable[[list[_Fit]], list[tuple[Committee, Floats]]],
) -> VectorModel:
    """Block models (with and without answers) and account models on out-of-fold scores."""
    x = np.concatenate([one.standard for one in teaching])
    y = np.concatenate([one.harvesting for one in teaching])
    answered = np.concatenate([one.answered for one in teaching])
    # What an ordinary customer could have sent teaches nothing about harvesting.
    counts = ~np.concatenate([one.natural for one in teaching])
    weight = _weights(teaching)
    part = np.concatenate(
        [np.full(len(one.accounts), i % _PARTS) for i, one in enumerate(teaching)]
    )
    nobody = x[:0]
    jobs = []
    # Without answers all can teach: their label features are not looked at.
    for columns, these in ((np.ones(len(FEATURES)), answered), (~_LABEL, np.ones(len(y), bool))):
        used = x * columns
        for left_out in (None, *range(_PARTS)):
            taught = counts & these & (part != (-1 if left_out is None else left_out))
            held = nobody if left_out is None else used[part == left_out]
            jobs.append(_Fit(used[taught], y[taught], weight[taught], held, 16))
    fitted = fit(jobs)
    scores = []
    for first in (0, _PARTS + 1):
        out = np.empty(len(y))
        for k in range(_PARTS):
            out[part == k] = fitted[first + 1 + k][1]
        scores.append(out)
    # Where a log has answers, an account is also taught as if it had none.
    rows, answers, row_weight, keep = [], [], [], []
    bare_too = (np.where(answered, scores[0], scores[1]), scores[1])
    for bare, out in zip((False, True), bare_too, strict=True):
        at = 0
        for one in teaching:
            rows.append(_histories(one, out[at : at + len(one.accounts)], bare))
            at += len(one.accounts)
        answers.append(y)
        keep.append(counts & (answered | (not bare)))
        row_weight.append(weight)
    seen, harvests = np.concatenate(rows), np.concatenate(answers)
    kept, weights = np.concatenate(keep), np.concatenate(row_weight)
    company = kept & np.isfinite(seen).all(axis=1)
    (account, own), (alike, _) = fit(
        [
            _Fit(seen[these, :width], harvests[these], weights[these], left_out, 8)
            for these, width, left_out in (
                (kept, OWN_INPUTS, seen[:, :OWN_INPUTS]),
                (company, OWN_INPUTS + ALIKE_INPUTS, seen[:0]),
            )
        ]
    )
    customers, at = [], 0
    for one in teaching:
        highest: dict[str, float] = {}
        for i, name in enumerate(one.accounts):
            if not one.harvesting[i]:
                highest[name] = max(highest.get(name, -math.inf), float(own[at + i]))
        at += len(one.accounts)
        customers += list(highest.values())
    return VectorModel(
        labelled=fitted[0][0],
        unlabelled=fitted[_PARTS + 1][0],
        account=account,
        alike=alike,
        own_bar=np.array([np.quantile(customers, _OWN_BAR)]),
        bare=np.array([1.0, 0.0]),
        typical_middle=middle,
        typical_spread=spread,
        reference=np.zeros(1),
        metadata={},
    )


def _histories(one: Collected, scores: Floats, bare: bool) -> Floats:
    """Inputs of the account models after every block, (B, OWN_INPUTS + ALIKE_INPUTS); the last are
    NaN where nobody is alike yet. `bare`: as if the log had no answers."""
    held: dict[str, dict[int, tuple[float, Floats, bool]]] = defaultdict(dict)
    alike = Alike()
    rows = []
    for i, account in enumerate(one.accounts):
        place = squashed(np.where(_LABEL, 0.0, one.standard[i]) if bare else one.standard[i])
        answered = bool(one.answered[i]) and not bare
        held[account][int(one.index[i])] = (float(scores[i]), place, answered)
        own = [score for score, _, _ in held[account].values()]
        lies = np.mean([place for _, place, _ in held[account].values()], axis=0)
        alike.put(account, lies, math.fsum(own) / len(own), float(i))
        share = float(np.mean([answered for _, _, answered in held[account].values()]))
        around = alike.around(account)
        rows.append(
            np.append(
                account_inputs(own, int(one.events[i]), share, lies),
                np.full(ALIKE_INPUTS, np.nan) if around is None else around,
            )
        )
    return np.array(rows).reshape(-1, OWN_INPUTS + ALIKE_INPUTS)


# -- counting ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """An account at the end of its week; -inf without a scored block."""

    evidence: float
    by_events: dict[int, float]  # evidence by 8, 16 and 32 queries


def play(week: Week, model: VectorModel, reference: Reference | None) -> dict[str, Seen]:
    """A week through the product's own evidence; suspects leave the population."""
    evidence = VectorEvidence(week.dims, model, WEEK_S)
    early: dict[str, dict[int, float]] = defaultdict(dict)
    for block in week.blocks:
        evidence.take(block)
        found = evidence.of(block.account)
        if block.events in FIRST_BLOCK_REVISIONS:
            early[block.account][block.events] = found
        if reference is not None and found > -math.inf and reference.rate(found) <= TRIM_RATE:
            evidence.suspect(block.account)
        evidence.learn(block)
    return {name: Seen(evidence.of(name), early[name]) for name in week.labels}


def calibrate(
    model: VectorModel, calibration: Sequence[Week], run: Callable[..., Iterable[dict[str, Seen]]]
) -> VectorModel:
    """The reference: customers' evidence at the end of a week in which suspects were dropped."""
    reference: Reference | None = None
    if len(model.reference) > 1:  # of before: it says from where accounts are suspect
        reference = Reference(model.reference, len(model.reference))
    for _ in range(2 if reference is None else 1):
        with_answers: list[float] = []
        without: list[float] = []
        for week, accounts in zip(calibration, run(calibration, model, reference), strict=True):
            own = without if week.model.endswith("without answers") else with_answers
            own += [
                seen.evidence for name, seen in accounts.items() if not week.labels[name].harvesting
            ]
        for name, values in (("with", with_answers), ("without", without)):
            tail = [f"{v:.2f}" for v in np.quantile(values, (0.9, 0.99, 0.995, 0.999))]
            print(f"calibration, {name} answers: {len(values)} {tail}", flush=True)
        # Logs without answers on the scale of those with, by what one customer in ten and one in
        # two hundred pass: some thousands say little of one in a thousand.
        low, high = np.quantile(with_answers, _SCALED_BY)
        bare_low, bare_high = np.quantile(without, _SCALED_BY)
        factor = float((high - low) / (bare_high - bare_low))
        shift = float(low - factor * bare_low)
        values = with_answers + [factor * value + shift for value in without]
        # Customers without a scored block are customers: they sit at the bottom.
        floor = min(value for value in values if value > -math.inf)
        ordered = np.sort(np.array([max(value, floor) for value in values]))
        reference = Reference(ordered, len(ordered))
        # What was scaled already is scaled further.
        bare = np.array([factor * model.bare[0], factor * model.bare[1] + shift])
        model = replace(model, reference=ordered, bare=bare)
    return model


def mixed(calibration: Sequence[Week]) -> list[Week]:
    """Half of the logs have answers, half of those the model's confidence."""
    found = []
    for i, week in enumerate(calibration):
        if i % 2 == 0:
            found.append(week.without_answers())
        elif i % 4 == 1:
            found.append(replace(week, blocks=[_without_confidence(b) for b in week.blocks]))
        else:
            found.append(week)
    return found


def report(
    title: str, tests: Sequence[Week], found: Iterable[dict[str, Seen]], reference: Reference
) -> None:
    """Print the share enforced by group, in all and by 16 and 32 queries, and false alarms."""
    rows: dict[tuple[bool, str], list[tuple[bool, bool | None, bool | None, float]]]
    rows = defaultdict(list)
    parts: dict[tuple[bool, str], set[str]] = defaultdict(set)

    def passed(evidence: float) -> bool:
        return evidence > -math.inf and reference.rate(evidence) <= RATE

    for week, accounts in zip(tests, found, strict=True):
        for name, label in week.labels.items():
            seen = accounts[name]
            by = [passed(seen.by_events[n]) if n in seen.by_events else None for n in (16, 32)]
            row = (passed(seen.evidence), by[0], by[1], seen.evidence)
            rows[(label.harvesting, label.group)].append(row)
            parts[(label.harvesting, label.group)].add(f"{week.model} {name.split('-')[0]}")
    print(f"\n{title}")
    print(f"{'':40}{'accounts':>9}{'of':>4}{'enforced':>10}{'by 16':>8}{'by 32':>8}")
    means, matched = [], []
    customers = [row for (thief, _), group in rows.items() if not thief for row in group]
    level = float(np.quantile([row[3] for row in customers], 1.0 - RATE, method="higher"))
    for (thief, group), held in sorted(rows.items()):
        shares = [
            np.mean([row[k] for row in held if row[k] is not None] or [math.nan]) for k in range(3)
        ]
        kind = "thieves" if thief else "customers"
        print(
            f"{kind:10}{group:30}{len(held):9}{len(parts[(thief, group)]):4}"
            + "".join(
                f"{share:{width}.3f}" for share, width in zip(shares, (10, 8, 8), strict=True)
            )
        )
        if thief and not group.startswith("natural"):
            means.append(float(shares[0]))
            matched.append(float(np.mean([row[3] >= level for row in held])))
    false = sum(row[0] for row in customers)
    print(
        f"false per 1,000: {1000.0 * false / len(customers):.2f} of {len(customers)}; "
        f"enforced, mean of rows without natural: {np.mean(means):.3f}, "
        f"at the rate of 1 per 1,000 counted here: {np.mean(matched):.3f}",
        flush=True,
    )


# -- the command -------------------------------------------------------------------------------


def _composed(arguments: tuple[Job, Path | None]) -> list[Week]:
    job, cache = arguments
    if cache is None:
        return weeks(job)
    of = (job.split, job.seed, job.customers, job.thieves, job.made_up, job.drawn, *job.only)
    path = cache / ("-".join(map(str, of)) + ".pickle")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(weeks(job)))
    kept: list[Week] = pickle.loads(path.read_bytes())  # this very script's
    return kept


def _play(arguments: tuple[Week, VectorModel, Reference | None]) -> dict[str, Seen]:
    return play(*arguments)


def _collect(arguments: tuple[Week, VectorModel, int]) -> Collected:
    return collect(*arguments)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="keep composed weeks here")
    parser.add_argument("--weeks", type=int, default=12, help="of training")
    parser.add_argument("--calibration-weeks", type=int, default=5)
    parser.add_argument("--test-weeks", type=int, default=2, help="and as many of drawings")
    parser.add_argument("--customers", type=int, default=1000, help="a week, over all its models")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--model", type=Path, help="learn nothing, only make its reference anew")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.jobs) as pool:

        def compose(*jobs: Job) -> list[Week]:
            done = pool.map(_composed, [(job, arguments.cache) for job in jobs])
            return [week for part in done for week in part]

        def run(
            some: Sequence[Week], model: VectorModel, reference: Reference | None
        ) -> list[dict[str, Seen]]:
            return list(pool.map(_play, [(week, model, reference) for week in some], chunksize=2))

        def learn(teaching: Sequence[Week], calibration: Sequence[Week]) -> VectorModel:
            first = pool.map(_collect, [(week, blank(), i) for i, week in enumerate(teaching[:24])])
            middle, spread = typical(first)
            scaled = replace(blank(), typical_middle=middle, typical_spread=spread)
            collected = list(
                pool.map(_collect, [(week, scaled, i) for i, week in enumerate(teaching)])
            )
            model = train(collected, middle, spread, lambda jobs: list(pool.map(_fit, jobs)))
            return calibrate(model, calibration, run)

        data, n, size = arguments.data, arguments.weeks, arguments.customers
        calibration = compose(
            *(
                Job("calibrate", i, data, size, thieves=SHARES[i % len(SHARES)])
                for i in range(arguments.calibration_weeks)
            )
        )
        recorded = ("letter", "magic", "breast_cancer")
        tests = compose(
            *(
                Job("test", i, data, size, thieves=0.3, only=recorded)
                for i in range(arguments.test_weeks)
            )
        )
        images = compose(
            *(
                Job("test", 100 + i, data, 400, thieves=0.3, only=(), made_up=0, drawn=2)
                for i in range(arguments.test_weeks)
            )
        )
        if arguments.model:
            model = calibrate(VectorModel.load(arguments.model), mixed(calibration), run)
        else:
            teaching = compose(*(Job("train", i, data, size) for i in range(n)))
            model = learn(teaching, mixed(calibration))
            about = {
                "made_by": "python -m benchmarks.detection.train_vectors",
                "trained_on": [*Job("train", 0, data, size).only, "made-up tables"],
                "training_weeks": n,
            }
            model = replace(model, metadata=about)
        of = {"customers_in_reference": len(model.reference)}
        model = replace(model, metadata={**model.metadata, **of})
        model.save(arguments.out)
        model = VectorModel.load(arguments.out)
        reference = Reference(model.reference, len(model.reference))
        for title, some in (
            ("test sources and made-up tables", tests),
            ("the same without answers in the log", [week.without_answers() for week in tests]),
            ("drawings, 64 sparse counts, never trained on", images),
            ("drawings without answers", [week.without_answers() for week in images]),
        ):
            report(title, some, run(some, model, reference), reference)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
