"""The allowlist: who is never decided against, and how an entry matches a caller."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from responders.decisions import SCOPES, Scope

__all__ = ["AllowEntry", "Allowlist", "BadEntry", "canonical_value", "networks_of"]

_MAX_BYTES: Final = 256


class BadEntry(ValueError):
    """A (scope, value) that names nothing; the message says why."""


class AllowEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry: whom, why, who said so, until when (event time; None: for good)."""

    scope: Scope
    value: str
    reason: str = ""
    by: str = ""
    expires_at: float | None = None

    def live(self, now: float) -> bool:
        """Whether it still holds at `now`."""
        return self.expires_at is None or self.expires_at > now


class Allowlist:
    """Entries in memory, matched against an identity: a mapping of scope to value.

    An identity's `ip` also matches entries of scope `cidr` that contain it.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], AllowEntry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: AllowEntry) -> None:
        """Add or replace the entry of the same (scope, value)."""
        self._entries[(entry.scope, entry.value)] = entry

    def remove(self, scope: str, value: str) -> bool:
        """Whether there was one."""
        return self._entries.pop((scope, value), None) is not None

    def entries(self, now: float) -> list[AllowEntry]:
        """Live entries, sorted by (scope, value)."""
        return [e for _, e in sorted(self._entries.items()) if e.live(now)]

    def forget(self, now: float) -> None:
        """Drop entries that ended."""
        for key in [k for k, e in self._entries.items() if not e.live(now)]:
            del self._entries[key]

    def match(self, identity: Mapping[str, str], now: float) -> AllowEntry | None:
        """The first live entry that covers the identity, in order of SCOPES, or None."""
        if not self._entries:
            return None
        for scope in SCOPES:
            for value in _values(identity, scope):
                entry = self._entries.get((scope, value))
                if entry is not None and entry.live(now):
                    return entry
        return None

    def export(self) -> list[Any]:
        """Builtins for a checkpoint, in canonical order."""
        return [msgspec.to_builtins(e) for _, e in sorted(self._entries.items())]

    @classmethod
    def restore(cls, exported: list[Any]) -> Allowlist:
        """What `export` gave."""
        allowlist = cls()
        for entry in msgspec.convert(exported, list[AllowEntry]):
            allowlist.add(entry)
        return allowlist


def canonical_value(scope: str, value: str) -> str:
    """The one spelling of a value: addresses and networks normalised. Raises BadEntry."""
    if scope not in SCOPES:
        raise BadEntry(f"unknown scope {scope!r}: one of {', '.join(SCOPES)}")
    if not value or len(value.encode("utf-8", "surrogatepass")) > _MAX_BYTES:
        raise BadEntry(f"`value` must have 1 to {_MAX_BYTES} bytes")
    try:
        if scope == "ip":
            return str(ipaddress.ip_address(value))
        if scope == "cidr":
            return str(ipaddress.ip_network(value, strict=False))
    except ValueError as error:
        raise BadEntry(f"`value` is not of scope {scope}: {error}") from error
    return value


def networks_of(address: str) -> Iterator[str]:
    """Every network that contains the address, narrowest first; none if it is no address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return
    bits, width = int(ip), ip.max_prefixlen
    make = ipaddress.IPv4Address if ip.version == 4 else ipaddress.IPv6Address
    for prefix in range(width, -1, -1):
        low = bits >> (width - prefix) << (width - prefix)
        yield f"{make(low)}/{prefix}"


def _values(identity: Mapping[str, str], scope: str) -> Iterator[str]:
    value = identity.get(scope)
    if value is not None:
        yield value
    if scope == "cidr" and "ip" in identity:
        yield from networks_of(identity["ip"])
