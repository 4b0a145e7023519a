"""The first page: how the fleet is, at a glance."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from wherry.monitor import FleetView, words
from wherry.report import charts, facts
from wherry.report.drawing import Picture
from wherry.rows import StoredEvent
from wherry.server.store import Store

from .judged import Judged
from .rollouts import progress
from .sessions import Session
from .shell import Shell, picture

_ALERTS: Final = 6
_TROUBLES: Final = 8
_LOOKED_AT: Final = 400  # the latest events
_RUNS: Final = 12
_RUNNING: Final = 6


class FleetPage:
    """Draws it."""

    def __init__(self, shell: Shell, store: Store, judged: Judged) -> None:
        """Take what renders, what is known, and the judgement."""
        self._shell = shell
        self._store = store
        self._judged = judged

    def page(self, request: Request, session: Session) -> Response:
        """The page."""
        view = self._judged.view()
        state, sentences = words.headline(view)
        alerts = facts.alerts(view)
        ledger = self._store.ledger
        running = ledger.heads(running=True, limit=_RUNNING)
        return self._shell.page(
            "fleet.html.j2",
            request,
            session,
            counts=self._store.census.counts(),
            state=facts.state(state),
            tone=facts.tone(state),
            sentences=sentences if view.windows else [],
            alerts=alerts[:_ALERTS],
            drifted=_drifted(view),
            running=[(row, progress(ledger.waves(row.id))) for row in running],
            health=_pictures(view),
            troubles=_troubles(self._store.events(limit=_LOOKED_AT)),
            looked_at=_LOOKED_AT,
            most_runs=_RUNS,
        )


def _drifted(view: FleetView) -> int:
    """Single devices at which something has drifted."""
    return len({cell.device for cell in view.alerts if cell.device and "=" not in cell.device})


def _troubles(events: list[StoredEvent]) -> list[StoredEvent]:
    """The latest errors and warnings, the newest first."""
    return [row for row in events[::-1] if row.event.severity != "info"][:_TROUBLES]


def _pictures(view: FleetView) -> list[Picture]:
    together = [item for item in view.health if not item.device]
    if not together or not any(item.rows for item in together):
        return []
    found = []
    if charts.has_latency(together):
        found.append(picture(charts.latency(together), "Latency", "all devices, by day"))
    expected = facts.expected_flags(view)
    note = f"dashed: {words.percent(expected)} of the reference" if expected else "by day"
    inks = {"": "var(--fleet)"}
    return [*found, picture(charts.flagged(together, inks, expected), "Flagged share", note)]
