"""The fleet's memory: what devices said, each message counted once.

Rollouts have a file of their own, `ledger`; what is in bundles is read from the depot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from wherry.rows import BundleRow, DeviceRow, Incident, RolloutRow, StoredEvent, StoredWindow
from wherry_contract.errors import RolloutError
from wherry_contract.manifest import Manifest
from wherry_contract.messages import Event
from wherry_contract.profile import ReferenceProfile
from wherry_contract.window import Window

from . import database as db
from .audit import Trail
from .census import Census, device_row
from .depot import Depot
from .duty import Duty, Shards
from .engines import insert, larger
from .groups import Groups
from .intake import Batch, Taken, take
from .labels import LabelStore
from .ledger import Ledger
from .questions import Questions
from .questions import purge as purge_questions
from .trial import Trial


class Store:
    """Everything that the server remembers."""

    def __init__(self, database: db.Database, depot: Depot) -> None:
        self._database = database
        self.depot = depot
        self.ledger = Ledger(database)
        self.questions = Questions(database)
        self.labels = LabelStore(database)
        self.census = Census(database)
        self.trail = Trail(database)
        self.groups = Groups(database)
        self.shared = database.shared  # whether other servers may use it, too
        self.trial = Trial(database)
        self.purged = 0  # windows and events that retention took, since this was opened

    def duty(self, name: str) -> Duty:
        """Something that exactly one of the servers does."""
        return Duty(self._database, name)

    def shards(self) -> Shards:
        """Which devices' messages are this server's, where the broker does not share them out."""
        return Shards(self._database)

    # --- asked by the monitor -----------------------------------------------------------

    def windows(
        self,
        since: float | None = None,
        until: float | None = None,
        select: Mapping[str, str] | None = None,
        bundle: str | None = None,
    ) -> list[StoredWindow]:
        """Windows in the order in which they arrived.

        Args:
            since: received at or after, Unix seconds by the server's clock.
            until: received before.
            select: labels that the device must have.
            bundle: digest of the model that scored.
        """
        query = sa.select(db.window).order_by(db.window.c.id)
        query = _between(query, db.window.c.received_at, since, until)
        if bundle is not None:
            query = query.where(db.window.c.bundle == bundle)
        labels = {row.device: row.labels for row in self.devices(select)}
        with self._database.reading() as connection:
            rows = connection.execute(query).all()  # reading them takes long: not in here
        return [
            StoredWindow(
                row.device, labels[row.device], row.received_at, Window.from_bytes(row.payload)
            )
            for row in rows
            if row.device in labels
        ]

    def windows_after(self, last: int, limit: int = 5000) -> tuple[int, list[StoredWindow]]:
        """The windows that came after one of them, and the number of the last; without labels.

        Args:
            last: what the call before said; 0 for all.
            limit: how many at the most.
        """
        query = sa.select(db.window).where(db.window.c.id > last).order_by(db.window.c.id)
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(limit)).all()  # reading them takes long
        found = [
            StoredWindow(row.device, {}, row.received_at, Window.from_bytes(row.payload))
            for row in rows
        ]
        return rows[-1].id if rows else last, found

    def windows_of(
        self, names: Iterable[str], last: int, since: float
    ) -> tuple[int, list[StoredWindow]]:
        """Windows of some devices that came after one of them, and the number of the last.

        Args:
            names: of the devices.
            last: what the call before said; 0 for all.
            since: received at or after, Unix seconds by the server's clock.
        """
        which = (db.window.c.id > last) & (db.window.c.received_at >= since)
        query = sa.select(db.window).where(which).order_by(db.window.c.id)
        with self._database.reading() as connection:
            rows = [
                row
                for part in db.in_parts(names)
                for row in connection.execute(query.where(db.window.c.device.in_(part)))
            ]
        found = [
            StoredWindow(row.device, {}, row.received_at, Window.from_bytes(row.payload))
            for row in rows
        ]
        return max((row.id for row in rows), default=last), found

    def newest_window(self) -> int:
        """The number of the window that came last; 0 without any."""
        with self._database.reading() as connection:
            return connection.scalar(sa.select(sa.func.max(db.window.c.id))) or 0

    def events(
        self,
        since: float | None = None,
        until: float | None = None,
        device: str | None = None,
        rollout: str | None = None,
        limit: int = 1000,
    ) -> list[StoredEvent]:
        """The latest `limit` events, in the order in which they arrived.

        Args:
            since: received at or after, Unix seconds by the server's clock.
            until: received before.
            device: of this device alone.
            rollout: of this rollout alone.
            limit: how many at the most.
        """
        query = sa.select(db.event).order_by(db.event.c.id.desc()).limit(limit)
        query = _between(query, db.event.c.received_at, since, until)
        if device is not None:
            query = query.where(db.event.c.device == device)
        if rollout is not None:
            query = query.where(db.event.c.rollout == rollout)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [
            StoredEvent(row.device, row.received_at, Event.from_bytes(row.payload))
            for row in reversed(rows)
        ]

    def events_after(self, rollout: str, last: int) -> tuple[int, list[StoredEvent]]:
        """A rollout's events that came after one of them, and the number of the last.

        Args:
            rollout: its id.
            last: what the call before said; 0 for all.
        """
        which = (db.event.c.rollout == rollout) & (db.event.c.id > last)
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(db.event).where(which).order_by(db.event.c.id))
            found = rows.all()
        return found[-1].id if found else last, [
            StoredEvent(row.device, row.received_at, Event.from_bytes(row.payload)) for row in found
        ]

    def devices(self, select: Mapping[str, str] | None = None) -> list[DeviceRow]:
        """Enrolled devices by id; with `select`, those that have all of these labels."""
        with self._database.reading() as connection:
            rows = [
                device_row(row)
                for row in connection.execute(sa.select(db.device).order_by(db.device.c.id))
            ]
        return [row for row in rows if has_labels(row.labels, select or {})]

    def device(self, name: str) -> DeviceRow:
        """One enrolled device.

        Raises:
            RolloutError: R07.
        """
        with self._database.reading() as connection:
            row = connection.execute(sa.select(db.device).where(db.device.c.id == name)).first()
        if row is None:
            raise RolloutError("R07", name)
        return device_row(row)

    def rollouts(self) -> list[RolloutRow]:
        """Every rollout with its devices and decisions, the oldest first."""
        return self.ledger.rollouts()

    def bundles(self) -> list[BundleRow]:
        """Every bundle of the depot, the oldest first."""
        with self._database.reading() as connection:
            query = sa.select(db.bundle).order_by(db.bundle.c.added_at)
            return [BundleRow(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001 - SQLAlchemy's public name

    def bundle(self, digest: str) -> BundleRow:
        """One bundle.

        Raises:
            RolloutError: R04.
        """
        with self._database.reading() as connection:
            query = sa.select(db.bundle).where(db.bundle.c.digest == digest)
            row = connection.execute(query).first()
        if row is None:
            raise RolloutError("R04", digest)
        return BundleRow(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name

    def profile(self, digest: str) -> ReferenceProfile:
        """The reference profile of a bundle.

        Raises:
            RolloutError: R04.
        """
        return self.depot.profile(digest)

    def manifest(self, digest: str) -> Manifest:
        """What a bundle says of itself.

        Raises:
            RolloutError: R04.
        """
        return self.depot.manifest(digest)

    def incidents(self, limit: int = 100) -> list[Incident]:
        """The latest messages that were not taken, the oldest of them first."""
        query = sa.select(db.incident).order_by(db.incident.c.id.desc()).limit(limit)
        with self._database.reading() as connection:
            rows = [
                Incident(row.at, row.device, row.channel, row.code, row.detail, row.size)
                for row in connection.execute(query)
            ]
        return rows[::-1]

    def counters(self) -> dict[str, int]:
        """What was counted since the store was made: windows, events, duplicates, incidents."""
        with self._database.reading() as connection:
            return {row.name: row.value for row in connection.execute(sa.select(db.counter))}

    def lost(self, name: str) -> int:
        """How many messages a device dropped before they arrived, over all its outboxes."""
        with self._database.reading() as connection:
            spools = connection.execute(sa.select(db.spool).where(db.spool.c.device == name)).all()
            return sum(self._lost(connection, row) for row in spools)

    def _lost(self, connection: sa.Connection, spool: sa.Row[Any]) -> int:
        stored = 0
        for table in (db.window, db.event, db.refusal):
            mine = (table.c.device == spool.device) & (table.c.spool == spool.spool)
            query = sa.select(sa.func.count()).where(mine & (table.c.seq < spool.oldest))
            stored += connection.scalar(query) or 0
        return max(0, int(spool.oldest) - 1 - int(spool.purged) - stored)

    # --- told by the ingest -------------------------------------------------------------

    def enrolled(self, names: Iterable[str]) -> dict[str, DeviceRow]:
        """Those of `names` that are enrolled."""
        query = sa.select(db.device)
        with self._database.reading() as connection:
            return {
                row.id: device_row(row)
                for part in db.in_parts(names)
                for row in connection.execute(query.where(db.device.c.id.in_(part)))
            }

    def add(self, batch: Batch) -> Taken:
        """Store a batch; when this returns it is on the medium.

        Returns:
            What of it is stored now, and may be acknowledged.

        Raises:
            StoreError: D01, D06 or D08; nothing of the batch was stored.
        """
        with self._database.writing() as connection:
            return take(connection, batch)

    def forget_presence(self) -> None:
        """Hold every device for away until the broker says otherwise; for a new connection."""
        with self._database.writing() as connection:
            connection.execute(sa.update(db.device).values(online=False))

    # --- told by operators --------------------------------------------------------------

    def enrol(self, row: DeviceRow, *, again: bool = False) -> None:
        """Take a device into the fleet.

        Args:
            row: its id, family and labels.
            again: whether an enrolled device may get new papers.

        Raises:
            RolloutError: R08, it is enrolled already.
        """
        values = {
            "id": row.device,
            "family": row.family,
            "labels": dict(row.labels),
            "enrolled_at": row.enrolled_at,
        }
        with self._database.writing() as connection:
            which = db.device.c.id == row.device
            known = connection.execute(sa.select(db.device).where(which)).first()
            if known is None:
                connection.execute(db.device.insert().values(**values))
            elif again:
                connection.execute(sa.update(db.device).where(which).values(**values))
            else:
                raise RolloutError("R08", row.device)

    def add_bundle(self, row: BundleRow) -> None:
        """Note a bundle that the depot has taken; one that is known stays as it is."""
        with self._database.writing() as connection:
            connection.execute(
                insert(connection, db.bundle).values(**row.__dict__).on_conflict_do_nothing()
            )

    def purge(self, before: float, *, after: float = 0.0) -> int:
        """Drop windows and events received before a moment; returns how many went.

        What was received before `after` stays: the clock was wrong then, its age is not known.
        They are remembered as dropped, so that a replay does not bring them back.
        """
        with self._database.writing() as connection:
            _purge(connection, db.refusal, before, after)
            purge_questions(connection, before, after)
            tables = (db.window, db.event)
            gone = sum(_purge(connection, table, before, after) for table in tables)
        self.purged += gone
        return gone

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def has_labels(labels: Mapping[str, str], select: Mapping[str, str]) -> bool:
    """Whether every selected label is there with its value."""
    return all(labels.get(name) == value for name, value in select.items())


def _between(
    query: sa.Select[Any], column: sa.ColumnElement[float], since: float | None, until: float | None
) -> sa.Select[Any]:
    if since is not None:
        query = query.where(column >= since)
    if until is not None:
        query = query.where(column < until)
    return query


def _purge(connection: sa.Connection, table: sa.Table, before: float, after: float) -> int:
    old = (table.c.received_at < before) & (table.c.received_at >= after)
    which = (db.spool.c.device == sa.bindparam("d")) & (db.spool.c.spool == sa.bindparam("s"))
    groups = connection.execute(
        sa.select(table.c.device, table.c.spool, sa.func.max(table.c.seq), sa.func.count())
        .where(old)
        .group_by(table.c.device, table.c.spool)
    ).all()
    if groups:
        connection.execute(
            sa.update(db.spool)
            .where(which)
            .values(
                floor=larger(db.spool.c.floor, sa.bindparam("last", type_=sa.BigInteger)),
                purged=db.spool.c.purged + sa.bindparam("gone"),
            ),
            [{"d": d, "s": s, "last": last, "gone": gone} for d, s, last, gone in groups],
        )
    return connection.execute(table.delete().where(old)).rowcount
