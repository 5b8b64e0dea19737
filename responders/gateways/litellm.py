"""LiteLLM's generic guardrail: a POST before a model call and one after it, always answered 200.

A throttled caller over its rate, a challenged and a blocked one get `BLOCKED`, which LiteLLM turns
into a 400 with `blocked_reason` and no Retry-After, so the wait is said in the reason. Only the
request side counts against the rate. A poisoned caller gets `NONE` on both sides: its rate still
holds, its answers are not rewritten.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from responders.actions.problem import Refusal
from responders.gateways.answer import Answer
from responders.gateways.caller import Caller, caller_of_litellm
from responders.settings import ApiSettings

__all__ = ["PATH", "caller", "respond"]

PATH = "/beta/litellm_basic_guardrail_api"


async def caller(request: Request, settings: ApiSettings) -> tuple[Caller, bool]:
    """The caller, and whether it is the request side. Raises ValueError for no such document."""
    body = await request.body()
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"not a guardrail request: {error}") from error
    return caller_of_litellm(document, settings), document.get("input_type") != "response"


def respond(answer: Answer) -> Response:
    """`NONE`, or `BLOCKED` with what the client may know. Never `texts`: they would be applied."""
    if answer.refusal is None:
        result = {"action": "NONE"}
    else:
        result = {"action": "BLOCKED", "blocked_reason": _reason(answer.refusal)}
    return Response(
        msgspec.json.encode(result),
        headers=answer.verdict_headers(),
        media_type="application/json",
    )


def _reason(refusal: Refusal) -> str:
    title = str(refusal.document["title"])
    if "Retry-After" in refusal.headers:
        return f"{title}. Retry after {refusal.headers['Retry-After']} seconds."
    if refusal.status == 401:
        said = str(refusal.document["detail"]).rstrip(".")
        if "authenticate_at" in refusal.document:
            said += f" at {refusal.document['authenticate_at']}"
        if "challenge" in refusal.document:
            said += f", or answer the challenge at {refusal.document['challenge']}"
        return f"{title}. {said}"
    return f"{title}. {refusal.document.get('detail', '')}".rstrip()
