"""The rollout's planner: what follows from what devices report. Pure; who goes when: `waves`.

    SHADOW -> CANARY                  the canary's devices have scored their traffic with both models
    CANARY -> WAVE ... -> DONE        a wave passes on committed and healthy
    SHADOW, CANARY, WAVE -> HOLD      a soak is undecided; it goes on when that is settled
    SHADOW, CANARY, WAVE, HOLD -> ABORTED -> REVERTING -> REVERTED

`judge` turns what is known of the devices into one event with its figures; `TABLE` alone
says what follows. Nothing here touches a clock, a disk or a network: `driver` carries the
decisions out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from wherry.outcomes import FAILED, SILENT
from wherry.rows import DeviceRow, Exposure, RolloutRow
from wherry.shadows import sum_up
from wherry_contract.shadow import ShadowCounts
from wherry_contract.states import AFTER_SWITCH, Outcome, SlotTrust, UpdateState
from wherry_contract.states import RolloutState as R

_REPLACED: Final = "U02"  # a newer order came: says nothing about the bundle
UNDECIDED: Final = "U10"  # the code of an event that says so
SHADOWED: Final = "update.shadowed"  # of one that says that a shadow has scored what it was to
SHADOW_OFF: Final = "U16"


class E(StrEnum):
    """What a look at the devices may say."""

    WAITING = "waiting"  # nothing to decide yet
    SHADOWED = "shadowed"  # every shadow has scored what it was to
    PASSED = "passed"  # the wave did well, and there is another one
    FINISHED = "finished"  # the last wave did well
    UNDECIDED = "undecided"  # a soak had too little traffic for too long
    FAILED = "failed"  # more devices failed than may
    STOPPED = "stopped"  # an operator wants the end
    RETURNING = "returning"  # devices are on their way back
    RETURNED = "returned"  # nobody is left who could be brought back now


_ENDING: Final = (R.ABORTED, R.REVERTING)
TABLE: Final[Mapping[tuple[R, E], R]] = MappingProxyType(
    {
        (R.SHADOW, E.WAITING): R.SHADOW,
        (R.SHADOW, E.SHADOWED): R.CANARY,
        (R.SHADOW, E.UNDECIDED): R.HOLD,
        (R.SHADOW, E.FAILED): R.ABORTED,
        (R.SHADOW, E.STOPPED): R.ABORTED,
        (R.CANARY, E.WAITING): R.CANARY,
        (R.CANARY, E.PASSED): R.WAVE,
        (R.CANARY, E.FINISHED): R.DONE,
        (R.CANARY, E.UNDECIDED): R.HOLD,
        (R.CANARY, E.FAILED): R.ABORTED,
        (R.CANARY, E.STOPPED): R.ABORTED,
        (R.WAVE, E.WAITING): R.WAVE,
        (R.WAVE, E.PASSED): R.WAVE,
        (R.WAVE, E.FINISHED): R.DONE,
        (R.WAVE, E.UNDECIDED): R.HOLD,
        (R.WAVE, E.FAILED): R.ABORTED,
        (R.WAVE, E.STOPPED): R.ABORTED,
        # an undecided wave never passes; it goes on when its devices have decided
        (R.HOLD, E.WAITING): R.HOLD,
        (R.HOLD, E.UNDECIDED): R.HOLD,
        (R.HOLD, E.SHADOWED): R.CANARY,
        (R.HOLD, E.PASSED): R.WAVE,
        (R.HOLD, E.FINISHED): R.DONE,
        (R.HOLD, E.FAILED): R.ABORTED,
        (R.HOLD, E.STOPPED): R.ABORTED,
        (R.ABORTED, E.RETURNING): R.REVERTING,
        (R.ABORTED, E.RETURNED): R.REVERTED,
        (R.REVERTING, E.RETURNING): R.REVERTING,
        (R.REVERTING, E.RETURNED): R.REVERTED,
    }
)


@dataclass(frozen=True)
class Policy:
    """How a rollout was ordered.

    Attributes:
        shares: ends of the waves, counted over all devices: ``1``, ``10%``, ``100%``.
        soak_rows: replaces the bundle's own soak if not negative.
        soak_seconds: likewise.
        max_failures: devices that may fail in a wave after the canary; in the canary, none.
        silent_seconds: without a word for so long after its switch, a device has failed;
            before its switch its order is undecided.
        hold_seconds: an order that is not settled for so long is undecided.
        shadow_rows: that each device of the canary scores with both models before the canary
            begins; negative for no shadow wave.
        shadow_seconds: for how long, at least.
        to: a selector that devices must meet besides the labels they were picked by.
    """

    shares: tuple[str, ...] = ("1", "100%")
    soak_rows: int = -1
    soak_seconds: int = -1
    max_failures: int = 0
    silent_seconds: float = 900.0
    hold_seconds: float = 90_000.0
    to: str = ""
    shadow_rows: int = -1
    shadow_seconds: int = 0

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Policy:
        """Read what `to_dict` wrote."""
        return replace(cls(**document), shares=tuple(document["shares"]))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"shares": list(self.shares)}


# --- what a device's words mean ---------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """How a device's update ended, by its own event."""

    outcome: str
    code: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Look:
    """What is known at one moment.

    Attributes:
        now: Unix seconds.
        listening_since: since when the server hears devices without a gap; nothing while it
            does not. Nobody is silent while nobody listens.
        keyid: of the key that signs assignments.
        devices: by id.
        reports: of this rollout's bundle, by device.
        undecided: devices whose soak ended undecided.
        shadowed: devices whose shadow has scored what it was to.
        shadows: what their shadows counted, by device.
        shadows_off: why a shadow was switched off, by device.
    """

    now: float
    listening_since: float | None
    keyid: str
    devices: Mapping[str, DeviceRow]
    reports: Mapping[str, Report]
    undecided: frozenset[str] = frozenset()
    shadowed: frozenset[str] = frozenset()
    shadows: Mapping[str, ShadowCounts] = field(default_factory=dict)
    shadows_off: Mapping[str, str] = field(default_factory=dict)


def settle(item: Exposure, bundle: str, look: Look, silent_seconds: float) -> Exposure:
    """A device's part, with the outcome that it has by now; what has settled stays.

    A report is believed when it says "failed". "Committed" must also be seen in the reported
    state: serving this bundle, proven, and not by the fallback rule.
    """
    settled = item.outcome in (*FAILED, Outcome.COMMITTED, Outcome.WITHDRAWN)
    if settled or not _is_ordered(item):
        return item
    row, report = look.devices.get(item.device), look.reports.get(item.device)
    found: Report | None = None
    if report and report.outcome in FAILED:
        replaced = report.code == _REPLACED
        found = Report(str(Outcome.WITHDRAWN), report.code, report.detail) if replaced else report
    elif row and _healthy(row, bundle):
        found = Report(str(Outcome.COMMITTED))
    elif row and _is_silent(row, item, look, silent_seconds):
        found = Report(SILENT, "", f"last heard of in {row.state.phase if row.state else ''}")
    if found is None:
        return item
    return replace(
        item,
        outcome=found.outcome,
        code=found.code,
        detail=found.detail[:500],
        settled_at=look.now,
    )


def _is_ordered(item: Exposure) -> bool:
    """Whether it has an order of this rollout: to go live, or to be the shadow of what serves."""
    return bool(item.offered_at or item.sequence)


def in_shadow(row: RolloutRow) -> bool:
    """Whether a rollout is before its canary: nobody was told to go live."""
    wanted = Policy.from_dict(row.policy).shadow_rows >= 0
    return wanted and not any(item.offered_at for item in row.devices)


def _healthy(row: DeviceRow, bundle: str) -> bool:
    state = row.state
    return bool(
        state
        and state.bundle == bundle
        and state.trust == SlotTrust.GOOD
        and state.phase == UpdateState.IDLE
        and not state.fallback
    )


def _is_silent(row: DeviceRow, item: Exposure, look: Look, seconds: float) -> bool:
    switched = row.state and row.state.phase in AFTER_SWITCH
    return bool(switched) and _is_unheard(row, item, look, seconds)


def _is_unheard(row: DeviceRow, item: Exposure, look: Look, seconds: float) -> bool:
    """Whether a device that took the order is gone, and has been for so long."""
    if row.online or look.listening_since is None or not echoes(row, look.keyid, item.sequence):
        return False
    heard = max(row.seen_at, look.listening_since, item.offered_at)
    return look.now - heard > seconds


def echoes(row: DeviceRow, keyid: str, sequence: int) -> bool:
    """Whether a device has reported this order's sequence, or a later one."""
    return bool(row.state and row.state.sequences.get(keyid, 0) >= sequence > 0)


# --- what follows -----------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """One event, the figures it was made from, and the same for people."""

    event: E
    figures: Mapping[str, Any]
    reason: str


def judge(row: RolloutRow, look: Look) -> Verdict:
    """What the devices say about a rollout now.

    Args:
        row: the rollout; its devices' parts are settled.
        look: what is known.
    """
    if row.state in _ENDING:
        return _judge_return(row, look)
    if row.stopped:
        figures = _figures(row.devices, row.wave, look)
        return Verdict(E.STOPPED, figures, f"an operator said: {row.stopped}")
    if in_shadow(row):
        return _judge_shadow(row, Policy.from_dict(row.policy), look)
    return _judge_wave(row, Policy.from_dict(row.policy), look)


def _judge_shadow(row: RolloutRow, policy: Policy, look: Look) -> Verdict:
    """The shadow wave: the canary's devices, of which none may fail."""
    mine = [item for item in row.devices if item.wave == 0]
    figures = _figures(mine, 0, look) | {"allowed_failures": 0}
    unsettled = [item for item in mine if not item.outcome]
    names = {item.device for item in unsettled}
    shadowed = names & look.shadowed
    waited = [item for item in unsettled if not _is_neutral(item, look)]
    figures["shadowed"] = len(shadowed)
    figures["open"] = sum(item.device not in shadowed for item in waited)
    figures |= sum_up(look.shadows).to_dict()
    failed = [item for item in mine if item.outcome in FAILED]
    if failed:
        first = failed[0]
        why = f"as a shadow {first.device} {first.outcome} {first.code} {first.detail}".strip()
        return Verdict(E.FAILED, figures, f"{len(failed)} failed, none may: {why}"[:600])
    off = sorted(names & look.shadows_off.keys())
    if off:
        reason = f"{len(off)} shadows are off: {off[0]}: {look.shadows_off[off[0]]}"
        return Verdict(E.UNDECIDED, figures, reason[:600])
    if figures["open"]:
        if look.now - row.created_at > policy.hold_seconds:
            return Verdict(E.UNDECIDED, figures, "shadows had too little traffic for too long")
        return Verdict(E.WAITING, figures, "shadows are under way")
    if not shadowed and not figures["committed"]:
        return Verdict(E.WAITING, figures, "no shadow has scored what it was to")
    share = f"{figures['differing']} of {figures['shadow_rows']} rows decided otherwise"
    return Verdict(E.SHADOWED, figures, f"{len(shadowed)} shadows have scored, {share}")


def _judge_wave(row: RolloutRow, policy: Policy, look: Look) -> Verdict:
    wave, exposures = row.wave, row.devices
    figures = _figures(exposures, wave, look)
    allowed = policy.max_failures if wave else 0
    figures["allowed_failures"] = allowed
    failed = [item for item in exposures if item.wave == wave and item.outcome in FAILED]
    if len(failed) > allowed:
        first = failed[0]
        why = f"{first.device} {first.outcome} {first.code} {first.detail}".strip()
        return Verdict(E.FAILED, figures, f"{len(failed)} failed, {allowed} may: {why}"[:600])
    if figures["open"]:
        late = [item.device for item in exposures if _is_late(item, wave, policy, look)]
        if figures["undecided"]:
            return Verdict(E.UNDECIDED, figures, "a soak is undecided: too little traffic")
        if late:
            reason = f"{len(late)} took the order and did not settle it in time: {late[0]}"
            return Verdict(E.UNDECIDED, figures, reason)
        return Verdict(E.WAITING, figures, "devices are under way")
    last = wave + 1 >= row.waves
    before = sum(item.outcome == Outcome.COMMITTED for item in exposures if item.wave < wave)
    if not figures["committed"] and not (last and before):
        return Verdict(E.WAITING, figures, "no device of this wave has committed")
    reason = f"{figures['committed']} committed and healthy, {figures['away']} away"
    return Verdict(E.FINISHED if last else E.PASSED, figures, reason)


def _figures(exposures: Sequence[Exposure], wave: int, look: Look) -> dict[str, Any]:
    """Counts over the wave; a device that was away before it took the order is neutral."""
    mine = [item for item in exposures if item.wave == wave]
    unsettled = [item for item in mine if not item.outcome]
    away = [item for item in unsettled if _is_neutral(item, look)]
    return {
        "devices": len(mine),
        "committed": sum(item.outcome == Outcome.COMMITTED for item in mine),
        "failed": sum(item.outcome in FAILED for item in mine),
        "replaced": sum(item.outcome == Outcome.WITHDRAWN for item in mine),
        "settled": sum(bool(item.outcome) for item in mine),
        "away": len(away),
        "open": len(unsettled) - len(away),
        "undecided": sum(item.device in look.undecided for item in unsettled),
    }


def _is_neutral(item: Exposure, look: Look) -> bool:
    row = look.devices.get(item.device)
    return row is None or not (row.online or echoes(row, look.keyid, item.sequence))


def _is_late(item: Exposure, wave: int, policy: Policy, look: Look) -> bool:
    row = look.devices.get(item.device)
    waits = item.wave == wave and item.offered_at and not item.outcome
    if not waits or row is None or _is_neutral(item, look):
        return False
    late = look.now - item.offered_at > policy.hold_seconds
    return late or _is_unheard(row, item, look, policy.silent_seconds)


def _judge_return(row: RolloutRow, look: Look) -> Verdict:
    exposed = [item for item in row.devices if _is_ordered(item)]
    ways = [_way(item, row, look) for item in exposed]
    back, kept, away = (ways.count(way) for way in ("back", "kept", "away"))
    figures = {
        "exposed": len(exposed),
        "back": back,
        "kept": kept,
        "away": away,
        "still_on_it": sum(_serves(item, look, row.bundle) for item in exposed),
    }
    if "" in ways:
        return Verdict(E.RETURNING, figures, f"{back} of {len(exposed)} are back")
    reason = f"{back} are back, {away} are away and will find their order"
    if kept:
        names = [item.device for item, way in zip(exposed, ways, strict=True) if way == "kept"]
        reason += f"; {kept} still serve it, with no bundle to go back to or unable to: {names[0]}"
    return Verdict(E.RETURNED, figures, reason)


def _way(item: Exposure, row: RolloutRow, look: Look) -> str:
    """Where a device is on its way back; "" for under way.

    Back is who has taken the order back and serves something else. A device that has taken
    it, has ended and serves the bundle nevertheless keeps it: at once where there is no
    other, after a while where it could not install the other.
    """
    if not item.reverted_at:
        return ""
    device = look.devices.get(item.device)
    ended = device and device.state and device.state.phase == UpdateState.IDLE
    if device and ended and echoes(device, look.keyid, item.sequence):
        if not _serves(item, look, row.bundle):
            return "back"
        late = look.now - item.reverted_at > Policy.from_dict(row.policy).silent_seconds
        if not item.previous or late:
            return "kept"
    return "" if _is_online(item, look) else "away"


def _is_online(item: Exposure, look: Look) -> bool:
    row = look.devices.get(item.device)
    return bool(row and row.online)


def _serves(item: Exposure, look: Look, bundle: str) -> bool:
    row = look.devices.get(item.device)
    return bool(row and row.state and row.state.bundle == bundle)


def way_back(exposures: Sequence[Exposure]) -> list[Exposure]:
    """Devices that were given the order, the last of them first."""
    return [item for item in reversed(exposures) if _is_ordered(item) and not item.reverted_at]
