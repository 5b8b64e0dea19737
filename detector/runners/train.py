"""Train: an operator's labelled history becomes models of its own for text."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from detector.blocks import Block
from detector.dead_letters import DeadLetter
from detector.events import Event
from detector.evidence import MIN_EVENTS
from detector.formats import Format
from detector.measure import PartitionMeasure
from detector.partition import partition_of
from detector.runners.inputs import Inputs
from detector.runners.labels import Label
from detector.runners.replay import read_events
from detector.score import TextModels
from detector.settings import MeasureSettings
from detector.training import Week, caught, train
from responders.feedback import Allow, Clear, Feedback

__all__ = ["Trained", "labelled", "train_on"]

_CALIBRATES: Final = 2  # every second account teaches nothing: it sets thresholds and is counted


@dataclass(frozen=True)
class Trained:
    """The models, and what they do with accounts that taught them nothing."""

    models: TextModels
    events: int
    dead_letters: int
    accounts: dict[bool, int]  # harvesting → accounts that taught
    caught: dict[bool, tuple[int, int]]  # harvesting → (reached 1 in 1,000, all) of the others


def labelled(labels: Mapping[str, Label], verdicts: Iterable[Feedback]) -> dict[str, Label]:
    """Labels with what analysts said since: who was cleared or allowed is a customer."""
    known = dict(labels)
    for verdict in verdicts:
        if isinstance(verdict, Allow | Clear) and verdict.scope == "account":
            known[verdict.value] = Label(False, "cleared")
    return known


def train_on(
    inputs: Inputs,
    labels: Mapping[str, Label],
    log_format: Format,
    settings: MeasureSettings,
    name: str,
    *,
    others_are_customers: bool = False,
    workers: int = 1,
    progress: Callable[[int], None] = lambda read: None,
    told: Callable[[str], None] = lambda step: None,
) -> Trained:
    """Read the history and train on half of its accounts; the other half sets thresholds.

    Args:
        inputs: logs, in order.
        labels: account → what it is; the groups of harvesting ones are left out in turn.
        log_format: of the logs.
        settings: how events become blocks.
        name: of the models.
        others_are_customers: take accounts without a label for customers, instead of leaving
            them out.
        workers: processes.
        progress: told how many bytes of the inputs have been read.
        told: is told what is being done.

    Raises:
        UnreadableInput: an input could not be read to its end.
        TooLittle: there are too few labelled accounts.
    """
    letters: list[DeadLetter] = []
    measures = [PartitionMeasure(p, settings) for p in range(settings.partitions)]
    events = 0
    blocks: list[Block] = []
    for batch in read_events(inputs, log_format, time.time(), letters.append, progress):
        parts: list[list[Event]] = [[] for _ in measures]
        for event in batch:
            if isinstance(event, Event):
                parts[partition_of(event.account, len(parts))].append(event)
        for one, part in zip(measures, parts, strict=True):
            events += len(part)
            blocks += one.feed(part)
    for measure in measures:
        blocks += measure.end()
    customer = Label(False, "")
    known: dict[str, Label] = {}
    kept: list[Block] = []
    for block in sorted(blocks, key=lambda b: (b.time, b.id)):
        label = labels.get(block.account, customer if others_are_customers else None)
        if label is not None and block.kind == "text" and block.n >= MIN_EVENTS:
            known[block.account] = label
            kept.append(block)
    taught, held = (
        Week(
            [block for block in kept if _calibrates(block.account) == calibrates],
            {name: label.harvesting for name, label in known.items()},
            {name: label.group for name, label in known.items()},
        )
        for calibrates in (False, True)
    )
    models = train([taught], [held], name, workers=workers, told=told)
    counts = {True: 0, False: 0}
    for account in {block.account for block in taught.blocks}:
        counts[known[account].harvesting] += 1
    about = {
        "made_by": "velvetrope train",
        "events": events,
        "customers": counts[False],
        "harvesting": counts[True],
        "customers_in_reference": len(models.reference),
    }
    models = replace(models, about=about)
    told("trying it on the accounts that taught nothing")
    return Trained(models, events, len(letters), counts, caught(models, [held], 1e-3))


def _calibrates(account: str) -> bool:
    digest = hashlib.blake2b(account.encode(), digest_size=4, person=b"calibrate").digest()
    return int.from_bytes(digest, "big") % _CALIBRATES == 0
