"""The access event (contract 1): decoded, checked, or refused with the reason."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, Final

import msgspec

from detector.sketches import BadSketch, decode_sketch

__all__ = [
    "MAX_RECORD_BYTES",
    "BadRecord",
    "EndOfInput",
    "Event",
    "Output",
    "check",
    "decode",
    "encode",
    "redact",
]

MAX_RECORD_BYTES: Final = 1 << 20
_MAX_ACCOUNT_BYTES: Final = 256
_MAX_AHEAD_S: Final = 86_400.0


class BadRecord(ValueError):
    """A record that goes to dead letters. Its text says what is wrong, and in which field."""


class Output(msgspec.Struct, gc=False, frozen=True):
    """What the model answered, as far as the gateway says."""

    label: str | int | None = None
    confidence: float | None = None
    logprobs: bool | None = None


class Event(msgspec.Struct, gc=False, kw_only=True):
    """One access-log record. `ts` is Unix seconds at which the request arrived."""

    ts: float | str
    account: str
    request_id: str | None = None
    api_key: str | None = None
    org: str | None = None
    plan: str | None = None
    ip: str | None = None
    user_agent: str | None = None
    ja4: str | None = None
    endpoint: str | None = None
    model: str | None = None
    links: dict[str, str] | None = None
    status: int = 200
    served: bool | None = None
    latency_ms: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    input: str | list[float] | None = None
    input_sketch: str | None = None
    output: Output | None = None
    params: dict[str, Any] | None = None


class EndOfInput(msgspec.Struct, gc=False, frozen=True, tag_field="control", tag="end"):
    """The control record `{"control": "end"}`: closes idle blocks and all ticks."""


_event_decoder: Final = msgspec.json.Decoder(Event)
_end_decoder: Final = msgspec.json.Decoder(EndOfInput)


def decode(record: bytes, read_at: float) -> Event | EndOfInput:
    """Decode one native record.

    Args:
        record: one JSON object, UTF-8, without its line end.
        read_at: Unix seconds at which it was read; a `ts` more than a day past it is refused.

    Raises:
        BadRecord: the record is not a valid event; the text says why.
    """
    if len(record) > MAX_RECORD_BYTES:
        raise BadRecord(f"record is {len(record)} bytes; the limit is {MAX_RECORD_BYTES}")
    try:
        # msgspec does not look inside strings of fields it skips: the contract wants all UTF-8.
        if not record.isascii():
            record.decode()
        event = _event_decoder.decode(record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if len(record) < 64 and b"control" in record:
            try:
                return _end_decoder.decode(record)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                pass
        raise BadRecord(str(error)) from None
    check(event, read_at)
    return event


def encode(event: Event) -> bytes:
    """The event as a native record, without its line end: what is None is left out."""
    fields = _present(event)
    if event.output is not None:
        fields["output"] = _present(event.output)
    return msgspec.json.encode(fields)


def check(event: Event, read_at: float) -> None:
    """Check what types cannot say, and turn `ts` into Unix seconds, in place.

    Numbers inside `input` and `params` are finite already: JSON has no other, and msgspec refuses
    those out of range.

    Every format passes its events through here, so that all refuse the same things.

    Raises:
        BadRecord: a bound of the contract is broken.
    """
    ts = event.ts
    if type(ts) is str:
        ts = event.ts = _unix_seconds(ts)
    if not 0.0 <= ts <= read_at + _MAX_AHEAD_S:  # type: ignore[operator]
        raise BadRecord(f"ts {ts!r} is not a time between 1970 and a day from now")
    account = event.account
    size = len(account) if account.isascii() else len(_utf8(account, "account"))
    if not 1 <= size <= _MAX_ACCOUNT_BYTES:
        raise BadRecord(f"account is {size} bytes; it must be 1 to {_MAX_ACCOUNT_BYTES}")
    if not 0 <= event.status < 1000:
        raise BadRecord(f"status {event.status} is not an HTTP status")
    if event.latency_ms is not None and not 0.0 <= event.latency_ms < math.inf:
        raise BadRecord(f"latency_ms {event.latency_ms!r} is not a finite number ≥ 0")
    if event.latency_ms and ts + event.latency_ms / 1000.0 > read_at + _MAX_AHEAD_S:  # type: ignore[operator]
        # Arrival + latency is what moves the watermark: it must not come from the future either.
        raise BadRecord(
            f"latency_ms {event.latency_ms!r} ends the request more than a day from now"
        )
    if event.input_sketch is not None:
        try:
            decode_sketch(event.input_sketch)
        except BadSketch as error:
            raise BadRecord(str(error)) from None
    if event.served is None:
        event.served = event.status < 400


def redact(record: bytes) -> bytes:
    """The record for dead letters: without its input, cut to 2 KiB."""
    try:
        fields = msgspec.json.decode(record)
        if isinstance(fields, dict):
            for name in ("input", "messages", "body", "response", "request_body"):
                if name in fields:
                    fields[name] = "[redacted]"
            return msgspec.json.encode(fields)[:2048]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    # What cannot be parsed cannot be searched for its input either: keep only its shape.
    return b"[%d bytes that are not JSON]" % len(record)


def _present(struct: Event | Output) -> dict[str, Any]:
    return {
        name: value
        for name in struct.__struct_fields__
        if (value := getattr(struct, name)) is not None
    }


def _unix_seconds(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        raise BadRecord(f"ts {text[:40]!r} is neither a number nor an RFC 3339 time") from None
    if moment.tzinfo is None:
        raise BadRecord(f"ts {text[:40]!r} has no time zone")
    return moment.timestamp()


def _utf8(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadRecord(f"{field} has a lone surrogate") from None
