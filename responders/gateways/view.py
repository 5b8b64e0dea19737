"""The verdict API's own copy of what is enforced, so that an answer costs no round trip.

The copy is refreshed from the store's change feed by whichever request finds it old: at
`refresh_s` in the background, at twice that age the request waits for it. So the kill switch and
new decisions hold within a second without a task that must be started and stopped, and an API
that is mounted in another application works the same.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

from responders.allowlist import AllowEntry, BadEntry, canonical_value
from responders.decisions import SCOPES, Decision, is_enforcement, strongest
from responders.feedback import RunMode
from responders.gateways.caller import Caller
from responders.limits import NO_LIMITS, BadPolicy, StaticPolicy, covers
from responders.settings import ApiSettings
from responders.stores.base import (
    CursorTooOld,
    DecisionStore,
    Identity,
    StoreUnavailable,
    decode_decision,
    gateway_json,
)

__all__ = ["View"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_REMEMBERED: Final = 100_000
_ALLOW_KEPT_S: Final = 0.5
_RETRY_S: Final = 0.5
_PATIENCE_S: Final = 0.15
_PATIENCE_STALE_S: Final = 2.0
_AT_ONCE: Final = 500  # changes taken between two turns of the event loop


class View:
    """Live enforced decisions, the mode, and what was last looked up of keys and allowlist.

    `clock` is event time, which expiries compare with; ages of the copy itself are of the
    machine's monotonic clock.
    """

    def __init__(
        self, store: DecisionStore, settings: ApiSettings, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._table = _Table()
        self._cursor: str | None = None
        self._mode: RunMode = "shadow"
        self._static = NO_LIMITS
        self._static_text: bytes | None = None
        self._read_at = float("-inf")
        self._failed_at = float("-inf")
        self._away = False  # the last that was asked of the store had no answer
        self._refreshing: asyncio.Task[None] | None = None
        self._identities: _Remembered[Identity | None] = _Remembered()
        self._allows: _Remembered[AllowEntry | None] = _Remembered()

    @property
    def mode(self) -> RunMode:
        """The kill switch as last read."""
        return self._mode

    @property
    def static(self) -> StaticPolicy:
        """The static limits as last read."""
        return self._static

    @property
    def age_s(self) -> float:
        """Seconds since the copy was last known to be true."""
        return time.monotonic() - self._read_at

    def __len__(self) -> int:
        return len(self._table)

    def snapshot(self) -> tuple[str, list[bytes]]:
        """What is live and enforced, as gateways see it (JSON), and the cursor to go on from.

        Raises StoreUnavailable when nothing was read yet.
        """
        if self._cursor is None:
            raise StoreUnavailable("the decisions were not read yet")
        return self._cursor, self._table.live(self._clock())

    async def current(self) -> None:
        """Make sure that the copy is fresh enough. Raises StoreUnavailable when it is too old."""
        age = self.age_s
        if age < self._settings.refresh_s:
            return
        if self._refreshing is None or self._refreshing.done():
            if time.monotonic() - self._failed_at < _RETRY_S:
                self._refuse_stale()
                return
            self._refreshing = asyncio.create_task(self._refresh())
        if age >= self._settings.refresh_s * 2:
            # A store that hangs must not hold up answers: gateways give them 250 ms. Without a
            # copy to answer from there is nothing to lose by waiting.
            stale = age > self._settings.stale_after_s
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    asyncio.shield(self._refreshing), _PATIENCE_STALE_S if stale else _PATIENCE_S
                )
            self._refuse_stale()

    def known_identity(self, caller: Caller) -> dict[str, str]:
        """`identity` by what is remembered, however old: no store is asked."""
        known = None if caller.api_key is None else self._identities.last(caller.api_key)
        return _identity(caller, known[0] if known else None)

    def was_allowed(self, identity: Mapping[str, str]) -> bool:
        """Whether an allowlist entry covered it when the store was last asked."""
        known = self._allows.last(_allow_key(identity))
        return known is not None and known[0] is not None

    async def plan(self, caller: Caller) -> str | None:
        """The plan of the key's owner, else what the gateway says. Raises StoreUnavailable."""
        known = None if caller.api_key is None else await self._identity_of(caller.api_key)
        return (known.plan if known else None) or caller.plan

    async def identity(self, caller: Caller) -> dict[str, str]:
        """Scope to value of everything known about a caller; `account` whenever anything is.

        The key's own identity is first, then the gateway's header, then the key's hash itself,
        then the address. Raises StoreUnavailable.
        """
        known = None
        if caller.api_key is not None:
            known = await self._identity_of(caller.api_key)
        return _identity(caller, known)

    def strongest(self, identity: Mapping[str, str], caller: Caller) -> Decision | None:
        """The strongest live decision that matches the caller and covers the request."""
        now = self._clock()
        matching = [d for d in self._table.matching(identity, now) if _covers(d, caller)]
        return strongest(matching, now) if matching else None

    async def allows(self, identity: Mapping[str, str]) -> AllowEntry | None:
        """The allowlist entry that covers an identity; asked of the store at most twice a second.

        Raises StoreUnavailable.
        """
        key = _allow_key(identity)
        known = self._allows.get(key)
        if known is None:
            now = self._clock()
            known = await self._ask(
                self._allows, key, _ALLOW_KEPT_S, lambda: self._store.allows(identity, now)
            )
        return known[0]

    async def _identity_of(self, api_key: str) -> Identity | None:
        known = self._identities.get(api_key)
        if known is None:
            known = await self._ask(
                self._identities,
                api_key,
                self._settings.identity_kept_s,
                lambda: self._store.identity(api_key),
            )
        return known[0]

    async def _ask(
        self, kept: _Remembered[_T], key: str, for_s: float, ask: Callable[[], _T]
    ) -> tuple[_T]:
        """Ask the store, and remember; while it is away, what it said last, however long ago.

        Raises StoreUnavailable when it is away and never said anything of this key.
        """

        def unless_away() -> _T:
            # Asked again in the thread: those that wait for one must not each wait for the store.
            if self._away:
                raise StoreUnavailable("the store did not answer")
            return ask()

        last = kept.last(key)
        patience = _PATIENCE_STALE_S if last is None else _PATIENCE_S
        try:
            if self._away:
                raise StoreUnavailable("the store did not answer")
            answer = await asyncio.wait_for(asyncio.to_thread(unless_away), patience)
        except (StoreUnavailable, TimeoutError) as error:
            self._away = self._away or isinstance(error, StoreUnavailable)
            if last is not None:
                return last
            raise StoreUnavailable(str(error) or "the store is slow") from error
        return kept.put(key, answer, for_s)

    def _refuse_stale(self) -> None:
        if self.age_s > self._settings.stale_after_s:
            raise StoreUnavailable("the decisions could not be read for too long")

    async def _refresh(self) -> None:
        asked_at = time.monotonic()
        try:
            read = await asyncio.to_thread(self._read, self._cursor)
        except StoreUnavailable as error:
            self._failed_at = time.monotonic()
            self._away = True
            _log.warning("decisions cannot be read: %s", error)
            return
        self._away = False
        if read.table is not None:
            self._table = read.table
        for start in range(0, len(read.changes), _AT_ONCE):
            for decision in read.changes[start : start + _AT_ONCE]:
                self._table.put(decision)
            await asyncio.sleep(0)
        self._cursor = read.cursor
        self._mode = read.mode
        self._put_policy(read.policy)
        self._read_at = asked_at
        self._table.sweep(self._clock())

    def _read(self, cursor: str | None) -> _Read:
        """Runs in a thread, where a whole new table is made too: it may take seconds."""
        mode, policy = self._store.mode(), self._store.policy()
        table = None
        changed: list[Decision] = []
        while True:
            if cursor is None:
                table, changed = _Table(), []
                cursor, enforced = self._store.snapshot()
                for decision in enforced:
                    table.put(decision)
            try:
                # A snapshot is followed by a look at what changed while it was taken.
                changes = self._store.changes(cursor)
            except CursorTooOld:
                cursor = None
                continue
            changed += changes.decisions
            cursor = changes.cursor
            if not changes.more:
                return _Read(mode, policy, table, changed, cursor)

    def _put_policy(self, text: bytes | None) -> None:
        if text == self._static_text:
            return
        self._static_text = text
        try:
            self._static = NO_LIMITS if text is None else StaticPolicy.decode(text)
        except BadPolicy as error:
            # Whatever somebody wrote there by hand: what held until now goes on holding.
            _log.warning("%s; the former ones hold on", error)


class _Read(NamedTuple):
    """What a look at the store found; `table` when it had to be read whole."""

    mode: RunMode
    policy: bytes | None
    table: _Table | None
    changes: list[Decision]
    cursor: str


# Version, expiry and JSON: exact tuples of atoms, which the garbage collector stops tracking, and a
# third of what the structs take (docs/decisions/0140).
_Kept = tuple[int, float, bytes]


class _Table:
    """Enforced decisions by (scope, value), decoded when a caller matches."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, _Kept]] = {scope: {} for scope in SCOPES}
        self._networks: dict[tuple[int, int], int] = {}  # (IP version, prefix length) → decisions
        self._sweep_at = 1024

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def put(self, decision: Decision) -> None:
        """Take a decision, unless one of the same or a higher version is kept."""
        try:
            value = canonical_value(decision.scope, decision.value)
        except BadEntry as error:
            _log.warning("decision %s is passed over: %s", decision.id, error)
            return
        kept = self._kept[decision.scope].get(value)
        if kept is not None and kept[0] >= decision.version:
            return
        self._drop(decision.scope, value)
        if decision.mode == "enforce" and is_enforcement(decision.action):
            text = gateway_json(decision)
            self._kept[decision.scope][value] = (decision.version, decision.expires_at, text)
            if decision.scope == "cidr":
                self._count_network(value, 1)

    def matching(self, identity: Mapping[str, str], now: float) -> list[Decision]:
        """Live decisions about any scope of an identity, and about networks that hold its `ip`."""
        found = [self._kept[scope].get(value) for scope, value in identity.items()]
        if self._networks and "ip" in identity:
            found += self._of_networks(identity["ip"])
        return [decode_decision(kept[2]) for kept in found if kept is not None and kept[1] > now]

    def live(self, now: float) -> list[bytes]:
        """The JSON of every decision that has not ended."""
        return [
            kept[2] for values in self._kept.values() for kept in values.values() if kept[1] > now
        ]

    def sweep(self, now: float) -> None:
        """Drop decisions that ended, each time their number doubled."""
        if len(self) < self._sweep_at:
            return
        for scope, values in self._kept.items():
            for value in [value for value, kept in values.items() if kept[1] <= now]:
                self._drop(scope, value)
        self._sweep_at = max(1024, 2 * len(self))

    def _drop(self, scope: str, value: str) -> None:
        if self._kept[scope].pop(value, None) is not None and scope == "cidr":
            self._count_network(value, -1)

    def _count_network(self, value: str, change: int) -> None:
        network = ipaddress.ip_network(value)
        size = (network.version, network.prefixlen)
        self._networks[size] = self._networks.get(size, 0) + change
        if self._networks[size] <= 0:
            del self._networks[size]

    def _of_networks(self, address: str) -> list[_Kept | None]:
        ip = ipaddress.ip_address(address)
        return [
            self._kept["cidr"].get(str(ipaddress.ip_network((ip, prefix), strict=False)))
            for version, prefix in self._networks
            if version == ip.version
        ]


class _Remembered(OrderedDict[str, tuple[_T, float]]):
    """Answers of the store for a while, the oldest dropped first."""

    def get(self, key: str) -> tuple[_T] | None:  # type: ignore[override]
        """The answer in a tuple, or None when there is none or it is too old."""
        found = super().get(key)
        if found is None or found[1] < time.monotonic():
            return None
        return (found[0],)

    def last(self, key: str) -> tuple[_T] | None:
        """The last answer in a tuple, whatever its age."""
        found = super().get(key)
        return None if found is None else (found[0],)

    def put(self, key: str, answer: _T, for_s: float) -> tuple[_T]:
        """Remember an answer for some seconds."""
        self[key] = (answer, time.monotonic() + for_s)
        self.move_to_end(key)
        if len(self) > _REMEMBERED:
            self.popitem(last=False)
        return (answer,)


def _identity(caller: Caller, known: Identity | None) -> dict[str, str]:
    account = (known.account if known else None) or caller.account or caller.api_key
    if account is None and caller.ip is not None:
        account = f"ip:{caller.ip}"
    found = {
        "account": account,
        "api_key": caller.api_key,
        "org": (known.org if known else None) or caller.org,
        "ip": caller.ip,
    }
    return {scope: value for scope, value in found.items() if value is not None}


def _allow_key(identity: Mapping[str, str]) -> str:
    return "\x1f".join(f"{s}={v}" for s, v in identity.items())


def _covers(decision: Decision, caller: Caller) -> bool:
    """Whether the request is one of those the decision applies to.

    What a gateway does not tell (path, model) is covered only by a decision that covers all.
    """
    applies = decision.applies_to
    return covers(applies.endpoints, caller.path) and covers(applies.models, caller.model)
