"""The report as tables: on the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from rich.console import Console
from rich.table import Table as Drawn

from benchmarks.detection.report import Matched, Report, Study
from benchmarks.detection.results import Detection, FalseAlarms, Row
from benchmarks.detection.statistics import Share

__all__ = ["Table", "markdown", "of_report", "show"]


class Table(msgspec.Struct, frozen=True):
    """A table: the first column is words, the others are numbers."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def of_report(report: Report) -> Iterator[Table]:
    """Every table, in the order of the report."""
    for study in report.studies:
        yield from _of_study(study)
        if study.traffic == "text":
            yield from _of_text(report)


def _of_text(report: Report) -> Iterator[Table]:
    if report.thousand:
        yield _rows(
            "Text: campaigns over a thousand accounts",
            "A week for each family, 23 % of its accounts being one campaign.",
            report.thousand,
        )
    found = report.adversaries
    if found is None:
        return
    yield _rows(
        "Text: thieves who know that they are watched",
        "Rotating thieves leave an account after as many requests as ordinary campaigns of their "
        f"row had when they were enforced. Warmed accounts and poisoners take {found.slow_weeks} "
        "weeks, the others one; what they sent honestly counts as requests before. Without natural "
        "harvesting.",
        found.forms,
    )
    yield _rows("Text: the same by row", "Natural harvesting too.", found.rows)
    for kinds, weeks in ((found.kinds, "one week"), (found.slow_kinds, "several weeks")):
        yield Table(
            f"Text: customers beside them, {weeks}",
            "Framed: a thief copies the customer's template, client and network. Look-alikes share "
            "a campaign's framework and client. Each customer is counted once.",
            ("kind", "customers", "enforced", "per 1,000", "upper 95 %"),
            [
                (
                    kind.name,
                    f"{kind.share.of:,}",
                    f"{kind.share.count:g}",
                    _per_1000(kind),
                    f"{1000 * kind.upper:.1f}",
                )
                for kind in kinds
            ],
        )


def _of_study(study: Study) -> Iterator[Table]:
    yield _operating_points(study)
    yield _compared(study)
    if any(one.nominal != study.matched[0].nominal for one in study.matched):
        yield _rows_compared(study)
    yield _rows(
        f"{_title(study)}: rows",
        "All weeks, all shares of thieves, the shipped reference, the product's own operating "
        "point. A throttle lets its rate through; `denied` counts every answer after the first "
        "enforcement as refused.",
        [*study.rows, study.quick],
    )
    for trait, rows in study.traits.items():
        yield _rows(f"{_title(study)}: by {trait}", "Without natural harvesting.", rows)
    yield _kinds(study)
    if study.alone:
        yield _alone(study)
    if study.metadata is not None:
        yield _metadata(study, study.metadata)


def _title(study: Study) -> str:
    return "Text" if study.traffic == "text" else "Vectors"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _interval(share: Share) -> str:
    if not share.of:
        return "-"
    return f"{100 * share.estimate:.1f} ({100 * share.low:.0f}-{100 * share.high:.0f})"


def _per_1000(found: FalseAlarms) -> str:
    share = found.share
    if not share.of:
        return "-"
    return f"{1000 * share.estimate:.2f} ({1000 * share.low:.2f}-{1000 * share.high:.2f})"


def _operating_points(study: Study) -> Table:
    needs = study.own_baseline_needs
    shadow = f" The own baseline stays in shadow: it needs {needs}." if needs else ""
    return Table(
        f"{_title(study)}: the product's own operating point",
        f"{study.weeks} test weeks at each share of thieves; nominal: 1 false enforcement per "
        "1,000 customers a week. `rows, mean` is the mean of the rows without natural harvesting."
        + shadow,
        (
            "thieves, reference",
            "false per 1,000",
            "upper 95 %",
            "account-weeks",
            "rows, mean %",
            "accounts %",
            "campaigns %",
            "lowest row %",
            "natural 50+ %",
        ),
        [
            (
                f"{_percent(one.thieves)}, {'own baseline' if one.own_baseline else 'shipped'}",
                _per_1000(one.found.false),
                f"{1000 * one.found.false.upper:.2f}",
                f"{one.found.false.share.of:,}",
                *_caught(one.found),
            )
            for one in study.pooled
        ],
    )


def _caught(found: Detection) -> tuple[str, ...]:
    return (
        _interval(found.rows_mean),
        _interval(found.accounts),
        _interval(found.campaigns),
        f"{100 * found.worst:.0f} {found.worst_row}",
        _interval(found.natural),
    )


def _compared(study: Study) -> Table:
    return Table(
        f"{_title(study)}: detectors at the same false-alarm rate",
        "Each threshold is the one that so many customer-weeks pass in weeks of the calibrate "
        f"sources; velvetrope on {study.weeks} test weeks, the others on {study.compared_weeks}.",
        (
            "detector, nominal rate",
            "realised per 1,000",
            "rows, mean %",
            "accounts %",
            "campaigns %",
            "lowest row %",
            "natural 50+ %",
        ),
        [
            (
                f"{one.found.name}, {1000 * one.nominal:g} per 1,000",
                _per_1000(one.found.false),
                *_caught(one.found),
            )
            for one in _by_rate(study.matched)
        ],
    )


def _by_rate(matched: Sequence[Matched]) -> list[Matched]:
    return sorted(matched, key=lambda one: (-one.nominal, -one.found.rows_mean.estimate))


def _rows_compared(study: Study) -> Table:
    strictest = min(one.nominal for one in study.matched)
    chosen = [one for one in _by_rate(study.matched) if one.nominal == strictest]
    names = sorted({row for one in chosen for row in one.found.rows})
    return Table(
        f"{_title(study)}: accounts by row, %, {1000 * strictest:g} per 1,000",
        "The same thresholds as above.",
        ("row", *(one.found.name for one in chosen)),
        [
            (
                name,
                *(
                    f"{100 * one.found.rows[name]:.0f}" if name in one.found.rows else "-"
                    for one in chosen
                ),
            )
            for name in names
        ],
    )


def _rows(title: str, note: str, rows: Sequence[Row]) -> Table:
    return Table(
        title,
        note,
        (
            "row",
            "accounts",
            "campaigns",
            "enforced %",
            "requests before",
            "hours before",
            "answers denied",
        ),
        [
            (
                row.name,
                str(row.accounts.of),
                f"{row.campaigns.count:g} of {row.campaigns.of}",
                _interval(row.accounts),
                "-" if row.requests_before is None else f"{row.requests_before:g}",
                "-" if row.hours_before is None else f"{row.hours_before:.1f}",
                _percent(row.denied),
            )
            for row in rows
        ],
    )


def _kinds(study: Study) -> Table:
    shares = sorted(study.kinds, key=float)
    columns: list[str] = ["kind", "account-weeks"]
    for share in shares:
        columns += [f"{_percent(float(share))}: false", "upper 95 % per 1,000"]
    columns.append("false, own baseline")
    own = {kind.name: kind for kind in study.kinds_own[shares[-1]]}
    rows = []
    for i, kind in enumerate(study.kinds[shares[0]]):
        row = [kind.name, f"{kind.share.of:,}"]
        for share in shares:
            found = study.kinds[share][i]
            row += [f"{found.share.count:g}", f"{1000 * found.upper:.1f}"]
        rows.append((*row, f"{own[kind.name].share.count:g}"))
    return Table(
        f"{_title(study)}: customers enforced, by kind",
        "The same customers at each share of thieves; the last column is at the largest share.",
        tuple(columns),
        rows,
    )


def _alone(study: Study) -> Table:
    together = {row.name: row for row in study.together}
    return Table(
        f"{_title(study)}: each campaign alone in a clean week",
        "The same campaigns beside all others of their week in the last column.",
        ("row", "accounts", "campaigns", "alone %", "together %"),
        [
            (
                row.name,
                str(row.accounts.of),
                str(row.campaigns.of),
                _interval(row.accounts),
                _interval(together[row.name].accounts),
            )
            for row in study.alone
        ],
    )


def _metadata(study: Study, found: Detection) -> Table:
    return Table(
        f"{_title(study)}: metadata only",
        "The same weeks with inputs and answers taken out of the log.",
        (
            "",
            "false per 1,000",
            "rows, mean %",
            "accounts %",
            "campaigns %",
            "lowest row %",
            "natural 50+ %",
        ),
        [("no inputs logged", _per_1000(found.false), *_caught(found))],
    )


def markdown(report: Report) -> str:
    """report.md."""
    lines = [
        "# Detection benchmark",
        "",
        f"Models {report.models}. {_settings(report)}",
        "",
        "Intervals are of 95 %: Wilson's for customers, resampled campaigns for harvesting "
        "accounts. docs/benchmark.md says how to read the tables.",
        "",
    ]
    for table in of_report(report):
        lines += [f"## {table.title}", "", table.note, ""]
        lines.append("| " + " | ".join(table.columns) + " |")
        lines.append("|" + "|".join(["---", *["---:"] * (len(table.columns) - 1)]) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
        lines.append("")
    return "\n".join(lines)


def _settings(report: Report) -> str:
    plan = report.plan
    return (
        f"Sources: {plan['data']}; {plan['seeds']} weeks of text with {plan['customers']} "
        f"customers each, seeds from {plan['first_seed']}; {report.seconds:.0f} s with "
        f"{plan['jobs']} processes."
    )


def show(report: Report, console: Console) -> None:
    """The tables on the terminal."""
    for table in of_report(report):
        drawn = Drawn(
            title=table.title, caption=table.note, title_justify="left", caption_justify="left"
        )
        for i, column in enumerate(table.columns):
            drawn.add_column(column, justify="left" if i == 0 else "right", no_wrap=i == 0)
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
