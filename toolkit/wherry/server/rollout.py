"""What is known of a rollout's devices, and the figures of it that a decision is made from. Pure.

`settle` says what a device's words mean, `measure` makes figures of them, and `verdict` says
what follows. Who goes when: `waves`. Nothing here touches a clock, a disk or a network:
`driver` carries the decisions out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from wherry.gates.judge import PASSED, Inputs
from wherry.gates.rules import Rules
from wherry.outcomes import FAILED, SILENT
from wherry.rows import PASS, PAUSE, RESUME, DeviceRow, Exposure, RolloutRow
from wherry.shadows import sum_up
from wherry_contract.shadow import ShadowCounts
from wherry_contract.states import AFTER_SWITCH, Outcome, SlotTrust, UpdateState
from wherry_contract.states import RolloutState as R

from .verdict import ENDING, Verdict, decide, is_ready

_REPLACED: Final = "U02"  # a newer order came: says nothing about the bundle
UNDECIDED: Final = "U10"  # the code of an event that says so
SHADOWED: Final = "update.shadowed"  # of one that says that a shadow has scored what it was to
SHADOW_OFF: Final = "U16"


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
        quorum: share of a wave's devices that must have committed, of those that take part.
        gates: `gates.rules.Rules` as JSON; empty for none.
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
    quorum: float = 1.0
    gates: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Policy:
        """Read what `to_dict` wrote."""
        return replace(cls(**document), shares=tuple(document["shares"]))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"shares": list(self.shares), "gates": dict(self.gates)}


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
        in_depot: whether the bundle can be fetched.
        inputs: what the gates are to be asked with, if they are due.
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
    in_depot: bool = True
    inputs: Inputs | None = None


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


# --- the figures of a look ----------------------------------------------------------------


def judge(row: RolloutRow, look: Look) -> Verdict:
    """What the devices say about a rollout now.

    Args:
        row: the rollout; its devices' parts are settled.
        look: what is known.
    """
    return decide(measure(row, look))


def measure(row: RolloutRow, look: Look) -> dict[str, Any]:
    """All that a decision is made from, as JSON."""
    policy = Policy.from_dict(row.policy)
    figures: dict[str, Any] = {"state": row.state, "wave": row.wave, "waves": row.waves}
    if row.state in ENDING:
        return figures | _return_figures(row, policy, look)
    if in_shadow(row):
        return figures | _shadow_figures(row, policy, look)
    return figures | _wave_figures(row, policy, look) | _gate_figures(row, policy, look)


def _shadow_figures(row: RolloutRow, policy: Policy, look: Look) -> dict[str, Any]:
    """The shadow wave: the canary's devices, of which none may fail."""
    mine = [item for item in row.devices if item.wave == 0]
    unsettled = [item for item in mine if not item.outcome]
    names = {item.device for item in unsettled}
    shadowed = names & look.shadowed
    waited = [item for item in unsettled if not _is_neutral(item, look)]
    off = sorted(names & look.shadows_off.keys())
    found = _wave_figures(row, policy, look)
    found |= {
        "in_shadow": True,
        "allowed_failures": 0,
        "shadowed": len(shadowed),
        "open": sum(item.device not in shadowed for item in waited),
        "first_failed": f"as a shadow {found['first_failed']}",
        "off": len(off),
        "first_off": f"{off[0]}: {look.shadows_off[off[0]]}" if off else "",
        "overdue": look.now - row.created_at > policy.hold_seconds,
    }
    if "disagreement" in policy.gates.get("names", ()) and shadowed and not found["open"]:
        rules = replace(Rules.from_dict(policy.gates), names=("disagreement",), looks=1, waves=1)
        known = sorted(look.shadows.items())
        shares = [round(c.differing / c.rows, 6) for _, c in known if c.rows >= rules.least_rows]
        inputs = Inputs(1, {}, {}, shares, row.id)
        found["shadow_gate"] = {"rules": rules.to_dict(), "inputs": inputs.to_dict()}
    return found | sum_up(look.shadows).to_dict()


def _wave_figures(row: RolloutRow, policy: Policy, look: Look) -> dict[str, Any]:
    """Counts over the wave; a device that was away before it took the order is neutral."""
    wave = row.wave
    mine = [item for item in row.devices if item.wave == wave]
    unsettled = [item for item in mine if not item.outcome]
    away = sum(_is_neutral(item, look) for item in unsettled)
    failed = [item for item in mine if item.outcome in FAILED]
    late = [item.device for item in unsettled if _is_late(item, wave, policy, look)]
    said = [f"{item.device} {item.outcome} {item.code} {item.detail}".strip() for item in failed]
    paused = [item for item in row.words if item.what in (PAUSE, RESUME)]
    over = [item.why for item in row.words if item.what == PASS and item.wave == wave]
    return {
        "devices": len(mine),
        "committed": sum(item.outcome == Outcome.COMMITTED for item in mine),
        "failed": len(failed),
        "replaced": sum(item.outcome == Outcome.WITHDRAWN for item in mine),
        "settled": len(mine) - len(unsettled),
        "away": away,
        "open": len(unsettled) - away,
        "undecided": sum(item.device in look.undecided for item in unsettled),
        "late": len(late),
        "allowed_failures": policy.max_failures if wave else 0,
        "before": sum(i.outcome == Outcome.COMMITTED for i in row.devices if i.wave < wave),
        "quorum": policy.quorum,
        "first_failed": said[0][:600] if said else "",
        "first_late": late[0] if late else "",
        "stopped": row.stopped,
        "paused": paused[-1].why if paused and paused[-1].what == PAUSE else "",
        "passed_over": over[0] if over else "",
        "in_depot": look.in_depot,
    }


def _gate_figures(row: RolloutRow, policy: Policy, look: Look) -> dict[str, Any]:
    looks = _looks(row)
    found: dict[str, Any] = {
        "gates_asked": asks_gates(row, policy),
        "looks_made": len(looks),
        "looks": policy.gates.get("looks", 0),
        "gates_before": looks[-1].get("gates_said", "") if looks else "",
    }
    if look.inputs:
        found["gates"] = {"rules": dict(policy.gates), "inputs": look.inputs.to_dict()}
    return found


def _looks(row: RolloutRow) -> list[Mapping[str, Any]]:
    """The figures of earlier looks of the gates at this wave."""
    found = [item.figures for item in row.decisions if item.figures.get("gates")]
    return [figures for figures in found if figures["wave"] == row.wave]


def asks_gates(row: RolloutRow, policy: Policy) -> bool:
    """Whether this wave is judged by gates: they were ordered, and can be asked here."""
    if not policy.gates:
        return False
    canary = sum(item.wave <= row.wave for item in row.devices)
    return can_ask(policy.gates, canary, len(row.devices) - canary)


def can_ask(gates: Mapping[str, Any], canary: int, control: int) -> bool:
    """Whether gates make sense of so many devices; if they were ordered by name, in any case.

    A wave that leaves nobody to compare with is judged by its failures alone.
    """
    rules = Rules.from_dict(gates)
    enough = canary >= rules.least_canary and control >= rules.least_control
    return control > 0 and (rules.strict or enough)


def gates_due(row: RolloutRow, look: Look) -> bool:
    """Whether the gates are to be asked now: enough have committed, and the next look has come.

    The last look waits for the quorum, so that no wave is held for having looked too early.
    """
    policy = Policy.from_dict(row.policy)
    if row.state not in (R.CANARY, R.WAVE, R.HOLD) or not asks_gates(row, policy):
        return False
    rules, looks = Rules.from_dict(policy.gates), _looks(row)
    if len(looks) >= rules.looks or (looks and looks[-1].get("gates_said") == PASSED):
        return False
    mine = [item for item in row.devices if item.wave == row.wave]
    settled = sorted(item.settled_at for item in mine if item.outcome == Outcome.COMMITTED)
    enough = min(rules.least_canary, len(mine))
    if settled and is_ready(_wave_figures(row, policy, look)):
        enough = min(enough, len(settled))  # no more will come; few are undecided, and that is said
    if len(settled) < enough:
        return False
    if look.now < settled[enough - 1] + (len(looks) + 1) * rules.look_seconds:
        return False
    return len(looks) + 1 < rules.looks or is_ready(_wave_figures(row, policy, look))


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


def _return_figures(row: RolloutRow, policy: Policy, look: Look) -> dict[str, Any]:
    exposed = [item for item in row.devices if _is_ordered(item)]
    ways = [_way(item, row, policy, look) for item in exposed]
    kept = [item.device for item, way in zip(exposed, ways, strict=True) if way == "kept"]
    return {
        "exposed": len(exposed),
        "back": ways.count("back"),
        "kept": len(kept),
        "away": ways.count("away"),
        "still_on_it": sum(_serves(item, look, row.bundle) for item in exposed),
        "on_the_way": ways.count(""),
        "first_kept": kept[0] if kept else "",
    }


def _way(item: Exposure, row: RolloutRow, policy: Policy, look: Look) -> str:
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
        late = look.now - item.reverted_at > policy.silent_seconds
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
