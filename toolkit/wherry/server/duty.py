"""Who of a fleet's servers does what only one may do, and who takes which device's messages.

Both are advisory locks of PostgreSQL: they end with the connection that holds them, so that a
server that was killed leaves nothing behind. What a duty writes goes through the connection that
holds its lock: who has lost the lock cannot write any more. On SQLite there is one server.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from wherry.endure import LOG
from wherry_contract.errors import StoreError

from .database import Database
from .engines import key, store_error

SHARDS: Final = 16
_LOOK_SECONDS: Final = 2.0


class _Locks:
    """Advisory locks that one connection holds; it is made anew when it was lost, without them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.connection: sa.Connection | None = None

    def open(self) -> sa.Connection:
        """The connection; raises StoreError."""
        if self.connection is None:
            self.connection = self._database.connect()
        return self.connection

    def ask(self, function: str, name: str) -> bool:
        """What a function says of a lock; raises StoreError, and then all locks are gone."""
        try:
            with self.open().begin():
                found = self.open().scalar(sa.select(getattr(sa.func, function)(key(name))))
                return bool(found)
        except SQLAlchemyError as error:
            self.drop()
            raise store_error(error) from error

    def drop(self) -> None:
        """Let go of everything."""
        gone, self.connection = self.connection, None
        if gone is not None:
            gone.invalidate()  # not back into the pool: the locks live as long as it does
            with suppress(SQLAlchemyError):
                gone.close()


class Duty:
    """Something that exactly one server does; for one thread."""

    def __init__(self, database: Database, name: str) -> None:
        """Take the store, and a name that all servers of the fleet give it."""
        self._database = database
        self._name = name
        self._locks = _Locks(database)
        self.mine = not database.shared

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Whether it is this server's for the block; what the thread writes needs the lock.

        Raises:
            StoreError: D06 or D08; it may be another's by now.
        """
        if not self._database.shared:
            yield True
            return
        if not self._take():
            yield False
            return
        connection = self._locks.open()
        try:
            with self._database.through(connection):
                yield True
        except StoreError:
            self.leave()  # whatever it was, the lock is to be asked for again
            raise

    def _take(self) -> bool:
        before = self.mine
        self.mine = False
        if before:  # a lock of ours is only gone with its connection
            self._alive()
            self.mine = True
        else:
            self.mine = self._locks.ask("pg_try_advisory_lock", self._name)
            if self.mine:
                LOG.info("this server does %s from now on", self._name)
        return self.mine

    def _alive(self) -> None:
        try:
            with self._locks.open().begin():
                self._locks.open().execute(sa.select(1))
        except SQLAlchemyError as error:
            self._locks.drop()
            raise store_error(error) from error

    def leave(self) -> None:
        """Leave it to another."""
        if self._database.shared:
            self.mine = False
            self._locks.drop()


class Shards:
    """Which devices' messages are this server's where the broker does not share them out.

    Servers divide the shards evenly. For a moment nobody may have a shard, or two: what is not
    taken is not acknowledged and comes again, and what is taken twice is counted once.
    """

    def __init__(self, database: Database, steady: Callable[[], float] = time.monotonic) -> None:
        """Take the store, and a clock that never goes back, seconds."""
        self._locks = _Locks(database)
        self._steady = steady
        self._look_at = steady()
        self._mine: set[int] = set()
        self._member = False

    def holds(self, device: str) -> bool:
        """Whether a device's messages are taken here."""
        return shard(device) in self._mine

    def look(self) -> None:
        """Take or leave shards, so that all servers have as many; now and then."""
        if self._steady() < self._look_at:
            return
        self._look_at = self._steady() + _LOOK_SECONDS
        try:
            self._balance()
        except StoreError as error:
            self._mine, self._member = set(), False
            LOG.warning("no messages are taken: %s", error)

    def _balance(self) -> None:
        if not self._member:
            self._member = self._locks.ask("pg_try_advisory_lock_shared", "member")
        share = -(-SHARDS // max(1, self._members()))
        for number in sorted(self._mine)[share:]:
            self._locks.ask("pg_advisory_unlock", f"shard-{number}")
            self._mine.discard(number)
        for number in range(SHARDS):
            if len(self._mine) >= share:
                return
            if number not in self._mine and self._locks.ask(
                "pg_try_advisory_lock", f"shard-{number}"
            ):
                self._mine.add(number)

    def _members(self) -> int:
        number = key("member")
        query = sa.text(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND classid = :high AND objid = :low AND objsubid = 1"
        )
        values = {"high": number >> 32, "low": number & 0xFFFFFFFF}
        try:
            with self._locks.open().begin():
                return int(self._locks.open().scalar(query, values) or 0)
        except SQLAlchemyError as error:
            self._locks.drop()
            raise store_error(error) from error

    def close(self) -> None:
        """Leave all to the others."""
        self._mine, self._member = set(), False
        self._locks.drop()


def shard(device: str) -> int:
    """The shard of a device; the same on every server."""
    return zlib.crc32(device.encode()) % SHARDS
