"""The fleet counted and paged: what a page of 50 devices costs does not depend on how many there are.

Counts are made by the database, of columns that the ingest keeps as devices report.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from wherry.rows import DeviceRow, Exposure
from wherry_contract.messages import State

from . import database as db

LINKS: Final = ("online", "away", "never")
ORDERS: Final = ("device", "link", "seen")


@dataclass(frozen=True)
class Wanted:
    """Which devices a list is to hold.

    Attributes:
        find: words that the id holds, and labels that the device has, as ``site=paris``.
        link: one of `LINKS`; "" for any.
        bundle: digest of what it runs; "" for any.
        by_rule: only those whose rule answers in place of a model.
        order: one of `ORDERS`.
    """

    find: str = ""
    link: str = ""
    bundle: str = ""
    by_rule: bool = False
    order: str = "device"


@dataclass(frozen=True)
class Runs:
    """How many devices run a bundle; without one, "" for its digest."""

    bundle: str
    name: str
    version: str
    devices: int
    online: int
    by_rule: int


@dataclass(frozen=True)
class Counts:
    """The fleet in numbers.

    Attributes:
        devices: that are enrolled.
        online: of them.
        never: of them, from whom nothing has come yet.
        by_rule: of them, where the fallback rule answers.
        runs: by bundle, the most first.
    """

    devices: int
    online: int
    never: int
    by_rule: int
    runs: tuple[Runs, ...]

    @property
    def away(self) -> int:
        """Devices that were there, and are not."""
        return self.devices - self.online - self.never


class Census:
    """Reads the table of devices."""

    def __init__(self, database: db.Database) -> None:
        self._database = database

    def counts(self) -> Counts:
        """The fleet in numbers."""
        names = [db.device.c.bundle, db.device.c.bundle_name, db.device.c.bundle_version]
        query = sa.select(
            *names,
            sa.func.count(),
            _number_of(db.device.c.online),
            _number_of(db.device.c.by_rule),
            _number_of(db.device.c.seen_at == 0.0),
        ).group_by(*names)
        with self._database.reading() as connection:
            rows = [tuple(row) for row in connection.execute(query)]
        runs = [Runs(b, n, v, *map(int, more[:3])) for b, n, v, *more in rows]
        return Counts(
            devices=sum(item.devices for item in runs),
            online=sum(item.online for item in runs),
            never=sum(int(row[-1]) for row in rows),
            by_rule=sum(item.by_rule for item in runs),
            runs=tuple(sorted(runs, key=lambda item: (-item.devices, item.name, item.version))),
        )

    def page(self, wanted: Wanted, start: int, limit: int) -> tuple[int, list[DeviceRow]]:
        """How many devices are wanted, and those of one page.

        Args:
            wanted: which, and in which order.
            start: how many to leave out before.
            limit: how many at the most.
        """
        which = sa.and_(sa.true(), *_conditions(wanted))
        first = {"seen": [db.device.c.seen_at.desc()], "link": [db.device.c.online.desc()]}
        order = [*first.get(wanted.order, []), db.device.c.id]
        query = sa.select(db.device).where(which).order_by(*order).offset(start).limit(limit)
        with self._database.reading() as connection:
            total = connection.scalar(
                sa.select(sa.func.count()).select_from(db.device).where(which)
            )
            return total or 0, [device_row(row) for row in connection.execute(query)]

    def exposures(self, device: str, limit: int = 20) -> list[tuple[str, Exposure]]:
        """A device's part in the rollouts that it is in, with their ids; the latest first."""
        mine, late = db.exposure.c.device == device, db.rollout.c.number.desc()
        same = db.rollout.c.id == db.exposure.c.rollout
        query = sa.select(db.exposure).join(db.rollout, same).where(mine).order_by(late)
        with self._database.reading() as connection:
            found = [row._asdict() for row in connection.execute(query.limit(limit))]
        return [(row.pop("rollout"), Exposure(**_without(row, "rank"))) for row in found]


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _number_of(what: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    """For how many rows something holds."""
    return sa.func.sum(sa.case((what, 1), else_=0))


def _conditions(wanted: Wanted) -> Iterator[sa.ColumnElement[bool]]:
    table = db.device.c
    for word in wanted.find.split():
        name, equals, value = word.partition("=")
        if equals:
            yield table.labels[name.replace('"', "")].as_string() == value
        else:
            yield table.id.contains(word.lower(), autoescape=True)
    links = {"online": table.online, "never": table.seen_at == 0.0}
    links["away"] = sa.not_(table.online) & (table.seen_at > 0.0)
    if wanted.link:
        yield links[wanted.link]
    if wanted.bundle:
        yield table.bundle == wanted.bundle
    if wanted.by_rule:
        yield table.by_rule


def device_row(row: sa.Row[Any]) -> DeviceRow:
    """A device as its row in the table has it."""
    state = State.from_bytes(row.state) if row.state else None
    return DeviceRow(
        device=row.id,
        family=row.family,
        labels=row.labels,
        enrolled_at=row.enrolled_at,
        online=row.online,
        session=row.session,
        seen_at=row.seen_at,
        state=state,
    )
