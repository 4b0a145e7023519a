"""The broker as a supervised child: mosquitto where it is installed, else the NATS server.

This one file finds it, writes its settings, starts it on a port that stays the same,
starts it again when it dies, and lets it end when we end. `server.round_trip` tells
whether any broker, ours or another, does what it grants: several do not.

Devices come over TLS 1.3 with a certificate of the fleet's authority, and whose it is says
which topics they reach: their own, and each in one direction. On loopback everybody may
read; writing needs an account. Without TLS devices have accounts too; passwords are derived
from one secret in the data folder, so that nothing but that has to be kept.

Rights of devices are patterns, not rows for each: with a row for each of 10,000 devices
mosquitto stands still for 0.9 s whenever its list is read, which each new device needs
(benchmarks/broker_access.py). Only what was revoked is listed.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry_contract.address import BrokerAddress
from wherry_contract.errors import SetupError
from wherry_contract.extras import how_to_install

from .broker_settings import Accounts, Tls, mosquitto_settings, nats_settings
from .endure import LOG, Enduring
from .files import write_durably
from .leash import LEASH, leashed

_STOP_SECONDS: Final = 3.0
_READY_SECONDS: Final = 15.0
_BACKOFF_SECONDS: Final = (0.1, 10.0)
_LOG_SHOWN: Final = 400  # characters


@dataclass(frozen=True)
class Engine:
    """A broker that is installed: its kind, its program, how it is told its settings."""

    kind: str
    program: str
    settings: Callable[[Accounts, Path, str, int, Tls | None], Mapping[str, str]]


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
    cure = f"{how_to_install('host')}, or apt install mosquitto"
    raise SetupError("H04", "" if kind == "auto" else kind, cure=cure)


class Supervised:
    """A broker that runs, and runs again, until it is told to stop.

    A child on a leash ends with the *thread* that started it, so one thread starts them
    all and lives as long as this.
    """

    def __init__(
        self, engine: Engine, folder: Path, host: str, port: int, tls: Tls | None = None
    ) -> None:
        self._engine = engine
        self._tls = tls
        self._folder = folder
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = Enduring("broker", self._run, self._stop)
        self.address = BrokerAddress(host, port, tls=tls is not None)
        self.starts = 0
        self._last_words = ""

    @property
    def inner(self) -> BrokerAddress:
        """Where the server itself connects: on this machine, without TLS if there is a way."""
        if self._tls and self._engine.kind == "mosquitto":
            return BrokerAddress("127.0.0.1", self._tls.loopback)
        return self.address

    def write(self, accounts: Accounts) -> None:
        """Write the settings; a running broker reads accounts anew.

        Raises:
            StoreError: D01 or D06.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        address = self.address
        place = (self._folder, address.host, address.port)
        files = self._engine.settings(accounts, *place, self._tls)
        for name, text in files.items():
            write_durably(self._folder / name, text.encode(), mode=0o600)
        process = self._process
        if process and process.poll() is None and self._leash_is_off(process.pid):
            process.send_signal(signal.SIGHUP)

    def _leash_is_off(self, pid: int) -> bool:
        """Whether the program itself runs by now; before, it will read the new files anyway."""
        try:
            return LEASH not in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            SetupError: H05, it ended at once or did not listen in time.
        """
        self._thread.start()
        end = time.monotonic() + _READY_SECONDS
        while not (_listens(self.inner) and _listens(self.address)):
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
