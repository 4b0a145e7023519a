"""Hooks: telling others' programs, once for each cause, that a model should be trained anew or drifts."""

from .alerts import Alert, alerts, tell_alerts
from .causes import Cause, causes
from .ledger import Ledger
from .run import Told, tell
from .settings import Hooks, read_hooks

__all__ = [
    "Alert",
    "Cause",
    "Hooks",
    "Ledger",
    "Told",
    "alerts",
    "causes",
    "read_hooks",
    "tell",
    "tell_alerts",
]
