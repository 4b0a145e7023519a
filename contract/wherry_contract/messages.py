"""Messages between device and host, as frozen values. Specification: SPEC-mqtt.md.

Each payload begins with its schema and encoding, since MQTT 3.1.1 has no content type.
Every upward message of which there are many carries (device, spool, seq), so that getting
it twice, late or with gaps changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .answer import Answer
from .oci import DIGEST
from .when import to_text
from .wire import MESSAGE, SLUG, Fields, compact, parse_json

LIMIT_BYTES: Final = 256 * 1024
SPOOL: Final = r"[0-9a-f]{16}"
_MOST_RANGES: Final = 1024


def open_payload(data: bytes, name: str) -> Fields:
    """The fields of a JSON payload, its schema checked.

    Raises:
        MessageError: G01, G02 or G03.
    """
    fields = Fields(parse_json(data, limit=LIMIT_BYTES, what=name, domain=MESSAGE), name, MESSAGE)
    fields.schema(f"wherry/{name}")
    return fields


def close_payload(name: str, document: Mapping[str, Any], extra: Mapping[str, Any]) -> bytes:
    """A JSON payload with its schema first."""
    return compact({"schema": f"wherry/{name}/1+json"} | dict(document) | dict(extra))


@dataclass(frozen=True)
class Presence:
    """Online or offline; the broker writes the last one for a device that vanishes.

    Attributes:
        session: differs for each start of an agent, so that two agents with one id show.
    """

    device: str
    online: bool
    session: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, data: bytes) -> Presence:
        """Read a payload.

        Raises:
            MessageError: G01, G02 or G03.
        """
        fields = open_payload(data, "presence")
        return cls(
            device=fields.text("device", pattern=SLUG),
            online=fields.flag("online"),
            session=fields.text("session", pattern=SPOOL),
            extra=fields.rest(),
        )

    def to_bytes(self) -> bytes:
        """The payload."""
        document = {"device": self.device, "online": self.online, "session": self.session}
        return close_payload("presence", document, self.extra)


@dataclass(frozen=True)
class State:
    """What a device reports of itself: the reported side of desired and reported.

    Attributes:
        agent: version of the agent.
        runtime: name of the inference runtime.
        runtime_version: its version.
        architecture: as ``aarch64``.
        labels: site, group and the like, from the device's own configuration.
        session: of this start.
        spool: of its outbox.
        phase: an `UpdateState`.
        rollout: the rollout it last heard of.
        sequences: last assignment sequence by key id.
        active: which slot serves, ``a``, ``b`` or "".
        bundle: digest of the bundle that serves; "" for none.
        bundle_name: its name.
        bundle_version: its version.
        trust: what the active slot has proven.
        fallback: whether the fallback rule answers.
        started_at: of this start, Unix seconds.
        reported_at: of this report, Unix seconds.
        commands: last command sequence by key id.
    """

    device: str
    agent: str
    runtime: str
    runtime_version: str
    architecture: str
    labels: Mapping[str, str]
    session: str
    spool: str
    phase: str
    rollout: str
    sequences: Mapping[str, int]
    active: str
    bundle: str
    bundle_name: str
    bundle_version: str
    trust: str
    fallback: bool
    started_at: float
    reported_at: float
    extra: Mapping[str, Any] = field(default_factory=dict)
    commands: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """Read a payload.

        Raises:
            MessageError: G01, G02 or G03.
        """
        fields = open_payload(data, "state")
        labels = fields.mapping("labels", {})
        if not all(isinstance(value, str) for value in labels.values()):
            raise fields.error("labels", "strings by name")
        return cls(
            device=fields.text("device", pattern=SLUG),
            agent=fields.text("agent", limit=64),
            runtime=fields.text("runtime", limit=64),
            runtime_version=fields.text("runtime_version", limit=64),
            architecture=fields.text("architecture", limit=64),
            labels=labels,
            session=fields.text("session", pattern=SPOOL),
            spool=fields.text("spool", pattern=SPOOL),
            phase=fields.text("phase", limit=32),
            rollout=fields.text("rollout", "", limit=63),
            sequences=_by_key(fields, "sequences"),
            active=fields.choice("active", ("", "a", "b"), ""),
            bundle=fields.text("bundle", "", pattern=DIGEST),
            bundle_name=fields.text("bundle_name", "", limit=63),
            bundle_version=fields.text("bundle_version", "", limit=64),
            trust=fields.text("trust", "empty", limit=16),
            fallback=fields.flag("fallback", default=False),
            started_at=fields.moment("started_at"),
            reported_at=fields.moment("reported_at"),
            commands=_by_key(fields, "commands"),
            extra=fields.rest(),
        )

    def to_bytes(self) -> bytes:
        """The payload."""
        document: dict[str, Any] = {
            "device": self.device,
            "phase": self.phase,
            "rollout": self.rollout,
            "bundle": self.bundle,
            "bundle_name": self.bundle_name,
            "bundle_version": self.bundle_version,
            "active": self.active,
            "trust": self.trust,
            "fallback": self.fallback,
            "sequences": dict(self.sequences),
            "agent": self.agent,
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "architecture": self.architecture,
            "labels": dict(self.labels),
            "session": self.session,
            "spool": self.spool,
            "started_at": to_text(self.started_at),
            "reported_at": to_text(self.reported_at),
        }
        if self.commands:
            document["commands"] = dict(self.commands)
        return close_payload("state", document, self.extra)


@dataclass(frozen=True)
class Place:
    """Where an upward message stands: (device, spool, seq) names it for ever.

    Attributes:
        spool: made anew when an outbox begins anew.
        seq: counts up from 1 within the spool, over windows and events alike.
        oldest: the lowest sequence that the device still holds; what is below and never
            arrived was dropped.
    """

    device: str
    spool: str
    seq: int
    oldest: int

    @classmethod
    def from_fields(cls, fields: Fields) -> Place:
        """Read the place."""
        return cls(
            device=fields.text("device", pattern=SLUG),
            spool=fields.text("spool", pattern=SPOOL),
            seq=fields.integer("seq", low=1),
            oldest=fields.integer("oldest", low=1),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "device": self.device,
            "spool": self.spool,
            "seq": self.seq,
            "oldest": self.oldest,
        }


@dataclass(frozen=True)
class Event:
    """One fact from a device.

    Attributes:
        code: a word like ``update.committed``, or a code of the error catalogue.
        text: for people.
        at: Unix seconds by the device's clock.
        severity: ``info``, ``warning`` or ``error``.
        rollout: the rollout it belongs to, if any.
        bundle: the bundle it is about, if any.
        outcome: in the report of an update, how it ended.
        answer: what came of a command, in an event that answers one.
    """

    place: Place
    code: str
    text: str
    at: float
    severity: str = "info"
    rollout: str = ""
    bundle: str = ""
    outcome: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    answer: Answer | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> Event:
        """Read a payload.

        Raises:
            MessageError: G01, G02 or G03.
        """
        fields = open_payload(data, "event")
        answer = fields.mapping("answer", {})
        return cls(
            place=Place.from_fields(fields),
            code=fields.text("code", limit=64),
            text=fields.text("text", "", limit=2000),
            at=fields.moment("at"),
            severity=fields.choice("severity", ("info", "warning", "error"), "info"),
            rollout=fields.text("rollout", "", limit=63),
            bundle=fields.text("bundle", "", pattern=DIGEST),
            outcome=fields.text("outcome", "", limit=16),
            answer=Answer.from_fields(Fields(answer, "event.answer", MESSAGE)) if answer else None,
            extra=fields.rest(),
        )

    def to_bytes(self) -> bytes:
        """The payload."""
        document: dict[str, Any] = {
            "code": self.code,
            "severity": self.severity,
            "text": self.text,
        }
        for name in ("outcome", "rollout", "bundle"):
            if getattr(self, name):
                document[name] = getattr(self, name)
        if self.answer:
            document["answer"] = self.answer.to_dict()
        times = {"at": to_text(self.at)}
        return close_payload("event", document | times | self.place.to_dict(), self.extra)


@dataclass(frozen=True)
class Ack:
    """Which upward messages the ingest has stored, or will never take.

    Attributes:
        stored: inclusive ranges of sequences.
        refused: (sequence, code) of messages that are malformed for good.
    """

    spool: str
    stored: tuple[tuple[int, int], ...] = ()
    refused: tuple[tuple[int, str], ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, data: bytes) -> Ack:
        """Read a payload.

        Raises:
            MessageError: G01, G02 or G03.
        """
        fields = open_payload(data, "ack")
        spool = fields.text("spool", pattern=SPOOL)
        stored = fields.items("stored", [], limit=_MOST_RANGES)
        refused = fields.items("refused", [], limit=_MOST_RANGES)
        if not all(_is_pair(item) and _is_seq(item[1]) and item[0] <= item[1] for item in stored):
            raise fields.error("stored", "pairs of first and last sequence")
        if not all(_is_pair(item) and isinstance(item[1], str) for item in refused):
            raise fields.error("refused", "pairs of sequence and code")
        return cls(
            spool,
            tuple((first, last) for first, last in stored),
            tuple((seq, code) for seq, code in refused),
            fields.rest(),
        )

    def to_bytes(self) -> bytes:
        """The payload."""
        document = {
            "spool": self.spool,
            "stored": [list(item) for item in self.stored],
            "refused": [list(item) for item in self.refused],
        }
        return close_payload("ack", document, self.extra)


def _by_key(fields: Fields, name: str) -> dict[str, int]:
    sequences = fields.mapping(name, {})
    if not all(is_count(value) for value in sequences.values()):
        raise fields.error(name, "integers by key id")
    return sequences


def _is_pair(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and _is_seq(item[0])


def _is_seq(value: object) -> bool:
    return is_count(value) and value != 0


def is_count(value: object) -> bool:
    """Whether every JSON reader holds it exactly, and every database as an integer."""
    return type(value) is int and 0 <= value < 2**53


def ranges(sequences: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Sequences as inclusive ranges, sorted and joined."""
    found: list[tuple[int, int]] = []
    for seq in sorted(set(sequences)):
        if found and seq == found[-1][1] + 1:
            found[-1] = (found[-1][0], seq)
        else:
            found.append((seq, seq))
    return tuple(found)


def wrap_assignment(envelope: bytes) -> bytes:
    """The payload of the assignment topic: a DSSE envelope, named like every other payload."""
    return b'{"schema":"wherry/assignment/1+dsse","envelope":' + envelope + b"}"


def wrap_command(envelope: bytes) -> bytes:
    """The payload of the command topic; likewise."""
    return b'{"schema":"wherry/command/1+dsse","envelope":' + envelope + b"}"


def unwrap_command(data: bytes) -> bytes:
    """The DSSE envelope in a payload of the command topic.

    Raises:
        MessageError: G01, G02 or G03.
    """
    return compact(open_payload(data, "command").mapping("envelope"))


def unwrap_assignment(data: bytes) -> bytes:
    """The DSSE envelope in a payload of the assignment topic.

    Raises:
        MessageError: G01, G02 or G03.
    """
    return compact(open_payload(data, "assignment").mapping("envelope"))
