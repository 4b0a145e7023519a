"""One device's order to run a bundle: a signed assignment, retained on its own topic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .oci import DIGEST
from .signature import (
    KEY_ID,
    AssignmentKey,
    PublicKey,
    TrustRoot,
    check_understood,
    open_envelope,
)
from .when import to_text
from .wire import SLUG, TRUST, Fields, canonical, parse_json

PAYLOAD_TYPE: Final = "application/vnd.wherry.assignment.v1+json"
SCHEMA: Final = "wherry/assignment"
LIMIT_BYTES: Final = 16 * 1024
_KNOWN: Final = (
    "mode",
    "soak_rows",
    "soak_seconds",
    "device_key",
    "window",
    "deadline",
    "policy",
    "shadow",
)
_TIME_OF_DAY: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"


@dataclass(frozen=True)
class MaintenanceWindow:
    """When an install may go on: from one local time of day until another, across midnight too.

    Attributes:
        start: as ``02:00``.
        end: as ``05:00``; not in the window any more.
        offset_minutes: of the device's local time from UTC.
    """

    start: str
    end: str
    offset_minutes: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> MaintenanceWindow:
        """Read a window.

        Raises:
            TrustError: T09.
        """
        return cls(
            start=fields.text("from", pattern=_TIME_OF_DAY),
            end=fields.text("to", pattern=_TIME_OF_DAY),
            offset_minutes=fields.integer("offset_minutes", 0, low=-14 * 60, high=14 * 60),
            extra=fields.rest(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        document = {"from": self.start, "to": self.end, "offset_minutes": self.offset_minutes}
        return document | dict(self.extra)


@dataclass(frozen=True)
class FetchPolicy:
    """How the bytes may come.

    Attributes:
        delta: ``prefer`` a delta and fall back to the whole, ``never`` one, or ``only`` one:
            rather fail than fetch the whole.
        bytes_per_second: the most; 0 for no limit.
        meter: ``any`` link, or only one that is ``free`` of charge.
    """

    delta: str = "prefer"
    bytes_per_second: int = 0
    meter: str = "any"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> FetchPolicy:
        """Read a policy.

        Raises:
            TrustError: T09.
        """
        return cls(
            delta=fields.choice("delta", ("prefer", "never", "only"), "prefer"),
            bytes_per_second=fields.integer("bytes_per_second", 0),
            meter=fields.choice("meter", ("any", "free"), "any"),
            extra=fields.rest(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        document: dict[str, Any] = {"delta": self.delta, "meter": self.meter}
        return document | {"bytes_per_second": self.bytes_per_second} | dict(self.extra)


@dataclass(frozen=True)
class ShadowPlan:
    """How long a shadow scores, and what follows.

    Attributes:
        rows: that it has scored before it may end.
        seconds: that it has scored for, at least.
        then: ``wait`` for the order to go live, or ``switch`` without one.
    """

    rows: int = 200
    seconds: int = 1800
    then: str = "wait"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> ShadowPlan:
        """Read a plan.

        Raises:
            TrustError: T09.
        """
        return cls(
            rows=fields.integer("rows", 200),
            seconds=fields.integer("seconds", 1800),
            then=fields.choice("then", ("wait", "switch"), "wait"),
            extra=fields.rest(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        document: dict[str, Any] = {"rows": self.rows, "seconds": self.seconds}
        return document | {"then": self.then} | dict(self.extra)


@dataclass(frozen=True)
class Assignment:
    """What one device should run.

    Attributes:
        device: the device's id; nobody else obeys.
        rollout: which rollout it belongs to.
        family: the model family; the device is pinned to one.
        digest: of the bundle's OCI manifest; "" withdraws an earlier order, so that the
            device stays with what it runs.
        size: of that manifest in bytes.
        sequence: grows with every order that a key signs for a device.
        issued_at: Unix seconds.
        expires: Unix seconds; after it the order starts no new install.
        mode: ``live``, or ``shadow``: score live traffic, unused, before anything is switched.
        soak_rows: replaces the bundle's own soak if not negative.
        soak_seconds: likewise.
        device_key: sha256 of the device certificate's public key (SubjectPublicKeyInfo, DER)
            in hexadecimal; "" for a device without one.
        window: when the install may go on; nothing for always.
        deadline: Unix seconds, when the window binds no more; nothing for never.
        policy: how the bytes may come.
        shadow: how long the shadow scores; nothing for a live order.
        keyid: which key signed it; filled in by `open_assignment`.
    """

    device: str
    rollout: str
    family: str
    digest: str
    size: int
    sequence: int
    issued_at: float
    expires: float
    mode: str = "live"
    soak_rows: int = -1
    soak_seconds: int = -1
    device_key: str = ""
    window: MaintenanceWindow | None = None
    deadline: float | None = None
    policy: FetchPolicy = FetchPolicy()
    shadow: ShadowPlan | None = None
    keyid: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, data: bytes, keyid: str = "") -> Assignment:
        """Read the payload of a verified envelope.

        Raises:
            TrustError: T08 from the future, T09 malformed.
        """
        document = parse_json(data, limit=LIMIT_BYTES, what="assignment", domain=TRUST)
        fields = Fields(document, "assignment", TRUST)
        fields.schema(SCHEMA)
        check_understood(fields, _KNOWN)
        window, shadow = fields.mapping("window", {}), fields.mapping("shadow", {})
        return cls(
            device=fields.text("device", pattern=SLUG),
            rollout=fields.text("rollout", pattern=SLUG),
            family=fields.text("family", pattern=SLUG),
            digest=fields.text("digest", "", pattern=DIGEST),
            size=fields.integer("size", 0, high=64 * 1024),
            sequence=fields.integer("sequence", low=1),
            issued_at=fields.moment("issued_at"),
            expires=fields.moment("expires"),
            mode=fields.text("mode", "live", limit=16),
            soak_rows=fields.integer("soak_rows", -1, low=-1),
            soak_seconds=fields.integer("soak_seconds", -1, low=-1),
            device_key=fields.text("device_key", "", pattern=KEY_ID),
            window=MaintenanceWindow.from_fields(Fields(window, "assignment.window", TRUST))
            if window
            else None,
            deadline=fields.optional_moment("deadline"),
            policy=FetchPolicy.from_fields(fields.table("policy", {})),
            shadow=ShadowPlan.from_fields(Fields(shadow, "assignment.shadow", TRUST))
            if shadow
            else None,
            keyid=keyid,
            extra=fields.rest(),
        )

    def to_bytes(self) -> bytes:
        """The payload to be signed; whatever changes its meaning must be understood."""
        document: dict[str, Any] = {
            "schema": f"{SCHEMA}/1",
            "device": self.device,
            "rollout": self.rollout,
            "family": self.family,
            "digest": self.digest,
            "size": self.size,
            "sequence": self.sequence,
            "issued_at": to_text(self.issued_at),
            "expires": to_text(self.expires),
            "mode": self.mode,
        }
        for name in ("soak_rows", "soak_seconds"):
            if getattr(self, name) >= 0:
                document[name] = getattr(self, name)
        binding = self._binding()
        understand = {"must_understand": ["mode", *binding]}
        return canonical(document | binding | understand | dict(self.extra))

    def _binding(self) -> dict[str, Any]:
        """What is there only if it says something, and then must be understood."""
        found: dict[str, Any] = {}
        if self.device_key:
            found["device_key"] = self.device_key
        if self.window:
            found["window"] = self.window.to_dict()
        if self.deadline is not None:
            found["deadline"] = to_text(self.deadline)
        if self.policy != FetchPolicy():
            found["policy"] = self.policy.to_dict()
        if self.shadow:
            found["shadow"] = self.shadow.to_dict()
        return found


def open_assignment(envelope: bytes, root: TrustRoot) -> Assignment:
    """Verify an assignment's signature and its key's own validity.

    Who it is for, whether it is new and whether it has expired is the device's to judge:
    that needs its state and its clock.

    Raises:
        TrustError: T01, T02, T08 or T09.
    """
    return open_order(envelope, root.keys, root.assignment_keys)


def open_order(
    envelope: bytes, keys: Mapping[str, PublicKey], listed: Iterable[AssignmentKey]
) -> Assignment:
    """Verify an assignment against keys and the validity that each is listed with.

    Args:
        envelope: the DSSE envelope.
        keys: public keys by key id.
        listed: which of them may sign assignments, and from when to when.

    Raises:
        TrustError: T01, T02, T08 or T09.
    """
    valid = {key.keyid: key for key in listed if key.keyid in keys}
    known = {keyid: keys[keyid] for keyid in valid}
    payload, signers = open_envelope(envelope, PAYLOAD_TYPE, known)
    assignment = Assignment.from_bytes(payload, signers[0])
    valid[assignment.keyid].check(assignment.issued_at)
    return assignment
