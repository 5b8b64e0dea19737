"""What a request to a model asked: its body becomes inputs, parameters and the model's name.

The usual shapes, read as the service reads them in an access log (docs/formats.md): chat messages
with their system prompt, `prompt`, `input` with `instructions`, `inputs`, `text` and the like, and
rows of numbers. What is of another shape has no input here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

__all__ = ["Asked", "read_request"]

_TEXT_FIELDS: Final = ("prompt", "text", "texts", "query")
_ROW_FIELDS: Final = ("inputs", "instances", "features", "data")
_PARAMETERS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "n": "n",
    "best_of": "n",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "logit_bias": "logit_bias",
    "reasoning_effort": "reasoning",
    "seed": "seed",
    "stream": "stream",
}
_MAX_ROWS: Final = 1024
_MAX_PARAMETER: Final = 64
_NUMBER_LIMIT: Final = 1e15


class Asked(NamedTuple):
    """One request: its inputs (one, or one a row), its parameters and its model, if it says."""

    inputs: list[str | list[float]]
    params: dict[str, Any]
    model: str | None


def read_request(body: bytes) -> Asked:
    """Read a request's body. Never raises: a client chooses these bytes.

    >>> read_request(b'{"model": "m", "messages": [{"role": "user", "content": "hello"}], "n": 2}')
    Asked(inputs=['hello'], params={'n': 2}, model='m')
    """
    try:
        document = json.loads(body)
        if isinstance(document, dict):
            model = document.get("model")
            params = {
                _PARAMETERS[name]: value
                for name, value in document.items()
                if name in _PARAMETERS and _is_plain(value)
            }
            named = _clean(model) if isinstance(model, str) and model else None
            return Asked(_cleaned(_inputs(document)), params, named)
        return Asked(_cleaned(_values(document)), {}, None)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
        return Asked([text] if _is_text(text) else [], {}, None)


def _inputs(document: Mapping[str, Any]) -> list[str | list[float]]:
    if messages := document.get("messages"):
        return _conversation(document.get("system") or document.get("instructions"), messages)
    if value := document.get("input"):
        if head := document.get("instructions"):
            return _conversation(head, value)
        return _values(value)
    for name in (*_ROW_FIELDS[:2], *_TEXT_FIELDS, *_ROW_FIELDS[2:]):
        if value := document.get(name):
            return _values(value)
    return []


def _conversation(head: object, messages: object) -> list[str | list[float]]:
    turns: list[object] = [{"role": "system", "content": head}] if head else []
    turns += messages if isinstance(messages, list) else [messages]
    said = [turn for message in turns for turn in _turns(message)]
    if len(said) == 1 and said[0][0] == "user":
        return [said[0][1]]
    return ["\n".join(f"{role}: {text}" for role, text in said)] if said else []


def _turns(message: object) -> Iterator[tuple[str, str]]:
    if isinstance(message, str):
        message = {"content": message}
    if not isinstance(message, dict):
        return
    role = message.get("role")
    parts = [*_parts(message.get("content"))]
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            parts.append(f"{function.get('name')}({function.get('arguments') or ''})")
    text = "\n".join(part for part in parts if part)
    if text:
        yield role if isinstance(role, str) and role else "user", text


def _parts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield from _parts(part)
    elif isinstance(content, dict) and isinstance(text := content.get("text"), str):
        yield text


def _values(value: object) -> list[str | list[float]]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        return []
    first = value[0]
    if isinstance(first, str):
        text = "\n".join(item for item in value if isinstance(item, str))
        return [text] if text else []
    if isinstance(first, dict):
        return _conversation(None, value) if "role" in first or "type" in first else []
    rows = value[:_MAX_ROWS] if isinstance(first, list) else [value]
    vectors = [_numbers(row) for row in rows]
    return [row for row in vectors if row] if all(row is not None for row in vectors) else []


def _numbers(row: object) -> list[float] | None:
    """The row as numbers; None when it holds anything else."""
    if not isinstance(row, list):
        return None
    if not all(isinstance(item, int | float) and abs(item) < 1e300 for item in row):
        return None
    return [float(item) for item in row]


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(not isinstance(inner, dict) and _is_plain(inner) for inner in value.values())
    if isinstance(value, int | float):
        return abs(value) < _NUMBER_LIMIT
    return isinstance(value, str) and len(value) <= _MAX_PARAMETER and _clean(value) == value


def _is_text(text: str) -> bool:
    """Whether it reads as text: no control characters, and little that had to be repaired."""
    if not text or text.isspace() or text.count("\ufffd") * 10 > len(text):
        return False
    return all(char >= " " or char in "\t\n\r" for char in text[:4096])


def _clean(text: str) -> str:
    # Half of a surrogate pair would make the event one that nobody takes.
    return text.encode("utf-8", "replace").decode()


def _cleaned(inputs: list[str | list[float]]) -> list[str | list[float]]:
    return [_clean(one) if isinstance(one, str) else one for one in inputs]
