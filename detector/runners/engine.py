"""Serve's one worker: reads the sources, runs the pipeline, commits all of it as one.

Nothing that the pipeline decided is visible to a gateway before the transaction that also holds
the positions it read to, the inbox's rest and the pipeline's state. So a kill at any moment loses
nothing and repeats nothing: the next start reads on from the same moment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from detector.dead_letters import DeadLetter
from detector.events import EndOfInput, Event
from detector.formats import Format
from detector.runners.decoding import decoded
from detector.runners.ledger import Ledger, Posted
from detector.runners.lines import LineBatch
from detector.runners.sources import Source
from detector.settings import ServeSettings
from responders.alerts.ocsf import Alert
from responders.alerts.sink import AlertSink
from responders.allowlist import AllowEntry
from responders.decisions import Decision
from responders.feedback import Allow, Disallow, Feedback, SetMode
from responders.stores.base import StoreUnavailable
from responders.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from detector.judge import Judgement

__all__ = ["Engine", "Runs"]

_log: Final = logging.getLogger("velvetrope.serve")
_EVENTS_PER_SLICE: Final = 1_000  # a slice holds the interpreter for some 10 ms
_SOONEST_S: Final = 0.2  # a decision waits at least this long for others to be committed with it
_SOON_S: Final = 0.01  # until a source that is not at its end has something again
_EXPORT_SHARE: Final = 0.1  # of the time, at most, goes into checkpoints
_BACKOFF_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
_TRIES_WHEN_STOPPING: Final = 3


class Runs(Protocol):
    """What serve needs of `detector.runners.pipeline.Pipeline`."""

    def feed(self, events: Sequence[Event | EndOfInput]) -> Judgement: ...
    def command(self, feedback: Feedback) -> Feedback: ...
    def silence(self) -> Judgement: ...
    def end(self) -> Judgement: ...
    def export(self) -> bytes: ...


class Engine:
    """Runs in a thread of its own; `wake` and `stop` may be called from any other."""

    def __init__(
        self,
        pipeline: Runs,
        store: SqliteStore,
        ledger: Ledger,
        sources: Sequence[Source],
        log_format: Format,
        formats: Mapping[str, Format],
        settings: ServeSettings,
        *,
        once: bool = False,
        sinks: Sequence[AlertSink] = (),
        committed: Callable[[Sequence[Decision]], None] = lambda decisions: None,
    ) -> None:
        self._pipeline = pipeline
        self._store = store
        self._ledger = ledger
        self._sources = sources
        self._log_format = log_format
        self._formats = formats  # of what is posted
        self._settings = settings
        self._once = once
        self._sinks = sinks
        self._committed = committed
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self.trouble: str | None = None  # why nothing can be committed at the moment
        self.events = 0
        # Part of the next checkpoint:
        self._decisions: list[Decision] = []
        self._alerts: list[Alert] = []
        self._letters: list[DeadLetter] = []
        self._journal: list[tuple[int, Feedback]] = []
        self._inbox_seq = 0
        self._inbox_records = 0
        self._said_seq = 0
        self._dirty = False
        self._last_commit = self._last_silence = time.monotonic()
        self._commit_took = 0.0
        self._sent_seq = 0
        self.taken_out: Callable[[int], None] = lambda records: None

    def stop(self) -> None:
        """End after the slice at hand, with a checkpoint."""
        self._stopping.set()
        self._wake.set()

    def wake(self) -> None:
        """There may be something new."""
        self._wake.set()

    def run(self) -> None:
        """Until `stop`, or with `once` until every source has ended.

        Raises:
            StoreUnavailable: the last checkpoint could not be written; what it would have held
                will be read again at the next start.
        """
        self._send()  # what the last run committed and could not hand to the sinks any more
        while not self._stopping.is_set():
            self._wake.clear()
            if self._read_once():
                continue
            if all(source.at_end for source in self._sources):
                if self._once:
                    self._end()
                    break
                self._silence_if_due()
                self._checkpoint_if_due()
                self._wake.wait(self._settings.poll_every_s)
            else:
                self._checkpoint_if_due()
                self._wake.wait(_SOON_S)
        self._checkpoint()
        for source in self._sources:
            source.close()

    def _read_once(self) -> bool:
        """Look at every source once; whether there was anything."""
        found = self._commands()
        for source in self._sources:
            for batch in source.poll():
                found = True
                self._lines(batch)
            # Between polls the source's position is that of what was fed.
            self._checkpoint_if_due()
            if self._stopping.is_set():
                return True
        for post in self._ledger.posted(self._inbox_seq):
            found = True
            self._post(post)
            self._checkpoint_if_due()
            if self._stopping.is_set():
                return True
        return found

    def _lines(self, batch: LineBatch) -> None:
        now = time.time()
        for events in decoded(
            batch, self._log_format, now, self._letters.append, _EVENTS_PER_SLICE
        ):
            self._feed(events)
        self._dirty = True

    def _post(self, post: Posted) -> None:
        records = post.records
        log_format = self._formats[post.format]
        for first in range(0, len(records), _EVENTS_PER_SLICE):
            # Refused records were told to the sender, and buried, when they were posted.
            events, _ = log_format.decode_lines(
                records[first : first + _EVENTS_PER_SLICE], post.read_at
            )
            self._feed(events)
        self._inbox_seq = post.seq
        self._inbox_records += len(records)
        self._dirty = True

    def _feed(self, events: list[Event | EndOfInput]) -> None:
        if events:
            self.events += len(events)
            self._take(self._pipeline.feed(events))

    def _take(self, judgement: Judgement) -> None:
        self._decisions += judgement.decisions
        self._alerts += judgement.alerts

    def _commands(self) -> bool:
        said = self._ledger.said(self._said_seq)
        for entry in said:
            self._journal.append((entry.seq, self._pipeline.command(entry.feedback)))
            self._said_seq = entry.seq
            self._dirty = True
        if said:
            # The kill switch and the allowlist hold at once, whatever the log's time does.
            self._checkpoint()
        return bool(said)

    def _silence_if_due(self) -> None:
        """Say that everything was read, so that partitions without traffic hold no tick back."""
        now = time.monotonic()
        if now - self._last_silence >= self._settings.silence_after_s:
            self._last_silence = now
            judgement = self._pipeline.silence()
            self._take(judgement)
            self._dirty |= bool(judgement.decisions or judgement.alerts)

    def _end(self) -> None:
        for source in self._sources:
            for batch in source.finish():
                self._lines(batch)
        self._take(self._pipeline.end())
        self._dirty = True

    # Checkpoints

    def _checkpoint_if_due(self) -> None:
        if not self._dirty:
            return
        wait = _SOONEST_S if self._decisions else self._settings.checkpoint_every_s
        # A state that takes long to write is written less often.
        wait = max(wait, self._commit_took / _EXPORT_SHARE)
        if time.monotonic() - self._last_commit >= wait:
            self._checkpoint()

    def _checkpoint(self) -> None:
        if not self._dirty:
            return
        began = time.monotonic()
        state = self._pipeline.export()
        tries = 0
        while True:
            try:
                self._commit(state)
                break
            except StoreUnavailable as error:
                pause = _BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)]
                tries += 1
                self.trouble = str(error)
                if self._stopping.is_set() and tries >= _TRIES_WHEN_STOPPING:
                    raise
                _log.error(
                    "%s; nothing is lost: reading waits, the verdict API goes on, trying again in "
                    "%g s",
                    error,
                    pause,
                )
                self._stopping.wait(pause)
        if tries:
            _log.warning("the state can be written again after %d tries", tries + 1)
        self.trouble = None
        decisions, alerts = self._decisions, self._alerts
        records = self._inbox_records
        self._decisions, self._alerts, self._letters, self._journal = [], [], [], []
        self._inbox_records = 0
        self._dirty = False
        self._last_commit = time.monotonic()
        self._commit_took = self._last_commit - began if not tries else 0.0
        self.taken_out(records)
        if alerts:
            self._send()
        if decisions:
            self._committed(decisions)

    def _send(self) -> None:
        alerts, seq = self._ledger.unsent()
        if seq > self._sent_seq:
            for sink in self._sinks:
                sink.emit(alerts)
            self._sent_seq = seq

    def _commit(self, state: bytes) -> None:
        with self._store.transaction() as db:
            self._store.apply(self._decisions)
            self._store.keep_alerts(self._alerts)
            self._ledger.sent(db, self._sent_seq)
            self._ledger.send(db, self._alerts)
            for _, feedback in self._journal:
                if feedback.at is None:
                    self._apply_at_once(feedback)
            for seq, feedback in self._journal:
                self._ledger.journal(db, seq, feedback)
            self._ledger.bury(db, self._letters, self._settings.dead_letters_kept)
            self._ledger.take_out(db, self._inbox_seq)
            for source in self._sources:
                position = source.position()
                if position is not None:
                    self._ledger.set_position(db, source.name, position)
            self._ledger.set_value(db, "pipeline", state)

    def _apply_at_once(self, feedback: Feedback) -> None:
        if isinstance(feedback, SetMode):
            self._store.set_mode(feedback.mode)
        elif isinstance(feedback, Allow):
            self._store.allow(
                AllowEntry(
                    scope=feedback.scope,
                    value=feedback.value,
                    reason=feedback.reason,
                    by=feedback.by,
                    expires_at=feedback.expires_at,
                )
            )
        elif isinstance(feedback, Disallow):
            self._store.disallow(feedback.scope, feedback.value)
