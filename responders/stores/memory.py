"""Decisions in this process: the reference for the other stores, and what `replay` needs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from responders.actions.challenge import Passed
from responders.allowlist import AllowEntry, Allowlist
from responders.decisions import Decision
from responders.feedback import RunMode
from responders.stores.base import (
    Changes,
    CursorTooOld,
    Identity,
    Revisions,
    as_clear,
    bare_hash,
    kept_until,
    refuse_versions,
    space,
)

__all__ = ["MemoryStore", "parse_cursor"]


class MemoryStore:
    """A DecisionStore in memory; safe to share between threads.

    `clock` gives event time in Unix seconds; `changes_kept` bounds the change feed.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.time, changes_kept: int = 100_000
    ) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._decisions: dict[tuple[str, str], Decision] = {}
        self._kept_until: dict[tuple[str, str], float] = {}
        self._sweep_at = 1024
        self._allowlist = Allowlist()
        self._identities: dict[str, Identity] = {}
        self._policy: bytes | None = None
        self._revisions = {"allowed": 0, "identities": 0}
        self._passed: dict[str, Passed] = {}
        self._answers: dict[str, float] = {}
        self._mode: RunMode | None = None
        self._epoch = 0
        self._last = 0
        self._changes: deque[tuple[int, Decision]] = deque(maxlen=changes_kept)

    def apply(self, decisions: Sequence[Decision]) -> list[bool]:
        """See DecisionStore."""
        refuse_versions(decisions)
        with self._lock:
            now = self._clock()
            self._sweep(now)
            return [self._apply(decision, now) for decision in decisions]

    def get(self, scope: str, value: str) -> Decision | None:
        """See DecisionStore."""
        with self._lock:
            return self._kept((scope, value), self._clock())

    def live(self, now: float) -> list[Decision]:
        """See DecisionStore."""
        with self._lock:
            kept = sorted(self._decisions.items())
        return [d for _, d in kept if d.expires_at > now and d.action != "clear"]

    def allow(self, entry: AllowEntry) -> None:
        """See DecisionStore."""
        with self._lock:
            self._allowlist.add(entry)
            self._revisions["allowed"] += 1

    def disallow(self, scope: str, value: str) -> bool:
        """See DecisionStore."""
        with self._lock:
            self._revisions["allowed"] += 1
            return self._allowlist.remove(scope, value)

    def allowed(self, now: float) -> list[AllowEntry]:
        """See DecisionStore."""
        with self._lock:
            return self._allowlist.entries(now)

    def allows(self, identity: Mapping[str, str], now: float) -> AllowEntry | None:
        """See DecisionStore."""
        with self._lock:
            return self._allowlist.match(identity, now)

    def mode(self) -> RunMode:
        """See DecisionStore."""
        return self._mode or "shadow"

    def set_mode(self, mode: RunMode) -> None:
        """See DecisionStore."""
        self._mode = mode

    def init_mode(self, mode: RunMode) -> RunMode:
        """See DecisionStore."""
        with self._lock:
            self._mode = self._mode or mode
            return self._mode

    def policy(self) -> bytes | None:
        """See DecisionStore."""
        return self._policy

    def set_policy(self, text: bytes) -> None:
        """See DecisionStore."""
        self._policy = text

    def changes(self, since: str | None = None, limit: int = 10_000) -> Changes:
        """See DecisionStore."""
        with self._lock:
            if since is None:
                now = self._clock()
                enforced = [d for d in self.live(now) if space(d) == "decision"]
                return Changes(cursor=f"{self._epoch}.{self._last}", decisions=enforced)
            epoch, last = parse_cursor(since)
            oldest = self._changes[0][0] if self._changes else self._last + 1
            if epoch != str(self._epoch) or not oldest - 1 <= last <= self._last:
                raise CursorTooOld(f"cursor {since}: take a new snapshot")
            after = [change for change in self._changes if change[0] > last]
            given = after[:limit]
            cursor = given[-1][0] if given else last
            return Changes(
                cursor=f"{self._epoch}.{cursor}",
                decisions=[d for _, d in given],
                more=len(after) > len(given),
            )

    def snapshot(self) -> tuple[str, Iterable[Decision]]:
        """See DecisionStore."""
        changes = self.changes()
        return changes.cursor, changes.decisions

    def rebuild(self, decisions: Sequence[Decision]) -> None:
        """See DecisionStore."""
        refuse_versions(decisions)
        with self._lock:
            now = self._clock()
            self._decisions.clear()
            self._kept_until.clear()
            for decision in decisions:
                self._apply(decision, now)
            self._epoch += 1

    def identity(self, key_hash: str) -> Identity | None:
        """See DecisionStore."""
        return self._identities.get(bare_hash(key_hash))

    def set_identity(self, key_hash: str, identity: Identity) -> None:
        """See DecisionStore."""
        with self._lock:
            self._identities[bare_hash(key_hash)] = identity
            self._revisions["identities"] += 1

    def identities(self) -> dict[str, Identity]:
        """See DecisionStore."""
        with self._lock:
            return dict(self._identities)

    def revisions(self) -> Revisions:
        """See DecisionStore."""
        with self._lock:
            return Revisions(*(str(number) for number in self._revisions.values()))

    def pass_challenge(
        self, account: str, passed: Passed, answer: str, answer_kept_s: float
    ) -> bool:
        """See DecisionStore."""
        with self._lock:
            wall, now = time.time(), self._clock()
            self._answers = {name: until for name, until in self._answers.items() if until > wall}
            if answer in self._answers:
                return False
            self._answers[answer] = wall + answer_kept_s
            self._passed = {name: p for name, p in self._passed.items() if p.until > now}
            self._passed[account] = passed
            return True

    def passed(self, account: str) -> Passed | None:
        """See DecisionStore."""
        passed = self._passed.get(account)
        return passed if passed is not None and passed.until > self._clock() else None

    def close(self) -> None:
        """Nothing to let go of."""

    def _kept(self, key: tuple[str, str], now: float) -> Decision | None:
        return self._decisions.get(key) if self._kept_until.get(key, now) > now else None

    def _apply(self, decision: Decision, now: float) -> bool:
        key = (decision.scope, decision.value)
        kept = self._kept(key, now)
        if kept is not None and kept.version >= decision.version:
            return False
        self._decisions[key] = decision
        self._kept_until[key] = kept_until(decision, now)
        if space(decision) == "decision":
            self._announce(decision)
        elif kept is not None and space(kept) == "decision":
            self._announce(as_clear(decision))
        return True

    def _announce(self, decision: Decision) -> None:
        self._last += 1
        self._changes.append((self._last, decision))

    def _sweep(self, now: float) -> None:
        """Drop what is kept no longer, each time the number of decisions doubled."""
        if len(self._decisions) < self._sweep_at:
            return
        for key in [k for k, until in self._kept_until.items() if until <= now]:
            del self._decisions[key], self._kept_until[key]
        self._sweep_at = max(1024, 2 * len(self._decisions))


def parse_cursor(cursor: str) -> tuple[str, int]:
    """Epoch and number of a cursor `<epoch>.<number>`. Raises CursorTooOld when it is neither."""
    epoch, _, last = cursor.partition(".")
    if not last.isascii() or not last.isdigit() or len(last) > 18:
        raise CursorTooOld(f"cursor {cursor!r} is not one of this feed's: take a new snapshot")
    return epoch, int(last)
