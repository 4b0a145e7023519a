"""How well the models do, and until when, as metric families. Pure; how many series is bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from wherry.monitor import Figure, FleetView, Outlook, Performance, Quality, Verdict
from wherry.monitor.performance import ASSUMPTION, latest

MOST_MODELS: Final = 20
MOST_FORECASTS: Final = 100
_LEVELS: Final = {Verdict.CONFIRMED: 0, Verdict.WATCH: 1, Verdict.CONCEPT: 2}
_Rows = Iterable[tuple[Sequence[str], float]]


def gauge(name: str, text: str, labels: Sequence[str], rows: _Rows) -> Metric:
    """A family of gauges.

    Args:
        name: without the prefix.
        text: what it is.
        labels: their names.
        rows: their values, and the gauge's.
    """
    found = GaugeMetricFamily(f"wherry_{name}", text, labels=labels)
    for values, value in rows:
        found.add_metric(values, value)
    return found


def short(digest: str) -> str:
    """The beginning of a digest, as label."""
    return digest.removeprefix("sha256:")[:12]


def quality(view: FleetView) -> Iterator[Metric]:
    """Recall and precision of the models that were seen last, and forecasts."""
    spans = latest(view.performance)
    newest = list(dict.fromkeys(item.bundle for item in reversed(spans)))[:MOST_MODELS]
    shown = [item for item in spans if item.bundle in newest]
    labels = ["bundle", "among", "source", "bound"]
    about = "with the ends of the 95 % interval. From scores it"
    for name in ("recall", "precision"):
        text = f"Share, 0 to 1, {about} {ASSUMPTION}."
        yield gauge(f"model_{name}", text, labels, _figures(shown, name))
    rows = [((short(item.bundle),), item.expected) for item in shown]
    text = "Positives that the calibration lets expect in the latest span."
    yield gauge("model_positives_expected", text, ["bundle"], dict(rows).items())
    said = {item.bundle: _LEVELS.get(item.verdict, -1) for item in shown if item.realised}
    levels = [((short(bundle),), said.get(bundle, -1)) for bundle in sorted(newest)]
    text = "What labels say: 0 as estimated, 1 watch, 2 concept drift, -1 no labels yet."
    yield gauge("model_concept_drift", text, ["bundle"], levels)
    ends = [((short(item.bundle),), item.closed) for item in shown if item.realised]
    text = "End of the newest payments whose labels are known."
    yield gauge("model_labelled_timestamp_seconds", text, ["bundle"], ends)
    due = [item for item in view.forecasts if item.outlook == Outlook.DUE]
    due = sorted(due, key=lambda item: item.date)[:MOST_FORECASTS]
    dates = [
        ((item.subject, short(item.bundle), bound), getattr(item, bound))
        for item in due
        for bound in ("earliest", "date", "latest")
    ]
    text = "When a PSI of whole weeks reaches the limit to act, if it goes on growing as it has."
    yield gauge("drift_forecast_timestamp_seconds", text, ["subject", "bundle", "bound"], dates)


def _figures(shown: Iterable[Performance], name: str) -> _Rows:
    found: dict[tuple[str, ...], float] = {}
    for item in shown:
        for source, known in (("scores", item.estimated), ("labels", item.realised)):
            for among, figure in _named(known, name):
                for bound in ("value", "low", "high"):
                    found[short(item.bundle), among, source, bound] = getattr(figure, bound)
    return found.items()


def _named(known: Quality | None, name: str) -> Iterator[tuple[str, Figure]]:
    if known is None:
        return
    for among, figure in (
        ("top_tenth", getattr(known, f"{name}_decile")),
        ("flagged", getattr(known, name)),
    ):
        if figure is not None:
            yield among, figure
