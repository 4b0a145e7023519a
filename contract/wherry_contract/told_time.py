"""The time, told: a device sends a number that it drew, and gets it back signed with the time.

It needs no clock, no time server and no trust in the network: an answer to another number,
or one given before, is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .errors import TrustError
from .signature import AssignmentKey, PublicKey, check_understood, open_envelope
from .when import to_text
from .wire import TRUST, Fields, canonical, parse_json

PAYLOAD_TYPE: Final = "application/vnd.wherry.time.v1+json"
SCHEMA: Final = "wherry/time"
NONCE_SCHEMA: Final = "wherry/nonce"
NONCE: Final = r"[0-9a-f]{32}"
LIMIT_BYTES: Final = 4 * 1024


@dataclass(frozen=True)
class ToldTime:
    """What time it was when somebody was asked.

    Attributes:
        nonce: the number that was sent, 32 hexadecimal digits.
        at: Unix seconds.
        keyid: who says so; filled in by `open_time`.
    """

    nonce: str
    at: float
    keyid: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, data: bytes, keyid: str = "") -> ToldTime:
        """Read the payload of a verified envelope.

        Raises:
            TrustError: T08 from the future, T09 malformed.
        """
        fields = Fields(
            parse_json(data, limit=LIMIT_BYTES, what="time", domain=TRUST), "time", TRUST
        )
        fields.schema(SCHEMA)
        check_understood(fields, ())
        at = fields.moment("at")
        return cls(fields.text("nonce", pattern=NONCE), at, keyid, fields.rest())

    def to_bytes(self) -> bytes:
        """The payload to be signed."""
        document = {"schema": f"{SCHEMA}/1", "nonce": self.nonce, "at": to_text(self.at)}
        return canonical(document | dict(self.extra))


def write_nonce(nonce: str) -> bytes:
    """The question: the body that a device posts."""
    return canonical({"schema": f"{NONCE_SCHEMA}/1", "nonce": nonce})


def read_nonce(data: bytes) -> str:
    """The number in a question.

    Raises:
        TrustError: T08 from the future, T09 malformed.
    """
    fields = Fields(parse_json(data, limit=LIMIT_BYTES, what="nonce", domain=TRUST), "nonce", TRUST)
    fields.schema(NONCE_SCHEMA)
    return fields.text("nonce", pattern=NONCE)


def open_time(
    envelope: bytes, nonce: str, keys: Mapping[str, PublicKey], listed: Iterable[AssignmentKey]
) -> ToldTime:
    """Verify an answer.

    Raises:
        TrustError: T01, T02 also for a time outside the key's validity, T03 it answers
            another question, T08 or T09.
    """
    valid = {key.keyid: key for key in listed if key.keyid in keys}
    known = {keyid: keys[keyid] for keyid in valid}
    payload, signers = open_envelope(envelope, PAYLOAD_TYPE, known)
    told = ToldTime.from_bytes(payload, signers[0])
    if told.nonce != nonce:
        raise TrustError("T03", "it answers another question")
    valid[told.keyid].check(told.at)
    return told
