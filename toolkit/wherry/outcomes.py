"""What counts against a bundle, for server and commands alike."""

from __future__ import annotations

from typing import Final

from wherry_contract.states import Outcome

SILENT: Final = "silent"
"""The outcome of a device that vanished after its switch; it cannot say so itself."""
FAILED: Final = (Outcome.REFUSED, Outcome.REVERTED, SILENT)
"""Outcomes that count against a bundle."""
