"""The broker as our child: both engines, who may do what, what happens when it dies."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import Mosquitto, free_port, mosquitto_program, wait_for

from wherry.broker import Supervised, find_engine
from wherry.broker_settings import (
    SERVER,
    Accounts,
    is_loopback,
    mosquitto_settings,
    nats_settings,
)
from wherry.server.round_trip import connect, new_client, self_test
from wherry_contract.address import BrokerAddress
from wherry_contract.errors import LinkError, SetupError

ACCOUNTS = Accounts(b"s" * 32, "f", ["till-1", "till-2"])
ENGINES = ["mosquitto", "nats"]


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Supervised]:
    """A supervised broker of one kind."""
    broker = Supervised(find_engine(kind), folder / "broker", "127.0.0.1", free_port())
    broker.write(ACCOUNTS)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def as_whom(broker: Supervised, name: str) -> BrokerAddress:
    """The address with an account."""
    where = broker.address
    password = ACCOUNTS.password(name) if name else ""
    return BrokerAddress(where.host, where.port, username=name, password=password)


class Ear:
    """A client in a thread that keeps what it hears."""

    def __init__(self, address: BrokerAddress, hears: Sequence[str]) -> None:
        self.heard: set[tuple[str, bytes]] = set()
        self.ready = threading.Event()
        self.client = new_client(address, f"ear-{id(self)}")
        self.client.on_connect = lambda client, *_: client.subscribe([(one, 1) for one in hears])
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_message = self._on_message
        connect(self.client, address)
        self.client.loop_start()
        assert self.ready.wait(10)

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        self.heard.add((message.topic.removeprefix("wherry/v1/f/"), bytes(message.payload)))

    def close(self) -> None:
        """Go."""
        self.client.disconnect()
        self.client.loop_stop()


@pytest.mark.parametrize("kind", ENGINES)
def test_it_does_what_it_grants_and_keeps_devices_apart(kind: str, tmp_path: Path) -> None:
    with running(kind, tmp_path) as broker:
        self_test(as_whom(broker, SERVER), "f")
        own = [f"wherry/v1/f/till-1/{channel}" for channel in ("assignment", "ack", "presence")]
        ears = {
            "server": Ear(as_whom(broker, SERVER), ["wherry/v1/f/+/window", "wherry/v1/f/+/state"]),
            "till-1": Ear(as_whom(broker, "till-1"), own),
            # a device that would hear another's orders, by name and by wildcard
            "till-2": Ear(
                as_whom(broker, "till-2"), ["wherry/v1/f/till-1/assignment", "wherry/v1/f/+/ack"]
            ),
            "": Ear(as_whom(broker, ""), ["wherry/#"]),
        }
        try:
            for who, where in [
                ("", "till-1/window"),  # nobody
                ("till-2", "till-1/window"),  # somebody else
                ("till-1", "till-1/assignment"),  # a device that would order itself
                ("till-1", "till-1/window"),
                ("server", "till-1/assignment"),
            ]:
                said = f"{who or 'nobody'} says".encode()
                ears[who].client.publish(f"wherry/v1/f/{where}", said, 1)
            window = ("till-1/window", b"till-1 says")
            order = ("till-1/assignment", b"server says")
            wait_for(lambda: window in ears["server"].heard)
            wait_for(lambda: order in ears["till-1"].heard)
            wait_for(lambda: {window, order} <= ears[""].heard)
            ears["till-1"].client.publish("wherry/v1/f/till-1/state", b"last", 1)
            wait_for(lambda: ("till-1/state", b"last") in ears["server"].heard)
            assert ears["server"].heard == {window, ("till-1/state", b"last")}
            assert ears["till-1"].heard == {order}
            assert not [said for said in ears["till-2"].heard if said[0].startswith("till-1")]
        finally:
            for ear in ears.values():
                ear.close()


@pytest.mark.parametrize("kind", ENGINES)
def test_a_wrong_password_is_refused(kind: str, tmp_path: Path) -> None:
    with running(kind, tmp_path) as broker:
        where = broker.address
        stranger = BrokerAddress(where.host, where.port, username="till-1", password="0" * 40)
        with pytest.raises(LinkError) as caught:
            self_test(stranger, "f", seconds=5)
        assert caught.value.code == "L02"


@pytest.mark.parametrize("kind", ENGINES)
def test_a_new_device_gets_in_without_a_restart(kind: str, tmp_path: Path) -> None:
    with running(kind, tmp_path) as broker:
        before = broker.pid
        with pytest.raises(LinkError):
            self_test_as_device(broker, "till-3")
        broker.write(Accounts(b"s" * 32, "f", [*ACCOUNTS.devices, "till-3"]))

        def gets_in() -> bool:
            try:
                self_test_as_device(broker, "till-3")
            except LinkError:
                return False
            return True

        wait_for(gets_in)
        assert broker.pid == before


def self_test_as_device(broker: Supervised, name: str) -> None:
    """Connect with a device's account; L02 if it is refused."""
    refused: list[str] = []
    client = new_client(as_whom(broker, name), "probe")
    client.on_connect = lambda _c, _d, _f, reason, _p: refused.append(
        str(reason) if reason.is_failure else ""
    )
    connect(client, broker.address)
    wait_for(lambda: client.loop(0.05) != 0 or refused, seconds=5)
    client.disconnect()
    if refused != [""]:
        raise LinkError("L02", str(refused))


@pytest.mark.parametrize("kind", ENGINES)
def test_it_is_started_again_when_it_dies(kind: str, tmp_path: Path) -> None:
    with running(kind, tmp_path) as broker:
        before = broker.pid
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: broker.pid not in {0, before}, what="another one")

        def works() -> bool:
            try:
                self_test(as_whom(broker, SERVER), "f")
            except LinkError:
                return False
            return True

        wait_for(works)
    assert broker.pid == 0


_STARTS = """
import sys
from pathlib import Path
from wherry.broker import Accounts, Supervised, find_engine
broker = Supervised(find_engine(sys.argv[1]), Path(sys.argv[2]), "127.0.0.1", int(sys.argv[3]))
broker.write(Accounts(b"s" * 32, "f", []))
broker.start()
print(broker.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ENGINES)
def test_it_does_not_outlive_a_killed_server(kind: str, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _STARTS, kind, str(tmp_path / "broker"), str(free_port())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    wait_for(lambda: not _lives(child), what="the broker's end")


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# --- brokers that are not as they should be -------------------------------------------------


def _deaf(folder: Path, port: int) -> list[str]:
    """A mosquitto that grants every subscription and delivers nothing of ours."""
    (folder / "acl").write_text("topic write wherry/#\n")
    (folder / "deaf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nacl_file {folder / 'acl'}\n"
        f"user {getpass.getuser()}\n"
    )
    return [mosquitto_program(), "-c", str(folder / "deaf")]


def _forgetful(folder: Path, port: int) -> list[str]:
    """A mosquitto that delivers, and retains nothing."""
    (folder / "forgetful").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nretain_available false\n"
    )
    return [mosquitto_program(), "-c", str(folder / "forgetful")]


@pytest.mark.parametrize(
    ("make", "codes"),
    [
        pytest.param(_deaf, {"L03"}, id="delivers nothing"),
        pytest.param(_forgetful, {"L03", "L02"}, id="retains nothing"),
    ],
)
def test_the_self_test_finds_out(
    make: Callable[[Path, int], list[str]], codes: set[str], tmp_path: Path
) -> None:
    port = free_port()
    broker = subprocess.Popen(make(tmp_path, port), stderr=subprocess.DEVNULL)
    try:
        address = BrokerAddress("127.0.0.1", port)
        wait_for(lambda: _answers(address))
        with pytest.raises(LinkError) as caught:
            self_test(address, "f", seconds=0.8)
        assert caught.value.code in codes
    finally:
        broker.kill()
        broker.wait()


def _answers(address: BrokerAddress) -> bool:
    try:
        connect(client := new_client(address, "look"), address)
    except LinkError:
        return False
    client.disconnect()
    return True


def test_the_self_test_leaves_nothing_behind(mosquitto: Mosquitto) -> None:
    address = BrokerAddress("127.0.0.1", mosquitto.port)
    self_test(address, "f")
    ear = Ear(address, ["wherry/#"])
    try:
        ear.client.publish("wherry/v1/f/mark/state", b"mark", 1)
        wait_for(lambda: ear.heard)
        assert ear.heard == {("mark/state", b"mark")}
    finally:
        ear.close()


def test_no_broker_at_the_address() -> None:
    with pytest.raises(LinkError) as caught:
        self_test(BrokerAddress("127.0.0.1", free_port()), "f")
    assert caught.value.code == "L01"


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    engine = find_engine("mosquitto")
    broker = Supervised(engine, tmp_path / "broker", "192.0.2.1", 1883)  # TEST-NET, not ours
    broker.write(ACCOUNTS)
    with pytest.raises(SetupError) as caught:
        broker.start()
    assert caught.value.code == "H05"
    assert "address" in caught.value.detail


def test_a_kind_that_nobody_knows() -> None:
    with pytest.raises(SetupError) as caught:
        find_engine("carrier-pigeon")
    assert caught.value.code == "H04"


# --- pure -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://h", BrokerAddress("h", 1883)),
        ("mqtts://h:1", BrokerAddress("h", 1, tls=True)),
        ("mqtt://%40a:b%2Fc@h:1", BrokerAddress("h", 1, username="@a", password="b/c")),
        ("mqtt://[::1]:5", BrokerAddress("::1", 5)),
    ],
)
def test_addresses(url: str, address: BrokerAddress) -> None:
    assert BrokerAddress.from_url(url) == address


@pytest.mark.parametrize("url", ["h:1883", "http://h", "mqtt://", "mqtt://h:99999", "mosquito"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(SetupError) as caught:
        BrokerAddress.from_url(url)
    assert caught.value.code == "H12"


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("192.0.2.1", False), ("h", False)],
)
@pytest.mark.parametrize("settings", [mosquitto_settings, nats_settings])
def test_only_loopback_lets_anybody_read(
    settings: Callable[..., dict[str, str]], host: str, *, inside: bool
) -> None:
    text = "".join(settings(ACCOUNTS, Path("/x"), host, 1883).values())
    anybody = "allow_anonymous true" in text or "no_auth_user" in text
    assert is_loopback(host) is inside
    assert anybody is inside


def test_passwords_are_each_their_own_and_stay() -> None:
    names = [SERVER, "till-1", "till-2"]
    assert len({ACCOUNTS.password(name) for name in names}) == 3
    assert Accounts(b"s" * 32, "f", []).password("till-1") == ACCOUNTS.password("till-1")
    assert Accounts(b"t" * 32, "f", []).password("till-1") != ACCOUNTS.password("till-1")
    text = "".join(mosquitto_settings(ACCOUNTS, Path("/x"), "::1", 1).values())
    assert ACCOUNTS.password("till-1") not in text
