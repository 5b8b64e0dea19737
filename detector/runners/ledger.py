"""What `serve` keeps in its SQLite file beside the decisions: the tables and their statements.

Everything that belongs to one checkpoint is written inside one `store.transaction()`, so that the
positions, the state, the decisions and the alerts are always of the same moment.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from detector.dead_letters import DeadLetter
from responders.alerts.ocsf import Alert
from responders.feedback import Feedback, decode_feedback, encode_feedback
from responders.stores.base import StoreUnavailable
from responders.stores.sqlite import SqliteStore

__all__ = ["Journalled", "Ledger", "Posted"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS serve (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions (
  source TEXT PRIMARY KEY, position BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inbox (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, format TEXT NOT NULL, read_at REAL NOT NULL,
  records INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS feedback (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, json BLOB NOT NULL, tick INTEGER
);
CREATE INDEX IF NOT EXISTS feedback_new ON feedback (seq) WHERE tick IS NULL;
CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, json BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS dead_letters (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, json BLOB NOT NULL
);
"""


class Posted(msgspec.Struct, frozen=True):
    """Records of one POST that wait in the inbox."""

    seq: int
    format: str
    read_at: float
    records: list[bytes]


class Journalled(msgspec.Struct, frozen=True):
    """A command and its place in the table."""

    seq: int
    feedback: Feedback


class Ledger:
    """The tables. Writes happen on the connection of a transaction that the caller has open.

    Reads have a connection of their own: they see what is committed, and never wait. They raise
    StoreUnavailable, as the store's do.
    """

    def __init__(self, store: SqliteStore, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with store.transaction() as db:
            for statement in _SCHEMA.split(";"):
                if statement.strip():
                    db.execute(statement)
        self._reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def close(self) -> None:
        """Let go of the reading connection."""
        self._reader.close()

    # The state

    def value(self, name: str) -> bytes | None:
        """A named value, None if it was never set."""
        rows = self._read("SELECT value FROM serve WHERE name = ?", (name,))
        return bytes(rows[0][0]) if rows else None

    def set_value(self, db: sqlite3.Connection, name: str, value: bytes) -> None:
        """Set a named value."""
        db.execute("INSERT OR REPLACE INTO serve VALUES (?, ?)", (name, value))

    def position(self, source: str) -> bytes | None:
        """Where a source was read to, None if it never was."""
        rows = self._read("SELECT position FROM positions WHERE source = ?", (source,))
        return bytes(rows[0][0]) if rows else None

    def set_position(self, db: sqlite3.Connection, source: str, position: bytes) -> None:
        """Say where a source was read to."""
        db.execute("INSERT OR REPLACE INTO positions VALUES (?, ?)", (source, position))

    # The inbox

    def post(
        self, db: sqlite3.Connection, log_format: str, read_at: float, records: Sequence[bytes]
    ) -> None:
        """Put records into the inbox."""
        db.execute(
            "INSERT INTO inbox (format, read_at, records, body) VALUES (?, ?, ?, ?)",
            (log_format, read_at, len(records), msgspec.msgpack.encode(list(records))),
        )

    def waiting(self) -> int:
        """Records in the inbox."""
        return int(self._read("SELECT coalesce(sum(records), 0) FROM inbox")[0][0])

    def posted(self, after: int, limit: int = 20) -> list[Posted]:
        """The next posts after a number, in the order in which they came."""
        rows = self._read(
            "SELECT seq, format, read_at, body FROM inbox WHERE seq > ? ORDER BY seq LIMIT ?",
            (after, limit),
        )
        return [
            Posted(seq, name, read_at, msgspec.msgpack.decode(body, type=list[bytes]))
            for seq, name, read_at, body in rows
        ]

    def take_out(self, db: sqlite3.Connection, up_to: int) -> None:
        """Posts up to this number are part of the state now."""
        db.execute("DELETE FROM inbox WHERE seq <= ?", (up_to,))

    # Commands

    def say(self, db: sqlite3.Connection, feedback: Feedback) -> None:
        """Leave a command for the running service; one whose id is there already is left alone."""
        db.execute(
            "INSERT OR IGNORE INTO feedback (id, json) VALUES (?, ?)",
            (feedback.id, encode_feedback(feedback)),
        )

    def said(self, after: int) -> list[Journalled]:
        """Commands after a number that have no tick yet, in order."""
        rows = self._read(
            "SELECT seq, json FROM feedback WHERE tick IS NULL AND seq > ? ORDER BY seq", (after,)
        )
        return [Journalled(seq, decode_feedback(bytes(json))) for seq, json in rows]

    def journal(self, db: sqlite3.Connection, seq: int, feedback: Feedback) -> None:
        """Keep a command with the tick that the judge gave it."""
        db.execute(
            "UPDATE feedback SET json = ?, tick = ? WHERE seq = ?",
            (encode_feedback(feedback), feedback.tick, seq),
        )

    def is_journalled(self, feedback_id: str) -> bool:
        """Whether a command has its tick."""
        rows = self._read("SELECT tick FROM feedback WHERE id = ?", (feedback_id,))
        return bool(rows) and rows[0][0] is not None

    # Alerts on their way to the sinks

    def send(self, db: sqlite3.Connection, alerts: Iterable[Alert]) -> None:
        """Put alerts into the outbox."""
        db.executemany(
            "INSERT INTO outbox (json) VALUES (?)",
            [(msgspec.json.encode(alert),) for alert in alerts],
        )

    def unsent(self) -> tuple[list[Alert], int]:
        """Alerts in the outbox, oldest first, and the number of the last (0: there is none)."""
        rows = self._read("SELECT seq, json FROM outbox ORDER BY seq")
        alerts = [msgspec.json.decode(json, type=Alert) for _, json in rows]
        return alerts, rows[-1][0] if rows else 0

    def sent(self, db: sqlite3.Connection, up_to: int) -> None:
        """The sinks have taken the alerts up to this number."""
        db.execute("DELETE FROM outbox WHERE seq <= ?", (up_to,))

    # Dead letters

    def bury(self, db: sqlite3.Connection, letters: Iterable[DeadLetter], kept: int) -> None:
        """Keep dead letters, the newest `kept` of them."""
        db.executemany(
            "INSERT INTO dead_letters (json) VALUES (?)",
            [(msgspec.json.encode(letter),) for letter in letters],
        )
        db.execute(
            "DELETE FROM dead_letters WHERE seq <= (SELECT max(seq) FROM dead_letters) - ?", (kept,)
        )

    def buried(self) -> list[DeadLetter]:
        """Dead letters, oldest first."""
        rows = self._read("SELECT json FROM dead_letters ORDER BY seq")
        return [msgspec.json.decode(json, type=DeadLetter) for (json,) in rows]

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._reader.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise StoreUnavailable(f"{self._path}: {error}") from error
