"""The link against a real mosquitto that is away, dies, refuses, and lets strangers in."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from support import Mosquitto, wait_for
from support_agent import DEVICE, FLEET, agent_config
from support_device import HandClock, RunningClock

from wherry_agent.config import AgentConfig
from wherry_agent.link.fact import Fact
from wherry_agent.link.mqtt import IN_FLIGHT, PATIENCE, Handlers, Link
from wherry_agent.link.outbox import Outbox
from wherry_contract.address import BrokerAddress
from wherry_contract.messages import Ack, Place, Presence, ranges

ROOT = f"wherry/v1/{FLEET}/{DEVICE}"
SESSION, OTHER = "a" * 16, "b" * 16


class Host:
    """The other side: a plain client that stores what comes, and acknowledges it if it should."""

    def __init__(self, broker: Mosquitto) -> None:
        self.acks = True
        self.seen: list[tuple[str, bytes]] = []
        self.stored: dict[int, bytes] = {}
        self.copies: dict[int, int] = {}
        self.retained: dict[str, bytes] = {}
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "host")
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        client.subscribe(f"{ROOT}/#", 1)

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        channel = message.topic.rpartition("/")[2]
        payload = bytes(message.payload)
        self.seen.append((channel, payload))
        if channel in ("state", "presence"):
            self.retained[channel] = payload
        elif channel in ("window", "event"):
            document = json.loads(payload)
            seq = document["seq"]
            assert self.stored.setdefault(seq, payload) == payload  # bytes never change
            self.copies[seq] = self.copies.get(seq, 0) + 1
            if self.acks:
                self.say("ack", Ack(document["spool"], ranges([seq])).to_bytes())

    def say(self, channel: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish on one of the device's channels."""
        self._client.publish(f"{ROOT}/{channel}", payload, 1, retain=retain)

    @property
    def presence(self) -> bool | None:
        """What was heard of the device last."""
        heard = self.retained.get("presence")
        return Presence.from_bytes(heard).online if heard else None

    def close(self) -> None:
        """Go."""
        self._client.disconnect()
        self._client.loop_stop()


@dataclass
class Side:
    """The device's side: a link in its thread, and what it told."""

    config: AgentConfig
    outbox: Outbox
    clock: RunningClock
    link: Link
    told: list[tuple[Fact, str]] = field(default_factory=list)
    offers: list[bytes] = field(default_factory=list)

    def add(self, count: int) -> None:
        """Windows for the host."""
        for _ in range(count):
            self.outbox.add("window", payload, now=self.clock.now())

    def codes(self) -> list[str]:
        """Codes of what was told, each key once, as the spool does it."""
        return [fact.code for fact, _ in {key: (fact, key) for fact, key in self.told}.values()]


def payload(place: Place) -> bytes:
    return json.dumps(place.to_dict() | {"pad": "x" * 200}).encode()


@contextmanager
def running(
    folder: Path,
    broker: Mosquitto,
    session: str = SESSION,
    url: str = "",
    *,
    start: bool = True,
    **limits: float,
) -> Iterator[Side]:
    """A link in its own thread, if it is to start, for the length of a block."""
    limits = {"reconnect_seconds": 1.0} | limits
    config = agent_config(folder, broker=url or broker.url, **limits)
    config.state_dir.mkdir(exist_ok=True)
    outbox = Outbox(config.state_dir, DEVICE, mib=4, days=30)
    clock = RunningClock()
    told: list[tuple[Fact, str]] = []
    offers: list[bytes] = []
    handlers = Handlers(
        assignment=offers.append,
        tell=lambda fact, key: told.append((fact, key)),
        state=lambda: b'{"state":1}',
    )
    link = Link(config, session, outbox, clock, handlers)
    assert isinstance(config.broker, BrokerAddress)
    if not start:
        yield Side(config, outbox, clock, link, told, offers)
        outbox.close()
        return
    thread = threading.Thread(target=link.run, args=(config.broker,))
    thread.start()
    try:
        yield Side(config, outbox, clock, link, told, offers)
    finally:
        link.stop()
        thread.join(20)
        outbox.close()
        assert not thread.is_alive()


@contextmanager
def hosting(broker: Mosquitto) -> Iterator[Host]:
    host = Host(broker)
    try:
        yield host
    finally:
        host.close()


# --- windows reach the host -----------------------------------------------------------------


def test_windows_go_up_and_leave_when_they_are_acknowledged(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    with hosting(mosquitto) as host, running(tmp_path, mosquitto) as side:
        side.add(50)
        wait_for(lambda: side.outbox.waiting == 0, what="acknowledgements")
        assert sorted(host.stored) == list(range(1, 51))
        assert set(host.copies.values()) == {1}


def test_a_broker_that_is_away_at_start_and_for_an_hour(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    mosquitto.kill()
    with running(tmp_path, mosquitto) as side:
        for _ in range(60):
            side.add(1)
            side.clock.pass_by(60)
        wait_for(lambda: len(side.told) >= 2, what="tries")
        assert set(side.codes()) == {"L01"}
        assert len({key for _, key in side.told}) <= 2  # told once an hour, not for each try
        mosquitto.start()
        with hosting(mosquitto) as host:
            wait_for(lambda: side.outbox.waiting == 0, what="acknowledgements")
            assert sorted(host.stored) == list(range(1, 61))


def test_a_broker_that_is_killed_mid_flight_loses_nothing(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    """It keeps nothing on disk, so whatever it had acknowledged to us is gone."""
    with hosting(mosquitto) as host, running(tmp_path, mosquitto) as side:
        for turn in (1, 2):
            side.add(100)
            wait_for(lambda turn=turn: len(host.stored) > 100 * turn - 80, what="some windows")  # type: ignore[misc]
            mosquitto.kill()
            side.add(20)
            mosquitto.start()
        wait_for(lambda: side.outbox.waiting == 0, seconds=40, what="acknowledgements")
        assert sorted(host.stored) == list(range(1, 241))


def test_without_acknowledgements_few_are_in_flight_and_are_sent_again(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    with hosting(mosquitto) as host, running(tmp_path, mosquitto) as side:
        host.acks = False
        side.add(60)
        wait_for(lambda: len(host.stored) == IN_FLIGHT, what="the first windows")
        side.clock.pass_by(10)
        side.link.changed()
        count = len([channel for channel, _ in host.seen if channel == "state"])
        wait_for(
            lambda: len([channel for channel, _ in host.seen if channel == "state"]) > count,
            what="a state, which shows that the link looked",
        )
        assert set(host.copies.values()) == {1}
        side.clock.pass_by(21)
        wait_for(lambda: set(host.copies.values()) == {2}, what="the second copies")
        assert len(host.stored) == IN_FLIGHT
        host.acks = True
        side.clock.pass_by(61)  # the wait doubles
        wait_for(lambda: side.outbox.waiting == 0, what="acknowledgements")
        assert sorted(host.stored) == list(range(1, 61))


def test_windows_that_are_never_taken_hold_up_no_others(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    with hosting(mosquitto) as host, running(tmp_path, mosquitto) as side:
        host.acks = False
        side.add(IN_FLIGHT + 3)
        wait_for(lambda: len(host.stored) == IN_FLIGHT, what="the first windows")
        for tries in range(2, PATIENCE + 1):
            side.clock.pass_by(1000)
            wait_for(lambda tries=tries: host.copies[1] >= tries, what="them again")  # type: ignore[misc]
        wait_for(lambda: len(host.stored) == IN_FLIGHT + 3, what="the others")


def test_a_window_that_was_never_acknowledged_is_sent_again_after_a_restart(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    with hosting(mosquitto) as host:
        host.acks = False
        with running(tmp_path, mosquitto) as side:
            side.add(5)
            wait_for(lambda: len(host.stored) == 5, what="windows")
        host.acks = True
        with running(tmp_path, mosquitto) as side:
            wait_for(lambda: side.outbox.waiting == 0, what="acknowledgements")
        assert set(host.copies.values()) == {2}


def test_waiting_for_ten_days_is_no_arithmetic_error() -> None:
    from wherry_agent.link.mqtt import _Sent
    from wherry_agent.link.outbox import Message

    sent = _Sent(Message(1, "window", b""), at=0.0, tries=5000)
    assert sent.due(30.0) == 900.0


# --- what comes down ------------------------------------------------------------------------


def test_bad_acknowledgements_change_nothing(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with hosting(mosquitto) as host, running(tmp_path, mosquitto) as side:
        host.acks = False
        side.add(10)
        wait_for(lambda: len(host.stored) == 10, what="windows")
        spool = side.outbox.spool
        huge = json.dumps({"schema": "wherry/ack/1+json", "spool": spool, "stored": [[1, 2**70]]})
        for bad in (
            b"",
            b"garbage",
            b"\xff" * 100,
            b'{"schema":"wherry/ack/9+json"}',
            huge.encode(),
            b"[" * 100_000,
            b'{"schema":"wherry/ack/1+json","spool":"' + b"0" * 300_000 + b'"}',
            Ack("0" * 16, ((1, 10),)).to_bytes(),
        ):
            host.say("ack", bad)
        host.say("ack", Ack(spool, ((9, 10),)).to_bytes())  # out of order
        wait_for(lambda: side.outbox.waiting == 8, what="the good one")
        for _ in range(3):  # replayed
            host.say("ack", Ack(spool, ((9, 10), (1, 1))).to_bytes())
        wait_for(lambda: side.outbox.waiting == 7, what="the next")
        assert set(side.codes()) == {"G01", "G02", "G03"}
        host.say("ack", Ack(spool, (), ((2, "G01"),)).to_bytes())
        wait_for(lambda: side.outbox.waiting == 6, what="the refused one")


def test_orders_are_handed_on_as_they_are(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with hosting(mosquitto) as host:
        host.say("assignment", b"retained", retain=True)
        with running(tmp_path, mosquitto) as side:
            wait_for(lambda: side.offers == [b"retained"], what="the retained order")
            host.say("assignment", b"\x00\xff garbage")
            host.say("assignment", b"", retain=True)  # cleared: no order
            host.say("assignment", b"next")
            wait_for(lambda: side.offers[-1] == b"next", what="the next order")
            assert side.offers == [b"retained", b"\x00\xff garbage", b"next"]


# --- presence -------------------------------------------------------------------------------


def test_presence_and_state_are_retained(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with running(tmp_path, mosquitto) as side:
        wait_for(lambda: side.link.connected, what="the link")
        with hosting(mosquitto) as host:
            wait_for(lambda: host.presence, what="presence")
            wait_for(lambda: "state" in host.retained, what="state")
            side.link.stop()
            wait_for(lambda: host.presence is False, what="the farewell")


def test_what_is_in_the_outbox_gets_a_last_chance(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with hosting(mosquitto) as host:
        with running(tmp_path, mosquitto) as side:
            wait_for(lambda: side.link.connected, what="the link")
            side.add(30)
        assert sorted(host.stored) == list(range(1, 31))


LIVES = """
import pathlib, sys
from wherry_agent.clock import SystemClock
from wherry_agent.config import load_config
from wherry_agent.link.mqtt import Handlers, Link
from wherry_agent.link.outbox import Outbox
config = load_config(pathlib.Path(sys.argv[1]))
box = Outbox(config.state_dir, config.device, mib=1, days=1)
handlers = Handlers(lambda payload: None, lambda fact, key: None, lambda: b"{}")
Link(config, "c" * 16, box, SystemClock(), handlers).run(config.broker)
"""


def test_a_farewell_to_a_broker_that_has_just_gone_is_none(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    """Seen on an emulated board: the link ended in paho's RuntimeError."""
    with running(tmp_path, mosquitto, start=False) as side:
        assert isinstance(side.config.broker, BrokerAddress)
        client = side.link._new_client(side.config.broker)
        side.link.connected = True  # nothing has told the link yet
        side.link._farewell(client)


def test_the_will_of_an_agent_that_is_killed(tmp_path: Path, mosquitto: Mosquitto) -> None:
    config = agent_config(tmp_path, broker=mosquitto.url)
    config.state_dir.mkdir()
    with (
        hosting(mosquitto) as host,
        subprocess.Popen([sys.executable, "-c", LIVES, str(tmp_path / "agent.toml")]) as agent,
    ):
        wait_for(lambda: host.presence, what="presence")
        agent.kill()
        wait_for(lambda: host.presence is False, what="the will")
        assert Presence.from_bytes(host.retained["presence"]).session == "c" * 16


def test_the_will_of_a_former_session_that_comes_late_is_answered(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    with hosting(mosquitto) as host, running(tmp_path, mosquitto) as side:
        wait_for(lambda: host.presence, what="presence")
        host.say("presence", Presence(DEVICE, False, OTHER).to_bytes(), retain=True)
        wait_for(lambda: host.seen.count(("presence", _online(SESSION))) >= 2, what="the answer")
        assert host.presence
        assert "G07" not in side.codes()


def _online(session: str) -> bytes:
    return Presence(DEVICE, True, session).to_bytes()


def test_two_agents_with_one_id_are_told_of(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with (
        hosting(mosquitto) as host,
        running(tmp_path / "first", mosquitto) as first,
    ):
        wait_for(lambda: first.link.connected, what="the first")
        spool = first.outbox.spool
        with running(tmp_path / "second", mosquitto, OTHER) as second:
            wait_for(lambda: "G07" in first.codes(), what="the event")
            assert OTHER in first.told[-1][0].text
            wait_for(lambda: first.outbox.spool != spool, what="another spool")
            second.add(3)
            wait_for(lambda: second.outbox.waiting == 0, what="the second's windows")
            assert first.outbox.spool != second.outbox.spool
        wait_for(lambda: host.presence, what="the first, which is still here")


# --- refusals -------------------------------------------------------------------------------


def test_a_refused_login_is_told_and_tried_again(tmp_path: Path, mosquitto: Mosquitto) -> None:
    mosquitto.kill()
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "shop", "secret"], check=True)
    passwords.chmod(0o644)
    settings = mosquitto._settings
    plain = settings.read_text()
    closed = plain.replace("allow_anonymous true", "allow_anonymous false")
    settings.write_text(f"user root\n{closed}password_file {passwords}\n")
    mosquitto.start()
    with running(tmp_path, mosquitto) as side:
        side.add(3)
        wait_for(lambda: "L02" in side.codes(), what="the refusal")
        assert not side.link.connected
        mosquitto.kill()
        settings.write_text(plain)
        mosquitto.start()
        with hosting(mosquitto):
            wait_for(lambda: side.outbox.waiting == 0, what="acknowledgements")


def test_credentials_are_used(tmp_path: Path, mosquitto: Mosquitto) -> None:
    mosquitto.kill()
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "shop", "s@cret"], check=True)
    passwords.chmod(0o644)
    settings = mosquitto._settings
    closed = settings.read_text().replace("allow_anonymous true", "allow_anonymous false")
    settings.write_text(f"user root\n{closed}password_file {passwords}\n")
    mosquitto.start()
    url = mosquitto.url.replace("mqtt://", "mqtt://shop:s%40cret@")
    with running(tmp_path, mosquitto, url=url) as side:
        wait_for(lambda: side.link.connected, what="the link")


def _plugin() -> Path | None:
    found = sorted(Path("/usr/lib").glob("**/mosquitto_dynamic_security.so"))
    return found[0] if found else None


ACCESS = {"publishClientSend": True, "publishClientReceive": True, "unsubscribe": True}


@pytest.mark.skipif(_plugin() is None, reason="mosquitto came without its dynamic security plugin")
def test_a_subscription_that_is_refused_is_tried_again(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    """SUBACK 0x80: the connection stays up and, without another try, no order ever arrives."""
    mosquitto.kill()
    rules = tmp_path / "broker" / "rules.json"
    settings, log = mosquitto._settings, mosquitto._log
    rules.write_text(json.dumps({"defaultACLAccess": ACCESS | {"subscribe": False}}))
    (tmp_path / "broker").chmod(0o777)
    rules.chmod(0o666)
    settings.write_text(
        f"user root\n{settings.read_text()}plugin {_plugin()}\n"
        f"plugin_opt_config_file {rules}\nlog_type all\n"
    )
    mosquitto.start()
    with running(tmp_path, mosquitto) as side:
        wait_for(lambda: "L02" in side.codes(), what="the refusal")
        assert side.link.connected
        tries = log.read_text().count("Received SUBSCRIBE")
        side.clock.pass_by(31)
        wait_for(lambda: log.read_text().count("Received SUBSCRIBE") > tries, what="another try")
        assert side.codes() == ["L02"]


def test_a_server_that_accepts_and_says_nothing_can_be_left(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        running(tmp_path, mosquitto, url=f"mqtt://127.0.0.1:{server.getsockname()[1]}") as side,
    ):
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1) == b"\x10"  # CONNECT
            assert not side.link.connected


def test_a_server_that_speaks_another_protocol_is_told_of(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        running(tmp_path, mosquitto, url=f"mqtt://127.0.0.1:{server.getsockname()[1]}") as side,
    ):
        for _ in range(2):  # it comes again after the first
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert not side.link.connected


# --- waits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ceiling", [1.0, 300.0])
def test_waits_have_full_jitter_between_a_second_and_the_ceiling(
    tmp_path: Path, ceiling: float
) -> None:
    config = agent_config(tmp_path, broker="mqtt://h", reconnect_seconds=ceiling)
    link = Link(config, SESSION, None, HandClock(), None)  # type: ignore[arg-type]
    for attempts in (1, 2, 5, 20, 10**6):
        assert link.pause(attempts, 0.0) == 1.0
        assert 1.0 <= link.pause(attempts, 0.999) <= ceiling
    assert link.pause(3, 0.5) == min(ceiling, 4.0)
    assert link.pause(20, 0.5) == max(1.0, ceiling / 2)
