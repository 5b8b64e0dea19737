"""Demo: a log played at speed into `serve`, and what the terminal tells of it.

Everything lives in one folder that the caller throws away. Decisions are enforced there, so that
the verdict API answers as it would in production; nothing outside the demo reads them.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Final, Protocol

from detector import formats
from detector.baseline import Baseline
from detector.events import EndOfInput, Event, encode
from detector.formats import Format
from detector.judge import Judgement
from detector.runners import engine
from detector.runners.calibrate import NothingToLearn, calibrate
from detector.runners.inputs import Inputs
from detector.runners.labels import Group, Label, read_labels, tally
from detector.runners.lines import LineBatch
from detector.runners.outcomes import AccountOutcome, Outcomes
from detector.runners.pipeline import Pipeline
from detector.runners.replay import read_events
from detector.runners.serve import Service
from detector.runners.sources import Paced
from detector.sample import Sample
from detector.sample.clocks import DAY_S
from detector.sample.files import Written, write_day
from detector.settings import Settings
from responders.decisions import Decision, is_enforcement
from responders.feedback import Feedback
from responders.settings import AlertSettings

__all__ = ["Caught", "Demo", "Play", "free_port", "play_of_log", "play_of_sample"]

_MOST_BYTES: Final = 256 << 20  # of a reader's own log, in memory while it is played
_COMPILES: Final = "the first run on a machine compiles its kernels now; later runs do not wait"
_END_LINE: Final = b'{"control":"end"}\n'
Say = Callable[[str], None]


@dataclass(frozen=True)
class Play:
    """A log that can be played, and what is known about it.

    Attributes:
        log: native JSON lines that end with an `end` record.
        first_ts, last_ts: Unix seconds, of its first and last event.
        events: how many there are.
        baseline: made of an earlier part of the same API's traffic; None is the shipped one.
        about: one sentence on what the baseline is.
        labels: who harvests, where that is known.
        cut: the log was longer than what is played.
    """

    log: Path
    first_ts: float
    last_ts: float
    events: int
    baseline: Path | None
    about: str
    labels: dict[str, Label] | None = None
    cut: bool = False


class Runs(engine.Runs, Protocol):
    """What a demo needs of `detector.runners.pipeline.Pipeline`."""

    def accounts(self) -> Iterator[tuple[str, int, int]]: ...


@dataclass
class Caught:
    """An account that is being enforced."""

    decision: Decision  # the last one
    first: Decision  # the first that touched it


@dataclass
class _Progress:
    events: int = 0
    ended_at: float | None = None  # monotonic: when the `end` record was fed
    saved: bool = False  # and what came of it was exported for the commit that follows


class Demo:
    """One play into one service.

    Args:
        play: what to play.
        folder: where the state goes.
        settings: measure and judge as they are; mode, state and API are the demo's own.
        seconds: how long the play lasts, if the machine keeps up.
        port: of the API.
        pipeline: makes the pipeline from the settings and the baseline.
    """

    def __init__(
        self,
        play: Play,
        folder: Path,
        settings: Settings,
        *,
        seconds: float,
        port: int,
        pipeline: Callable[[Settings, Baseline | None], Runs] = Pipeline,
    ) -> None:
        self.play = play
        self.settings = _own(settings, play, folder, port)
        self.speed = max(1.0, (play.last_ts - play.first_ts) / seconds)
        self.url = ""
        self.outcomes = Outcomes()
        self._caught: dict[str, Caught] = {}
        self.finished = threading.Event()  # all was read, judged, and is in force
        self._began: float | None = None
        self._progress = _Progress()
        self._source = _Played(play.log, self.speed, self._progress, self.finished)
        self._accounts: Callable[[], list[str]] = list
        self._make = pipeline
        self._service = Service(
            self.settings,
            self._pipeline,
            sources=[self._source],
            clock=self.clock,
            committed=self._commit,
        )

    async def run(self, listening: Callable[[], None] = lambda: None) -> None:
        """Play, and answer until `stop` or a signal. Raises CannotServe."""

        def answers(url: str) -> None:
            self.url = url
            self._began = time.monotonic()
            listening()

        await self._service.serve(answers)

    def stop(self) -> None:
        """End the service; from the event loop's thread."""
        self._service.stop()

    def clock(self) -> float:
        """The log's time, Unix seconds; it stands still at the log's end."""
        return min(self._source.now(), self.play.last_ts)

    @property
    def events(self) -> int:
        """Events fed so far."""
        return self._progress.events

    @property
    def seconds(self) -> float:
        """How long it has been playing, or played."""
        if self._began is None:
            return 0.0
        return (self._progress.ended_at or time.monotonic()) - self._began

    def caught(self) -> list[Caught]:
        """The accounts that were enforced so far, in the order in which they were caught."""
        # A copy in one step: the engine's thread adds to it.
        return list(self._caught.values())

    def campaigns(self) -> dict[str, list[str]]:
        """Campaign → the enforced accounts that its decisions name."""
        members: dict[str, list[str]] = {}
        for caught in self.caught():
            if caught.decision.campaign is not None:
                members.setdefault(caught.decision.campaign, []).append(caught.decision.value)
        return members

    def live(self) -> Caught | None:
        """An account that the API refuses at this moment: the one whose decision lasts longest."""
        now = self.clock()
        return max(
            (c for c in self.caught() if c.decision.expires_at > now),
            key=lambda c: c.decision.expires_at,
            default=None,
        )

    def groups(self) -> list[Group]:
        """Caught by group, by the labels; without labels an empty list. Once it has finished."""
        if self.play.labels is None:
            return []
        return tally(self.play.labels, self._accounts(), self.outcomes.enforced)[0]

    def outcome(self, account: str) -> AccountOutcome:
        """What the decisions about an account came to."""
        return self.outcomes.accounts[account]

    def _pipeline(self, exported: bytes | None) -> _Counted:
        path = self.play.baseline
        pipeline = self._make(self.settings, None if path is None else Baseline.load(path))
        self._accounts = lambda: [name for name, _, _ in pipeline.accounts()]
        return _Counted(pipeline, self._progress)

    def _commit(self, decisions: Sequence[Decision]) -> None:
        self.outcomes.add(decisions)
        for decision in decisions:
            if decision.scope != "account" or not is_enforcement(decision.action):
                continue
            known = self._caught.get(decision.value)
            self._caught[decision.value] = Caught(decision, known.first if known else decision)


class _Played(Paced):
    """Knows when what it gave out last has been judged and committed.

    The engine polls only after it has fed and, if it was due, committed what came before.
    """

    def __init__(
        self, log: Path, speed: float, progress: _Progress, finished: threading.Event
    ) -> None:
        super().__init__(log, speed)
        self._progress = progress
        self._finished = finished

    def poll(self) -> list[LineBatch]:
        """See Source."""
        if self._progress.saved:
            self._finished.set()
        return super().poll()


class _Counted:
    """The pipeline, with what the play must know of it counted."""

    def __init__(self, pipeline: Runs, progress: _Progress) -> None:
        self._pipeline = pipeline
        self._progress = progress

    def feed(self, events: Sequence[Event | EndOfInput]) -> Judgement:
        judgement = self._pipeline.feed(events)
        ends = sum(isinstance(event, EndOfInput) for event in events)
        self._progress.events += len(events) - ends
        if ends:
            self._progress.ended_at = time.monotonic()
        return judgement

    def command(self, feedback: Feedback) -> Feedback:
        return self._pipeline.command(feedback)

    def silence(self) -> Judgement:
        return self._pipeline.silence()

    def end(self) -> Judgement:
        return self._pipeline.end()

    def export(self) -> bytes:
        self._progress.saved |= self._progress.ended_at is not None
        return self._pipeline.export()


def play_of_sample(sample: Sample, folder: Path, settings: Settings, say: Say) -> Play:
    """Day 1 of a sampled API, calibrated on its day 0."""
    say("making two days of an API's traffic: the first is clean, the second has thieves in it")
    # The second day is made by another process while this one makes and reads the first.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        second = process.submit(write_day, sample, 1, folder)
        first = write_day(sample, 0, folder)
        say(f"calibrating on the clean day: {first.events:,} events of {first.accounts} accounts")
        say(_COMPILES)
        baseline = _calibrated(first.log, folder, settings)
        written: Written = second.result()
    _close(written.log)
    return Play(
        written.log,
        written.first_ts,
        written.last_ts,
        written.events,
        baseline,
        "calibrated on the day before, which had no thief in it",
        read_labels(written.labels),
    )


def play_of_log(
    files: Sequence[Path],
    log_format: Format,
    folder: Path,
    settings: Settings,
    say: Say,
    baseline: Path | None = None,
) -> Play:
    """The reader's own log. Without `baseline`, a log of more than a day gives its first day.

    Raises:
        UnreadableInput: a file cannot be read.
        NothingToLearn: there is no event in it.
    """
    parts = [_Part(folder / "first-day.jsonl"), _Part(folder / "played.jsonl")]
    refused = 0

    def refuse(letter: object) -> None:
        nonlocal refused
        refused += 1

    say(f"reading {', '.join(str(file) for file in files)}")
    cut = False
    newest = -math.inf
    with parts[0].path.open("wb") as early, parts[1].path.open("wb") as late:
        out = (early, late)
        for events in read_events(
            Inputs(files), log_format, time.time(), refuse, lambda read: None
        ):
            for event in events:
                if isinstance(event, EndOfInput):
                    continue
                newest = max(newest, float(event.ts))
                which = baseline is None and newest >= parts[0].first + DAY_S
                parts[which].add(float(event.ts), out[which].write(encode(event) + b"\n"))
            if parts[0].size > _MOST_BYTES or parts[1].size > _MOST_BYTES:
                cut = True
                break
    if refused:
        say(f"{refused:,} records could not be read as {log_format.name} and were left out")
    history, played = parts
    if not history.events:
        raise NothingToLearn(f"there is no event in {', '.join(str(file) for file in files)}")
    if played.events:
        say(f"calibrating on the log's first day: {history.events:,} events")
        say(_COMPILES)
        own: Path | None = _calibrated(history.path, folder, settings)
        about = "calibrated on the log's own first day, taken to be clean"
    else:
        played, own = history, baseline
        about = (
            "on the shipped reference, corrected on the log as it goes: the log is of one day or "
            "less"
            if baseline is None
            else f"on {baseline}"
        )
    _close(played.path)
    return Play(
        played.path, played.first, played.last, played.events, own, about, labels=None, cut=cut
    )


def free_port(wanted: int) -> int:
    """The port, or 0 (any) when somebody listens there."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
    return wanted


@dataclass
class _Part:
    """A stretch of a log in a file of its own."""

    path: Path
    events: int = 0
    size: int = 0
    first: float = field(default=math.inf)
    last: float = field(default=-math.inf)

    def add(self, ts: float, size: int) -> None:
        self.events += 1
        self.size += size
        self.first = min(self.first, ts)
        self.last = max(self.last, ts)


def _calibrated(log: Path, folder: Path, settings: Settings) -> Path:
    path = folder / "baseline.json"
    native = formats.get("native", settings.formats)
    calibrate(Inputs([log]), Pipeline(settings, calibrating=True), native).baseline.save(path)
    return path


def _close(log: Path) -> None:
    """The input ends here: idle blocks close, and every tick is judged."""
    with log.open("ab") as file:
        file.write(_END_LINE)


def _own(settings: Settings, play: Play, folder: Path, port: int) -> Settings:
    """The demo's settings: enforce in a state of its own, on loopback, and alert nobody."""
    return settings.model_copy(
        update={
            "policy": settings.policy.model_copy(update={"mode": "enforce"}),
            # A day of few customers is what there is to play with: it decides all the same.
            "judge": settings.judge.model_copy(
                update={"baseline": play.baseline, "baseline_customers": 1, "baseline_days": 0.0}
            ),
            "serve": settings.serve.model_copy(
                update={
                    "state": folder / "velvetrope.db",
                    "files": (),
                    "format": "native",
                    "checkpoint_every_s": 0.5,
                }
            ),
            "api": settings.api.model_copy(
                update={"host": "127.0.0.1", "port": port, "secret": None}
            ),
            "alerts": AlertSettings(log=False),
        }
    )
