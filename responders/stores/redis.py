"""Decisions in Redis, where gateways read them (contract 3).

Every write is a compare-and-set on `version` in one Lua script; a batch is one round trip. The
guard spans both of a value's keys: whichever of `decision:` and `shadow:` is newer replaces the
other, so a decision in shadow ends one that was enforced, and followers are told.

`RedisStore` is for threads, `AsyncRedisStore` for asyncio; both speak the same commands.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib import resources
from typing import Any, Final, cast

import msgspec
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from responders.actions.challenge import Passed
from responders.actions.throttle import Left, Limit, Taken
from responders.allowlist import AllowEntry, networks_of
from responders.decisions import SCOPES, Decision
from responders.feedback import RunMode
from responders.settings import RedisSettings
from responders.stores.base import (
    Changes,
    CursorTooOld,
    Identity,
    Revisions,
    StoreUnavailable,
    as_clear,
    bare_hash,
    decode_decision,
    gateway_json,
    kept_until,
    refuse_versions,
    space,
)

__all__ = ["AsyncRedisStore", "RedisLimiter", "RedisStore"]

_log = logging.getLogger(__name__)
# Decisions per script: some 10 us each, so no other client waits for more than a few ms.
_CHUNK: Final = 256
_SCAN: Final = 1000
# Decisions per round trip: some 50 ms, where `redis.timeout_s` is 500.
_AT_ONCE: Final = 20 * _CHUNK

# KEYS: the change stream, then for each decision its key and the one it would replace.
# ARGV: entries kept in the stream, '1' to write whatever is kept, then for each decision: version,
# JSON, milliseconds to keep it, '1' if gateways act on it, and what to tell them if it replaces
# one that they act on.
_APPLY: Final = """
local written = {}
for i = 1, (#KEYS - 1) / 2 do
  local own, other = KEYS[2 * i], KEYS[2 * i + 1]
  local a = 2 + (i - 1) * 5
  local version, kept, replaces = tonumber(ARGV[a + 1]), -1, false
  local compared = {own, other}
  if ARGV[2] == '1' then
    compared, replaces = {}, redis.call('EXISTS', other) == 1
  end
  for _, key in ipairs(compared) do
    local text = redis.call('GET', key)
    if text then
      local ok, decision = pcall(cjson.decode, text)
      if ok and type(decision) == 'table' and tonumber(decision.version) then
        kept = math.max(kept, tonumber(decision.version))
      end
      replaces = key == other
    end
  end
  written[i] = 0
  if version > kept or ARGV[2] == '1' then
    redis.call('SET', own, ARGV[a + 2], 'PX', ARGV[a + 3])
    redis.call('DEL', other)
    written[i] = 1
    if ARGV[a + 4] == '1' then
      redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'decision', ARGV[a + 2])
    elseif replaces then
      redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'decision', ARGV[a + 5])
    end
  end
end
return written
"""

# KEYS: the answer, what the account passed. ARGV: milliseconds to remember the answer, what was
# passed as JSON, milliseconds to keep that.
_LIFT: Final = """
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
"""

# KEYS: the epoch. Never the same twice, not even by a Redis that has forgotten the last one.
_NEW_EPOCH: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local kept = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
redis.call('SET', KEYS[1], string.format('%.0f', math.max(now, kept + 1)))
"""

_Command = tuple[Any, ...]


class _Keys:
    """The names of contract 3."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.stream = prefix + "decisions"
        self.epoch = prefix + "epoch"
        self.mode = prefix + "mode"
        self.policy = prefix + "policy"
        self.revision_allowed = prefix + "revision:allowed"
        self.revision_identities = prefix + "revision:identities"

    def decision(self, where: str, scope: str, value: str) -> str:
        return f"{self.prefix}{where}:{scope}:{value}"

    def allow(self, scope: str, value: str) -> str:
        return f"{self.prefix}allow:{scope}:{value}"

    def identity(self, key_hash: str) -> str:
        return f"{self.prefix}identity:{bare_hash(key_hash)}"

    def limit(self, bucket: str) -> str:
        return f"{self.prefix}limit:{bucket}"

    def passed(self, account: str) -> bytes:
        """What an account passed; its name may hold bytes that are no UTF-8."""
        return f"{self.prefix}challenge:passed:{account}".encode("utf-8", "surrogateescape")

    def answer(self, name: str) -> str:
        return f"{self.prefix}challenge:answer:{name}"

    def pattern(self, kind: str) -> str:
        """A SCAN pattern; the prefix may hold characters that mean something in one."""
        escaped = "".join("\\" + c if c in "*?[]^\\" else c for c in self.prefix)
        return f"{escaped}{kind}:*"


class _Commands:
    """What both stores say to Redis, and how they read its answers. No I/O."""

    def __init__(self, settings: RedisSettings, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.keys = _Keys(settings.prefix)
        self.clock = clock

    def apply(self, decisions: Sequence[Decision], *, force: bool = False) -> list[_Command]:
        refuse_versions(decisions)
        now = self.clock()
        commands: list[_Command] = []
        for start in range(0, len(decisions), _CHUNK):
            names = [self.keys.stream]
            values: list[Any] = [self.settings.changes_kept, "1" if force else "0"]
            for decision in decisions[start : start + _CHUNK]:
                own = space(decision)
                other = "shadow" if own == "decision" else "decision"
                names.append(self.keys.decision(own, decision.scope, decision.value))
                names.append(self.keys.decision(other, decision.scope, decision.value))
                keep_ms = max(1, math.ceil((kept_until(decision, now) - now) * 1000))
                acts = own == "decision"
                # One that had ended before it came only guards. Gateways may go by the key alone,
                # so it must not look like a decision to enforce.
                ended = acts and decision.action != "clear" and decision.expires_at <= now
                shown = as_clear(decision) if ended else decision
                values += [
                    decision.version,
                    gateway_json(shown),
                    keep_ms,
                    "1" if acts else "0",
                    b"" if acts else gateway_json(as_clear(decision)),
                ]
            commands.append(("EVAL", _APPLY, len(names), *names, *values))
        return commands

    @staticmethod
    def applied(answers: Sequence[Any]) -> list[bool]:
        return [bool(written) for chunk in answers for written in chunk]

    def get(self, scope: str, value: str) -> _Command:
        return (
            "MGET",
            self.keys.decision("decision", scope, value),
            self.keys.decision("shadow", scope, value),
        )

    @staticmethod
    def got(texts: Sequence[bytes | None]) -> Decision | None:
        return max(_decoded(texts), key=lambda d: d.version, default=None)

    def allow(self, entry: AllowEntry) -> list[_Command]:
        key = self.keys.allow(entry.scope, entry.value)
        text = msgspec.json.encode(entry)
        revise = ("INCR", self.keys.revision_allowed)
        if entry.expires_at is None:
            return [("SET", key, text), revise]
        left_ms = math.ceil((entry.expires_at - self.clock()) * 1000)
        return [("SET", key, text, "PX", left_ms) if left_ms > 0 else ("DEL", key), revise]

    def disallow(self, scope: str, value: str) -> list[_Command]:
        return [("DEL", self.keys.allow(scope, value)), ("INCR", self.keys.revision_allowed)]

    def set_identity(self, key_hash: str, identity: Identity) -> list[_Command]:
        text = msgspec.json.encode(identity)
        revise = ("INCR", self.keys.revision_identities)
        return [("SET", self.keys.identity(key_hash), text), revise]

    def allows(self, identity: Mapping[str, str]) -> _Command | None:
        names = []
        for scope in SCOPES:
            if scope in identity:
                names.append(self.keys.allow(scope, identity[scope]))
            if scope == "cidr" and "ip" in identity:
                names += [self.keys.allow("cidr", net) for net in networks_of(identity["ip"])]
        return ("MGET", *names) if names else None

    @staticmethod
    def entries(texts: Sequence[bytes | None], now: float) -> list[AllowEntry]:
        kept = [msgspec.json.decode(t, type=AllowEntry) for t in texts if t is not None]
        return [entry for entry in kept if entry.live(now)]

    def stream_state(self) -> list[_Command]:
        return [("GET", self.keys.epoch), ("XINFO", "STREAM", self.keys.stream)]

    def changes_after(self, last: str, limit: int) -> list[_Command]:
        after = ("XRANGE", self.keys.stream, f"({last}", "+", "COUNT", limit + 1)
        return [*self.stream_state(), after]

    @staticmethod
    def read_changes(since: str, limit: int, answers: Sequence[Any]) -> Changes:
        """Raises CursorTooOld."""
        epoch, info, rows = answers
        of_epoch, last = _parse_cursor(since)
        state = _stream_info(info)
        trimmed = state.added is None or state.added > state.length
        gone = trimmed and state.first is not None and _order(last) < _order(state.first)
        if of_epoch != _epoch(epoch) or gone or _order(last) > _order(state.last):
            raise CursorTooOld(f"cursor {since}: take a new snapshot")
        given = rows[:limit]
        decisions = _decoded(_field(fields) for _, fields in given)
        cursor = given[-1][0].decode() if given else last
        return Changes(
            cursor=f"{of_epoch}.{cursor}", decisions=decisions, more=len(rows) > len(given)
        )

    def enforced(self, texts: Sequence[bytes | None]) -> list[Decision]:
        now = self.clock()
        live = (d for d in _decoded(texts) if d.expires_at > now and d.action != "clear")
        return sorted(live, key=lambda d: (d.scope, d.value))


class RedisStore:
    """A DecisionStore in Redis, for threads. Connects when first used.

    `clock` gives event time: keys live for what remains of their decisions. Decisions are kept
    without their evidence.
    """

    def __init__(self, settings: RedisSettings, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._commands = _Commands(settings, clock)
        self._keys = self._commands.keys
        self._client = redis.Redis.from_url(
            settings.url.get_secret_value(),
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            retry=Retry(NoBackoff(), 1),
        )
        self._seen = False  # whether there was a view

    def apply(self, decisions: Sequence[Decision]) -> list[bool]:
        """See DecisionStore."""
        return self._apply(decisions)

    def get(self, scope: str, value: str) -> Decision | None:
        """See DecisionStore."""
        return _Commands.got(self._run([self._commands.get(scope, value)])[0])

    def live(self, now: float) -> list[Decision]:
        """See DecisionStore. Scans: for people, not for gateways."""
        kept = _decoded([*self._scan("decision"), *self._scan("shadow")])
        live = [d for d in kept if d.expires_at > now and d.action != "clear"]
        return sorted(live, key=lambda d: (d.scope, d.value))

    def allow(self, entry: AllowEntry) -> None:
        """See DecisionStore."""
        self._run(self._commands.allow(entry))

    def disallow(self, scope: str, value: str) -> bool:
        """See DecisionStore."""
        return bool(self._run(self._commands.disallow(scope, value))[0])

    def allowed(self, now: float) -> list[AllowEntry]:
        """See DecisionStore. Scans: for people, not for gateways."""
        entries = _Commands.entries(self._scan("allow"), now)
        return sorted(entries, key=lambda e: (e.scope, e.value))

    def allows(self, identity: Mapping[str, str], now: float) -> AllowEntry | None:
        """See DecisionStore."""
        command = self._commands.allows(identity)
        if command is None:
            return None
        return next(iter(_Commands.entries(self._view([command])[0], now)), None)

    def mode(self) -> RunMode:
        """See DecisionStore."""
        return _mode(self._view([("GET", self._keys.mode)])[0])

    def set_mode(self, mode: RunMode) -> None:
        """See DecisionStore."""
        self._run([("SET", self._keys.mode, mode)])

    def init_mode(self, mode: RunMode) -> RunMode:
        """See DecisionStore."""
        return _mode(self._run(_init_mode(self._keys, mode))[1])

    def policy(self) -> bytes | None:
        """See DecisionStore."""
        return cast(bytes | None, self._run([("GET", self._keys.policy)])[0])

    def set_policy(self, text: bytes) -> None:
        """See DecisionStore."""
        self._run([("SET", self._keys.policy, text)])

    def changes(self, since: str | None = None, limit: int = 10_000) -> Changes:
        """See DecisionStore."""
        if since is None:
            cursor, enforced = self.snapshot()
            in_order = sorted(enforced, key=lambda d: (d.scope, d.value))
            return Changes(cursor=cursor, decisions=in_order)
        _, last = _parse_cursor(since)
        answers = self._view(self._commands.changes_after(last, limit), atomic=True)
        return _Commands.read_changes(since, limit, answers)

    def snapshot(self) -> tuple[str, Iterable[Decision]]:
        """See DecisionStore."""
        epoch, info = self._view(self._commands.stream_state())
        return f"{_epoch(epoch)}.{_stream_info(info).last}", self._enforced()

    def _apply(self, decisions: Sequence[Decision], *, force: bool = False) -> list[bool]:
        refuse_versions(decisions)
        written: list[bool] = []
        for some in _portions(decisions):
            written += _Commands.applied(self._run(self._commands.apply(some, force=force)))
        return written

    def _enforced(self) -> Iterator[Decision]:
        keys = self._scan_keys("decision")
        for start in range(0, len(keys), _SCAN):
            texts = self._run([("MGET", *keys[start : start + _SCAN])])[0]
            yield from self._commands.enforced(texts)

    def rebuild(self, decisions: Sequence[Decision]) -> None:
        """See DecisionStore. What stays enforced is enforced throughout."""
        before = [key for kind in ("decision", "shadow") for key in self._scan_keys(kind)]
        self._apply(decisions, force=True)
        self._run(
            [*_leftovers(self._keys, before, decisions), ("EVAL", _NEW_EPOCH, 1, self._keys.epoch)]
        )

    def identity(self, key_hash: str) -> Identity | None:
        """See DecisionStore."""
        return _identity(self._view([("GET", self._keys.identity(key_hash))])[0])

    def set_identity(self, key_hash: str, identity: Identity) -> None:
        """See DecisionStore."""
        self._run(self._commands.set_identity(key_hash, identity))

    def identities(self) -> dict[str, Identity]:
        """See DecisionStore. Scans: when `revisions` says so, not for every look."""
        names = self._scan_keys("identity")
        start = len(self._keys.identity("").encode())
        found: dict[str, Identity] = {}
        for at in range(0, len(names), _SCAN):
            chunk = names[at : at + _SCAN]
            texts = self._run([("MGET", *chunk)])[0]
            for name, text in zip(chunk, texts, strict=True):
                key_hash = name[start:].decode(errors="replace")
                try:
                    identity = _identity(text)
                except msgspec.DecodeError as error:
                    # Other programs write these: one that is wrong must not hide the others.
                    _log.warning("identity of key %s: %s", key_hash, error)
                    continue
                if identity is not None:
                    found[key_hash] = identity
        return found

    def revisions(self) -> Revisions:
        """See DecisionStore."""
        names = (self._keys.revision_allowed, self._keys.revision_identities)
        return Revisions(*(_epoch(text) for text in self._run([("MGET", *names)])[0]))

    def pass_challenge(
        self, account: str, passed: Passed, answer: str, answer_kept_s: float
    ) -> bool:
        """See DecisionStore."""
        left_ms = math.ceil((passed.until - self._commands.clock()) * 1000)
        command = (
            *("EVAL", _LIFT, 2, self._keys.answer(answer), self._keys.passed(account)),
            *(max(1, math.ceil(answer_kept_s * 1000)), msgspec.json.encode(passed)),
            max(1, left_ms),
        )
        return bool(self._run([command])[0])

    def passed(self, account: str) -> Passed | None:
        """See DecisionStore."""
        text = self._run([("GET", self._keys.passed(account))])[0]
        try:
            passed = None if text is None else msgspec.json.decode(text, type=Passed)
        except msgspec.DecodeError as error:
            _log.warning("a key holds no passed challenge: %s", error)
            return None
        return passed if passed is not None and passed.until > self._commands.clock() else None

    def close(self) -> None:
        """See DecisionStore."""
        self._client.close()

    def _view(self, commands: Sequence[_Command], *, atomic: bool = False) -> list[Any]:
        """Answers about the view. One that is gone says nothing: no mode, and nobody allowed."""
        epoch, *answers = self._run([("GET", self._keys.epoch), *commands], atomic=atomic)
        if epoch is None and self._seen:
            raise StoreUnavailable("redis was emptied, and is not filled again yet")
        self._seen = epoch is not None
        return answers

    def _run(self, commands: Sequence[_Command], *, atomic: bool = False) -> list[Any]:
        if not commands:
            return []
        with _clearly(self._client.connection_pool.disconnect):
            pipeline = self._client.pipeline(transaction=atomic)
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            return _checked(pipeline.execute(raise_on_error=False))

    def _scan_keys(self, kind: str) -> list[bytes]:
        keys: set[bytes] = set()  # SCAN may give a key twice
        cursor = 0
        while True:
            command = ("SCAN", cursor, "MATCH", self._keys.pattern(kind), "COUNT", _SCAN)
            cursor, found = self._run([command])[0]
            keys.update(found)
            if int(cursor) == 0:
                return sorted(keys)

    def _scan(self, kind: str) -> list[bytes | None]:
        keys = self._scan_keys(kind)
        chunks = [("MGET", *keys[i : i + _SCAN]) for i in range(0, len(keys), _SCAN)]
        return [text for chunk in self._run(chunks) for text in chunk]


class AsyncRedisStore:
    """The same store for asyncio: what the apply stage writes with."""

    def __init__(self, settings: RedisSettings, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._commands = _Commands(settings, clock)
        self._keys = self._commands.keys
        self._client = _async_client(settings)

    async def apply(self, decisions: Sequence[Decision]) -> list[bool]:
        """See DecisionStore."""
        return await self._apply(decisions)

    async def get(self, scope: str, value: str) -> Decision | None:
        """See DecisionStore."""
        return _Commands.got((await self._run([self._commands.get(scope, value)]))[0])

    async def allow(self, entry: AllowEntry) -> None:
        """See DecisionStore."""
        await self._run(self._commands.allow(entry))

    async def disallow(self, scope: str, value: str) -> bool:
        """See DecisionStore."""
        return bool((await self._run(self._commands.disallow(scope, value)))[0])

    async def mode(self) -> RunMode:
        """See DecisionStore."""
        return _mode((await self._run([("GET", self._keys.mode)]))[0])

    async def set_mode(self, mode: RunMode) -> None:
        """See DecisionStore."""
        await self._run([("SET", self._keys.mode, mode)])

    async def init_mode(self, mode: RunMode) -> RunMode:
        """See DecisionStore."""
        return _mode((await self._run(_init_mode(self._keys, mode)))[1])

    async def set_policy(self, text: bytes) -> None:
        """See DecisionStore."""
        await self._run([("SET", self._keys.policy, text)])

    async def rebuild(self, decisions: Sequence[Decision]) -> None:
        """See DecisionStore. What stays enforced is enforced throughout."""
        before = [key for kind in ("decision", "shadow") for key in await self._scan_keys(kind)]
        await self._apply(decisions, force=True)
        await self._run(
            [*_leftovers(self._keys, before, decisions), ("EVAL", _NEW_EPOCH, 1, self._keys.epoch)]
        )

    async def _apply(self, decisions: Sequence[Decision], *, force: bool = False) -> list[bool]:
        refuse_versions(decisions)
        written: list[bool] = []
        for some in _portions(decisions):
            written += _Commands.applied(await self._run(self._commands.apply(some, force=force)))
        return written

    async def epoch(self) -> str | None:
        """Another one after every rebuild; None when Redis holds no view at all."""
        answer = (await self._run([("GET", self._keys.epoch)]))[0]
        return None if answer is None else _epoch(answer)

    async def set_identity(self, key_hash: str, identity: Identity) -> None:
        """See DecisionStore."""
        await self._run(self._commands.set_identity(key_hash, identity))

    async def close(self) -> None:
        """See DecisionStore."""
        await self._client.aclose()

    async def instance(self) -> str:
        """Which server this is; another one after a restart or a failover. "" if it hides that."""
        said = (await self._run([("INFO", "server")]))[0]
        return str(said.get("run_id", "")) if isinstance(said, dict) else ""

    async def _run(self, commands: Sequence[_Command]) -> list[Any]:
        if not commands:
            return []
        async with _clearly_async(self._client):
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return _checked(await pipeline.execute(raise_on_error=False))

    async def _scan_keys(self, kind: str) -> list[bytes]:
        keys: set[bytes] = set()
        cursor = 0
        while True:
            command = ("SCAN", cursor, "MATCH", self._keys.pattern(kind), "COUNT", _SCAN)
            cursor, found = (await self._run([command]))[0]
            keys.update(found)
            if int(cursor) == 0:
                return sorted(keys)


class RedisLimiter:
    """Throttle buckets in Redis, for several verdict services that must count together.

    `clock` None counts on the server's clock, which all of them share. Belongs to one event loop.
    """

    def __init__(
        self, settings: RedisSettings, *, clock: Callable[[], float] | None = None
    ) -> None:
        self._keys = _Keys(settings.prefix)
        self._client = _async_client(settings)
        # One file, which gateways with Lua of their own ship as well.
        script = resources.files("responders.actions") / "gcra.lua"
        self._script = self._client.register_script(script.read_text("utf-8"))
        self._clock = clock

    async def take(self, limits: Sequence[Limit], costs: Sequence[float], now: float) -> Taken:
        """See Limiter. `now` does not count, the limiter's own clock does."""
        answer = await self._run("take", "", limits, costs)
        left = [
            Left(bool(answer[i]), int(answer[i + 1]), float(answer[i + 2]), float(answer[i + 3]))
            for i in range(2, len(answer), 4)
        ]
        return Taken(bool(answer[0]), tuple(left), int(answer[1]) / 1e6)

    async def settle(
        self, limits: Sequence[Limit], corrections: Sequence[float], charged_at: float, now: float
    ) -> None:
        """See Limiter. `now` does not count, the limiter's own clock does."""
        await self._run("settle", str(round(charged_at * 1e6)), limits, corrections)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def _run(
        self, what: str, charged_at: str, limits: Sequence[Limit], costs: Sequence[float]
    ) -> list[Any]:
        at = "" if self._clock is None else str(round(self._clock() * 1e6))
        values = [what, at, charged_at]
        for limit, cost in zip(limits, costs, strict=True):
            numbers = (cost, limit.quota, limit.window_s, limit.burst)
            values += [repr(float(number)) for number in numbers]
        names = [self._keys.limit(limit.bucket) for limit in limits]
        async with _clearly_async(self._client):
            return cast(list[Any], await self._script(keys=names, args=values))


class _StreamInfo(msgspec.Struct, frozen=True):
    """XINFO STREAM: entries there and ever added (None before Redis 7), first and last id."""

    length: int
    added: int | None
    first: str | None
    last: str


def _async_client(settings: RedisSettings) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(
        settings.url.get_secret_value(),
        socket_timeout=settings.timeout_s,
        socket_connect_timeout=settings.timeout_s,
        retry=redis.asyncio.retry.Retry(NoBackoff(), 1),
    )


@contextmanager
def _clearly(let_go: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Whatever Redis cannot do now as StoreUnavailable.

    `let_go` drops the connections when the server became a replica: after a failover its address
    leads to another, but not for those who hold on to it.
    """
    try:
        yield
    except (redis.RedisError, OSError) as error:
        if isinstance(error, redis.exceptions.ReadOnlyError):
            let_go()
        raise StoreUnavailable(f"redis: {error}") from error


@asynccontextmanager
async def _clearly_async(client: redis.asyncio.Redis) -> AsyncIterator[None]:
    """The same for asyncio."""
    try:
        with _clearly():
            yield
    except StoreUnavailable as error:
        if isinstance(error.__cause__, redis.exceptions.ReadOnlyError):
            await client.connection_pool.disconnect()
        raise


def _checked(answers: list[Any]) -> list[Any]:
    """Answers of a pipeline; raises the first error in it, but that a stream is not there yet."""
    for i, answer in enumerate(answers):
        if isinstance(answer, redis.ResponseError) and "no such key" in str(answer).lower():
            answers[i] = None
        elif isinstance(answer, Exception):
            raise answer
    return answers


def _portions(decisions: Sequence[Decision]) -> Iterator[Sequence[Decision]]:
    """What goes to Redis at a time, so that it is answered within the timeout, however many."""
    for start in range(0, len(decisions), _AT_ONCE):
        yield decisions[start : start + _AT_ONCE]


def _init_mode(keys: _Keys, mode: RunMode) -> list[_Command]:
    return [("SET", keys.mode, mode, "NX"), ("GET", keys.mode)]


def _mode(text: bytes | None) -> RunMode:
    # Whatever an operator wrote there that is not a mode must not enforce anything.
    known: dict[bytes | None, RunMode] = {b"enforce": "enforce", b"off": "off"}
    return known.get(text, "shadow")


def _identity(text: bytes | None) -> Identity | None:
    return None if text is None else msgspec.json.decode(text, type=Identity)


def _leftovers(
    keys: _Keys, before: Sequence[bytes], decisions: Sequence[Decision]
) -> list[_Command]:
    """Deletes keys that no decision of a rebuilt view has."""
    ours = {keys.decision(space(d), d.scope, d.value).encode() for d in decisions}
    gone = [key for key in before if key not in ours]
    return [("UNLINK", *gone[i : i + _SCAN]) for i in range(0, len(gone), _SCAN)]


def _decoded(texts: Iterable[bytes | None]) -> list[Decision]:
    """Decisions; what someone wrote there by hand and is none is passed over, and logged."""
    decisions = []
    for text in texts:
        if text is not None:
            try:
                decisions.append(decode_decision(text))
            except msgspec.DecodeError as error:
                _log.warning("a key holds no decision: %s", error)
    return decisions


def _epoch(text: bytes | None) -> str:
    return "0" if text is None else text.decode()


def _parse_cursor(cursor: str) -> tuple[str, str]:
    """Epoch and stream id. Raises CursorTooOld when it is neither."""
    epoch, _, last = cursor.partition(".")
    parts = last.split("-")
    if len(parts) != 2 or not all(p.isascii() and p.isdigit() and len(p) < 20 for p in parts):
        raise CursorTooOld(f"cursor {cursor!r} is not one of this feed's: take a new snapshot")
    return epoch, last


def _order(stream_id: str) -> tuple[int, int]:
    ms, sequence = stream_id.split("-")
    return int(ms), int(sequence)


def _stream_info(answer: Any) -> _StreamInfo:
    if answer is None:
        return _StreamInfo(0, 0, None, "0-0")
    if not isinstance(answer, dict):
        answer = dict(zip(answer[::2], answer[1::2], strict=True))
    fields = {k.decode() if isinstance(k, bytes) else k: v for k, v in answer.items()}
    first = fields["first-entry"]
    return _StreamInfo(
        length=fields["length"],
        added=fields.get("entries-added"),
        first=None if first is None else first[0].decode(),
        last=fields["last-generated-id"].decode(),
    )


def _field(fields: Any) -> bytes:
    """The `decision` field of a stream entry, whichever shape the client gave it."""
    if isinstance(fields, dict):
        return cast(bytes, fields[b"decision"])
    return cast(bytes, fields[fields.index(b"decision") + 1])
