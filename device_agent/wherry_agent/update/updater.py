"""The update state machine as a table, and the pure steps through it.

    IDLE -> OFFERED -> ADMIT -> FETCH -> VERIFY -> STAGE -> PROBE -> [SHADOW] -> SWITCH
         -> SOAK -> COMMIT -> REPORT -> IDLE
    before SWITCH, any failure:             DISCARD -> REPORT
    SOAK: crash loop, gate, newer order:    REVERT -> VERIFY_REVERT -> REPORT

Every arrow is one durable record. A restart in any state repeats that state's action, and
every action may be repeated; a saved name that nobody knows is rolled back. Nothing here
touches a disk, a clock or a network: `update_io` carries the actions out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from wherry_contract.assignment import Assignment
from wherry_contract.command import Command
from wherry_contract.errors import TrustError, UpdateError
from wherry_contract.states import AFTER_SWITCH, Outcome, SlotTrust
from wherry_contract.states import UpdateState as S

from .record import SLOTS, DeviceRecord, Slot, Update

RETRY_BUDGET: Final = 10
TRANSITION_BUDGET: Final = 30
BOOT_BUDGET: Final = 3  # starts of the agent during one shadow, or one soak
MODES: Final = ("live", "shadow")
RETRY_CEILING_SECONDS: Final = 15 * 60
_DENIED_KEPT: Final = 32
_MOST_AHEAD: Final = 1_000_000  # orders of one key that a device has not seen
# signed or listed anew, the same order may be carried out
_NOT_THE_BUNDLE: Final = frozenset({"T02", "T05", "T11", "T12", "T13", "U13"})


class E(StrEnum):
    """What an action may come back with."""

    DONE = "done"  # it worked
    FAIL = "fail"  # it never will
    RETRY = "retry"  # it may work later
    WAIT = "wait"  # nothing to decide yet, or interrupted
    NEWER = "newer"  # a newer order waits
    SHADOW = "shadow"  # it worked, and live traffic is scored unused before anything else


TABLE: Final[Mapping[tuple[S, E], S]] = MappingProxyType(
    {
        (S.OFFERED, E.DONE): S.ADMIT,
        (S.OFFERED, E.FAIL): S.DISCARD,
        (S.OFFERED, E.NEWER): S.DISCARD,
        (S.OFFERED, E.WAIT): S.OFFERED,
        (S.ADMIT, E.DONE): S.FETCH,
        (S.ADMIT, E.FAIL): S.DISCARD,
        (S.ADMIT, E.RETRY): S.ADMIT,
        (S.ADMIT, E.WAIT): S.ADMIT,
        (S.ADMIT, E.NEWER): S.DISCARD,
        (S.FETCH, E.DONE): S.VERIFY,
        (S.FETCH, E.FAIL): S.DISCARD,
        (S.FETCH, E.RETRY): S.FETCH,
        (S.FETCH, E.WAIT): S.FETCH,
        (S.FETCH, E.NEWER): S.DISCARD,
        (S.VERIFY, E.DONE): S.STAGE,
        (S.VERIFY, E.FAIL): S.DISCARD,
        (S.VERIFY, E.RETRY): S.VERIFY,
        (S.VERIFY, E.NEWER): S.DISCARD,
        (S.STAGE, E.DONE): S.PROBE,
        (S.STAGE, E.FAIL): S.DISCARD,
        (S.STAGE, E.RETRY): S.STAGE,
        (S.STAGE, E.NEWER): S.DISCARD,
        (S.PROBE, E.DONE): S.SWITCH,
        (S.PROBE, E.SHADOW): S.SHADOW,
        (S.PROBE, E.FAIL): S.DISCARD,
        (S.PROBE, E.RETRY): S.PROBE,
        (S.PROBE, E.NEWER): S.DISCARD,
        (S.PROBE, E.WAIT): S.PROBE,
        (S.SHADOW, E.DONE): S.SWITCH,
        (S.SHADOW, E.FAIL): S.DISCARD,
        (S.SHADOW, E.RETRY): S.SHADOW,
        (S.SHADOW, E.NEWER): S.DISCARD,
        (S.SHADOW, E.WAIT): S.SHADOW,
        (S.SWITCH, E.DONE): S.SOAK,
        (S.SWITCH, E.FAIL): S.REVERT,
        (S.SWITCH, E.RETRY): S.SWITCH,
        (S.SWITCH, E.NEWER): S.REVERT,
        (S.SOAK, E.DONE): S.COMMIT,
        (S.SOAK, E.WAIT): S.SOAK,
        (S.SOAK, E.RETRY): S.SOAK,
        (S.SOAK, E.FAIL): S.REVERT,
        (S.SOAK, E.NEWER): S.REVERT,
        # from here on nothing can fail: what did not work is tried again, for ever
        (S.COMMIT, E.DONE): S.REPORT,
        (S.COMMIT, E.RETRY): S.COMMIT,
        (S.DISCARD, E.DONE): S.REPORT,
        (S.DISCARD, E.RETRY): S.DISCARD,
        (S.REVERT, E.DONE): S.VERIFY_REVERT,
        (S.REVERT, E.RETRY): S.REVERT,
        (S.VERIFY_REVERT, E.DONE): S.REPORT,
        (S.VERIFY_REVERT, E.FAIL): S.REPORT,  # the fallback rule answers; the report says so
        (S.VERIFY_REVERT, E.RETRY): S.VERIFY_REVERT,
        (S.REPORT, E.DONE): S.IDLE,
        (S.REPORT, E.RETRY): S.REPORT,
    }
)

_UNWINDING: Final = frozenset({S.COMMIT, S.DISCARD, S.REVERT, S.VERIFY_REVERT, S.REPORT})


@dataclass(frozen=True)
class Result:
    """What an action came back with, and why if it was not `DONE`."""

    event: E
    code: str = ""
    detail: str = ""
    wait_seconds: float = 0.0  # that a busy depot asked for


def is_new(assignment: Assignment, record: DeviceRecord, device: str) -> bool:
    """Whether a verified order is for this device and was not accepted before.

    Returns:
        False for the very order that was accepted last: the retained message came again.

    Raises:
        TrustError: T03 for another device, T04 an older one replayed, T14 far ahead.
    """
    return check_sequence(assignment, record.sequences.get(assignment.keyid, 0), device)


def check_sequence(signed: Assignment | Command, last: int, device: str) -> bool:
    """Whether what a key has signed is for this device and beyond the last that was accepted.

    Raises:
        TrustError: T03, T04 or T14.
    """
    if signed.device != device:
        raise TrustError("T03", f"it names {signed.device}")
    if signed.sequence < last:
        raise TrustError("T04", f"sequence {signed.sequence}, last was {last}")
    if signed.sequence > last + _MOST_AHEAD:
        # a stolen key must not use up the numbers of the key that it is
        raise TrustError("T14", f"sequence {signed.sequence}, last was {last}")
    return signed.sequence > last


def judge_offer(assignment: Assignment, record: DeviceRecord, *, family: str, now: float) -> None:
    """Refuse an accepted order that must not be carried out.

    Args:
        assignment: the order.
        record: what the device remembers.
        family: the model family that the device is pinned to.
        now: trusted time, Unix seconds.

    Raises:
        TrustError: T05 expired, T06 another family.
        UpdateError: U09 it failed here before, U12 unknown mode.
    """
    if assignment.family != family:
        raise TrustError("T06", f"it is of {assignment.family}, pinned is {family}")
    if now > assignment.expires:
        raise TrustError("T05", "the order has expired")
    if assignment.mode not in MODES:
        raise UpdateError("U12", f"mode {assignment.mode}")
    if (assignment.rollout, assignment.digest) in record.denied:
        raise UpdateError("U09", assignment.digest)


def accept(record: DeviceRecord, assignment: Assignment) -> DeviceRecord:
    """Take a new order: start it, or let it wait for the present one to unwind.

    The same order signed again only replaces what is under way.
    """
    sequences = dict(record.sequences) | {assignment.keyid: assignment.sequence}
    known = replace(record, sequences=sequences, rollout=assignment.rollout)
    update = record.update
    if update is None or known.state == S.IDLE:
        return begin(known, assignment)
    same = (update.assignment.rollout, update.assignment.digest)
    if same == (assignment.rollout, assignment.digest) and not update.outcome:
        return replace(known.with_update(assignment=assignment), pending=None)
    return replace(known, pending=assignment)


def begin(record: DeviceRecord, assignment: Assignment) -> DeviceRecord:
    """Start an order on an idle device; one that is already fulfilled goes to its report."""
    fresh = replace(record, pending=None, update=Update(assignment))
    serving = record.serving
    if not assignment.digest:
        done = fresh.with_update(outcome=str(Outcome.WITHDRAWN))
        return replace(done, state=str(S.REPORT))
    if serving.digest == assignment.digest and serving.trust == SlotTrust.GOOD:
        done = fresh.with_update(outcome=str(Outcome.COMMITTED), slot=record.active)
        return replace(done, state=str(S.REPORT))
    return replace(fresh, state=str(S.OFFERED))


def step(record: DeviceRecord, result: Result) -> DeviceRecord:
    """The next record; the budgets turn what never ends into an end.

    Raises:
        KeyError: the table has no such row, which is a bug that must not stay quiet.
    """
    state, event = S(record.state), result.event
    if event == E.RETRY:
        return _retry(record, state, result)
    following = TABLE[(state, event)]
    moved = following != state
    assert record.update is not None  # noqa: S101 - only IDLE has none, and it has no rows
    ends = event in (E.FAIL, E.NEWER) or state in _UNWINDING
    if moved and not ends and record.update.transitions >= TRANSITION_BUDGET:
        return step(record, Result(E.FAIL, "U04", f"after {TRANSITION_BUDGET} steps in {state}"))
    if moved:
        transitions = record.update.transitions + 1
        record = record.with_update(transitions=transitions, retries=0)
    if event in (E.FAIL, E.NEWER):
        record = _blame(record, state, result)
    return _arrive(record, following)


def _retry(record: DeviceRecord, state: S, result: Result) -> DeviceRecord:
    assert record.update is not None  # noqa: S101 - as in `step`
    retries = record.update.retries + 1
    offline = result.code == "L04"  # a device that is away is no failing device
    if retries > RETRY_BUDGET and state not in _UNWINDING and not offline:
        detail = f"{retries - 1} retries; the last: {result.code} {result.detail}"
        return step(record, Result(E.FAIL, "U03", detail))
    return record.with_update(retries=retries)


def _blame(record: DeviceRecord, state: S, result: Result) -> DeviceRecord:
    assert record.update is not None  # noqa: S101 - as in `step`
    outcome = Outcome.REVERTED if state in AFTER_SWITCH else Outcome.REFUSED
    if record.update.outcome:  # the first cause stands
        return record
    blamed = record.with_update(outcome=str(outcome), code=result.code, detail=result.detail)
    if result.event == E.NEWER:
        return blamed
    assignment = record.update.assignment
    if result.code in _NOT_THE_BUNDLE:
        return blamed
    failed = (assignment.rollout, assignment.digest)
    denied = (*(item for item in record.denied if item != failed), failed)
    return replace(blamed, denied=denied[-_DENIED_KEPT:])


def _arrive(record: DeviceRecord, state: S) -> DeviceRecord:
    record = replace(record, state=str(state))
    assert record.update is not None  # noqa: S101 - as in `step`
    slot = record.update.slot
    if state == S.SWITCH:  # a bundle that was good once has to prove itself again
        unproven = replace(record.slots[slot], trust=SlotTrust.UNPROVEN)
        return replace(record.with_slot(slot, unproven), active=slot).with_update(boots=0)
    if state == S.COMMIT:
        good = replace(record.slots[slot], trust=SlotTrust.GOOD)
        return record.with_slot(slot, good).with_update(outcome=str(Outcome.COMMITTED))
    if state == S.REVERT:
        return _revert(record, slot, superseded=record.update.code == "U02")
    if state == S.DISCARD and slot and slot != record.active:
        kept = record.slots[slot].trust == SlotTrust.GOOD and not _is_denied(record)
        left = record if kept else record.with_slot(slot, Slot())
        return left.with_update(slot="")
    if state == S.IDLE:
        done = replace(record, update=None)
        return begin(done, record.pending) if record.pending else done
    return record


def _revert(record: DeviceRecord, slot: str, *, superseded: bool) -> DeviceRecord:
    """Back to the other slot; a model that a newer order interrupted has done nothing bad.

    It serves on where the newer order is for the same bundle: another rollout's, or the
    server's after a stick's. So does the only one, and it is what that order is reverted to:
    a terminal is not without a model because two orders met.
    """
    trust = SlotTrust.UNPROVEN if superseded else SlotTrust.BAD
    left = record.with_slot(slot, replace(record.slots[slot], trust=trust))
    if superseded and record.pending and record.pending.digest == record.slots[slot].digest:
        return replace(left, active=slot)
    other = "b" if slot == "a" else "a"
    if record.slots[other].trust in (SlotTrust.GOOD, SlotTrust.UNPROVEN):
        return replace(left, active=other)
    return replace(left, active=slot if superseded else "")


def _other_good(record: DeviceRecord, slot: str) -> str:
    other = "b" if slot == "a" else "a"
    return other if record.slots[other].trust == SlotTrust.GOOD else ""


def _is_denied(record: DeviceRecord) -> bool:
    assert record.update is not None  # noqa: S101 - as in `step`
    order = record.update.assignment
    return (order.rollout, order.digest) in record.denied


def stage(record: DeviceRecord, slot: Slot) -> DeviceRecord:
    """Give the bundle of the update under way its slot.

    One that holds it already is used, so that the other bundle stays: that which serves
    and has proven nothing yet, or the one that stands by, which stays good until it serves.

    Args:
        record: with an update that has come to `STAGE`.
        slot: the bundle, unproven.
    """
    held = [name for name in SLOTS if record.slots[name].digest == slot.digest]
    name = record.active if record.active in held else (held or [free_slot(record)])[0]
    if record.slots[name].digest == slot.digest and record.slots[name].trust == SlotTrust.GOOD:
        return record.with_update(slot=name)
    return record.with_slot(name, slot).with_update(slot=name)


def free_slot(record: DeviceRecord) -> str:
    """The slot that may be overwritten: not the one that serves, nor the one whose rule does."""
    if record.active:
        return "b" if record.active == "a" else "a"
    return "b" if record.slots["a"].digest else "a"


def resume(record: DeviceRecord) -> DeviceRecord:
    """What a restarted agent goes on with: the same state, or a roll back.

    A saved state that nobody knows is rolled back; each start during a shadow or a soak is
    counted, and one too many ends it.
    """
    if record.state not in set(S) or (record.update is None and record.state != S.IDLE):
        return _roll_back(record)
    if record.state in (S.SHADOW, S.SWITCH, S.SOAK) and record.update:
        boots = record.update.boots + 1
        record = record.with_update(boots=boots)
        if boots > BOOT_BUDGET:
            return step(record, Result(E.FAIL, "U05", f"{boots} starts during the {record.state}"))
    return record


def _roll_back(record: DeviceRecord) -> DeviceRecord:
    if record.update is None:
        other = _other_good(record, record.active)
        proven = not record.active or record.serving.trust == SlotTrust.GOOD or not other
        idle = replace(record, state=str(S.IDLE), active=record.active if proven else other)
        return begin(idle, idle.pending) if idle.pending else idle
    detail = f"state {record.state!r}"
    fulfilled = record.update.outcome == Outcome.COMMITTED
    if fulfilled and record.serving.trust == SlotTrust.GOOD:  # only the report is due
        return replace(record, state=str(S.REPORT))
    if record.update.slot and record.update.slot == record.active:
        return step(replace(record, state=str(S.SOAK)), Result(E.FAIL, "U11", detail))
    return step(replace(record, state=str(S.OFFERED)), Result(E.FAIL, "U11", detail))


def retry_delay(retries: int, chance: float) -> float:
    """Seconds to wait before a retry: full jitter under a doubling ceiling.

    Args:
        retries: how many there were.
        chance: uniform in [0, 1).
    """
    return chance * min(RETRY_CEILING_SECONDS, 1 << min(retries, 20))
