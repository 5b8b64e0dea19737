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
from responders.feedback import BadFeedback, Feedback, decode_feedback

if TYPE_CHECKING:
    from detector.judge import Judgement

__all__ = ["Replayed", "Runs", "read_feedback", "replay"]


class Runs(Protocol):
    """What replay needs of `detector.runners.pipeline.Pipeline`."""

    def feed(self, events: Sequence[Event | EndOfInput]) -> Judgement: ...
    def command(self, feedback: Feedback) -> Feedback: ...
    def end(self) -> Judgement: ...
    def accounts(self) -> Iterable[Any]: ...
    def campaigns(self) -> Iterable[Any]: ...
    def promise(self) -> dict[str, Any]: ...


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
        letters = _Lines(files.enter_context((out / "dead-letters.jsonl").open("wb")))

        def take(judgement: Judgement) -> None:
            if judgement.decisions:
                outcomes.add(judgement.decisions)
                decisions.write(judgement.decisions)

        for command in sorted(feedback, key=lambda f: f.at if f.at is not None else 0.0):
            pipeline.command(command)
        try:
            for events in _events(inputs, log_format, read_at, letters, progress):
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
        "promise": pipeline.promise(),
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


def _events(
    inputs: Inputs,
    log_format: Format,
    read_at: float,
    letters: _Lines,
    progress: Callable[[int], None],
) -> Iterator[list[Event | EndOfInput]]:
    def refuse(letter: DeadLetter) -> None:
        letters.write([letter])

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
    """Account to its events, in the order of names."""
    events: dict[str, int] = {}
    for standing in sorted(pipeline.accounts(), key=lambda standing: str(standing.account)):
        events[standing.account] = standing.events
        outcome = outcomes.accounts.get(standing.account)
        lines.write(
            [
                {
                    "account": standing.account,
                    "events": standing.events,
                    "blocks": standing.blocks,
                    "score": standing.score,
                    "e_value": max(standing.e_value, outcome.e_value if outcome else 0.0),
                    "action": outcome.action if outcome else None,
                    "first_enforced_at": outcome.first_enforced_at if outcome else None,
                    "events_before_enforcement": (
                        outcome.events_before_enforcement if outcome else None
                    ),
                    "campaign": standing.campaign or (outcome.campaign if outcome else None),
                }
            ]
        )
    return events


def _write_campaigns(lines: _Lines, pipeline: Runs, outcomes: Outcomes) -> int:
    standings = {standing.campaign: standing for standing in pipeline.campaigns()}
    for name in sorted(standings.keys() | outcomes.campaigns.keys()):
        standing, outcome = standings.get(name), outcomes.campaigns.get(name)
        members = set(standing.members) if standing else set()
        lines.write(
            [
                {
                    "campaign": name,
                    "members": sorted(members | (outcome.members if outcome else set())),
                    "e_value": max(
                        standing.e_value if standing else 0.0, outcome.e_value if outcome else 0.0
                    ),
                    "action": outcome.action if outcome else None,
                    "first_enforced_at": outcome.first_enforced_at if outcome else None,
                }
            ]
        )
    return lines.count


class _Lines:
    """JSON lines into an open file."""

    def __init__(self, file: BinaryIO) -> None:
        self.count = 0
        self._file = file
        self._encoder = msgspec.json.Encoder()

    def write(self, items: Sequence[Any]) -> None:
        self.count += len(items)
        for item in items:
            self._file.write(self._encoder.encode(item) + b"\n")
