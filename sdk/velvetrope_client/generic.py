"""An answer that says nothing, in the form in which the model would have answered.

For requests of OpenAI's chat completions and completions, whole and streamed.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, NamedTuple

__all__ = ["Generic", "generic_answer"]


class Generic(NamedTuple):
    """A body and its content type."""

    body: bytes
    content_type: str


def generic_answer(request: bytes, text: str) -> Generic | None:
    """The answer `text` to a request; None when it is of no form known here."""
    try:
        asked = json.loads(request)
    except (ValueError, RecursionError):
        return None
    if not isinstance(asked, dict) or not ("messages" in asked or "prompt" in asked):
        return None
    chat = "messages" in asked
    model = asked.get("model")
    head: dict[str, Any] = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{os.urandom(12).hex()}",
        "object": "chat.completion" if chat else "text_completion",
        "created": int(time.time()),
        "model": model if isinstance(model, str) else "",
    }
    if asked.get("stream") is not True:
        message = {"role": "assistant", "content": text}
        said: dict[str, Any] = {"message": message} if chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": "stop"}
        return Generic(_json({**head, "choices": [choice]}), "application/json")
    if chat:
        head["object"] = "chat.completion.chunk"
    said = {"delta": {"role": "assistant", "content": text}} if chat else {"text": text}
    last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    events = [
        _json({**head, "choices": [{"index": 0, **said, "finish_reason": None}]}),
        _json({**head, "choices": [{"index": 0, **last, "finish_reason": "stop"}]}),
        b"[DONE]",
    ]
    body = b"".join(b"data: " + event + b"\n\n" for event in events)
    return Generic(body, "text/event-stream; charset=utf-8")


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
