"""A sampled day as files."""

from __future__ import annotations

from pathlib import Path

from detector.events import Event, decode
from detector.runners.labels import read_labels
from detector.sample import Sample
from detector.sample.files import write_day


def test_the_files_are_a_log_and_the_labels_of_its_accounts(tmp_path: Path) -> None:
    written = write_day(Sample(seed=2, customers=20, thieves=4), 1, tmp_path / "new")
    events = [decode(line, 2e9) for line in written.log.read_bytes().splitlines()]
    assert all(isinstance(event, Event) for event in events)
    assert len(events) == written.events
    labels = read_labels(written.labels)
    assert labels.keys() == {event.account for event in events if isinstance(event, Event)}
    assert sum(label.harvesting for label in labels.values()) == 4
