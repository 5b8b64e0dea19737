"""What only the SQLite store does: one commit with the runner, full disks, history, alerts."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from responders.actions.challenge import Passed
from responders.alerts.ocsf import Alert
from responders.stores.base import StoreUnavailable
from responders.stores.sqlite import SqliteStore
from tests.responders.making import NOW, decision


def open_store(path: Path) -> SqliteStore:
    return SqliteStore(path, clock=lambda: NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_decisions_and_the_runners_rows_are_one_commit(path: Path) -> None:
    store, other = open_store(path), open_store(path)
    with store.transaction() as db:
        db.execute("CREATE TABLE positions (source TEXT, at INTEGER)")
        db.execute("INSERT INTO positions VALUES ('a.log', 100)")
        store.apply([decision()])
        assert other.live(NOW) == []
    assert [d.id for d in other.live(NOW)] == ["d-1"]
    store.close()
    other.close()


def test_an_exception_rolls_all_of_it_back(path: Path) -> None:
    store = open_store(path)

    def fail_halfway() -> None:
        with store.transaction() as db:
            db.execute("CREATE TABLE positions (source TEXT)")
            store.apply([decision()])
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert store.live(NOW) == []
    assert store.apply([decision()]) == [True]
    with pytest.raises(sqlite3.OperationalError, match="no such table"), store.transaction() as db:
        db.execute("SELECT * FROM positions")
    store.close()


def test_everything_is_there_after_a_restart(path: Path) -> None:
    store = open_store(path)
    store.apply([decision()])
    store.set_mode("enforce")
    cursor = store.changes().cursor
    store.close()
    again = open_store(path)
    assert [d.id for d in again.live(NOW)] == ["d-1"]
    assert again.mode() == "enforce"
    assert again.changes(cursor).decisions == []
    assert again.apply([decision()]) == [False]
    again.close()


def test_a_full_disk_is_unavailable_changes_nothing_and_passes(path: Path) -> None:
    store = open_store(path)
    store.apply([decision(1)])
    with store.transaction() as db:
        db.execute("CREATE TABLE inbox (record BLOB)")
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages}")

    def checkpoint() -> None:
        with store.transaction() as db:
            store.apply([decision(2)])
            db.execute("INSERT INTO inbox VALUES (?)", (b"x" * 100_000,))

    with pytest.raises(StoreUnavailable, match="database or disk is full"):
        checkpoint()
    kept = store.get("account", "acct-1")
    assert kept is not None
    assert kept.version == 1
    store._writer.execute("PRAGMA max_page_count = 1000000")
    checkpoint()
    kept = store.get("account", "acct-1")
    assert kept is not None
    assert kept.version == 2
    store.close()


def test_another_writer_that_does_not_let_go_is_unavailable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("responders.stores.sqlite._BUSY_S", 0.05)
    store, other = open_store(path), open_store(path)
    with other.transaction(), pytest.raises(StoreUnavailable, match="locked"):
        store.apply([decision()])
    assert store.apply([decision()]) == [True]
    store.close()
    other.close()


def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot open"):
        open_store(tmp_path / "missing" / "state.db")


def test_a_file_of_another_kind_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        open_store(path)


def test_a_newer_schema_is_refused(path: Path) -> None:
    store = open_store(path)
    with store.transaction() as db:
        db.execute("UPDATE responders SET value = '99' WHERE name = 'schema'")
    store.close()
    with pytest.raises(ValueError, match="schema 99"):
        open_store(path)


def test_history_keeps_every_decision_with_its_evidence(path: Path) -> None:
    store = open_store(path)
    store.apply([decision(1), decision(2, level=2), decision(3, value="acct-2")])
    assert [d.version for d in store.history("account", "acct-1")] == [1, 2]
    assert store.history("account", "acct-1")[0].evidence == decision().evidence
    found = store.find("d-1")
    assert found is not None
    assert found.version == 1
    assert store.find("d-9") is None
    store.close()


def test_alerts_are_kept_once_and_read_newest_first(path: Path) -> None:
    store = open_store(path)
    alerts = [
        Alert(id=f"a{i}", uid="f", version=i, activity="update", time=NOW + i, finding={"i": i})
        for i in range(3)
    ]
    store.keep_alerts(alerts)
    store.keep_alerts(alerts)
    assert [a.id for a in store.alerts()] == ["a2", "a1", "a0"]
    assert [a.finding for a in store.alerts(limit=1)] == [{"i": 2}]
    store.close()


def test_a_commit_is_durable_against_a_power_cut(path: Path) -> None:
    store = open_store(path)
    assert store._writer.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store._writer.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    store.close()


def test_a_file_from_before_challenges_could_be_passed_is_taken(path: Path) -> None:
    before = open_store(path)
    with before.transaction() as db:
        db.execute("DROP TABLE challenge_answers")
        db.execute("DROP TABLE challenge_passed")
    before.close()
    passed = Passed(decision="d-1", difficulty=1, how="return", until=NOW + 60)
    store = open_store(path)
    assert store.pass_challenge("a", passed, "answer-1", 60)
    assert store.passed("a") == passed
    store.close()
