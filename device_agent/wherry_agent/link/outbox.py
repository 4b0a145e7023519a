"""The outbox: what the device has to say, on disk until the ingest has stored it.

SQLite with a write-ahead log and ``synchronous=FULL``: after `add` returns, a pulled plug
loses nothing of it. The broker's word is not enough to drop a message (mosquitto lost
acknowledged ones when it was killed); only the ingest's own acknowledgement is.

Bounded by bytes and age: the oldest windows go first and are counted, then the oldest
events. Age is the time for which the outbox was open since, so no clock that is set, or
wrong after a start, makes anything old. A message's bytes are fixed when it is added and
never change.

A copied outbox begins a new spool (see `spools`), and what it still holds keeps its names.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry_agent.store import as_store_error, set_aside
from wherry_contract.errors import StoreError
from wherry_contract.messages import Ack, Place

from .spools import home_of, read_eras, rows_of

_FULL: Final = sqlite3.SQLITE_FULL
# what the medium, the memory or another process is to blame for, and not the file's content
_NOT_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS message (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    at REAL NOT NULL,
    payload BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS told (key TEXT PRIMARY KEY, at REAL NOT NULL);
"""
_KEYS_KEPT: Final = 1024


@dataclass(frozen=True)
class Message:
    """One thing to say; `kind` is its channel: ``window`` or ``event``.

    `seq` is its row in this outbox, over all spools; its place is in the payload.
    """

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
            days: for how long the outbox may be open before a message is too old.

        Raises:
            StoreError: D01 or D06.
        """
        self._path = folder / "outbox.db"
        self._device = device
        self._limit_bytes = int(mib * 2**20)
        self._limit_seconds = days * 86_400
        self._lock = threading.RLock()
        self.damaged: Path | None = None
        self.copied = False
        self.dropped = 0
        self._opened: float | None = None  # the clock of `add` at its first call
        try:
            self._open()
        except sqlite3.Error as error:
            if _code(error) in _NOT_DAMAGE:
                raise _store_error(error) from error
            self.damaged = self._set_aside()
            self._open_anew()
        except OSError as error:
            raise as_store_error(error, "outbox") from error

    @property
    def spool(self) -> str:
        """The spool of what is added now."""
        return self._eras[-1][1]

    def _open(self) -> None:
        home = home_of(self._path)
        database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            _check(database)
            database.executescript(_SCHEMA)
            self.copied = _fact(database, "home", home) != home
            self._eras = read_eras(database, anew=self.copied)
            database.execute("UPDATE fact SET value = ? WHERE name = 'home'", (home,))
            self.dropped = int(_fact(database, "dropped", "0"))
            self._bytes, self.newest = _sums(database)
            self._age = _last_at(database)
        except sqlite3.Error:
            database.close()
            raise
        except ValueError as error:
            database.close()
            raise sqlite3.DatabaseError(str(error)) from error
        self._database = database

    def _open_anew(self) -> None:
        try:
            self._open()
        except sqlite3.Error as error:
            raise _store_error(error) from error
        except OSError as error:
            raise as_store_error(error, "outbox") from error

    def _set_aside(self) -> Path:
        try:
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            return set_aside(self._path)
        except OSError as error:
            raise as_store_error(error, "outbox") from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction; whoever opens it holds the lock, and goes on holding it for the sums."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise _store_error(error) from error
        except BaseException:  # whatever `make` throws, and a thread that is ended: nothing stays
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._database.in_transaction:  # a full disk may have rolled it back already
            self._database.execute("ROLLBACK")

    def add(
        self, kind: str, make: Callable[[Place], bytes], *, now: float, key: str | None = None
    ) -> int:
        """Store a message; when this returns it is on the medium.

        Args:
            kind: ``window`` or ``event``.
            make: makes the payload for the place that it is given.
            now: seconds of a clock that never goes back, the same for all calls.
            key: a message with a key is stored once, however often it is added (until a
                thousand other keys came).

        Returns:
            Its row; 0 if the key was there already.

        Raises:
            StoreError: D01 or D06; nothing was stored.
        """
        with self._lock:
            at = self._open_for(now)
            with self._writing() as database:
                if key and _is_told(database, key):
                    return 0
                cursor = database.execute(
                    "INSERT INTO message (kind, at, payload) VALUES (?, ?, ?)", (kind, at, b"")
                )
                seq = int(cursor.lastrowid or 0)
                payload = make(self._place(seq, _oldest(database, self._eras[-1][0])))
                database.execute("UPDATE message SET payload = ? WHERE seq = ?", (payload, seq))
                if key:
                    _remember(database, key, at)
                size, dropped = self._make_room(database, self._bytes + len(payload), at, seq)
            self._bytes = size
            self.dropped += dropped
            self.newest = seq
        return seq

    def _open_for(self, now: float) -> float:
        """Seconds for which the outbox was open, over all starts in which something was added."""
        if self._opened is None:
            self._opened = now
        return self._age + now - self._opened

    def _place(self, row: int, oldest: int) -> Place:
        first, spool = self._eras[-1]
        return Place(self._device, spool, row - first + 1, oldest - first + 1)

    def _make_room(
        self, database: sqlite3.Connection, size: int, at: float, newest: int
    ) -> tuple[int, int]:
        """Drop the oldest windows, then the oldest events; returns bytes left and how many went."""
        expired = at - self._limit_seconds
        if size <= self._limit_bytes and _first_at(database) > expired:
            return size, 0
        rows = database.execute(
            "SELECT seq, at, length(payload) FROM message WHERE seq < ?"
            " ORDER BY kind = 'event', seq",
            (newest,),
        )
        gone = []
        for seq, added, length in rows:
            if size > self._limit_bytes or added < expired:
                gone.append((seq,))
                size -= length
        database.executemany("DELETE FROM message WHERE seq = ?", gone)
        database.execute(
            "UPDATE fact SET value = CAST(value AS INTEGER) + ? WHERE name = 'dropped'",
            (len(gone),),
        )
        return size, len(gone)

    def after(self, seq: int, most: int, kind: str = "%") -> list[Message]:
        """The next messages after a sequence, in order; of one kind, if it is named.

        Raises:
            StoreError: D06.
        """
        with self._lock:
            try:
                rows = self._database.execute(
                    "SELECT seq, kind, payload FROM message WHERE seq > ? AND kind LIKE ?"
                    " ORDER BY seq LIMIT ?",
                    (seq, kind, most),
                ).fetchall()
            except sqlite3.Error as error:
                raise _store_error(error) from error
        return [Message(*row) for row in rows]

    def acknowledge(self, ack: Ack) -> int:
        """Drop what the ingest has stored or refused for good; returns how many went.

        Raises:
            StoreError: D01 or D06; what could not be dropped is sent again.
        """
        rows = self.rows_of(ack)
        if not rows:
            return 0
        with self._lock:
            with self._writing() as database:
                before = database.total_changes
                for first, last in rows:
                    database.execute("DELETE FROM message WHERE seq BETWEEN ? AND ?", (first, last))
                gone = database.total_changes - before
                size, _ = _sums(database)
            self._bytes = size
        return gone

    def rows_of(self, ack: Ack) -> list[tuple[int, int]]:
        """Ranges of rows that an acknowledgement names; none if its spool is not ours."""
        return rows_of(self._eras, ack)

    def renew(self) -> None:
        """Go on under a new spool, because somebody else may be using this one too.

        Raises:
            StoreError: D01 or D06.
        """
        with self._lock, self._writing() as database:
            self._eras = read_eras(database, anew=True)

    @property
    def waiting(self) -> int:
        """How many messages are not acknowledged.

        Raises:
            StoreError: D06.
        """
        with self._lock:
            try:
                found = self._database.execute("SELECT count(*) FROM message").fetchone()
            except sqlite3.Error as error:
                raise _store_error(error) from error
        return int(found[0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()


def _check(database: sqlite3.Connection) -> None:
    found = database.execute("PRAGMA quick_check").fetchone()
    if found != ("ok",):
        raise sqlite3.DatabaseError(f"quick_check: {found[0]}")


def _fact(database: sqlite3.Connection, name: str, default: str) -> str:
    database.execute("INSERT OR IGNORE INTO fact VALUES (?, ?)", (name, default))
    row = database.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
    return str(row[0])


def _last_at(database: sqlite3.Connection) -> float:
    found = database.execute("SELECT max(at) FROM message").fetchone()
    return float(found[0] or 0)


def _sums(database: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of all payloads, and the newest sequence; zeros if there is nothing."""
    found = database.execute("SELECT sum(length(payload)), max(seq) FROM message").fetchone()
    return int(found[0] or 0), int(found[1] or 0)


def _oldest(database: sqlite3.Connection, first: int) -> int:
    found = database.execute("SELECT min(seq) FROM message WHERE seq >= ?", (first,)).fetchone()
    return int(found[0])


def _first_at(database: sqlite3.Connection) -> float:
    """When the oldest message was added; messages come in the order of their sequence."""
    found = database.execute("SELECT at FROM message ORDER BY seq LIMIT 1").fetchone()
    return float(found[0])


def _is_told(database: sqlite3.Connection, key: str) -> bool:
    return database.execute("SELECT 1 FROM told WHERE key = ?", (key,)).fetchone() is not None


def _remember(database: sqlite3.Connection, key: str, now: float) -> None:
    database.execute("INSERT INTO told VALUES (?, ?)", (key, now))
    database.execute(
        "DELETE FROM told WHERE rowid NOT IN (SELECT rowid FROM told ORDER BY rowid DESC LIMIT ?)",
        (_KEYS_KEPT,),
    )


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 if the error is Python's own."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _store_error(error: sqlite3.Error) -> StoreError:
    return StoreError("D01" if _code(error) == _FULL else "D06", f"outbox: {error}")
