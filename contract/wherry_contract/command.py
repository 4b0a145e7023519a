"""One device's command: a signed request to tell or to try something, obeyed once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .signature import KEY_ID, AssignmentKey, PublicKey, check_understood, open_envelope
from .when import to_text
from .wire import SLUG, TRUST, Fields, canonical, parse_json

PAYLOAD_TYPE: Final = "application/vnd.wherry.command.v1+json"
SCHEMA: Final = "wherry/command"
LIMIT_BYTES: Final = 16 * 1024
ASKS: Final = ("logs", "self-test", "snapshot")
MOST_LINES: Final = 1000
_KNOWN: Final = ("ask", "device_key")


@dataclass(frozen=True)
class Command:
    """What one device is asked to do, once.

    Attributes:
        device: the device's id; nobody else obeys.
        ask: ``logs``, ``self-test`` or ``snapshot``; another is refused by who is asked.
        sequence: grows with every command that a key signs for a device.
        issued_at: Unix seconds.
        expires: Unix seconds; after it the command is void.
        device_key: as an assignment's.
        lines: of ``logs``, how many of the last are wanted; 0 for as many as an answer holds.
        keyid: which key signed it; filled in by `open_command`.
    """

    device: str
    ask: str
    sequence: int
    issued_at: float
    expires: float
    device_key: str = ""
    lines: int = 0
    keyid: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, data: bytes, keyid: str = "") -> Command:
        """Read the payload of a verified envelope.

        Raises:
            TrustError: T08 from the future, T09 malformed.
        """
        document = parse_json(data, limit=LIMIT_BYTES, what="command", domain=TRUST)
        fields = Fields(document, "command", TRUST)
        fields.schema(SCHEMA)
        check_understood(fields, _KNOWN)
        return cls(
            device=fields.text("device", pattern=SLUG),
            ask=fields.text("ask", pattern=SLUG),
            sequence=fields.integer("sequence", low=1),
            issued_at=fields.moment("issued_at"),
            expires=fields.moment("expires"),
            device_key=fields.text("device_key", "", pattern=KEY_ID),
            lines=fields.integer("lines", 0, high=MOST_LINES),
            keyid=keyid,
            extra=fields.rest(),
        )

    def to_bytes(self) -> bytes:
        """The payload to be signed."""
        binding = {"device_key": self.device_key} if self.device_key else {}
        return canonical(
            {
                "schema": f"{SCHEMA}/1",
                "device": self.device,
                "ask": self.ask,
                "sequence": self.sequence,
                "issued_at": to_text(self.issued_at),
                "expires": to_text(self.expires),
                "must_understand": ["ask", *binding],
            }
            | binding
            | ({"lines": self.lines} if self.lines else {})
            | dict(self.extra)
        )


def open_command(
    envelope: bytes, keys: Mapping[str, PublicKey], listed: Iterable[AssignmentKey]
) -> Command:
    """Verify a command against keys and the validity that each is listed with.

    Raises:
        TrustError: T01, T02, T08 or T09.
    """
    valid = {key.keyid: key for key in listed if key.keyid in keys}
    known = {keyid: keys[keyid] for keyid in valid}
    payload, signers = open_envelope(envelope, PAYLOAD_TYPE, known)
    command = Command.from_bytes(payload, signers[0])
    valid[command.keyid].check(command.issued_at)
    return command
