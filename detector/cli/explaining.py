"""How `explain` shows an account and a campaign: sums that the reader can check."""

from __future__ import annotations

import math
import statistics
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from detector.cli.options import plain, print_table

if TYPE_CHECKING:
    from responders.decisions import Decision, Evidence

__all__ = ["action", "fields", "moment", "print_account", "print_campaign"]


def print_account(history: list[Decision], mode: str | None) -> None:
    """The last decision, what its evidence is made of, and the decisions before.

    Args:
        history: of one (scope, value), oldest first; not empty.
        mode: of the deployment; None for a replay.
    """
    last = history[-1]
    for name, shown in fields(last):
        typer.echo(f"{name:<12}{plain(shown)}")
    if mode is not None:
        typer.echo(f"{'deployment':<12}mode {mode}")
    evidence = next((d.evidence for d in reversed(history) if d.evidence is not None), None)
    if evidence is not None:
        _print_evidence(evidence)
    typer.echo()
    print_table(
        ("decided at", "what", "mode", "until", "requests", "why"),
        [
            (
                moment(decision.issued_at),
                action(decision),
                decision.mode,
                moment(decision.expires_at),
                str(decision.n_events),
                decision.reason.text,
            )
            for decision in history[-20:]
        ],
    )


def print_campaign(campaign: str, members: list[Decision]) -> None:
    """Its members that were decided about, what ties them, and what their evidence is made of.

    Args:
        campaign: its id.
        members: the last decision about each, with evidence; not empty.
    """
    found = [decision.evidence for decision in members if decision.evidence is not None]
    values = [e.log_odds for e in found if e.log_odds is not None]
    typer.echo(f"{'campaign':<12}{plain(campaign)}")
    typer.echo(f"{'members':<12}{len(members)} that were decided about")
    since = min(decision.issued_at for decision in members)
    typer.echo(f"{'decided':<12}from {moment(since)} on")
    if values:
        typer.echo(
            f"{'evidence':<12}log-odds {min(values):.2f} to {max(values):.2f}, "
            f"mean {statistics.fmean(values):.2f}"
        )
    tied: dict[str, list[tuple[float, int]]] = {}
    for evidence in found:
        for tie in evidence.ties:
            tied.setdefault(tie.plane, []).append((tie.weight, tie.members))
    if tied:
        whole = math.fsum(weight for ties in tied.values() for weight, _ in ties)
        typer.echo()
        print_table(
            ("tied by", "members tied", "share of the ties", "each with, up to"),
            [
                (
                    plane,
                    str(len(ties)),
                    f"{math.fsum(weight for weight, _ in ties) / whole:.0%}" if whole else "-",
                    f"{max(others for _, others in ties)} others",
                )
                for plane, ties in sorted(
                    tied.items(), key=lambda item: -math.fsum(w for w, _ in item[1])
                )
            ],
        )
    _print_mean(found)
    typer.echo()
    print_table(
        ("member", "what", "since", "requests", "log-odds", "strongest signal"),
        [
            (
                decision.value,
                action(decision),
                moment(decision.issued_at),
                str(decision.n_events),
                "-"
                if decision.evidence is None or decision.evidence.log_odds is None
                else f"{decision.evidence.log_odds:.2f}",
                decision.evidence.signals[0].text
                if decision.evidence is not None and decision.evidence.signals
                else "",
            )
            for decision in members
        ],
    )


def _print_evidence(evidence: Evidence) -> None:
    typer.echo(
        f"{'evidence':<12}e-value {evidence.e_value:,.1f}: among customers a bet against "
        "them wins this much with a probability of at most 1 in as many"
    )
    if evidence.false_per_1000_week is not None:
        how = "counted among" if evidence.counted else "modelled beyond"
        typer.echo(
            f"{'promise':<12}{evidence.false_per_1000_week:.3g} of 1,000 customers reach this in a "
            f"week, {how} those of the reference"
        )
    for tie in evidence.ties:
        typer.echo(f"{'tied by':<12}{tie.plane}, with {tie.members} other members")
    if not evidence.signals:
        return
    rows = [
        (
            signal.name,
            f"{signal.value:.4g}",
            f"{signal.typical[0]:.4g} to {signal.typical[1]:.4g}",
            f"{signal.log_odds:+.2f}",
            f"{signal.weight:.0%}",
            signal.text,
        )
        for signal in sorted(evidence.signals, key=lambda s: -abs(s.weight))
    ]
    if evidence.log_odds is not None and evidence.base is not None:
        start = "an account of which nothing is known"
        rows.append(("base", "", "", f"{evidence.base:+.2f}", "", start))
        rows.append(("evidence", "", "", f"{evidence.log_odds:+.2f}", "", "the sum: log-odds"))
    typer.echo()
    print_table(("signal", "here", "customers like it", "adds", "share", "what it means"), rows)


def _print_mean(found: list[Evidence]) -> None:
    """The mean of the members' sums, which is the sum of the means."""
    whole = [e for e in found if e.log_odds is not None and e.base is not None]
    if not whole:
        return
    added: dict[str, float] = {}
    words: dict[str, str] = {}
    for evidence in whole:
        for signal in evidence.signals:
            added[signal.name] = added.get(signal.name, 0.0) + signal.log_odds / len(whole)
            words[signal.name] = signal.text
    total = math.fsum(added.values())
    rows = [
        (name, f"{part:+.2f}", f"{part / total:.0%}" if total else "-", words[name])
        for name, part in sorted(added.items(), key=lambda item: (-item[1], item[0]))
    ]
    base = statistics.fmean(e.base for e in whole if e.base is not None)
    mean = statistics.fmean(e.log_odds for e in whole if e.log_odds is not None)
    rows.append(("base", f"{base:+.2f}", "", "an account of which nothing is known"))
    rows.append(("evidence", f"{mean:+.2f}", "", "the sum: mean log-odds of the members"))
    typer.echo()
    print_table(("signal", "adds", "share", "what it means"), rows)


def fields(decision: Decision) -> list[tuple[str, str]]:
    """Name and value of what there is to say about a decision."""
    technique = f" (MITRE ATLAS {decision.reason.technique})" if decision.reason.technique else ""
    return [
        (decision.scope, decision.value),
        ("decision", f"{action(decision)}, {decision.mode}"),
        ("why", decision.reason.text + technique),
        ("campaign", decision.campaign or "none"),
        ("since", f"{moment(decision.issued_at)}, after {decision.n_events} requests"),
        ("until", moment(decision.expires_at)),
        ("id", f"{decision.id}, version {decision.version}"),
        ("measured by", f"{decision.scorer or '-'}, baseline {decision.baseline or '-'}"),
    ]


def action(decision: Decision) -> str:
    """With its level, where that says something."""
    return f"throttle {decision.level}" if decision.action == "throttle" else decision.action


def moment(seconds_: float) -> str:
    """Unix seconds as UTC."""
    return datetime.fromtimestamp(seconds_, UTC).strftime("%Y-%m-%d %H:%M:%S")
