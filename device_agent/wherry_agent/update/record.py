"""What the agent must remember across a pulled plug, as one frozen value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from wherry_contract.assignment import Assignment
from wherry_contract.errors import WherryError
from wherry_contract.states import SlotTrust
from wherry_contract.wire import Fields

SLOTS = ("a", "b")
T = TypeVar("T")


@dataclass(frozen=True)
class Slot:
    """A place for one bundle, and what that bundle has proven."""

    digest: str = ""
    size: int = 0
    name: str = ""
    version: str = ""
    trust: SlotTrust = SlotTrust.EMPTY

    @classmethod
    def from_fields(cls, fields: Fields) -> Slot:
        """Read a slot."""
        trust = fields.text("trust", "empty")
        known = trust in set(SlotTrust)
        return cls(
            digest=fields.text("digest", ""),
            size=fields.integer("size", 0),
            name=fields.text("name", ""),
            version=fields.text("version", ""),
            trust=SlotTrust(trust) if known else SlotTrust.UNPROVEN,
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "digest": self.digest,
            "size": self.size,
            "name": self.name,
            "version": self.version,
            "trust": str(self.trust),
        }


@dataclass(frozen=True)
class Update:
    """An update under way.

    Attributes:
        assignment: what was ordered.
        slot: where it goes, once that is decided.
        transitions: steps taken, to stop what moves in circles.
        retries: of the present step.
        boots: starts of the agent since the switch, to stop a crash loop.
        fetched: bytes that came over the network for it.
        fetch_seconds: that they took.
        undecided: whether an undecided soak was reported.
        shadow_rows: that its shadow had scored when that was last noted.
        shadow_seconds: that it had scored for.
        outcome: how it ended, an `Outcome`, or "".
        code: why, if it did not end well.
        detail: the same in words.
    """

    assignment: Assignment
    slot: str = ""
    transitions: int = 0
    retries: int = 0
    boots: int = 0
    fetched: int = 0
    fetch_seconds: float = 0.0
    undecided: bool = False
    shadow_rows: int = 0
    shadow_seconds: float = 0.0
    outcome: str = ""
    code: str = ""
    detail: str = ""

    @classmethod
    def from_fields(cls, fields: Fields) -> Update:
        """Read an update."""
        return cls(
            assignment=_read_assignment(fields, "assignment"),
            slot=fields.choice("slot", ("", *SLOTS), ""),
            transitions=fields.integer("transitions", 0),
            retries=fields.integer("retries", 0),
            boots=fields.integer("boots", 0),
            fetched=fields.integer("fetched", 0),
            fetch_seconds=fields.number("fetch_seconds", 0.0),
            undecided=fields.flag("undecided", default=False),
            shadow_rows=fields.integer("shadow_rows", 0),
            shadow_seconds=fields.number("shadow_seconds", 0.0),
            outcome=fields.text("outcome", ""),
            code=fields.text("code", ""),
            detail=fields.text("detail", ""),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "assignment": _write_assignment(self.assignment),
            "slot": self.slot,
            "transitions": self.transitions,
            "retries": self.retries,
            "boots": self.boots,
            "fetched": self.fetched,
            "fetch_seconds": self.fetch_seconds,
            "undecided": self.undecided,
            "shadow_rows": self.shadow_rows,
            "shadow_seconds": self.shadow_seconds,
            "outcome": self.outcome,
            "code": self.code,
            "detail": self.detail,
        }


def _write_assignment(assignment: Assignment) -> dict[str, Any]:
    return {"payload": assignment.to_bytes().decode(), "keyid": assignment.keyid}


def _read_assignment(fields: Fields, name: str) -> Assignment:
    stored = fields.table(name)
    payload = stored.text("payload", limit=64 * 1024)
    return Assignment.from_bytes(payload.encode(), stored.text("keyid"))


def _known(read: Callable[[], T]) -> T | None:
    """What was under way, or nothing if there was nothing or a newer agent wrote it.

    The slots must not be lost over it: an update that cannot be read is rolled back.
    """
    try:
        return read()
    except WherryError:
        return None


def _read_denied(fields: Fields) -> tuple[tuple[str, str], ...]:
    items = fields.items("denied", [])
    if not all(isinstance(item, list) and [*map(type, item)] == [str, str] for item in items):
        raise fields.error("denied", "pairs of rollout and digest")
    return tuple((rollout, digest) for rollout, digest in items)


@dataclass(frozen=True)
class DeviceRecord:
    """The whole memory of an agent.

    Attributes:
        state: the `UpdateState` by its stable name; an unknown one is kept as it stands.
        active: the slot that serves, or "".
        slots: by ``a`` and ``b``.
        sequences: last accepted assignment sequence by key id.
        rollout: the rollout last heard of.
        update: what is under way.
        pending: a newer order that waits for the present one to unwind.
        denied: (rollout, digest) of bundles that failed here.
        runtime: runtime and version that the active slot was last probed with.
    """

    state: str = "idle"
    active: str = ""
    slots: Mapping[str, Slot] = field(default_factory=lambda: {"a": Slot(), "b": Slot()})
    sequences: Mapping[str, int] = field(default_factory=dict)
    rollout: str = ""
    update: Update | None = None
    pending: Assignment | None = None
    denied: tuple[tuple[str, str], ...] = ()
    runtime: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> DeviceRecord:
        """Read a saved record.

        Raises:
            ManifestError: it is whole but not of our making.
        """
        fields = Fields(document, "state")
        slots = fields.table("slots", {})
        update, pending = fields.mapping("update", {}), fields.mapping("pending", {})
        sequences = fields.mapping("sequences", {})
        if not all(type(value) is int for value in sequences.values()):
            raise fields.error("sequences", "integers by key id")
        return cls(
            state=fields.text("state", "idle"),
            active=fields.choice("active", ("", *SLOTS), ""),
            slots={name: Slot.from_fields(slots.table(name, {})) for name in SLOTS},
            sequences=sequences,
            rollout=fields.text("rollout", ""),
            update=_known(lambda: Update.from_fields(Fields(update, "update"))),
            pending=_known(lambda: _read_assignment(Fields({"a": pending}, "pending"), "a")),
            denied=_read_denied(fields),
            runtime=fields.text("runtime", ""),
            extra=fields.rest(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "state": self.state,
            "active": self.active,
            "slots": {name: slot.to_dict() for name, slot in self.slots.items()},
            "sequences": dict(self.sequences),
            "rollout": self.rollout,
            "update": self.update.to_dict() if self.update else {},
            "pending": _write_assignment(self.pending) if self.pending else {},
            "denied": [list(item) for item in self.denied],
            "runtime": self.runtime,
        } | dict(self.extra)

    @property
    def serving(self) -> Slot:
        """The active slot; an empty one if none is active."""
        return self.slots[self.active] if self.active else Slot()

    def with_slot(self, name: str, slot: Slot) -> DeviceRecord:
        """The record with one slot replaced."""
        return replace(self, slots=dict(self.slots) | {name: slot})

    def with_update(self, **changes: Any) -> DeviceRecord:
        """The record with fields of its update replaced."""
        assert self.update is not None  # noqa: S101 - every caller is in a state that has one
        return replace(self, update=replace(self.update, **changes))

    @property
    def digests(self) -> set[str]:
        """Bundles that must be kept: both slots, what is under way and what waits."""
        found = {slot.digest for slot in self.slots.values() if slot.digest}
        if self.update and self.update.assignment.digest and not self.update.outcome:
            found.add(self.update.assignment.digest)
        if self.pending and self.pending.digest:  # perhaps the same: what has come of it is used
            found.add(self.pending.digest)
        return found
