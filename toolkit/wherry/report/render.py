"""The report as one HTML file: no script, no network, readable on a phone, light and dark.

Whatever comes from a device is text and stays text: the template escapes all, control
characters are made visible, and the page's own policy forbids scripts and loading.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from wherry.monitor import FLAGGED, Kind, Performance, performance_words, words
from wherry.monitor.performance import ASSUMPTION, DECLINED

from . import charts, facts
from .data import ReportData, RolloutLine
from .drawing import Picture, draw, templates

_TEMPLATE: Final = "report.html.j2"
_MOST_PICTURES: Final = 8
_MOST_ROLLOUTS: Final = 6
_MOST_SPANS: Final = 60
_MOST_FORECASTS: Final = 40


@dataclass(frozen=True)
class _RolloutPart:
    """A rollout as the page shows it."""

    line: RolloutLine
    begun: str
    waves: list[dict[str, str]]
    picture: Picture | None
    more: int


def render(data: ReportData) -> str:
    """The report's page."""
    return templates().get_template(_TEMPLATE).render(_page(data))


def _page(data: ReportData) -> dict[str, Any]:
    view = data.view
    state, sentences = words.headline(view)
    heads, rows = facts.grid(view)
    labels = " ".join(f"{name}={value}" for name, value in sorted(data.select.items()))
    return {
        "data": data,
        "view": view,
        "policy": view.policy,
        "made_at": words.day(data.made_at),
        "labels": labels,
        "state": facts.state(state),
        "tone": facts.tone(state),
        "sentences": sentences,
        "period": _period(data),
        "rows_in_all": f"{sum(item.rows for item in view.health if not item.device):,}",
        "alerts": facts.alerts(view),
        "moved": list(_moved(data)),
        "heads": heads,
        "grid": rows,
        "hidden": max(0, len(view.devices) - facts.MOST_COLUMNS),
        "inks": [(words.place(place), ink) for place, ink in charts.colours(view).items()],
        "drift": list(_drift(data)),
        "scores": list(_scores(data)),
        "performance": performance_words.lines(view.performance[-_MOST_SPANS:]),
        "quality": list(_quality(data)),
        "assumption": ASSUMPTION,
        "declined": DECLINED,
        "forecasts": performance_words.forecast_lines(view.forecasts)[:_MOST_FORECASTS],
        "health": facts.health(data),
        "health_pictures": list(_health(data)),
        "rollouts": [_rollout(line, data.made_at) for line in data.rollouts[::-1][:_MOST_ROLLOUTS]],
        "devices": facts.devices(data),
        "probings": facts.probings(data),
        "events": data.events[::-1][: facts.MOST_EVENTS],
        "day": words.day,
        "bundles": {item.digest: f"{item.name} {item.version}" for item in data.bundles},
    }


def _period(data: ReportData) -> str:
    if not data.view.health:
        return ""
    return words.span(min(item.opened for item in data.view.health), data.view.newest)


# --- pictures ----------------------------------------------------------------------------


def _moved(data: ReportData) -> Iterator[Picture]:
    inks = charts.colours(data.view)
    cells = [cell for cell in data.view.alerts if cell.slots and cell.kind == Kind.SHAPE]
    cells.sort(key=lambda cell: (not cell.device, words.gravity(cell)))
    for cell in cells[:_MOST_PICTURES]:
        where = words.place(cell.device)
        note = f"{where}, {words.span(cell.opened, cell.closed)}: now (bar), {cell.against} (mark)"
        ink = inks.get(cell.device, "var(--fleet)")
        yield draw(charts.slots(cell, ink), cell.subject, note)


def _drift(data: ReportData) -> Iterator[Picture]:
    view, inks = data.view, charts.colours(data.view)
    for name in facts.subjects(view):
        if name == FLAGGED:
            continue  # a share, with a picture of its own
        kinds = (Kind.SHAPE, Kind.PAIR, Kind.SCORE, Kind.CLASSES)
        cells = [cell for cell in view.cells if cell.subject == name and cell.kind in kinds]
        yield draw(charts.drift(cells, inks, view.policy, view), name, "")


def _scores(data: ReportData) -> Iterator[Picture]:
    inks = charts.colours(data.view)
    names = {item.digest: f"{item.name} {item.version}" for item in data.bundles}
    for pair in data.view.scores[:_MOST_PICTURES]:
        model = names.get(pair.bundle, pair.bundle[:19])
        note = f"{model}, {words.span(pair.opened, pair.closed)}, {pair.rows:,} rows"
        ink = inks.get(pair.device, "var(--fleet)")
        yield draw(charts.scores(pair, ink), words.place(pair.device), note)


def _quality(data: ReportData) -> Iterator[Picture]:
    names = {item.digest: f"{item.name} {item.version}" for item in data.bundles}
    spans: dict[str, list[Performance]] = {}
    for item in data.view.performance[-_MOST_SPANS:]:
        if item.estimated:
            spans.setdefault(item.bundle, []).append(item)
    for bundle, mine in spans.items():
        title = f"Recall in the top tenth, {names.get(bundle, bundle[:19])}"
        yield draw(
            charts.recall(mine), title, "line and bars: from scores, 95 %; dots: from labels"
        )


def _health(data: ReportData) -> Iterator[Picture]:
    view = data.view
    if charts.has_latency(view.health):
        note = "all devices; from request to answer"
        yield draw(charts.latency(view.health), "Latency", note)
    if any(item.rows for item in view.health):
        expected = facts.expected_flags(view)
        note = f"dashed: {words.percent(expected)} of the reference" if expected else ""
        spec = charts.flagged(view.health, charts.colours(view), expected)
        yield draw(spec, "Flagged share", note)


def _rollout(line: RolloutLine, now: float) -> _RolloutPart:
    asked = [item for item in line.devices if item.offered_at]
    picture = None
    if asked:
        spec = charts.rollout(line, now)
        picture = draw(spec, f"{line.name} {line.version}", "order to outcome, UTC")
    more = max(0, len(line.devices) - charts.MOST_BARS)
    return _RolloutPart(line, words.day(line.created_at), facts.waves(line), picture, more)
