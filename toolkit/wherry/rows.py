"""What the store gives back: frozen rows that know nothing of SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wherry_contract.messages import Event, State
from wherry_contract.window import Window


@dataclass(frozen=True)
class StoredWindow:
    """A window as it was stored.

    Attributes:
        device: who counted it.
        labels: the device's labels, as it last reported them.
        received_at: by the server's clock, Unix seconds.
        window: the message.
    """

    device: str
    labels: Mapping[str, str]
    received_at: float
    window: Window


@dataclass(frozen=True)
class StoredEvent:
    """An event as it was stored; `received_at` is the server's clock, Unix seconds."""

    device: str
    received_at: float
    event: Event


@dataclass(frozen=True)
class DeviceRow:
    """One enrolled device, and what it last said of itself.

    Attributes:
        labels: as reported; before the first report, as enrolled.
        enrolled_at: Unix seconds.
        online: whether the broker holds its connection.
        session: of the connection that `online` is about.
        seen_at: when anything last came from it, by the server's clock; 0 for never.
        state: its last report; nothing before the first.
    """

    device: str
    family: str
    labels: Mapping[str, str]
    enrolled_at: float
    online: bool = False
    session: str = ""
    seen_at: float = 0.0
    state: State | None = None


@dataclass(frozen=True)
class BundleRow:
    """One bundle in the depot.

    Attributes:
        digest: of its OCI manifest.
        size: of that manifest in bytes, as an assignment states it.
        total: bytes of everything in it.
        counter: its release counter.
        edges: names the edges of its reference profile.
    """

    digest: str
    name: str
    version: str
    family: str
    counter: int
    size: int
    total: int
    edges: str
    added_at: float


@dataclass(frozen=True)
class Exposure:
    """One device's part in a rollout.

    Attributes:
        wave: counts from 0, which is the canary.
        previous: the bundle that served when the order was given; once the order back is
            given, the bundle that it names; "" for none.
        offered_at: when the order was given, Unix seconds; 0 if it was not.
        reverted_at: when the order back was given; 0 if it was not.
        sequence: of the latest order that this rollout gave the device.
        outcome: an `Outcome` once the device has reported; "silent" if it vanished after
            its switch; "" before.
        code: of the report.
        detail: of the report.
        settled_at: when the outcome came to be known; 0 before.
    """

    device: str
    wave: int
    previous: str = ""
    offered_at: float = 0.0
    reverted_at: float = 0.0
    sequence: int = 0
    outcome: str = ""
    code: str = ""
    detail: str = ""
    settled_at: float = 0.0


@dataclass(frozen=True)
class Decision:
    """One step of a rollout, with the figures that it was made from."""

    at: float
    before: str
    event: str
    after: str
    wave: int
    figures: Mapping[str, Any]
    reason: str


PAUSE, RESUME, PASS = "pause", "resume", "pass"
"""What an operator may say of a rollout, besides its end."""


@dataclass(frozen=True)
class Word:
    """What an operator said of a rollout, at which wave."""

    at: float
    what: str
    why: str
    wave: int


@dataclass(frozen=True)
class RolloutRow:
    """One rollout with its whole history.

    Attributes:
        state: a `RolloutState`.
        wave: the wave that is under way, from 0.
        waves: how many there are.
        select: labels that picked the devices.
        policy: soak, limits and shares as they were ordered (`rollout.Policy`).
        stopped: why an operator asked for the end; "" if nobody did.
        devices: in the order of exposure.
        decisions: the oldest first.
        words: what operators said, the oldest first.
    """

    id: str
    bundle: str
    name: str
    version: str
    family: str
    state: str
    wave: int
    waves: int
    select: Mapping[str, str]
    policy: Mapping[str, Any]
    created_at: float
    changed_at: float
    stopped: str = ""
    devices: tuple[Exposure, ...] = ()
    decisions: tuple[Decision, ...] = ()
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Incident:
    """A message that was not taken: when, from which topic, and why."""

    at: float
    device: str
    channel: str
    code: str
    detail: str
    size: int


@dataclass(frozen=True)
class Order:
    """The latest assignment of a device, signed.

    Attributes:
        keyid: which key signed it.
        digest: of the bundle; "" for a withdrawal.
        envelope: DSSE.
    """

    device: str
    keyid: str
    sequence: int
    rollout: str
    digest: str
    issued_at: float
    envelope: bytes


@dataclass(frozen=True)
class Question:
    """What an operator asked a device, and what it answered.

    Attributes:
        id: counts questions; 0 before it is noted.
        keyid: which key signed the command.
        sequence: of the command.
        ask: an `ASKS` of the contract.
        asked_at: Unix seconds by the server's clock, as all here.
        expires: until when the device may take it.
        envelope: DSSE.
        answered_at: when the answer was stored; 0 before.
        event: that answered; nothing before.
    """

    device: str
    keyid: str
    sequence: int
    ask: str
    asked_at: float
    expires: float
    envelope: bytes
    id: int = 0
    answered_at: float = 0.0
    event: Event | None = None
