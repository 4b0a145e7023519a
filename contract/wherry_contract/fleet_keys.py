"""`fleet/keys.json`: who may order devices and tell them the time, and from when to when.

A top-level TUF target, so the offline keys sign it: an online key is exchanged or taken
back by publishing this file anew, and a stolen one is worth nothing outside its validity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .assignment import Assignment, open_order
from .command import Command, open_command
from .signature import AssignmentKey, PublicKey, read_keys
from .told_time import ToldTime, open_time
from .wire import TRUST, Fields, canonical, parse_json

TARGET: Final = "fleet/keys.json"  # its path among the TUF targets
SCHEMA: Final = "wherry/fleet-keys"
LIMIT_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class FleetKeys:
    """The online keys of a fleet.

    Attributes:
        keys: every key by its id.
        assignment_keys: who may sign assignments and commands.
        time_keys: who may say what time it is.
    """

    keys: Mapping[str, PublicKey]
    assignment_keys: tuple[AssignmentKey, ...]
    time_keys: tuple[AssignmentKey, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, data: bytes) -> FleetKeys:
        """Read the file.

        Raises:
            TrustError: T08 from the future, T09 malformed.
        """
        document = parse_json(data, limit=LIMIT_BYTES, what=TARGET, domain=TRUST)
        fields = Fields(document, TARGET, TRUST)
        fields.schema(SCHEMA)
        return cls(
            keys=read_keys(fields),
            assignment_keys=_read_listed(fields, "assignment_keys"),
            time_keys=_read_listed(fields, "time_keys"),
            extra=fields.rest(),
        )

    def to_bytes(self) -> bytes:
        """The canonical JSON form."""
        return canonical(
            {
                "schema": f"{SCHEMA}/1",
                "keys": [key.to_dict() for key in self.keys.values()],
                "assignment_keys": [key.to_dict() for key in self.assignment_keys],
                "time_keys": [key.to_dict() for key in self.time_keys],
            }
            | dict(self.extra)
        )

    def assignment(self, envelope: bytes) -> Assignment:
        """The order in an envelope; for whom, whether new and until when is the device's to judge.

        Raises:
            TrustError: T01, T02, T08 or T09.
        """
        return open_order(envelope, self.keys, self.assignment_keys)

    def command(self, envelope: bytes) -> Command:
        """The command in an envelope; likewise.

        Raises:
            TrustError: T01, T02, T08 or T09.
        """
        return open_command(envelope, self.keys, self.assignment_keys)

    def time(self, envelope: bytes, nonce: str) -> ToldTime:
        """The time in an envelope that answers our nonce.

        Raises:
            TrustError: T01 to T03, T08 or T09.
        """
        return open_time(envelope, nonce, self.keys, self.time_keys)


def _read_listed(fields: Fields, name: str) -> tuple[AssignmentKey, ...]:
    return tuple(AssignmentKey.from_fields(item) for item in fields.tables(name, [], limit=64))
