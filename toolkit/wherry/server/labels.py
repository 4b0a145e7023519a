"""Delayed labels on the medium: batches that count once, and their sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from wherry.documents import Moment
from wherry.labels.counts import LabelBatch, LabelRow
from wherry.monitor import Labels
from wherry_contract.errors import RolloutError

from . import database as db


@dataclass(frozen=True)
class BatchLine:
    """A batch that was taken; `first` and `last` are days of its payments."""

    batch: str
    source: str
    added_at: Moment
    labels: int
    positives: int
    first: Moment
    last: Moment


class LabelStore:
    """Reads and writes them."""

    def __init__(self, database: db.Database) -> None:
        self._database = database
        self._sums: tuple[int, Mapping[str, Mapping[float, Labels]]] = (0, {})

    def add(self, batch: LabelBatch, now: float) -> bool:
        """Take a batch; whether it is new.

        Args:
            batch: checked.
            now: Unix seconds.

        Raises:
            RolloutError: R06, other labels came under this name.
            StoreError: D01 or D06; nothing was stored.
        """
        with self._database.writing() as connection:
            known = sa.select(db.label_batch.c.batch).where(db.label_batch.c.batch == batch.batch)
            if connection.scalar(known) is not None:
                if _rows(connection, batch.batch) != sorted(batch.rows, key=_key):
                    cure = "name it otherwise with --batch, without the labels that are there"
                    detail = f"batch {batch.batch} holds other labels"
                    raise RolloutError("R06", detail, cure=cure)
                return False
            days = [row.day for row in batch.rows] or [0.0]
            connection.execute(
                db.label_batch.insert().values(
                    batch=batch.batch,
                    source=batch.source,
                    added_at=now,
                    labels=batch.labels,
                    positives=batch.positives,
                    first=min(days),
                    last=max(days),
                )
            )
            for row in batch.rows:
                counts = {"negatives": list(row.negatives), "positives": list(row.positives)}
                key = {"bundle": row.bundle, "day": row.day, "weight": row.weight}
                connection.execute(db.label.insert().values(batch=batch.batch, **key, **counts))
        return True

    def batches(self) -> list[BatchLine]:
        """Every batch, the oldest first."""
        query = sa.select(db.label_batch).order_by(
            db.label_batch.c.added_at, db.label_batch.c.batch
        )
        with self._database.reading() as connection:
            return [BatchLine(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001 - SQLAlchemy's public name

    def sums(self) -> Mapping[str, Mapping[float, Labels]]:
        """All labels, by bundle and day; read anew only when a batch has come."""
        with self._database.reading() as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(db.label_batch)) or 0
            if count != self._sums[0]:
                rows = _rows(connection)
                self._sums = (count, _summed(rows))
        return self._sums[1]


def _rows(connection: sa.Connection, batch: str | None = None) -> list[LabelRow]:
    query = sa.select(db.label)
    if batch is not None:
        query = query.where(db.label.c.batch == batch)
    rows = (
        LabelRow(row.bundle, row.day, row.weight, tuple(row.negatives), tuple(row.positives))
        for row in connection.execute(query)
    )
    return sorted(rows, key=_key)


def _key(row: LabelRow) -> tuple[str, float, float]:
    return (row.bundle, row.day, row.weight)


def _summed(rows: list[LabelRow]) -> dict[str, dict[float, Labels]]:
    found: dict[str, dict[float, Labels]] = {}
    for row in rows:
        negatives, positives = (np.array(part) for part in (row.negatives, row.positives))
        more, days = Labels.of(negatives, positives, row.weight), found.setdefault(row.bundle, {})
        days[row.day] = days[row.day] + more if row.day in days else more
    return found
