"""What the ingest hands to the store: one transaction takes all of it, or nothing."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import sqlalchemy as sa

from wherry.rows import Incident
from wherry_contract.messages import Event, Place, State
from wherry_contract.window import Window

from . import database as db
from .database import in_parts
from .engines import insert, larger, storable
from .questions import note_answers

INCIDENTS_KEPT: Final = 1000
Spot = tuple[str, str, int]
"""Device, spool and sequence of a message."""


@dataclass(frozen=True)
class Batch:
    """What the ingest hands over at once; one transaction takes all of it or nothing.

    Attributes:
        received_at: by the server's clock, Unix seconds.
        windows: messages with the payload that they came in.
        events: likewise.
        states: the last report of each device.
        presence: online and session by device.
        incidents: what was not taken.
        refused: places of what was refused for good, as (device, spool, seq).
    """

    received_at: float
    windows: Sequence[tuple[Window, bytes]] = ()
    events: Sequence[tuple[Event, bytes]] = ()
    states: Mapping[str, State] = field(default_factory=dict)
    presence: Mapping[str, tuple[bool, str]] = field(default_factory=dict)
    incidents: Sequence[Incident] = ()
    refused: Sequence[Spot] = ()

    @property
    def places(self) -> list[Place]:
        """Where its windows and events stand."""
        return [
            *(window.place for window, _ in self.windows),
            *(event.place for event, _ in self.events),
        ]


def spot(place: Place) -> Spot:
    """What names a message for ever."""
    return place.device, place.spool, place.seq


@dataclass(frozen=True)
class Taken:
    """What became of a batch.

    Attributes:
        batch: the part of it that is stored now; it alone may be acknowledged.
        twice: how many of its messages had been stored before; they changed nothing.
    """

    batch: Batch
    twice: int


def take(connection: sa.Connection, batch: Batch) -> Taken:
    """Write a batch, but for messages at places where another one stands.

    A device sends again byte for byte, so a second message at a place is another one: of a
    second agent with the same id, or of one whose state folder was set back. Were it
    acknowledged, the device would forget a message that nobody has counted.
    """
    batch = _without(batch, _clashes(connection, batch))
    floors = _note_spools(connection, batch)
    windows = [
        _window_row(window, payload, batch.received_at)
        for window, payload in batch.windows
        if window.place.seq > floors[window.place.device, window.place.spool]
    ]
    events = [
        _event_row(event, payload, batch.received_at)
        for event, payload in batch.events
        if event.place.seq > floors[event.place.device, event.place.spool]
    ]
    new_windows = _insert_new(connection, db.window, windows)
    new_events = _insert_new(connection, db.event, events)
    note_answers(connection, batch.events, batch.received_at)
    _note_devices(connection, batch)
    _note_incidents(connection, batch.incidents)
    _insert_new(
        connection,
        db.refusal,
        [
            {"device": device, "spool": spool, "seq": seq, "received_at": batch.received_at}
            for device, spool, seq in batch.refused
        ],
    )
    twice = len(batch.windows) + len(batch.events) - new_windows - new_events
    for name, more in (
        ("windows", new_windows),
        ("events", new_events),
        ("duplicates", twice),
        ("incidents", len(batch.incidents)),
    ):
        _count(connection, name, more)
    return Taken(batch, twice)


def _clashes(connection: sa.Connection, batch: Batch) -> set[Spot]:
    """Places at which a batch has another message than was stored, or than it has itself."""
    found: set[Spot] = set()
    said: dict[Spot, bytes] = {}
    payloads = [payload for _, payload in (*batch.windows, *batch.events)]
    for place, payload in zip(batch.places, payloads, strict=True):
        if said.setdefault(spot(place), payload) != payload:
            found.add(spot(place))
    spots = _seen(connection, said)
    for part, table in itertools.product(in_parts(spots), (db.window, db.event)):
        columns = (table.c.device, table.c.spool, table.c.seq)
        asked = sa.tuple_(*columns).in_(part)
        for row in connection.execute(sa.select(*columns, table.c.payload).where(asked)):
            where = (row.device, row.spool, row.seq)
            if said[where] != row.payload:
                found.add(where)
    return found


def _seen(connection: sa.Connection, spots: Collection[Spot]) -> list[Spot]:
    """Those that do not lie beyond everything that their outbox has sent; mostly none."""
    names = {device for device, _, _ in spots}
    newest: dict[tuple[str, str], int] = {}
    for part in in_parts(names):
        columns = (db.spool.c.device, db.spool.c.spool, db.spool.c.newest)
        rows = connection.execute(sa.select(*columns).where(db.spool.c.device.in_(part)))
        newest |= {(row.device, row.spool): row.newest for row in rows}
    return [where for where in spots if where[2] <= newest.get(where[:2], 0)]


def _without(batch: Batch, spots: Collection[Spot]) -> Batch:
    """A batch without what stands where something else does."""
    if not spots:
        return batch
    incidents = [
        Incident(batch.received_at, device, "", "G07", f"another message is at {spool}/{seq}", 0)
        for device, spool, seq in sorted(spots)
    ]
    return replace(
        batch,
        windows=[item for item in batch.windows if spot(item[0].place) not in spots],
        events=[item for item in batch.events if spot(item[0].place) not in spots],
        incidents=[*batch.incidents, *incidents],
    )


def _note_spools(connection: sa.Connection, batch: Batch) -> dict[tuple[str, str], int]:
    """Keep the range of each outbox that is named; returns what retention took, by outbox."""
    seen: dict[tuple[str, str], tuple[int, int]] = {}
    for place in batch.places:
        oldest, newest = seen.get((place.device, place.spool), (0, 0))
        seen[place.device, place.spool] = (max(oldest, place.oldest), max(newest, place.seq))
    if not seen:
        return {}
    add = insert(connection, db.spool)
    kept = add.on_conflict_do_update(
        index_elements=["device", "spool"],
        set_={name: larger(db.spool.c[name], add.excluded[name]) for name in ("oldest", "newest")},
    )
    connection.execute(
        kept,
        [
            {"device": device, "spool": spool, "oldest": oldest, "newest": newest}
            for (device, spool), (oldest, newest) in seen.items()
        ],
    )
    columns = (db.spool.c.device, db.spool.c.spool, db.spool.c.floor)
    floors: dict[tuple[str, str], int] = {}
    for part in in_parts({device for device, _ in seen}):
        rows = connection.execute(sa.select(*columns).where(db.spool.c.device.in_(part)))
        floors |= {(row.device, row.spool): row.floor for row in rows}
    return floors


def _note_devices(connection: sa.Connection, batch: Batch) -> None:
    heard = {place.device for place in batch.places}
    heard |= set(batch.states) | {name for name, (on, _) in batch.presence.items() if on}
    which = db.device.c.id == sa.bindparam("name")
    if heard:
        connection.execute(
            sa.update(db.device).where(which).values(seen_at=batch.received_at),
            [{"name": name} for name in sorted(heard)],
        )
    if batch.states:
        connection.execute(
            sa.update(db.device).where(which),
            [{"name": name, **_state_row(state)} for name, state in batch.states.items()],
        )
    if batch.presence:
        connection.execute(
            sa.update(db.device).where(which),
            [
                {"name": name, "online": online, "session": session}
                for name, (online, session) in batch.presence.items()
            ],
        )


def _note_incidents(connection: sa.Connection, incidents: Sequence[Incident]) -> None:
    if not incidents:
        return
    connection.execute(
        db.incident.insert(), [dict(item.__dict__) for item in incidents[-INCIDENTS_KEPT:]]
    )
    newest = connection.scalar(sa.select(sa.func.max(db.incident.c.id))) or 0
    connection.execute(db.incident.delete().where(db.incident.c.id <= newest - INCIDENTS_KEPT))


def _window_row(window: Window, payload: bytes, at: float) -> dict[str, Any]:
    place = window.place
    return {
        "device": place.device,
        "spool": place.spool,
        "seq": place.seq,
        "received_at": at,
        "closed": window.closed,
        "bundle": window.bundle,
        "rows": window.rows,
        "payload": payload,
    }


def _event_row(event: Event, payload: bytes, at: float) -> dict[str, Any]:
    place = event.place
    return {
        "device": place.device,
        "spool": place.spool,
        "seq": place.seq,
        "received_at": at,
        "code": event.code,
        "rollout": event.rollout,
        "payload": payload,
    }


def _state_row(state: State) -> dict[str, Any]:
    return {
        "labels": {storable(name): storable(value) for name, value in state.labels.items()},
        "state": state.to_bytes(),
        "bundle": state.bundle,
        "bundle_name": state.bundle_name,
        "bundle_version": state.bundle_version,
        "by_rule": state.fallback,
    }


def _insert_new(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> int:
    if not rows:
        return 0
    statement = insert(connection, table).on_conflict_do_nothing()
    counted = {"preserve_rowcount": True}
    return connection.execute(statement, rows, execution_options=counted).rowcount


def _count(connection: sa.Connection, name: str, more: int) -> None:
    if more:
        add = insert(connection, db.counter).values(name=name, value=more)
        connection.execute(
            add.on_conflict_do_update(
                index_elements=["name"], set_={"value": db.counter.c.value + more}
            )
        )
