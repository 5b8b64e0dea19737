"""`GET /v1/decisions?since=CURSOR`: the change feed for SDKs and HAProxy's follower.

Without `since` it is a snapshot of what is enforced. The mode comes with it, since whoever follows
must obey the kill switch too. `more` says that another page waits.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from responders.stores.base import Changes, CursorTooOld, DecisionStore, gateway_json

__all__ = ["respond"]


async def respond(request: Request, store: DecisionStore) -> Response:
    """200 with the changes, 410 when the cursor is too old. Raises StoreUnavailable."""
    since = request.query_params.get("since") or None
    try:
        changes = await asyncio.to_thread(store.changes, since)
    except CursorTooOld:
        return Response(
            b'{"type":"about:blank","title":"Gone","status":410,'
            b'"detail":"The cursor is too old: take a new snapshot, without since."}',
            410,
            media_type="application/problem+json",
        )
    mode = await asyncio.to_thread(store.mode)
    return Response(_document(changes, mode), media_type="application/json")


def _document(changes: Changes, mode: str) -> bytes:
    decisions = b",".join(gateway_json(decision) for decision in changes.decisions)
    more = b"true" if changes.more else b"false"
    # Cursors are digits, dots and dashes; a mode is one of three words.
    head = f'{{"cursor":"{changes.cursor}","mode":"{mode}","more":'.encode()
    return head + more + b',"decisions":[' + decisions + b"]}"
