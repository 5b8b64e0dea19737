"""LiteLLM's generic guardrail: a POST before a model call and one after it, always answered 200.

Before the call a throttled caller over its rate, a challenged and a blocked one get `BLOCKED`,
which LiteLLM turns into a 400 with `blocked_reason` and no Retry-After, so the wait is said in the
reason. So do requests that the guard blocks; one that it answers generically goes on to the model
with another text. Only this side counts against the rate. After the call a poisoned caller gets
`GUARDRAIL_INTERVENED` with rewritten `texts`; of a stream LiteLLM asks again and again, each time
with all that has come.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from velvetrope_client.guard import Guard, last_of_user
from velvetrope_client.rewriting import Rewriter

from responders.actions.problem import Refusal
from responders.gateways.answer import Answer
from responders.gateways.caller import Caller, caller_of_litellm
from responders.settings import ApiSettings

__all__ = ["PATH", "Exchange", "guarded", "read", "respond", "rewritten"]

PATH = "/beta/litellm_basic_guardrail_api"
_NOT_ACCEPTED: Final = "This request was not accepted."


class Exchange(msgspec.Struct, frozen=True):
    """What LiteLLM shows: who calls, which model, one side's texts, and what a user said last."""

    caller: Caller
    is_response: bool
    texts: list[str]
    said: list[str]

    @property
    def endpoint(self) -> str:
        """What patterns of the poison file are compared with: `litellm/` and the model's name."""
        return f"litellm/{self.caller.model or ''}"


async def read(request: Request, settings: ApiSettings) -> Exchange:
    """Read the POST. Raises ValueError for no such document."""
    body = await request.body()
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not a guardrail request: {error}") from error
    texts = document.get("texts")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        texts = []
    return Exchange(
        caller_of_litellm(document, settings),
        document.get("input_type") == "response",
        texts,
        _said(document.get("structured_messages"), texts),
    )


def respond(answer: Answer) -> Response:
    """`NONE`, or `BLOCKED` with what the client may know. No `texts`: they would be applied."""
    if answer.refusal is None:
        return _answered({"action": "NONE"}, answer)
    return _answered({"action": "BLOCKED", "blocked_reason": _reason(answer.refusal)}, answer)


def guarded(exchange: Exchange, guard: Guard, answer: Answer) -> Response | None:
    """The answer to a request that the guard treats, or None for any other.

    The text that a generic answer is asked for with stands in the place of the probe's.
    """
    found = guard.look("\n".join(exchange.said))
    if found is None:
        return None
    if found[1] == "block":
        return _answered({"action": "BLOCKED", "blocked_reason": _NOT_ACCEPTED}, answer)
    instead = f"Reply with this sentence and nothing else: {guard.settings.generic_text}"
    texts = [instead if text in exchange.said else text for text in exchange.texts]
    return _answered({"action": "GUARDRAIL_INTERVENED", "texts": texts}, answer)


def rewritten(exchange: Exchange, rewriter: Rewriter, answer: Answer) -> Response:
    """The texts of a response as a poisoned caller gets them; `NONE` where nothing changes.

    LiteLLM withholds `stream_holdback_chars` of a text until the stream has ended.
    """
    shown = [
        rewriter.text(
            action=answer.action,
            level=answer.level,
            subject=answer.subject,
            endpoint=exchange.endpoint,
            text=text,
        )
        for text in exchange.texts
    ]
    texts = [text for text, _ in shown]
    if texts == exchange.texts:
        return _answered({"action": "NONE"}, answer)
    held = [end for _, end in shown]
    return _answered(
        {"action": "GUARDRAIL_INTERVENED", "texts": texts, "stream_holdback_chars": held}, answer
    )


def _answered(result: dict[str, Any], answer: Answer) -> Response:
    return Response(
        msgspec.json.encode(result),
        headers=answer.verdict_headers(),
        media_type="application/json",
    )


def _said(messages: Any, texts: list[str]) -> list[str]:
    """What the user said last; of a request without messages, its last text."""
    return last_of_user(messages) if isinstance(messages, list) else texts[-1:]


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
        # LiteLLM takes a JWT in a message for a secret, and blackens it: said in another spelling.
        return f"{title}. {said}".replace("ticket=eyJ", "ticket=%65yJ")
    return f"{title}. {refusal.document.get('detail', '')}".rstrip()
