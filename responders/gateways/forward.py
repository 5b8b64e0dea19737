"""Forward auth, as Traefik, Caddy and APISIX speak it: 2xx allows, a refusal is relayed whole."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from responders.gateways.answer import Answer, allow_response, refusal_response
from responders.gateways.caller import Caller, caller_of_headers, plain_path
from responders.settings import ApiSettings

__all__ = ["caller", "respond"]


def caller(request: Request, settings: ApiSettings) -> Caller:
    """From the client's headers as the gateway relays them, and X-Forwarded-Uri."""
    uri = request.headers.get("x-forwarded-uri")
    path = None if uri is None else plain_path(uri)
    return caller_of_headers(request.headers.raw, settings, path)


def respond(answer: Answer) -> Response:
    """200, or the client's 429, 401 or 403."""
    if answer.refusal is None:
        return allow_response(answer)
    return refusal_response(answer.refusal)
