"""Decisions in one SQLite file, which `serve` also keeps its positions and state in.

The file is in WAL mode with `synchronous=FULL`: a commit that returned survives a power cut. That
is what a 202 for posted events promises, and costs one fsync a commit, of which `serve` makes a
few a second; with NORMAL the last commits can be gone after a power cut.

Readers (the verdict API's copy, the command line) use a connection of their own, so they see
only what was committed, and never wait for the writer.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from responders.actions.challenge import Passed
from responders.alerts.ocsf import Alert
from responders.allowlist import AllowEntry, Allowlist
from responders.decisions import Decision
from responders.feedback import RunMode
from responders.stores.base import (
    Changes,
    CursorTooOld,
    Identity,
    Revisions,
    StoreUnavailable,
    as_clear,
    bare_hash,
    decode_decision,
    encode_decision,
    gateway_json,
    kept_until,
    refuse_versions,
    space,
)
from responders.stores.memory import parse_cursor

__all__ = ["SqliteStore"]

_SCHEMA_VERSION: Final = 1
_BUSY_S: Final = 5.0
_PASSING: Final = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS responders (
  name TEXT PRIMARY KEY, value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS decisions (
  scope TEXT NOT NULL, value TEXT NOT NULL, version INTEGER NOT NULL, space TEXT NOT NULL,
  action TEXT NOT NULL, expires_at REAL NOT NULL, kept_until REAL NOT NULL, json BLOB NOT NULL,
  PRIMARY KEY (scope, value)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS decisions_kept ON decisions (kept_until);
CREATE TABLE IF NOT EXISTS changes (seq INTEGER PRIMARY KEY AUTOINCREMENT, json BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS history (
  scope TEXT NOT NULL, value TEXT NOT NULL, version INTEGER NOT NULL, id TEXT NOT NULL,
  json BLOB NOT NULL, PRIMARY KEY (scope, value, version)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS history_id ON history (id);
CREATE TABLE IF NOT EXISTS allowed (
  scope TEXT NOT NULL, value TEXT NOT NULL, expires_at REAL, json BLOB NOT NULL,
  PRIMARY KEY (scope, value)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS identities (
  key_hash TEXT PRIMARY KEY, json BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alerts (
  id TEXT PRIMARY KEY, uid TEXT NOT NULL, time REAL NOT NULL, json BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS alerts_time ON alerts (time);
CREATE TABLE IF NOT EXISTS challenge_answers (
  id TEXT PRIMARY KEY, kept_until REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS challenge_passed (
  account BLOB PRIMARY KEY, until REAL NOT NULL, json BLOB NOT NULL
) WITHOUT ROWID;
"""


class SqliteStore:
    """A DecisionStore in a file; safe to share between threads, and with other processes.

    `with store.transaction() as db:` makes everything inside one commit, the store's own writes
    and whatever the caller executes on `db`; an exception rolls all of it back. Raises
    StoreUnavailable when SQLite cannot (a full disk, another writer for more than 5 s): nothing
    was changed, so the same call can be made again.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        clock: Callable[[], float] = time.time,
        changes_kept: int = 100_000,
    ) -> None:
        self._clock = clock
        self._changes_kept = changes_kept
        self._lock = threading.RLock()
        self._read_lock = threading.Lock()
        self._depth = 0
        self._path = Path(path)
        with _clearly(f"{self._path}: cannot open it"):
            self._writer = _connect(self._path)
            self._reader = _connect(self._path)
        try:
            self._create()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One commit for everything inside; nested ones join the outermost."""
        with self._lock:
            if self._depth:
                yield self._writer
                return
            with _clearly(str(self._path)):
                self._writer.execute("BEGIN IMMEDIATE")
                self._depth = 1
                try:
                    yield self._writer
                    self._writer.execute("COMMIT")
                except BaseException:
                    # A full disk has rolled back by itself already.
                    if self._writer.in_transaction:
                        self._writer.execute("ROLLBACK")
                    raise
                finally:
                    self._depth = 0

    def apply(self, decisions: Sequence[Decision]) -> list[bool]:
        """See DecisionStore. Inside `transaction()` it is committed with the rest."""
        if not decisions:
            return []
        refuse_versions(decisions)
        now = self._clock()
        with self.transaction() as db:
            kept = [self._apply(db, decision, now) for decision in decisions]
            db.execute("DELETE FROM decisions WHERE kept_until <= ?", (now,))
            db.execute(
                "DELETE FROM changes WHERE seq <= (SELECT max(seq) FROM changes) - ?",
                (self._changes_kept,),
            )
            return kept

    def get(self, scope: str, value: str) -> Decision | None:
        """See DecisionStore."""
        rows = self._read(
            "SELECT json FROM decisions WHERE scope = ? AND value = ? AND kept_until > ?",
            (scope, value, self._clock()),
        )
        return decode_decision(rows[0][0]) if rows else None

    def live(self, now: float) -> list[Decision]:
        """See DecisionStore."""
        rows = self._read(
            "SELECT json FROM decisions WHERE expires_at > ? AND action != 'clear'"
            " ORDER BY scope, value",
            (now,),
        )
        return [decode_decision(json) for (json,) in rows]

    def history(self, scope: str, value: str) -> list[Decision]:
        """Every decision ever applied for (scope, value), with evidence, oldest first."""
        rows = self._read(
            "SELECT json FROM history WHERE scope = ? AND value = ? ORDER BY version",
            (scope, value),
        )
        return [decode_decision(json) for (json,) in rows]

    def of_campaign(self, campaign: str) -> list[Decision]:
        """Every decision ever applied that names the campaign, with evidence, oldest first."""
        rows = self._read(
            "SELECT json FROM history WHERE json_extract(CAST(json AS TEXT), '$.campaign') = ? "
            "ORDER BY version",
            (campaign,),
        )
        return [decode_decision(json) for (json,) in rows]

    def find(self, decision_id: str) -> Decision | None:
        """A decision by its id, live or not."""
        rows = self._read(
            "SELECT json FROM history WHERE id = ? ORDER BY version DESC LIMIT 1", (decision_id,)
        )
        return decode_decision(rows[0][0]) if rows else None

    def allow(self, entry: AllowEntry) -> None:
        """See DecisionStore."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO allowed VALUES (?, ?, ?, ?)",
                (entry.scope, entry.value, entry.expires_at, msgspec.json.encode(entry)),
            )
            _revise(db, "allowed")

    def disallow(self, scope: str, value: str) -> bool:
        """See DecisionStore."""
        with self.transaction() as db:
            gone = db.execute("DELETE FROM allowed WHERE scope = ? AND value = ?", (scope, value))
            _revise(db, "allowed")
            return gone.rowcount > 0

    def allowed(self, now: float) -> list[AllowEntry]:
        """See DecisionStore."""
        rows = self._read(
            "SELECT json FROM allowed WHERE expires_at IS NULL OR expires_at > ?"
            " ORDER BY scope, value",
            (now,),
        )
        return [msgspec.json.decode(json, type=AllowEntry) for (json,) in rows]

    def allows(self, identity: Mapping[str, str], now: float) -> AllowEntry | None:
        """See DecisionStore."""
        allowlist = Allowlist()
        for entry in self.allowed(now):
            allowlist.add(entry)
        return allowlist.match(identity, now)

    def mode(self) -> RunMode:
        """See DecisionStore."""
        rows = self._read("SELECT value FROM responders WHERE name = 'mode'")
        return msgspec.convert(rows[0][0], RunMode) if rows else "shadow"

    def set_mode(self, mode: RunMode) -> None:
        """See DecisionStore."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO responders VALUES ('mode', ?)", (mode,))

    def init_mode(self, mode: RunMode) -> RunMode:
        """See DecisionStore."""
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO responders VALUES ('mode', ?)", (mode,))
            row = db.execute("SELECT value FROM responders WHERE name = 'mode'").fetchone()
            now: RunMode = msgspec.convert(row[0], RunMode)
            return now

    def policy(self) -> bytes | None:
        """See DecisionStore."""
        rows = self._read("SELECT value FROM responders WHERE name = 'policy'")
        return rows[0][0].encode() if rows else None

    def set_policy(self, text: bytes) -> None:
        """See DecisionStore."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO responders VALUES ('policy', ?)", (text.decode(),))

    def changes(self, since: str | None = None, limit: int = 10_000) -> Changes:
        """See DecisionStore."""
        with self._reading() as db:
            epoch = db.execute("SELECT value FROM responders WHERE name = 'epoch'").fetchone()[0]
            # AUTOINCREMENT remembers the last number even when its row is gone.
            row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
            newest = row[0] if row else 0
            if since is None:
                rows = db.execute(
                    "SELECT json FROM decisions WHERE space = 'decision' AND action != 'clear'"
                    " AND expires_at > ? ORDER BY scope, value",
                    (self._clock(),),
                ).fetchall()
                decisions = [decode_decision(json) for (json,) in rows]
                return Changes(cursor=f"{epoch}.{newest}", decisions=decisions)
            of_epoch, last = parse_cursor(since)
            oldest = db.execute("SELECT min(seq) FROM changes").fetchone()[0] or newest + 1
            if of_epoch != epoch or not oldest - 1 <= last <= newest:
                raise CursorTooOld(f"cursor {since}: take a new snapshot")
            rows = db.execute(
                "SELECT seq, json FROM changes WHERE seq > ? ORDER BY seq LIMIT ?", (last, limit)
            ).fetchall()
        cursor = rows[-1][0] if rows else last
        return Changes(
            cursor=f"{epoch}.{cursor}",
            decisions=[decode_decision(json) for _, json in rows],
            more=cursor < newest,
        )

    def snapshot(self) -> tuple[str, Iterable[Decision]]:
        """See DecisionStore."""
        changes = self.changes()
        return changes.cursor, changes.decisions

    def rebuild(self, decisions: Sequence[Decision]) -> None:
        """See DecisionStore."""
        refuse_versions(decisions)
        now = self._clock()
        with self.transaction() as db:
            db.execute("DELETE FROM decisions")
            for decision in decisions:
                self._apply(db, decision, now)
            db.execute("UPDATE responders SET value = value + 1 WHERE name = 'epoch'")

    def identity(self, key_hash: str) -> Identity | None:
        """See DecisionStore."""
        rows = self._read("SELECT json FROM identities WHERE key_hash = ?", (bare_hash(key_hash),))
        return msgspec.json.decode(rows[0][0], type=Identity) if rows else None

    def set_identity(self, key_hash: str, identity: Identity) -> None:
        """See DecisionStore."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO identities VALUES (?, ?)",
                (bare_hash(key_hash), msgspec.json.encode(identity)),
            )
            _revise(db, "identities")

    def identities(self) -> dict[str, Identity]:
        """See DecisionStore."""
        rows = self._read("SELECT key_hash, json FROM identities")
        return {key: msgspec.json.decode(json, type=Identity) for key, json in rows}

    def revisions(self) -> Revisions:
        """See DecisionStore."""
        found = dict(self._read("SELECT name, value FROM responders WHERE name LIKE 'revision:%'"))
        return Revisions(found.get("revision:allowed", "0"), found.get("revision:identities", "0"))

    def pass_challenge(
        self, account: str, passed: Passed, answer: str, answer_kept_s: float
    ) -> bool:
        """See DecisionStore."""
        wall = time.time()
        with self.transaction() as db:
            db.execute("DELETE FROM challenge_answers WHERE kept_until <= ?", (wall,))
            first = db.execute(
                "INSERT OR IGNORE INTO challenge_answers VALUES (?, ?)",
                (answer, wall + answer_kept_s),
            )
            if first.rowcount == 0:
                return False
            db.execute("DELETE FROM challenge_passed WHERE until <= ?", (self._clock(),))
            db.execute(
                "INSERT OR REPLACE INTO challenge_passed VALUES (?, ?, ?)",
                (_raw(account), passed.until, msgspec.json.encode(passed)),
            )
            return True

    def passed(self, account: str) -> Passed | None:
        """See DecisionStore."""
        rows = self._read(
            "SELECT json FROM challenge_passed WHERE account = ? AND until > ?",
            (_raw(account), self._clock()),
        )
        return msgspec.json.decode(rows[0][0], type=Passed) if rows else None

    def keep_alerts(self, alerts: Iterable[Alert]) -> None:
        """Keep alerts for the console and `explain`; one that is kept already is left alone."""
        with self.transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO alerts VALUES (?, ?, ?, ?)",
                [(a.id, a.uid, a.time, msgspec.json.encode(a)) for a in alerts],
            )

    def alerts(self, limit: int = 1000) -> list[Alert]:
        """The newest alerts, newest first."""
        rows = self._read("SELECT json FROM alerts ORDER BY time DESC, id LIMIT ?", (limit,))
        return [msgspec.json.decode(json, type=Alert) for (json,) in rows]

    def close(self) -> None:
        """See DecisionStore."""
        for connection in ("_reader", "_writer"):
            if hasattr(self, connection):
                getattr(self, connection).close()

    def _create(self) -> None:
        known = self._read("SELECT 1 FROM sqlite_master WHERE name = 'responders'")
        if known:
            row = self._read("SELECT value FROM responders WHERE name = 'schema'")[0]
            if row[0] != str(_SCHEMA_VERSION):
                raise ValueError(f"{self._path}: schema {row[0]}; this reads {_SCHEMA_VERSION}")
            # A file from before challenges could be answered has not their tables yet.
            if self._read("SELECT 1 FROM sqlite_master WHERE name = 'challenge_passed'"):
                return
        with self.transaction() as db:
            for statement in _SCHEMA.split(";"):
                if statement.strip():
                    db.execute(statement)
            for name, value in (("schema", _SCHEMA_VERSION), ("epoch", 0)):
                db.execute("INSERT OR IGNORE INTO responders VALUES (?, ?)", (name, str(value)))

    def _apply(self, db: sqlite3.Connection, decision: Decision, now: float) -> bool:
        key = (decision.scope, decision.value)
        row = db.execute(
            "SELECT version, space FROM decisions WHERE scope = ? AND value = ? AND kept_until > ?",
            (*key, now),
        ).fetchone()
        if row is not None and row[0] >= decision.version:
            return False
        json = encode_decision(decision)
        own = space(decision)
        db.execute(
            "INSERT OR REPLACE INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *key,
                decision.version,
                own,
                decision.action,
                decision.expires_at,
                kept_until(decision, now),
                json,
            ),
        )
        db.execute(
            "INSERT OR IGNORE INTO history VALUES (?, ?, ?, ?, ?)",
            (*key, decision.version, decision.id, json),
        )
        if own == "decision":
            db.execute("INSERT INTO changes (json) VALUES (?)", (gateway_json(decision),))
        elif row is not None and row[1] == "decision":
            gone = gateway_json(as_clear(decision))
            db.execute("INSERT INTO changes (json) VALUES (?)", (gone,))
        return True

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of what is committed."""
        with self._read_lock, _clearly(str(self._path)):
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                self._reader.execute("ROLLBACK")

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._read_lock, _clearly(str(self._path)):
            return self._reader.execute(query, values).fetchall()


def _revise(db: sqlite3.Connection, what: str) -> None:
    db.execute(
        "INSERT INTO responders VALUES (?, '1') "
        "ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + 1",
        (f"revision:{what}",),
    )


def _raw(account: str) -> bytes:
    """Account names may hold bytes that are no UTF-8, which SQLite takes as such alone."""
    return account.encode("utf-8", "surrogateescape")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def _clearly(what: str) -> Iterator[None]:
    """SQLite's passing troubles (full, locked, read-only, unreachable) as StoreUnavailable."""
    try:
        yield
    except sqlite3.Error as error:
        # The low byte is the primary code; errors of the sqlite3 module itself carry none.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _PASSING:
            raise
        raise StoreUnavailable(f"{what}: {error}") from error
