"""The allowlist: who is never decided against, and how an entry matches a caller."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec

from responders.decisions import SCOPES, Scope

__all__ = [
    "AllowEntry",
    "Allowlist",
    "BadEntry",
    "Covered",
    "address_of",
    "canonical_value",
    "covering",
    "networks_of",
]

_MAX_BYTES: Final = 256
_MAPPED_BITS: Final = 96  # of ::ffff:0:0/96, before an IPv4 address


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


class Covered(msgspec.Struct, frozen=True, kw_only=True):
    """That an entry covers a value: as what scope the value was taken, and why."""

    scope: Scope
    value: str
    why: str
    entry: AllowEntry


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


def covering(
    entries: Iterable[AllowEntry],
    scope: Scope,
    value: str,
    owners: Iterable[tuple[str, str | None, str | None]] = (),
) -> list[Covered]:
    """Every entry that covers a canonical (scope, value), and why; in the order of the entries.

    `owners` are known keys, as `sha256:<hex>` with their account and org: a key is covered by its
    account's and org's entries too, an account by its org's, and for one key by that key's.
    """
    known = [(key, account, org) for key, account, org in owners if account or org]
    found = []
    for entry in entries:
        why = _why(entry, scope, value)
        if why is None and scope == "api_key":
            for key, account, org in known:
                owner = {"account": account, "org": org}.get(entry.scope)
                if key == value and owner == entry.value:
                    why = f"the key belongs to {entry.scope} {entry.value}"
        if why is None and scope == "account" and entry.scope in ("org", "api_key"):
            own = [(key, org) for key, account, org in known if account == value]
            hit = [(key, org) for key, org in own if entry.value in (key, org)]
            if hit and entry.scope == "org":
                which = "" if len(hit) == len(own) else f" for {len(hit)} of its {len(own)} keys"
                why = f"the account belongs to org {entry.value}{which}"
            elif hit:
                why = f"by this one of its {len(own)} known keys only"
        if why is not None:
            found.append(Covered(scope=scope, value=value, why=why, entry=entry))
    return found


def _why(entry: AllowEntry, scope: str, value: str) -> str | None:
    """Why an entry covers the value by itself, or None."""
    if (entry.scope, entry.value) == (scope, value):
        return "it is the entry's own"
    if entry.scope == "cidr" and scope in ("ip", "cidr"):
        inner, outer = ipaddress.ip_network(value), ipaddress.ip_network(entry.value)
        if inner.version == outer.version and inner.subnet_of(outer):  # type: ignore[arg-type]
            return "the address is in the network" if scope == "ip" else "it is in the network"
    return None


def canonical_value(scope: str, value: str) -> str:
    """The one spelling of a value: addresses and networks normalised. Raises BadEntry.

    >>> canonical_value("ip", "::ffff:192.0.2.1")
    '192.0.2.1'
    """
    if scope not in SCOPES:
        raise BadEntry(f"unknown scope {scope!r}: one of {', '.join(SCOPES)}")
    if not value or len(value.encode("utf-8", "surrogatepass")) > _MAX_BYTES:
        raise BadEntry(f"`value` must have 1 to {_MAX_BYTES} bytes")
    try:
        if scope == "ip":
            return str(address_of(value))
        if scope == "cidr":
            network = ipaddress.ip_network(value, strict=False)
            first = address_of(str(network.network_address))
            if network.version == 6 and first.version == 4 and network.prefixlen >= _MAPPED_BITS:
                return f"{first}/{network.prefixlen - _MAPPED_BITS}"
            return str(network)
    except ValueError as error:
        raise BadEntry(f"`value` is not of scope {scope}: {error}") from error
    return value


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address; of ::ffff:192.0.2.1, as a socket for both kinds has it, the IPv4 one.

    Raises ValueError.
    """
    ip = ipaddress.ip_address(text)
    return (ip.ipv4_mapped if ip.version == 6 else None) or ip


def networks_of(address: str) -> Iterator[str]:
    """Every network that contains the address, narrowest first; none if it is no address."""
    try:
        ip = address_of(address)
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
    if scope == "ip" and value is not None and value[:7].lower() == "::ffff:":
        with suppress(ValueError):
            yield str(address_of(value))
    if scope == "cidr" and "ip" in identity:
        yield from networks_of(identity["ip"])
