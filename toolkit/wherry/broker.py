"""The broker as a supervised child: mosquitto where it is installed, else the NATS server.

This one file finds it, writes its settings, starts it on a port that stays the same,
starts it again when it dies, and lets it end when we end. `server.round_trip` tells
whether any broker, ours or another, does what it grants: several do not.

On loopback everybody may read; writing needs an account, and a device's account reaches
the device's own topics alone. Passwords are derived from one secret in the data folder,
so that nothing but that has to be kept.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import hmac
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wherry_contract.address import BrokerAddress
from wherry_contract.errors import SetupError
from wherry_contract.topics import DOWN, UP

from .endure import LOG, Enduring
from .files import write_durably
from .leash import leashed

SERVER: Final = "@server"  # no device can have this id
_READER: Final = "@reader"
_PACKET_BYTES: Final = 4 * 2**20  # larger than any message, so that the ingest can refuse it
_STOP_SECONDS: Final = 3.0
_READY_SECONDS: Final = 15.0
_BACKOFF_SECONDS: Final = (0.1, 10.0)
_LOG_SHOWN: Final = 400  # characters
_CONSUMERS: Final = 50_000  # NATS has 1,000 by default, and refuses the rest quietly


class Accounts:
    """Who may do what at our own broker; passwords come from one secret."""

    def __init__(self, secret: bytes, fleet: str, devices: Iterable[str]) -> None:
        self._secret = secret
        self.fleet = fleet
        self.devices = sorted(devices)

    def password(self, name: str) -> str:
        """The password of the server's or a device's account, 40 hexadecimal digits."""
        return hmac.new(self._secret, f"broker:{name}".encode(), hashlib.sha256).hexdigest()[:40]

    @property
    def names(self) -> list[str]:
        """Every account."""
        return [SERVER, *self.devices]


def mosquitto_settings(accounts: Accounts, folder: Path, host: str, port: int) -> dict[str, str]:
    """Mosquitto's files by name: settings, passwords, access list (mosquitto.conf(5))."""
    anonymous = is_loopback(host)
    where = f"wherry/v1/{accounts.fleet}/%u"
    settings = {
        "listener": f"{port} {host}",
        "allow_anonymous": "true" if anonymous else "false",
        "password_file": str(folder / "passwords"),
        "acl_file": str(folder / "acl"),
        "persistence": "true",
        "persistence_location": f"{folder}/",
        "autosave_interval": "300",
        "max_packet_size": str(_PACKET_BYTES),
        "max_inflight_messages": "200",
        "max_queued_messages": "20000",
        "set_tcp_nodelay": "true",
        "sys_interval": "0",
        "user": getpass.getuser(),  # started by root it would else become `mosquitto`
        "log_dest": "stderr",
    }
    lines = [f"{name} {value}" for name, value in settings.items()]
    lines += [f"log_type {kind}" for kind in ("error", "warning")]
    readers = ["topic read wherry/#"] if anonymous else []  # before any user: for nameless ones
    rules = [*readers, f"user {SERVER}", "topic readwrite wherry/#"]
    rules += [f"pattern write {where}/{channel}" for channel in UP]
    rules += [f"pattern read {where}/{channel}" for channel in (*DOWN, "presence")]
    passwords = [f"{name}:{_mosquitto_hash(accounts.password(name))}" for name in accounts.names]
    files = {"settings": lines, "acl": rules, "passwords": passwords}
    return {name: "\n".join(text) + "\n" for name, text in files.items()}


def _mosquitto_hash(password: str) -> str:
    """As mosquitto_passwd(1) writes it; our passwords are long, so few rounds do."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def nats_settings(accounts: Accounts, folder: Path, host: str, port: int) -> dict[str, str]:
    """The NATS server's settings (docs.nats.io, MQTT); its topics have dots for slashes."""
    where = f"wherry.v1.{accounts.fleet}"
    inner = ["$MQTT.sub.>", "$MQTT.deliver.pubrel.>"]  # how a QoS 1 subscription is fed
    server = {"publish": ["wherry.>", "$MQTT.>"], "subscribe": ["wherry.>", "$MQTT.>"]}
    users: list[dict[str, Any]] = [
        {"user": SERVER, "password": accounts.password(SERVER), "permissions": server}
    ]
    for name in accounts.devices:
        rights = {
            "publish": [f"{where}.{name}.{channel}" for channel in UP],
            "subscribe": [f"{where}.{name}.{channel}" for channel in (*DOWN, "presence")] + inner,
        }
        password = accounts.password(name)
        users.append({"user": name, "password": password, "permissions": rights})
    mqtt: dict[str, Any] = {"host": host, "port": port, "max_ack_pending": 1000}
    if is_loopback(host):
        reading = {"publish": {"deny": [">"]}, "subscribe": ["wherry", "wherry.>", *inner]}
        password = accounts.password(_READER)
        users.append({"user": _READER, "password": password, "permissions": reading})
        mqtt["no_auth_user"] = _READER
    jetstream = {"max_consumers": _CONSUMERS}
    settings = {
        "server_name": f"wherry-{accounts.fleet}",
        "host": "127.0.0.1",
        "port": -1,  # its own protocol is not used
        "max_payload": _PACKET_BYTES,
        "jetstream": {"store_dir": str(folder / "jetstream")},
        "mqtt": mqtt,
        "accounts": {"fleet": {"users": users, "jetstream": jetstream}},
    }
    return {"settings": json.dumps(settings, indent=1) + "\n"}


@dataclass(frozen=True)
class Engine:
    """A broker that is installed: its kind, its program, how it is told its settings."""

    kind: str
    program: str
    settings: Callable[[Accounts, Path, str, int], Mapping[str, str]]


def find_engine(kind: str = "auto") -> Engine:
    """The broker to run: mosquitto if it is installed, else the NATS server.

    Args:
        kind: ``auto``, or ``mosquitto`` or ``nats`` for that one alone.

    Raises:
        SetupError: H04.
    """
    places = {
        "mosquitto": ("mosquitto", mosquitto_settings, "/usr/sbin:/usr/local/sbin"),
        "nats": ("nats-server", nats_settings, sysconfig.get_path("scripts")),
    }
    for name, (program, settings, extra) in places.items():
        found = shutil.which(program, path=extra) or shutil.which(program)
        if found and kind in ("auto", name):
            return Engine(name, found, settings)
    raise SetupError("H04", "" if kind == "auto" else kind)


def is_loopback(host: str) -> bool:
    """Whether an address reaches no further than this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Supervised:
    """A broker that runs, and runs again, until it is told to stop.

    A child on a leash ends with the *thread* that started it, so one thread starts them
    all and lives as long as this.
    """

    def __init__(self, engine: Engine, folder: Path, host: str, port: int) -> None:
        self._engine = engine
        self._folder = folder
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = Enduring("broker", self._run, self._stop)
        self.address = BrokerAddress(host, port)
        self.starts = 0
        self._last_words = ""

    def write(self, accounts: Accounts) -> None:
        """Write the settings; a running broker reads accounts anew.

        Raises:
            StoreError: D01 or D06.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        address = self.address
        files = self._engine.settings(accounts, self._folder, address.host, address.port)
        for name, text in files.items():
            write_durably(self._folder / name, text.encode(), mode=0o600)
        process = self._process
        if process and process.poll() is None and self._leash_is_off(process.pid):
            process.send_signal(signal.SIGHUP)

    def _leash_is_off(self, pid: int) -> bool:
        """Whether the program itself runs by now; before, it will read the new files anyway."""
        try:
            return b"wherry.leash" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            SetupError: H05, it ended at once or did not listen in time.
        """
        self._thread.start()
        end = time.monotonic() + _READY_SECONDS
        while not _listens(self.address):
            if self.starts > 1 or time.monotonic() > end:
                self.stop()
                raise SetupError("H05", f"{self._engine.program}: {self._last_words}")
            time.sleep(0.02)

    @property
    def alive(self) -> bool:
        """Whether a broker runs now."""
        return self._thread.alive and self.pid != 0

    @property
    def pid(self) -> int:
        """Of the child that runs now; 0 between two."""
        process = self._process
        return process.pid if process and process.poll() is None else 0

    @property
    def _log(self) -> Path:
        return self._folder / "broker.log"

    def _run(self) -> None:
        pause, longest = _BACKOFF_SECONDS
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._run_once()
            except OSError as error:  # a full disk, no file handles, no memory: it may pass
                self._last_words = str(error)
                LOG.error("the broker does not start: %s", error)
            lived = time.monotonic() - began
            pause = _BACKOFF_SECONDS[0] if lived > longest else min(longest, pause * 2)
            self._stop.wait(pause)

    def _run_once(self) -> None:
        settings = str(self._folder / "settings")
        command = leashed([self._engine.program, "-c", settings])
        with self._log.open("wb") as log:
            # a session of its own, so that Ctrl-C reaches us alone and we end it in order
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._process = process
        self.starts += 1
        if self._stop.is_set():
            process.terminate()
        process.wait()
        said = self._log.read_text(errors="replace").strip()[-_LOG_SHOWN:]
        self._last_words = said or self._last_words

    def stop(self) -> None:
        """End it within a few seconds."""
        self._stop.set()
        process = self._process
        if process:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join(_STOP_SECONDS)


def _listens(address: BrokerAddress) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((reachable(address.host), address.port)) == 0


def reachable(host: str) -> str:
    """What to connect to where a server listens on every address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
