"""Where a follower looks: at a decision store, or at the change feed of the verdict API."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

import httpx
import msgspec

from responders.allowlist import AllowEntry
from responders.decisions import Decision
from responders.feedback import RunMode
from responders.limits import NO_LIMITS, BadPolicy, StaticPolicy
from responders.stores.base import CursorTooOld, DecisionStore, Identity, StoreUnavailable

__all__ = ["ApiSource", "Followed", "Source", "StoreSource"]

_log = logging.getLogger(__name__)
_Document = TypeVar("_Document")
# What was written past the stores (an account system's own `identity:` keys) shows in no revision.
_READ_AGAIN_S: Final = 60.0
_CONNECT_S: Final = 1.0
_ANSWER_S: Final = 30.0


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the decisions since the last look.

    `snapshot`: `decisions` are all that are enforced, not changes. `fail_closed`: actions that hold
    on while the source is away. `allowed` and `identities` (by the key's bare hash) are whole
    lists, None when they are what they were.
    """

    mode: RunMode
    decisions: list[Decision]
    snapshot: bool = False
    fail_closed: tuple[str, ...] = ()
    allowed: list[AllowEntry] | None = None
    identities: dict[str, Identity] | None = None


class Source(Protocol):
    """Raises StoreUnavailable when it cannot be read now; the next look then tells everything."""

    def look(self) -> Followed:
        """Everything new since the last look that worked."""


class StoreSource:
    """A store itself. `clock` is event time, for the allowlist's expiries."""

    def __init__(self, store: DecisionStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._cursor: str | None = None
        self._policy_text: bytes | None = None
        self._policy = NO_LIMITS
        self._allowed = _Again()
        self._identities = _Again()

    def look(self) -> Followed:
        """See Source."""
        mode = self._store.mode()
        self._learn_policy(self._store.policy())
        revisions = self._store.revisions()
        allowed = identities = None
        if self._allowed.due(revisions.allowed):
            allowed = self._store.allowed(self._clock())
        if self._identities.due(revisions.identities):
            identities = self._store.identities()
        snapshot, decisions, cursor = self._changes(self._cursor)
        self._cursor = cursor
        if allowed is not None:
            self._allowed.was_read(revisions.allowed)
        if identities is not None:
            self._identities.was_read(revisions.identities)
        return Followed(
            mode=mode,
            decisions=decisions,
            snapshot=snapshot,
            fail_closed=self._policy.fail_closed,
            allowed=allowed,
            identities=identities,
        )

    def _learn_policy(self, text: bytes | None) -> None:
        """One that cannot be read leaves what was known, as at the verdict API."""
        if text == self._policy_text:
            return
        self._policy_text = text
        try:
            self._policy = NO_LIMITS if text is None else StaticPolicy.decode(text)
        except BadPolicy as error:
            _log.warning("%s", error)

    def _changes(self, cursor: str | None) -> tuple[bool, list[Decision], str]:
        snapshot = cursor is None
        decisions: list[Decision] = []
        while True:
            try:
                changes = self._store.changes(cursor)
            except CursorTooOld:
                cursor, snapshot, decisions = None, True, []
                continue
            decisions += changes.decisions
            # A snapshot is followed by a look at what changed while it was taken.
            more = changes.more or cursor is None
            cursor = changes.cursor
            if not more:
                return snapshot, decisions, cursor


class ApiSource:
    """`GET /v1/decisions` of a verdict API at `url`, with its shared secret where it has one."""

    def __init__(self, url: str, secret: str | None = None) -> None:
        self._url = url
        self._client = httpx.Client(
            base_url=url,
            headers={} if secret is None else {"X-Velvetrope-Secret": secret},
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
        )
        self._cursor: str | None = None
        self._allow_tag = ""
        self._policy_tag = ""
        self._policy = NO_LIMITS
        self._identities = _Again()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def look(self) -> Followed:
        """See Source."""
        cursor, snapshot, decisions = self._cursor, self._cursor is None, list[Decision]()
        allow_tag, allowed = self._allow_tag, None
        while True:
            query = {"since": cursor or "", "allow": allow_tag, "policy": self._policy_tag}
            answer = self._get("/v1/decisions", query)
            if answer.status_code == 410:
                cursor, snapshot, decisions = None, True, []
                continue
            page = self._read(answer, _Page)
            decisions += page.decisions
            allow_tag = page.allow_tag
            allowed = page.allow if page.allow is not None else allowed
            if page.policy is not None:
                self._policy, self._policy_tag = page.policy, page.policy_tag
            more = page.more or cursor is None
            cursor = page.cursor
            if not more:
                break
        identities = None
        if self._identities.due(page.identities_tag):
            identities = self._read(self._get("/v1/identities", {}), _Identities).identities
            self._identities.was_read(page.identities_tag)
        self._cursor, self._allow_tag = cursor, allow_tag
        return Followed(
            mode=page.mode,
            decisions=decisions,
            snapshot=snapshot,
            fail_closed=self._policy.fail_closed,
            allowed=allowed,
            identities=identities,
        )

    def _get(self, path: str, query: dict[str, str]) -> httpx.Response:
        try:
            answer = self._client.get(path, params={k: v for k, v in query.items() if v})
        except httpx.HTTPError as error:
            raise StoreUnavailable(f"{self._url}: {error or type(error).__name__}") from error
        if answer.status_code not in (200, 410):
            raise StoreUnavailable(f"{self._url}{path} answered {answer.status_code}")
        return answer

    def _read(self, answer: httpx.Response, kind: type[_Document]) -> _Document:
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.DecodeError as error:
            raise StoreUnavailable(f"{self._url}: not velvetrope's answer: {error}") from error


class _Page(msgspec.Struct, kw_only=True):
    cursor: str
    mode: RunMode
    decisions: list[Decision]
    allow_tag: str
    identities_tag: str
    policy_tag: str
    more: bool = False
    policy: StaticPolicy | None = None
    allow: list[AllowEntry] | None = None


class _Identities(msgspec.Struct):
    identities: dict[str, Identity]


class _Again:
    """When a whole list is due to be read again: at another revision, and once a minute."""

    def __init__(self) -> None:
        self._revision: str | None = None
        self._at = float("-inf")

    def due(self, revision: str) -> bool:
        return revision != self._revision or time.monotonic() - self._at > _READ_AGAIN_S

    def was_read(self, revision: str) -> None:
        self._revision = revision
        self._at = time.monotonic()
