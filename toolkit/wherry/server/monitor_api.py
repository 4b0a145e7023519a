"""What the monitor and the report ask the server for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from wherry.behind import Known, behind, known_here
from wherry.documents import to_document
from wherry.monitor import FleetView
from wherry.report.data import (
    BundleLine,
    DecisionLine,
    DeviceLine,
    EventLine,
    ExposureLine,
    ReportData,
    RolloutLine,
)
from wherry.rows import DeviceRow, Incident, RolloutRow, StoredEvent
from wherry.verified import recorded

from .query import seconds, selection
from .store import Store
from .watching import Watching

_MOST_EVENTS: Final = 500
_MOST_ROLLOUTS: Final = 20


def routes(store: Store, watching: Watching, home: Path) -> list[Route]:
    """The monitor's routes; `home` is the server's folder."""
    api = _MonitorApi(store, watching, home)
    return [
        Route("/api/v1/monitor", api.monitor, methods=["GET"]),
        Route("/api/v1/report-data", api.report_data, methods=["GET"]),
    ]


class _MonitorApi:
    """One method for each route."""

    def __init__(self, store: Store, watching: Watching, home: Path) -> None:
        self._store, self._home = store, home
        self._watching = watching

    def monitor(self, request: Request) -> JSONResponse:
        brief = request.query_params.get("brief") == "1"
        view = self._view(request, brief=brief)
        return JSONResponse({"schema": "wherry/monitor/1"} | to_document(view))

    def report_data(self, request: Request) -> JSONResponse:
        view = self._view(request)
        select = selection(request)
        found = collect(self._store, view, select, time.time(), self._home)
        return JSONResponse(found.to_dict())

    def _view(self, request: Request, *, brief: bool = False) -> FleetView:
        return self._watching.look(
            bucket=seconds(request, "bucket"),
            same_hours=request.query_params.get("same_hours") == "1",
            select=selection(request),
            by=request.query_params.getlist("by"),
            since=seconds(request, "since"),
            brief=brief,
        )


def collect(
    store: Store, view: FleetView, select: Mapping[str, str], now: float, home: Path
) -> ReportData:
    """Everything that a report shows.

    Args:
        store: the fleet's memory.
        view: the judgement.
        select: labels that the devices must have.
        now: Unix seconds.
        home: the server's folder.
    """
    rows = store.devices(select)
    names, known = {row.device for row in rows}, known_here()
    events = [_event(row) for row in store.events(limit=_MOST_EVENTS) if row.device in names]
    incidents = [_incident(row) for row in store.incidents() if row.device in names or not select]
    rollouts = [rollout_line(row, names) for row in store.rollouts()[-_MOST_ROLLOUTS:]]
    return ReportData(
        made_at=now,
        select=select,
        view=view,
        bundles=tuple(
            BundleLine(row.digest, row.name, row.version, _boards(home, row.digest))
            for row in store.bundles()
        ),
        devices=tuple(_device(row, store.lost(row.device), known) for row in rows),
        rollouts=tuple(row for row in rollouts if row.devices),
        events=tuple(sorted(events + incidents, key=lambda row: row.at)),
        counters=store.counters(),
    )


def _boards(home: Path, digest: str) -> tuple[str, ...]:
    return tuple(f"{name}: {text}" for name, text in recorded(home, digest).items())


def _device(row: DeviceRow, lost: int, known: Known) -> DeviceLine:
    state = row.state
    return DeviceLine(
        device=row.device,
        family=row.family,
        labels=row.labels,
        online=row.online,
        seen_at=row.seen_at,
        phase=state.phase if state else "",
        bundle=state.bundle if state else "",
        bundle_name=state.bundle_name if state else "",
        bundle_version=state.bundle_version if state else "",
        trust=state.trust if state else "",
        fallback=bool(state and state.fallback),
        agent=state.agent if state else "",
        lost=lost,
        runtime=f"{state.runtime} {state.runtime_version}" if state else "",
        behind=behind(state, known) if state else (),
    )


def rollout_line(row: RolloutRow, names: set[str]) -> RolloutLine:
    """A rollout as a report shows it, with its devices as far as they are named."""
    return RolloutLine(
        id=row.id,
        name=row.name,
        version=row.version,
        bundle=row.bundle,
        state=row.state,
        waves=row.waves,
        created_at=row.created_at,
        changed_at=row.changed_at,
        stopped=row.stopped,
        devices=tuple(
            ExposureLine(
                device=item.device,
                wave=item.wave,
                outcome=item.outcome,
                code=item.code,
                detail=item.detail,
                offered_at=item.offered_at,
                settled_at=item.settled_at,
                reverted_at=item.reverted_at,
            )
            for item in row.devices
            if item.device in names
        ),
        decisions=tuple(
            DecisionLine(item.at, item.before, item.after, item.wave, item.reason)
            for item in row.decisions
        ),
    )


def _event(row: StoredEvent) -> EventLine:
    event = row.event
    return EventLine(event.at, row.device, event.severity, event.code, event.text)


def _incident(row: Incident) -> EventLine:
    text = f"not taken, from {row.channel}: {row.detail}"
    return EventLine(row.at, row.device, "warning", row.code, text)
