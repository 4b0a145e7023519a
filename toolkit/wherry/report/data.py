"""What the report is made of: plain values, so that it can be kept and rendered elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from wherry.documents import Moment, from_document, to_document
from wherry.monitor import FleetView
from wherry_contract.errors import SetupError
from wherry_contract.wire import Domain, parse_json

SCHEMA: Final = "wherry/report-data/1"
LIMIT_BYTES: Final = 64 * 2**20
_DOMAIN: Final = Domain(SetupError, "H02", "H02", "H02", "H02")
_CURE: Final = "make the file with `wherry report --json`"


@dataclass(frozen=True)
class DeviceLine:
    """A device and what it last said of itself.

    Attributes:
        seen_at: when anything last came from it; 0 for never.
        lost: messages that it dropped before they arrived.
        runtime: name and version.
        behind: in what it is older than the host knows of, in words.
    """

    device: str
    family: str
    labels: Mapping[str, str]
    online: bool
    seen_at: Moment
    phase: str
    bundle: str
    bundle_name: str
    bundle_version: str
    trust: str
    fallback: bool
    agent: str
    lost: int
    runtime: str = ""
    behind: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExposureLine:
    """A device's part in a rollout."""

    device: str
    wave: int
    outcome: str
    code: str
    detail: str
    offered_at: Moment
    settled_at: Moment
    reverted_at: Moment


@dataclass(frozen=True)
class DecisionLine:
    """A step of a rollout, and why."""

    at: Moment
    before: str
    after: str
    wave: int
    reason: str


@dataclass(frozen=True)
class RolloutLine:
    """A rollout with its history."""

    id: str
    name: str
    version: str
    bundle: str
    state: str
    waves: int
    created_at: Moment
    changed_at: Moment
    stopped: str
    devices: tuple[ExposureLine, ...]
    decisions: tuple[DecisionLine, ...]


@dataclass(frozen=True)
class EventLine:
    """One fact from a device, or a message of its that was not taken."""

    at: Moment
    device: str
    severity: str
    code: str
    text: str


@dataclass(frozen=True)
class BundleLine:
    """A bundle in the depot.

    Attributes:
        boards: that it was run on, and what came of it, in words.
    """

    digest: str
    name: str
    version: str
    boards: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportData:
    """Everything that the report shows.

    Attributes:
        made_at: by the server's clock.
        select: labels that its devices have; empty for all.
        events: the latest, by time.
        counters: what the server counted since it was set up.
    """

    made_at: Moment
    select: Mapping[str, str]
    view: FleetView
    bundles: tuple[BundleLine, ...]
    devices: tuple[DeviceLine, ...]
    rollouts: tuple[RolloutLine, ...]
    events: tuple[EventLine, ...]
    counters: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"schema": SCHEMA} | to_document(self)


def read_data(data: bytes) -> ReportData:
    """Read the JSON form.

    Raises:
        SetupError: H02, this is no such file.
    """
    try:
        document = parse_json(data, limit=LIMIT_BYTES, what="report data", domain=_DOMAIN)
        return _from_document(document)
    except SetupError as error:
        raise SetupError("H02", error.detail, cure=_CURE) from None
    except ValueError as error:
        raise SetupError("H02", str(error), cure=_CURE) from error


def _from_document(document: Mapping[str, Any]) -> ReportData:
    if document.get("schema") != SCHEMA:
        raise ValueError(f"report data.schema should be {SCHEMA}")
    return from_document(ReportData, document, "report data")
