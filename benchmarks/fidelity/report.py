"""What came out, as a table, a page, a file of results and plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Final

import msgspec
from rich.table import Table

from benchmarks.fidelity.benchmark import Cell, Point, VictimResult

__all__ = ["AIM", "markdown", "table", "write"]

AIM: Final = 0.2  # of the undefended gain, at enforcement, for active learning and JBDA
_AIMED: Final = ("active", "jbda")
_COLUMNS: Final = (
    "strategy",
    "accounts",
    "agreement without",
    "at enforcement",
    "gain left",
    "least possible",
    "as many sent",
    "at the end",
    "gain left at the end",
    "accounts enforced",
    "answers before",
    "hours (without)",
)
# Those for the terminal.
_NARROW: Final = (0, 1, 2, 3, 4, 5, 8, 9)


def table(results: Sequence[VictimResult]) -> Table:
    """For the terminal."""
    drawn = Table("victim", *(_COLUMNS[i] for i in _NARROW), title="Agreement with the victim")
    for victim, rows in _rows(results).items():
        for number, row in enumerate(rows):
            drawn.add_row(victim if not number else "", *(row[i] for i in _NARROW))
    return drawn


def markdown(results: Sequence[VictimResult]) -> str:
    """The page: for each victim its rows, then the aim, the customers, and the curves."""
    lines = [
        "# Fidelity of copies",
        "",
        f"Means over {len({r.seed for r in results})} seeds. Gain is agreement less that of always "
        "saying the commonest answer; *gain left* is its share of the undefended gain: at "
        "enforcement that of the answers that accounts got before each was enforced; *least "
        "possible*, were each enforced at its first block, of 8 requests; at the end "
        "that of everything got within the thief's time. *As many sent* is the copy after as many "
        "requests, refused ones counted, as the undefended thief sent.",
        "",
    ]
    for victim, rows in _rows(results).items():
        own = [r for r in results if r.victim == victim]
        lines += [
            f"## {victim}",
            "",
            f"{own[0].classes} classes; the victim is right on "
            f"{mean(r.accuracy for r in own):.3f} of held-out rows; the commonest answer agrees "
            f"on {mean(r.baseline for r in own):.3f}.",
            "",
            "| " + " | ".join(_COLUMNS) + " |",
            "|" + "---|" * len(_COLUMNS),
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
        ]
    lines += ["## Against the aim", "", _against_the_aim(results), "", "## Customers", ""]
    lines += ["| victim | seen | enforced | requests refused | enforced when nobody steals |"]
    lines += ["|---|---|---|---|---|"]
    for victim in _rows(results):
        own = [r for r in results if r.victim == victim]
        every = [c for r in own for c in r.cells]
        lines.append(
            f"| {victim} | {sum(c.customers_seen for c in every)} over {len(every)} extractions "
            f"| {sum(c.customers_enforced for c in every)} "
            f"| {sum(c.customers_refused for c in every)} "
            f"| {sum(r.alone_enforced for r in own)} of {sum(r.customers for r in own)} |"
        )
    first = results[0].cells[0]
    lines += _curves(
        results,
        "Agreement after so many requests sent",
        [f"{mark:,}" for mark in first.undefended],
        lambda cell: list(cell.undefended.values()),
        lambda cell: [point.agreement for point in cell.curve.values()],
    )
    lines += _curves(
        results,
        "Agreement after so many hours",
        [f"{hours:g}" for hours in first.undefended_by_hour],
        lambda cell: list(cell.undefended_by_hour.values()),
        lambda cell: [point.agreement for point in cell.by_hour.values()],
    )
    return "\n".join(lines) + "\n"


def write(results: Sequence[VictimResult], out: Path) -> None:
    """Write `results.json`, `report.md` and a plot of each victim into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.format(msgspec.json.encode(list(results)), indent=1)
    (out / "results.json").write_bytes(encoded + b"\n")
    (out / "report.md").write_text(markdown(results))
    for victim in _rows(results):
        _plot([r for r in results if r.victim == victim], out / f"{victim}.png")


def _groups(results: Sequence[VictimResult]) -> list[tuple[str, str, int, list[Cell]]]:
    """Victim, strategy, accounts, and their cells of all seeds, in the order of the run."""
    found: dict[tuple[str, str, int], list[Cell]] = {}
    for result in results:
        for cell in result.cells:
            found.setdefault((result.victim, cell.strategy, cell.accounts), []).append(cell)
    return [(*key, cells) for key, cells in found.items()]


def _rows(results: Sequence[VictimResult]) -> dict[str, list[tuple[str, ...]]]:
    rows: dict[str, list[tuple[str, ...]]] = {}
    for victim, strategy, accounts, cells in _groups(results):
        before = [c.answers_before for c in cells if c.answers_before is not None]
        last = max(cells[0].undefended)
        rows.setdefault(victim, []).append(
            (
                strategy,
                str(accounts),
                f"{mean(c.undefended[last] for c in cells):.3f}",
                f"{mean(c.at_enforcement.agreement for c in cells):.3f}",
                _share([c.at_enforcement for c in cells]),
                _share([c.soonest for c in cells]),
                f"{mean(c.curve[last].agreement for c in cells):.3f}",
                f"{mean(c.at_end.agreement for c in cells):.3f}",
                _share([c.at_end for c in cells]),
                f"{mean(c.enforced_accounts for c in cells):.1f}",
                f"{mean(before):.0f}" if before else "-",
                f"{mean(c.hours for c in cells):.1f} "
                f"({mean(c.hours_undefended for c in cells):.1f})",
            )
        )
    return rows


def _share(points: Sequence[Point]) -> str:
    share = _mean_share(points)
    return "no gain" if share is None else f"{share:.2f}"


def _mean_share(points: Sequence[Point]) -> float | None:
    shares = [point.gain_share for point in points if point.gain_share is not None]
    return mean(shares) if shares else None


def _against_the_aim(results: Sequence[VictimResult]) -> str:
    met, missed = 0, []
    for victim, strategy, accounts, cells in _groups(results):
        left = _mean_share([c.at_enforcement for c in cells])
        if strategy not in _AIMED or left is None:
            continue
        if left <= AIM:
            met += 1
            continue
        least = _mean_share([c.soonest for c in cells]) or 0.0
        beyond = "" if least <= AIM else f" (beyond reach: {least:.2f} by the first blocks)"
        missed.append(f"- {victim} {strategy} x{accounts}: {left:.2f}{beyond}")
    if not met and not missed:
        return "No strategy of the aim was run."
    lines = [
        f"At most {AIM:.0%} of the gain left at enforcement, active learning and JBDA: "
        f"{met} of {met + len(missed)} rows." + (" Missed:" if missed else "")
    ]
    return "\n".join([*lines, *([""] if missed else []), *missed])


def _curves(
    results: Sequence[VictimResult],
    title: str,
    marks: Sequence[str],
    without: Callable[[Cell], list[float]],
    kept: Callable[[Cell], list[float]],
) -> list[str]:
    """A section with a row of agreements for each strategy without velvetrope, and with it."""
    lines = ["", f"## {title}", "", "| victim | strategy | accounts | " + " | ".join(marks) + " |"]
    lines += ["|---|---|---|" + "---|" * len(marks)]
    last = None
    for victim, strategy, accounts, cells in _groups(results):
        if last != (victim, strategy):
            lines.append(_curve(victim, strategy, "without", [without(c) for c in cells]))
            last = (victim, strategy)
        lines.append(_curve(victim, strategy, str(accounts), [kept(c) for c in cells]))
    return lines


def _curve(victim: str, strategy: str, accounts: str, seeds: Sequence[list[float]]) -> str:
    cells = " | ".join(f"{mean(values):.3f}" for values in zip(*seeds, strict=True))
    return f"| {victim} | {strategy} | {accounts} | {cells} |"


def _plot(results: Sequence[VictimResult], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    groups = _groups(results)
    names = list(dict.fromkeys(strategy for _, strategy, _, _ in groups))
    figure, panels = plt.subplots(
        2, len(names), figsize=(3.2 * len(names), 6.0), sharey=True, squeeze=False
    )
    for (by_sent, by_hour), name in zip(panels.T, names, strict=True):
        own = [(accounts, cells) for _, strategy, accounts, cells in groups if strategy == name]
        without = own[0][1]
        marks, hours = sorted(without[0].undefended), sorted(without[0].undefended_by_hour)
        black = {"color": "black", "label": "without velvetrope"}
        by_sent.plot(marks, [mean(c.undefended[m] for c in without) for m in marks], **black)
        by_hour.plot(
            hours, [mean(c.undefended_by_hour[h] for c in without) for h in hours], **black
        )
        for accounts, cells in own:
            dashed = {
                "linestyle": "--",
                "marker": ".",
                "label": f"{accounts} account{'s' if accounts > 1 else ''}",
            }
            by_sent.plot(
                marks, [mean(c.curve[m].agreement for c in cells) for m in marks], **dashed
            )
            by_hour.plot(
                hours, [mean(c.by_hour[h].agreement for c in cells) for h in hours], **dashed
            )
        for panel in (by_sent, by_hour):
            panel.axhline(mean(r.baseline for r in results), color="grey", linestyle=":")
            panel.set_xscale("log")
        by_sent.set(title=name, xlabel="requests sent")
        by_hour.set(xlabel="hours")
    for row in panels:
        row[0].set(ylabel="agreement with the victim")
    panels[0][-1].legend(loc="lower right", fontsize="small")
    figure.suptitle(results[0].victim)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
