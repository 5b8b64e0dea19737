from __future__ import annotations

import json

from detector.events import Event
from detector.formats import get
from detector.settings import FormatSettings


def test_a_caller_who_left_before_the_answer_began_was_not_served() -> None:
    # Envoy's RESPONSE_CODE is 0 then.
    line = {"start": "1780999999.5", "duration": 3, "status": 0, "flags": "DC", "account": "a"}
    record = json.dumps(line).encode()
    (event,) = get("envoy", FormatSettings()).decode(record, 1_781_000_000.0)
    assert isinstance(event, Event)
    assert (event.status, event.served) == (0, False)
