"""A log of sketches is judged like the log of its inputs."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from velvetrope_client.sketch import Sketcher

from detector.blocks import Block
from detector.events import BadRecord, Event
from detector.formats import get
from detector.measure import PartitionMeasure
from detector.settings import FormatSettings, MeasureSettings
from features import NAMES
from tests.detector.logs import START, event

SKETCHER = Sketcher(bytes(32))
# These compare hashed words, which fall on other places under a key.
HASHED = {
    "entropy.unique_words",
    "coverage.self_similarity",
    "coverage.late_words",
    "coverage.vocabulary_growth",
    "drift.topic",
    "drift.sessions",  # counts changes of topic
    "drift.vocabulary",
}


def sketched(events: list[Event]) -> list[Event]:
    return [
        msgspec.structs.replace(e, input=None, input_sketch=SKETCHER.sketch(e.input))
        if isinstance(e.input, str)
        else e
        for e in events
    ]


def log() -> list[Event]:
    subjects = ["photosynthesis", "volcanoes", "inflation", "glaciers", "Roman", "aqueducts"]
    openings = ["Explain {} step by step.", "What are {}?", "I saw the of {}: why do they?"]
    return [
        event("a", 7.0 * i, input=openings[i % 3].format(subjects[i % 6]) + " " + "x" * (i % 9))
        for i in range(96)
    ]


def blocks(events: list[Event]) -> list[Block]:
    partition = PartitionMeasure(0, MeasureSettings())
    return partition.feed(events) + partition.end()


def columns(found: list[Block]) -> dict[str, NDArray[np.float32]]:
    matrix = np.stack([np.frombuffer(block.features, np.float32) for block in found])
    return {name: matrix[:, i] for i, name in enumerate(NAMES)}


def test_a_log_of_sketches_has_the_same_blocks_and_features() -> None:
    plain, kept = blocks(log()), blocks(sketched(log()))
    assert [(b.index, b.revision, b.n, b.kind) for b in kept] == [
        (b.index, b.revision, b.n, b.kind) for b in plain
    ]
    expected, found = columns(plain), columns(kept)
    different = {n for n in NAMES if not np.allclose(found[n], expected[n], rtol=1e-6, atol=1e-6)}
    assert different <= HASHED


def test_an_input_counts_before_a_sketch() -> None:
    both = [msgspec.structs.replace(e, input_sketch=SKETCHER.sketch("other")) for e in log()]
    assert blocks(both) == blocks(log())


def test_a_mixed_log_is_measured_the_same_one_by_one() -> None:
    mixed = [e for pair in zip(log(), sketched(log()), strict=True) for e in pair]
    partition = PartitionMeasure(0, MeasureSettings())
    single = [block for e in mixed for block in partition.feed([e])] + partition.end()
    assert single == blocks(mixed)


RECORDS = {
    "native": {"ts": START, "account": "a"},
    "nginx": {"msec": START, "request_time": 0.0, "status": "200", "account": "a"},
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_format_takes_sketches(name: str) -> None:
    sketch = SKETCHER.sketch("hello")
    record = json.dumps(RECORDS[name] | {"input_sketch": sketch}).encode()
    (decoded,) = get(name, FormatSettings()).decode(record, START)
    assert isinstance(decoded, Event)
    assert (decoded.input, decoded.input_sketch) == (None, sketch)


@pytest.mark.parametrize("name", RECORDS)
def test_a_sketch_that_cannot_be_read_is_refused(name: str) -> None:
    record = json.dumps(RECORDS[name] | {"input_sketch": "1.short"}).encode()
    events, bad = get(name, FormatSettings()).decode_lines([record], START)
    assert events == []
    assert "7 characters, not 484" in bad[0][1]


def test_beside_a_sketch_nginx_tells_model_and_parameters() -> None:
    record = RECORDS["nginx"] | {"model": "m", "params": '{"n": 2, "messages": []}'}
    (decoded,) = get("nginx", FormatSettings()).decode(json.dumps(record).encode(), START)
    assert isinstance(decoded, Event)
    assert (decoded.model, decoded.params) == ("m", {"n": 2})


def test_parameters_that_are_no_object_are_refused() -> None:
    record = json.dumps(RECORDS["nginx"] | {"params": "[]"}).encode()
    with pytest.raises(BadRecord, match=r"params: '\[\]' is not a JSON object"):
        get("nginx", FormatSettings()).decode(record, START)
