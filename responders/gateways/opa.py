"""The OPA plugins of Kong, APISIX and others: a POST of `{"input": …}`, always answered 200.

Kong has the request in `input.request.http`, APISIX in `input.request`; headers are an object of
strings or of lists.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from responders.actions.problem import PROBLEM_JSON
from responders.gateways.answer import Answer
from responders.gateways.caller import Caller, caller_of_headers, header_value, plain_path
from responders.settings import ApiSettings

__all__ = ["caller", "respond"]


async def caller(request: Request, settings: ApiSettings) -> Caller:
    """From the document's request. Raises ValueError when it is none."""
    body = await request.body()
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not an OPA query: {error}") from error
    http = _part(_part(document, "input"), "request")
    http = http["http"] if isinstance(http.get("http"), dict) else http
    path = http.get("path")
    return caller_of_headers(
        _fields(http.get("headers")),
        settings,
        plain_path(path) if isinstance(path, str) else None,
    )


def respond(answer: Answer) -> Response:
    """`allow` true with headers for the model's server, or false with the client's answer.

    Kong sets `headers` on the request that it lets through, which overwrites forged ones, and takes
    `message` for the body of a refusal.
    """
    if answer.refusal is None:
        account = header_value(answer.account).decode("utf-8", "replace")
        headers = {**answer.verdict_headers(), "X-Velvetrope-Account": account}
        result: dict[str, Any] = {"allow": True, "headers": headers}
    else:
        result = {
            "allow": False,
            "status": answer.refusal.status,
            "headers": {**answer.refusal.headers, "Content-Type": PROBLEM_JSON},
            "message": answer.refusal.document,
            "body": answer.refusal.body.decode(),
        }
    return Response(
        msgspec.json.encode({"result": result}),
        headers=answer.verdict_headers(),
        media_type="application/json",
    )


def _part(document: dict[str, Any], name: str) -> dict[str, Any]:
    part = document.get(name)
    if not isinstance(part, dict):
        raise ValueError(f"not an OPA query: `{name}` is not an object")
    return part


def _fields(headers: Any) -> list[tuple[bytes, bytes]]:
    fields = []
    for name, value in headers.items() if isinstance(headers, dict) else ():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str):
                fields.append((name.encode(), one.encode()))
    return fields
