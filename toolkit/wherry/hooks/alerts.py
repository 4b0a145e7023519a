"""Drift alerts for hooks: each is told until it is taken or its tries are used up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wherry.monitor import Cell, FleetView
from wherry.monitor.words import figures, gravity, subject
from wherry_contract.errors import WherryError
from wherry_contract.when import to_text
from wherry_contract.wire import canonical

from .ledger import Ledger
from .run import Told
from .ways import Way

SCHEMA: Final = "wherry/alert/1"
TRIES: Final = 20


@dataclass(frozen=True)
class Alert:
    """One comparison that warns or calls for action, since one moment.

    Attributes:
        id: the same while it stands; another once it is graver, or has ended and come again.
        cell: the comparison.
    """

    id: str
    cell: Cell

    def to_dict(self) -> dict[str, Any]:
        """What a hook is told."""
        cell, evidence = self.cell, self.cell.evidence
        value, corrected, interval = figures(evidence)
        return {
            "schema": SCHEMA,
            "id": self.id,
            "decision": str(cell.decision),
            "device": cell.device,
            "subject": cell.subject,
            "kind": str(cell.kind),
            "bundle": cell.bundle,
            "edges": cell.edges,
            "since": to_text(cell.since),
            "text": f"{cell.device or 'all devices'}: {subject(cell)}: {cell.rule}",
            "n": evidence.n if evidence else cell.rows,
            "m": evidence.m if evidence else 0,
            "p": evidence.p if evidence else None,
            "value": value,
            "corrected": corrected,
            "interval": interval,
            "explained_by": list(cell.explained_by),
        }


def alerts(view: FleetView) -> tuple[Alert, ...]:
    """What stands now, the gravest first, all devices together before single ones."""
    cells = sorted(view.alerts, key=lambda cell: (gravity(cell), cell.device, cell.subject))
    return tuple(Alert(_id(cell), cell) for cell in cells)


def _id(cell: Cell) -> str:
    parts = (cell.edges, cell.bundle, cell.device, cell.subject, cell.kind, cell.decision)
    text = "\n".join([SCHEMA, *map(str, parts), to_text(cell.since)])
    return "alert-" + hashlib.sha256(text.encode()).hexdigest()[:32]


def tell_alerts(
    found: Iterable[Alert], ways: Mapping[str, Way], ledger: Ledger, now: Callable[[], float]
) -> tuple[Told, ...]:
    """Tell every hook of what it has not taken yet.

    A hook that fails is left alone until the next call, so that one which is away holds up
    nobody for long. What no longer stands is forgotten, so that the ledger stays small.

    Args:
        found: see `alerts`.
        ways: whom to tell, by name.
        ledger: what was told.
        now: Unix seconds.

    Raises:
        StoreError: D01 or D06, it could not be noted.
    """
    standing = list(found)
    ledger.keep({alert.id for alert in standing})
    told, away = list[Told](), set[str]()
    for alert in standing:
        for name, way in ways.items():
            state, outcome = _tell(alert, name, way, ledger, now=now, away=away)
            told.append(Told(alert.id, alert.cell.bundle, name, state, outcome))
    return tuple(told)


def _tell(
    alert: Alert,
    name: str,
    way: Way,
    ledger: Ledger,
    *,
    now: Callable[[], float],
    away: set[str],
) -> tuple[str, str]:
    known = ledger.line(alert.id, name)
    if known and known.done_at:
        return "told before", ""
    if known and known.tries >= TRIES:
        return "given up", known.outcome
    if name in away:
        return "failed", "not tried: it has just failed"
    line = ledger.begin(alert.id, alert.cell.bundle, name, now())
    assert line  # noqa: S101 - it was not done a moment ago
    try:
        outcome = way.send(alert.id, canonical(alert.to_dict()))
    except WherryError as error:
        ledger.end(line, str(error))
        away.add(name)
        return "failed", str(error)
    ledger.end(line, outcome, done_at=now())
    return "told", outcome
