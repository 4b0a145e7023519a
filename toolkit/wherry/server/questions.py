"""Questions to devices on the medium: signed commands that are out, and the answers to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from wherry.rows import Question
from wherry_contract.errors import RolloutError
from wherry_contract.messages import Event

from . import database as db

MOST_OPEN: Final = 8  # of one device
_SHOWN: Final = 50


class Questions:
    """Reads and writes them."""

    def __init__(self, database: db.Database) -> None:
        self._database = database

    def add(self, row: Question, seen: int, sign: Callable[[Question], bytes]) -> Question:
        """Note a question under the device's next sequence; returns it as it is signed.

        Args:
            row: without sequence and envelope.
            seen: the last sequence that the device has echoed.
            sign: makes the envelope, once the sequence is known.

        Raises:
            RolloutError: R11, too many wait for an answer.
        """
        mine = db.question.c.device == row.device
        same = mine & (db.question.c.keyid == row.keyid)
        with self._database.writing() as connection:
            waiting = sa.select(sa.func.count()).where(mine & _is_open(row.asked_at))
            if (connection.scalar(waiting) or 0) >= MOST_OPEN:
                raise RolloutError("R11", f"{row.device} has {MOST_OPEN}")
            last = connection.scalar(sa.select(sa.func.max(db.question.c.sequence)).where(same))
            numbered = replace(row, sequence=max(seen, last or 0) + 1)
            signed = replace(numbered, envelope=sign(numbered))
            values = {name: value for name, value in signed.__dict__.items() if name in _STORED}
            done = connection.execute(db.question.insert().values(**values))
            key = done.inserted_primary_key
        return replace(signed, id=int(key[0]) if key else 0)

    def waiting(self, now: float) -> list[Question]:
        """Those that are neither answered nor expired, the oldest first."""
        query = sa.select(db.question).where(_is_open(now)).order_by(db.question.c.id)
        with self._database.reading() as connection:
            return [_question(row) for row in connection.execute(query)]

    def one(self, number: int) -> Question:
        """One question.

        Raises:
            RolloutError: R12.
        """
        query = sa.select(db.question).where(db.question.c.id == number)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise RolloutError("R12", str(number))
        return _question(row)

    def of(self, device: str) -> list[Question]:
        """The latest of a device, the oldest of them first."""
        query = sa.select(db.question).where(db.question.c.device == device)
        query = query.order_by(db.question.c.id.desc()).limit(_SHOWN)
        with self._database.reading() as connection:
            return [_question(row) for row in connection.execute(query)][::-1]


_STORED: Final = ("device", "keyid", "sequence", "ask", "asked_at", "expires", "envelope")


def note_answers(
    connection: sa.Connection, events: Sequence[tuple[Event, bytes]], at: float
) -> None:
    """Put answers to their questions, in the transaction that stores the events; the first stays."""
    for event, payload in events:
        if event.answer is None:
            continue
        which = (
            (db.question.c.device == event.place.device)
            & (db.question.c.keyid == event.answer.keyid)
            & (db.question.c.sequence == event.answer.sequence)
            & (db.question.c.answered_at == 0.0)
        )
        values = {"answered_at": at, "payload": payload}
        connection.execute(sa.update(db.question).where(which).values(**values))


def purge(connection: sa.Connection, before: float, after: float) -> None:
    """Drop questions asked before a moment, but not before `after`."""
    old = (db.question.c.asked_at < before) & (db.question.c.asked_at >= after)
    connection.execute(db.question.delete().where(old))


def _is_open(now: float) -> sa.ColumnElement[bool]:
    return (db.question.c.answered_at == 0.0) & (db.question.c.expires > now)


def _question(row: sa.Row[Any]) -> Question:
    found = row._asdict()
    payload = found.pop("payload")
    return Question(**found, event=Event.from_bytes(payload) if payload else None)
