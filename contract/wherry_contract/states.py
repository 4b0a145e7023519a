"""The states that host and device name to each other; the strings are stable for ever."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class UpdateState(StrEnum):
    """Where a device is in an update (the table itself: wherry_agent.update.updater)."""

    IDLE = "idle"
    OFFERED = "offered"
    ADMIT = "admit"
    FETCH = "fetch"
    VERIFY = "verify"
    STAGE = "stage"
    PROBE = "probe"
    SHADOW = "shadow"
    SWITCH = "switch"
    SOAK = "soak"
    COMMIT = "commit"
    DISCARD = "discard"
    REVERT = "revert"
    VERIFY_REVERT = "verify-revert"
    REPORT = "report"


class SlotTrust(StrEnum):
    """What a slot's content has proven; whether it is active is told apart from this."""

    EMPTY = "empty"
    UNPROVEN = "unproven"
    GOOD = "good"
    BAD = "bad"


class Outcome(StrEnum):
    """How an update ended, in the device's report."""

    COMMITTED = "committed"
    REFUSED = "refused"
    REVERTED = "reverted"
    WITHDRAWN = "withdrawn"


class RolloutState(StrEnum):
    """Where a rollout is."""

    SHADOW = "shadow"
    CANARY = "canary"
    WAVE = "wave"
    DONE = "done"
    HOLD = "hold"
    PAUSED = "paused"
    ABORTED = "aborted"
    REVERTING = "reverting"
    REVERTED = "reverted"


AFTER_SWITCH: Final = frozenset(
    {
        UpdateState.SWITCH,
        UpdateState.SOAK,
        UpdateState.COMMIT,
        UpdateState.REVERT,
        UpdateState.VERIFY_REVERT,
    }
)
"""States in which the new model is or was live: silence from here on is a failure."""
