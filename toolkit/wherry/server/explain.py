"""Makes a stored decision again from its stored figures: what `rollout explain` shows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wherry.rows import Decision
from wherry_contract.states import RolloutState

from .verdict import TABLE, Verdict, decide


@dataclass(frozen=True)
class Replay:
    """A decision, and what the same figures say today.

    Attributes:
        verdict: nothing for a decision of a version that kept fewer figures.
        differs: what came out otherwise, by name; empty if nothing did.
    """

    step: Decision
    verdict: Verdict | None
    differs: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the decision was made again, and came out the same."""
        return self.verdict is not None and not self.differs


def replay(step: Decision) -> Replay:
    """Make one decision again."""
    if "state" not in step.figures or "wave" not in step.figures:
        return Replay(step, None, ())
    verdict = decide(step.figures)
    found: dict[str, tuple[Any, Any]] = {
        "before": (step.before, step.figures["state"]),
        "event": (step.event, str(verdict.event)),
        "after": (step.after, str(TABLE[RolloutState(step.before), verdict.event])),
        "reason": (step.reason, verdict.reason),
        "gates": (
            step.figures.get("gate_results", []),
            [item.to_dict() for item in verdict.results],
        ),
    }
    return Replay(step, verdict, tuple(name for name, (was, now) in found.items() if was != now))
