"""nginx `auth_request`: 200 allows, 403 and 401 refuse, and nginx makes anything else a 500.

The client's status goes in X-Velvetrope-Status; nginx answers it from an `error_page`. The body is
dropped by nginx, so a challenge's, which names where to go, comes in X-Velvetrope-Document too.
The request's path comes in X-Original-URI, which the configuration sets.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from responders.gateways.answer import Answer, allow_response, refusal_response
from responders.gateways.caller import Caller, caller_of_headers
from responders.settings import ApiSettings

__all__ = ["caller", "respond"]


def caller(request: Request, settings: ApiSettings) -> Caller:
    """From the subrequest's headers."""
    uri = request.headers.get("x-original-uri")
    path = None if uri is None else uri.partition("?")[0]
    return caller_of_headers(request.headers.raw, settings, path)


def respond(answer: Answer) -> Response:
    """200; 401 for a challenge, which nginx passes on; else 403 with the status to answer."""
    if answer.refusal is None:
        return allow_response(answer)
    response = refusal_response(answer.refusal)
    response.status_code = 401 if answer.refusal.status == 401 else 403
    for name, value in answer.verdict_headers().items():
        response.headers[name] = value
    response.headers["X-Velvetrope-Status"] = str(answer.refusal.status)
    if answer.refusal.status == 401:
        response.headers["X-Velvetrope-Document"] = answer.refusal.body.decode("ascii")
    return response
