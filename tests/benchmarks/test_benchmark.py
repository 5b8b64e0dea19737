"""The benchmark: its weeks are judged as the product judges, and its numbers add up."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from benchmarks.detection import benchmark, tables
from benchmarks.detection.benchmark import SECTIONS, Plan, run
from benchmarks.detection.compose import Settings, compose
from benchmarks.detection.report import Report
from benchmarks.detection.weeks import Request, judged, keeping, measured
from detector.judge import Models
from detector.runners.outcomes import Outcomes
from detector.runners.pipeline import Pipeline
from detector.settings import Settings as Program
from tests.benchmarks.tiny_sources import write_sources

SMALL = Settings(customers=80, thieves=0.2, max_events=8_000)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder, people=600)  # a week whose people run out has more thieves than its name
    return folder


@pytest.fixture(scope="module")
def report(data: Path) -> Report:
    plan = Plan(
        data=str(data),
        seeds=2,
        vector_seeds=1,
        detector_seeds=1,
        alone_seeds=1,
        metadata_seeds=1,
        calibrate_weeks=2,
        customers=120,
        vector_customers=40,
        max_events=8_000,
        adversary_seeds=1,
        slow_seeds=1,
        slow_weeks=2,
        slow_customers=60,
        sections=tuple(s for s in SECTIONS if s not in ("thousand", "embeddings")),
        shares=(0.09, 0.23),
        jobs=1,
    )
    return run(plan, Console(file=io.StringIO()))


def request(data: Path, settings: Settings = SMALL) -> Request:
    return Request(split="test", seed=3, data=str(data), settings=settings)


def test_a_measured_week_is_judged_as_the_pipeline_judges_its_events(data: Path) -> None:
    models = Models.shipped()
    week, _ = measured(request(data))
    found = judged(week, models)
    events, _ = compose("test", 3, data, SMALL)
    pipeline, outcomes = Pipeline(Program(), models=models), Outcomes()
    for start in range(0, len(events), 1000):
        batch = events[start : start + 1000]
        for event in batch:
            event.served = event.status < 400 if event.served is None else event.served
        outcomes.add(pipeline.feed(batch).decisions)
    outcomes.add(pipeline.end().decisions)
    summaries = dict(pipeline.judge.accounts())
    assert {name for name, one in found.items() if one.enforced} == outcomes.enforced
    for name, one in found.items():
        outcome = outcomes.accounts.get(name)
        assert (outcome.first_enforced_at if outcome else None) == (
            one.enforced_at if one.enforced else None
        )
        rates = summaries[name].rates if name in summaries else {}
        assert one.rate == min(1.0, min(rates.values(), default=1.0) * max(len(rates), 1))


def test_a_subset_of_a_week_has_only_its_accounts_and_their_blocks(data: Path) -> None:
    week, _ = measured(request(data))
    kept = sorted(week.labels)[:30]
    part = keeping(week, kept)
    assert set(part.labels) == set(part.times) == set(kept)
    whole = [b.id for blocks in week.partitions for b in blocks if b.account in set(kept)]
    assert [b.id for blocks in part.partitions for b in blocks] == whole
    for blocks in part.partitions:
        assert [block.seq for block in blocks] == list(range(len(blocks)))
    assert set(judged(part, Models.shipped())) == set(kept)


def test_a_week_read_from_the_cache_is_the_one_written(data: Path, tmp_path: Path) -> None:
    first, second = (measured(request(data), tmp_path)[0] for _ in range(2))
    assert len(list(tmp_path.iterdir())) == 1
    assert first == second


def test_without_inputs_every_block_is_of_metadata(data: Path) -> None:
    week, _ = measured(request(data, msgspec.structs.replace(SMALL, inputs=False)))
    kinds = {block.kind for blocks in week.partitions for block in blocks}
    assert kinds == {"metadata"}


def test_customers_of_the_kinds_add_up_to_those_of_the_week(report: Report) -> None:
    for study in report.studies:
        for pooled in study.pooled:
            kinds = study.kinds_own if pooled.own_baseline else study.kinds
            found = kinds[str(pooled.thieves)]
            assert sum(kind.share.of for kind in found) == pooled.found.false.share.of
            assert sum(kind.share.count for kind in found) == pooled.found.false.share.count


def test_harvesting_accounts_of_the_rows_add_up_to_those_of_the_weeks(report: Report) -> None:
    for study in report.studies:
        shipped = [one for one in study.pooled if not one.own_baseline]
        assert sum(row.accounts.of for row in study.rows) == sum(
            one.found.accounts.of for one in shipped
        )
        assert sum(row.accounts.count for row in study.rows) == sum(
            one.found.accounts.count for one in shipped
        )


def test_the_weeks_hold_the_share_of_thieves_they_are_named_for(report: Report) -> None:
    for study in report.studies:
        for one in study.pooled:
            thieves, customers = one.found.accounts.of, one.found.false.share.of
            assert 0 < thieves / (thieves + customers) <= one.thieves + 0.04


def test_every_interval_holds_its_estimate(report: Report) -> None:
    shares = []
    for study in report.studies:
        for found in [one.found for one in study.pooled] + [one.found for one in study.matched]:
            shares += [found.false.share, found.rows_mean, found.accounts, found.campaigns]
    shares += [row.accounts for study in report.studies for row in study.rows]
    assert shares
    for share in shares:
        assert 0.0 <= share.low <= share.estimate <= share.high <= 1.0
        assert share.count <= share.of


def test_a_looser_threshold_catches_no_less_and_frees_no_customer(report: Report) -> None:
    for study in report.studies:
        names = {one.found.name for one in study.matched}
        assert len(names) >= 4
        for name in names:
            loose, strict = sorted(
                (one for one in study.matched if one.found.name == name),
                key=lambda one: -one.nominal,
            )
            assert loose.found.accounts.count >= strict.found.accounts.count
            assert loose.found.false.share.count >= strict.found.false.share.count


def test_each_campaign_is_judged_alone_and_together(report: Report) -> None:
    for study in report.studies:
        assert [row.name for row in study.alone] == [row.name for row in study.together]
        for alone, together in zip(study.alone, study.together, strict=True):
            assert alone.accounts.of == together.accounts.of


def test_evidence_over_time_is_drawn_for_every_kind(report: Report) -> None:
    groups = {curve.group for curve in report.curves}
    assert {kind.name for kind in report.studies[0].kinds["0.23"]} <= groups
    for curve in report.curves:
        hours = [hour for hour, _ in curve.points]
        assert hours == sorted(hours)
        assert all(0.0 < rate <= 1.0 for _, rate in curve.points)


def test_tables_are_whole_and_the_report_is_read_back(report: Report, tmp_path: Path) -> None:
    for table in tables.of_report(report):
        assert table.rows, table.title
        assert {len(row) for row in table.rows} == {len(table.columns)}, table.title
    text = tables.markdown(report)
    assert text.count("\n## ") == len(list(tables.of_report(report)))
    console = Console(file=io.StringIO(), width=150)
    tables.show(report, console)
    packed = msgspec.json.encode(report)
    assert msgspec.json.decode(packed, type=Report) == report
    assert json.loads(packed)["plan"]["data"] == "given"


def test_the_command_writes_the_report_the_numbers_and_the_plots(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Plan] = []

    def ran(plan: Plan, console: Console) -> Report:
        asked.append(plan)
        return report

    monkeypatch.setattr(benchmark, "run", ran)
    benchmark.main(["--out", str(tmp_path), "--seeds", "7", "--only", "alone"])
    assert (asked[0].seeds, asked[0].sections, asked[0].data) == (7, ("alone",), None)
    assert msgspec.json.decode((tmp_path / "results.json").read_bytes(), type=Report) == report
    assert (tmp_path / "report.md").read_text() == tables.markdown(report)
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn >= {"detectors-text", "false-alarms-text", "rows-text", "evidence"}
    for name in drawn:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.svg").read_text().lstrip().startswith("<?xml")


def test_a_stranger_composes_weeks_without_a_folder() -> None:
    week, _ = measured(Request(split="test", seed=3, data=None, settings=SMALL))
    thieves = sum(label.harvesting for label in week.labels.values())
    assert 0 < thieves < len(week.labels)
    assert set(judged(week, Models.shipped())) == set(week.labels)
