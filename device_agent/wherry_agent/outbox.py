"""The outbox: what the device has to say, on disk until the ingest has stored it.

SQLite with a write-ahead log and ``synchronous=FULL``: after `add` returns, a pulled plug
loses nothing of it. The broker's word is not enough to drop a message (mosquitto lost
acknowledged ones when it was killed); only the ingest's own acknowledgement is.

Bounded by bytes and age: the oldest windows go first and are counted, then the oldest
events. A message's bytes are fixed when it is added and never change.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry_contract.errors import StoreError
from wherry_contract.messages import Ack, Place

from .store import set_aside

_FULL: Final = sqlite3.SQLITE_FULL
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS message (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    key TEXT UNIQUE,
    at REAL NOT NULL,
    payload BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS told (key TEXT PRIMARY KEY, at REAL NOT NULL);
"""
_KEYS_KEPT: Final = 256


@dataclass(frozen=True)
class Message:
    """One thing to say; `kind` is its channel: ``window`` or ``event``."""

    seq: int
    kind: str
    payload: bytes


class Outbox:
    """Messages in the order of their sequence. Safe to call from threads."""

    def __init__(self, folder: Path, device: str, *, mib: float, days: float) -> None:
        """Open the outbox in a folder; a damaged one is set aside (see `damaged`).

        Args:
            folder: where ``outbox.db`` lies.
            device: the device's id.
            mib: what the messages may take.
            days: how old a message may get.

        Raises:
            StoreError: D01 or D06.
        """
        self._path = folder / "outbox.db"
        self._device = device
        self._limit_bytes = int(mib * 2**20)
        self._limit_seconds = days * 86_400
        self._lock = threading.Lock()
        self.damaged: Path | None = None
        self.dropped = 0
        try:
            self._database = self._open()
        except sqlite3.DatabaseError as error:
            if _is_operational(error):
                raise _store_error(error) from error
            self.damaged = self._set_aside()
            self._database = self._open()
        self._bytes = self._sum()
        self.spool = self._fact("spool", secrets.token_hex(8))
        self.dropped = int(self._fact("dropped", "0"))
        self.newest = self._newest()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            _check(database)
            database.executescript(_SCHEMA)
        except sqlite3.DatabaseError:
            database.close()
            raise
        return database

    def _set_aside(self) -> Path:
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        return set_aside(self._path)

    def _sum(self) -> int:
        found = self._database.execute("SELECT sum(length(payload)) FROM message").fetchone()
        return int(found[0] or 0)

    def _newest(self) -> int:
        found = self._database.execute("SELECT max(seq) FROM message").fetchone()
        return int(found[0] or 0)

    def _fact(self, name: str, default: str) -> str:
        with self._writing() as database:
            database.execute("INSERT OR IGNORE INTO fact VALUES (?, ?)", (name, default))
            row = database.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return str(row[0])

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield self._database
                except BaseException:
                    self._database.execute("ROLLBACK")
                    raise
                self._database.execute("COMMIT")
            except sqlite3.Error as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise _store_error(error) from error

    def add(
        self, kind: str, make: Callable[[Place], bytes], *, now: float, key: str | None = None
    ) -> int:
        """Store a message; when this returns it is on the medium.

        Args:
            kind: ``window`` or ``event``.
            make: makes the payload for the place that it is given.
            now: Unix seconds.
            key: a message with a key is stored once, however often it is added.

        Returns:
            The sequence; 0 if the key was there already.

        Raises:
            StoreError: D01 or D06; nothing was stored.
        """
        with self._writing() as database:
            if key and database.execute("SELECT 1 FROM told WHERE key = ?", (key,)).fetchone():
                return 0
            cursor = database.execute(
                "INSERT INTO message (kind, key, at, payload) VALUES (?, ?, ?, ?)",
                (kind, key, now, b""),
            )
            seq = int(cursor.lastrowid or 0)
            payload = make(Place(self._device, self.spool, seq, self._oldest(database)))
            database.execute("UPDATE message SET payload = ? WHERE seq = ?", (payload, seq))
            if key:
                self._remember(database, key, now)
            size, dropped = self._make_room(database, self._bytes + len(payload), now, seq)
            if dropped:
                self._count_dropped(database, dropped)
        self._bytes = size
        self.dropped += dropped
        self.newest = seq
        return seq

    def _oldest(self, database: sqlite3.Connection) -> int:
        return int(database.execute("SELECT min(seq) FROM message").fetchone()[0])

    def _remember(self, database: sqlite3.Connection, key: str, now: float) -> None:
        database.execute("INSERT INTO told VALUES (?, ?)", (key, now))
        database.execute(
            "DELETE FROM told WHERE rowid NOT IN (SELECT rowid FROM told ORDER BY rowid DESC LIMIT ?)",
            (_KEYS_KEPT,),
        )

    def _make_room(
        self, database: sqlite3.Connection, size: int, now: float, newest: int
    ) -> tuple[int, int]:
        """Drop the oldest windows, then the oldest events; returns bytes left and how many went."""
        rows = database.execute(
            "SELECT seq, at, length(payload) FROM message WHERE seq < ?"
            " ORDER BY kind = 'event', seq",
            (newest,),
        )
        gone = []
        for seq, at, length in rows:
            if now - at > self._limit_seconds or size > self._limit_bytes:
                gone.append((seq,))
                size -= length
        database.executemany("DELETE FROM message WHERE seq = ?", gone)
        return size, len(gone)

    def _count_dropped(self, database: sqlite3.Connection, dropped: int) -> None:
        database.execute(
            "UPDATE fact SET value = CAST(value AS INTEGER) + ? WHERE name = 'dropped'", (dropped,)
        )

    def after(self, seq: int, most: int) -> list[Message]:
        """The next messages after a sequence, in order.

        Raises:
            StoreError: D06.
        """
        with self._lock:
            try:
                rows = self._database.execute(
                    "SELECT seq, kind, payload FROM message WHERE seq > ? ORDER BY seq LIMIT ?",
                    (seq, most),
                ).fetchall()
            except sqlite3.Error as error:
                raise _store_error(error) from error
        return [Message(*row) for row in rows]

    def acknowledge(self, ack: Ack) -> int:
        """Drop what the ingest has stored or refused for good; returns how many went.

        Raises:
            StoreError: D01 or D06; what could not be dropped is sent again.
        """
        if ack.spool != self.spool:
            return 0
        ranges = [*ack.stored, *((seq, seq) for seq, _ in ack.refused)]
        with self._writing() as database:
            before = database.total_changes
            for first, last in ranges:
                database.execute("DELETE FROM message WHERE seq BETWEEN ? AND ?", (first, last))
            gone = database.total_changes - before
            size = self._sum()
        self._bytes = size
        return gone

    @property
    def waiting(self) -> int:
        """How many messages are not acknowledged."""
        with self._lock:
            return int(self._database.execute("SELECT count(*) FROM message").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()


def _check(database: sqlite3.Connection) -> None:
    found = database.execute("PRAGMA quick_check").fetchone()
    if found != ("ok",):
        raise sqlite3.DatabaseError(f"quick_check: {found[0]}")


def _is_operational(error: sqlite3.DatabaseError) -> bool:
    """Whether the medium failed; otherwise it is the file that is damaged."""
    return isinstance(error, sqlite3.OperationalError)


def _store_error(error: sqlite3.Error) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return StoreError("D01" if code == _FULL else "D06", f"outbox: {error}")
