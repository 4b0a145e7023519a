"""Messages between device and host, as frozen values. Specification: SPEC-mqtt.md.

Each payload begins with its schema and encoding, since MQTT 3.1.1 has no content type.
Every upward message of which there are many carries (device, spool, seq), so that getting
it twice, late or with gaps changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .features import NAME
from .histograms import LATENCY_BINS, SCORE_BINS
from .manifest import MAX_CLASSES
from .oci import DIGEST
from .profile import FeatureCounts
from .when import to_text
from .wire import MESSAGE, SLUG, Fields, compact, parse_json

LIMIT_BYTES: Final = 256 * 1024
SPOOL: Final = r"[0-9a-f]{16}"
_MOST_RANGES: Final = 1024


def _open(data: bytes, name: str) -> Fields:
    fields = Fields(parse_json(data, limit=LIMIT_BYTES, what=name, domain=MESSAGE), name, MESSAGE)
    fields.schema(f"wherry/{name}")
    return fields


def _close(name: str, document: Mapping[str, Any], extra: Mapping[str, Any]) -> bytes:
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
        fields = _open(data, "presence")
        return cls(
            device=fields.text("device", pattern=SLUG),
            online=fields.flag("online"),
            session=fields.text("session", pattern=SPOOL),
            extra=fields.rest(),
        )

    def to_bytes(self) -> bytes:
        """The payload."""
        document = {"device": self.device, "online": self.online, "session": self.session}
        return _close("presence", document, self.extra)


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

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """Read a payload.

        Raises:
            MessageError: G01, G02 or G03.
        """
        fields = _open(data, "state")
        labels, sequences = fields.mapping("labels", {}), fields.mapping("sequences", {})
        if not all(isinstance(value, str) for value in labels.values()):
            raise fields.error("labels", "strings by name")
        if not all(_is_count(value) for value in sequences.values()):
            raise fields.error("sequences", "integers by key id")
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
            sequences=sequences,
            active=fields.choice("active", ("", "a", "b"), ""),
            bundle=fields.text("bundle", "", pattern=DIGEST),
            bundle_name=fields.text("bundle_name", "", limit=63),
            bundle_version=fields.text("bundle_version", "", limit=64),
            trust=fields.text("trust", "empty", limit=16),
            fallback=fields.flag("fallback", default=False),
            started_at=fields.moment("started_at"),
            reported_at=fields.moment("reported_at"),
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
        return _close("state", document, self.extra)


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

    @classmethod
    def from_bytes(cls, data: bytes) -> Event:
        """Read a payload.

        Raises:
            MessageError: G01, G02 or G03.
        """
        fields = _open(data, "event")
        return cls(
            place=Place.from_fields(fields),
            code=fields.text("code", limit=64),
            text=fields.text("text", "", limit=2000),
            at=fields.moment("at"),
            severity=fields.choice("severity", ("info", "warning", "error"), "info"),
            rollout=fields.text("rollout", "", limit=63),
            bundle=fields.text("bundle", "", pattern=DIGEST),
            outcome=fields.text("outcome", "", limit=16),
            extra=fields.rest(),
        )

    def to_bytes(self) -> bytes:
        """The payload."""
        document = {"code": self.code, "severity": self.severity, "text": self.text}
        for name in ("outcome", "rollout", "bundle"):
            if getattr(self, name):
                document[name] = getattr(self, name)
        times = {"at": to_text(self.at)}
        return _close("event", document | times | self.place.to_dict(), self.extra)


@dataclass(frozen=True)
class Window:
    """One drift-and-telemetry window: integer counts and nothing else of what was scored.

    Attributes:
        bundle: the model that scored; windows are cut when it changes.
        edges: the edges that were counted against; only windows that share it add up.
        opened: first moment, Unix seconds (of the payments, if the application says when).
        closed: last moment.
        rows: rows scored, by model or fallback.
        flagged: rows at or above the threshold; of classes, rows that were decided.
        fallback: rows that the fallback rule answered.
        errors: refused or failed rows by error code; they are not among `rows`.
        features: counts by feature name.
        scores: 64 bins of what the model scored (`Output.bins`).
        latency: 40 bins of the time from request to answer: one count for each answered
            request, however many rows it had, so they need not add up to `rows`.
        reason: what closed it: ``rows``, ``time``, ``switch`` or ``stop``.
        classes: of a model that decides between classes, how often it decided each, in the
            manifest's order, and behind them how often none; empty for other models.
    """

    place: Place
    bundle: str
    edges: str
    opened: float
    closed: float
    rows: int
    flagged: int
    fallback: int
    errors: Mapping[str, int]
    features: Mapping[str, FeatureCounts]
    scores: tuple[int, ...]
    latency: tuple[int, ...]
    reason: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[int, ...] = ()

    @classmethod
    def from_bytes(cls, data: bytes) -> Window:
        """Read a payload.

        Raises:
            MessageError: G01, G02 or G03; G01 also if the counts do not add up.
        """
        fields = _open(data, "window")
        features, errors = fields.table("features"), fields.mapping("errors", {})
        if not all(_is_count(value) for value in errors.values()):
            raise fields.error("errors", "counts by code")
        window = cls(
            place=Place.from_fields(fields),
            bundle=fields.text("bundle", "", pattern=DIGEST),
            edges=fields.text("edges", pattern=DIGEST),
            opened=fields.moment("opened"),
            closed=fields.moment("closed"),
            rows=fields.integer("rows"),
            flagged=fields.integer("flagged", 0),
            fallback=fields.integer("fallback", 0),
            errors=errors,
            features={
                name: FeatureCounts.from_fields(features.table(name))
                for name in list(features.rest())
            },
            scores=fields.counts("scores", limit=SCORE_BINS),
            latency=fields.counts("latency", limit=LATENCY_BINS),
            reason=fields.choice("reason", ("rows", "time", "switch", "stop")),
            classes=fields.counts("classes", [], limit=MAX_CLASSES + 1),
            extra=fields.rest(),
        )
        window._check(fields)
        return window

    def _check(self, fields: Fields) -> None:
        if len(self.scores) != SCORE_BINS or len(self.latency) != LATENCY_BINS:
            raise fields.error("scores", f"{SCORE_BINS} bins, and latency {LATENCY_BINS}")
        if any(counts.rows != self.rows for counts in self.features.values()):
            raise fields.error("features", "counts that add up to rows")
        if sum(self.scores) + self.fallback != self.rows or self.flagged > self.rows:
            raise fields.error("scores", "counts that add up to rows")
        if self.classes and sum(self.classes) != sum(self.scores):
            raise fields.error("classes", "counts that add up to those of scores")
        if not all(re.fullmatch(NAME, name) for name in (*self.features, *self.errors)):
            raise fields.error("features", f"by names like {NAME}, and errors too")
        if self.closed < self.opened:
            raise fields.error("closed", "not before opened")

    def to_bytes(self) -> bytes:
        """The payload."""
        document = {
            "bundle": self.bundle,
            "edges": self.edges,
            "opened": to_text(self.opened),
            "closed": to_text(self.closed),
            "rows": self.rows,
            "flagged": self.flagged,
            "fallback": self.fallback,
            "errors": dict(self.errors),
            "reason": self.reason,
            "features": {name: counts.to_dict() for name, counts in self.features.items()},
            "scores": list(self.scores),
            "latency": list(self.latency),
        }
        if self.classes:
            document["classes"] = list(self.classes)
        return _close("window", self.place.to_dict() | document, self.extra)


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
        fields = _open(data, "ack")
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
        return _close("ack", document, self.extra)


def _is_pair(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and _is_seq(item[0])


def _is_seq(value: object) -> bool:
    return _is_count(value) and value != 0


def _is_count(value: object) -> bool:
    # what every JSON reader holds exactly, and every database as an integer
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
    return compact(_open(data, "command").mapping("envelope"))


def unwrap_assignment(data: bytes) -> bytes:
    """The DSSE envelope in a payload of the assignment topic.

    Raises:
        MessageError: G01, G02 or G03.
    """
    return compact(_open(data, "assignment").mapping("envelope"))
