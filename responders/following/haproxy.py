"""What is enforced as HAProxy's map files, which its configuration (deploy/haproxy) looks up.

| file | key | value |
|---|---|---|
| `state.map` | `mode`, `until` | the kill switch; until when the maps are to be believed |
| | `closed:ACTION` | 1: the action holds on when they are not |
| `decisions.map` | `account:NAME`, `api_key:HASH`, `org:NAME` | a decision, see `entry` |
| `networks.map` | an address or network | likewise, for scopes ip and cidr |
| `allowed.map`, `allowed_networks.map` | likewise | until when it is allowed |
| `identities.map` | the hex of a key's SHA-256 | `account|org` |
| `endpoints.map` | a regular expression of `SET:PATH` | 1: the path is one of the set's |

Times are Unix seconds. Names are percent-encoded as HAProxy's `url_enc` does it: none has a space.

The files are read when HAProxy starts; the runtime API keeps it up to date from then on. A random
`follower` in `state.map` is in HAProxy's memory alone: when it is gone, HAProxy has started anew,
and gets everything again. `until` moves on while the source can be read, so that a follower that
ended leaves nobody refused for longer than `stale_after_s`.
"""

from __future__ import annotations

import fnmatch
import heapq
import ipaddress
import logging
import math
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from responders.actions import problem
from responders.actions.throttle import limits_of
from responders.allowlist import AllowEntry, BadEntry, canonical_value
from responders.decisions import ACTIONS, Decision, is_enforcement, strongest
from responders.following.haproxy_runtime import HaproxyAway, HaproxyRefused, Runtime
from responders.following.source import Followed
from responders.gateways.caller import header_value
from responders.stores.base import Identity

__all__ = ["MAPS", "Haproxy", "encode", "entry"]

_log = logging.getLogger(__name__)
# state.map is the last: what it says of the others is true once they are there.
MAPS: Final = (
    "identities",
    "endpoints",
    "networks",
    "allowed",
    "allowed_networks",
    "decisions",
    "state",
)
_FOREVER: Final = 9_999_999_999
_WRITE_EVERY_S: Final = 2.0
# HAProxy walks the map for each `set map` and `del map`: of 100,000 entries 11 to 18 ms, where the
# whole map takes 0.4 to 1 s (benchmarks.speed.haproxy, on two busy cores). More of them at once go
# as a whole map; `add map` walks nothing.
_CHANGES: Final = 40
_STATUS: Final = {"throttle": 429, "challenge": 401, "block": 403}
_MAX_MS: Final = 2**31 - 1

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Haproxy:
    """A Target: map files in a folder, and the HAProxy that has read them.

    Args:
        maps: the folder, by the path that HAProxy's configuration has.
        runtime: its runtime API.
        stale_after_s: for how long the maps are believed after the source was last read.
    """

    def __init__(self, maps: Path, runtime: Runtime, *, stale_after_s: float) -> None:
        self._folder = maps
        self._runtime = runtime
        self._stale_after_s = stale_after_s
        self._maps = {name: _Map(maps / f"{name}.map") for name in MAPS}
        self._decisions: dict[tuple[str, str], Decision] = {}
        self._expiries: list[tuple[float, str, str]] = []
        self._networks: dict[_Network, dict[str, Decision]] = {}
        self._networks_changed = False
        self._endpoints: dict[tuple[str, ...], int] = {("*",): 0}
        self._token = secrets.token_hex(8)
        self._pushed = False
        self._written = False
        self._trouble = ""

    def __len__(self) -> int:
        """Decisions in force."""
        return len(self._decisions)

    def learn(self, followed: Followed, now: float) -> None:
        """See Target."""
        if followed.snapshot:
            self._forget_all()
        for decision in followed.decisions:
            self._put(decision, now)
        if followed.allowed is not None:
            self._learn_allowed(followed.allowed)
        if followed.identities is not None:
            self._maps["identities"].replace(_identities(followed.identities))
        state = {"mode": followed.mode, "until": str(int(now + self._stale_after_s))}
        state |= {f"closed:{action}": "1" for action in followed.fail_closed}
        self._maps["state"].replace(state)

    def push(self, now: float) -> None:
        """See Target. Raises OSError when the files cannot be written the first time."""
        self._expire(now)
        if self._networks_changed:
            self._map_networks(now)
        troubles = []
        try:
            for name in MAPS:
                self._maps[name].write()
            self._written = True
        except OSError as error:
            # A disk that is full later on must not keep decisions from a HAProxy that runs.
            if not self._written:
                raise
            troubles.append(f"the maps' files cannot be written: {error}")
        try:
            self._push()
        except HaproxyAway as error:
            self._pushed = False
            troubles.append(f"HAProxy is away: {error}")
        except HaproxyRefused as error:
            self._pushed = False
            troubles.append(f"HAProxy does not take its maps ({self._folder}): {error}")
        trouble = "; ".join(troubles)
        if trouble != self._trouble:
            _log.warning("%s", trouble or "HAProxy has its maps again")
            self._trouble = trouble

    def _push(self) -> None:
        state = self._maps["state"]
        holder = self._runtime.show(state.file).get("follower")
        if holder == self._token and self._pushed:
            for name in MAPS:
                self._maps[name].push_changes(self._runtime)
            return
        if holder is not None and self._pushed:
            _log.warning("another follower keeps the same HAProxy's maps: end one of the two")
        for name in MAPS:
            extra = {"follower": self._token} if name == "state" else {}
            self._maps[name].push_whole(self._runtime, extra)
        self._pushed = True
        _log.info("HAProxy has %d decisions", len(self))

    def _put(self, decision: Decision, now: float) -> None:
        try:
            key = (decision.scope, canonical_value(decision.scope, decision.value))
        except BadEntry as error:
            _log.warning("decision %s is passed over: %s", decision.id, error)
            return
        kept = self._decisions.get(key)
        if kept is not None and kept.version >= decision.version:
            return
        self._drop(key)
        # HAProxy does not read bodies, so it cannot tell which model is asked.
        covers = "*" in decision.applies_to.models
        enforced = decision.mode == "enforce" and is_enforcement(decision.action)
        if not (covers and enforced and decision.expires_at > now):
            return
        self._decisions[key] = decision
        heapq.heappush(self._expiries, (decision.expires_at, *key))
        endpoints = self._endpoints_of(decision)
        if key[0] in ("ip", "cidr"):
            network = ipaddress.ip_network(key[1])
            self._networks.setdefault(network, {})[key[0]] = decision
            self._networks_changed = True
        else:
            self._maps["decisions"].put(_key(*key), entry(decision, endpoints))

    def _drop(self, key: tuple[str, str]) -> None:
        if self._decisions.pop(key, None) is None:
            return
        if key[0] in ("ip", "cidr"):
            network = ipaddress.ip_network(key[1])
            del self._networks[network][key[0]]
            if not self._networks[network]:
                del self._networks[network]
            self._networks_changed = True
        else:
            self._maps["decisions"].drop(_key(*key))

    def _expire(self, now: float) -> None:
        while self._expiries and self._expiries[0][0] <= now:
            _, scope, value = heapq.heappop(self._expiries)
            decision = self._decisions.get((scope, value))
            if decision is not None and decision.expires_at <= now:
                self._drop((scope, value))

    def _forget_all(self) -> None:
        self._decisions.clear()
        self._expiries.clear()
        self._networks.clear()
        self._networks_changed = True
        self._maps["decisions"].replace({})

    def _map_networks(self, now: float) -> None:
        """Each network gets the strongest of its own and of those around it.

        HAProxy finds the narrowest alone.
        """
        wanted = {}
        for network, around in _with_those_around(self._networks):
            decisions = [d for one in around for d in self._networks[one].values()]
            best = strongest(decisions, now)
            if best is not None:
                wanted[str(network)] = entry(best, self._endpoints_of(best))
        self._maps["networks"].replace(wanted)
        self._networks_changed = False

    def _endpoints_of(self, decision: Decision) -> int:
        """The number of the decision's set of endpoints; 0 is all of them."""
        patterns = decision.applies_to.endpoints
        if "*" in patterns:
            return 0
        number = self._endpoints.setdefault(patterns, len(self._endpoints))
        self._maps["endpoints"].put(_expression(number, patterns), "1")
        return number

    def _learn_allowed(self, entries: Iterable[AllowEntry]) -> None:
        names: dict[str, str] = {}
        networks: dict[str, str] = {}
        for one in entries:
            until = _FOREVER if one.expires_at is None else int(one.expires_at)
            try:
                value = canonical_value(one.scope, one.value)
            except BadEntry as error:
                _log.warning("an entry of the allowlist is passed over: %s", error)
                continue
            if one.scope in ("ip", "cidr"):
                network = str(ipaddress.ip_network(value))
                networks[network] = str(max(until, int(networks.get(network, 0))))
            else:
                names[_key(one.scope, value)] = str(until)
        self._maps["allowed"].replace(names)
        self._maps["allowed_networks"].replace(_longest(networks))


class _Map:
    """One map: what is wanted in it, what HAProxy has of it, and its file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._wanted: dict[str, str] = {}
        self._there: dict[str, str] = {}
        self._changed: set[str] = set()
        self._dirty = True
        self._write_at = float("-inf")

    def put(self, key: str, value: str) -> None:
        """Want an entry."""
        if self._wanted.get(key) != value:
            self._wanted[key] = value
            self._changed.add(key)
            self._dirty = True

    def drop(self, key: str) -> None:
        """Want it no longer."""
        if self._wanted.pop(key, None) is not None:
            self._changed.add(key)
            self._dirty = True

    def replace(self, entries: Mapping[str, str]) -> None:
        """Want these alone."""
        for key in self._wanted.keys() - entries.keys():
            self.drop(key)
        for key, value in entries.items():
            self.put(key, value)

    def write(self) -> None:
        """Write the file, if it is not up to date and was not written just now."""
        began = time.monotonic()
        if not self._dirty or began < self._write_at:
            return
        new = self.file.with_suffix(".new")
        lines = "".join(f"{key} {value}\n" for key, value in self._wanted.items())
        new.write_text(lines)
        new.replace(self.file)
        self._dirty = False
        now = time.monotonic()
        # Of a large map no more than a twentieth of the time.
        self._write_at = now + max(_WRITE_EVERY_S, 20 * (now - began))

    def push_changes(self, runtime: Runtime) -> None:
        """Tell HAProxy what changed since the last push."""
        if not self._changed:
            return
        added: dict[str, str] = {}
        changed: dict[str, str] = {}
        gone: list[str] = []
        for key in self._changed:
            value, was = self._wanted.get(key), self._there.get(key)
            if value is None:
                if was is not None:
                    gone.append(key)
            elif was is None:
                added[key] = value
            elif was != value:
                changed[key] = value
        if len(changed) + len(gone) > _CHANGES:
            self.push_whole(runtime)
            return
        runtime.change(self.file, added=added, changed=changed, gone=gone)
        for key in gone:
            del self._there[key]
        self._there |= added | changed
        self._changed.clear()

    def push_whole(self, runtime: Runtime, extra: Mapping[str, str] | None = None) -> None:
        """Tell HAProxy everything, and `extra`, which is in no file."""
        runtime.replace(self.file, {**self._wanted, **(extra or {})})
        self._there = dict(self._wanted)
        self._changed.clear()


def encode(name: str) -> str:
    """A name in a map's key or value: as HAProxy's `url_enc` has it.

    >>> encode("acct 1|ü")
    'acct%201%7C%C3%BC'
    """
    return quote(header_value(name), safe="")


def entry(decision: Decision, endpoints: int) -> str:
    """A decision as a map's value: fields between `|`.

    action, level, status to answer (200: let through), retry_after (whole seconds), expires (Unix
    seconds), rank (of two, the higher is stronger), endpoints (the number of their set, 0: all),
    and of a rate: interval and depth of its bucket (ms), quota and window (s) as told, bucket.
    """
    status = _STATUS.get(decision.action, 200)
    retry_after = interval = depth = quota = window = 0
    bucket = ""
    # A rate by the minute. HAProxy sees no tokens, and a day outlives its memory.
    rate = next((limit for limit in limits_of(decision.params) if limit.name == "requests"), None)
    if decision.action in ("throttle", "poison"):
        status = 200 if rate is None else 429
        if rate is not None:
            interval = min(_MAX_MS, max(1, round(rate.window_s * 1000 / rate.quota)))
            depth = min(_MAX_MS, interval * int(rate.burst))
            retry_after = math.ceil(interval / 1000)
            quota, window = problem.whole_quota(rate)
            bucket = encode(rate.bucket)
    rank = ACTIONS.index(decision.action) * 1000 + min(decision.level, 999)
    fields = (
        *(decision.action, decision.level, status, retry_after, int(decision.expires_at)),
        *(rank, endpoints, interval, depth, quota, window, bucket),
    )
    return "|".join(str(field) for field in fields)


def _key(scope: str, value: str) -> str:
    return f"{scope}:{encode(value)}"


def _identities(identities: Mapping[str, Identity]) -> dict[str, str]:
    return {
        key_hash: f"{encode(who.account or '')}|{encode(who.org or '')}"
        for key_hash, who in identities.items()
    }


def _expression(number: int, patterns: Iterable[str]) -> str:
    """`NUMBER:PATH` for paths that match a glob of the set, without white space."""
    globs = "|".join(fnmatch.translate(pattern) for pattern in patterns).replace("\\ ", " ")
    plain = "".join(c if c > " " else f"\\x{ord(c):02x}" for c in globs)
    return f"^{number}:(?:{plain})$"


def _longest(networks: Mapping[str, str]) -> dict[str, str]:
    """Each network allowed for as long as any around it is."""
    parsed = {ipaddress.ip_network(network): until for network, until in networks.items()}
    return {
        str(network): max((parsed[one] for one in around), key=int)
        for network, around in _with_those_around(parsed)
    }


def _with_those_around(
    networks: Collection[_Network],
) -> Iterator[tuple[_Network, list[_Network]]]:
    """Each network, and those of them that contain it, itself too."""
    sizes = {(network.version, network.prefixlen) for network in networks}
    for network in networks:
        wider = [
            network.supernet(new_prefix=prefix)
            for version, prefix in sizes
            if version == network.version and prefix <= network.prefixlen
        ]
        yield network, [one for one in wider if one in networks]
