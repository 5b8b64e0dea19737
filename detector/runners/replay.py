"""Replay: files and stdin on log time, as fast as they can be read (contract 4)."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import msgspec

from detector.dead_letters import DeadLetter
from detector.events import EndOfInput, Event
from detector.formats import Format
from detector.runners.decoding import decoded
from detector.runners.inputs import Inputs, UnreadableInput
from detector.runners.labels import Group, Label, tally
from detector.runners.lines import LineSplitter
from detector.runners.outcomes import Outcomes
from responders.decisions import ACTIONS
from responders.feedback import BadFeedback, Feedback, decode_feedback

if TYPE_CHECKING:
    from detector.campaigns import Campaigns
    from detector.judge import AccountSummary, Judgement

__all__ = ["Replayed", "Runs", "read_events", "read_feedback", "replay"]


class Judged(Protocol):
    """What replay asks of the judge at the end."""

    @property
    def campaigns(self) -> Campaigns: ...
    def accounts(self) -> Iterator[tuple[str, AccountSummary]]: ...
    def promise(self) -> dict[str, Any]: ...


class Runs(Protocol):
    """What replay needs of `detector.runners.pipeline.Pipeline`."""

    @property
    def judge(self) -> Judged: ...
    def feed(self, events: Sequence[Event | EndOfInput]) -> Judgement: ...
    def command(self, feedback: Feedback) -> Feedback: ...
    def end(self) -> Judgement: ...
    def accounts(self) -> Iterator[tuple[str, int, int]]: ...


@dataclass
class Replayed:
    """What came of a replay."""

    summary: dict[str, Any]
    outcomes: Outcomes
    groups: list[Group] = field(default_factory=list)
    unreadable: str | None = None  # the input that could not be read to its end, and why


def replay(
    inputs: Inputs,
    out: Path,
    pipeline: Runs,
    log_format: Format,
    *,
    feedback: Iterable[Feedback] = (),
    labels: dict[str, Label] | None = None,
    progress: Callable[[int], None] = lambda read: None,
) -> Replayed:
    """Read the inputs through the pipeline and write the results of contract 4 into `out`.

    What was read before an input failed is judged and written as well; `unreadable` says which.

    Args:
        inputs: files and stdin, in order.
        out: the folder, made when it is not there; files of an earlier replay are replaced.
        pipeline: fresh.
        log_format: of every input.
        feedback: commands; those without a time hold from the start.
        labels: account to label; adds recall and false alarms by group to the summary.
        progress: told how many bytes of the inputs have been read.
    """
    started, read_at = time.perf_counter(), time.time()
    outcomes, unreadable = Outcomes(), None
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        decisions = _Lines(files.enter_context((out / "decisions.jsonl").open("wb")))
        verdicts = _Lines(files.enter_context((out / "verdicts.jsonl").open("wb")))
        letters = _Lines(files.enter_context((out / "dead-letters.jsonl").open("wb")))

        def take(judgement: Judgement) -> None:
            verdicts.write(judgement.verdicts)
            if judgement.decisions:
                outcomes.add(judgement.decisions)
                decisions.write(judgement.decisions)

        for command in sorted(feedback, key=lambda f: f.at if f.at is not None else 0.0):
            pipeline.command(command)
        try:
            for events in read_events(inputs, log_format, read_at, letters.add, progress):
                take(pipeline.feed(events))
        except UnreadableInput as error:
            unreadable = str(error)
        take(pipeline.end())
        dead_letters = letters.count
    with (out / "accounts.jsonl").open("wb") as file:
        accounts = _write_accounts(_Lines(file), pipeline, outcomes)
    with (out / "campaigns.jsonl").open("wb") as file:
        campaigns = _write_campaigns(_Lines(file), pipeline, outcomes)
    wall = time.perf_counter() - started
    count = sum(accounts.values())
    summary: dict[str, Any] = {
        "events": count,
        "accounts": len(accounts),
        "dead_letters": dead_letters,
        "wall_seconds": round(wall, 3),
        "events_per_second": round(count / wall, 1) if wall else 0.0,
        "decisions": outcomes.decisions,
        "enforced_accounts": len(outcomes.enforced),
        "campaigns": campaigns,
        "promise": pipeline.judge.promise(),
    }
    groups: list[Group] = []
    if labels is not None:
        groups, summary["labels"] = tally(labels, accounts, outcomes.enforced)
    if unreadable is not None:
        summary["unreadable"] = unreadable
    encoded = msgspec.json.format(msgspec.json.encode(summary))
    (out / "summary.json").write_bytes(encoded + b"\n")
    return Replayed(summary, outcomes, groups, unreadable)


def read_feedback(file: Path) -> list[Feedback]:
    """Commands, one JSON object a line.

    Raises:
        BadFeedback: a line is not a command, or the file cannot be read.
    """
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise BadFeedback(f"{file}: {error.strerror}") from None
    commands = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                commands.append(decode_feedback(line))
            except BadFeedback as error:
                raise BadFeedback(f"{file}:{number}: {error}") from None
    return commands


def read_events(
    inputs: Inputs,
    log_format: Format,
    read_at: float,
    refuse: Callable[[DeadLetter], None],
    progress: Callable[[int], None],
) -> Iterator[list[Event | EndOfInput]]:
    """The events of all inputs, in batches; what cannot be decoded is given to `refuse`.

    Raises:
        UnreadableInput: an input's bytes end in an error.
    """
    # Events live for one batch and hold no cycles: the collector would only walk the state.
    collecting = gc.isenabled()
    gc.disable()
    try:
        for name, chunks in inputs:
            splitter = LineSplitter(name)
            for chunk in chunks:
                for batch in splitter.feed(chunk):
                    yield from decoded(batch, log_format, read_at, refuse)
                progress(inputs.read)
            for batch in splitter.finish():
                yield from decoded(batch, log_format, read_at, refuse)
    finally:
        if collecting:
            gc.enable()


def _write_accounts(lines: _Lines, pipeline: Runs, outcomes: Outcomes) -> dict[str, int]:
    """Account to its requests, in the order of names."""
    summaries = dict(pipeline.judge.accounts())
    campaigns = _campaign_of(pipeline)
    requests = {name: count for name, count, _ in sorted(pipeline.accounts())}
    for name, count in requests.items():
        summary, outcome = summaries.get(name), outcomes.accounts.get(name)
        lines.write(
            [
                {
                    "account": name,
                    "events": count,
                    "blocks": summary.blocks if summary else 0,
                    "score": summary.score if summary else None,
                    "e_value": max(
                        summary.e_value if summary else 0.0, outcome.e_value if outcome else 0.0
                    ),
                    "action": outcome.action if outcome else None,
                    "first_enforced_at": outcome.first_enforced_at if outcome else None,
                    "events_before_enforcement": (
                        outcome.events_before_enforcement if outcome else None
                    ),
                    "campaign": campaigns.get(name, outcome.campaign if outcome else None),
                }
            ]
        )
    return requests


def _write_campaigns(lines: _Lines, pipeline: Runs, outcomes: Outcomes) -> int:
    """One line per campaign that stands at the end; a member's decisions count for it."""
    summaries = dict(pipeline.judge.accounts())
    for name, members in sorted(pipeline.judge.campaigns.all().items()):
        found = [outcomes.accounts[member] for member in members if member in outcomes.accounts]
        enforced = [o.first_enforced_at for o in found if o.first_enforced_at is not None]
        values = [summaries[member].e_value for member in members if member in summaries]
        lines.write(
            [
                {
                    "campaign": name,
                    "members": sorted(members),
                    "e_value": max([*values, *(o.e_value for o in found)], default=0.0),
                    "action": max((o.action for o in found), key=ACTIONS.index, default=None),
                    "first_enforced_at": min(enforced, default=None),
                }
            ]
        )
    return lines.count


def _campaign_of(pipeline: Runs) -> dict[str, str]:
    campaigns = pipeline.judge.campaigns.all()
    return {member: name for name, members in campaigns.items() for member in members}


class _Lines:
    """JSON lines into an open file."""

    def __init__(self, file: BinaryIO) -> None:
        self.count = 0
        self._file = file
        self._encoder = msgspec.json.Encoder()

    def add(self, item: Any) -> None:
        self.write((item,))

    def write(self, items: Sequence[Any]) -> None:
        self.count += len(items)
        for item in items:
            self._file.write(self._encoder.encode(item) + b"\n")
