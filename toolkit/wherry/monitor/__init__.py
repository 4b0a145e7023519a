"""The fleet's judgement, pure: windows in, decisions with their figures out (docs/drift.md)."""

from . import words
from .concept import Labels
from .judge import Segments, Watch, judge
from .performance import AnswerBook, concept_drift, latest, perform
from .quality import Figure, Performance, Quality, Verdict
from .subjects import FLAGGED, SCORE, Reference
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
    "AnswerBook",
    "latest",
    "perform",
    "concept_drift",
]
