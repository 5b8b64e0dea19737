"""The native format: one access event of contract 1 a record. The fast path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from detector.events import MAX_RECORD_BYTES, BadRecord, EndOfInput, Event, check, decode
from detector.formats.base import Bad, account_or_ip
from detector.settings import FormatSettings

__all__ = ["Native"]

_MAX_AHEAD_S: Final = 86_400.0
_MAX_ACCOUNT_BYTES: Final = 256

_event_decoder: Final = msgspec.json.Decoder(Event)
_object_decoder: Final = msgspec.json.Decoder(dict[str, object])


class Native:
    """JSON access events, one a line.

    >>> native = Native(FormatSettings())
    >>> native.decode(b'{"ts": 5, "account": "a", "input": "hello"}', read_at=9.0)[0].served
    True
    """

    name = "native"

    def __init__(self, options: FormatSettings) -> None:
        self._anonymous_by_ip = options.anonymous_by_ip

    def decode(self, record: bytes, read_at: float) -> list[Event | EndOfInput]:
        """One event, or the end. Raises BadRecord."""
        try:
            return [decode(record, read_at)]
        except BadRecord:
            if self._anonymous_by_ip and (event := _keyed_by_ip(record, read_at)):
                return [event]
            raise

    def decode_lines(
        self, lines: Sequence[bytes], read_at: float
    ) -> tuple[list[Event | EndOfInput], list[Bad]]:
        """Many records. What is not plainly good goes through `decode`, which says why."""
        events: list[Event | EndOfInput] = []
        bad: list[Bad] = []
        append = events.append
        decode_event = _event_decoder.decode
        latest = read_at + _MAX_AHEAD_S
        for index, line in enumerate(lines):
            # The same checks as `detector.events.decode` and `check`, without their calls: those
            # cost as much again as the decoding.
            try:
                if len(line) <= MAX_RECORD_BYTES:
                    if not line.isascii():
                        line.decode()
                    event = decode_event(line)
                    ts = event.ts
                    account = event.account
                    if (
                        type(ts) is float
                        and 0.0 <= ts <= latest
                        and 0 < len(account) <= _MAX_ACCOUNT_BYTES
                        and account.isascii()
                        and 0 <= event.status < 1000
                        and event.input_sketch is None
                        and (
                            event.latency_ms is None
                            or (
                                event.latency_ms >= 0.0 and ts + event.latency_ms / 1000.0 <= latest
                            )
                        )
                    ):
                        if event.served is None:
                            event.served = event.status < 400
                        append(event)
                        continue
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                pass
            try:
                events += self.decode(line, read_at)
            except BadRecord as error:
                bad.append((index, str(error)))
        return events, bad


def _keyed_by_ip(record: bytes, read_at: float) -> Event | None:
    """The event of a record whose only fault is that it names no account."""
    if len(record) > MAX_RECORD_BYTES:
        return None
    try:
        record.decode()
        fields = _object_decoder.decode(record)
        if fields.get("account") or not isinstance(ip := fields.get("ip"), str):
            return None
        fields["account"] = account_or_ip(None, ip, True)
        event = msgspec.convert(fields, Event)
        check(event, read_at)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadRecord):
        return None
    return event
