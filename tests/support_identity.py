"""What tests of identities share: a fleet's authority, devices that it certified, clients, a proxy."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from support import wait_for

from wherry.broker import Supervised, find_engine
from wherry.broker_settings import Accounts, Tls
from wherry.identity.authority import Authority, Issued, make_request, requested_key
from wherry.server.doors import client_context, server_context
from wherry.server.round_trip import connect, new_client
from wherry_agent.identity.tls import Identity, fleet_context
from wherry_contract.address import BrokerAddress

FLEET = "f"
YEAR = 365 * 86_400.0
UP = ("state", "presence", "window", "event")
DOWN = ("assignment", "ack", "command")


class Fleet:
    """An authority, its server's certificate, and devices; no server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "identity")
        names = ["127.0.0.1", "localhost"]
        self.certificate, self.key = self.authority.serve_as(names, time.time())

    def device(
        self, name: str, *, now: float | None = None, seconds: float = YEAR
    ) -> tuple[Identity, Issued]:
        """A device's folder as enrolment leaves it, certified at `now` for `seconds`."""
        key, csr = make_request()
        at = time.time() if now is None else now
        issued = self.authority.issue(requested_key(csr), name, at, seconds)
        folder = self.folder / f"{name}-{issued.serial[:6]}"
        folder.mkdir()
        (folder / "device.key").write_bytes(key)
        (folder / "device.pem").write_text(issued.pem)
        (folder / "fleet-ca.pem").write_text(self.authority.pem)
        return identity_in(folder), issued

    def tls(self, loopback: int) -> Tls:
        """What a broker is told."""
        return Tls(self.authority.file, self.certificate, self.key, loopback)

    @property
    def as_server(self) -> ssl.SSLContext:
        """TLS of the server's own link."""
        return client_context(self.certificate, self.key, self.authority.file)


def identity_in(folder: Path, enrol: str = "https://127.0.0.1:1/enrol") -> Identity:
    """The identity whose files lie in a folder."""
    files = (folder / name for name in ("device.key", "device.pem", "fleet-ca.pem"))
    return Identity(*files, enrol)


class Client:
    """An MQTT client in a thread that keeps what it hears and what happened to it."""

    def __init__(
        self, address: BrokerAddress, hears: Sequence[str], context: ssl.SSLContext | None = None
    ) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.granted: list[bool] = []
        self.connects = self.losses = 0
        self.refused = ""
        self.client = new_client(address, f"client-{id(self)}", context)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_message = self._on_message
        self._hears = [(one, 1) for one in hears]
        self.client.reconnect_delay_set(1, 1)
        try:
            connect(self.client, address)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is no connection
            self.refused = str(error)
        else:
            self.client.loop_start()

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            self.refused = str(reason)
            return
        self.connects += 1
        if self._hears:
            client.subscribe(self._hears)

    def _on_disconnect(self, *_: Any) -> None:
        self.losses += 1

    def _on_subscribe(self, _c: Any, _d: Any, _mid: int, reasons: list[Any], _m: Any) -> None:
        self.granted = [not reason.is_failure for reason in reasons]

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        self.heard.append((message.topic, bytes(message.payload)))

    def ready(self) -> Client:
        """Wait until it has subscribed."""
        wait_for(lambda: self.granted or (self.connects and not self._hears), what="a client")
        return self

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish."""
        self.client.publish(topic, payload, 1, retain=retain)

    def close(self) -> None:
        """Go."""
        self.client.disconnect()
        self.client.loop_stop()


@contextmanager
def running_broker(
    kind: str, fleet: Fleet, devices: Sequence[str], ports: tuple[int, int]
) -> Iterator[Supervised]:
    """A supervised broker with TLS for the length of a block."""
    tls = fleet.tls(ports[1])
    broker = Supervised(find_engine(kind), fleet.folder / "broker", "127.0.0.1", ports[0], tls)
    broker.write(accounts(fleet, devices))
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def accounts(
    fleet: Fleet, devices: Sequence[str], revoked: Sequence[str] = (), serials: Sequence[str] = ()
) -> Accounts:
    """Who may come, and who no longer."""
    listed = fleet.authority.revocations(serials, len(serials))
    return Accounts(b"s" * 32, FLEET, devices, revoked, listed)


def context_of(identity: Identity) -> ssl.SSLContext:
    """TLS of a device, or of whoever has its files."""
    return fleet_context(identity.authority, time.time, identity=identity)


@cache
def clock_shim() -> Path:
    """What, preloaded, moves a program's clock by CLOCK_SHIFT seconds."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "no C compiler is here; `make test-tools` installs gcc"
    built = Path(mkdtemp(prefix="wherry-clock-")) / "clock.so"
    source = Path(__file__).parent / "faults" / "clock.c"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", str(built), str(source), "-ldl"], check=True)
    return built


def with_clock(shift: float) -> dict[str, str]:
    """The environment of a program whose clock is wrong by so many seconds."""
    return os.environ | {"LD_PRELOAD": str(clock_shim()), "CLOCK_SHIFT": str(round(shift))}


@contextmanager
def interceptor(
    certificate: Path, key: Path, target: tuple[str, int]
) -> Iterator[tuple[int, list[bytes]]]:
    """A proxy that opens TLS with a certificate of its own; yields its port and what it read."""
    seen: list[bytes] = []
    context = server_context(certificate, key, None)

    def serve(plain: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(plain, server_side=True) as inside:
            inside.settimeout(5)
            while data := inside.recv(4096):
                seen.append(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    threading.Thread(target=serve, args=(plain,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], seen
