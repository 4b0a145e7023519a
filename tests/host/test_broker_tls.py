"""The real brokers with TLS: what a stolen identity reaches, and what is left of a revoked one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import free_port, wait_for
from support_identity import (
    DOWN,
    FLEET,
    UP,
    Client,
    Fleet,
    accounts,
    context_of,
    running_broker,
)

from wherry.broker import Supervised
from wherry.broker_settings import SERVER, Accounts
from wherry.server.round_trip import self_test, take_over
from wherry_contract.address import BrokerAddress
from wherry_contract.errors import LinkError

KINDS = ["mosquitto", "nats"]
ROOT = f"wherry/v1/{FLEET}"
VICTIM, THIEF = "till-1", "till-2"


class Scene:
    """A broker, the server's own client, and devices."""

    def __init__(self, kind: str, broker: Supervised, fleet: Fleet, stack: ExitStack) -> None:
        self.kind, self.broker, self.fleet, self._stack = kind, broker, fleet, stack

    def client(self, name: str, *hears: str, context: object = None) -> Client:
        """A device with a certificate of its own, or with that context."""
        tls = context or context_of(self.fleet.device(name)[0])
        found = Client(self.broker.address, hears, tls)  # type: ignore[arg-type]
        self._stack.callback(found.close)
        return found

    def server(self, *hears: str) -> Client:
        """The server's own link."""
        inner = self.broker.inner
        context = self.fleet.as_server if inner.tls else None
        if not inner.tls:
            password = Accounts(b"s" * 32, FLEET, []).password(SERVER)
            inner = BrokerAddress(inner.host, inner.port, username=SERVER, password=password)
        found = Client(inner, hears, context)
        self._stack.callback(found.close)
        return found.ready()


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    fleet = Fleet(tmp_path)
    ports = free_port(), free_port()
    with (
        running_broker(request.param, fleet, [VICTIM, THIEF], ports) as broker,
        ExitStack() as stack,
    ):
        yield Scene(request.param, broker, fleet, stack)


def test_a_stolen_identity_reaches_nothing_of_another_device(scene: Scene) -> None:
    """Every channel of another device: none is read, none is written, by name or by wildcard."""
    server = scene.server(f"{ROOT}/#")
    named = [f"{ROOT}/{VICTIM}/{channel}" for channel in UP + DOWN]
    wild = [f"{ROOT}/+/{channel}" for channel in UP + DOWN]
    wider = [f"{ROOT}/{VICTIM}/#", f"{ROOT}/{VICTIM}/+", f"{ROOT}/#", "wherry/#", "#", "$SYS/#"]
    # each in a connection of its own: one refusal must not hide what another grants
    own = [f"{ROOT}/{THIEF}/{channel}" for channel in DOWN]
    spies = []
    for filters in (named, wild, wider):
        spies.append(scene.client(THIEF, *filters, *own).ready())
        if scene.kind == "mosquitto":  # one connection for one identity: look before the next
            _look(scene, server, spies[-1], own)
    if scene.kind == "nats":
        for spy in spies:
            _look(scene, server, spy, own)

    thief = scene.client(THIEF).ready()
    for channel in UP + DOWN:
        thief.say(f"{ROOT}/{VICTIM}/{channel}", b"forged", retain=True)
    for channel in DOWN:  # nor its own orders
        thief.say(f"{ROOT}/{THIEF}/{channel}", b"forged", retain=True)
    thief.say(f"wherry/v1/other/{THIEF}/state", b"forged")
    thief.say(f"{ROOT}/{THIEF}/event", b"its own")
    wait_for(lambda: (f"{ROOT}/{THIEF}/event", b"its own") in server.heard, what="its own topic")
    assert not [topic for topic, payload in server.heard if payload == b"forged"]
    late = scene.server(f"{ROOT}/#")
    wait_for(lambda: late.heard, what="what is retained")
    assert not [topic for topic, payload in late.heard if payload == b"forged"]


def _look(scene: Scene, server: Client, spy: Client, own: list[str]) -> None:
    """Say something on every channel, by who may; the spy hears its own and nothing else."""
    victim = scene.client(VICTIM).ready()
    mark = f"mark {time.monotonic_ns()}".encode()
    for channel in UP:
        victim.say(f"{ROOT}/{VICTIM}/{channel}", b"secret", retain=True)
    wait_for(lambda: (f"{ROOT}/{VICTIM}/event", b"secret") in server.heard, what="the victim")
    for channel in DOWN:
        server.say(f"{ROOT}/{VICTIM}/{channel}", b"secret", retain=channel == "assignment")
    for topic in own:
        server.say(topic, mark)
    wait_for(lambda: {(topic, mark) for topic in own} <= set(spy.heard), what="its own topics")
    assert {topic for topic, _ in spy.heard} == set(own)
    victim.close()


def test_each_device_does_what_it_must(scene: Scene) -> None:
    server = scene.server(f"{ROOT}/+/window", f"{ROOT}/+/state")
    down = [f"{ROOT}/{VICTIM}/{channel}" for channel in (*DOWN, "presence")]
    device = scene.client(VICTIM, *down).ready()
    assert device.granted == [True] * len(down)
    device.say(f"{ROOT}/{VICTIM}/window", b"w")
    server.say(f"{ROOT}/{VICTIM}/command", b"c")
    wait_for(lambda: (f"{ROOT}/{VICTIM}/window", b"w") in server.heard)
    wait_for(lambda: (f"{ROOT}/{VICTIM}/command", b"c") in device.heard)


def test_the_server_does_its_own_test(scene: Scene) -> None:
    inner = scene.broker.inner
    context = scene.fleet.as_server if inner.tls else None
    password = Accounts(b"s" * 32, FLEET, []).password(SERVER)
    address = inner if inner.tls else BrokerAddress(inner.host, inner.port, False, SERVER, password)
    self_test(address, FLEET, context=context)


def test_who_is_revoked_is_cut_off_at_once_and_refused(scene: Scene) -> None:
    """No restart, and the others stay connected."""
    identity, issued = scene.fleet.device(THIEF)
    server = scene.server(f"{ROOT}/+/event", f"{ROOT}/+/presence")
    other = scene.client(VICTIM, f"{ROOT}/{VICTIM}/command").ready()
    topic = f"{ROOT}/{THIEF}/assignment"
    thief = scene.client(THIEF, topic, context=context_of(identity)).ready()
    assert thief.granted == [True]
    before = scene.broker.pid

    scene.broker.write(accounts(scene.fleet, [VICTIM, THIEF], [THIEF], [issued.serial]))
    if scene.kind == "mosquitto":
        take_over(scene.broker.inner, THIEF)
    wait_for(lambda: thief.losses, what="the end of its connection")
    again = scene.client(THIEF, topic, context=context_of(identity))
    wait_for(lambda: again.refused or again.losses, what="the refusal")
    server.say(topic, b"secret", retain=True)
    thief.say(f"{ROOT}/{THIEF}/event", b"still here")
    again.say(f"{ROOT}/{THIEF}/event", b"still here")
    server.say(f"{ROOT}/{VICTIM}/command", b"go on")
    wait_for(lambda: other.heard, what="the other device")
    wait_for(lambda: thief.losses > 1, what="another try of it")  # it comes back once a second
    assert (thief.connects, again.connects) == (1, 0)
    assert not thief.heard + again.heard
    assert not [payload for _, payload in server.heard if payload == b"still here"]
    assert (other.connects, other.losses) == (1, 0)
    assert scene.broker.pid == before


def test_a_connection_that_outlives_its_revocation_reaches_nothing(scene: Scene) -> None:
    """Before it is cut, its rights are gone already."""
    if scene.kind == "nats":
        pytest.skip("the NATS server cuts it by itself")
    server = scene.server(f"{ROOT}/+/event")
    thief = scene.client(THIEF, f"{ROOT}/{THIEF}/command").ready()
    scene.broker.write(accounts(scene.fleet, [], [THIEF]))
    numbers = itertools.count()

    def is_deaf() -> bool:
        heard = len(thief.heard)
        server.say(f"{ROOT}/{THIEF}/command", f"{next(numbers)}".encode())
        time.sleep(0.1)  # nothing tells that nothing comes
        return len(thief.heard) == heard

    wait_for(is_deaf, what="the new list")
    thief.say(f"{ROOT}/{THIEF}/event", b"still here")
    mark = scene.client(VICTIM).ready()
    mark.say(f"{ROOT}/{VICTIM}/event", b"mark")
    wait_for(lambda: (f"{ROOT}/{VICTIM}/event", b"mark") in server.heard)
    assert [payload for _, payload in server.heard] == [b"mark"]


def test_the_old_certificate_of_a_device_with_a_new_key(scene: Scene) -> None:
    """Mosquitto tells two certificates of one device apart; the NATS server cannot."""
    old, issued = scene.fleet.device(VICTIM)
    fresh, _ = scene.fleet.device(VICTIM)
    scene.broker.write(accounts(scene.fleet, [VICTIM], [], [issued.serial]))

    def comes_in(identity: object) -> bool:
        found = scene.client(VICTIM, context=context_of(identity))  # type: ignore[arg-type]
        wait_for(lambda: found.connects or found.refused or found.losses)
        found.close()
        return bool(found.connects)

    if scene.kind == "mosquitto":
        wait_for(lambda: not comes_in(old), what="the refusal of the old one")
    else:
        assert comes_in(old)  # docs/server.md says so
    assert comes_in(fresh)


def _stranger(fleet: Fleet) -> object:
    return context_of(Fleet(_made(fleet.folder / "strange")).device(VICTIM)[0])


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("row", ["of another authority", "expired", "none", "TLS 1.2"])
def test_who_does_not_come_in(scene: Scene, row: str) -> None:
    from wherry_agent.identity.tls import fleet_context

    identity = scene.fleet.device(VICTIM)[0]
    context = fleet_context(identity.authority, time.time, identity=identity)
    if row == "of another authority":
        other = Fleet(_made(scene.fleet.folder / "strange")).device(VICTIM)[0]
        context = fleet_context(identity.authority, time.time)
        context.load_cert_chain(other.certificate, other.key)
    elif row == "expired":
        old = scene.fleet.device(VICTIM, now=time.time() - 401 * 86_400, seconds=86_400)[0]
        context = fleet_context(identity.authority, time.time, identity=old)
    elif row == "none":
        context = fleet_context(identity.authority, time.time)
    else:
        context.minimum_version = context.maximum_version = context.minimum_version.TLSv1_2
    found = scene.client(VICTIM, context=context)
    wait_for(lambda: found.refused or found.losses, what="a refusal")
    assert not found.connects


def test_nothing_but_tls_is_spoken_beyond_loopback(scene: Scene) -> None:
    address = scene.broker.address
    found = Client(BrokerAddress(address.host, address.port), [])
    try:
        wait_for(lambda: found.refused or found.losses, what="a refusal")
        assert not found.connects
    finally:
        found.close()


def test_listening_on_this_machine_needs_no_account_and_writing_does(scene: Scene) -> None:
    if scene.kind == "nats":
        pytest.skip("its one MQTT listener has TLS")
    server = scene.server(f"{ROOT}/#")
    ear = Client(scene.broker.inner, ["wherry/#"]).ready()
    try:
        ear.say(f"{ROOT}/{VICTIM}/state", b"forged")
        device = scene.client(VICTIM).ready()
        device.say(f"{ROOT}/{VICTIM}/state", b"mine")
        wait_for(lambda: (f"{ROOT}/{VICTIM}/state", b"mine") in ear.heard)
        assert [payload for _, payload in server.heard] == [b"mine"]
    finally:
        ear.close()


def test_taking_over_a_broker_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="L01"):
        take_over(BrokerAddress("127.0.0.1", free_port()), "till-1")
