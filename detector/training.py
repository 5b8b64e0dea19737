"""Training of the models for text from labelled weeks: used by `velvetrope train`.

A block model learns from blocks, account models from accounts' rows as they would have been seen
online, with block scores of models that had not seen the account's attack family. Thresholds come
from weeks of other accounts, `calibration`, which teach nothing.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from detector.baseline import Reference
from detector.blocks import Block
from detector.evidence import TextEvidence
from detector.score import ACCOUNT_COLUMNS, OWN_COLUMNS, AccountModel, Linear, TextModels
from detector.trees import Trees
from features import NAMES

__all__ = ["TooLittle", "Week", "caught", "evidence_of", "thinned", "train"]

WEEK_S: Final = 604_800.0
_BLOCKS_TAUGHT: Final = 24
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
        family: account → what is left out together with it when scores are cross-fitted.
    """

    blocks: list[Block]
    harvesting: Mapping[str, bool]
    family: Mapping[str, str]

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
    workers: int = 1,
    told: Callable[[str], None] = lambda _: None,
) -> TextModels:
    """The models of the training weeks, with bar and reference of the calibration weeks.

    Args:
        weeks: teach the models.
        calibration: their customers are what evidence is compared with; no account is in both.
        name: of the models, stamped on decisions.
        workers: processes.
        told: is told what is being done.

    Raises:
        TooLittle: not enough accounts of one side.
    """
    _check(weeks, calibration)
    used = np.array([i for i, n in enumerate(NAMES) if n not in _LEFT_OUT], dtype=np.int64)
    weeks = [thinned(one) for one in weeks]
    blocks = _Rows.of(weeks, used)
    told(f"block model: {len(blocks.y):,} blocks")
    jobs = [_Job(blocks, part) for part in (*range(blocks.parts), None)]
    with _Pool(workers) as run:
        *folds, block = run(_fit_block, jobs)
    out_of_fold = np.empty(len(blocks.y))
    for part, model in enumerate(folds):
        left_out = blocks.part == part
        out_of_fold[left_out] = _odds(model, blocks.x[left_out])
    every = _Rows.of(weeks, np.arange(len(NAMES)))
    customers = every.x[~every.y]
    low, high = np.quantile(customers, [0.1, 0.9], axis=0)
    scale = np.array([n not in _UNRELATED for n in NAMES]) * np.maximum(high - low, 1e-3)
    untaught = TextModels(
        name=name,
        used=used,
        typical=np.quantile(customers[:, used], [0.05, 0.95], axis=0).T.astype(np.float64),
        centre=np.median(customers, axis=0).astype(np.float32),
        scale=scale.astype(np.float32),
        own_bar=math.inf,
        reference=np.zeros(0),
        block=Trees.of(block),
        accounts=(
            AccountModel("none", np.zeros(1, np.int64), Linear(0.0, np.zeros(1), np.zeros(1))),
        ),
        about={},
    )
    told(f"account histories: {len(weeks)} weeks")
    bounds = np.cumsum([0] + [len(one.blocks) for one in weeks])
    seen = [
        (one, out_of_fold[bounds[i] : bounds[i + 1]], untaught, i) for i, one in enumerate(weeks)
    ]
    with _Pool(workers) as run:
        histories = run(_histories, seen)
    x = np.concatenate([rows for rows, _, _ in histories])
    accounts = [account for _, names, _ in histories for account in names]
    y = np.concatenate([harvests for _, _, harvests in histories])
    told(f"account models: {len(y):,} rows")
    models = replace(untaught, accounts=_account_models(x, y, _weights(accounts), workers))
    told(f"reference: {len(calibration)} weeks")
    return _with_reference(models, calibration, workers)


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
        """The rows of weeks, features `used`."""
        families = sorted(
            {one.family[a] for one in weeks for a, harvests in one.harvesting.items() if harvests}
        )
        names, y, part = [], [], []
        for number, one in enumerate(weeks):
            for block in one.blocks:
                account = block.account
                names.append(f"{number}/{account}")
                y.append(one.harvesting[account])
                if y[-1]:
                    part.append(families.index(one.family[account]))
                else:
                    part.append(_drawn(names[-1], len(families)))
        return cls(
            np.concatenate([one.matrix(used) for one in weeks]).astype(np.float32),
            np.array(y),
            _weights(names),
            np.array(part),
            len(families),
        )


@dataclass(frozen=True)
class _Job:
    rows: _Rows
    part: int | None  # left out


def _fit_block(job: _Job) -> HistGradientBoostingClassifier:
    # On 30 weeks, larger than the design's 120 trees of 8 leaves transferred better.
    model = HistGradientBoostingClassifier(
        max_leaf_nodes=16,
        min_samples_leaf=min(100, max(len(job.rows.y) // 50, 5)),
        l2_regularization=50.0,
        learning_rate=0.08,
        max_iter=400,
        early_stopping=False,
        random_state=0,
    )
    rows, taught = job.rows, job.rows.part != job.part
    return model.fit(rows.x[taught], rows.y[taught], rows.weight[taught])


def _odds(model: HistGradientBoostingClassifier, x: NDArray[Any]) -> NDArray[np.float64]:
    odds: NDArray[np.float64] = model.decision_function(x)
    return odds


@dataclass(frozen=True)
class _Form:
    """One account model: what it sees, and how it is fitted."""

    name: str
    columns: tuple[str, ...]
    leaves: int  # of a tree; 0 for a logistic regression
    trees: int = 0
    monotone: bool = False  # cannot fall as block scores rise


# Averages of unlike models transfer best; the logistic regression goes on where trees end.
_FORMS: Final = (
    _Form("scores", _SCORES, 8, 120, monotone=True),
    _Form("scores, linear", _SCORES + _SPREAD, 0),
    _Form("habits", _SCORES + _SPREAD + _HABITS, 16, 200),
    _Form("company", _SCORES + _SPREAD + _HABITS + _COMPANY, 16, 300),
    _Form(
        "company and links",
        _SCORES + _SPREAD + _HABITS + _COMPANY + _ALIKE + _LINKED,
        *(16, 300),
    ),
    _Form("links", _SCORES + _SPREAD + _COMPANY + _ALIKE + _LINKED, 8, 200),
)


def _account_models(
    x: NDArray[np.float64], y: NDArray[np.bool_], weight: NDArray[np.float64], workers: int
) -> tuple[AccountModel, ...]:
    with _Pool(workers) as run:
        return tuple(run(_fit_account, [(form, x, y, weight) for form in _FORMS]))


def _fit_account(
    job: tuple[_Form, NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]],
) -> AccountModel:
    form, x, y, weight = job
    columns = np.array([ACCOUNT_COLUMNS.index(name) for name in form.columns], np.int64)
    x = x[:, columns]
    if not form.leaves:
        typical = x.mean(axis=0)
        deviation = np.maximum(x.std(axis=0), 1e-9)
        fitted = LogisticRegression(max_iter=500).fit((x - typical) / deviation, y, weight)
        slope = fitted.coef_[0] / deviation
        bias = float(fitted.intercept_[0]) - float((slope * typical).sum())
        return AccountModel(form.name, columns, Linear(bias, slope, typical))
    model = HistGradientBoostingClassifier(
        max_leaf_nodes=form.leaves,
        min_samples_leaf=min(100, max(len(y) // 50, 5)),
        l2_regularization=50.0,
        learning_rate=0.08,
        max_iter=form.trees,
        monotonic_cst=[1, 1, 1, 0] if form.monotone else None,
        early_stopping=False,
        random_state=0,
    ).fit(x, y, weight)
    return AccountModel(form.name, columns, Trees.of(model))


def _histories(
    job: tuple[Week, NDArray[np.float64], TextModels, int],
) -> tuple[NDArray[np.float64], list[str], NDArray[np.bool_]]:
    """Account rows as they would have been seen online, after every block of a week."""
    week, scores, models, number = job
    evidence = TextEvidence(models, WEEK_S)
    rows, accounts, harvests = [], [], []
    for block, score in zip(week.blocks, scores.tolist(), strict=True):
        row = evidence.add(block, score)
        x = evidence.row(row)
        x[len(OWN_COLUMNS) :] = evidence.others(row, float(x[0]))
        rows.append(x)
        accounts.append(f"{number}/{block.account}")
        harvests.append(week.harvesting[block.account])
    return np.array(rows), accounts, np.array(harvests)


def _with_reference(models: TextModels, calibration: Sequence[Week], workers: int) -> TextModels:
    def of_customers(models: TextModels) -> NDArray[np.float64]:
        with _Pool(workers) as run:
            found = run(_evidence_of_customers, [(one, models) for one in calibration])
        return np.concatenate(found)

    own = of_customers(models)[:, 0]
    models = replace(models, own_bar=float(np.quantile(own, 0.95)))
    return replace(models, reference=np.sort(of_customers(models)[:, 1]))


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


def _weights(accounts: Sequence[str]) -> NDArray[np.float64]:
    """1/√(rows of the account): busy accounts teach more, but not in proportion."""
    counts: dict[str, int] = defaultdict(int)
    for account in accounts:
        counts[account] += 1
    return np.array([1.0 / math.sqrt(counts[account]) for account in accounts])


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
