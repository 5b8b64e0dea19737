"""What another policy would have decided: against a log, or against a replay's verdicts.

A log is read once, through a pipeline for each policy. A replay's `verdicts.jsonl` holds every
verdict with the thresholds of its tick, so both policies decide on them at once; only thresholds
must be the same, since they are what the verdicts were drawn up for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Final

import msgspec

from detector.dead_letters import DeadLetter
from detector.formats import Format
from detector.judge import Judged
from detector.runners.inputs import Inputs
from detector.runners.labels import Label
from detector.runners.outcomes import AccountOutcome, Outcomes
from detector.runners.replay import Runs, read_events
from responders.decisions import is_enforcement
from responders.feedback import Feedback
from responders.policy import Policy
from responders.settings import PolicySettings

__all__ = ["BadResults", "Compared", "Touched", "compare_log", "compare_results", "strongest_first"]

_NONE: Final = "allow"


class BadResults(ValueError):
    """A replay's results that cannot be decided on; the message says why."""


class _Counted(msgspec.Struct):
    """What is needed of a line of `accounts.jsonl`."""

    account: str
    events: int


class _Share(msgspec.Struct):
    nominal: float


class _Promise(msgspec.Struct):
    nominal_false_per_1000_week: dict[str, float]
    max_false_share: _Share


class _Summary(msgspec.Struct):
    """What is needed of `summary.json`: the thresholds that the verdicts were drawn up for."""

    promise: _Promise


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """One account that at least one of the policies would have enforced against.

    `requests` are all of its requests in the log, `current_after` and `new_after` how many of them
    came after the last block before it was first enforced against; `harvesting` is its label, if
    there are any.
    """

    account: str
    campaign: str | None
    harvesting: bool | None
    requests: int
    current: str
    new: str
    current_at: float | None
    new_at: float | None
    current_after: int
    new_after: int


@dataclass
class Compared:
    """Both policies' outcomes, and the accounts that one of them enforces against."""

    accounts: int
    requests: int
    current: Outcomes
    new: Outcomes
    touched: list[Touched] = field(default_factory=list)

    @property
    def newly(self) -> list[Touched]:
        """Accounts that only the new policy enforces against."""
        return [one for one in self.touched if one.new_at is not None and one.current_at is None]

    @property
    def no_longer(self) -> list[Touched]:
        """Accounts that only the current one enforces against."""
        return [one for one in self.touched if one.new_at is None]


def compare_log(
    inputs: Inputs,
    log_format: Format,
    current: Runs,
    new: Runs,
    *,
    feedback: Iterable[Feedback] = (),
    labels: dict[str, Label] | None = None,
    progress: Callable[[int], None] = lambda read: None,
) -> Compared:
    """Read a log through both, fresh, pipelines.

    Raises:
        UnreadableInput: an input's bytes end in an error.
    """
    for command in sorted(feedback, key=_holds_from):
        current.command(command)
        new.command(command)
    letters: list[DeadLetter] = []
    outcomes = Outcomes(), Outcomes()
    for events in read_events(inputs, log_format, time.time(), letters.append, progress):
        letters.clear()
        for pipeline, outcome in zip((current, new), outcomes, strict=True):
            outcome.add(pipeline.feed(events).decisions)
    for pipeline, outcome in zip((current, new), outcomes, strict=True):
        outcome.add(pipeline.end().decisions)
    requests = {name: count for name, count, _ in current.accounts()}
    return _compared(*outcomes, requests, labels)


def compare_results(
    folder: Path,
    current: PolicySettings,
    new: PolicySettings,
    *,
    feedback: Iterable[Feedback] = (),
    labels: dict[str, Label] | None = None,
) -> Compared:
    """Decide again on the verdicts that a replay wrote into `folder`.

    Raises:
        BadResults: they are not there, are damaged, or either policy's thresholds differ from those
            of the replay.
    """
    limits = len(new.rungs())
    judged = list(_read(folder / "verdicts.jsonl", Judged))
    if judged and judged[0].limits is not None:
        limits = len(judged[0].limits)
    ours, theirs = Policy(new).rungs, Policy(current).rungs
    known = [(r.action, r.level, r.false_per_1000_week) for r in theirs[:limits]]
    asked = [(r.action, r.level, r.false_per_1000_week) for r in ours]
    if asked != known[: len(asked)] or new.max_false_share != current.max_false_share:
        raise BadResults(
            "the new policy moves thresholds (ladder, false_per_1000_week, false_per_1000_week_of "
            "or max_false_share) or raises the ceiling: what would then be verdicts is not in the "
            "results of a replay; give the log itself"
        )
    promise = _promise(folder / "summary.json")
    nominal = promise.nominal_false_per_1000_week
    if promise.max_false_share.nominal != current.max_false_share or any(
        nominal.get(f"{action} {level}") != rate for action, level, rate in known
    ):
        raise BadResults(
            f"{folder}: the replay was under other thresholds than the current policy's: what the "
            "current one decides is not in its results; replay again, or give the log itself"
        )
    if any(after.at < before.at for before, after in pairwise(judged)):
        raise BadResults(f"{folder / 'verdicts.jsonl'}: times go backwards")
    requests = {row.account: row.events for row in _read(folder / "accounts.jsonl", _Counted)}
    commands = list(feedback)
    outcomes = [_decided(judged, policy, commands) for policy in (current, new)]
    return _compared(outcomes[0], outcomes[1], requests, labels)


def _decided(
    judged: Sequence[Judged], settings: PolicySettings, commands: Sequence[Feedback]
) -> Outcomes:
    policy, outcomes = Policy(settings), Outcomes()
    waiting = sorted(commands, key=_holds_from, reverse=True)

    def tick(at: float, verdicts: Sequence[Judged]) -> None:
        policy.expire(at)
        while waiting and _holds_from(waiting[-1]) <= at:
            policy.feedback(waiting.pop(), at)
        limits = verdicts[0].limits if verdicts else None
        # A lower ceiling has fewer rungs.
        limits = None if limits is None else limits[: len(policy.rungs)]
        said = [one.verdict for one in verdicts]
        outcomes.add(policy.decide(said, at, scorer="", baseline="", limits=limits))

    def due() -> float:
        return min(policy.next_due(), _holds_from(waiting[-1]) if waiting else math.inf)

    for at, group in groupby(judged, key=lambda one: one.at):
        while due() < at:
            tick(max(due(), 0.0), ())
        tick(at, list(group))
    while policy.waits:
        tick(policy.next_due(), ())
    return outcomes


def _holds_from(feedback: Feedback) -> float:
    return 0.0 if feedback.at is None else feedback.at


def _compared(
    current: Outcomes,
    new: Outcomes,
    requests: dict[str, int],
    labels: dict[str, Label] | None,
) -> Compared:
    compared = Compared(len(requests), sum(requests.values()), current, new)
    for account in sorted(current.enforced | new.enforced):
        before, after = current.accounts.get(account), new.accounts.get(account)
        count = requests.get(account, 0)
        label = None if labels is None else labels.get(account)
        campaigns = [found.campaign for found in (after, before) if found and found.campaign]
        compared.touched.append(
            Touched(
                account=account,
                campaign=campaigns[0] if campaigns else None,
                harvesting=None if label is None else label.harvesting,
                requests=count,
                current=_action(before),
                new=_action(after),
                current_at=before.first_enforced_at if before else None,
                new_at=after.first_enforced_at if after else None,
                current_after=_after(before, count),
                new_after=_after(after, count),
            )
        )
    return compared


def _action(outcome: AccountOutcome | None) -> str:
    return outcome.action if outcome and is_enforcement(outcome.action) else _NONE


def _after(outcome: AccountOutcome | None, requests: int) -> int:
    if outcome is None or outcome.events_before_enforcement is None:
        return 0
    return max(0, requests - outcome.events_before_enforcement)


def _promise(file: Path) -> _Promise:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Summary).promise
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadResults(f"{file}: {error}") from None
    except OSError as error:
        raise BadResults(f"{file}: {error.strerror}") from None


def _read(file: Path, kind: Any) -> Iterator[Any]:
    decoder = msgspec.json.Decoder(kind)
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise BadResults(f"{file}:{number}: {error}") from None
    except OSError as error:
        raise BadResults(f"{file}: {error.strerror}") from None


def strongest_first(touched: Iterable[Touched]) -> list[Touched]:
    """For reading: whom only the new policy touches first, then by their requests."""
    return sorted(
        touched,
        key=lambda t: (t.current_at is not None, -(t.new_after - t.current_after), t.account),
    )
