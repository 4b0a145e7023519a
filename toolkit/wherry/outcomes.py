"""What counts against a bundle, for server and commands alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from wherry_contract.states import Outcome

SILENT: Final = "silent"
"""The outcome of a device that vanished after its switch; it cannot say so itself."""
FAILED: Final = (Outcome.REFUSED, Outcome.REVERTED, SILENT)
"""Outcomes that count against a bundle."""
_SHOWN: Final = (
    "devices",
    "committed",
    "failed",
    "replaced",
    "settled",
    "away",
    "open",
    "undecided",
    "shadowed",
    "shadow_devices",
    "shadow_rows",
    "differing",
    "share",
    "low",
    "high",
    "only_shadow",
    "only_live",
    "shadow_failed",
    "dropped",
    "psi",
    "shadow_p95_us",
    "late",
    "allowed_failures",
    "exposed",
    "back",
    "kept",
    "still_on_it",
)


def shown(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Of a decision's figures, the counts that people read; all else is there to be replayed."""
    return {name: figures[name] for name in _SHOWN if name in figures}
