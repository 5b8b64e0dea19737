"""Envoy ext_authz over HTTP: exactly 200 allows, everything else reaches the client as it is.

Envoy puts the request's raw path and query behind its `path_prefix`, with the request's method.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from responders.gateways.answer import Answer, allow_response, refusal_response
from responders.gateways.caller import Caller, caller_of_headers, plain_path
from responders.settings import ApiSettings

__all__ = ["PREFIX", "caller", "respond"]

PREFIX: Final = "/authorize/envoy"


def caller(request: Request, settings: ApiSettings) -> Caller:
    """From the headers that Envoy is told to send, and the path behind the prefix."""
    path: str = request.scope["path"]
    path = plain_path(path.removeprefix(PREFIX) or "/", decoded=True)
    return caller_of_headers(request.headers.raw, settings, path)


def respond(answer: Answer) -> Response:
    """200, or the client's 429, 401 or 403."""
    if answer.refusal is None:
        return allow_response(answer)
    return refusal_response(answer.refusal)
