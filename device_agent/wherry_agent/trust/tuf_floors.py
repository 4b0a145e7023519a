"""Floors: what a device has seen once and never goes below again, kept apart from any cache.

A version counts only while the keys that may sign it are the same. That is TUF's way out
after a stolen online key has run ahead: new keys, signed by root, start anew (TUF
specification 5.3.11). A release counter's floor binds for ever: only threshold-signed
metadata raises it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from wherry_contract.errors import TrustError
from wherry_contract.wire import TRUST, Fields

SCHEMA: Final = "wherry/trust-floors"
_MOST_ROLES: Final = 4096


@dataclass(frozen=True)
class Floor:
    """A least value, and a mark of the keys under which it was seen."""

    least: float
    keys: str

    @classmethod
    def from_fields(cls, fields: Fields) -> Floor:
        """Read a floor."""
        return cls(fields.number("least", 0.0), fields.text("keys", ""))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"least": self.least, "keys": self.keys}


NOTHING: Final = Floor(0, "")


@dataclass(frozen=True)
class Floors:
    """Everything that a device does not go below.

    Attributes:
        versions: of metadata, by role.
        counters: least release counter, by family.
        signed: Unix seconds at which the newest timestamp was signed.
        told: Unix seconds that a time key told last.
        fleet_keys: digest of the `fleet/keys.json` last verified, or "".
    """

    versions: Mapping[str, Floor] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    signed: Floor = NOTHING
    told: Floor = NOTHING
    fleet_keys: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Floors:
        """Read saved floors.

        Raises:
            TrustError: T08 or T09.
        """
        fields = Fields(document, "floors", TRUST)
        fields.schema(SCHEMA)
        versions = fields.mapping("versions", {})
        by_role = Fields(versions, "floors.versions", TRUST)
        counters = fields.mapping("counters", {})
        by_family = Fields(counters, "floors.counters", TRUST)
        return cls(
            versions={role: Floor.from_fields(by_role.table(role)) for role in versions},
            counters={family: by_family.integer(family) for family in counters},
            signed=Floor.from_fields(fields.table("signed", {})),
            told=Floor.from_fields(fields.table("told", {})),
            fleet_keys=fields.text("fleet_keys", ""),
            extra=fields.rest(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "schema": f"{SCHEMA}/1",
            "versions": {role: floor.to_dict() for role, floor in self.versions.items()},
            "counters": dict(self.counters),
            "signed": self.signed.to_dict(),
            "told": self.told.to_dict(),
            "fleet_keys": self.fleet_keys,
        } | dict(self.extra)

    @property
    def clock(self) -> float:
        """The least that the time can be, Unix seconds."""
        return max(self.signed.least, self.told.least)

    def check(self, role: str, version: int, keys: str) -> None:
        """Refuse metadata older than what was seen under the same keys.

        Raises:
            TrustError: T13.
        """
        floor = self.versions.get(role, NOTHING)
        if floor.keys == keys and version < floor.least:
            raise TrustError(
                "T13", f"{role} {version} is older than {floor.least:.0f}, seen before"
            )

    def check_all(self, listed: Mapping[str, int], keys: str, apart: Iterable[str]) -> None:
        """Refuse a snapshot that lists a role in an older version, or no more.

        Args:
            listed: versions by role.
            keys: the mark of the snapshot's keys.
            apart: roles with floors that no snapshot lists.

        Raises:
            TrustError: T13.
        """
        for role, floor in self.versions.items():
            if role not in apart and floor.keys == keys:
                if role not in listed:
                    raise TrustError("T13", f"{role} was taken out of the snapshot")
                self.check(role, listed[role], keys)

    def seen(self, versions: Mapping[str, int], keys: str) -> Floors:
        """The floors after these versions were verified."""
        found = dict(self.versions)
        for role, version in versions.items():
            floor = found.get(role, NOTHING)
            least = max(floor.least, version) if floor.keys == keys else version
            found[role] = Floor(least, keys)
        return replace(self, versions=found)

    def at_least(self, family: str, counter: int) -> Floors:
        """The floors after signed metadata has said a least release counter."""
        floor = max(counter, self.counters.get(family, 0))
        return replace(self, counters=dict(self.counters) | {family: floor})

    def signed_at(self, moment: float, keys: str) -> Floors:
        """The floors after a timestamp that was signed then."""
        same = self.signed.keys == keys
        return replace(self, signed=Floor(max(self.signed.least * same, moment), keys))

    def told_at(self, moment: float, keyid: str) -> Floors:
        """The floors after a time key has told the time."""
        same = self.told.keys == keyid
        return replace(self, told=Floor(max(self.told.least * same, moment), keyid))

    def without_teller(self, keyids: Iterable[str]) -> Floors:
        """The floors without a time told by a key that is listed no more."""
        return self if self.told.keys in {"", *keyids} else replace(self, told=NOTHING)
