"""The fleet's judgement, pure: windows in, decisions with their figures out (docs/drift.md)."""

from . import words
from .concept import Labels
from .judge import Segments, Watch, judge
from .outlook import with_outlook
from .performance import concept_drift, perform
from .quality import Figure, Forecast, Outlook, Performance, Quality, Verdict
from .subjects import FLAGGED, SCORE, Reference
from .sums import FleetSums
from .tally import Tally
from .view import (
    ALERTS,
    JUDGED,
    Cell,
    Decision,
    Evidence,
    FleetView,
    Health,
    Kind,
    Policy,
    ScorePair,
    SlotShare,
    Standing,
    totals,
)

__all__ = [
    "judge",
    "Reference",
    "Watch",
    "Tally",
    "Segments",
    "Standing",
    "Policy",
    "FleetView",
    "Cell",
    "Evidence",
    "Decision",
    "Kind",
    "Health",
    "ScorePair",
    "SlotShare",
    "ALERTS",
    "JUDGED",
    "FLAGGED",
    "SCORE",
    "totals",
    "words",
    "Labels",
    "Performance",
    "Quality",
    "Figure",
    "Verdict",
    "FleetSums",
    "Forecast",
    "Outlook",
    "perform",
    "with_outlook",
    "concept_drift",
]
