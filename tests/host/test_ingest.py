"""The ingest: what comes in, good and bad, what is acknowledged, and what a full disk does."""

from __future__ import annotations

import io
import json
import resource
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from support import Mosquitto, wait_for
from support_agent import keys, make_bundle, public_key
from support_fleet import event, open_store, state, window

from wherry.server.ingest import Arrival, Ingest, is_newer
from wherry.server.link import Link
from wherry.server.store import Store
from wherry_contract.address import BrokerAddress
from wherry_contract.compact import join_windows, write_window
from wherry_contract.errors import StoreError
from wherry_contract.messages import LIMIT_BYTES, Ack, Presence
from wherry_contract.topics import Topic
from wherry_contract.window import Window

NOW = 1000.0
SPOOL = "0" * 16


def topic(device: str, channel: str, fleet: str = "f") -> str:
    """A topic's name."""
    return str(Topic(fleet, device, channel))


def ingest(store: Store) -> Ingest:
    """An ingest whose clock stands."""
    return Ingest(store, "f", lambda: NOW, lambda: None)


def sent(found: Window) -> Arrival:
    """A window as it arrives."""
    return Arrival(topic(found.place.device, "window"), found.to_bytes())


def test_acknowledgements_are_ranges_for_each_outbox(tmp_path: Path) -> None:
    with open_store(tmp_path, "a", "b") as store:
        arrivals = [sent(window("a", seq)) for seq in (3, 1, 2, 7)]
        arrivals += [sent(window("b", 1)), sent(window("a", 1, spool="f" * 16))]
        arrivals.append(Arrival(topic("a", "event"), event("a", 8).to_bytes()))
        assert ingest(store).take(arrivals) == [
            ("a", Ack(SPOOL, ((1, 3), (7, 8)))),
            ("a", Ack("f" * 16, ((1, 1),))),
            ("b", Ack(SPOOL, ((1, 1),))),
        ]


def test_what_came_twice_is_counted_once_and_acknowledged_again(tmp_path: Path) -> None:
    with open_store(tmp_path, "a") as store:
        takes = ingest(store)
        first = takes.take([sent(window("a", 1))])
        assert takes.take([sent(window("a", 1))]) == first
        assert store.counters() == {"windows": 1, "duplicates": 1}


OTHER = window("a", 1, rows=10, flagged=2)
THIRD = Arrival(topic("a", "event"), event("a", 1).to_bytes())


@pytest.mark.parametrize(
    ("before", "now", "acked"),
    [
        pytest.param([sent(window("a", 1))], [sent(OTHER)], (), id="another window"),
        pytest.param([sent(window("a", 1))], [THIRD], (), id="an event where a window is"),
        pytest.param([THIRD], [sent(OTHER)], (), id="a window where an event is"),
        pytest.param([], [sent(OTHER), sent(window("a", 1))], (), id="two at once"),
        pytest.param([THIRD], [sent(OTHER), sent(window("a", 2))], ((2, 2),), id="one of several"),
        pytest.param([THIRD], [THIRD], ((1, 1),), id="the very same: no clash"),
    ],
)
def test_two_messages_at_one_place(
    tmp_path: Path, before: list[Arrival], now: list[Arrival], acked: tuple[tuple[int, int], ...]
) -> None:
    """As when two agents have one id: what is not counted is not acknowledged."""
    with open_store(tmp_path, "a") as store:
        takes = ingest(store)
        takes.take(before)
        kept = [item.window for item in store.windows()]
        acks = takes.take(now)
        assert [pair for _, ack in acks for pair in ack.stored] == list(acked)
        clash = [item.code for item in store.incidents()] == ["G07"]
        assert clash is (acked != ((1, 1),))
        assert [item.window for item in store.windows() if item.window.place.seq == 1] == kept


def test_what_was_refused_is_not_lost(tmp_path: Path) -> None:
    with open_store(tmp_path, "a") as store:
        takes = ingest(store)
        for found in (window("a", 1), window("a", 2, rows=7), window("a", 2, rows=7)):
            takes.take([sent(found)])
        later = Ingest(store, "f", lambda: NOW + 10, lambda: None)
        later.take([sent(window("a", 5, oldest=5))])
        assert store.lost("a") == 2  # 3 and 4; 2 came and was refused, and came again
        store.purge(NOW + 5)
        assert store.lost("a") == 2


def test_long_acknowledgements_are_cut(tmp_path: Path) -> None:
    with open_store(tmp_path, "a") as store:
        arrivals = [sent(window("a", seq)) for seq in range(1, 4100, 2)]
        acks = ingest(store).take(arrivals)
        assert [len(ack.stored) for _, ack in acks] == [1000, 1000, 50]
        assert all(Ack.from_bytes(ack.to_bytes()) == ack for _, ack in acks)


GOOD = window("a", 5)
TEXT = GOOD.to_bytes()
REFUSED = [("a", Ack(SPOOL, (), ((5, "G01"),)))]
ROWS: dict[str, tuple[Arrival, str, Any]] = {
    "not JSON, its place readable": (Arrival(topic("a", "window"), TEXT[:-9]), "G01", REFUSED),
    "not JSON at all": (Arrival(topic("a", "window"), b"\xff\x00garbage"), "G01", []),
    "counts that do not add up": (
        Arrival(topic("a", "window"), replace(GOOD, rows=11).to_bytes()),
        "G01",
        REFUSED,
    ),
    "a negative count": (
        Arrival(topic("a", "window"), TEXT.replace(b'"flagged":1', b'"flagged":-1')),
        "G01",
        REFUSED,
    ),
    "a count beyond all bounds": (
        Arrival(topic("a", "window"), TEXT.replace(b'"rows":10', b'"rows":1' + b"0" * 30)),
        "G01",
        REFUSED,
    ),
    "closed before it was opened": (
        Arrival(topic("a", "window"), replace(GOOD, closed=1.0).to_bytes()),
        "G01",
        REFUSED,
    ),
    "a name twice": (
        Arrival(topic("a", "window"), TEXT.replace(b'"rows":10', b'"rows":10,"rows":10')),
        "G01",
        REFUSED,
    ),
    "deeply nested": (
        Arrival(topic("a", "window"), TEXT[:-1] + b',"x":' + b"[" * 999 + b"]" * 999 + b"}"),
        "G02",
        [("a", Ack(SPOOL, (), ((5, "G02"),)))],
    ),
    "too large": (
        Arrival(topic("a", "window"), TEXT[:-1] + b" " * LIMIT_BYTES + b"}"),
        "G02",
        [("a", Ack(SPOOL, (), ((5, "G02"),)))],
    ),
    "from the future: kept by the device": (
        Arrival(topic("a", "window"), TEXT.replace(b"window/1+", b"window/2+")),
        "G03",
        [],
    ),
    "another device's": (
        Arrival(topic("b", "window"), TEXT),
        "G04",
        [("b", Ack(SPOOL, (), ((5, "G04"),)))],
    ),
    "another fleet's": (Arrival(topic("a", "window", "g"), TEXT), "G06", []),
    "no topic of ours": (Arrival("wherry/v1/f/a/else", TEXT), "G06", []),
    "a topic that goes down": (Arrival(topic("a", "ack"), TEXT), "G06", []),
    "not enrolled: kept by the device": (
        Arrival(topic("z", "window"), window("z", 5).to_bytes()),
        "R07",
        [],
    ),
    "not enrolled, and malformed": (Arrival(topic("z", "window"), TEXT[:-9]), "G01", []),
    "a state that is none": (Arrival(topic("a", "state"), b"{}"), "G01", []),
    "a presence of another": (
        Arrival(topic("a", "presence"), Presence("b", True, "1" * 16).to_bytes()),
        "G04",
        [],
    ),
    "a sequence of nothing": (
        Arrival(topic("a", "window"), TEXT.replace(b'"seq":5', b'"seq":0')),
        "G01",
        [],
    ),
}


@pytest.mark.parametrize(("arrival", "code", "acks"), ROWS.values(), ids=ROWS)
def test_bad_input(tmp_path: Path, arrival: Arrival, code: str, acks: Any) -> None:
    """Each leaves an incident; a good message in the same batch is stored all the same."""
    with open_store(tmp_path, "a", "b") as store:
        good = window("a", 1)
        found = ingest(store).take([arrival, sent(good)])
        refused = [(device, ack) for device, ack in found if ack.refused]
        wanted = [
            (device, replace(ack, stored=((1, 1),) * (device == "a"))) for device, ack in acks
        ]
        assert refused == wanted
        assert (1, 1) in [pair for _, ack in found for pair in ack.stored]
        assert code in [item.code for item in store.incidents()]
        assert [item.window for item in store.windows()] == [good]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(window("a", 2**53 - 1), id="a sequence far ahead"),
        pytest.param(window("a", 1, spool="abcdef0123456789"), id="an outbox never heard of"),
        pytest.param(window("a", 1, opened=4e9, closed=4e9 + 1), id="a clock a century ahead"),
        pytest.param(window("a", 1, opened=0.0, closed=0.0), id="a clock at 1970"),
        pytest.param(window("a", 9, oldest=9), id="the rest was dropped"),
    ],
)
def test_odd_but_possible_is_taken(tmp_path: Path, odd: Window) -> None:
    with open_store(tmp_path, "a") as store:
        assert ingest(store).take([sent(odd)])[0][1].stored
        assert store.windows()[0].window == odd
        assert store.windows()[0].received_at == NOW


def test_a_retained_message_that_was_taken_away_says_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path, "a") as store:
        assert ingest(store).take([Arrival(topic("a", "state"), b"")]) == []
        assert store.incidents() == []


# --- who is there ---------------------------------------------------------------------------

A, B = "a" * 16, "b" * 16


@pytest.mark.parametrize(
    ("known", "new", "retained", "taken"),
    [
        pytest.param(None, state("a"), True, True, id="the first"),
        pytest.param((A, 100.0), (A, 101.0), False, True, id="later"),
        pytest.param((A, 100.0), (A, 100.0), False, True, id="the same again"),
        pytest.param((A, 100.0), (A, 99.0), False, False, id="out of order"),
        pytest.param((A, 90_000.0), (A, 99.0), False, True, id="the clock was set back"),
        pytest.param((A, 100.0), (B, 99.0), False, True, id="a new start"),
        pytest.param((A, 100.0), (B, 99.0), True, False, id="kept by the broker, from before"),
        pytest.param((A, 100.0), (B, 101.0), True, True, id="kept by the broker, newer"),
    ],
)
def test_the_last_report_wins(known: Any, new: Any, *, retained: bool, taken: bool) -> None:
    def made(what: Any) -> Any:
        return state("a", session=what[0], reported_at=what[1]) if type(what) is tuple else what

    assert is_newer(made(new), made(known), retained=retained) is taken


@pytest.mark.parametrize(
    ("said", "online", "session"),
    [
        pytest.param([(True, A)], True, A, id="came"),
        pytest.param([(True, A), (False, A)], False, A, id="came and went"),
        pytest.param([(True, A), (True, B), (False, A)], True, B, id="the former's will came late"),
        pytest.param([(False, A)], False, A, id="went before we looked"),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_presence(
    tmp_path: Path, said: list[tuple[bool, str]], session: str, *, online: bool, together: bool
) -> None:
    with open_store(tmp_path, "a") as store:
        takes = ingest(store)
        arrivals = [
            Arrival(topic("a", "presence"), Presence("a", on, who).to_bytes()) for on, who in said
        ]
        for group in [arrivals] if together else [[item] for item in arrivals]:
            takes.take(group)
        row = store.device("a")
        assert (row.online, row.session) == (online, session)


# --- a full disk ----------------------------------------------------------------------------


@contextmanager
def no_file_may_grow(limit: int) -> Iterator[None]:
    """What a full disk does, to this process alone (setrlimit(2), RLIMIT_FSIZE)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_nothing_is_acknowledged_and_nothing_is_lost(tmp_path: Path) -> None:
    with open_store(tmp_path, "a") as store:
        takes = ingest(store)
        here = Arrival(topic("a", "presence"), Presence("a", True, A).to_bytes())
        size = max(path.stat().st_size for path in tmp_path.iterdir())
        many = [sent(window("a", seq)) for seq in range(1, 400)]
        with no_file_may_grow(size + 4096), pytest.raises(StoreError) as caught:
            takes.take([*many, here])
        assert caught.value.code == "D01"
        assert takes.waiting  # the presence will not be said again; the windows will
        assert store.windows() == []
        acks = takes.take(many)
        assert acks == [("a", Ack(SPOOL, ((1, 399),)))]
        assert store.device("a").online
        assert len(store.windows()) == 399


def test_a_store_that_cannot_be_read_loses_no_report(tmp_path: Path) -> None:
    here = Arrival(topic("a", "presence"), Presence("a", True, A).to_bytes())
    with open_store(tmp_path, "a") as store:
        takes = ingest(store)
        with sqlite3.connect(tmp_path / "fleet.sqlite") as other:
            other.execute("ALTER TABLE device RENAME TO gone")
        with pytest.raises(StoreError) as caught:
            takes.take([here])
        assert caught.value.code == "D06"
        assert takes.waiting
        other.execute("ALTER TABLE gone RENAME TO device")
        other.close()
        takes.take([])
        assert store.device("a").online


# --- over a real broker ---------------------------------------------------------------------


class Voice:
    """A plain MQTT client that says what it is told and keeps what it hears."""

    def __init__(self, port: int, hears: str) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2)
        self.ready = threading.Event()
        self.client.on_connect = lambda client, *_: client.subscribe(hears, 1)
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_message = lambda _c, _d, m: self.heard.append((m.topic, bytes(m.payload)))
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.ready.wait(10)

    def acked(self) -> set[int]:
        """Sequences that were acknowledged as stored."""
        acks = [Ack.from_bytes(payload) for _, payload in self.heard]
        return {s for ack in acks for a, b in ack.stored for s in range(a, b + 1)}

    def close(self) -> None:
        """Go."""
        self.client.disconnect()
        self.client.loop_stop()


@contextmanager
def linked(store: Store, port: int) -> Iterator[Link]:
    """A link that listens."""
    link = Link(BrokerAddress("127.0.0.1", port), "f", ingest(store), lambda: None)
    link.start()
    try:
        wait_for(lambda: link.listening_since, what="the link")
        yield link
    finally:
        link.stop()


def test_windows_over_a_real_broker(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with open_store(tmp_path, "a") as store, linked(store, mosquitto.port):
        voice = Voice(mosquitto.port, topic("a", "ack"))
        try:
            order = [*range(200, 100, -1), *range(50, 150), *range(1, 60)]
            for seq in order:
                voice.client.publish(topic("a", "window"), window("a", seq).to_bytes(), 1)
            voice.client.publish(topic("a", "window"), b"garbage", 1)
            voice.client.publish(topic("b", "window"), window("a", 300).to_bytes(), 1)
            wait_for(lambda: voice.acked() == set(range(1, 201)))
            wait_for(lambda: store.counters().get("incidents", 0) >= 2)
            assert store.counters()["windows"] == 200
            assert store.counters()["duplicates"] == len(order) - 200
        finally:
            voice.close()


def test_the_link_survives_the_brokers_death(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with open_store(tmp_path, "a") as store, linked(store, mosquitto.port) as link:
        here = Presence("a", True, A).to_bytes()
        voice = Voice(mosquitto.port, topic("a", "ack"))
        voice.client.publish(topic("a", "presence"), here, 1, retain=True)
        wait_for(lambda: store.device("a").online)
        voice.close()
        mosquitto.kill()
        wait_for(lambda: link.listening_since is None)
        mosquitto.start()
        wait_for(lambda: link.listening_since)
        # the broker forgot everything: until it says otherwise, nobody is there
        assert not store.device("a").online
        voice = Voice(mosquitto.port, topic("a", "ack"))
        try:
            voice.client.publish(topic("a", "window"), window("a", 1).to_bytes(), 1)
            wait_for(lambda: voice.acked() == {1})
        finally:
            voice.close()


def test_a_broker_that_is_away_at_the_start(tmp_path: Path, mosquitto: Mosquitto) -> None:
    mosquitto.kill()
    with open_store(tmp_path, "a") as store:
        link = Link(BrokerAddress("127.0.0.1", mosquitto.port), "f", ingest(store), lambda: None)
        link.start()
        try:
            mosquitto.start()
            wait_for(lambda: link.listening_since)
        finally:
            link.stop()


@contextmanager
def with_bundle(folder: Path) -> Iterator[tuple[Store, Window, bytes]]:
    """A store that knows a bundle, and a window of it in both forms."""
    made = make_bundle(category=True)
    with open_store(folder, "a") as store:
        (folder / "keys").mkdir()
        signer = json.dumps(public_key(keys().bundle).to_dict())
        (folder / "keys" / "maker.pub.json").write_text(signer)
        store.add_bundle(store.depot.add(io.BytesIO(made.to_tar())))
        profile = made.parts.profile
        names = {item.name: item.counts for item in profile.features}
        found = window(
            "a",
            1,
            bundle=made.digest,
            edges=profile.edges_id,
            features=names,
            rows=profile.rows,
            scores=(profile.rows,) + (0,) * 63,
        )
        yield store, found, write_window(found, profile) or b""


def test_compact_windows_are_stored_as_json_has_them(tmp_path: Path) -> None:
    with with_bundle(tmp_path) as (store, found, compact):
        takes = ingest(store)
        second = replace(found, place=replace(found.place, seq=2))
        both = join_windows([compact, write_window(second, store.profile(found.bundle)) or b""])
        assert takes.take([Arrival(topic("a", "window"), both)]) == [("a", Ack(SPOOL, ((1, 2),)))]
        assert [item.window for item in store.windows()] == [found, second]
        takes.take([sent(found)])  # the same content in the other form is the same message
        assert store.counters() == {"windows": 2, "duplicates": 1}
        assert store.incidents() == []


@pytest.mark.parametrize(
    ("change", "code", "refused"),
    [
        pytest.param(lambda data: data[:-1], "G01", (), id="a batch that is cut"),
        pytest.param(lambda data: data + data[2:-1] + b"\xff", "G01", ((1, "G01"),), id="one bad"),
        pytest.param(lambda data: data[:1] + b"\x07" + data[2:], "G03", (), id="a newer version"),
        pytest.param(lambda data: data[:6] + b"\x00" + data[7:], "G08", (), id="unknown bundle"),
    ],
)
def test_compact_windows_that_cannot_be_read(
    tmp_path: Path, change: Any, code: str, refused: tuple[tuple[int, str], ...]
) -> None:
    with with_bundle(tmp_path) as (store, _, compact):
        acks = ingest(store).take([Arrival(topic("a", "window"), change(compact))])
        assert [item.code for item in store.incidents()] == [code]
        assert [ack.refused for _, ack in acks if ack.refused] == ([refused] if refused else [])
