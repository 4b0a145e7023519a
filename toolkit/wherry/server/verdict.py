"""What follows from the figures of a look. Pure: figures in, one event out, and its reason.

    SHADOW -> CANARY                  the canary's devices have scored with both models
    CANARY -> WAVE ... -> DONE        a wave passes on committed and healthy, and by its gates
    SHADOW, CANARY, WAVE -> HOLD      a soak or a gate is undecided; it goes on when that is settled
    SHADOW, CANARY, WAVE, HOLD -> PAUSED       a person; back to where it was at their word
    SHADOW, CANARY, WAVE, HOLD, PAUSED -> ABORTED -> REVERTING -> REVERTED

Nothing but the figures is looked at, and they are stored with each decision: so `explain` can
make each decision again, and must come to the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from wherry.gates.judge import FAILED, PASSED, UNDECIDED, Inputs, Result, judge_gates, together
from wherry.gates.rules import Rules
from wherry_contract.states import RolloutState as R


class E(StrEnum):
    """What a look at the devices may say."""

    WAITING = "waiting"  # nothing to decide yet
    LOOKED = "looked"  # the gates were asked, and may say more next time
    SHADOWED = "shadowed"  # every shadow has scored what it was to
    PASSED = "passed"  # the wave did well, and there is another one
    FINISHED = "finished"  # the last wave did well
    UNDECIDED = "undecided"  # a soak had too little traffic for too long, or a gate cannot say
    FAILED = "failed"  # more devices failed than may, or a gate
    STOPPED = "stopped"  # an operator wants the end
    PAUSED = "paused"  # an operator wants no more orders for now
    RESUMED = "resumed"  # and wants them again
    BEGUN_AGAIN = "begun again"  # likewise, in the canary
    SHADOW_AGAIN = "shadow again"  # likewise, before it
    RETURNING = "returning"  # devices are on their way back
    RETURNED = "returned"  # nobody is left who could be brought back now


ENDING: Final = (R.ABORTED, R.REVERTING)
_FORWARD: Final = {
    E.PASSED: R.WAVE,
    E.FINISHED: R.DONE,
    E.UNDECIDED: R.HOLD,
    E.FAILED: R.ABORTED,
    E.STOPPED: R.ABORTED,
    E.PAUSED: R.PAUSED,
}
TABLE: Final[Mapping[tuple[R, E], R]] = MappingProxyType(
    {
        # an undecided wave never passes; it goes on when its devices and gates have decided
        **{
            (state, event): to
            for state in (R.CANARY, R.WAVE, R.HOLD)
            for event, to in _FORWARD.items()
        },
        **{
            (state, e): state for state in (R.CANARY, R.WAVE, R.HOLD) for e in (E.WAITING, E.LOOKED)
        },
        # while a person thinks, a failure still takes everybody back
        (R.PAUSED, E.WAITING): R.PAUSED,
        (R.PAUSED, E.FAILED): R.ABORTED,
        (R.PAUSED, E.STOPPED): R.ABORTED,
        (R.PAUSED, E.RESUMED): R.WAVE,
        (R.PAUSED, E.BEGUN_AGAIN): R.CANARY,
        (R.PAUSED, E.SHADOW_AGAIN): R.SHADOW,
        (R.HOLD, E.SHADOWED): R.CANARY,
        (R.CANARY, E.SHADOWED): R.CANARY,
        (R.SHADOW, E.SHADOWED): R.CANARY,
        (R.SHADOW, E.WAITING): R.SHADOW,
        (R.SHADOW, E.UNDECIDED): R.HOLD,
        (R.SHADOW, E.FAILED): R.ABORTED,
        (R.SHADOW, E.STOPPED): R.ABORTED,
        (R.SHADOW, E.PAUSED): R.PAUSED,
        (R.ABORTED, E.RETURNING): R.REVERTING,
        (R.ABORTED, E.RETURNED): R.REVERTED,
        (R.REVERTING, E.RETURNING): R.REVERTING,
        (R.REVERTING, E.RETURNED): R.REVERTED,
    }
)


@dataclass(frozen=True)
class Verdict:
    """One event, the figures it was made from, and the same for people.

    Attributes:
        results: what each gate said, where the gates were asked.
    """

    event: E
    figures: Mapping[str, Any]
    reason: str
    results: tuple[Result, ...] = ()


def decide(figures: Mapping[str, Any]) -> Verdict:
    """What follows.

    Args:
        figures: as `rollout.measure` makes them and decisions keep them.
    """
    if figures["state"] in ENDING:
        return _decide_return(figures)
    if figures["stopped"]:
        return Verdict(E.STOPPED, figures, f"an operator said: {figures['stopped']}")
    if figures["failed"] > figures["allowed_failures"]:
        many, may = figures["failed"], figures["allowed_failures"]
        return Verdict(
            E.FAILED, figures, f"{many} failed, {may} may: {figures['first_failed']}"[:600]
        )
    results = _results(figures)
    if together(results) == FAILED:
        why = "; ".join(item.why for item in results if item.said == FAILED)
        return Verdict(E.FAILED, figures, f"gate: {why}"[:600], results)
    if figures["paused"] or figures["state"] == R.PAUSED:
        return _decide_pause(figures)
    return (_decide_shadow if figures.get("in_shadow") else _decide_wave)(figures, results)


def _decide_shadow(figures: Mapping[str, Any], results: tuple[Result, ...]) -> Verdict:
    event, reason = E.SHADOWED, f"{figures['shadowed']} shadows have scored"
    if figures["off"]:
        many, first = figures["off"], figures["first_off"]
        event, reason = E.UNDECIDED, f"{many} shadows are off: {first}"[:600]
    elif figures["open"]:
        event, reason = E.WAITING, "shadows are under way"
        if figures["overdue"]:
            event, reason = E.UNDECIDED, "shadows had too little traffic for too long"
    elif not figures["shadowed"] and not figures["committed"]:
        event, reason = E.WAITING, "no shadow has scored what it was to"
    elif together(results) == UNDECIDED:
        event, reason = E.UNDECIDED, f"gate: {results[0].why}"
    else:
        share = f"{figures['differing']} of {figures['shadow_rows']} rows decided otherwise"
        reason = f"{reason}, {share}"
    return Verdict(event, figures, reason, results)


def _results(figures: Mapping[str, Any]) -> tuple[Result, ...]:
    asked = figures.get("gates") or figures.get("shadow_gate")
    if not asked:
        return ()
    return judge_gates(Rules.from_dict(asked["rules"]), Inputs.from_dict(asked["inputs"]))


def said_of(verdict: Verdict) -> str:
    """What the gates said together at this look; "" if they were not asked."""
    return together(verdict.results) if verdict.results else ""


def _decide_pause(figures: Mapping[str, Any]) -> Verdict:
    if figures["state"] != R.PAUSED:
        return Verdict(E.PAUSED, figures, f"an operator said: {figures['paused']}")
    if figures["paused"]:
        return Verdict(E.WAITING, figures, "paused")
    event = E.RESUMED if figures["wave"] else E.BEGUN_AGAIN
    event = E.SHADOW_AGAIN if figures.get("in_shadow") else event
    return Verdict(event, figures, "an operator said: go on")


def is_ready(figures: Mapping[str, Any]) -> bool:
    """Whether a quorum of the devices that take part has committed."""
    part = figures["committed"] + figures["open"]
    return bool(figures["committed"] >= math.ceil(figures["quorum"] * part - 1e-9))


def _decide_wave(figures: Mapping[str, Any], results: tuple[Result, ...]) -> Verdict:
    if not figures["in_depot"]:
        reason = "the bundle is not in the depot any more: nobody could fetch it"
        return Verdict(E.UNDECIDED, figures, reason, results)
    if figures["open"] and not is_ready(figures):
        return _decide_open(figures, results)
    last = figures["wave"] + 1 >= figures["waves"]
    if not figures["committed"] and not (last and figures["before"]):
        event = E.LOOKED if results else E.WAITING
        return Verdict(event, figures, "no device of this wave has committed", results)
    said = together(results) if results else figures["gates_before"]
    if figures["gates_asked"] and said != PASSED and not figures["passed_over"]:
        return _decide_gates(figures, results)
    reason = f"{figures['committed']} committed and healthy, {figures['away']} away"
    if figures["open"]:
        reason += f", {figures['open']} stragglers"
    if figures["passed_over"]:
        reason += f"; an operator went past the gates: {figures['passed_over']}"
    elif figures["gates_asked"]:
        reason += "; the gates passed"
    return Verdict(E.FINISHED if last else E.PASSED, figures, reason, results)


def _decide_open(figures: Mapping[str, Any], results: tuple[Result, ...]) -> Verdict:
    """Devices are under way, and there is no quorum without them."""
    event, reason = E.LOOKED if results else E.WAITING, "devices are under way"
    if figures["undecided"]:
        event, reason = E.UNDECIDED, "a soak is undecided: too little traffic"
    elif figures["late"]:
        who = f"{figures['late']} took the order and did not settle it in time"
        event, reason = E.UNDECIDED, f"{who}: {figures['first_late']}"
    return Verdict(event, figures, reason, results)


def _decide_gates(figures: Mapping[str, Any], results: tuple[Result, ...]) -> Verdict:
    made = figures["looks_made"] + bool(results)
    unsure = [f"{item.name} ({item.why})" for item in results if item.said == UNDECIDED]
    if made >= figures["looks"]:
        reason = f"gates are undecided after {made} looks: {'; '.join(unsure)}"
        return Verdict(E.UNDECIDED, figures, reason[:600], results)
    if results:
        reason = f"look {made} of {figures['looks']}: undecided: {'; '.join(unsure)}"
        return Verdict(E.LOOKED, figures, reason[:600], results)
    return Verdict(E.WAITING, figures, f"the gates look {figures['looks']} times")


def _decide_return(figures: Mapping[str, Any]) -> Verdict:
    back, exposed = figures["back"], figures["exposed"]
    if figures["on_the_way"]:
        return Verdict(E.RETURNING, figures, f"{back} of {exposed} are back")
    reason = f"{back} are back, {figures['away']} are away and will find their order"
    if figures["kept"]:
        kept, first = figures["kept"], figures["first_kept"]
        reason += f"; {kept} still serve it, with no bundle to go back to or unable to: {first}"
    return Verdict(E.RETURNED, figures, reason)
