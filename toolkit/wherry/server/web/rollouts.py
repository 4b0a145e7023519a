"""Rollouts: the list, and one with its waves, its gates and how it went on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from wherry.outcomes import FAILED, shown
from wherry.report import charts
from wherry.report.drawing import Picture
from wherry.rows import Decision, RolloutRow
from wherry.server.ledger import ENDED
from wherry.server.monitor_api import rollout_line
from wherry.server.store import Store
from wherry.server.views import shadows_of
from wherry.shadows import sum_up

from .sessions import Session
from .shell import Shell, picture

_LISTED: Final = 100
_DEVICES: Final = 60
OUTCOMES: Final = ("committed", *map(str, FAILED), "withdrawn", "under way", "waiting")


@dataclass(frozen=True)
class Progress:
    """How far a rollout is, in devices."""

    devices: int
    settled: int
    failed: int


@dataclass(frozen=True)
class Gate:
    """One figure that a step was decided by; `bad` if it spoke against going on."""

    name: str
    text: str
    bad: bool = False


def progress(waves: Mapping[int, Mapping[str, int]]) -> Progress:
    """Of all waves together."""
    counts = dict.fromkeys(OUTCOMES, 0)
    for found in waves.values():
        for name, number in found.items():
            counts[name] = counts.get(name, 0) + number
    whole = sum(counts.values())
    failed = sum(counts[str(name)] for name in FAILED)
    return Progress(whole, whole - counts["under way"] - counts["waiting"], failed)


def gates(figures: Mapping[str, Any]) -> list[Gate]:
    """The figures of a step, in the order in which a reader asks for them."""
    rest = shown(figures)
    allowed = rest.pop("allowed_failures", None)
    found = []
    for name, value in rest.items():
        text, bad = str(value), False
        if name == "failed" and allowed is not None:
            text, bad = f"{value} of {allowed} allowed", value > allowed
        if name in ("undecided", "kept", "still_on_it"):
            bad = bool(value)
        found.append(Gate(name.replace("_", " "), text, bad))
    for result in figures.get("gate_results", ()):
        text = f"{result['said']}: {result['why']}"
        found.append(Gate(f"gate {result['name']}", text, result["said"] == "failed"))
    return found


class RolloutPages:
    """Draws both."""

    def __init__(self, shell: Shell, store: Store) -> None:
        """Take what renders, and what is known."""
        self._shell = shell
        self._store = store

    def list(self, request: Request, session: Session) -> Response:
        """The latest rollouts."""
        ledger = self._store.ledger
        rows = [(row, progress(ledger.waves(row.id))) for row in ledger.heads(limit=_LISTED)]
        return self._shell.page("rollouts.html.j2", request, session, rows=rows, most=_LISTED)

    def rollout(self, request: Request, session: Session) -> Response:
        """One rollout.

        Raises:
            RolloutError: R01.
        """
        ledger = self._store.ledger
        row = ledger.story(request.path_params["name"], _DEVICES)
        waves = ledger.waves(row.id)
        shadows = shadows_of(row, self._store)
        return self._shell.page(
            "rollout.html.j2",
            request,
            session,
            row=row,
            ended=row.state in ENDED,
            done=progress(waves),
            waves=sorted(waves.items()),
            outcomes=OUTCOMES,
            steps=[(step, gates(step.figures)) for step in _steps(row)],
            drawn_devices=_picture(row),
            shadow=sum_up(shadows),
            shadows=sorted(shadows.items()),
        )


def _steps(row: RolloutRow) -> list[Decision]:
    """The latest first."""
    return [*row.decisions[::-1]]


def _picture(row: RolloutRow) -> Picture | None:
    asked = [item for item in row.devices if item.offered_at]
    if not asked:
        return None
    line = rollout_line(row, {item.device for item in asked})
    more = max(0, len(asked) - charts.MOST_BARS)
    note = "order to outcome, UTC" + (f"; {more} more are not drawn" if more else "")
    return picture(charts.rollout(line, line.changed_at), "Devices", note)
