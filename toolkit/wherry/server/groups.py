"""Groups of devices that operators name: kept by the server, whatever a device says of itself."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from wherry_contract.errors import RolloutError
from wherry_contract.wire import SLUG

from . import database as db


@dataclass(frozen=True)
class Group:
    """A group and how many devices it has; `made_at` in Unix seconds."""

    name: str
    made_at: float
    devices: int


class Groups:
    """Reads and writes them."""

    def __init__(self, database: db.Database) -> None:
        self._database = database

    def list(self) -> list[Group]:
        """Every group, by name."""
        count = sa.func.count(db.member.c.device)
        same = db.member.c.grouping == db.grouping.c.name
        query = (
            sa.select(db.grouping.c.name, db.grouping.c.made_at, count)
            .outerjoin(db.member, same)
            .group_by(db.grouping.c.name, db.grouping.c.made_at)
            .order_by(db.grouping.c.name)
        )
        with self._database.reading() as connection:
            return [Group(*row) for row in connection.execute(query)]

    def members(self) -> Mapping[str, tuple[str, ...]]:
        """The groups of each device that is in one."""
        found: dict[str, tuple[str, ...]] = {}
        query = sa.select(db.member.c.device, db.member.c.grouping).order_by(
            db.member.c.device, db.member.c.grouping
        )
        with self._database.reading() as connection:
            for device, name in connection.execute(query):
                found[device] = (*found.get(device, ()), name)
        return found

    def create(self, name: str, at: float) -> None:
        """Make a group; one that is there stays as it is.

        Raises:
            RolloutError: R06, that is no name.
        """
        if not re.fullmatch(SLUG, name):
            cure = "write it with lower-case letters, digits and dashes"
            raise RolloutError("R06", f"group {name[:80]!r}", cure=cure)
        with self._database.writing() as connection:
            which = db.grouping.c.name == name
            if connection.execute(sa.select(db.grouping).where(which)).first() is None:
                connection.execute(db.grouping.insert().values(name=name, made_at=at))

    def remove(self, name: str) -> None:
        """Take a group away; its devices stay enrolled.

        Raises:
            RolloutError: R13.
        """
        with self._database.writing() as connection:
            _check(connection, name)
            connection.execute(db.member.delete().where(db.member.c.grouping == name))
            connection.execute(db.grouping.delete().where(db.grouping.c.name == name))

    def put(self, name: str, devices: Iterable[str]) -> int:
        """Put devices into a group; returns how many were not in it.

        Raises:
            RolloutError: R07 no such device, R13 no such group; nothing was changed.
        """
        wanted = sorted(set(devices))
        with self._database.writing() as connection:
            _check(connection, name)
            known = _found(connection, db.device.c.id, sa.true(), wanted)
            if missing := [device for device in wanted if device not in known]:
                raise RolloutError("R07", ", ".join(missing[:8]))
            inside = _found(connection, db.member.c.device, db.member.c.grouping == name, wanted)
            rows = [{"grouping": name, "device": one} for one in wanted if one not in inside]
            if rows:
                connection.execute(db.member.insert(), rows)
        return len(rows)

    def take(self, name: str, devices: Iterable[str]) -> int:
        """Take devices out of a group; returns how many were in it.

        Raises:
            RolloutError: R13.
        """
        with self._database.writing() as connection:
            _check(connection, name)
            mine = db.member.c.grouping == name
            return sum(
                connection.execute(
                    db.member.delete().where(mine & db.member.c.device.in_(part))
                ).rowcount
                for part in db.in_parts(set(devices))
            )


def _check(connection: sa.Connection, name: str) -> None:
    if connection.execute(sa.select(db.grouping).where(db.grouping.c.name == name)).first() is None:
        raise RolloutError("R13", name)


def _found(
    connection: sa.Connection,
    column: sa.ColumnElement[str],
    where: sa.ColumnElement[bool],
    names: Collection[str],
) -> set[str]:
    return {
        row[0]
        for part in db.in_parts(names)
        for row in connection.execute(sa.select(column).where(where & column.in_(part)))
    }
