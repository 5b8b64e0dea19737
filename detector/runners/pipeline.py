"""All partitions and the judge in one process, as replay and serve run them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from detector.baseline import Baseline
from detector.blocks import Block
from detector.events import EndOfInput, Event
from detector.judge import Judge, Judgement, Models
from detector.measure import PartitionMeasure
from detector.partition import partition_of
from detector.settings import Settings
from detector.state import pack, unpack
from responders.feedback import Feedback

__all__ = ["Pipeline", "judge_in"]

_VERSION = 1


class Pipeline:
    """Events in, decisions and alerts out. Pure, as measure and judge are."""

    def __init__(
        self,
        settings: Settings,
        baseline: Baseline | None = None,
        *,
        models: Models | None = None,
        calibrating: bool = False,
    ) -> None:
        self.settings = settings
        self.judge = Judge(settings, baseline, models=models, calibrating=calibrating)
        self.measures = [
            PartitionMeasure(partition, settings.measure)
            for partition in range(settings.measure.partitions)
        ]
        self._heard: set[int] = set()  # partitions with events since the last `silence`
        # The last full export of the judge and of each partition, that changes count from.
        self._full: list[bytes] = []
        self._full_size = 0

    def feed(self, events: Sequence[Event | EndOfInput]) -> Judgement:
        """Take events in the order of the log; decisions and alerts of the ticks that passed."""
        partitions = self.settings.measure.partitions
        parts: list[list[Event]] = [[] for _ in range(partitions)]
        judgement = Judgement()
        for event in events:
            if isinstance(event, EndOfInput):
                self._measure(parts)
                parts = [[] for _ in range(partitions)]
                judgement.extend(self.end())
            else:
                parts[partition_of(event.account, partitions)].append(event)
        self._measure(parts)
        judgement.extend(self.judge.advance())
        return judgement

    def command(self, feedback: Feedback) -> Feedback:
        """Take a command in: see `Judge.command`."""
        return self.judge.command(feedback)

    def silence(self) -> Judgement:
        """Everything there is was read; called about once a second while that is so.

        Partitions without an event since the last call hold no tick back until they have one: in
        a small deployment some never have any, however busy the others are.
        """
        for partition in range(len(self.measures)):
            if partition not in self._heard:
                self.judge.silence(partition)
        self._heard.clear()
        return self.judge.advance()

    def end(self) -> Judgement:
        """The input has ended: close idle blocks and all ticks."""
        for partition, measure in enumerate(self.measures):
            self.judge.blocks(partition, measure.end(), measure.watermark)
        for partition in range(len(self.measures)):
            self.judge.end(partition)
        return self.judge.advance()

    def accounts(self) -> Iterator[tuple[str, int, int]]:
        """Every account with its requests and, of these, the served ones; by partition."""
        for measure in self.measures:
            yield from measure.accounts()

    def export(self) -> bytes:
        """The whole state, packed: the last full one and what changed since, or a full one anew."""
        changes = [measure.export_changes() for measure in self.measures] if self._full else []
        if self._full:
            changes.append(self.judge.export_changes())
        # Past half of the full state, changes cost more to write each time than a new full one.
        if not self._full or 2 * sum(map(len, changes)) > self._full_size:
            self._full = [measure.export() for measure in self.measures]
            self._full.append(self.judge.export())
            self._full_size = sum(map(len, self._full))
            changes = []
        return pack("pipeline", _VERSION, {"full": self._full, "changes": changes})

    @classmethod
    def restore(
        cls,
        settings: Settings,
        baseline: Baseline | None,
        packed: bytes,
        *,
        models: Models | None = None,
    ) -> Pipeline:
        """A pipeline that goes on where `export` left off.

        Raises:
            StateMismatch: the state is damaged, of another version, or of other settings.
        """
        state = unpack("pipeline", _VERSION, packed)
        full, changes = state["full"], state["changes"] or [None] * len(state["full"])
        pipeline = cls(settings, baseline, models=models)
        pipeline.judge = Judge.restore(settings, baseline, full[-1], changes[-1], models=models)
        pipeline.measures = [
            PartitionMeasure.restore(partition, settings.measure, whole, change)
            for partition, (whole, change) in enumerate(zip(full[:-1], changes[:-1], strict=True))
        ]
        # Whoever was silent before may have sent something meanwhile that is not yet read.
        for partition, measure in enumerate(pipeline.measures):
            pipeline.judge.blocks(partition, (), measure.watermark)
        return pipeline

    def _measure(self, parts: Sequence[Sequence[Event]]) -> None:
        for partition, events in enumerate(parts):
            if events:
                self._heard.add(partition)
                blocks: list[Block] = self.measures[partition].feed(events)
                self.judge.blocks(partition, blocks, self.measures[partition].watermark)


def judge_in(packed: bytes) -> bytes:
    """The judge's part of what `Pipeline.export` gave, the newest.

    Raises:
        StateMismatch: the state is damaged, or of another version.
    """
    state = unpack("pipeline", _VERSION, packed)
    newest: bytes = (state["changes"] or state["full"])[-1]
    return newest
