"""What every decision store does, and what they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

from responders.actions.challenge import Passed
from responders.allowlist import AllowEntry
from responders.decisions import Decision, Reason, is_enforcement
from responders.feedback import RunMode

__all__ = [
    "GUARD_S",
    "MAX_VERSION",
    "Changes",
    "CursorTooOld",
    "DecisionStore",
    "Identity",
    "Revisions",
    "StoreUnavailable",
    "as_clear",
    "bare_hash",
    "decode_decision",
    "encode_decision",
    "gateway_json",
    "kept_until",
    "refuse_versions",
    "space",
]

# An older writer that wakes up within a day loses against what is kept, although it has no effect.
GUARD_S: Final = 86_400.0
# Redis compares versions as Lua doubles.
MAX_VERSION: Final = 2**53 - 1


class StoreUnavailable(Exception):
    """The store cannot be read or written now. Try again: every write may be repeated."""


class CursorTooOld(Exception):
    """Changes after the cursor are gone, or the view was rebuilt: take a new snapshot."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who an API key belongs to."""

    account: str | None = None
    org: str | None = None
    plan: str | None = None


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway has to know: decisions in enforcement and clears, oldest first.

    `cursor` continues from here. `more`: there was more than the limit; ask again at once.
    """

    cursor: str
    decisions: list[Decision]
    more: bool = False


class Revisions(msgspec.Struct, frozen=True):
    """Another one after every change: a copy reads whole lists only when it has to."""

    allowed: str
    identities: str


class DecisionStore(Protocol):
    """Where decisions are kept for gateways and people. Every method raises StoreUnavailable.

    One decision is kept per (scope, value), the one of the highest version. Decisions that no
    gateway may act on (shadow, observe) never show in `changes`.
    """

    def apply(self, decisions: Sequence[Decision]) -> list[bool]:
        """Keep each decision unless one of the same or a higher version is kept; which were kept.

        Idempotent. A decision that has ended is kept for a day, as a guard against older writers.
        """

    def get(self, scope: str, value: str) -> Decision | None:
        """What is kept for (scope, value): live, ended or a clear."""

    def live(self, now: float) -> list[Decision]:
        """Decisions that have not ended, clears left out, of both modes, by (scope, value)."""

    def allow(self, entry: AllowEntry) -> None:
        """Add or replace an allowlist entry."""

    def disallow(self, scope: str, value: str) -> bool:
        """Remove an allowlist entry; whether there was one."""

    def allowed(self, now: float) -> list[AllowEntry]:
        """Live allowlist entries, by (scope, value)."""

    def allows(self, identity: Mapping[str, str], now: float) -> AllowEntry | None:
        """The live entry that covers an identity (scope to value), or None."""

    def mode(self) -> RunMode:
        """The kill switch; shadow when it was never set."""

    def set_mode(self, mode: RunMode) -> None:
        """Set the kill switch."""

    def init_mode(self, mode: RunMode) -> RunMode:
        """Set the kill switch if it was never set; what it is now."""

    def policy(self) -> bytes | None:
        """The static limits as `limits.StaticPolicy.encode` made them; None when never set."""

    def set_policy(self, text: bytes) -> None:
        """Set the static limits."""

    def changes(self, since: str | None = None, limit: int = 10_000) -> Changes:
        """Changes after a cursor, or with None a snapshot of what is enforced.

        Raises CursorTooOld.
        """

    def snapshot(self) -> tuple[str, Iterable[Decision]]:
        """A cursor, and then what is enforced, as `changes` gives it: one by one, for many.

        What changes while it is read comes after the cursor too. Reading on raises
        StoreUnavailable.
        """

    def rebuild(self, decisions: Sequence[Decision]) -> None:
        """Replace everything kept by `decisions`, whatever its versions, and start a new epoch."""

    def identity(self, key_hash: str) -> Identity | None:
        """Whose key this is, by the SHA-256 of the key in hex (with or without `sha256:`)."""

    def set_identity(self, key_hash: str, identity: Identity) -> None:
        """Say whose key this is."""

    def identities(self) -> dict[str, Identity]:
        """Whose every known key is, by the SHA-256 of the key in hex."""

    def revisions(self) -> Revisions:
        """Of the allowlist and the identities, as far as they were changed through a store."""

    def pass_challenge(
        self, account: str, passed: Passed, answer: str, answer_kept_s: float
    ) -> bool:
        """Keep what an account passed until it ends, unless the answer was used before.

        Atomic: of several that bring the same answer (its id) one is told True. An answer is
        remembered for `answer_kept_s` seconds of the machine's clock.
        """

    def passed(self, account: str) -> Passed | None:
        """What the account passed last, if that has not ended."""

    def close(self) -> None:
        """Let go of files and connections."""


_decision_decoder: Final = msgspec.json.Decoder(Decision)
_encoder: Final = msgspec.json.Encoder()


def decode_decision(text: bytes | str) -> Decision:
    """A decision from its JSON. Raises msgspec.DecodeError."""
    decision: Decision = _decision_decoder.decode(text)
    return decision


def encode_decision(decision: Decision) -> bytes:
    """The whole decision as JSON."""
    return _encoder.encode(decision)


def gateway_json(decision: Decision) -> bytes:
    """The decision as gateways see it: without its evidence."""
    shown = msgspec.structs.replace(decision, evidence=None)
    # Half the time that a dict of its fields takes. Inside a text the quotes are escaped, and no
    # object comes after the field, so that the last match is it.
    before, _, after = _encoder.encode(shown).rpartition(b'"evidence":null,')
    return before + after


def space(decision: Decision) -> Literal["decision", "shadow"]:
    """Which keys a decision belongs to: gateways read only what is enforced, or clears it."""
    acts = is_enforcement(decision.action) or decision.action == "clear"
    return "decision" if decision.mode == "enforce" and acts else "shadow"


def as_clear(decision: Decision) -> Decision:
    """What gateways are told when a decision that they may not see replaces one they enforce."""
    return msgspec.structs.replace(
        decision,
        action="clear",
        level=0,
        mode="enforce",
        params={},
        evidence=None,
        reason=Reason(code="superseded", text="no longer enforced"),
    )


def kept_until(decision: Decision, now: float) -> float:
    """Until when a decision is kept: its expiry; a day more for a clear, or one that has ended."""
    if decision.action != "clear" and decision.expires_at > now:
        return decision.expires_at
    return max(decision.expires_at, now) + GUARD_S


def bare_hash(key_hash: str) -> str:
    """The hex of a key's hash, without its `sha256:`."""
    return key_hash.removeprefix("sha256:")


def refuse_versions(decisions: Iterable[Decision]) -> None:
    """Raises ValueError for a version that not every store can compare exactly."""
    for decision in decisions:
        if not 0 <= decision.version <= MAX_VERSION:
            raise ValueError(f"decision {decision.id}: version {decision.version} is out of range")
