"""nginx access logs in the project's `log_format velvetrope` (deploy/nginx, docs/formats.md)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from detector.events import BadRecord, EndOfInput, Event, Output, check
from detector.formats.base import Bad, account_or_ip, check_size, end_of_input
from detector.formats.body import Asked, parameters, read_body
from detector.settings import FormatSettings

__all__ = ["Line", "Nginx", "text_of"]


class Line(msgspec.Struct, gc=False):
    """The log format's fields. nginx writes an empty string for what it does not have."""

    msec: float
    request_time: float
    status: str
    request_id: str = ""
    account: str = ""
    caller: str = ""
    api_key: str = ""
    upstream_status: str = ""
    uri: str = ""
    ip: str = ""
    user_agent: str = ""
    label: str = ""
    confidence: str = ""
    body: str = ""
    # In place of the body, where the gateway sketches it, with what else the body would have told:
    # the parameters as the JSON of an object, in a string.
    input_sketch: str = ""
    model: str = ""
    params: str = ""


_decoder: Final = msgspec.json.Decoder(Line)
_object_decoder: Final = msgspec.json.Decoder(dict[str, Any])
_KEY_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")
# TensorFlow Serving, KServe and Gemini name the model in the path, not in the body.
_MODEL_IN_PATH: Final = re.compile(r"/models/([^/:]{1,256})")
_NO_BODY: Final = Asked([])


class Nginx:
    """One line a request. A request with several vector rows is an event for each row."""

    name = "nginx"

    def __init__(self, options: FormatSettings) -> None:
        self._anonymous_by_ip = options.anonymous_by_ip

    def decode(self, record: bytes, read_at: float) -> list[Event | EndOfInput]:
        """The request's events. Raises BadRecord."""
        if end := end_of_input(record):
            return [end]
        check_size(record)
        line = self._line(record)
        asked = read_body(line.body) if line.body else _NO_BODY
        events: list[Event | EndOfInput] = []
        rows: list[str | list[float] | None] = [*asked.inputs] or [None]
        outputs = _outputs(line, len(rows))
        for row, content in enumerate(rows):
            event = self._event(line, asked)
            event.input = content
            event.output = outputs[row]
            if len(rows) > 1 and event.request_id:
                event.request_id = f"{event.request_id}#{row}"
            check(event, read_at)
            events.append(event)
        return events

    def decode_lines(
        self, lines: Sequence[bytes], read_at: float
    ) -> tuple[list[Event | EndOfInput], list[Bad]]:
        """Many lines."""
        events: list[Event | EndOfInput] = []
        bad: list[Bad] = []
        for index, line in enumerate(lines):
            try:
                events += self.decode(line, read_at)
            except BadRecord as error:
                bad.append((index, str(error)))
        return events, bad

    def _line(self, record: bytes) -> Line:
        try:
            return _decoder.decode(text_of(record))
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BadRecord(f"not a line of log_format velvetrope: {error}") from None

    def _event(self, line: Line, asked: Asked) -> Event:
        status = _status(line.status)
        if status is None:
            raise BadRecord(f"status: {line.status[:16]!r} is not an HTTP status")
        # A key that belongs to no known account is billed under its hash.
        key = next(filter(_KEY_HASH.fullmatch, (line.api_key, line.account)), None)
        # nginx tried several upstreams: "502, 200"; redirected internally: "502 : 200".
        answered = _status(re.split(r"[,:\s]+", line.upstream_status)[-1])
        model = asked.model or line.model or None
        if model is None and (named := _MODEL_IN_PATH.search(line.uri)):
            model = named[1]
        return Event(
            # Milliseconds are what nginx knows; the subtraction must not add noise below them.
            ts=round(line.msec - line.request_time, 3),
            account=account_or_ip(
                line.account or line.caller or key, line.ip, self._anonymous_by_ip
            ),
            request_id=line.request_id or None,
            api_key=key,
            ip=line.ip or None,
            user_agent=line.user_agent or None,
            endpoint=line.uri or None,
            model=model,
            status=status,
            served=0 < status < 400 and (answered is None or answered < 400),
            latency_ms=round(line.request_time * 1000.0, 3),
            input_sketch=line.input_sketch or None,
            params=asked.params or _params(line.params),
        )


def text_of(record: bytes) -> str:
    """A line's text, bytes that are no UTF-8 replaced.

    nginx copies them from what the client sent. The client must not be able to drop out of the
    count that way.
    """
    return record.decode(errors="replace")


def _params(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        return parameters(_object_decoder.decode(text)) or None
    except (msgspec.MsgspecError, RecursionError):
        raise BadRecord(f"params: {text[:40]!r} is not a JSON object") from None


def _status(text: str) -> int | None:
    # "000" and "009" are what nginx logs of a connection without an answer, and of HTTP/0.9.
    return int(text) if len(text) == 3 and text.isascii() and text.isdigit() else None


def _outputs(line: Line, rows: int) -> list[Output | None]:
    """What the upstream's own headers say of the answers: one label a row, by commas."""
    if not line.label:
        return [None] * rows
    labels = line.label.split(",") if rows > 1 else [line.label]
    confidences = line.confidence.split(",")
    if len(labels) != rows:
        return [None] * rows
    if len(confidences) != rows:
        confidences = [""] * rows
    return [
        Output(label=label.strip(), confidence=_share(confidence))
        for label, confidence in zip(labels, confidences, strict=True)
    ]


def _share(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 <= value <= 1.0 else None
