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
from typing import Final, TypeVar

from responders.allowlist import AllowEntry, BadEntry, canonical_value
from responders.decisions import Decision, is_enforcement, strongest
from responders.feedback import RunMode
from responders.gateways.caller import Caller
from responders.limits import NO_LIMITS, BadPolicy, StaticPolicy, covers
from responders.settings import ApiSettings
from responders.stores.base import CursorTooOld, DecisionStore, Identity, StoreUnavailable

__all__ = ["View"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_REMEMBERED: Final = 100_000
_ALLOW_KEPT_S: Final = 0.5
_RETRY_S: Final = 0.5
_PATIENCE_S: Final = 0.15
_PATIENCE_STALE_S: Final = 2.0


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
        self._decisions: dict[tuple[str, str], Decision] = {}
        self._networks: dict[tuple[int, int], int] = {}  # (IP version, prefix length) → decisions
        self._sweep_at = 1024
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
        return len(self._decisions)

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
        matching = []
        for key in identity.items():
            decision = self._decisions.get(key)
            if decision is not None and _covers(decision, caller):
                matching.append(decision)
        if self._networks and "ip" in identity:
            matching += [d for d in self._of_networks(identity["ip"]) if _covers(d, caller)]
        return strongest(matching, self._clock()) if matching else None

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
            mode, policy, snapshot, changes, cursor = await asyncio.to_thread(
                self._read, self._cursor
            )
        except StoreUnavailable as error:
            self._failed_at = time.monotonic()
            self._away = True
            _log.warning("decisions cannot be read: %s", error)
            return
        self._away = False
        if snapshot:
            self._decisions.clear()
            self._networks.clear()
        for decision in changes:
            self._put(decision)
        self._cursor = cursor
        self._mode = mode
        self._put_policy(policy)
        self._read_at = asked_at
        self._sweep()

    def _read(self, cursor: str | None) -> tuple[RunMode, bytes | None, bool, list[Decision], str]:
        """Mode, static limits, whether it is a snapshot, decisions, cursor. Runs in a thread."""
        mode, policy = self._store.mode(), self._store.policy()
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
                return mode, policy, snapshot, decisions, cursor

    def _put_policy(self, text: bytes | None) -> None:
        if text == self._static_text:
            return
        self._static_text = text
        try:
            self._static = NO_LIMITS if text is None else StaticPolicy.decode(text)
        except BadPolicy as error:
            # Whatever somebody wrote there by hand: what held until now goes on holding.
            _log.warning("%s; the former ones hold on", error)

    def _put(self, decision: Decision) -> None:
        try:
            key = (decision.scope, canonical_value(decision.scope, decision.value))
        except BadEntry as error:
            _log.warning("decision %s is passed over: %s", decision.id, error)
            return
        kept = self._decisions.get(key)
        if kept is not None and kept.version >= decision.version:
            return
        self._drop(key)
        if decision.mode == "enforce" and is_enforcement(decision.action):
            self._decisions[key] = decision
            if decision.scope == "cidr":
                self._count_network(key[1], 1)

    def _drop(self, key: tuple[str, str]) -> None:
        if self._decisions.pop(key, None) is not None and key[0] == "cidr":
            self._count_network(key[1], -1)

    def _count_network(self, value: str, change: int) -> None:
        network = ipaddress.ip_network(value)
        size = (network.version, network.prefixlen)
        self._networks[size] = self._networks.get(size, 0) + change
        if self._networks[size] <= 0:
            del self._networks[size]

    def _of_networks(self, address: str) -> list[Decision]:
        ip = ipaddress.ip_address(address)
        found = []
        for version, prefix in self._networks:
            if version == ip.version:
                network = ipaddress.ip_network((ip, prefix), strict=False)
                decision = self._decisions.get(("cidr", str(network)))
                if decision is not None:
                    found.append(decision)
        return found

    def _sweep(self) -> None:
        """Drop decisions that ended, each time their number doubled."""
        if len(self._decisions) < self._sweep_at:
            return
        now = self._clock()
        for key in [k for k, d in self._decisions.items() if d.expires_at <= now]:
            self._drop(key)
        self._sweep_at = max(1024, 2 * len(self._decisions))


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
