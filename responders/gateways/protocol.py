"""HTTP/1 for the verdict API: request heads as gateways relay them, not as RFC 9112 wants them.

nginx relays header values with control characters in them, and up to 32 KB of them. A server that
answers 400 to those is a way around every decision: nginx makes it a 500, and fails open.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["TolerantProtocol"]


class TolerantProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol, `uvicorn.Config(http=TolerantProtocol)`, for any header value.

    httptools has no limit on the size of a head, where h11 stops at 64 KB. A request target
    beyond ASCII is still answered 400: only Envoy relays one, and its client then gets the 400.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Dangerous where two servers may disagree on where a request ends: values cannot do that,
        # framing is parsed as strictly as before.
        self.parser.set_dangerous_leniencies(lenient_headers=True)
