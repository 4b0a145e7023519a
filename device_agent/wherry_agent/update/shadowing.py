"""A shadow on its way: begun, looked at, told of and ended. What follows from a look is pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from wherry_agent.config import Limits
from wherry_agent.link.fact import Fact
from wherry_agent.serving.shadow import Shadow, ShadowProgress
from wherry_contract.assignment import Assignment, ShadowPlan
from wherry_contract.manifest import Soak

from .reach import Reach
from .record import Update
from .updater import E, Result

SHADOWED: Final = "update.shadowed"
OFF: Final = "U16"
_LEAST_FAILURES: Final = 5  # so that one odd row among the first few ends nothing
_QUIET_SECONDS: Final = 600.0  # without a crash: the starts before it are forgotten
_NOTED_PARTS: Final = 4  # of what is wanted: so often it is written down, at the most


@dataclass(frozen=True)
class Total:
    """What a shadow has scored over all starts of the agent: rows, and for how many seconds."""

    rows: int = 0
    seconds: float = 0.0


def judge_shadow(order: Assignment, done: ShadowProgress, total: Total, soak: Soak) -> Result:
    """What a shadow's traffic says.

    Args:
        order: that began it, or that has gone live meanwhile.
        done: since the agent started.
        total: over all starts.
        soak: of the shadow's bundle, for the failures that it allows.

    Returns:
        Done if the bundle may be switched to; failed with U15; or to wait, with the code U16
        once it is switched off, or `SHADOWED` once it has scored what it was to.
    """
    tried = done.rows + done.failed
    if done.failed >= max(_LEAST_FAILURES, soak.error_share * tried):
        detail = f"{done.failed} of {tried} rows failed: {done.failure}"
        return Result(E.FAIL, "U15", detail[:500])
    if order.mode == "live":
        return Result(E.DONE, "", "the order is live")
    if done.off:
        return Result(E.WAIT, OFF, f"{done.off}: {done.detail}")
    plan = order.shadow or ShadowPlan()
    if total.rows < plan.rows or total.seconds < plan.seconds:
        return Result(E.WAIT)
    detail = f"{total.rows} rows in {total.seconds:.0f} s, {done.differing} decided otherwise"
    return Result(E.DONE if plan.then == "switch" else E.WAIT, SHADOWED, detail)


def is_to_be_noted(order: Assignment, noted: Total, total: Total) -> bool:
    """Whether progress is to be written down now: seldom, for the medium wears out."""
    plan = order.shadow or ShadowPlan()
    rows = noted.rows < plan.rows and total.rows - noted.rows >= plan.rows / _NOTED_PARTS
    late = noted.seconds < plan.seconds
    return rows or (late and total.seconds - noted.seconds >= plan.seconds / _NOTED_PARTS)


class Shadowing:
    """Keeps the shadow of the update under way; lives in the updater's thread."""

    def __init__(self, limits: Limits, reach: Reach) -> None:
        self._limits = limits
        self._reach = reach
        self._soak = Soak()
        self._before = Total()  # of the starts before this one

    def look(self, update: Update) -> Result:
        """Begin the shadow if it is not there, and judge it.

        Raises:
            WherryError: its bundle cannot be loaded.
        """
        order, shadow = update.assignment, self._reach.scorer.shadow
        if order.mode == "live" and shadow is None:
            return Result(E.DONE, "", "the order is live")
        served = self._reach.scorer.served
        if served is None or served.model is None:
            return self._told(order, Result(E.WAIT, OFF, "no model answers that it compares with"))
        if shadow is None or shadow.digest != order.digest:
            shadow = self._begin(update)
        found = judge_shadow(order, shadow.progress, self._total(shadow), self._soak)
        return self._told(order, found)

    def _begin(self, update: Update) -> Shadow:
        scorer = self._reach.scorer
        before = scorer.memory_mib()
        model = self._reach.shelf.load_shadow(update.assignment.digest)
        self._soak = model.manifest.soak
        self._before = Total(update.shadow_rows, update.shadow_seconds)
        shadow = Shadow(
            model, self._limits, self._reach.clock, memory=scorer.memory_mib, before_mib=before
        )
        shadow.check_memory()
        scorer.compare(shadow)
        shadow.start()
        return shadow

    def _total(self, shadow: Shadow) -> Total:
        done = shadow.progress
        return Total(self._before.rows + done.rows, self._before.seconds + done.seconds)

    def _told(self, order: Assignment, found: Result) -> Result:
        """Tell once that it was switched off, or that it has scored what it was to."""
        if found.event == E.WAIT and found.code:
            severity = "warning" if found.code == OFF else "info"
            fact = Fact(found.code, found.detail[:1000], severity, order.rollout, order.digest)
            self._reach.spool.tell(fact, key=f"{found.code}:{order.rollout}:{order.sequence}")
        return found

    def to_be_noted(self, update: Update) -> dict[str, Any]:
        """Fields of the update that are to be written down now; mostly none."""
        shadow = self._reach.scorer.shadow
        if shadow is None:  # it waits for a model beside it: no start was its doing
            return {"boots": 0} if update.boots else {}
        total = self._total(shadow)
        noted = Total(update.shadow_rows, update.shadow_seconds)
        quiet = update.boots > 0 and shadow.progress.seconds >= _QUIET_SECONDS
        if not quiet and not is_to_be_noted(update.assignment, noted, total):
            return {}
        boots = 0 if quiet else update.boots  # a shadow may wait for many nights
        return {"shadow_rows": total.rows, "shadow_seconds": total.seconds, "boots": boots}

    def end(self) -> None:
        """Let nothing score beside what answers any more."""
        self._reach.scorer.compare(None)
