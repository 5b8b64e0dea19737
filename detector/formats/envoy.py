"""Envoy's access log in the JSON format of deploy/envoy (docs/gateways/envoy.md)."""

from __future__ import annotations

from typing import Final

import msgspec

from detector.events import BadRecord, EndOfInput, Event
from detector.formats.nginx import Line, Nginx, text_of

__all__ = ["Envoy"]


class _EnvoyLine(msgspec.Struct, gc=False):
    """The log format's fields. Envoy leaves out what it does not have."""

    start: str
    duration: float
    status: int
    flags: str = ""
    request_id: str = ""
    account: str = ""
    caller: str = ""
    uri: str = ""
    ip: str = ""
    user_agent: str = ""
    label: str = ""
    confidence: str = ""
    body: str = ""


_decoder: Final = msgspec.json.Decoder(_EnvoyLine)
_REFUSED: Final = b'"UAEX"'  # Envoy's flag of a request that the external check refused


class Envoy(Nginx):
    """One line a request, the body in it, read as nginx's is.

    Of a request that velvetrope refused Envoy does not know the account: such a line is no event,
    and no dead letter either, or a throttled thief would fill them. The verdict API counts it.
    """

    name = "envoy"

    def decode(self, record: bytes, read_at: float) -> list[Event | EndOfInput]:
        """The request's events; none for one that was refused. Raises BadRecord."""
        if _REFUSED in record:
            line = _line(record)
            if line.flags == "UAEX" and not (line.account or line.caller):
                return []
        return super().decode(record, read_at)

    def _line(self, record: bytes) -> Line:
        line = _line(record)
        try:
            start = float(line.start)
        except ValueError as error:
            raise BadRecord(f"not a line of deploy/envoy's log: start: {error}") from None
        seconds = line.duration / 1000.0
        return Line(
            msec=start + seconds,
            request_time=seconds,
            status=f"{line.status:03d}",
            request_id=line.request_id,
            account=line.account,
            caller=line.caller,
            uri=line.uri,
            ip=line.ip,
            user_agent=line.user_agent,
            label=line.label,
            confidence=line.confidence,
            body=line.body,
        )


def _line(record: bytes) -> _EnvoyLine:
    try:
        return _decoder.decode(text_of(record))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadRecord(f"not a line of deploy/envoy's log: {error}") from None
