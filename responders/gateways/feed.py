"""`GET /v1/decisions?since=CURSOR`: the change feed for SDKs and HAProxy's follower.

Without `since` it is a snapshot of what is enforced. The mode comes with it, since whoever follows
must obey the kill switch too, and so does the allowlist, which beats every decision: `allow_tag`
names its state, and `allow` is the whole of it, left out when the follower's `allow=TAG` says that
it has that state already. `more` says that another page waits. `identities_tag` says when to read
`GET /v1/identities` again, whose every known key is: for gateways that see only keys. `policy` are
the static limits and what fails closed (responders.limits), left out like the allowlist by
`policy=TAG`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from responders.feedback import RunMode
from responders.gateways.view import View
from responders.limits import NO_LIMITS, BadPolicy, StaticPolicy
from responders.stores.base import (
    CursorTooOld,
    DecisionStore,
    Revisions,
    StoreUnavailable,
    gateway_json,
)

__all__ = ["Feed"]

_log = logging.getLogger(__name__)

# A Redis store scans all its keys for the allowlist (0.43 s with 300,000 decisions, on two busy
# cores): it is read again when its revision says so, at once, and for what was written past the
# stores when it is this old, but for no more than this share of the time.
_ALLOW_KEPT_S: Final = 0.5
_ALLOW_SHARE: Final = 0.1
_PATIENCE_S: Final = 0.05
_SHARED_MOST: Final = 64
# A snapshot of 300,000 decisions is 140 MB. What more ask for one is told to come back, or verdicts
# would wait behind them all.
_SNAPSHOTS_AT_ONCE: Final = 4
_SNAPSHOT_MOST_S: Final = 120.0  # as sent: a follower that is gone must not keep its place
_AT_ONCE: Final = 500  # decisions of a snapshot written between two turns of the event loop
_TAIL: Final = b"]}"

_T = TypeVar("_T")


class Feed:
    """The feed over a store, whose allowlist it remembers for half a second.

    Snapshots come from the verdict API's own copy: a hundred followers that start at once cost no
    read of the store, and no memory but what waits to be sent. They look 280 times a second, most
    with the same cursor: what one was told holds for the others for `shared_s`. `clock` is event
    time, which the allowlist's expiries compare with.
    """

    def __init__(
        self, store: DecisionStore, view: View, shared_s: float, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._view = view
        self._shared_s = shared_s
        self._clock = clock
        self._snapshots = 0  # being written
        self._looks: dict[str | None, tuple[float, asyncio.Task[Any]]] = {}
        self._allow_tag = ""
        self._allow = b"[]"
        self._allow_until = float("-inf")
        self._allow_revision = ""
        self._reading: asyncio.Task[None] | None = None
        self._policy_text: bytes | None = None
        self._last_policy = NO_LIMITS.encode()

    async def respond(self, request: Request) -> Response:
        """200 with the changes, 410 when the cursor is too old. Raises StoreUnavailable."""
        since = request.query_params.get("since") or None
        if since is not None:
            return await self._respond(request, since)
        if self._snapshots >= _SNAPSHOTS_AT_ONCE:
            return Response(
                b'{"type":"about:blank","title":"Service Unavailable","status":503,'
                b'"detail":"Too many snapshots are being taken: come back."}',
                503,
                headers={"Retry-After": "1"},
                media_type="application/problem+json",
            )
        self._snapshots += 1
        try:
            response = await self._respond(request, None)
        except BaseException:
            self._snapshots -= 1
            raise
        return _Released(response, self._release)

    def _release(self) -> None:
        self._snapshots -= 1

    async def _respond(self, request: Request, since: str | None) -> Response:
        mode, policy, revisions = await self._shared(None, lambda: asyncio.to_thread(self._state))
        try:
            if since is None:
                cursor, more, decisions = await self._snapshot()
            else:
                cursor, more, decisions = await self._shared(
                    since, lambda: asyncio.to_thread(self._changes, since)
                )
        except CursorTooOld:
            # A snapshot can take seconds; whoever waits for one must still hear of the mode.
            return Response(
                b'{"type":"about:blank","title":"Gone","status":410,"mode":"%s",'
                b'"detail":"The cursor is too old: take a new snapshot, without since."}'
                % mode.encode(),
                410,
                media_type="application/problem+json",
            )
        await self._current_allowlist(revisions.allowed)
        given = request.query_params
        parts = {
            "allow": (self._allow_tag, self._allow),
            "policy": (hashlib.sha256(policy).hexdigest()[:16], policy),
        }
        head: dict[str, object] = {
            "cursor": cursor,
            "mode": mode,
            "identities_tag": revisions.identities,
            "more": more,
        }
        for name, (tag, text) in parts.items():
            head[f"{name}_tag"] = tag
            if given.get(name) != tag:
                head[name] = msgspec.Raw(text)
        begun = msgspec.json.encode(head)[:-1] + b',"decisions":['
        size = len(begun) + sum(map(len, decisions)) + max(0, len(decisions) - 1) + len(_TAIL)
        return StreamingResponse(
            _written(begun, decisions),
            headers={"Content-Length": str(size)},
            media_type="application/json",
        )

    async def identities(self) -> Response:
        """200 with whose every known key is, by the key's hash. Raises StoreUnavailable."""
        found = await self._shared("identities", lambda: asyncio.to_thread(self._store.identities))
        return Response(msgspec.json.encode({"identities": found}), media_type="application/json")

    def _state(self) -> tuple[RunMode, bytes, Revisions]:
        return self._store.mode(), self._policy(), self._store.revisions()

    def _policy(self) -> bytes:
        """As it is kept; what is no policy is passed over, as gateways do."""
        text = self._store.policy()
        if text is not None and text != self._policy_text:
            try:
                self._last_policy = StaticPolicy.decode(text).encode()
            except BadPolicy as error:
                _log.warning("%s; followers keep the former ones", error)
        elif text is None:
            self._last_policy = NO_LIMITS.encode()
        self._policy_text = text
        return self._last_policy

    async def _snapshot(self) -> tuple[str, bool, list[bytes]]:
        await self._view.current()
        cursor, decisions = self._view.snapshot()
        try:
            _, _, since = await self._shared(
                cursor, lambda: asyncio.to_thread(self._changes, cursor)
            )
        except CursorTooOld as error:
            # The view was rebuilt, and the copy does not know yet.
            raise StoreUnavailable("the copy is older than the store's view") from error
        return cursor, bool(since), decisions

    def _changes(self, since: str) -> tuple[str, bool, list[bytes]]:
        changes = self._store.changes(since)
        return changes.cursor, changes.more, [gateway_json(d) for d in changes.decisions]

    async def _shared(self, key: str | None, look: Callable[[], Awaitable[_T]]) -> _T:
        now = time.monotonic()
        kept = self._looks.get(key)
        if kept is None or now - kept[0] > self._shared_s:
            if len(self._looks) >= _SHARED_MOST:
                fresh = {k: v for k, v in self._looks.items() if now - v[0] <= self._shared_s}
                self._looks = fresh
            kept = self._looks[key] = (now, asyncio.ensure_future(look()))
        found: _T = await asyncio.shield(kept[1])
        return found

    async def _current_allowlist(self, revision: str) -> None:
        """Have it read when it is old; a long scan holds up nobody's kill switch but at first."""
        if revision == self._allow_revision and time.monotonic() < self._allow_until:
            return
        reading = self._reading
        if reading is None or reading.done():
            reading = self._reading = asyncio.create_task(self._read_allowlist(revision))
        if not self._allow_tag:
            await asyncio.shield(reading)
        else:
            await asyncio.wait([reading], timeout=_PATIENCE_S)
            if reading.done():
                reading.result()

    async def _read_allowlist(self, revision: str) -> None:
        began = time.monotonic()
        entries = await asyncio.to_thread(self._store.allowed, self._clock())
        self._allow = msgspec.json.encode(
            [{"scope": e.scope, "value": e.value, "expires_at": e.expires_at} for e in entries]
        )
        self._allow_tag = hashlib.sha256(self._allow).hexdigest()[:16]
        self._allow_revision = revision
        now = time.monotonic()
        self._allow_until = now + max(_ALLOW_KEPT_S, (now - began) / _ALLOW_SHARE)


class _Released(Response):
    """A response that says when it was sent, or could not be."""

    def __init__(self, response: Response, release: Callable[[], None]) -> None:
        self._response = response
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(_SNAPSHOT_MOST_S):
                await self._response(scope, receive, send)
        except TimeoutError:
            # The server cuts an answer that was not ended, and the follower asks again.
            _log.warning("a follower did not take a snapshot in %.0f s", _SNAPSHOT_MOST_S)
        finally:
            self._release()


async def _written(begun: bytes, decisions: Sequence[bytes]) -> AsyncIterator[bytes]:
    # Decisions last, so that a follower may read a snapshot as it comes.
    before = begun
    for start in range(0, len(decisions), _AT_ONCE):
        yield before + b",".join(decisions[start : start + _AT_ONCE])
        before = b","
        await asyncio.sleep(0)
    yield _TAIL if decisions else begun + _TAIL
