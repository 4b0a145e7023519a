"""Which model should be trained anew, and why. Pure.

One model is one cause, whatever speaks against it and however often that is seen: its id is made
of the bundle alone, so that nobody trains twice for one model that has aged.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from wherry.monitor import Decision, FleetView, Forecast, Outlook, concept_drift
from wherry.monitor.words import day, subject
from wherry_contract.when import to_text

SCHEMA = "wherry/retrain/1"


@dataclass(frozen=True)
class Cause:
    """A model that should be trained anew.

    Attributes:
        id: the same for the same model, always.
        bundle: the model.
        reasons: in words.
        due: when it is needed, Unix seconds: the earliest date that a forecast gives; 0 for now.
    """

    id: str
    bundle: str
    reasons: tuple[str, ...]
    due: float

    def to_dict(self) -> dict[str, Any]:
        """What a hook is told."""
        return {
            "schema": SCHEMA,
            "id": self.id,
            "bundle": self.bundle,
            "reasons": list(self.reasons),
            "due": to_text(self.due) if self.due else None,
        }


def causes(view: FleetView, lead_seconds: float) -> tuple[Cause, ...]:
    """The models that should be trained anew.

    Reasons are: labels speak against a model; inputs or scores of all devices have drifted so far
    that it calls for action; a forecast says that they may have within the lead time.

    Args:
        view: what the monitor says.
        lead_seconds: how long training and a rollout take.
    """
    if not view.references or not view.references[0].bundles:
        return ()
    serving = view.references[0].bundles[0]  # whose inputs they are
    found: dict[str, tuple[list[str], list[float]]] = {}
    for item in concept_drift(view.performance):
        found.setdefault(item.bundle, ([], []))[0].append(f"labels: {item.rule}")
    for cell in view.current:
        if not cell.device and cell.decision == Decision.ACT:
            reasons = found.setdefault(cell.bundle or serving, ([], []))[0]
            reasons.append(f"{subject(cell)} has drifted since {day(cell.since)[:10]}")
    for told in view.forecasts:
        if _near(told, view.newest + lead_seconds):
            reasons, dates = found.setdefault(told.bundle or serving, ([], []))
            dates.append(told.earliest)
            between = f"{day(told.earliest)[:10]} to {day(told.latest)[:10]}"
            reasons.append(f"{told.subject} will have drifted too far by {between}")
    return tuple(
        Cause(_id(bundle), bundle, tuple(reasons), 0.0 if len(dates) < len(reasons) else min(dates))
        for bundle, (reasons, dates) in sorted(found.items())
    )


def _near(item: Forecast, moment: float) -> bool:
    return item.outlook == Outlook.DUE and item.earliest <= moment


def _id(bundle: str) -> str:
    return "retrain-" + hashlib.sha256(f"{SCHEMA} {bundle}".encode()).hexdigest()[:32]
