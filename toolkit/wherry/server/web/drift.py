"""The heat map of features and time, and the two histograms behind one of its cells."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from wherry.monitor import Cell, FleetView, Kind, words
from wherry.report import charts, facts
from wherry.report.drawing import Picture
from wherry_contract.errors import RolloutError

from .judged import DAYS, Judged
from .sessions import Session
from .shell import Shell, picture

_PLACES: Final = 30
_SPREADS: Final = (Kind.SHAPE, Kind.PAIR, Kind.SCORE, Kind.CLASSES)


@dataclass(frozen=True)
class Box:
    """One field of the heat map.

    Attributes:
        columns: how many buckets it covers.
        tone: names its colour; "" for a field that holds nothing.
        text: what it shows.
        hint: the same in a sentence.
        address: of what is behind it; "" for nothing.
    """

    columns: int
    tone: str = ""
    text: str = ""
    hint: str = ""
    address: str = ""


class DriftPages:
    """Draws both."""

    def __init__(self, shell: Shell, judged: Judged) -> None:
        """Take what renders, and the judgement."""
        self._shell = shell
        self._judged = judged

    def map(self, request: Request, session: Session) -> Response:
        """The heat map, of all devices together, and how single ones stand."""
        days = _days(request)
        view = self._judged.view(days)
        starts = _starts(view, days)
        state, sentences = words.headline(view)
        return self._shell.page(
            "drift.html.j2",
            request,
            session,
            view=view,
            days=days,
            lengths=DAYS,
            heads=[(start, words.day(start)) for start in starts],
            rows=[(name, list(_boxes(view, name, starts, days))) for name in facts.subjects(view)],
            state=facts.state(state),
            tone=facts.tone(state),
            sentences=sentences,
            standing=_standing(view)[:_PLACES],
            more=max(0, len(view.standing) - _PLACES),
            alerts=facts.alerts(view),
        )

    def cell(self, request: Request, session: Session) -> Response:
        """What is behind a field.

        Raises:
            RolloutError: R06, there is none such, or not any more.
        """
        days, asked = _days(request), request.query_params
        view = self._judged.view(days)
        name, opened = asked.get("of", ""), _moment(asked.get("opened", ""))
        mine = [cell for cell in view.cells if not cell.device and cell.subject == name]
        cells = [cell for cell in mine if cell.opened == opened]
        if not cells:
            cure = "go back to the heat map"
            raise RolloutError(
                "R06", f"there is no span of {name[:80]} that begins then", cure=cure
            )
        cells.sort(key=lambda cell: (words.gravity(cell), cell.kind not in _SPREADS))
        others = sorted({cell.opened for cell in mine})
        place = others.index(opened)
        return self._shell.page(
            "cell.html.j2",
            request,
            session,
            subject=name,
            days=days,
            span=words.span(cells[0].opened, cells[0].closed),
            lines=[(facts.line(cell), cell) for cell in cells],
            pairs=[_pair(cell) for cell in cells if cell.slots],
            before=_address(name, others[place - 1], days) if place else "",
            after=_address(name, others[place + 1], days) if place + 1 < len(others) else "",
            history=_history(view, mine),
        )


def _days(request: Request) -> int:
    text = request.query_params.get("days", "")
    return int(text) if text in map(str, DAYS) else DAYS[1]


def _moment(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,3})?", text) else -1.0


def _address(name: str, opened: float, days: int) -> str:
    return "/drift/cell?" + urlencode({"of": name, "opened": f"{opened:.0f}", "days": days})


def _starts(view: FleetView, days: int) -> list[float]:
    """Of the buckets that are shown; the first is that in which anything was counted."""
    length = view.policy.bucket_seconds
    first = min((item.opened for item in view.health), default=view.newest)
    first = max(first, view.newest - days * 86_400.0)
    return [first + number * length for number in range(math.ceil((view.newest - first) / length))]


def _boxes(view: FleetView, name: str, starts: Sequence[float], days: int) -> Iterator[Box]:
    """The fields of one row; together they fill it."""
    spans: dict[float, list[Cell]] = {}
    for cell in view.cells:
        if not cell.device and cell.subject == name:
            spans.setdefault(cell.opened, []).append(cell)
    column = 0
    for opened, cells in sorted(spans.items()):
        first = max(column, sum(start < opened for start in starts))
        last = sum(start < max(cell.closed for cell in cells) for start in starts)
        if last <= first:
            continue
        if first > column:
            yield Box(first - column)
        found = facts.tile(cells)
        address = _address(name, opened, days)
        yield Box(last - first, found.tone, found.text, f"{name}, {found.hint}", address)
        column = last
    if column < len(starts):
        yield Box(len(starts) - column)


def _pair(cell: Cell) -> tuple[Cell, Picture]:
    note = f"{words.span(cell.opened, cell.closed)}: now (bar), {cell.against} (mark)"
    return cell, picture(charts.slots(cell, "var(--d1)"), words.subject(cell), note)


def _history(view: FleetView, cells: Sequence[Cell]) -> Picture | None:
    spread = [cell for cell in cells if cell.kind in _SPREADS]
    if not spread or not any(cell.evidence for cell in spread) or not view.health:
        return None
    spec = charts.drift(spread, {"": "var(--fleet)"}, view.policy, view)
    return picture(spec, "PSI over time", "with its 95 % interval; dashed: where it warns and acts")


def _standing(view: FleetView) -> list[tuple[str, bool, dict[str, int]]]:
    """Places with how many of their things stand how; what drifted first."""
    order = ("act", "warn", "watch")
    found = sorted(
        view.standing,
        key=lambda item: [bool(item.device), *(-item.counts.get(x, 0) for x in order)],
    )
    return [
        (words.place(item.device), bool(item.device) and "=" not in item.device, dict(item.counts))
        for item in found
    ]
