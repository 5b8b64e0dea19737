"""Plots of a report, as PNG and SVG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.detection.report import Curve, Report, Study

__all__ = ["draw"]

_OURS: Final = "#1b6ca8"
_OTHERS: Final = "#b0b0b0"
_THIEF: Final = "#c0392b"
_SPAN_H: Final = 168.0
_HIGHEST: Final = 6.5  # of the evidence drawn
_NOMINAL: Final = 1.0  # false enforcements per 1,000 customers a week


def draw(report: Report, out: Path) -> list[Path]:
    """Every plot the report has figures for, in the folder `out`; the PNG files."""
    found = []
    for study in report.studies:
        if study.matched:
            found.append(_save(_detectors(study), out, f"detectors-{study.traffic}"))
        found.append(_save(_promise(study), out, f"false-alarms-{study.traffic}"))
        if study.rows:
            found.append(_save(_rows(study), out, f"rows-{study.traffic}"))
    if report.curves:
        found.append(_save(_evidence(report.curves), out, "evidence"))
    return found


def _save(figure: Any, out: Path, name: str) -> Path:
    for ending in ("png", "svg"):
        figure.savefig(out / f"{name}.{ending}", dpi=120, bbox_inches="tight")
    plt.close(figure)
    return out / f"{name}.png"


def _detectors(study: Study) -> Any:
    """Mean over rows at the two matched rates, with intervals."""
    matched = [one for one in study.matched if not one.as_published]  # those keep no rate
    rates = sorted({one.nominal for one in matched}, reverse=True)
    strict = [one for one in matched if one.nominal == rates[-1]]
    names = [o.found.name for o in sorted(strict, key=lambda o: o.found.rows_mean.estimate)]
    figure, axes = plt.subplots(
        1, len(rates), figsize=(5.0 * len(rates), 0.4 * len(names) + 1.4), sharey=True
    )
    for axis, rate in zip(axes if len(rates) > 1 else [axes], rates, strict=True):
        at = {one.found.name: one.found.rows_mean for one in matched if one.nominal == rate}
        for i, name in enumerate(names):
            share = at[name]
            axis.barh(i, share.estimate, color=_OURS if name == "velvetrope" else _OTHERS)
            axis.plot([share.low, share.high], [i, i], color="black", linewidth=1)
        axis.set_title(f"{1000 * rate:g} false per 1,000 customers a week")
        axis.set_xlim(0, 1)
        axis.set_xlabel("harvesting accounts caught, mean of rows")
        axis.set_yticks(range(len(names)), names)
    return figure


def _promise(study: Study) -> Any:
    """Realised false alarms against the nominal rate."""
    figure, axis = plt.subplots(figsize=(6.0, 3.6))
    shares = sorted({one.thieves for one in study.pooled})
    for own, shift, colour in ((False, -0.1, _OURS), (True, 0.1, _THIEF)):
        label = "own baseline" if own else "shipped reference"
        for one in study.pooled:
            if one.own_baseline != own:
                continue
            share, x = one.found.false.share, shares.index(one.thieves) + shift
            axis.plot([x, x], [1000 * share.low, 1000 * share.high], color=colour)
            axis.plot(x, 1000 * share.estimate, "o", color=colour, label=label)
            label = "_"  # named once
    axis.axhline(_NOMINAL, color="black", linewidth=0.8, linestyle="--")
    axis.set_xticks(range(len(shares)), [f"{100 * share:g} %" for share in shares])
    axis.set_xlabel("thieves among the week's accounts")
    axis.set_ylabel("false enforcements per 1,000")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    return figure


def _rows(study: Study) -> Any:
    """Share of accounts enforced for each row."""
    figure, axis = plt.subplots(figsize=(7.0, 0.26 * len(study.rows) + 1.2))
    for i, row in enumerate(reversed(study.rows)):
        share = row.accounts
        colour = _OTHERS if row.name.startswith("natural") else _OURS
        axis.plot([share.low, share.high], [i, i], color=colour, linewidth=2)
        axis.plot(share.estimate, i, "o", color=colour, markersize=4)
    axis.set_yticks(range(len(study.rows)), [row.name for row in reversed(study.rows)], fontsize=8)
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel("accounts enforced, all weeks")
    axis.grid(axis="x", linewidth=0.3)
    return figure


def _evidence(curves: list[Curve]) -> Any:
    """-log10 of the false-alarm rate over hours, one account a kind."""
    figure, axes = plt.subplots(1, 2, figsize=(11.0, 4.0), sharex=True, sharey=True)
    for axis, harvesting in zip(axes, (False, True), strict=True):
        for curve in curves:
            if curve.harvesting != harvesting or not curve.points:
                continue
            points = [*curve.points, (_SPAN_H, curve.points[-1][1])]
            hours = [max(hour, 0.05) for hour, _ in points]
            level = [min(-math.log10(rate), _HIGHEST) for _, rate in points]
            axis.step(hours, level, where="post", label=curve.group, linewidth=1)
        axis.axhline(3.0, color="black", linewidth=0.8, linestyle="--")
        axis.set_xscale("log")
        axis.set_ylim(-0.1, _HIGHEST)
        axis.set_xlabel("hours since the first request")
        axis.set_title("harvesting accounts" if harvesting else "customers")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=6, ncol=2, frameon=False)
    axes[0].set_ylabel("evidence: -log10 of its false-alarm rate")
    return figure
