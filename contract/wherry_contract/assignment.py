"""One device's order to run a bundle: a signed assignment, retained on its own topic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .errors import TrustError
from .manifest import SLUG
from .oci import DIGEST
from .signature import PublicKey, TrustRoot, check_understood, open_envelope
from .when import to_seconds, to_text
from .wire import TRUST, Fields, canonical, parse_json

PAYLOAD_TYPE: Final = "application/vnd.wherry.assignment.v1+json"
SCHEMA: Final = "wherry/assignment"
LIMIT_BYTES: Final = 16 * 1024
_KNOWN: Final = ("mode", "soak_rows", "soak_seconds")


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
        mode: ``live``.
        soak_rows: replaces the bundle's own soak if not negative.
        soak_seconds: likewise.
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
        return cls(
            device=fields.text("device", pattern=SLUG),
            rollout=fields.text("rollout", pattern=SLUG),
            family=fields.text("family", pattern=SLUG),
            digest=fields.text("digest", "", pattern=DIGEST),
            size=fields.integer("size", 0, high=64 * 1024),
            sequence=fields.integer("sequence", low=1),
            issued_at=_moment(fields, "issued_at"),
            expires=_moment(fields, "expires"),
            mode=fields.text("mode", "live", limit=16),
            soak_rows=fields.integer("soak_rows", -1, low=-1),
            soak_seconds=fields.integer("soak_seconds", -1, low=-1),
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
            "must_understand": ["mode"],
        }
        for name in ("soak_rows", "soak_seconds"):
            if getattr(self, name) >= 0:
                document[name] = getattr(self, name)
        return canonical(document | dict(self.extra))


def _moment(fields: Fields, name: str) -> float:
    try:
        return to_seconds(fields.text(name, limit=40))
    except ValueError as error:
        raise fields.error(name, "a time like 2026-11-24T07:54:29Z") from error


def open_assignment(envelope: bytes, root: TrustRoot) -> Assignment:
    """Verify an assignment's signature and its key's own validity.

    Who it is for, whether it is new and whether it has expired is the device's to judge:
    that needs its state and its clock.

    Raises:
        TrustError: T01, T02, T08 or T09.
    """
    valid = {key.keyid: key for key in root.assignment_keys}
    keys: dict[str, PublicKey] = {keyid: root.keys[keyid] for keyid in valid if keyid in root.keys}
    payload, signers = open_envelope(envelope, PAYLOAD_TYPE, keys)
    assignment = Assignment.from_bytes(payload, signers[0])
    key = valid[assignment.keyid]
    if not key.not_before <= assignment.issued_at <= key.not_after:
        raise TrustError("T02", f"key {key.keyid[:12]} was not valid when it was issued")
    return assignment
