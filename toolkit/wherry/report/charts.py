"""Charts as Vega-Lite specifications. Pure; colours are names that the page's style gives.

Each is narrow enough for a phone. PSI is drawn on a square-root axis, on which a steady
shift is a straight line, since a PSI grows with the square of the shift.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from wherry.monitor import (
    JUDGED,
    Cell,
    Decision,
    FleetView,
    Health,
    Performance,
    Policy,
    ScorePair,
    totals,
)
from wherry.monitor.view import DAY
from wherry.monitor.words import place
from wherry_contract.histograms import SCORE_BINS
from wherry_contract.when import to_text

from .data import RolloutLine
from .drawing import LOOK

Spec = dict[str, Any]

MOST_LINES: Final = 6
MOST_BARS: Final = 30
WIDTH: Final = 280
_TICKS: Final = 5
_FLEET: Final = "var(--fleet)"
_OUTCOMES: Final[Mapping[str, str]] = {
    "committed": "var(--stable)",
    "refused": "var(--act)",
    "reverted": "var(--act)",
    "silent": "var(--act)",
    "withdrawn": "var(--muted)",
    "under way": "var(--watch)",
}


def colours(view: FleetView) -> dict[str, str]:
    """A colour for all devices together and for those that are drawn, the gravest first."""
    found = {"": _FLEET}
    for number, device in enumerate(_drawn(view), start=1):
        found[device] = f"var(--d{number})"
    return found


def _drawn(view: FleetView) -> list[str]:
    alerts = [cell.device for cell in view.alerts if cell.device]
    watched = [
        cell.device for cell in view.current if cell.device and cell.decision == Decision.WATCH
    ]
    return list(dict.fromkeys([*alerts, *watched, *view.devices]))[:MOST_LINES]


def _scale(inks: Mapping[str, str], devices: Iterable[str]) -> Spec:
    shown = [device for device in inks if device in set(devices)]
    return {"domain": [place(device) for device in shown], "range": [inks[d] for d in shown]}


def _time(health: Sequence[Health]) -> Spec:
    """The axis of the payments' time, from the first bucket to the end of the last."""
    opened, closed = min(i.opened for i in health), max(i.closed for i in health)
    step = max(DAY, math.ceil((closed - opened) / _TICKS / DAY) * DAY)
    first = math.ceil(opened / DAY) * DAY
    days = [first + number * step for number in range(_TICKS + 1)]
    return {
        "field": "t",
        "type": "temporal",
        "scale": {"type": "utc", "domain": [to_text(opened), to_text(closed)]},
        "axis": {
            "format": "%d %b",
            "title": None,
            "grid": False,
            "values": [to_text(moment) for moment in days if moment <= closed - step / 3],
        },
    }


def _chart(height: int | Spec, layers: Sequence[Spec], **more: Any) -> Spec:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": WIDTH,
        "height": height,
        "padding": 4,
        "config": LOOK,
        "layer": list(layers),
    } | more


def _middle(opened: float, closed: float) -> str:
    return to_text((opened + closed) / 2)


# --- drift -------------------------------------------------------------------------------


def drift(cells: Sequence[Cell], inks: Mapping[str, str], policy: Policy, view: FleetView) -> Spec:
    """One subject's PSI over time, with the limits.

    Args:
        cells: of one subject, at all places.
        inks: colours by device.
        policy: the limits.
        view: the time that is shown.
    """
    judged, silent = [], []
    for cell in cells:
        if cell.device not in inks:
            continue
        point: dict[str, Any] = {
            "t": _middle(cell.opened, cell.closed),
            "where": place(cell.device),
        }
        if cell.evidence and cell.decision in JUDGED:
            found = cell.evidence
            judged.append(
                point
                | {"psi": max(0.0, found.corrected), "low": found.low, "high": found.high}
                | {"raised": cell.decision != Decision.STABLE}
            )
        else:
            silent.append(point | {"psi": 0.0})
    top = max([0.15, *(point["high"] for point in judged if point["where"] == place(""))])
    top = max([top, *(1.1 * point["psi"] for point in judged)])
    x = _time(view.health)
    ticks = [tick for tick in (0, policy.warn, policy.act, 0.25, 0.5, 1, 2, 4, 8) if tick <= top]
    y: Spec = {
        "field": "psi",
        "type": "quantitative",
        "scale": {"type": "sqrt", "domain": [0, top], "nice": False},
        "axis": {"values": ticks, "title": "PSI, corrected", "format": ".3~g"},
    }
    ink: Spec = {"field": "where", "type": "nominal", "legend": None}
    ink |= {"scale": _scale(inks, [*inks])}
    fleet = [point for point in judged if point["where"] == place("")]
    return _chart(
        110,
        [
            _limit(policy.warn, "var(--warn)", y),
            _limit(policy.act, "var(--act)", y),
            {
                "data": {"values": fleet},
                "mark": {"type": "area", "fill": _FLEET, "fillOpacity": 0.15},
                "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}},
            },
            {
                "data": {"values": judged},
                "mark": {"type": "line", "strokeWidth": 1.5},
                "encoding": {"x": x, "y": y, "color": ink},
            },
            {
                "data": {"values": judged},
                "mark": {"type": "point", "filled": True, "opacity": 1},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": ink,
                    "size": {"condition": {"test": "datum.raised", "value": 50}, "value": 16},
                },
            },
            {
                "data": {"values": silent},
                "mark": {"type": "text", "text": "\u00d7", "color": "var(--muted)", "dy": -4},
                "encoding": {"x": x, "y": y},
            },
        ],
    )


def _limit(value: float, ink: str, y: Spec) -> Spec:
    return {
        "data": {"values": [{"psi": value}]},
        "mark": {"type": "rule", "color": ink, "strokeDash": [4, 3]},
        "encoding": {"y": y},
    }


def slots(cell: Cell, ink: str) -> Spec:
    """What a spread was before (a tick) and is now (a bar), slot by slot."""
    values: list[Spec] = [
        {"slot": slot.label, "place": number, "before": slot.expected, "now": slot.actual}
        for number, slot in enumerate(cell.slots)
    ]
    y: Spec = {"field": "slot", "type": "nominal", "sort": {"field": "place"}}
    y |= {"axis": {"title": None, "labelLimit": 110}}
    x: Spec = {
        "type": "quantitative",
        "axis": {"format": "%", "title": "share of rows", "tickCount": 5},
    }
    return _chart(
        {"step": 18},
        [
            {
                "mark": {"type": "bar", "fill": ink, "fillOpacity": 0.75},
                "encoding": {"y": y, "x": x | {"field": "now"}},
            },
            {
                "mark": {"type": "tick", "color": "var(--ink)", "thickness": 2, "size": 15},
                "encoding": {"y": y, "x": x | {"field": "before"}},
            },
        ],
        width=200,
        data={"values": values},
    )


def scores(pair: ScorePair, ink: str) -> Spec:
    """A model's scores now (bars) beside those of its reference (line).

    Probabilities are on log-odds; bins of values stand side by side, since they hold nearly
    equally many rows of the reference and not equal widths.
    """
    top = max(pair.expected)
    start, width = (0, 1) if pair.edges else (-8, 0.25)
    values: list[Spec] = [
        {"from": start + b * width, "to": start + (b + 1) * width, "before": before, "now": now}
        for b, (before, now) in enumerate(zip(pair.expected, pair.actual, strict=True))
    ]
    held = [value for value in values if value["before"] or value["now"]]
    low, high = held[0]["from"], held[-1]["to"]
    top = max(top, *(now or 0 for now in pair.actual))
    odds = [edge for edge in (-6.9068, -4.5951, -2.1972, 0, 2.1972, 4.5951) if low <= edge <= high]
    label = "datum.value > -7 && datum.value < -6 ? '0.1 %' : format(1 / (1 + exp(-datum.value)), '.0%')"
    axis: Spec = {"values": odds, "labelExpr": label}
    if pair.edges:
        shown = [place for place in range(1, len(pair.edges) + 1) if place % 8 == 0 or place == 1]
        texts = [f"{pair.edges[place - 1]:.4g}" for place in shown]
        axis = {"values": shown, "labelExpr": f"{texts}[indexof({shown}, datum.value)]"}
    x: Spec = {
        "field": "from",
        "type": "quantitative",
        "scale": {"domain": [low, high], "nice": False, "zero": False},
        "axis": axis | {"title": "score", "grid": False},
    }
    y: Spec = {
        "type": "quantitative",
        "scale": {"domain": [0, top * 1.05], "nice": False},
        "axis": {"format": "%", "title": "share of rows", "tickCount": 4},
    }
    ends = {"field": "to", "type": "quantitative"}
    return _chart(
        130,
        [
            {
                "mark": {"type": "rect", "fill": ink, "fillOpacity": 0.7},
                "encoding": {"x": x, "x2": ends, "y": y | {"field": "now"}, "y2": {"datum": 0}},
            },
            {
                "mark": {"type": "line", "interpolate": "step-after", "color": "var(--ink)"},
                "encoding": {"x": x, "y": y | {"field": "before"}},
            },
        ],
        data={"values": held[:SCORE_BINS]},
    )


# --- how well the models do -------------------------------------------------------------


def recall(spans: Sequence[Performance]) -> Spec:
    """Recall in the top tenth over time, as scores let expect and as labels show.

    Args:
        spans: of one model, by time, each with an estimate.
    """
    guesses: list[Spec] = []
    facts: list[Spec] = []
    for item in spans:
        for found, since, kept in (
            (item.estimated, item.opened, guesses),
            (item.realised, item.since, facts),
        ):
            if found:
                figure = found.recall_decile
                kept.append(
                    {"t": _middle(since, item.closed), "share": figure.value}
                    | {"low": figure.low, "high": figure.high}
                )
    x: Spec = {"field": "t", "type": "temporal", "scale": {"type": "utc"}}
    x |= {"axis": {"format": "%d %b", "title": None, "grid": False, "tickCount": 5}}
    y: Spec = {"field": "share", "type": "quantitative"}
    y |= {"scale": {"domain": [0, 1]}, "axis": {"format": "%", "title": "recall", "tickCount": 5}}
    ends = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}}
    line, dot = {"x": x, "y": y}, {"type": "point", "filled": True, "opacity": 1}
    return _chart(
        110,
        [
            {
                "data": {"values": guesses},
                "mark": {"type": "rule", "stroke": _FLEET, "strokeWidth": 6, "opacity": 0.25},
                "encoding": ends,
            },
            {
                "data": {"values": guesses},
                "mark": {"type": "line", "stroke": _FLEET, "strokeWidth": 1.5},
                "encoding": line,
            },
            {
                "data": {"values": facts},
                "mark": {"type": "rule", "stroke": "var(--d2)", "strokeWidth": 1},
                "encoding": ends,
            },
            {
                "data": {"values": facts},
                "mark": dot | {"size": 30, "fill": "var(--d2)"},
                "encoding": line,
            },
        ],
    )


# --- health ------------------------------------------------------------------------------


def latency(health: Sequence[Health]) -> Spec:
    """Quantiles of all devices' latency over time, milliseconds."""
    inks = {"p50": "var(--d1)", "p95": "var(--d2)", "p99": "var(--d3)"}
    values: list[Spec] = []
    for item in health:
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            found = item.latency_us(share)
            if not item.device and found is not None:
                moment = _middle(item.opened, item.closed)
                values.append({"t": moment, "ms": found / 1000, "which": name})
    every = [value["ms"] for value in values]
    low, high = min(every) / 1.5, max(every) * 1.5
    ticks = [a * 10.0**b for b in range(-4, 6) for a in (1, 2, 5) if low <= a * 10.0**b <= high]
    y: Spec = {
        "field": "ms",
        "type": "quantitative",
        "scale": {"type": "log", "domain": [low, high], "nice": False},
        "axis": {"title": "milliseconds", "values": ticks, "format": ".3~g"},
    }
    scale: Spec = {"domain": list(inks), "range": list(inks.values())}
    ink: Spec = {"field": "which", "type": "nominal", "scale": scale}
    ink |= {"legend": {"title": None, "orient": "top", "symbolType": "stroke"}}
    return _lines(values, _time(health), y, ink)


def flagged(health: Sequence[Health], inks: Mapping[str, str], expected: float | None) -> Spec:
    """The share of rows that is flagged, over time."""
    values: list[Spec] = [
        {
            "t": _middle(item.opened, item.closed),
            "share": item.flagged / item.rows,
            "where": place(item.device),
        }
        for item in health
        if item.device in inks and item.rows
    ]
    y: Spec = {"field": "share", "type": "quantitative"}
    y |= {"axis": {"title": "flagged", "format": ".2~%", "tickCount": 4}}
    ink: Spec = {"field": "where", "type": "nominal", "legend": None}
    ink |= {"scale": _scale(inks, [*inks])}
    spec = _lines(values, _time(health), y, ink)
    if expected is not None:
        rule = {"type": "rule", "color": "var(--ink)", "strokeDash": [2, 3]}
        data = {"values": [{"share": expected}]}
        spec["layer"].insert(0, {"data": data, "mark": rule, "encoding": {"y": y}})
    return spec


def _lines(values: Sequence[Spec], x: Spec, y: Spec, ink: Spec) -> Spec:
    encoding = {"x": x, "y": y, "color": ink}
    data = {"values": list(values)}
    return _chart(
        110,
        [
            {"data": data, "mark": {"type": "line", "strokeWidth": 1.5}, "encoding": encoding},
            {
                "data": data,
                "mark": {"type": "point", "filled": True, "size": 18, "opacity": 1},
                "encoding": encoding,
            },
        ],
    )


def has_latency(health: Sequence[Health]) -> bool:
    """Whether there is any latency to draw."""
    return any(any(item.latency) for item in totals(health) if not item.device)


# --- rollouts ----------------------------------------------------------------------------


def rollout(line: RolloutLine, now: float) -> Spec:
    """Who had the order from when to when, and how it ended."""
    values: list[Spec] = [
        {
            "device": item.device,
            "place": number,
            "from": to_text(item.offered_at),
            "to": to_text(max(item.offered_at, item.settled_at or min(now, line.changed_at))),
            "outcome": item.outcome or "under way",
            "wave": "canary" if item.wave == 0 else f"wave {item.wave}",
        }
        for number, item in enumerate(line.devices[:MOST_BARS])
        if item.offered_at
    ]
    ends = [item["to"] for item in values] + [item["from"] for item in values]
    axis: Spec = {"title": None, "grid": True, "tickCount": 4, "labelOverlap": True}
    axis |= {"format": "%H:%M:%S" if _is_short(line) else "%d %b %H:%M"}
    x: Spec = {"field": "from", "type": "temporal", "axis": axis}
    x |= {"scale": {"type": "utc", "domain": [min(ends), max(ends)], "nice": True}}
    y: Spec = {"field": "device", "type": "nominal", "sort": {"field": "place"}}
    y |= {"axis": {"title": None, "labelLimit": 110}}
    known = [name for name in _OUTCOMES if name in {item["outcome"] for item in values}]
    ink: Spec = {"field": "outcome", "type": "nominal"}
    ink |= {"scale": {"domain": known, "range": [_OUTCOMES[name] for name in known]}}
    ink |= {"legend": {"title": None, "orient": "top"}}
    return _chart(
        {"step": 18},
        [
            {
                "mark": {"type": "bar", "height": 10, "cornerRadius": 2, "minBandSize": 3},
                "encoding": {"x": x, "x2": {"field": "to"}, "y": y, "color": ink},
            },
            {
                "mark": {"type": "point", "shape": "triangle-right", "filled": True, "size": 30},
                "encoding": {"x": x, "y": y, "color": {"value": "var(--ink)"}},
            },
        ],
        width=230,
        data={"values": values},
    )


def _is_short(line: RolloutLine) -> bool:
    return line.changed_at - line.created_at < 6 * 3600
