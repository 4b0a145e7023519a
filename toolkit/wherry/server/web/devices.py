"""The list of devices, and one device."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from wherry.behind import behind, known_here
from wherry.monitor import FleetView, words
from wherry.report import charts, facts
from wherry.report.drawing import Picture
from wherry.rows import DeviceRow
from wherry.server.census import LINKS, ORDERS, Wanted
from wherry.server.registry import Registry
from wherry.server.store import Store

from .judged import Judged
from .sessions import Session
from .shell import Shell, picture

PER_PAGE: Final = 50
_EVENTS: Final = 40


class DevicePages:
    """Draws both."""

    def __init__(
        self, shell: Shell, store: Store, judged: Judged, registry: Registry | None
    ) -> None:
        """Take what renders, what is known, the judgement, and who is who."""
        self._shell = shell
        self._store = store
        self._judged = judged
        self._registry = registry
        self._known = known_here()

    def list(self, request: Request, session: Session) -> Response:
        """One page of the list, filtered and sorted as the address says."""
        wanted, number = _wanted(request), _number(request)
        start = (number - 1) * PER_PAGE
        total, rows = self._store.census.page(wanted, start, PER_PAGE)
        moved = _moved(self._judged.view())

        def address(**changes: Any) -> str:
            asked = {name: value for name, value in wanted.__dict__.items() if value}
            return "/devices?" + urlencode(asked | {"page": 1} | changes)

        return self._shell.page(
            "devices.html.j2",
            request,
            session,
            wanted=wanted,
            links=LINKS,
            orders=ORDERS,
            total=total,
            rows=[(row, moved.get(row.device, "")) for row in rows],
            start=start,
            number=number,
            last=max(1, -(-total // PER_PAGE)),
            address=address,
            runs=self._store.census.counts().runs,
        )

    def device(self, request: Request, session: Session) -> Response:
        """One device.

        Raises:
            RolloutError: R07.
        """
        row = self._store.device(request.path_params["name"])
        view = self._judged.view()
        incidents = [item for item in self._store.incidents(1000) if item.device == row.device]
        standing = next((item for item in view.standing if item.device == row.device), None)
        return self._shell.page(
            "device.html.j2",
            request,
            session,
            row=row,
            behind=behind(row.state, self._known) if row.state else (),
            identity=self._registry.identity(row.device) if self._registry else None,
            lost=self._store.lost(row.device),
            system=_system(row),
            events=self._store.events(device=row.device, limit=_EVENTS)[::-1],
            incidents=incidents[: -_EVENTS - 1 : -1],
            questions=self._store.questions.of(row.device)[::-1],
            exposures=self._store.census.exposures(row.device),
            alerts=[line for line in facts.alerts(view) if line["where"] == row.device],
            pictures=_pictures(view, row.device),
            standing=standing,
            health=next((item for item in _health(view) if item.device == row.device), None),
        )


def _wanted(request: Request) -> Wanted:
    asked = request.query_params
    link, order = asked.get("link", ""), asked.get("order", "device")
    return Wanted(
        find=asked.get("find", "")[:200].strip(),
        link=link if link in LINKS else "",
        bundle=asked.get("bundle", "")[:80],
        by_rule=asked.get("by_rule", "") in ("1", "True"),
        order=order if order in ORDERS else "device",
    )


def _number(request: Request) -> int:
    text = request.query_params.get("page", "1")
    return max(1, int(text)) if re.fullmatch(r"[0-9]{1,6}", text) else 1


def _moved(view: FleetView) -> dict[str, str]:
    """The gravest of what moved, by device."""
    found: dict[str, str] = {}
    for cell in sorted(view.alerts, key=words.gravity):
        found.setdefault(cell.device, str(cell.decision))
    return found


def _system(row: DeviceRow) -> dict[str, str]:
    """What the device says of its system, as far as that is plain."""
    said = row.state.extra.get("system", {}) if row.state else {}
    plain = said.items() if isinstance(said, dict) else ()
    return {str(name): str(value) for name, value in plain if isinstance(value, str | int | float)}


def _health(view: FleetView) -> list[Any]:
    return [item for item in view.health if item.device]


def _pictures(view: FleetView, device: str) -> list[Picture]:
    """What moved at a device, as it was and is."""
    found = []
    for cell in view.current:
        if cell.device == device and cell.slots:
            note = f"{words.span(cell.opened, cell.closed)}: now (bar), {cell.against} (mark)"
            found.append(picture(charts.slots(cell, "var(--d1)"), words.subject(cell), note))
    for pair in view.scores:
        if pair.device == device:
            note = f"{words.span(pair.opened, pair.closed)}: now (bars), reference (line)"
            found.append(picture(charts.scores(pair, "var(--d1)"), "score", note))
    return found
