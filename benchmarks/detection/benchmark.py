"""The detection benchmark: what velvetrope catches, and what others catch at the same false alarms.

    python -m benchmarks.detection.benchmark [--data DIR] [--out DIR]

prints tables, and writes report.md, results.json and plots into the folder `--out`.
docs/benchmark.md says what is in it and how to read it.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

from benchmarks.detection import baselines, baselines_learned, baselines_windows, tables
from benchmarks.detection.adversaries import Rotation
from benchmarks.detection.baselines import Detector, Traffic, collected, traces_of
from benchmarks.detection.compose import Settings
from benchmarks.detection.harvesters import FAMILIES
from benchmarks.detection.report import Adversaries, Curve, Matched, Pooled, Report, Study
from benchmarks.detection.results import (
    Observed,
    Row,
    by_form,
    by_kind,
    by_row,
    by_trait,
    detection,
    quick_campaigns,
)
from benchmarks.detection.sources import Split
from benchmarks.detection.statistics import exceeded
from benchmarks.detection.weeks import (
    NEVER,
    Judged,
    Measured,
    Request,
    calibrated,
    evidence_over_time,
    in_shadow,
    judged,
    keeping,
    measured,
)
from detector.baseline import Baseline
from detector.judge import Models

__all__ = ["Plan", "main", "run"]

Task = TypeVar("Task")
Result = TypeVar("Result")

SECTIONS: Final = (
    "baselines",
    "embeddings",
    "alone",
    "metadata",
    "thousand",
    "adversaries",
    "evidence",
    "vectors",
)
_FORMS: Final = ("plain", "rotated", "framing", "look_alikes")
_SLOW_FORMS: Final = ("warmed", "poisoner")
MATCHED: Final = (1e-2, 1e-3)  # per customer-week
SHARES: Final = (0.02, 0.09, 0.23)
_WIDTH: Final = 150  # of tables that go into a file or a pipe
_SLOW_THIEVES: Final = 0.09
_CALIBRATE_SEED: Final = 5000  # weeks that neither training nor the shipped reference drew


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much is run. Weeks of text and of vectors are counted apart."""

    data: str | None = None
    seeds: int = 20
    vector_seeds: int = 4  # a block of vectors costs ten of text
    detector_seeds: int = 3  # test weeks on which the baselines run too
    alone_seeds: int = 2
    metadata_seeds: int = 1
    adversary_seeds: int = 4  # weeks of text with thieves who know that they are watched
    slow_weeks: int = 4  # how many weeks warmed accounts and poisoners take
    slow_customers: int = 700
    slow_seeds: int = 2
    calibrate_weeks: int = 3  # without thieves: the first teaches the baselines, the rest set bars
    customers: int = 2600
    vector_customers: int = 1100  # a baseline decides from 1,000 on
    max_events: int = 500_000
    first_seed: int = 1000
    shares: tuple[float, ...] = SHARES
    sections: tuple[str, ...] = SECTIONS
    jobs: int = 2
    cache: str | None = None

    def week(
        self, split: Split, seed: int, traffic: str, *, thieves: float, **settings: Any
    ) -> Request:
        """The request for a week of this plan; `settings` go before the plan's own."""
        own: dict[str, Any] = {
            "thieves": thieves,
            "customers": self.customers if traffic == "text" else self.vector_customers,
            "max_events": self.max_events,
            "traffic": traffic,
        }
        return Request(split=split, seed=seed, data=self.data, settings=Settings(**own | settings))


class _Shared:
    """What worker processes inherit when they are forked; nothing of it is sent."""

    plan: Plan
    models: Models
    own: dict[str, Baseline]  # traffic → the operator's baseline
    learning: list[Detector]
    detectors: dict[str, list[Detector]]  # traffic → the fitted ones
    first: Traffic  # what the baselines learn from
    rest: list[Traffic]  # what sets their thresholds


def _cache(plan: Plan) -> Path | None:
    return Path(plan.cache) if plan.cache else None


# -- work of the processes ---------------------------------------------------------------------


def _calibration_week(task: tuple[str, int]) -> tuple[Measured, bytes]:
    traffic, seed = task
    plan = _Shared.plan
    wanted = "baselines" in plan.sections
    return measured(
        plan.week("calibrate", seed, traffic, thieves=0.0),
        _cache(plan),
        collected if wanted else None,
    )


def _clean_scores(task: tuple[str, Measured]) -> list[float]:
    """The product's evidence of the customers of a week without thieves, as -log10 of its rate."""
    _, week = task
    return [_evidence(one) for one in judged(week, _Shared.models).values()]


def _learned(number: int) -> tuple[Detector, list[float]]:
    """A baseline of `_Shared.learning`, fitted, and its scores of the other weeks' customers."""
    one = _Shared.learning[number]
    one.fit([_Shared.first])
    values: list[float] = []
    for part in _Shared.rest:
        values += one.scores(part).values()
    return one, values


def _evidence(one: Judged) -> float:
    return -math.log10(one.rate)


class _TestWeek(msgspec.Struct):
    seed: int
    seen: dict[tuple[float, bool], list[Judged]]  # (share of thieves, own baseline) → accounts
    scores: dict[str, dict[str, float]]  # baseline → account → score
    alone: list[list[Judged]]  # each campaign alone in the clean week: its accounts
    metadata: list[Judged]


def _test_week(task: tuple[str, int]) -> _TestWeek:
    traffic, seed = task
    plan, models = _Shared.plan, _Shared.models
    number = seed - plan.first_seed
    compared = "baselines" in plan.sections and number < plan.detector_seeds
    request = plan.week("test", seed, traffic, thieves=max(plan.shares))
    week, packed = measured(request, _cache(plan), collected if compared else None)
    found = _TestWeek(seed, {}, {}, [], [])
    for share, own in _variants(plan, traffic):
        part = week if share == max(plan.shares) else keeping(week, _thinned(week, share, seed))
        baseline = _Shared.own[traffic] if own else None
        found.seen[(share, own)] = list(judged(part, models, baseline).values())
    if compared:
        both = Traffic(week, traces_of(packed))
        for one in _Shared.detectors[traffic]:
            found.scores[one.name] = one.scores(both)
    if "alone" in plan.sections and number < plan.alone_seeds:
        customers, campaigns = _parts(week)
        for members in campaigns.values():
            alone = judged(keeping(week, customers + members), models)
            found.alone.append([alone[name] for name in members])
    if "metadata" in plan.sections and number < plan.metadata_seeds:
        bare = plan.week("test", seed, traffic, thieves=max(plan.shares), inputs=False)
        found.metadata = list(judged(measured(bare, _cache(plan))[0], models).values())
    return found


def _variants(plan: Plan, traffic: str) -> list[tuple[float, bool]]:
    """Shares of thieves, each without and with the operator's baseline.

    Vectors have it at the largest share only: their weeks take the longest to judge.
    """
    every = [(share, own) for share in plan.shares for own in (False, True)]
    if traffic == "text":
        return every
    return [(share, own) for share, own in every if not own or share == max(plan.shares)]


def _extra_week(request: Request) -> list[Judged]:
    """The product on a week of its own kind."""
    week, _ = measured(request, _cache(_Shared.plan))
    return list(judged(week, _Shared.models).values())


def _parts(week: Measured) -> tuple[list[str], dict[str, list[str]]]:
    """The week's customers, and the accounts of each of its campaigns."""
    customers: list[str] = []
    campaigns: dict[str, list[str]] = {}
    for name, label in week.labels.items():
        if label.harvesting:
            campaigns.setdefault(str(label.campaign), []).append(name)
        else:
            customers.append(name)
    return customers, campaigns


def _thinned(week: Measured, share: float, seed: int) -> list[str]:
    """The customers and, in a random order, as many campaigns as make `share` of the accounts."""
    customers, campaigns = _parts(week)
    room = round(len(customers) * share / (1 - share))
    kept = list(customers)
    order = sorted(campaigns)
    for i in np.random.default_rng([seed, round(1000 * share)]).permutation(len(order)).tolist():
        members = campaigns[order[i]]
        if len(members) <= room:
            kept += members
            room -= len(members)
    return kept


# -- the parts of the report -------------------------------------------------------------------


def _detectors(traffic: str, embeddings: bool) -> list[Detector]:
    every: list[Detector] = [baselines_windows.MmdEmbeddings()] if embeddings else []
    every += [
        baselines_windows.MmdRows(),
        baselines_learned.HalfSpaceTrees(),
        baselines_learned.IsolationForest(),
        baselines_learned.TenSignals(),
        baselines_windows.AccountAware(),
        baselines.Prada(),
        baselines.Jaccard(),
        baselines.Rita(),
        baselines.Volume(),
    ]
    return [one for one in every if one.reads in (traffic, "both")]


def _flagged(seen: Observed, scores: dict[int, dict[str, float]], bar: float) -> Observed:
    """The weeks as if accounts whose score is above the bar had been enforced at once.

    Accounts without a score were not shown to the detector, and are left out.
    """
    return [
        (
            seed,
            [
                msgspec.structs.replace(
                    one,
                    enforced_at=one.first if scores[seed][one.account] > bar else NEVER,
                )
                for one in accounts
                if one.account in scores[seed]
            ],
        )
        for seed, accounts in seen
    ]


class _Runner:
    """Runs a plan's parts over processes, with a bar for each."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.plan = plan
        self._progress = progress
        _Shared.plan = plan
        _Shared.own = {}
        _Shared.detectors = {}

    def study(self, traffic: str) -> Study:
        """Everything about weeks of one sort of traffic."""
        plan = self.plan
        first = _CALIBRATE_SEED
        weeks = list(range(first, first + plan.calibrate_weeks))
        clean = self._map(
            f"{traffic}: clean weeks", _calibration_week, [(traffic, s) for s in weeks]
        )
        taught = clean[0][0]
        _Shared.own[traffic] = calibrated(taught, _Shared.models, "calibrate-sources")
        bars = clean[1:] or clean
        scores = self._map(
            f"{traffic}: evidence of customers", _clean_scores, [(traffic, w) for w, _ in bars]
        )
        product = np.array([score for week in scores for score in week])
        detector_bars = self._fit(traffic, clean, bars) if "baselines" in plan.sections else {}
        del clean, bars
        seeds = plan.seeds if traffic == "text" else plan.vector_seeds
        tasks = [(traffic, plan.first_seed + i) for i in range(seeds)]
        tests = self._map(f"{traffic}: test weeks", _test_week, tasks)
        kind = "text" if traffic == "text" else "vector"
        needs = in_shadow(_Shared.own[traffic], _Shared.models, kind)
        return _studied(traffic, plan, tests, product, detector_bars, needs)

    def _fit(
        self,
        traffic: str,
        clean: Sequence[tuple[Measured, bytes]],
        bars: Sequence[tuple[Measured, bytes]],
    ) -> dict[str, np.ndarray]:
        """Fit the baselines to the first week; their scores of the other weeks' customers."""
        _Shared.learning = _detectors(traffic, "embeddings" in self.plan.sections)
        _Shared.first = Traffic(clean[0][0], traces_of(clean[0][1]))
        _Shared.rest = [Traffic(week, traces_of(packed)) for week, packed in bars]
        found = self._map(
            f"{traffic}: baselines learn", _learned, list(range(len(_Shared.learning)))
        )
        _Shared.detectors[traffic] = [one for one, _ in found]
        del _Shared.learning, _Shared.first, _Shared.rest
        return {one.name: np.array(values) for one, values in found}

    def thousand(self) -> list[Row]:
        """Campaigns over a thousand accounts, one of each family in a week of its own."""
        plan = self.plan
        requests = [
            plan.week(
                "test",
                plan.first_seed + 500 + i,
                "text",
                thieves=max(plan.shares),
                sizes=(1000,),
                families=(family,),
            )
            for i, family in enumerate(sorted(FAMILIES))
        ]
        weeks = self._map("text: a thousand accounts", _extra_week, requests)
        return by_row(list(enumerate(weeks)))

    def adversaries(self, plain: Sequence[Row]) -> Adversaries:
        """Thieves who know that they are watched.

        Args:
            plain: the rows of ordinary campaigns: rotating thieves leave an account where those
                were enforced.
        """
        plan = self.plan
        measured_at = tuple(
            (row.name, max(round(row.requests_before), 1))
            for row in plain
            if row.requests_before is not None
        )
        quick = [
            plan.week(
                "test",
                plan.first_seed + 600 + i,
                "text",
                thieves=max(plan.shares),
                forms=_FORMS,
                rotation=Rotation(measured=measured_at),
            )
            for i in range(plan.adversary_seeds)
        ]
        slow = [
            plan.week(
                "test",
                plan.first_seed + 700 + i,
                "text",
                thieves=_SLOW_THIEVES,
                forms=_SLOW_FORMS,
                weeks=plan.slow_weeks,
                customers=plan.slow_customers,
                sizes=(1, 10, 50),
            )
            for i in range(plan.slow_seeds)
        ]
        weeks = self._map("text: adversaries", _extra_week, quick + slow)
        at_once, slowly = list(enumerate(weeks[: len(quick)])), list(enumerate(weeks[len(quick) :]))
        return Adversaries(
            forms=by_form(at_once) + by_form(slowly),
            rows=[row for row in by_row(at_once) + by_row(slowly) if row.name.count(" ") != 1],
            kinds=by_kind(at_once),
            slow_kinds=by_kind(slowly),
            slow_weeks=plan.slow_weeks,
        )

    def _map(
        self, title: str, work: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> list[Result]:
        bar = self._progress.add_task(title, total=len(tasks))
        context = multiprocessing.get_context("fork")
        found: dict[int, Result] = {}
        # One thread each: a forked process would wait for ever for its parent's OpenMP threads.
        with ProcessPoolExecutor(
            self.plan.jobs,
            mp_context=context,
            initializer=threadpool_limits,
            initargs=(1, "openmp"),
        ) as pool:
            waiting: dict[Future[Result], int] = {
                pool.submit(work, task): i for i, task in enumerate(tasks)
            }
            for done in as_completed(waiting):
                found[waiting[done]] = done.result()
                self._progress.advance(bar)
                if not self._progress.console.is_terminal:  # a file shows no bar until its end
                    self._progress.console.print(f"{title}: {len(found)} of {len(tasks)}")
        return [found[i] for i in range(len(tasks))]


def _matched(
    name: str,
    rate: float,
    customers: np.ndarray,
    seen: Observed,
    scores: dict[int, dict[str, float]],
    bar: float,
) -> Matched:
    return Matched(
        found=detection(name, f"{rate:g}", _flagged(seen, scores, bar)),
        as_published=False,
        nominal=rate,
        calibrated_on=len(customers),
    )


def _studied(
    traffic: str,
    plan: Plan,
    tests: Sequence[_TestWeek],
    product: np.ndarray,
    detector_bars: dict[str, np.ndarray],
    needs: str,
) -> Study:
    variants = {
        (share, own): [(week.seed, week.seen[(share, own)]) for week in tests]
        for share, own in _variants(plan, traffic)
    }
    rates = [
        Pooled(thieves=share, own_baseline=own, found=detection("velvetrope", "own", seen))
        for (share, own), seen in variants.items()
    ]
    top = max(plan.shares)
    every = [week for share in plan.shares for week in variants[(share, False)]]
    together = variants[(top, False)]
    evidence = {
        week.seed: {one.account: _evidence(one) for one in week.seen[(top, False)]}
        for week in tests
    }
    matched = [
        _matched("velvetrope", rate, product, together, evidence, exceeded(product, rate))
        for rate in MATCHED
    ]
    compared = [week for week in tests if week.scores]
    shown = [(week.seed, week.seen[(top, False)]) for week in compared]
    for one in _Shared.detectors.get(traffic, []):
        scores = {week.seed: week.scores[one.name] for week in compared}
        own = detector_bars[one.name]
        for rate in MATCHED:
            matched.append(_matched(one.name, rate, own, shown, scores, exceeded(own, rate)))
            bar = one.published(rate)
            if bar is not None:
                name = f"{one.name}, as published"
                found = _matched(name, rate, own, shown, scores, bar)
                matched.append(msgspec.structs.replace(found, as_published=True))
    alone = [(week.seed, one) for week in tests for one in week.alone]
    alone_seeds = {seed for seed, _ in alone}
    bare = [(week.seed, week.metadata) for week in tests if week.metadata]
    return Study(
        traffic=traffic,
        weeks=len(tests),
        own_baseline_needs=needs,
        pooled=rates,
        rows=by_row(every),
        traits=by_trait(every),
        quick=quick_campaigns(every),
        kinds={str(s): by_kind(seen) for (s, own), seen in variants.items() if not own},
        kinds_own={str(s): by_kind(seen) for (s, own), seen in variants.items() if own},
        matched=matched,
        compared_weeks=len(compared),
        alone=by_row(alone),
        together=by_row([week for week in together if week[0] in alone_seeds]),
        metadata=detection("velvetrope", "own", bare) if bare else None,
    )


def _curves(plan: Plan, models: Models) -> list[Curve]:
    """Evidence over time of one account of each kind, in the first test week."""
    week, _ = measured(
        plan.week("test", plan.first_seed, "text", thieves=max(plan.shares)), _cache(plan)
    )
    chosen: dict[str, str] = {}
    for group in sorted({label.group for label in week.labels.values()}):
        # An ordinary one: of the kind's accounts, the one with the median number of requests.
        alike = [name for name, label in week.labels.items() if label.group == group]
        alike.sort(key=lambda name: (len(week.times[name]), name))
        chosen[group] = alike[len(alike) // 2]
    series = evidence_over_time(week, models, list(chosen.values()))
    return [
        Curve(group=group, harvesting=week.labels[name].harvesting, points=series[name])
        for group, name in sorted(chosen.items())
    ]


def run(plan: Plan, console: Console) -> Report:
    """Run a plan."""
    began = time.perf_counter()
    _Shared.models = models = Models.shipped()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        runner = _Runner(plan, progress)
        studies = [runner.study("text")]
        thousand = runner.thousand() if "thousand" in plan.sections else []
        adversaries = (
            runner.adversaries(studies[0].rows) if "adversaries" in plan.sections else None
        )
        if "vectors" in plan.sections:
            studies.append(runner.study("vectors"))
        curves = _curves(plan, models) if "evidence" in plan.sections else []
    return Report(
        models=models.name,
        plan=plan_of(plan),
        studies=studies,
        thousand=thousand,
        adversaries=adversaries,
        curves=curves,
        seconds=time.perf_counter() - began,
    )


def plan_of(plan: Plan) -> dict[str, Any]:
    """What a reader needs to run it again; folders are the reader's own."""
    said: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(plan))
    said["data"] = "built in" if plan.data is None else "given"
    del said["cache"]
    return said


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detection.benchmark", description=__doc__.split("\n")[0]
    )
    default = Plan()
    parser.add_argument("--data", type=Path, help="folder with the sources (default: built in)")
    parser.add_argument("--out", type=Path, default=Path("benchmark-detection"))
    parser.add_argument("--seeds", type=int, default=default.seeds, help="test weeks of text")
    parser.add_argument("--vector-seeds", type=int, default=default.vector_seeds, metavar="N")
    parser.add_argument("--jobs", type=int, default=default.jobs, help="processes")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="beside the weeks of text")
    parser.add_argument("--cache", type=Path, help="keep measured weeks here")
    parser.add_argument("--quick", action="store_true", help="few, small weeks: minutes")
    options = parser.parse_args(arguments)
    plan = Plan(
        data=str(options.data) if options.data else None,
        seeds=options.seeds,
        vector_seeds=options.vector_seeds,
        jobs=options.jobs,
        sections=tuple(options.only or SECTIONS),
        cache=str(options.cache) if options.cache else None,
    )
    if options.quick:
        plan = msgspec.structs.replace(
            plan,
            seeds=min(options.seeds, 3),
            vector_seeds=1,
            detector_seeds=1,
            alone_seeds=1,
            adversary_seeds=1,
            slow_seeds=1,
            slow_weeks=2,
            slow_customers=400,
            calibrate_weeks=2,
            customers=800,
            vector_customers=400,
            max_events=120_000,
        )
    for folder in (options.out, options.cache):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    report = run(plan, console)
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=1)
    (options.out / "results.json").write_bytes(encoded + b"\n")
    (options.out / "report.md").write_text(tables.markdown(report))
    from benchmarks.detection import plots

    plots.draw(report, options.out)
    tables.show(report, console)
    console.print(f"{options.out}: report.md, results.json and plots; {report.seconds:.0f} s")


if __name__ == "__main__":
    main()
