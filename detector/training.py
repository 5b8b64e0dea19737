"""Training of the models for text from labelled weeks: used by `velvetrope train`.

A block model learns from blocks, account models from accounts' rows as they would have been seen
online, with block scores of models that had not seen the account's week, or where there is but one
week, its attack family. Weeks of unlike sources, called domains, each teach models of their own: of
block models the least counts, account models are averaged. Thresholds come from weeks of other
accounts, `calibration`, which teach nothing.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
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
    heard: Collection[int] | None = None,
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
            None. Each domain teaches models of its own, and of what their block models say the
            least counts.
        heard: the domains whose block models are kept, all if None. The others' only score weeks
            of other domains, from which account models learn: one that knows too few sorts of
            thieves would veto the rest.
        others: more sets of such weeks, each of sources unlike the rest: as nobody knows which of
            them a deployment resembles, a rate is the mean of the rates of all sets.
        workers: processes.
        told: is told what is being done.

    Raises:
        TooLittle: not enough accounts of one side in a domain.
        ValueError: no domain is heard.
    """
    numbers = [0] * len(weeks) if domains is None else list(domains)
    known = sorted(set(numbers)) or [0]
    kept = [place for place, domain in enumerate(known) if heard is None or domain in heard]
    if not kept:
        raise ValueError(f"none of the domains {known} is heard")
    groups = [
        [one for one, number in zip(weeks, numbers, strict=True) if number == domain]
        for domain in known
    ]
    for group in groups:
        _check(group, calibration)
    used = np.array([i for i, n in enumerate(NAMES) if n not in _LEFT_OUT], dtype=np.int64)
    groups = [[thinned(one) for one in group] for group in groups]
    size = _ALONE if len(groups) == 1 else _AMONG_OTHERS
    # Account models need fewer weeks than the block model, and cost more.
    followed = [group[: size.followed] for group in groups]
    blocks = [_Rows.of(group, used) for group in groups]
    rows = [
        every if len(some) == len(group) else _Rows.of(some, used)
        for every, group, some in zip(blocks, groups, followed, strict=True)
    ]
    told(f"block model: {sum(len(every.y) for every in blocks):,} blocks")
    committees, scores = _block_models(blocks, rows[0], size, workers)
    customers = np.concatenate([_of_customers(one) for group in groups for one in group])
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
        block=Consensus(committees),
        accounts=(AccountModel("none", np.zeros(1, np.int64), Trees.silent()),),
        about={},
    )
    told(f"account histories: {sum(map(len, followed))} weeks")
    histories = _all_histories(models, followed, scores, workers)
    told(f"account models: {sum(map(len, histories)):,} rows")
    accounts = _account_models(histories, rows, size, workers)
    models = replace(models, block=Consensus(tuple(committees[i] for i in kept)), accounts=accounts)
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
    def of(cls, weeks: Sequence[Week], used: NDArray[np.int64]) -> _Rows:
        """The rows of weeks, features `used`.

        In a single domain each half of the weeks is scored by the other. Leaving out families
        instead made scores of thieves that were nearly those of customers, which is not what the
        accounts of a later week are scored (docs/decisions/0004). Within one week it is all there
        is: the accounts of a campaign are too alike to stand on both sides.
        """
        families = sorted(
            {one.family[a] for one in weeks for a, harvests in one.harvesting.items() if harvests}
        )
        parts = 2 if len(weeks) > 1 else len(families)
        names, campaigns, y, part = [], [], [], []
        for number, one in enumerate(weeks):
            for block in one.blocks:
                account = block.account
                names.append(f"{number}/{account}")
                campaigns.append(f"{number}/{one.campaign.get(account, account)}")
                y.append(one.harvesting[account])
                if len(weeks) > 1:
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
class _Size:
    """How much of everything a domain's models are.

    Attributes:
        followed: weeks that teach account models.
        trees: of 31 leaves in the block model: with many rows they transferred better than the
            smaller ones before them.
        networks: in the block model.
        own: forms of models that look at nothing but the account itself.
    """

    followed: int
    trees: int
    networks: int
    own: tuple[_Form, ...]


@dataclass(frozen=True)
class _Job:
    rows: _Rows
    part: int | None  # left out
    size: _Size


def _fit_block(job: _Job) -> tuple[Committee, NDArray[np.float64]]:
    """Trees and networks of the rows that are not left out; log-odds of those that are."""
    rows, taught = job.rows, job.rows.part != job.part
    x, y, weight = rows.x[taught], rows.y[taught], rows.weight[taught]
    trees = fit_trees(x, y, weight, leaves=31, trees=job.size.trees)
    networks = fit_networks(x, y, weight, job.size.networks)
    committee = Committee((Trees.of(trees), networks))
    if taught.all():
        return committee, np.zeros(0)
    left_out = rows.x[~taught]
    return committee, (trees.decision_function(left_out) + networks.all_log_odds(left_out)) / 2


def _block_models(
    blocks: Sequence[_Rows], first: _Rows, size: _Size, workers: int
) -> tuple[tuple[Committee, ...], NDArray[np.float64] | None]:
    """A committee of each domain. Of a single one also the scores of `first`, its rows that are
    followed, by models that have not seen them; several domains score one another's."""
    jobs = [_Job(rows, None, size) for rows in blocks]
    alone = len(blocks) == 1
    if alone:
        jobs += [_Job(first, part, size) for part in range(first.parts)]
    with _Pool(workers) as run:
        fitted = run(_fit_block, jobs)
    committees = tuple(committee for committee, _ in fitted[: len(blocks)])
    if not alone:
        return committees, None
    out_of_fold = np.empty(len(first.y))
    for part, (_, odds) in enumerate(fitted[1:]):
        out_of_fold[first.part == part] = np.maximum(odds, FLOOR)
    return committees, out_of_fold


def fit_networks(
    x: NDArray[Any], y: NDArray[np.bool_], weight: NDArray[np.float64], seeds: int
) -> Networks:
    """Networks on (N, C) rows, all on the same rows, each started from a seed of its own."""
    scale = Scale.of(x)
    mapped = scale.all(x)
    batch = min(512, max(len(y) // 8, 8))
    # Many rows are seen a few times, few rows more often.
    epochs = int(np.clip(_STEPS * batch // len(y), 10, 100))
    models = []
    for seed in range(seeds):
        model = MLPClassifier(
            (128, 64), alpha=0.05, batch_size=batch, max_iter=epochs, tol=0.0, random_state=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is to stop early
            models.append(model.fit(mapped, y, weight / weight.mean()))
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
_FORMS: Final = (
    _Form("company and links", _OWN + _COMPANY + _ALIKE + _LINKED, 300, 1.0),
    _Form("company and links, networks", _OWN + _COMPANY + _ALIKE + _LINKED, 0, 1.0),
    _Form("links, networks", _SCORES + _SPREAD + _COMPANY + _ALIKE + _LINKED, 0, 1.0),
)
# Most blocks are scored by one domain, some by all: together these cost about what one does alone.
_ALONE: Final = _Size(
    followed=90,
    trees=400,
    networks=3,
    own=(_Form("habits", _OWN, 200, 0.0), _Form("habits, networks", _OWN, 0, 0.0)),
)
_AMONG_OTHERS: Final = _Size(
    followed=60,
    trees=200,
    networks=1,
    own=(_Form("habits, networks", _OWN, 0, 0.0, networks=1),),
)


def _account_models(
    histories: Sequence[NDArray[np.float32]],
    rows: Sequence[_Rows],
    size: _Size,
    workers: int,
) -> tuple[AccountModel, ...]:
    jobs = [
        (form, x, of.y, of.weight)
        for x, of in zip(histories, rows, strict=True)
        for form in size.own + _FORMS
    ]
    with _Pool(workers) as run:
        return tuple(run(_fit_account, jobs))


def _fit_account(
    job: tuple[_Form, NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]],
) -> AccountModel:
    form, x, y, weight = job
    columns = np.array([ACCOUNT_COLUMNS.index(name) for name in form.columns], np.int64)
    x = x[:, columns]
    model: Trees | Networks
    if form.trees:
        model = Trees.of(fit_trees(x, y, weight, leaves=16, trees=form.trees))
    else:
        model = fit_networks(x, y, weight, form.networks)
    return AccountModel(form.name, columns, model, form.say)


def _all_histories(
    models: TextModels,
    followed: Sequence[Sequence[Week]],
    scores: NDArray[np.float64] | None,
    workers: int,
) -> list[NDArray[np.float32]]:
    """The account rows of each domain's weeks. `scores` are those of all blocks of a single one."""
    jobs: list[tuple[Week, NDArray[np.float64] | None, TextModels]] = []
    for domain, weeks in enumerate(followed):
        if scores is not None:
            ends = np.cumsum([len(one.blocks) for one in weeks])
            split = np.split(scores, ends[:-1])
            jobs += [(one, odds, models) for one, odds in zip(weeks, split, strict=True)]
            continue
        committees = models.block.committees
        unseen = replace(models, block=Consensus(committees[:domain] + committees[domain + 1 :]))
        jobs += [(one, None, unseen) for one in weeks]
    with _Pool(workers) as run:
        rows = iter(run(_histories, jobs))
    return [np.concatenate([next(rows) for _ in weeks]) for weeks in followed]


def _histories(
    job: tuple[Week, NDArray[np.float64] | None, TextModels],
) -> NDArray[np.float32]:
    """Account rows as they would have been seen online, one after every block of a week."""
    week, scores, models = job
    if scores is None:
        scores = np.array([models.block.log_odds(x) for x in week.matrix(models.used)])
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
