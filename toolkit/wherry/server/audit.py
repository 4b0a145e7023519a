"""What was done and when, from all tables that note it: one list, the latest first.

Nothing is written for it: orders, decisions, questions, keys and refusals are stored by whoever
does them, in the transaction that does them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from . import database as db


@dataclass(frozen=True)
class Entry:
    """One thing that was done.

    Attributes:
        at: Unix seconds by the server's clock.
        kind: one of `KINDS`.
        what: in a word or two.
        device: it was done to; "" for none.
        rollout: it belongs to; "" for none.
        text: more of it.
    """

    at: float
    kind: str
    what: str
    device: str
    rollout: str
    text: str


_NONE: Final[sa.ColumnElement[str]] = sa.literal("")


@dataclass(frozen=True)
class _Source:
    """Where entries are read from: a table's columns, or constants."""

    at: sa.Column[float]
    what: sa.ColumnElement[str]
    text: sa.ColumnElement[str]
    device: sa.ColumnElement[str] = _NONE
    rollout: sa.ColumnElement[str] = _NONE


def _words(*parts: str | sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    found = _NONE
    for part in parts:
        found = found.concat(part)
    return found


_bundle, _rollout, _decision = db.bundle.c, db.rollout.c, db.decision.c
_question, _device, _claim = db.question.c, db.device.c, db.claim.c
_certificate, _incident = db.certificate.c, db.incident.c
_SOURCES: Final[Mapping[str, tuple[_Source, ...]]] = {
    "models": (
        _Source(
            _bundle.added_at,
            sa.literal("model taken"),
            _words(_bundle.name, " ", _bundle.version, ", ", _bundle.digest),
        ),
    ),
    "rollouts": (
        _Source(
            _rollout.created_at,
            sa.literal("rollout begun"),
            _words(_rollout.name, " ", _rollout.version),
            rollout=_rollout.id,
        ),
        _Source(
            _decision.at,
            _words(_decision.before, " to ", _decision.after),
            _decision.reason,
            rollout=_decision.rollout,
        ),
    ),
    "questions": (
        _Source(_question.asked_at, sa.literal("asked"), _question.ask, device=_question.device),
        _Source(
            _question.answered_at, sa.literal("answered"), _question.ask, device=_question.device
        ),
    ),
    "identities": (
        _Source(
            _claim.made_at,
            sa.literal("claim made"),
            _words("for family ", _claim.family),
            device=_claim.device,
        ),
        _Source(
            _device.enrolled_at,
            sa.literal("enrolled"),
            _words("family ", _device.family),
            device=_device.id,
        ),
        _Source(
            _certificate.issued_at,
            sa.literal("certificate given"),
            _words("number ", _certificate.serial),
            device=_certificate.device,
        ),
        _Source(
            _certificate.revoked_at,
            sa.literal("certificate revoked"),
            _words("number ", _certificate.serial),
            device=_certificate.device,
        ),
    ),
    "refusals": (
        _Source(
            _incident.at,
            _words("not taken: ", _incident.code),
            _words(_incident.channel, ": ", _incident.detail),
            device=_incident.device,
        ),
    ),
}
KINDS: Final = tuple(_SOURCES)


class Trail:
    """Reads it."""

    def __init__(self, database: db.Database) -> None:
        self._database = database

    def latest(
        self, limit: int, before: float = 0.0, kinds: Collection[str] = KINDS, device: str = ""
    ) -> list[Entry]:
        """What was done, the latest first.

        Args:
            limit: how many at the most.
            before: only what was done before, Unix seconds; 0 for all.
            kinds: some of `KINDS`.
            device: only what was done to this device; "" for all.
        """
        found: list[Entry] = []
        with self._database.reading() as connection:
            for kind in kinds:
                for source in _SOURCES[kind]:
                    rows = _read(connection, source, limit, before, device)
                    found += [Entry(row[0], kind, *row[1:5]) for row in rows]
        return sorted(found, key=lambda entry: -entry.at)[:limit]


def _read(
    connection: sa.Connection, source: _Source, limit: int, before: float, device: str
) -> list[Any]:
    columns = (source.at, source.what, source.device, source.rollout, source.text)
    query = sa.select(*columns).where(source.at > 0.0).order_by(source.at.desc()).limit(limit)
    if before:
        query = query.where(source.at < before)
    if device:
        query = query.where(source.device == device)
    return [*connection.execute(query)]
