"""Training of the models for text from labelled weeks: used by `velvetrope train`.

A block model learns from blocks, account models from accounts' rows as they would have been seen
online, with block scores of models that had not seen the account's week, or where there is but one
week, its attack family. Weeks of unlike sources, called domains, teach the same models; where
account models learn, a domain's weeks are scored by what the others taught. Thresholds come from
weeks of other accounts, `calibration`, which teach nothing.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from detector.baseline import Reference
from detector.blocks import Block
from detector.evidence import TextEvidence
from detector.networks import Networks, Scale
from detector.score import (
    ACCOUNT_COLUMNS,
    FLOOR,
    OWN_COLUMNS,
    AccountModel,
    Committee,
    Consensus,
    TextModels,
)
from detector.trees import Trees
from features import NAMES

__all__ = [
    "Pace",
    "TooLittle",
    "Week",
    "caught",
    "evidence_of",
    "fit_networks",
    "fit_trees",
    "thinned",
    "train",
]

WEEK_S: Final = 604_800.0
_BLOCKS_TAUGHT: Final = 24
_STEPS: Final = 4000  # of gradient descent, at least
_FEWEST: Final = 20  # accounts of each side, below which nothing can be learned
# Chosen by leaving attack families and customers' kinds out, see docs/decisions: absolute speed
# and the position of an account in its own history did not transfer; request parameters and the
# length of answers say nothing in simulated traffic, and so could only be learned wrongly.
_LEFT_OUT: Final = frozenset(
    {
        *("timing.gap_q25", "timing.gap_q50", "timing.gap_q75", "timing.span"),
        "drift.has_past",
        *("elicitation.opens_up", "elicitation.answer_length"),
    }
)
_UNRELATED: Final = frozenset({"elicitation.opens_up", "elicitation.answer_length"})
_SCORES: Final = ("mean", "max", "min", "log2_events")
_SPREAD: Final = ("deviation", "constancy")
_COMPANY: Final = tuple(name for name in ACCOUNT_COLUMNS if name.startswith("company_"))
_ALIKE: Final = ("sketch_mean", "sketch_cosine")
_LINKED: Final = ("linked_mean", "log_linked")
_HABITS: Final = tuple(f"habit.{name}" for name in NAMES if name not in _LEFT_OUT)


class TooLittle(ValueError):
    """Too few labelled accounts to learn from. The text says how many of what."""


@dataclass(frozen=True)
class Week:
    """One stretch of traffic: scored blocks in order, and what their accounts are.

    Attributes:
        blocks: of text, each of enough events to be scored.
        harvesting: account → whether it harvests; every account of `blocks` has a label.
        family: account → what is left out together with it when scores are cross-fitted in a
            single week.
        campaign: account → what it is part of, where that is known: a campaign of a thousand
            accounts teaches more than one of ten, but not in proportion.
    """

    blocks: list[Block]
    harvesting: Mapping[str, bool]
    family: Mapping[str, str]
    campaign: Mapping[str, str] = field(default_factory=dict)

    def matrix(self, used: NDArray[np.int64]) -> NDArray[np.float64]:
        """Features of every block, float64 (B, len(used))."""
        joined = b"".join(block.features for block in self.blocks)
        return (
            np.frombuffer(joined, np.float32)
            .reshape(len(self.blocks), len(NAMES))[:, used]
            .astype(np.float64)
        )


def train(
    weeks: Sequence[Week],
    calibration: Sequence[Week],
    name: str,
    *,
    domains: Sequence[int] | None = None,
    others: Sequence[Sequence[Week]] = (),
    workers: int = 1,
    told: Callable[[str], None] = lambda _: None,
) -> TextModels:
    """The models of the training weeks, with bar and reference of the calibration weeks.

    Args:
        weeks: teach the models.
        calibration: their customers are what evidence is compared with; no account is in both.
        name: of the models, stamped on decisions.
        domains: which sort of sources each of `weeks` is of, numbers from 0; all are of one if
            None. Where account models learn, a domain's weeks are scored by block models that the
            others taught: what is met later is of sources that nobody knew.
        others: more sets of such weeks, each of sources unlike the rest: as nobody knows which of
            them a deployment resembles, a rate is the mean of the rates of all sets.
        workers: processes.
        told: is told what is being done.

    Raises:
        TooLittle: not enough accounts of one side in a domain.
    """
    numbers = [0] * len(weeks) if domains is None else list(domains)
    for domain in sorted(set(numbers)) or [0]:
        _check(
            [one for one, number in zip(weeks, numbers, strict=True) if number == domain],
            calibration,
        )
    used = np.array([i for i, n in enumerate(NAMES) if n not in _LEFT_OUT], dtype=np.int64)
    weeks = [thinned(one) for one in weeks]
    size = _ALONE if len(set(numbers)) == 1 else _OF_DOMAINS
    rows = _Rows.of(weeks, used, numbers)
    told(f"block model: {len(rows.y):,} blocks")
    block, scores = _block_model(rows, size, workers)
    customers = np.concatenate([_of_customers(one) for one in weeks])
    low, high = np.quantile(customers, [0.1, 0.9], axis=0)
    scale = np.array([n not in _UNRELATED for n in NAMES]) * np.maximum(high - low, 1e-3)
    models = TextModels(
        name=name,
        used=used,
        typical=np.quantile(customers[:, used], [0.05, 0.95], axis=0).T.astype(np.float64),
        centre=np.median(customers, axis=0).astype(np.float32),
        scale=scale.astype(np.float32),
        own_bar=math.inf,
        reference=np.zeros(0),
        block=block,
        accounts=(AccountModel("none", np.zeros(1, np.int64), Trees.silent()),),
        about={},
    )
    # Account models need fewer weeks than the block model, and cost more.
    followed = [
        numbers[:place].count(numbers[place]) < size.followed for place in range(len(weeks))
    ]
    of_week = np.split(scores, np.cumsum([len(one.blocks) for one in weeks])[:-1])
    told(f"account histories: {sum(followed)} weeks")
    with _Pool(workers) as run:
        histories = run(
            _histories,
            [
                (one, odds, models)
                for one, odds, follow in zip(weeks, of_week, followed, strict=True)
                if follow
            ],
        )
    x = np.concatenate(histories)
    told(f"account models: {len(x):,} rows")
    kept = np.repeat(followed, [len(one.blocks) for one in weeks])
    y, weight = rows.y[kept], rows.weight[kept]
    jobs = [(form, size.pace, x, y, weight) for form in size.forms]
    with _Pool(workers) as run:
        accounts = tuple(run(_fit_account, jobs))
    models = replace(models, accounts=accounts)
    told(f"reference: {len(calibration) + sum(map(len, others))} weeks")
    return _with_reference(models, calibration, others, workers)


def evidence_of(week: Week, models: TextModels) -> dict[str, tuple[float, float]]:
    """A week through the evidence: account → highest log-odds of its own history, evidence."""
    evidence = TextEvidence(models, WEEK_S, whole_weeks=True)
    for block, features in zip(week.blocks, week.matrix(models.used), strict=True):
        evidence.judge(evidence.add(block, models.block.log_odds(features)))
    return {account: evidence.week(row) for account, row in evidence.accounts.items()}


def caught(models: TextModels, weeks: Sequence[Week], rate: float) -> dict[bool, tuple[int, int]]:
    """Accounts whose evidence reaches a false-alarm rate: harvesting → (reached, all)."""
    reference = Reference(models.reference, len(models.reference))
    counts = {True: [0, 0], False: [0, 0]}
    for one in weeks:
        for account, (_, evidence) in evidence_of(one, models).items():
            count = counts[one.harvesting[account]]
            count[0] += reference.rate(evidence) <= rate
            count[1] += 1
    return {harvesting: (count[0], count[1]) for harvesting, count in counts.items()}


@dataclass(frozen=True)
class _Rows:
    """Blocks of all weeks as rows, and in which part each is left out."""

    x: NDArray[np.float32]
    y: NDArray[np.bool_]
    weight: NDArray[np.float64]
    part: NDArray[np.int64]
    parts: int

    @classmethod
    def of(cls, weeks: Sequence[Week], used: NDArray[np.int64], domains: Sequence[int]) -> _Rows:
        """The rows of weeks, features `used`, and in which part each is left out.

        A domain is left out as a whole. In a single one each half of the weeks is scored by the
        other. Leaving out families instead made scores of thieves that were nearly those of
        customers, which is not what the accounts of a later week are scored (docs/decisions/0004).
        Within one week it is all there is: the accounts of a campaign are too alike to stand on
        both sides.
        """
        known = sorted(set(domains))
        families = sorted(
            {one.family[a] for one in weeks for a, harvests in one.harvesting.items() if harvests}
        )
        parts = len(known) if len(known) > 1 else 2 if len(weeks) > 1 else len(families)
        names, campaigns, y, part = [], [], [], []
        for number, one in enumerate(weeks):
            for block in one.blocks:
                account = block.account
                names.append(f"{number}/{account}")
                campaigns.append(f"{number}/{one.campaign.get(account, account)}")
                y.append(one.harvesting[account])
                if len(known) > 1:
                    part.append(known.index(domains[number]))
                elif len(weeks) > 1:
                    part.append(number % parts)
                elif y[-1]:
                    part.append(families.index(one.family[account]))
                else:
                    part.append(_drawn(names[-1], parts))
        return cls(
            np.concatenate([one.matrix(used) for one in weeks]).astype(np.float32),
            np.array(y),
            _weights(names, campaigns),
            np.array(part),
            parts,
        )


def _of_customers(week: Week) -> NDArray[np.float32]:
    """All features of customers' blocks, float32 (B, len(NAMES))."""
    kept = [block for block in week.blocks if not week.harvesting[block.account]]
    return replace(week, blocks=kept).matrix(np.arange(len(NAMES))).astype(np.float32)


@dataclass(frozen=True)
class _Form:
    """One account model: what it sees, what it is, and whether it has a say in the evidence."""

    name: str
    columns: tuple[str, ...]
    trees: int  # of 16 leaves; 0 for networks
    say: float
    networks: int = 2


@dataclass(frozen=True)
class Pace:
    """How long networks learn, and how much they are held back.

    Attributes:
        epochs: how often they see each row, at least.
        alpha: weight of the penalty on squared weights, as scikit-learn has it.
        share: of the rows that each network learns from, drawn anew for it.
    """

    epochs: int = 10
    alpha: float = 0.05
    share: float = 1.0


@dataclass(frozen=True)
class _Size:
    """How much of everything is trained.

    Attributes:
        followed: weeks of a domain that teach account models.
        trees: of 31 leaves in the block model; 0 for none.
        networks: in the block model.
        pace: how networks learn.
        forms: account models.
    """

    followed: int
    trees: int
    networks: int
    pace: Pace
    forms: tuple[_Form, ...]


@dataclass(frozen=True)
class _Job:
    rows: _Rows
    part: int | None  # left out
    size: _Size


def _fit_block(job: _Job) -> tuple[Committee, NDArray[np.float64]]:
    """The models of the rows that are not left out; log-odds of those that are."""
    rows, size, taught = job.rows, job.size, job.rows.part != job.part
    x, y, weight = rows.x[taught], rows.y[taught], rows.weight[taught]
    left_out = rows.x[~taught]
    networks = fit_networks(x, y, weight, size.networks, size.pace)
    odds = networks.all_log_odds(left_out)
    if not size.trees:
        return Committee((networks,)), odds
    trees = fit_trees(x, y, weight, leaves=31, trees=size.trees)
    if len(left_out):
        odds = (odds + trees.decision_function(left_out)) / 2
    return Committee((Trees.of(trees), networks)), odds


def _block_model(rows: _Rows, size: _Size, workers: int) -> tuple[Consensus, NDArray[np.float64]]:
    """The block model, and the scores of all rows by models that have not seen them."""
    with _Pool(workers) as run:
        (whole, _), *others = run(
            _fit_block, [_Job(rows, part, size) for part in (None, *range(rows.parts))]
        )
    scores = np.empty(len(rows.y))
    for part, (_, odds) in enumerate(others):
        scores[rows.part == part] = np.maximum(odds, FLOOR)
    return Consensus((whole,)), scores


def fit_networks(
    x: NDArray[Any],
    y: NDArray[np.bool_],
    weight: NDArray[np.float64],
    seeds: int,
    pace: Pace,
) -> Networks:
    """Networks on (N, C) rows, each started from a seed of its own."""
    scale = Scale.of(x)
    mapped = scale.all(x)
    models = []
    for seed in range(seeds):
        drawn: slice | NDArray[np.bool_] = slice(None)  # does not copy
        if pace.share < 1.0:
            drawn = np.random.default_rng(seed).random(len(y)) < pace.share
        some, heavy = y[drawn], weight[drawn]
        batch = min(512, max(len(some) // 8, 8))
        model = MLPClassifier(
            (128, 64),
            alpha=pace.alpha,
            batch_size=batch,
            # Many rows are seen a few times, few rows more often.
            max_iter=int(np.clip(_STEPS * batch // len(some), pace.epochs, 100)),
            tol=0.0,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is to stop early
            models.append(model.fit(mapped[drawn], some, heavy / heavy.mean()))
    return Networks.of(scale, np.median(mapped[~y], axis=0), models)


def fit_trees(
    x: NDArray[Any], y: NDArray[np.bool_], weight: NDArray[np.float64], leaves: int, trees: int
) -> HistGradientBoostingClassifier:
    """Boosted trees, strongly ridged, on (N, C) rows."""
    return HistGradientBoostingClassifier(
        max_leaf_nodes=leaves,
        min_samples_leaf=min(100, max(len(y) // 50, 5)),
        l2_regularization=50.0,
        learning_rate=0.08,
        max_iter=trees,
        early_stopping=False,
        random_state=0,
    ).fit(x, y, weight)


# Unlike models transfer better together than any of them alone. Those that look at nothing but the
# account itself draw the bar that keeps anybody from being convicted by company.
_OWN: Final = _SCORES + _SPREAD + _HABITS
_AROUND: Final = _COMPANY + _ALIKE + _LINKED
_WITH_OTHERS: Final = (
    _Form("company and links, networks", _OWN + _AROUND, 0, 1.0),
    _Form("links, networks", _SCORES + _SPREAD + _AROUND, 0, 1.0),
)
_ALONE: Final = _Size(
    followed=90,
    trees=400,
    networks=3,
    pace=Pace(),
    forms=(
        _Form("habits", _OWN, 200, 0.0),
        _Form("habits, networks", _OWN, 0, 0.0),
        _Form("company and links", _OWN + _AROUND, 300, 1.0),
        *_WITH_OTHERS,
    ),
)
# Over several domains networks that learn longer transfer better, and trees take away
# (docs/decisions/0009).
_OF_DOMAINS: Final = _Size(
    followed=60,
    trees=0,
    networks=2,
    pace=Pace(epochs=20, alpha=0.015, share=0.5),
    forms=(_Form("habits, networks", _OWN, 0, 0.0, networks=1), *_WITH_OTHERS),
)


def _fit_account(
    job: tuple[_Form, Pace, NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]],
) -> AccountModel:
    form, pace, x, y, weight = job
    columns = np.array([ACCOUNT_COLUMNS.index(name) for name in form.columns], np.int64)
    x = x[:, columns]
    model: Trees | Networks
    if form.trees:
        model = Trees.of(fit_trees(x, y, weight, leaves=16, trees=form.trees))
    else:
        model = fit_networks(x, y, weight, form.networks, pace)
    return AccountModel(form.name, columns, model, form.say)


def _histories(
    job: tuple[Week, NDArray[np.float64], TextModels],
) -> NDArray[np.float32]:
    """Account rows as they would have been seen online, one after every block of a week, whose
    scores are given."""
    week, scores, models = job
    evidence = TextEvidence(models, WEEK_S)
    rows = []
    for block, score in zip(week.blocks, scores.tolist(), strict=True):
        row = evidence.add(block, score)
        x = evidence.row(row)
        x[len(OWN_COLUMNS) :] = evidence.others(row, float(x[0]))
        rows.append(x.astype(np.float32))
    return np.array(rows)


def _with_reference(
    models: TextModels,
    calibration: Sequence[Week],
    others: Sequence[Sequence[Week]],
    workers: int,
) -> TextModels:
    def of_customers(models: TextModels, weeks: Sequence[Week]) -> NDArray[np.float64]:
        with _Pool(workers) as run:
            found = run(_evidence_of_customers, [(one, models) for one in weeks])
        return np.concatenate(found)

    own = of_customers(models, calibration)[:, 0]
    models = replace(models, own_bar=models.bar(own))
    sets = [of_customers(models, weeks)[:, 1] for weeks in (calibration, *others)]
    return replace(models, reference=_mixed(sets))


def _mixed(sets: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """As many values as the first set has, ascending, at ranks of a mixture of all sets to equal
    shares; of one set, its own."""
    values = np.concatenate(sets)
    shares = np.concatenate([np.full(len(one), 1.0 / (len(sets) * len(one))) for one in sets])
    order = np.argsort(values, kind="stable")
    ranks = np.arange(1, len(sets[0]) + 1) / len(sets[0])
    # The least value that no smaller a share lies at or below; sums of shares are not exact.
    place = np.searchsorted(np.cumsum(shares[order]), ranks - 1e-9)
    mixed: NDArray[np.float64] = values[order][np.minimum(place, len(values) - 1)]
    return mixed


def _evidence_of_customers(job: tuple[Week, TextModels]) -> NDArray[np.float64]:
    week, models = job
    values = [v for a, v in evidence_of(week, models).items() if not week.harvesting[a]]
    return np.array(values).reshape(-1, 2)


def thinned(week: Week) -> Week:
    """A week with fewer blocks of busy accounts: the first ones and every k-th after.

    The first blocks decide how early a thief is known; of a busy account the rest repeat.
    """
    total: dict[str, int] = defaultdict(int)
    for block in week.blocks:
        total[block.account] += 1
    seen: dict[str, int] = defaultdict(int)
    kept = []
    for block in week.blocks:
        n = seen[block.account]
        seen[block.account] += 1
        step = math.ceil(max(total[block.account] - 6, 0) / (_BLOCKS_TAUGHT - 6)) or 1
        if n < 6 or n % step == 0:
            kept.append(block)
    return replace(week, blocks=kept)


def _weights(accounts: Sequence[str], campaigns: Sequence[str]) -> NDArray[np.float64]:
    """1/√(rows of the account) · 1/√(accounts of its campaign), of each row.

    Busy accounts and large campaigns teach more, but not in proportion.
    """
    rows = Counter(accounts)
    members = Counter(dict(zip(accounts, campaigns, strict=True)).values())
    return np.array(
        [
            1.0 / math.sqrt(rows[account] * members[campaign])
            for account, campaign in zip(accounts, campaigns, strict=True)
        ]
    )


def _drawn(account: str, parts: int) -> int:
    digest = hashlib.blake2b(account.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % parts


def _check(weeks: Sequence[Week], calibration: Sequence[Week]) -> None:
    taught: dict[bool, int] = {True: 0, False: 0}
    for one in weeks:
        for account in {block.account for block in one.blocks}:
            taught[one.harvesting[account]] += 1
    known = sum(
        not one.harvesting[account]
        for one in calibration
        for account in {block.account for block in one.blocks}
    )
    if min(*taught.values(), known) < _FEWEST:
        raise TooLittle(
            f"{taught[True]} harvesting accounts and {taught[False]} customers to learn from, and "
            f"{known} customers to compare with; at least {_FEWEST} of each are needed"
        )
    families = {
        one.family[a] for one in weeks for a, harvests in one.harvesting.items() if harvests
    }
    if len(families) < 2:
        raise TooLittle(
            "all harvesting accounts are of one family: give at least two groups, so that scores "
            "can be learned from one and tried on another"
        )


class _Pool:
    """Runs jobs in order, in this process or in several.

    Workers are started anew, not forked: a fork of a process that has used OpenMP, as scikit-learn
    does, waits for threads that it does not have.
    """

    def __init__(self, workers: int) -> None:
        self._executor: ProcessPoolExecutor | None = None
        if workers > 1:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(workers, context, _one_thread)

    def __enter__(self) -> Callable[..., list[Any]]:
        if self._executor is None:
            return lambda function, jobs: [function(job) for job in jobs]
        executor = self._executor
        return lambda function, jobs: list(executor.map(function, jobs))

    def __exit__(self, *error: object) -> None:
        if self._executor is not None:
            self._executor.shutdown()


def _one_thread() -> None:
    # As many processes as cores, and in each as many threads, would wait for one another.
    threadpool_limits(1)
