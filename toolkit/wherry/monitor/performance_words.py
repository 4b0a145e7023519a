"""How well the models do, in words, for the terminal and the report alike. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .quality import Figure, Forecast, Outlook, Performance, Quality
from .words import day, percent, span

HEADS: Final = (
    "model", "span", "rows", "positives", "from", "recall in the top tenth", "precision there",
    "recall", "precision", "verdict",
)  # fmt: skip


def figure(found: Figure | None) -> str:
    """A share with its interval, as ``61.2 % (58 to 64)``."""
    if found is None:
        return "-"
    return f"{percent(found.value)} ({100 * found.low:.3g} to {100 * found.high:.3g})"


def lines(found: Iterable[Performance]) -> list[tuple[str, ...]]:
    """A line for each estimate, and under it one for what labels showed, under `HEADS`."""
    rows: list[tuple[str, ...]] = []
    for item in found:
        model, days = item.bundle.partition(":")[2][:12], span(item.opened, item.closed)
        about = (model, days, f"{item.rows}")
        verdict = f"{item.verdict}: {item.rule}"
        expected = f"{item.expected:.0f}" if item.estimated else "-"
        only = "" if item.realised else verdict
        rows.append((*about, expected, "scores", *_figures(item.estimated), only))
        if item.realised:
            labelled = (model, span(item.since, item.closed), f"{item.labels}", f"{item.positives}")
            rows.append((*labelled, "labels", *_figures(item.realised), verdict))
    return rows


def _figures(found: Quality | None) -> tuple[str, str, str, str]:
    if found is None:
        return ("-", "-", "-", "-")
    first, second = figure(found.recall_decile), figure(found.precision_decile)
    return (first, second, figure(found.recall), figure(found.precision))


FORECAST_HEADS: Final = ("what", "PSI now", "limit", "reached", "interval", "why")


def forecast_lines(found: Iterable[Forecast]) -> list[tuple[str, ...]]:
    """A line for each forecast, under `FORECAST_HEADS`; dates first."""
    order = list(Outlook)
    rows: list[tuple[str, ...]] = []
    for item in sorted(found, key=lambda item: (order.index(item.outlook), item.date)):
        dated = item.outlook == Outlook.DUE
        between = f"{_day(item.earliest)} to {_day(item.latest)}" if dated else "-"
        date = _day(item.date) if item.date else "not determined"
        rows.append(
            (item.subject, f"{item.value:.3f}", f"{item.limit:g}", date, between, item.rule)
        )
    return rows


def _day(moment: float) -> str:
    return day(moment)[:10]
