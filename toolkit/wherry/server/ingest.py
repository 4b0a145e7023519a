"""From payloads to stored messages: read, judged by a table, stored at once, acknowledged after.

Nothing here knows MQTT: `link` hands arrivals in and publishes the acknowledgements that
come out. What is malformed for good is refused in the acknowledgement, so that a device
does not send it for ever; what may be right later (a newer schema, a device that is not
enrolled yet, a full disk) is not acknowledged, so that the device keeps it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from wherry.rows import DeviceRow, Incident
from wherry_contract.compact import is_compact, place_of, read_window, split_windows
from wherry_contract.errors import MessageError, StoreError, WherryError
from wherry_contract.messages import LIMIT_BYTES, Ack, Event, Presence, State, ranges
from wherry_contract.topics import UP, Topic, parse_topic
from wherry_contract.window import Window

from .intake import Batch
from .known import KnownProfiles
from .store import Store

_PLACE: Final = (
    re.compile(rb'"spool"\s{0,8}:\s{0,8}"([0-9a-f]{16})"'),
    re.compile(rb'"seq"\s{0,8}:\s{0,8}([1-9]\d{0,15})\b'),
)
_FOR_GOOD: Final = frozenset({"G01", "G02", "G04"})
_MOST_RANGES: Final = 1000  # in one acknowledgement
_CLOCK_SET_BACK_SECONDS: Final = 3600.0  # more than any message is late within one session


@dataclass(frozen=True)
class Arrival:
    """One message as the broker delivered it."""

    topic: str
    payload: bytes
    retained: bool = False


@dataclass
class _Sorted:
    """A batch on its way: what was read, and what will be acknowledged."""

    windows: list[tuple[Window, bytes]] = field(default_factory=list)
    events: list[tuple[Event, bytes]] = field(default_factory=list)
    states: list[tuple[State, bool]] = field(default_factory=list)
    presence: list[Presence] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    refused: dict[tuple[str, str], dict[int, str]] = field(
        default_factory=lambda: defaultdict(dict)
    )


class Ingest:
    """Takes arrivals; lives in the link's thread."""

    def __init__(
        self,
        store: Store,
        fleet: str,
        clock: Callable[[], float],
        news: Callable[[], None],
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take what it works with.

        Args:
            store: keeps what came.
            fleet: its name.
            clock: Unix seconds.
            news: called when something came that rollouts may wait for.
            leads: whether rollouts are this server's.
        """
        self._leads = leads
        self._store = store
        self._fleet = fleet
        self._clock = clock
        self._news = news
        self._known = KnownProfiles(store)
        self._again: list[Arrival] = []

    @property
    def waiting(self) -> bool:
        """Whether reports wait for a disk that did not take them."""
        return bool(self._again)

    def connected(self) -> None:
        """Note a new connection: who is online, the broker will say.

        Only the server that leads forgets what was said before; the others go on hearing.

        Raises:
            StoreError: D01, D06 or D08.
        """
        if self._leads():
            self._store.forget_presence()

    def take(self, arrivals: Sequence[Arrival]) -> list[tuple[str, Ack]]:
        """Store a batch.

        Returns:
            Acknowledgements by device, to be published now that all is on the medium.

        Raises:
            StoreError: D01 or D06; nothing was stored and nothing may be acknowledged.
        """
        arrivals = [*self._again, *arrivals]
        now = self._clock()
        found = _Sorted()
        for arrival in arrivals:
            self._sort(arrival, found, now)
        try:
            known = self._store.enrolled(_names(found))
            batch = _batch(found, known, now)
            batch = self._store.add(batch).batch
        except StoreError:
            # windows and events come again by themselves; reports only with the next heartbeat
            self._again = _latest_reports(arrivals)
            raise
        self._again = []
        if batch.states or batch.events or batch.presence:
            self._news()
        return _acks(batch, found, known)

    def _sort(self, arrival: Arrival, found: _Sorted, now: float) -> None:
        if not arrival.payload:  # a retained message was taken away
            return
        device = channel = ""
        try:
            topic = parse_topic(arrival.topic)
            device, channel = topic.device, topic.channel
            self._read(topic, arrival, found)
        except WherryError as error:
            size = len(arrival.payload)
            detail = error.detail[:300]
            found.incidents.append(Incident(now, device, channel, error.code, detail, size))
            if channel in ("window", "event") and error.code in _FOR_GOOD:
                _refuse(found, device, arrival.payload, error.code)

    def _read(self, topic: Topic, arrival: Arrival, found: _Sorted) -> None:
        payload = arrival.payload
        if topic.fleet != self._fleet or topic.channel not in UP:
            raise MessageError("G06", arrival.topic[:120])
        if len(payload) > LIMIT_BYTES:
            raise MessageError("G02", f"{len(payload)} bytes")
        if topic.channel == "window" and is_compact(payload):
            self._read_batch(topic, payload, found)
        elif topic.channel == "window":
            window = Window.from_bytes(payload)
            _check_device(window.place.device, topic)
            found.windows.append((window, payload))
        elif topic.channel == "event":
            event = Event.from_bytes(payload)
            _check_device(event.place.device, topic)
            found.events.append((event, payload))
        elif topic.channel == "state":
            state = State.from_bytes(payload)
            _check_device(state.device, topic)
            found.states.append((state, arrival.retained))
        else:
            presence = Presence.from_bytes(payload)
            _check_device(presence.device, topic)
            found.presence.append(presence)

    def _read_batch(self, topic: Topic, payload: bytes, found: _Sorted) -> None:
        """Read each window of a batch; what is stored is JSON, the same for one that came so."""
        for body in split_windows(payload):
            try:
                window = read_window(body, topic.device, self._known.find)
            except MessageError as error:
                incident = (topic.device, topic.channel, error.code, error.detail[:300], len(body))
                found.incidents.append(Incident(self._clock(), *incident))
                spot = place_of(body)
                if spot and error.code in _FOR_GOOD:
                    found.refused[topic.device, spot[0]][spot[1]] = error.code
            else:
                found.windows.append((window, window.to_bytes()))


def _check_device(named: str, topic: Topic) -> None:
    if named != topic.device:
        raise MessageError("G04", f"the topic is {topic.device}'s, the message names {named}")


def _refuse(found: _Sorted, device: str, payload: bytes, code: str) -> None:
    """Refuse a message whose place can be read, though the message cannot."""
    spool, seq = (pattern.search(payload) for pattern in _PLACE)
    if spool and seq and int(seq[1]) < 2**53:
        found.refused[device, spool[1].decode()][int(seq[1])] = code


def _names(found: _Sorted) -> set[str]:
    places = [*(window.place for window, _ in found.windows)]
    places += [event.place for event, _ in found.events]
    names = {place.device for place in places} | {device for device, _ in found.refused}
    return names | {state.device for state, _ in found.states} | {p.device for p in found.presence}


def _latest_reports(arrivals: Iterable[Arrival]) -> list[Arrival]:
    reports = {a.topic: a for a in arrivals if a.topic.rpartition("/")[2] in ("state", "presence")}
    return list(reports.values())


def _batch(found: _Sorted, known: Mapping[str, DeviceRow], now: float) -> Batch:
    strange = _names(found) - set(known)
    incidents = [
        *found.incidents,
        *(Incident(now, name, "", "R07", "it is not enrolled", 0) for name in sorted(strange)),
    ]
    return Batch(
        received_at=now,
        windows=[item for item in found.windows if item[0].place.device in known],
        events=[item for item in found.events if item[0].place.device in known],
        states=_last_states(found.states, known),
        presence=_last_presence(found.presence, known),
        incidents=incidents,
        refused=[
            (device, spool, seq)
            for (device, spool), codes in found.refused.items()
            if device in known
            for seq in codes
        ],
    )


def _last_states(
    states: Iterable[tuple[State, bool]], known: Mapping[str, DeviceRow]
) -> dict[str, State]:
    last: dict[str, State] = {}
    for state, retained in states:
        row = known.get(state.device)
        if row and is_newer(state, last.get(state.device, row.state), retained=retained):
            last[state.device] = state
    return last


def is_newer(state: State, known: State | None, *, retained: bool) -> bool:
    """Whether a report replaces what is known: the last one of a session wins.

    Args:
        state: what came.
        known: what was taken last, if anything.
        retained: whether the broker kept it, so that it may be of a session long gone.
    """
    if known is None:
        return True
    behind = known.reported_at - state.reported_at
    if state.session != known.session:
        return not retained or behind < 0
    return behind <= 0 or behind > _CLOCK_SET_BACK_SECONDS


def _last_presence(
    said: Iterable[Presence], known: Mapping[str, DeviceRow]
) -> dict[str, tuple[bool, str]]:
    """Online and session by device; the late will of a former session says nothing."""
    last: dict[str, tuple[bool, str]] = {}
    for item in said:
        row = known.get(item.device)
        if row is None:
            continue
        online, session = last.get(item.device, (row.online, row.session))
        if item.online or item.session == session or not online:
            last[item.device] = (item.online, item.session)
    return last


def _acks(batch: Batch, found: _Sorted, known: Mapping[str, DeviceRow]) -> list[tuple[str, Ack]]:
    stored: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place in batch.places:
        stored[place.device, place.spool].append(place.seq)
    refused = {key: codes for key, codes in found.refused.items() if key[0] in known}
    acks: list[tuple[str, Ack]] = []
    for device, spool in sorted({*stored, *refused}):
        done = ranges(stored.get((device, spool), ()))
        bad = tuple(refused.get((device, spool), {}).items())
        while done or bad:
            ack = Ack(spool, done[:_MOST_RANGES], bad[:_MOST_RANGES])
            acks.append((device, ack))
            done, bad = done[_MOST_RANGES:], bad[_MOST_RANGES:]
    return acks
