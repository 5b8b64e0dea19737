"""Records that real programs wrote decode to the events that were read over once."""

from __future__ import annotations

import json

import pytest

from detector.events import Event
from detector.formats import get
from tests.detector.formats.golden import READ_AT, cases, decoded, expected, record_of


@pytest.mark.parametrize("case", cases())
def test_a_golden_record_decodes_to_its_events(case: str) -> None:
    log_format = get(case.split("/")[0])
    record = record_of(case)
    assert decoded(log_format.decode(record, READ_AT)) == expected(case)
    events, bad = log_format.decode_lines([record], READ_AT)
    assert (decoded(events), bad) == (expected(case), [])


def test_a_litellm_batch_is_its_payloads_in_order() -> None:
    names = [case for case in cases() if case.startswith("litellm/")]
    payloads = [json.loads(record_of(case)) for case in names]
    whole = [event for case in names for event in expected(case)]
    array = json.dumps(payloads).encode()
    lines = "\n".join(json.dumps(payload) for payload in payloads).encode()
    assert len(names) >= 14
    assert decoded(get("litellm").decode(array, READ_AT)) == whole
    assert decoded(get("litellm").decode(lines, READ_AT)) == whole


# (status, served) by hand, from what the client was answered while it was recorded.
ANSWERED = {
    "litellm/chat": (200, True),
    "litellm/upstream_error": (500, False),
    "litellm/unknown_model": (400, False),
    "litellm/guardrail_blocked": (400, False),
    "litellm/over_rate_limit": (429, False),
    "litellm/guardrail_rewrote_answer": (200, True),
    "nginx/chat": (200, True),
    "nginx/throttled": (429, False),
    "nginx/challenged": (401, False),
    "nginx/blocked": (403, False),
}


@pytest.mark.parametrize("case", ANSWERED)
def test_a_refused_request_is_not_served(case: str) -> None:
    event = get(case.split("/")[0]).decode(record_of(case), READ_AT)[0]
    assert isinstance(event, Event)
    assert (event.status, event.served) == ANSWERED[case]
