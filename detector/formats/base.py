"""What every log format does, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from detector.events import MAX_RECORD_BYTES, BadRecord, EndOfInput, Event

__all__ = ["Bad", "Format", "account_or_ip", "check_size", "end_of_input", "split_records"]

Bad = tuple[int, str]
"""A refused record: its index in the batch, and what is wrong with it and where."""

_end_decoder: Final = msgspec.json.Decoder(EndOfInput)
_items_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Format(Protocol):
    """How one kind of log record becomes events. Stateless: safe to share between partitions.

    `{"control": "end"}` means the end of the input in every format.
    """

    name: str

    def decode(self, record: bytes, read_at: float) -> list[Event | EndOfInput]:
        """Decode one record: usually one event, several where a request asked several things.

        Args:
            record: without its line end.
            read_at: Unix seconds at which it was read.

        Raises:
            BadRecord: for any bytes that are not a record of this format, and nothing else.
        """
        ...

    def decode_lines(
        self, lines: Sequence[bytes], read_at: float
    ) -> tuple[list[Event | EndOfInput], list[Bad]]:
        """Decode many records: their events in order, and what was refused.

        A record that holds several (an array) gives its good ones, and one refusal for each bad
        one, so its index can be there more than once.
        """
        ...


def split_records(body: bytes) -> list[bytes]:
    """The records of a posted body: one object, an array of them, or one a line.

    Raises:
        BadRecord: the body is empty, or is an array and not JSON, so that nobody can say where one
            record ends.
    """
    body = body.strip()
    if not body:
        raise BadRecord("the body is empty")
    if body[:1] == b"[":
        try:
            return [bytes(item) for item in _items_decoder.decode(body)]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRecord(f"not an array of records: {error}") from None
    if b"\n" not in body:
        return [body]
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError):
        # As in a file: a carriage return inside is no end of a line.
        return [line for line in body.split(b"\n") if line.strip()]
    # One object written over many lines.
    return [body]


def end_of_input(record: bytes) -> EndOfInput | None:
    """The control record, if it is one."""
    if len(record) < 64 and b"control" in record:
        try:
            return _end_decoder.decode(record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    return None


def check_size(record: bytes) -> None:
    """Refuse a record over the contract's limit.

    Raises:
        BadRecord: it is over 1 MiB.
    """
    if len(record) > MAX_RECORD_BYTES:
        raise BadRecord(f"record is {len(record)} bytes; the limit is {MAX_RECORD_BYTES}")


def account_or_ip(account: str | None, ip: str | None, anonymous_by_ip: bool) -> str:
    """Who is billed: the account, or `ip:<address>` where the operator counts anonymous traffic.

    Raises:
        BadRecord: neither is there.
    """
    if account:
        return account
    if anonymous_by_ip:
        if ip:
            return f"ip:{ip}"
        raise BadRecord("account: neither an account nor an address")
    raise BadRecord("account: none, and anonymous traffic is not counted (anonymous_by_ip)")
