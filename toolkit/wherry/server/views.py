"""Rows as the HTTP interface and `--json` show them."""

from __future__ import annotations

from typing import Any

from wherry.behind import Known, behind
from wherry.rows import (
    BundleRow,
    Decision,
    DeviceRow,
    Exposure,
    Incident,
    Question,
    RolloutRow,
    StoredEvent,
)
from wherry.shadows import add_to, sum_up
from wherry_contract.messages import State
from wherry_contract.shadow import ShadowCounts
from wherry_contract.when import to_text

from .registry import Claim, Identity
from .rollout import Policy
from .store import Store


def moment(seconds: float) -> str | None:
    """A time as text; nothing for one that never was."""
    return to_text(seconds) if seconds else None


def device_view(
    row: DeviceRow, identity: Identity | None = None, known: Known | None = None
) -> dict[str, Any]:
    """A device in a list, and in what it is behind of what is known."""
    state = row.state
    return {
        "device": row.device,
        "family": row.family,
        "labels": dict(row.labels),
        "online": row.online,
        "seen_at": moment(row.seen_at),
        "enrolled_at": moment(row.enrolled_at),
        "identity": _identity_view(identity) if identity else None,
        "state": _state_view(state) if state else None,
        "behind": list(behind(state, known)) if state and known else [],
    }


def _identity_view(identity: Identity) -> dict[str, Any]:
    return {
        "fingerprint": identity.fingerprint,
        "not_after": moment(identity.not_after),
        "revoked_at": moment(identity.revoked_at),
    }


def claim_view(claim: Claim) -> dict[str, Any]:
    """A claim; of its code only the digest is known."""
    return {
        "digest": claim.digest,
        "device": claim.device,
        "family": claim.family,
        "labels": dict(claim.labels),
        "made_at": moment(claim.made_at),
        "expires": moment(claim.expires),
        "used_by": claim.used_by,
    }


def _state_view(state: State) -> dict[str, Any]:
    return {
        "phase": state.phase,
        "rollout": state.rollout,
        "bundle": state.bundle,
        "bundle_name": state.bundle_name,
        "bundle_version": state.bundle_version,
        "active": state.active,
        "trust": state.trust,
        "fallback": state.fallback,
        "agent": state.agent,
        "runtime": f"{state.runtime} {state.runtime_version}",
        "architecture": state.architecture,
        "system": state.extra.get("system", {}),
        "sequences": dict(state.sequences),
        "started_at": moment(state.started_at),
        "reported_at": moment(state.reported_at),
    }


def event_view(row: StoredEvent) -> dict[str, Any]:
    """An event."""
    event = row.event
    return {
        "device": row.device,
        "received_at": moment(row.received_at),
        "at": moment(event.at),
        "code": event.code,
        "severity": event.severity,
        "text": event.text,
        "rollout": event.rollout,
        "bundle": event.bundle,
        "outcome": event.outcome,
    }


def question_view(row: Question, online: bool, *, whole: bool) -> dict[str, Any]:  # noqa: FBT001 - of the device
    """A question; `whole` with the document that answers it."""
    event = row.event
    answer = event.answer if event else None
    found: dict[str, Any] = {
        "id": row.id,
        "device": row.device,
        "online": online,
        "ask": row.ask,
        "asked_at": moment(row.asked_at),
        "expires": moment(row.expires),
        "answered_at": moment(row.answered_at),
        "outcome": answer.outcome if answer else "",
        "code": event.code if event else "",
        "text": event.text if event else "",
    }
    return found | ({"document": dict(answer.document) if answer else {}} if whole else {})


def incident_view(row: Incident) -> dict[str, Any]:
    """A message that was not taken."""
    return row.__dict__ | {"at": moment(row.at)}


def bundle_view(row: BundleRow) -> dict[str, Any]:
    """A bundle."""
    return row.__dict__ | {"added_at": moment(row.added_at)}


def rollout_view(row: RolloutRow) -> dict[str, Any]:
    """A rollout with its devices and decisions."""
    return {
        "id": row.id,
        "bundle": row.bundle,
        "name": row.name,
        "version": row.version,
        "family": row.family,
        "state": row.state,
        "wave": row.wave,
        "waves": row.waves,
        "select": dict(row.select),
        "policy": dict(row.policy),
        "created_at": moment(row.created_at),
        "changed_at": moment(row.changed_at),
        "stopped": row.stopped,
        "devices": [_exposure_view(item) for item in row.devices],
        "decisions": [_decision_view(item) for item in row.decisions],
    }


def shadow_view(row: RolloutRow, store: Store) -> dict[str, Any]:
    """What the shadows of a rollout have counted, together and by device; nothing without any."""
    by_device = shadows_of(row, store)
    if not by_device:
        return {}
    together = sum_up(by_device).to_dict()
    devices = [
        {"device": name, "rows": counts.rows, "differing": counts.differing, "off": counts.off}
        for name, counts in sorted(by_device.items())
    ]
    return {"shadow": together | {"devices": devices}}


def shadows_of(row: RolloutRow, store: Store) -> dict[str, ShadowCounts]:
    """The counts of a rollout's shadows by device, from what is stored."""
    found: dict[str, ShadowCounts] = {}
    if Policy.from_dict(row.policy).shadow_rows < 0:
        return found
    names = store.ledger.canary(row.id)
    for stored in store.windows_of(names, 0, row.created_at)[1]:
        counts = stored.window.shadow
        if counts and counts.bundle == row.bundle:
            add_to(found, stored.device, counts)
    return found


def _exposure_view(item: Exposure) -> dict[str, Any]:
    return item.__dict__ | {
        name: moment(getattr(item, name)) for name in ("offered_at", "reverted_at", "settled_at")
    }


def _decision_view(item: Decision) -> dict[str, Any]:
    return item.__dict__ | {"at": moment(item.at), "figures": dict(item.figures)}
