"""Beside what has drifted: how well the models do, and until when. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .concept import Labels
from .forecast import forecasts
from .judge import subjects_of
from .performance import answers_of, latest, perform
from .subjects import Reference
from .sums import FleetSums
from .tally import Sheet
from .view import FleetView


def with_outlook(
    view: FleetView,
    sheet: Sheet,
    references: Mapping[str, Reference],
    labels: Mapping[str, Mapping[float, Labels]],
    *,
    kept: FleetSums,
    since: float | None = None,
    brief: bool = False,
) -> FleetView:
    """A view with performance and forecasts.

    Args:
        view: what has drifted.
        sheet: of the devices that are looked at.
        references: by bundle.
        labels: by bundle and day; of these very devices.
        kept: from look to look, for these devices.
        since: seconds before the end of the newest bucket; earlier spans are left out, but for
            what stands.
        brief: of each model only the latest span, and the latest with labels.
    """
    sums = kept.read(sheet)
    early = view.newest - since if since else -1.0
    done = perform(answers_of(sums, references, view.policy), labels, references)
    stands = latest(done)
    shown = tuple(item for item in done if item in stands or item.closed > early)
    return replace(
        view,
        performance=stands if brief else shown,
        forecasts=forecasts(sums, subjects_of(references, sheet), view.policy),
    )
