"""What a request to a model API asked: its body becomes inputs and parameters.

The shapes that are understood, the first field that is there wins:

| field | |
|---|---|
| `messages` (and `system`) | OpenAI's and Anthropic's chat |
| `contents` (and `systemInstruction`) | Gemini's chat |
| `input` (and `instructions`) | OpenAI's responses and embeddings; a vector API's row or rows |
| `inputs` | TGI; KServe v2 tensors; MLflow and TensorFlow Serving in columns |
| `instances` | TensorFlow Serving and KServe v1 |
| `prompt` | completions: text, texts, or token ids |
| `text`, `texts`, `query`, `features`, `data`, `dataframe_split` | classifiers of many kinds |

Under any of them: a string is a text; strings are one text, one a line; messages are one text with
their roles; numbers are a vector; rows (lists, nested lists, objects of numbers) are a vector each.
A body that is a bare JSON array is read as rows too. A body that is text and not JSON is the input
as it stands; a binary one has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec

__all__ = ["MAX_ROWS", "Asked", "conversation", "parameters", "read_body"]

MAX_ROWS: Final = 1024
"""Rows of one request that count. One of 128 KiB could hold 60,000, a flood from one client."""

_CONTENT_FIELDS: Final = (
    "messages",
    "contents",
    "input",
    "inputs",
    "instances",
    "prompt",
    "text",
    "texts",
    "query",
    "features",
    "data",
    "dataframe_split",
)
# Several APIs' names for one thing, to the name in contract 1.
_PARAMETERS: Final[dict[str, str]] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "topP": "top_p",
    "top_k": "top_k",
    "topK": "top_k",
    "n": "n",
    "best_of": "n",
    "candidateCount": "n",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "maxOutputTokens": "max_tokens",
    "logprobs": "logprobs",
    "responseLogprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "logit_bias": "logit_bias",
    "reasoning": "reasoning",
    "reasoning_effort": "reasoning",
    "thinking": "reasoning",
    "seed": "seed",
    "stream": "stream",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "echo": "echo",
}
_MAX_PARAMETER_TEXT: Final = 64
_NUMBER_LIMIT: Final = 1e15


class Asked(msgspec.Struct, frozen=True):
    """One request. `inputs` has one item, or one a row; it is empty when none was found."""

    inputs: list[str | list[float]]
    params: dict[str, Any] | None = None
    model: str | None = None


def read_body(body: str) -> Asked:
    """Read a request's body. Never raises: a client chooses these bytes.

    >>> read_body('{"model": "m", "messages": [{"role": "user", "content": "hello"}], "n": 2}')
    Asked(inputs=['hello'], params={'n': 2}, model='m')
    >>> read_body('{"instances": [[1, 2], [3, 4]]}').inputs
    [[1.0, 2.0], [3.0, 4.0]]
    """
    if not body or body.isspace():
        return Asked([])
    try:
        value = msgspec.json.decode(body)
        if isinstance(value, dict):
            model = value.get("model")
            return Asked(
                _inputs_of(value),
                parameters(value) or None,
                model if isinstance(model, str) and model else None,
            )
        if isinstance(value, list):
            return Asked(_values(value))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        # Includes what a laxer server may have taken (NaN, a lone surrogate, deep nesting): what
        # was asked is still in the text.
        pass
    return Asked([body] if _is_text(body) else [])


def conversation(messages: object) -> str | None:
    """Messages as one text: `role: text` a line; a lone user message is its text alone.

    The lone message goes without its role so that one question is the same input whether it came
    through a chat gateway or in a native log.

    >>> conversation([{"role": "system", "content": "be terse"}, {"role": "user", "content": "hi"}])
    'system: be terse\\nuser: hi'
    """
    if isinstance(messages, str):
        return messages or None
    if not isinstance(messages, list):
        return None
    said = [turn for message in messages for turn in _turns(message)]
    if not said:
        return None
    if len(said) == 1 and said[0][0] == "user":
        return said[0][1]
    return "\n".join(f"{role}: {text}" for role, text in said)


def parameters(source: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that say how the model was asked, under the contract's names.

    `tools` becomes their number, and `response_format` its type: what they hold is the
    application's, and long.
    """
    found: dict[str, Any] = {}
    for name, value in source.items():
        known = _PARAMETERS.get(name)
        if known is not None and _is_plain(value):
            found[known] = value
        elif name == "tools" and isinstance(value, list) and value:
            found["tools"] = len(value)
        elif name == "response_format" and isinstance(value, dict):
            kind = value.get("type")
            if isinstance(kind, str):
                found["response_format"] = kind[:_MAX_PARAMETER_TEXT]
        elif name in ("generationConfig", "parameters") and isinstance(value, dict):
            found.update(
                {_PARAMETERS[k]: v for k, v in value.items() if k in _PARAMETERS and _is_plain(v)}
            )
    return found


def _is_plain(value: object) -> bool:
    if isinstance(value, bool):
        return True
    if isinstance(value, int | float):
        return abs(value) < _NUMBER_LIMIT
    if isinstance(value, str):
        return len(value) <= _MAX_PARAMETER_TEXT
    # logit_bias, reasoning: one level of plain values.
    return isinstance(value, dict) and all(
        not isinstance(inner, dict | list) and (inner is None or _is_plain(inner))
        for inner in value.values()
    )


def _inputs_of(body: dict[str, Any]) -> list[str | list[float]]:
    for field in _CONTENT_FIELDS:
        value = body.get(field)
        if value is None or value in ("", [], {}):
            continue
        if field in ("messages", "contents"):
            head = body.get("system") or body.get("systemInstruction") or body.get("instructions")
            return _conversation_after(head, value)
        if field == "input" and (head := body.get("instructions")):
            return _conversation_after(head, value)
        if field == "prompt" and _is_token_ids(value):
            return [_token_text(value)]
        if field == "dataframe_split" and isinstance(value, dict):
            value = value.get("data")
        return _values(value)
    return []


def _conversation_after(head: object, messages: object) -> list[str | list[float]]:
    turns: list[object] = []
    if head:
        turns.append({"role": "system", "content": head})
    turns += messages if isinstance(messages, list) else [messages]
    text = conversation(turns)
    return [text] if text else []


def _turns(message: object) -> Iterator[tuple[str, str]]:
    """(role, text) of one message: its content, then its tool calls as `name(arguments)`."""
    if isinstance(message, str):
        if message:
            yield "user", message
        return
    if not isinstance(message, dict):
        return
    kind = message.get("type")
    if kind == "function_call":
        yield "assistant", _call(message)
        return
    role = message.get("role")
    role = role if isinstance(role, str) and role else "user"
    if kind == "function_call_output":
        role, content = "tool", message.get("output")
    else:
        content = message.get("content", message.get("parts"))
    parts = [part for part in _parts(content) if part]
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        parts += [
            _call(call.get("function", call)) if isinstance(call, dict) else "" for call in calls
        ]
    if isinstance(single := message.get("function_call"), dict):
        parts.append(_call(single))
    text = "\n".join(part for part in parts if part)
    if text:
        yield role, text


def _parts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield from _parts(part)
    elif isinstance(content, dict):
        for field in ("text", "thinking", "refusal"):
            if isinstance(text := content.get(field), str):
                yield text
                return
        kind = content.get("type")
        if kind in ("tool_use", "server_tool_use"):
            yield _call(content)
        elif kind == "tool_result" or "parts" in content:
            yield from _parts(content.get("content", content.get("parts")))
        elif isinstance(call := content.get("functionCall"), dict):
            yield _call(call)
        elif content:
            # An image, audio or a file: which one, but not its bytes, which would drown the words.
            name = kind if isinstance(kind, str) else next(iter(content))
            data = msgspec.json.encode(content)
            yield f"[{name[:_MAX_PARAMETER_TEXT]} {blake2b(data, digest_size=8).hexdigest()}]"


def _call(call: object) -> str:
    if not isinstance(call, dict):
        return ""
    arguments = call.get("arguments", call.get("input", call.get("args")))
    if not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments).decode() if arguments is not None else ""
    return f"{call.get('name')}({arguments})"


def _values(value: object) -> list[str | list[float]]:
    """Texts or vectors of one content field, whatever its shape."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        columns = [inner for inner in value.values() if isinstance(inner, list)]
        if len(value) == 1 and columns:
            return _values(columns[0])
        return _rows([value])
    if not isinstance(value, list) or not value:
        return []
    first = value[0]
    if isinstance(first, str):
        text = "\n".join(item for item in value if isinstance(item, str))
        return [text] if text else []
    if isinstance(first, dict):
        if "datatype" in first and isinstance(first.get("data"), list):
            return [row for tensor in value if isinstance(tensor, dict) for row in _tensor(tensor)]
        if "role" in first or "type" in first or "parts" in first:
            said = conversation(value)
            return [said] if said else []
    if isinstance(first, list | dict):
        return _rows(value)
    vector = _vector(value)
    return [vector] if vector else []


def _rows(rows: list[Any]) -> list[str | list[float]]:
    """A vector for each row; rows with words in them are one text, one row a line."""
    rows = rows[:MAX_ROWS]
    try:
        return [row for row in msgspec.convert(rows, list[list[float]]) if row]  # the usual shape
    except (msgspec.ValidationError, OverflowError):
        pass
    vectors: list[str | list[float]] = []
    for row in rows:
        vector = _vector(row)
        if vector is None:
            return ["\n".join(msgspec.json.encode(row).decode() for row in rows)]
        if vector:
            vectors.append(vector)
    return vectors


def _tensor(tensor: dict[str, Any]) -> list[str | list[float]]:
    """KServe v2: `shape` [rows, …] with `data` flat or nested."""
    data = tensor["data"]
    if data and isinstance(data[0], list | str):
        return _values(data)
    vector = _vector(data)
    shape = tensor.get("shape")
    if not vector:
        return []
    rows = shape[0] if isinstance(shape, list) and shape and isinstance(shape[0], int) else 1
    if rows < 1 or len(vector) % rows:
        return [vector]
    width = len(vector) // rows
    return [vector[i * width : (i + 1) * width] for i in range(min(rows, MAX_ROWS))]


def _vector(row: object) -> list[float] | None:
    """The row's numbers in order (of its fields' names, if it has names). None: not all numbers."""
    if isinstance(row, list):
        try:
            return msgspec.convert(row, list[float])  # the usual shape
        except (msgspec.ValidationError, OverflowError):
            pass
    flat: list[float] = []
    return flat if _flatten(row, flat) else None


def _flatten(value: object, into: list[float]) -> bool:
    if isinstance(value, int | float):
        if not abs(value) < 1e300:
            return False
        into.append(float(value))
        return True
    if isinstance(value, list):
        return all(_flatten(item, into) for item in value)
    if isinstance(value, dict):
        return all(_flatten(value[name], into) for name in sorted(value))
    return False


def _is_token_ids(value: object) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    first = first[0] if isinstance(first, list) and first else first
    return isinstance(first, int)


def _token_text(value: list[Any]) -> str:
    ids: list[float] = []
    _flatten(value, ids)
    return " ".join(f"{token:.0f}" for token in ids)


def _is_text(body: str) -> bool:
    """Whether it reads as text: no control characters, and little that had to be repaired."""
    if body.count("\ufffd") * 10 > len(body):
        return False
    return all(char >= " " or char in "\t\n\r" for char in body[:4096])
