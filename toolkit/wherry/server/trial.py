"""Reads what the gates are asked with: the traffic of canary and control, before and after."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping

import sqlalchemy as sa

from wherry.gates.evidence import Numbers, Span, baseline, collect, differences
from wherry.gates.judge import Inputs
from wherry.gates.rules import Rules
from wherry.rows import Exposure, RolloutRow
from wherry_contract.states import Outcome
from wherry_contract.window import Window

from . import database as db


class Trial:
    """Makes the inputs of one look at the gates."""

    def __init__(self, database: db.Database) -> None:
        self._database = database

    def inputs(self, row: RolloutRow, rules: Rules, look: int) -> Inputs:
        """What is known by now; devices without enough traffic are not among it."""
        canary, control = sides(row, rules.most_devices)
        split = statistics.median(item.settled_at for item in canary) if canary else 0.0
        spans = {
            item.device: Span(row.bundle, 0.0, item.offered_at - rules.before_seconds)
            for item in canary
        }
        since = split - rules.before_seconds
        spans |= {item.device: Span(row.bundle, split, since) for item in control}
        pairs = collect(self._windows(spans), spans)
        base = baseline(pairs.values())

        def changes(items: list[Exposure]) -> Numbers:
            mine = {item.device: pairs[item.device] for item in items}
            return differences(mine, base, rules.least_rows)

        shadow = self._shadow(row, rules) if "disagreement" in rules.names else []
        return Inputs(look, changes(canary), changes(control), shadow, f"{row.id}\n{row.wave}")

    def _windows(self, spans: Mapping[str, Span]) -> Iterator[tuple[str, Window]]:
        """Windows of these devices, so many devices at a time."""
        since = min((span.since for span in spans.values()), default=0.0)
        table = db.window.c
        for part in db.in_parts(sorted(spans)):
            query = sa.select(table.device, table.payload)
            query = query.where(table.device.in_(part) & (table.closed >= since))
            with self._database.reading() as connection:
                rows = connection.execute(query).all()  # reading them takes long: not in here
            for row in rows:
                yield row.device, Window.from_bytes(row.payload)

    def _shadow(self, row: RolloutRow, rules: Rules) -> list[float]:
        """By device, the share of rows that the shadow decided otherwise."""
        names = [item.device for item in row.devices][: rules.most_devices]
        spans = {name: Span(row.bundle, 0.0, row.created_at) for name in names}
        sums: dict[str, tuple[int, int]] = {}
        for device, window in self._windows(spans):
            counts = window.shadow
            if counts and counts.bundle == row.bundle:
                rows, differ = sums.get(device, (0, 0))
                sums[device] = (rows + counts.rows, differ + counts.differing)
        return [
            round(differ / rows, 6)
            for _, (rows, differ) in sorted(sums.items())
            if rows >= rules.least_rows
        ]


def sides(row: RolloutRow, most: int) -> tuple[list[Exposure], list[Exposure]]:
    """Devices that have committed the new bundle by now, and devices without an order for it."""
    canary = [item for item in row.devices if item.outcome == Outcome.COMMITTED]
    control = [item for item in row.devices if not item.offered_at]
    return canary[:most], control[:most]
