"""Rollouts on the medium: plans, decisions with their figures, and signed orders.

What a decision changes, its record and its orders are one transaction, so that a server
that is killed between any two of them finds all or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from wherry.outcomes import FAILED
from wherry.rows import PASS, Decision, Exposure, Order, RolloutRow, Word
from wherry_contract.errors import RolloutError
from wherry_contract.states import RolloutState

from . import database as db
from .engines import insert

ENDED: Final = (str(RolloutState.DONE), str(RolloutState.REVERTED))
OVER: Final = (*ENDED, str(RolloutState.ABORTED), str(RolloutState.REVERTING))


@dataclass(frozen=True)
class Change:
    """What one look at a rollout changed.

    Attributes:
        state: the rollout's state from now on.
        wave: the wave from now on.
        decision: nothing where only devices moved on.
        exposures: devices whose part changed, as it is now.
        orders: new assignments.
    """

    at: float
    state: str
    wave: int
    decision: Decision | None = None
    exposures: tuple[Exposure, ...] = ()
    orders: tuple[Order, ...] = field(default_factory=tuple)


class Ledger:
    """Reads and writes rollouts."""

    def __init__(self, database: db.Database) -> None:
        self._database = database

    def rollouts(self, *, running: bool = False) -> list[RolloutRow]:
        """Every rollout, the oldest first; with `running`, those that have not ended."""
        query = sa.select(db.rollout).order_by(db.rollout.c.number)
        if running:
            query = query.where(db.rollout.c.state.not_in(ENDED))
        with self._database.reading() as connection:
            return [_rollout(connection, row) for row in connection.execute(query).all()]

    def states(self) -> dict[str, int]:
        """How many rollouts there are, by state."""
        query = sa.select(db.rollout.c.state, sa.func.count()).group_by(db.rollout.c.state)
        with self._database.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def heads(self, *, running: bool = False, limit: int = 100) -> list[RolloutRow]:
        """Rollouts without their devices and decisions, the newest first.

        Args:
            running: only those that have not ended.
            limit: how many at the most.
        """
        query = sa.select(db.rollout).order_by(db.rollout.c.number.desc()).limit(limit)
        if running:
            query = query.where(db.rollout.c.state.not_in(ENDED))
        with self._database.reading() as connection:
            return [RolloutRow(**_plain(row, "number")) for row in connection.execute(query)]

    def story(self, name: str, devices: int) -> RolloutRow:
        """One rollout with its decisions, and of its devices so many, what failed first.

        Raises:
            RolloutError: R01.
        """
        mine, part = db.rollout.c.id == name, db.exposure.c
        failed = sa.case((part.outcome.in_(FAILED), 0), (part.offered_at > 0, 1), else_=2)
        some = sa.select(db.exposure).where(part.rollout == name).order_by(failed, part.rank)
        steps = sa.select(db.decision).where(db.decision.c.rollout == name)
        with self._database.reading() as connection:
            row = connection.execute(sa.select(db.rollout).where(mine)).first()
            if row is None:
                raise RolloutError("R01", name)
            found, said = connection.execute(some.limit(devices)), connection.execute(steps)
            return RolloutRow(
                **_plain(row, "number"),
                devices=tuple(Exposure(**_plain(item, "rollout", "rank")) for item in found),
                decisions=tuple(Decision(**_plain(item, "rollout", "id")) for item in said),
                words=_words(connection, name),
            )

    def waves(self, name: str) -> dict[int, dict[str, int]]:
        """How many devices of each wave of a rollout came to what.

        Outcomes are those of an exposure; without one, "under way" or "waiting".
        """
        part = db.exposure.c
        open_ = sa.case((part.offered_at > 0, "under way"), else_="waiting")
        outcome = sa.case((part.outcome == "", open_), else_=part.outcome)
        query = sa.select(part.wave, outcome, sa.func.count()).where(part.rollout == name)
        found: dict[int, dict[str, int]] = {}
        with self._database.reading() as connection:
            for wave, what, count in connection.execute(query.group_by(part.wave, outcome)):
                found.setdefault(wave, {})[what] = count
        return found

    def canary(self, name: str) -> list[str]:
        """The devices of a rollout's first wave."""
        part = db.exposure.c
        query = sa.select(part.device).where((part.rollout == name) & (part.wave == 0))
        with self._database.reading() as connection:
            return [row.device for row in connection.execute(query.order_by(part.rank))]

    def late(self) -> list[RolloutRow]:
        """Rollouts that are done, and whose order is still the latest of a device unsettled."""
        waits = (
            sa.select(db.exposure.c.rollout)
            .join(
                db.assignment,
                (db.assignment.c.device == db.exposure.c.device)
                & (db.assignment.c.rollout == db.exposure.c.rollout),
            )
            .where((db.exposure.c.outcome == "") & (db.exposure.c.offered_at > 0))
        )
        done = db.rollout.c.state == str(RolloutState.DONE)
        query = sa.select(db.rollout).where(done & db.rollout.c.id.in_(waits))
        with self._database.reading() as connection:
            return [_rollout(connection, row) for row in connection.execute(query).all()]

    def rollout(self, name: str) -> RolloutRow:
        """One rollout.

        Raises:
            RolloutError: R01.
        """
        with self._database.reading() as connection:
            row = connection.execute(sa.select(db.rollout).where(db.rollout.c.id == name)).first()
            if row is None:
                raise RolloutError("R01", name)
            return _rollout(connection, row)

    def create(self, row: RolloutRow) -> str:
        """Begin a rollout; its id is made of `row.id` and its number.

        Raises:
            RolloutError: R03, one of its devices is in a rollout that has not ended.
        """
        with self._database.writing() as connection:
            _check_free(connection, {item.device for item in row.devices})
            number = (connection.scalar(sa.select(sa.func.max(db.rollout.c.number))) or 0) + 1
            name = f"r{number}-{row.id}"[:63].rstrip("-")
            values = {key: getattr(row, key) for key in _ROLLOUT_FIELDS} | {"id": name}
            connection.execute(db.rollout.insert().values(number=number, **values))
            connection.execute(
                db.exposure.insert(),
                [
                    {"rollout": name, "rank": rank} | item.__dict__
                    for rank, item in enumerate(row.devices)
                ],
            )
        return name

    def stop(self, name: str, why: str) -> None:
        """Note that an operator wants a rollout ended; the first reason stands.

        Raises:
            RolloutError: R01; R09, it has ended.
        """
        with self._database.writing() as connection:
            which = db.rollout.c.id == name
            row = connection.execute(sa.select(db.rollout).where(which)).first()
            if row is None:
                raise RolloutError("R01", name)
            if row.state in ENDED:
                raise RolloutError("R09", f"{name} is {row.state}")
            if not row.stopped:
                connection.execute(sa.update(db.rollout).where(which).values(stopped=why))

    def say(self, name: str, word: Word) -> None:
        """Note what an operator said; saying the same again changes nothing.

        Raises:
            RolloutError: R01; R09, it has ended or is on its way back; R14, to go past the
                gates of a wave that is over.
        """
        with self._database.writing() as connection:
            row = connection.execute(sa.select(db.rollout).where(db.rollout.c.id == name)).first()
            if row is None:
                raise RolloutError("R01", name)
            if row.state in OVER or row.stopped:
                raise RolloutError("R09", f"{name} is {row.state}")
            if word.what == PASS and word.wave != row.wave:
                raise RolloutError("R14", f"{name} is at wave {row.wave + 1}")
            last = _words(connection, name)[-1:]
            if not (last and (last[0].what, last[0].wave) == (word.what, row.wave)):
                values = word.__dict__ | {"wave": row.wave}
                connection.execute(db.word.insert().values(rollout=name, **values))

    def apply(self, name: str, change: Change) -> None:
        """Record what one look at a rollout changed, all of it or nothing."""
        with self._database.writing() as connection:
            connection.execute(
                sa.update(db.rollout)
                .where(db.rollout.c.id == name)
                .values(state=change.state, wave=change.wave, changed_at=change.at)
            )
            if change.decision:
                connection.execute(
                    db.decision.insert().values(rollout=name, **change.decision.__dict__)
                )
            for item in change.exposures:
                connection.execute(
                    sa.update(db.exposure)
                    .where((db.exposure.c.rollout == name) & (db.exposure.c.device == item.device))
                    .values(**item.__dict__)
                )
            self._put_orders(connection, change.orders)

    def _put_orders(self, connection: sa.Connection, orders: Iterable[Order]) -> None:
        rows = [dict(order.__dict__) for order in orders]
        if rows:
            add = insert(connection, db.assignment)
            replaced = {name: add.excluded[name] for name in rows[0] if name != "device"}
            connection.execute(
                add.on_conflict_do_update(index_elements=["device"], set_=replaced), rows
            )

    def orders(self, devices: Iterable[str] | None = None) -> dict[str, Order]:
        """The latest assignment of each device, or of those named."""
        query = sa.select(db.assignment)
        queries = [query]
        if devices is not None:
            which = db.assignment.c.device
            queries = [query.where(which.in_(part)) for part in db.in_parts(devices)]
        with self._database.reading() as connection:
            rows = [row for one in queries for row in connection.execute(one)]
        return {row.device: Order(**_plain(row)) for row in rows}


_ROLLOUT_FIELDS: Final = (
    "id",
    "bundle",
    "name",
    "version",
    "family",
    "state",
    "wave",
    "waves",
    "select",
    "policy",
    "created_at",
    "changed_at",
    "stopped",
)


def _words(connection: sa.Connection, name: str) -> tuple[Word, ...]:
    query = sa.select(db.word).where(db.word.c.rollout == name).order_by(db.word.c.id)
    return tuple(Word(**_plain(row, "rollout", "id")) for row in connection.execute(query))


def _plain(row: sa.Row[Any], *without: str) -> Mapping[str, Any]:
    return {name: value for name, value in row._mapping.items() if name not in without}  # noqa: SLF001 - SQLAlchemy's public name


def _check_free(connection: sa.Connection, devices: set[str]) -> None:
    running = sa.select(db.exposure.c.device, db.exposure.c.rollout).join(
        db.rollout,
        (db.rollout.c.id == db.exposure.c.rollout) & db.rollout.c.state.not_in(ENDED),
    )
    taken = [row for row in connection.execute(running) if row.device in devices]
    if taken:
        raise RolloutError("R03", f"{taken[0].rollout} has {taken[0].device} and maybe more")


def _rollout(connection: sa.Connection, row: sa.Row[Any]) -> RolloutRow:
    exposures = connection.execute(
        sa.select(db.exposure).where(db.exposure.c.rollout == row.id).order_by(db.exposure.c.rank)
    )
    decisions = connection.execute(
        sa.select(db.decision).where(db.decision.c.rollout == row.id).order_by(db.decision.c.id)
    )
    return RolloutRow(
        **_plain(row, "number"),
        devices=tuple(Exposure(**_plain(item, "rollout", "rank")) for item in exposures),
        decisions=tuple(Decision(**_plain(item, "rollout", "id")) for item in decisions),
        words=_words(connection, row.id),
    )
