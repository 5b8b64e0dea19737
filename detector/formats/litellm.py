"""LiteLLM's StandardLoggingPayload, as its generic API logger posts it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from detector.events import BadRecord, EndOfInput, Event, Output, check
from detector.formats.base import Bad, account_or_ip, check_size, end_of_input, split_records
from detector.formats.body import conversation, parameters
from detector.settings import FormatSettings

__all__ = ["LiteLLM"]

_REDACTED: Final = "redacted-by-litellm"
_ABSENT: Final = msgspec.Raw(b"null")  # a part that is decoded later, or not at all
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class _Metadata(msgspec.Struct):
    user_api_key_hash: str | None = None
    user_api_key_user_id: str | None = None
    user_api_key_team_id: str | None = None
    user_api_key_org_id: str | None = None
    user_api_key_end_user_id: str | None = None
    user_api_key_request_route: str | None = None
    requester_ip_address: str | None = None
    user_agent: str | None = None


class _StatusFields(msgspec.Struct):
    guardrail_status: str | None = None


class _Error(msgspec.Struct):
    error_code: str | int | None = None


class _Payload(msgspec.Struct):
    startTime: float | str  # noqa: N815 - LiteLLM's names
    status: str
    metadata: _Metadata | None
    endTime: float | str | None = None  # noqa: N815
    litellm_call_id: str | None = None
    call_type: str | None = None
    status_fields: _StatusFields | None = None
    error_information: _Error | None = None
    model: str | None = None
    model_group: str | None = None
    messages: Any = None
    model_parameters: dict[str, Any] | None = None
    response: msgspec.Raw = _ABSENT
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    end_user: str | None = None
    requester_ip_address: str | None = None
    user_agent: str | None = None


class _Message(msgspec.Struct):
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    logprobs: msgspec.Raw = _ABSENT


class _Item(msgspec.Struct):
    type: str | None = None
    name: str | None = None
    arguments: str | None = None


class _Response(msgspec.Struct):
    """Only what is read: `choices` of chat and completions, `output` of the responses API."""

    choices: list[_Choice] | None = None
    output: list[_Item] | None = None


_decoder: Final = msgspec.json.Decoder(_Payload)
_response_decoder: Final = msgspec.json.Decoder(_Response)


class LiteLLM:
    """A payload, an array of them, or one a line; every one is an event."""

    name = "litellm"

    def __init__(self, options: FormatSettings) -> None:
        self._anonymous_by_ip = options.anonymous_by_ip
        self._account = options.litellm_account

    def decode(self, record: bytes, read_at: float) -> list[Event | EndOfInput]:
        """All events of the record. Raises BadRecord if one of them is bad."""
        events: list[Event | EndOfInput] = []
        payloads = split_records(record)
        for index, payload in enumerate(payloads):
            try:
                events.append(self._decode_one(payload, read_at))
            except BadRecord as error:
                if len(payloads) == 1:
                    raise
                raise BadRecord(f"item {index}: {error}") from None
        return events

    def decode_lines(
        self, lines: Sequence[bytes], read_at: float
    ) -> tuple[list[Event | EndOfInput], list[Bad]]:
        """Many records. One bad payload of a batch costs nothing but itself."""
        events: list[Event | EndOfInput] = []
        bad: list[Bad] = []
        for index, line in enumerate(lines):
            try:
                payloads = split_records(line)
            except BadRecord as error:
                bad.append((index, str(error)))
                continue
            for item, payload in enumerate(payloads):
                try:
                    events.append(self._decode_one(payload, read_at))
                except BadRecord as error:
                    where = f"item {item}: " if len(payloads) > 1 else ""
                    bad.append((index, f"{where}{error}"))
        return events, bad

    def _decode_one(self, record: bytes, read_at: float) -> Event | EndOfInput:
        if end := end_of_input(record):
            return end
        check_size(record)
        try:
            if not record.isascii():
                record.decode()
            payload = _decoder.decode(record)
            event = self._event(payload)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BadRecord(f"not a LiteLLM payload: {error}") from None
        check(event, read_at)
        return event

    def _event(self, payload: _Payload) -> Event:
        who = payload.metadata or _Metadata()
        key = _key(who.user_api_key_hash)
        ip = payload.requester_ip_address or who.requester_ip_address or None
        billed = {
            "user": who.user_api_key_user_id,
            "team": who.user_api_key_team_id,
            "org": who.user_api_key_org_id,
            "end_user": who.user_api_key_end_user_id or payload.end_user,
            "key": key,
        }[self._account]
        failed = payload.status != "success"
        refused = (
            failed
            and payload.status_fields is not None
            and payload.status_fields.guardrail_status == "guardrail_intervened"
        )
        response = _response(payload.response)
        return Event(
            ts=payload.startTime,
            account=account_or_ip(billed or key, ip, self._anonymous_by_ip),
            request_id=payload.litellm_call_id or None,
            api_key=key,
            org=who.user_api_key_org_id or who.user_api_key_team_id or None,
            ip=ip,
            user_agent=payload.user_agent or who.user_agent or None,
            endpoint=who.user_api_key_request_route or None,
            model=payload.model_group or payload.model or None,
            status=_status(payload.error_information, refused) if failed else 200,
            served=not failed,
            latency_ms=_latency_ms(payload),
            input_tokens=payload.prompt_tokens,
            output_tokens=payload.completion_tokens,
            input=_input(payload, response),
            params=parameters(payload.model_parameters or {}) or None,
            output=_output(response),
        )


def _key(hashed: str | None) -> str | None:
    if not hashed:
        return None
    if not _SHA256.fullmatch(hashed):
        # A custom authentication can leave the key itself here. It never goes on.
        hashed = hashlib.sha256(hashed.encode(errors="replace")).hexdigest()
    return f"sha256:{hashed}"


def _status(error: _Error | None, refused: bool) -> int:
    code = str(error.error_code) if error is not None and error.error_code is not None else ""
    if len(code) == 3 and code.isascii() and code.isdigit() and code >= "400":
        return int(code)
    return 400 if refused else 500


def _latency_ms(payload: _Payload) -> float | None:
    """From arrival to the last byte; `response_time` is the first token's when streaming."""
    start, end = payload.startTime, payload.endTime
    if isinstance(start, str) or isinstance(end, str | None):
        return None
    # A clock that stepped back is not the record's fault.
    return max(0.0, round((end - start) * 1000.0, 3))


def _response(raw: msgspec.Raw) -> _Response | None:
    """The answer, if it has a shape that is read; its other shapes are no fault of the record."""
    try:
        return _response_decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _input(payload: _Payload, response: _Response | None) -> str | None:
    """Messages, tool calls among them, then the tool calls that the model answered with."""
    messages = payload.messages
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}] if messages else []
    elif isinstance(messages, dict):
        messages = messages.get("messages") or [messages]
    if not isinstance(messages, list) or not messages or _is_redacted(messages):
        return None
    if "embedding" in (payload.call_type or ""):
        # LiteLLM makes each text of an embedding request a user message; they are not a dialogue.
        texts = [conversation([message]) for message in messages]
        return "\n".join(text for text in texts if text) or None
    turns = list(messages)
    instructions = (payload.model_parameters or {}).get("instructions")
    if isinstance(instructions, str) and instructions:
        turns.insert(0, {"role": "system", "content": instructions})
    if response is not None:
        turns += _answered_calls(response)
    return conversation(turns)


def _answered_calls(response: _Response) -> list[dict[str, Any]]:
    for choice in response.choices or ():
        if choice.message is not None and choice.message.tool_calls:
            return [{"role": "assistant", "tool_calls": choice.message.tool_calls}]
    return [
        {"type": "function_call", "name": item.name, "arguments": item.arguments or ""}
        for item in response.output or ()
        if item.type == "function_call"
    ]


def _is_redacted(messages: list[Any]) -> bool:
    return any(
        message == _REDACTED or (isinstance(message, dict) and message.get("content") == _REDACTED)
        for message in messages
    )


def _output(response: _Response | None) -> Output | None:
    if response is None or not response.choices:
        return None
    given = any(
        bytes(choice.logprobs) not in (b"null", b"{}", b"[]") for choice in response.choices
    )
    return Output(logprobs=given)
