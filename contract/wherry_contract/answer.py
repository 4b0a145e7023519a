"""What a device answers to a command: a part of an event, so that it is stored exactly once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .signature import KEY_ID
from .wire import SLUG, Fields, compact

DOCUMENT_LIMIT_BYTES: Final = 48 * 1024
OUTCOMES: Final = ("done", "refused", "failed")


@dataclass(frozen=True)
class Answer:
    """What came of a command; (device, keyid, sequence) names the command.

    Attributes:
        keyid: which key signed the command.
        sequence: of the command.
        ask: what it asked.
        outcome: ``done``, ``refused`` (the event's code says why) or ``failed`` (likewise).
        document: what was asked for, at most `DOCUMENT_LIMIT_BYTES` as JSON; empty if not done.
    """

    keyid: str
    sequence: int
    ask: str
    outcome: str
    document: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> Answer:
        """Read an answer.

        Raises:
            MessageError: G01.
        """
        document = fields.mapping("document", {})
        if size_of(document) > DOCUMENT_LIMIT_BYTES:
            raise fields.error("document", f"at most {DOCUMENT_LIMIT_BYTES} bytes")
        return cls(
            keyid=fields.text("keyid", pattern=KEY_ID),
            sequence=fields.integer("sequence", low=1),
            ask=fields.text("ask", pattern=SLUG),
            outcome=fields.choice("outcome", OUTCOMES),
            document=document,
            extra=fields.rest(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "keyid": self.keyid,
            "sequence": self.sequence,
            "ask": self.ask,
            "outcome": self.outcome,
            "document": dict(self.document),
        } | dict(self.extra)


def size_of(document: Mapping[str, Any]) -> int:
    """Bytes of a document as it stands in a message."""
    return len(compact(document))
