"""A local copy of what is enforced, fed by the change feed of the verdict API.

A thread polls `GET /v1/decisions` and keeps the copy current: kill switch, allowlist and decisions.
Looking a caller up in it is a few dictionary look-ups, and never waits for anything.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Final, NamedTuple

import httpx

__all__ = ["ACTIONS", "SECRET_HEADER", "Caller", "Copy", "Decision", "FeedError"]

SECRET_HEADER: Final = "X-Velvetrope-Secret"  # noqa: S105  a name, not a secret
# In order of strength: precedence compares positions in this tuple.
ACTIONS: Final = ("clear", "observe", "throttle", "challenge", "poison", "block")
_STRENGTH: Final = {action: i for i, action in enumerate(ACTIONS)}
_ENFORCED: Final = frozenset(ACTIONS[2:])
_SCOPES: Final = ("account", "api_key", "org", "ip", "cidr")
_LONGEST_PAUSE_S: Final = 2.0
_AT_ONCE: Final = 200  # decisions read between two pauses that leave the interpreter to others
_PAUSE_S: Final = 0.001
_EVERYTHING: Final = ("*",)

_log = logging.getLogger(__name__)


class FeedError(Exception):
    """The verdict API answered with something that is not its feed; the text says what."""


class Caller(NamedTuple):
    """Who calls, and for what. None: not known.

    `api_key` is `sha256:` and the hex of the key's SHA-256; `endpoint` is the path without query.
    """

    account: str | None = None
    api_key: str | None = None
    org: str | None = None
    ip: str | None = None
    endpoint: str | None = None
    model: str | None = None
    plan: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is enforced against one (scope, value): the fields of contract 2 that a gateway sees."""

    id: str
    version: int
    scope: str
    value: str
    action: str
    level: int
    params: Mapping[str, Any]
    endpoints: tuple[str, ...]
    models: tuple[str, ...]
    campaign: str | None
    issued_at: float
    expires_at: float

    @property
    def subject(self) -> str:
        """Whom poisoned answers are the same for: the campaign, or who the decision is about."""
        return self.campaign or self.value


# A decision as it is kept: strings, numbers and tuples of them only, in an exact tuple, which the
# garbage collector stops tracking. 300,000 objects that it visits would be pauses of the process.
_Kept = tuple[Any, ...]
_VERSION, _EXPIRES, _ACTION, _LEVEL, _ENDPOINTS, _MODELS = 0, 1, 2, 3, 6, 7
# (IP version, prefix length) → the network's leading bits → what is kept.
_Networks = dict[tuple[int, int], dict[int, Any]]


@dataclass(slots=True)
class _State:
    """One generation of the copy; a snapshot replaces it whole."""

    cursor: str = ""
    by_scope: dict[str, dict[str, _Kept]] = field(
        default_factory=lambda: {scope: {} for scope in _SCOPES}
    )
    networks: _Networks = field(default_factory=dict)
    sweep_at: int = 1024
    of_models: bool = False  # whether any decision ever covered some models only

    def __len__(self) -> int:
        return sum(len(kept) for kept in self.by_scope.values())

    def put(self, fields: Mapping[str, Any]) -> None:
        """Take one decision of the feed, unless a newer one is there."""
        scope, value = str(fields["scope"]), str(fields["value"])
        values = self.by_scope.get(scope)
        if values is None:
            return
        where = None
        if scope in ("ip", "cidr"):
            try:
                value, where = _canonical(scope, value)
            except ValueError:
                _log.warning("decision %s is passed over: %s %r", fields["id"], scope, value)
                return
        known = values.get(value)
        version = int(fields["version"])
        if known is not None and known[_VERSION] >= version:
            return
        if fields["mode"] != "enforce" or fields["action"] not in _ENFORCED:
            values.pop(value, None)
            if where is not None:
                self.networks.get(where[0], {}).pop(where[1], None)
            return
        applies = fields.get("applies_to") or {}
        kept = values[value] = (
            version,
            float(fields["expires_at"]),
            sys.intern(str(fields["action"])),
            int(fields["level"]),
            str(fields["id"]),
            json.dumps(fields.get("params") or {}),
            _patterns(applies.get("endpoints")),
            _patterns(applies.get("models")),
            fields.get("campaign"),
            float(fields["issued_at"]),
            scope,
            value,
        )
        if kept[_MODELS] != _EVERYTHING:
            self.of_models = True
        if where is not None:
            size, bits = where
            if size not in self.networks:
                # Readers walk over it: what they have in hand must not change its size.
                self.networks = {**self.networks, size: {}}
            self.networks[size][bits] = kept

    def sweep(self, now: float) -> None:
        """Drop what has ended, each time the number of decisions doubled."""
        if len(self) < self.sweep_at:
            return
        every: list[dict[Any, _Kept]] = [*self.by_scope.values(), *self.networks.values()]
        for values in every:
            for key in [k for k, kept in values.items() if kept[_EXPIRES] <= now]:
                del values[key]
        self.sweep_at = max(1024, 2 * len(self))


@dataclass(slots=True)
class _Allowed:
    """The allowlist: scope to value to the time at which the entry ends."""

    tag: str = ""
    by_scope: dict[str, dict[str, float]] = field(default_factory=dict)
    networks: _Networks = field(default_factory=dict)

    @classmethod
    def of(cls, tag: str, entries: Iterable[Mapping[str, Any]]) -> _Allowed:
        allowed = cls(tag)
        for entry in entries:
            scope, value = str(entry["scope"]), str(entry["value"])
            until = float("inf") if entry.get("expires_at") is None else entry["expires_at"]
            if scope in ("ip", "cidr"):
                try:
                    value, where = _canonical(scope, value)
                except ValueError:
                    continue
                if where is not None:
                    allowed.networks.setdefault(where[0], {})[where[1]] = until
            allowed.by_scope.setdefault(scope, {})[value] = until
        return allowed


@dataclass(frozen=True, slots=True, eq=False)
class _Policy:
    """What holds without a decision: where there are static limits, and what fails closed."""

    tag: str = ""
    fail_closed: frozenset[str] = frozenset()
    # Plans, endpoints and models of each limit.
    limits: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = ()

    @classmethod
    def of(cls, tag: str, policy: Mapping[str, Any]) -> _Policy:
        limits = tuple(
            (
                _patterns(limit.get("plans")),
                _patterns(limit.get("endpoints")),
                _patterns(limit.get("models")),
            )
            for limit in policy["limits"]
        )
        return cls(tag, frozenset(map(str, policy["fail_closed"])), limits)


class Copy:
    """What is enforced, as the verdict API last told.

    Args:
        url: of the verdict API, such as `http://127.0.0.1:8470`.
        secret: what `api.secret` of the service is, if it has one.
        refresh_s: seconds between two looks at the feed; half a second keeps the promise that the
            kill switch holds within one.
        stale_after_s: seconds without an answer of the feed after which the copy is `stale`.
        timeout_s: for an answer of the feed. A snapshot may take ten times as long.
        clock: Unix seconds, what expiries compare with.
        transport: an httpx transport in place of the network.

    `start` begins to follow, in a thread that does not keep the process alive. After a fork the
    child starts a thread of its own when it calls `start`.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        refresh_s: float = 0.4,
        stale_after_s: float = 5.0,
        timeout_s: float = 1.0,
        clock: Callable[[], float] = time.time,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.stale_after_s = stale_after_s
        self._url = url.rstrip("/") + "/v1/decisions"
        self._identities_url = url.rstrip("/") + "/v1/identities"
        self._headers = {} if secret is None else {SECRET_HEADER: secret}
        self._refresh_s = refresh_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._transport = transport
        self._state = _State()
        self._allowed = _Allowed()
        self._policy = _Policy()
        # Key to account, organisation, plan.
        self._identities: dict[str, tuple[str | None, str | None, str | None]] = {}
        self._identities_tag = ""
        self._mode = "shadow"
        self._read_at = float("-inf")
        self._failing = False
        self._have = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._pid = -1
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Follow the feed from now on. Nothing happens when it already does."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._follow, args=(self._stop,), name="velvetrope-copy", daemon=True
            )
            self._thread.start()
            self._pid = os.getpid()

    def close(self, *, wait: bool = True) -> None:
        """Stop following; with `wait`, return when the thread has ended."""
        self._stop.set()
        if wait and self._thread is not None and self._pid == os.getpid():
            self._thread.join()
        self._pid = -1

    def __enter__(self) -> Copy:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the copy has been read once; whether it has."""
        return self._have.wait(timeout_s)

    def __len__(self) -> int:
        return len(self._state)

    @property
    def mode(self) -> str:
        """The kill switch as last read: `enforce`, `shadow` or `off`."""
        return self._mode

    @property
    def age_s(self) -> float:
        """Seconds since the copy was last known to be true; infinite before it was first read."""
        return time.monotonic() - self._read_at

    @property
    def stale(self) -> bool:
        """Whether the feed has been silent for longer than `stale_after_s`."""
        return self.age_s > self.stale_after_s

    def resolve(self, caller: Caller) -> Caller:
        """The caller with what is known of its key, and with an account whenever anything is known.

        As at every gateway: the key's own account is first, then the one that was given, then the
        key's hash, then `ip:` and the address.
        """
        account, api_key, org, ip, endpoint, model, plan = caller
        if api_key is not None and (known := self._identities.get(api_key)) is not None:
            account, org, plan = known[0] or account, known[1] or org, known[2] or plan
        if account is None:
            account = api_key or (None if ip is None else f"ip:{ip}")
        return Caller(account, api_key, org, ip, endpoint, model, plan)

    def find(self, caller: Caller) -> Decision | None:
        """The decision in force for a caller, or None.

        Kill switch, then allowlist, then the strongest live decision over all matching scopes that
        covers the endpoint and the model. An endpoint or model that is not known is covered only
        by a decision that covers all.
        """
        if self._mode != "enforce":
            return None
        state = self._state
        by_scope = state.by_scope
        found: list[_Kept] = []
        account, api_key, org, ip, *_ = caller
        if account is not None and (kept := by_scope["account"].get(account)) is not None:
            found.append(kept)
        if api_key is not None and (kept := by_scope["api_key"].get(api_key)) is not None:
            found.append(kept)
        if org is not None and (kept := by_scope["org"].get(org)) is not None:
            found.append(kept)
        if ip is not None:
            if (kept := by_scope["ip"].get(ip)) is not None:
                found.append(kept)
            if state.networks:
                found += _containing(state.networks, ip)
        if not found:
            return None
        now = self._clock()
        live = [
            k
            for k in found
            if k[_EXPIRES] > now
            and _covered(k[_ENDPOINTS], caller.endpoint)
            and _covered(k[_MODELS], caller.model)
        ]
        if not live or self._allows(caller, now):
            return None
        return _decision(max(live, key=lambda k: (_STRENGTH[k[_ACTION]], k[_LEVEL], k[_VERSION])))

    def depends_on_model(self, caller: Caller) -> bool:
        """Whether a decision about the caller covers some models only."""
        state = self._state
        if not state.of_models:
            return False
        found = [state.by_scope[scope].get(getattr(caller, scope) or "") for scope in _SCOPES[:4]]
        if caller.ip is not None:
            found += _containing(state.networks, caller.ip)
        return any(k is not None and k[_MODELS] != _EVERYTHING for k in found)

    @property
    def fail_closed(self) -> frozenset[str]:
        """Actions that the service's policy wants kept up when nothing can be known."""
        return self._policy.fail_closed

    def is_limited(self, caller: Caller) -> bool:
        """Whether a static limit may hold for the request; a model that is not known may be any."""
        policy = self._policy
        if not policy.limits or self._mode != "enforce":
            return False
        may = _is_limited(policy, caller.plan, caller.endpoint, caller.model)
        # The service sees neither address nor organisation, by which a caller may be allowed here.
        return may and not self.allows(caller)

    def allows(self, caller: Caller) -> bool:
        """Whether a caller is on the allowlist."""
        return self._allows(caller, self._clock())

    def _allows(self, caller: Caller, now: float) -> bool:
        allowed = self._allowed
        if not allowed.by_scope:
            return False
        for scope in _SCOPES[:4]:
            until = allowed.by_scope.get(scope, {}).get(getattr(caller, scope) or "")
            if until is not None and until > now:
                return True
        if caller.ip is None or not allowed.networks:
            return False
        return any(until > now for until in _containing(allowed.networks, caller.ip))

    # -- the threads --------------------------------------------------------------------------

    def _follow(self, stop: threading.Event) -> None:
        snapshot: threading.Thread | None = None
        with self._client(self._timeout_s) as client:
            failed = 0
            while not stop.is_set():
                if self._state.cursor:
                    current = self._tried(self._read_changes, client)
                    failed = 0 if current is not None else min(failed + 1, 8)
                else:
                    current = False
                if current is False and (snapshot is None or not snapshot.is_alive()):
                    # In a thread of its own: it can take seconds, and the kill switch must not
                    # wait for it (an answer of 410 tells the mode too).
                    snapshot = threading.Thread(
                        target=self._tried,
                        args=(self._take_snapshot, stop),
                        name="velvetrope-snapshot",
                        daemon=True,
                    )
                    snapshot.start()
                    snapshot.join(self._refresh_s)
                # Followers that started together need not ask together.
                pause = min(self._refresh_s * 2**failed, max(_LONGEST_PAUSE_S, self._refresh_s))
                stop.wait(pause * random.uniform(0.75, 1.0))  # noqa: S311  not a secret
        if snapshot is not None:
            snapshot.join()

    def _client(self, timeout_s: float) -> httpx.Client:
        return httpx.Client(headers=self._headers, timeout=timeout_s, transport=self._transport)

    def _tried(self, read: Callable[[Any], bool], argument: Any) -> bool | None:
        """What `read` gives, or None when it fails; the first failure in a row is a warning."""
        try:
            whole = read(argument)
        except (httpx.HTTPError, FeedError, KeyError, ValueError, TypeError) as error:
            level = logging.DEBUG if self._failing else logging.WARNING
            _log.log(level, "decisions cannot be read: %s: %s", type(error).__name__, error)
            self._failing = True
            return None
        if self._failing and whole:
            _log.info("decisions are read again")
            self._failing = False
        return whole

    def _read_changes(self, client: httpx.Client) -> bool:
        """Bring the copy up to date; False when the cursor is too old."""
        state = self._state
        more = True
        while more:
            asked_at = time.monotonic()
            with client.stream("GET", self._url, params=self._query(state.cursor)) as answer:
                if answer.status_code == 410:
                    for name, value in _members(answer.iter_text()):
                        if name == "mode":
                            self._mode = str(value)
                    return False
                state.cursor, more, identities = self._read(answer, state)
            if state is self._state:
                self._read_at = asked_at
            self._read_identities(client, identities)
        state.sweep(self._clock())
        return True

    def _take_snapshot(self, stop: threading.Event) -> bool:
        """Read everything into a new state, which then takes the place of the old."""
        state = _State()
        with self._client(self._timeout_s * 10) as client:
            more = True
            while more and not stop.is_set():
                asked_at = time.monotonic()
                # A snapshot is followed by a look at what changed while it was taken.
                first = not state.cursor
                with client.stream("GET", self._url, params=self._query(state.cursor)) as answer:
                    state.cursor, more, identities = self._read(answer, state)
                    more = more or first
            if stop.is_set():
                return True
            self._read_identities(client, identities)
            self._state = state
            self._read_at = asked_at
            self._have.set()
        return True

    def _read_identities(self, client: httpx.Client, tag: str) -> None:
        """Whose every known key is, when that has changed."""
        if tag == self._identities_tag:
            return
        answer = client.get(self._identities_url)
        if answer.status_code != 200:
            raise FeedError(f"{self._identities_url} answered {answer.status_code}")
        self._identities = {
            f"sha256:{key.removeprefix('sha256:')}": (
                found.get("account"),
                found.get("org"),
                found.get("plan"),
            )
            for key, found in answer.json()["identities"].items()
        }
        self._identities_tag = tag

    def _query(self, cursor: str) -> dict[str, str]:
        tags = {"allow": self._allowed.tag, "policy": self._policy.tag, "since": cursor}
        return {name: value for name, value in tags.items() if value}

    def _read(self, answer: httpx.Response, state: _State) -> tuple[str, bool, str]:
        """Take one page into `state`: the cursor after it, whether more waits, identities' tag."""
        if answer.status_code != 200:
            hint = f": {SECRET_HEADER} is missing or wrong" if answer.status_code == 401 else ""
            raise FeedError(f"{self._url} answered {answer.status_code}{hint}")
        told: dict[str, Any] = {}
        count = 0
        for name, value in _members(answer.iter_text()):
            if name == "decisions[]":
                try:
                    state.put(value)
                except (KeyError, TypeError, ValueError) as error:
                    # One that is none must not keep the others, and the kill switch, from us.
                    _log.warning("a decision is passed over: %r", error)
                count += 1
                if not count % _AT_ONCE:
                    time.sleep(_PAUSE_S)
            else:
                told[name] = value
                if name == "mode":
                    self._mode = str(value)
        if "allow" in told:
            self._allowed = _Allowed.of(str(told["allow_tag"]), told["allow"])
        if "policy" in told:
            self._policy = _Policy.of(str(told["policy_tag"]), told["policy"])
        return str(told["cursor"]), told.get("more") is True, str(told.get("identities_tag", ""))


def _members(chunks: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """The members of a JSON object as they arrive; of an array of objects, `name[]` for each.

    A snapshot can be 100 MB, of which this holds a chunk and an item at a time. Raises FeedError
    when it is no such object, or ends early.
    """
    decoder = json.JSONDecoder()
    text, at = "", 0

    def have() -> bool:
        # Make sure that something stands at `at`, past white space.
        nonlocal text, at
        while True:
            while at < len(text) and text[at] in " \t\r\n":
                at += 1
            if at < len(text):
                return True
            chunk = next(chunks, None)
            if chunk is None:
                return False
            text, at = chunk, 0

    def take(expected: str) -> str:
        nonlocal at
        if not have() or text[at] not in expected:
            raise FeedError(f"not a feed: {expected!r} expected in {text[at : at + 40]!r}")
        at += 1
        return text[at - 1]

    def value() -> Any:
        nonlocal text, at
        have()
        while True:
            try:
                found, end = decoder.raw_decode(text, at)
                # A number may go on in the next chunk: of "1." the decoder takes the 1.
                if text[end : end + 1] and text[end] in " \t\r\n,:]}":
                    at = end
                    return found
            except json.JSONDecodeError:
                pass
            chunk = next(chunks, None)
            if chunk is None:
                raise FeedError(f"not a feed: it ends within {text[at : at + 40]!r}")
            text, at = text[at:] + chunk, 0

    take("{")
    while True:
        name = value()
        take(":")
        have()
        if name == "decisions" and text[at : at + 1] == "[":
            at += 1
            if have() and text[at] == "]":
                at += 1
            else:
                while True:
                    yield f"{name}[]", value()
                    if take(",]") == "]":
                        break
        else:
            yield name, value()
        if take(",}") == "}":
            return


def _canonical(scope: str, value: str) -> tuple[str, tuple[tuple[int, int], int] | None]:
    """The one spelling of an address or network; of a network, where to keep it too."""
    if scope == "ip":
        return str(ipaddress.ip_address(value)), None
    network = ipaddress.ip_network(value, strict=False)
    size = (network.version, network.prefixlen)
    bits = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
    return str(network), (size, bits)


@lru_cache(maxsize=65_536)
def _bits(address: str) -> tuple[int, int, int]:
    """IP version, width, and the address as a number; version 0 for what is none."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return 0, 0, 0
    return ip.version, ip.max_prefixlen, int(ip)


def _containing(networks: _Networks, address: str) -> list[Any]:
    """What is kept of the networks that contain an address."""
    version, width, bits = _bits(address)
    found = []
    for (of_version, prefix), kept in networks.items():
        if of_version == version:
            one = kept.get(bits >> (width - prefix))
            if one is not None:
                found.append(one)
    return found


@lru_cache(maxsize=1024)
def _matches(patterns: tuple[str, ...], value: str) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def _covered(patterns: tuple[str, ...], value: str | None) -> bool:
    return "*" in patterns or (value is not None and _matches(patterns, value))


@lru_cache(maxsize=1024)
def _is_limited(policy: _Policy, plan: str | None, endpoint: str | None, model: str | None) -> bool:
    return any(
        _covered(plans, plan)
        and _covered(endpoints, endpoint)
        and (model is None or _covered(models, model))
        for plans, endpoints, models in policy.limits
    )


@lru_cache(maxsize=1024)
def _interned(patterns: tuple[str, ...]) -> tuple[str, ...]:
    return patterns


def _patterns(given: Any) -> tuple[str, ...]:
    return _EVERYTHING if given is None or given == ["*"] else _interned(tuple(map(str, given)))


def _decision(kept: _Kept) -> Decision:
    version, expires_at, action, level, name, params, endpoints, models, *rest = kept
    campaign, issued_at, scope, value = rest
    return Decision(
        id=name,
        version=version,
        scope=scope,
        value=value,
        action=action,
        level=level,
        params=json.loads(params),
        endpoints=endpoints,
        models=models,
        campaign=campaign,
        issued_at=issued_at,
        expires_at=expires_at,
    )
