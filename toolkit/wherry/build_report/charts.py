"""Charts of a build as Vega-Lite specifications. Pure; colours are names of the page's style.

Scores of a rare class crowd near zero, so that their axes are square roots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from wherry.quantized import Tried
from wherry.report.drawing import LOOK

from .facts import Group, Shift

Spec = dict[str, Any]

WIDTH: Final = 280
INKS: Final[Mapping[str, str]] = {"source": "var(--fleet)", "bundle": "var(--d1)"}
_SHARES: Final = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)


def _chart(height: int | Spec, layers: Sequence[Spec], **more: Any) -> Spec:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": WIDTH,
        "height": height,
        "padding": 4,
        "config": LOOK,
        "layer": list(layers),
    } | more


def _ink() -> Spec:
    scale = {"domain": list(INKS), "range": list(INKS.values())}
    return {"field": "who", "type": "nominal", "scale": scale} | {
        "legend": {"title": None, "orient": "top"}
    }


def reliability(groups: Mapping[str, Sequence[Group]]) -> Spec:
    """Promised against seen, with the 95 % interval of what was seen; the diagonal is exact.

    Args:
        groups: of ``source`` and ``bundle``.
    """
    values: list[Spec] = [
        {
            "who": who,
            "promised": group.promised,
            "rate": group.rate,
            "low": group.low,
            "high": group.high,
        }
        for who, found in groups.items()
        for group in found
    ]
    top = min(1.0, 1.05 * max([0.05, *(max(v["promised"], v["high"]) for v in values)]))
    ticks = [tick for tick in _SHARES if tick <= top]
    axis: Spec = {"format": ".2~%", "values": ticks, "labelOverlap": "greedy"}
    scale: Spec = {"type": "sqrt", "domain": [0, top], "nice": False}
    x: Spec = {"field": "promised", "type": "quantitative", "scale": scale}
    y: Spec = {"field": "rate", "type": "quantitative", "scale": scale}
    x |= {"axis": axis | {"title": "mean score"}}
    y |= {"axis": axis | {"title": "share that is positive"}}
    exact: Spec = {"values": [{"promised": 0, "rate": 0}, {"promised": top, "rate": top}]}
    diagonal: Spec = {"type": "line", "color": "var(--muted)", "strokeDash": [4, 3]}
    dots: Spec = {"type": "point", "filled": True, "opacity": 0.9}
    shape: Spec = {"condition": {"test": "datum.who == 'source'", "value": 55}, "value": 26}
    return _chart(
        210,
        [
            {"data": exact, "mark": diagonal, "encoding": {"x": x, "y": y}},
            {
                "mark": {"type": "rule", "opacity": 0.45},
                "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}}
                | {"color": _ink()},
            },
            {"mark": dots, "encoding": {"x": x, "y": y, "color": _ink(), "size": shape}},
        ],
        data={"values": values},
    )


def groups_of(found: Shift, labels: Sequence[str]) -> Spec:
    """Shares of rows by group of scores: a bar for the bundle, a tick for the source.

    Args:
        found: the counts.
        labels: of each group, the lowest first.
    """
    m, n = sum(found.source), sum(found.bundle)
    values: list[Spec] = [
        {"group": label, "place": place, "source": before / m, "bundle": now / n}
        for place, (label, before, now) in enumerate(
            zip(labels, found.source, found.bundle, strict=True)
        )
    ]
    y: Spec = {"field": "group", "type": "nominal", "sort": {"field": "place"}}
    y |= {"axis": {"title": None, "labelLimit": 130}}
    x: Spec = {"type": "quantitative"}
    x |= {"axis": {"format": "%", "title": "share of rows", "tickCount": 5}}
    bar: Spec = {"type": "bar", "fill": INKS["bundle"], "fillOpacity": 0.75}
    tick: Spec = {"type": "tick", "color": INKS["source"], "thickness": 2, "size": 15}
    return _chart(
        {"step": 18},
        [
            {"mark": bar, "encoding": {"y": y, "x": x | {"field": "bundle"}}},
            {"mark": tick, "encoding": {"y": y, "x": x | {"field": "source"}}},
        ],
        width=180,
        data={"values": values},
    )


def pareto(tried: Tried) -> Spec:
    """Every candidate's bytes and flips; the kept one is large, the front is joined."""
    values: list[Spec] = [
        {
            "bytes": item.bytes,
            "flips": item.difference.flips,
            "front": item.front,
            "kept": not item.lost,
        }
        for item in tried.variants
    ]
    x: Spec = {"field": "bytes", "type": "quantitative", "scale": {"zero": False}}
    x |= {"axis": {"title": "bytes", "format": "~s", "tickCount": 5}}
    y: Spec = {"field": "flips", "type": "quantitative", "scale": {"type": "symlog"}}
    y |= {"axis": {"title": "flips on reference rows", "tickCount": 5}}
    ink: Spec = {"condition": {"test": "datum.kept", "value": "var(--stable)"}}
    ink |= {"value": "var(--muted)"}
    size: Spec = {"condition": {"test": "datum.kept", "value": 120}, "value": 36}
    front: Spec = {"type": "line", "color": "var(--d1)", "strokeWidth": 1, "interpolate": "step"}
    dot: Spec = {"type": "point", "filled": True, "opacity": 1}
    return _chart(
        160,
        [
            {
                "transform": [{"filter": "datum.front"}],
                "mark": front | {"interpolate": "step-after"},
                "encoding": {"x": x, "y": y},
            },
            {"mark": dot, "encoding": {"x": x, "y": y, "color": ink, "size": size}},
        ],
        data={"values": values},
    )
