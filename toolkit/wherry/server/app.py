"""Puts the server together: broker, link, driver and HTTP, started in order, ended in reverse."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from wherry.broker import Supervised, find_engine
from wherry.broker_settings import SERVER, Accounts
from wherry.files import write_durably
from wherry_contract.address import BrokerAddress
from wherry_contract.errors import RolloutError, SetupError
from wherry_contract.wire import SETTINGS, SLUG, Fields, parse_json

from .api import make_app
from .database import Database
from .depot import Depot
from .driver import Driver, Radio
from .ingest import Ingest
from .link import LOG, Link
from .office import Office, Site, with_credentials
from .orders import AssignmentSigner
from .round_trip import self_test
from .store import Store

_ENGINES: Final = ("auto", "mosquitto", "nats")
_DEFAULT_FLEET: Final = "fleet"
_PORT_PATIENCE_SECONDS: Final = 2.0  # for a broker that is still ending
_HTTP_STOP_SECONDS: Final = 2
_SETTINGS_LIMIT_BYTES: Final = 4096


@dataclass(frozen=True)
class Choice:
    """What `wherry serve` was told.

    Attributes:
        data: the data folder.
        host: where broker and HTTP listen.
        port: of HTTP; 0 for the one of last time, or a free one.
        broker: ``auto``, ``mosquitto`` or ``nats`` for a broker of our own, or a URL.
        fleet: its name; "" for that of last time.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 0
    broker: str = "auto"
    fleet: str = ""


@dataclass(frozen=True)
class _Kept:
    """What stays the same from start to start, because devices were told."""

    fleet: str = ""
    http_port: int = 0
    broker_port: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _Kept:
        if not path.exists():
            return cls()
        data = path.read_bytes()
        document = parse_json(data, limit=_SETTINGS_LIMIT_BYTES, what=path.name, domain=SETTINGS)
        fields = Fields(document, path.name, SETTINGS)
        return cls(
            fleet=fields.text("fleet", pattern=SLUG),
            http_port=fields.integer("http_port", 0, high=65_535),
            broker_port=fields.integer("broker_port", 0, high=65_535),
            extra=fields.rest(),
        )

    def write(self, path: Path) -> None:
        document = self.extra | {
            "fleet": self.fleet,
            "http_port": self.http_port,
            "broker_port": self.broker_port,
        }
        write_durably(path, json.dumps(document).encode())


@dataclass(frozen=True)
class Ready:
    """The server as it runs."""

    url: str
    broker: str
    fleet: str
    data: Path


def serve(choice: Choice, on_ready: Callable[[Ready], None]) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        choice: what was asked for.
        on_ready: called once devices and operators can come.

    Raises:
        SetupError: H04 no broker, H05 it does not start, H08 another fleet, H11, H12.
        LinkError: L01 to L03, the broker does not do what it must.
        StoreError: D01 or D06.
        RolloutError: R10, another server uses the data folder.
    """
    try:
        choice.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SetupError("H03", f"{choice.data}: {error.strerror}") from error
    with ExitStack() as stack:
        stack.enter_context(_locked(choice.data / "lock"))
        ending = _Ending()
        previous = {which: signal.signal(which, ending) for which in _SIGNALS}
        stack.callback(_restore, previous)
        _Server(choice, stack, ending).run(on_ready)


_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class _Interrupted(BaseException):  # no error, and nothing that may be caught on the way
    """A signal came while the server was starting."""


class _Ending:
    """What SIGTERM and SIGINT do: throw while starting, ask politely once HTTP is served.

    What is thrown may be swallowed, as inside a finalizer; so it is looked at again before
    the server waits for anything else.
    """

    def __init__(self) -> None:
        self._asked = False
        self._server: Any = None

    def __call__(self, _number: int, _frame: object) -> None:
        self._asked = True
        if self._server is not None:
            self._server.should_exit = True
            return
        for which in _SIGNALS:  # the end is on its way; once is enough
            signal.signal(which, signal.SIG_IGN)
        raise _Interrupted

    def serving(self, server: Any) -> None:
        """From now on this uvicorn server is told, and nothing is thrown into its event loop."""
        self._server = server
        if self._asked:
            raise _Interrupted


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for which, handler in handlers.items():
        signal.signal(which, handler)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RolloutError("R10", str(path.parent)) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))  # so that a command can see that we are starting
        stream.flush()
        yield


class _Server:
    """The parts while they run; each is ended by the stack, the last started first."""

    def __init__(self, choice: Choice, stack: ExitStack, ending: _Ending) -> None:
        self._choice = choice
        self._ending = ending
        self._stack = stack
        self._data = choice.data
        self._kept = self._keep()
        self._supervised: Supervised | None = None
        self._admitting = threading.Lock()

    def _keep(self) -> _Kept:
        kept = _Kept.read(self._data / "settings.json")
        wanted = self._choice.fleet or kept.fleet or _DEFAULT_FLEET
        if kept.fleet and wanted != kept.fleet:
            raise SetupError(
                "H08",
                f"this data folder is of fleet {kept.fleet}",
                cure="leave --fleet out, or choose another folder with --data",
            )
        return replace(kept, fleet=wanted)

    def run(self, on_ready: Callable[[Ready], None]) -> None:
        """Start everything, serve, end everything."""
        try:
            self._run(on_ready)
        except _Interrupted:
            LOG.info("interrupted")

    def _run(self, on_ready: Callable[[Ready], None]) -> None:
        listener = self._listen()
        port = listener.getsockname()[1]
        url = f"http://{_name(self._choice.host)}:{port}"
        store = self._open_store()
        signer = AssignmentSigner(self._data)
        address = self._start_broker(store)
        self._kept = replace(self._kept, http_port=port)
        self._kept.write(self._data / "settings.json")
        self_test(address, self._kept.fleet)

        fleet = self._kept.fleet
        driver = Driver(store, signer)
        ingest = Ingest(store, fleet, time.time, driver.news)
        link = Link(address, fleet, ingest, driver.connected)
        self._stack.callback(driver.stop)
        driver.start(Radio(lambda: link.listening_since, link.publish))
        self._stack.callback(link.stop)
        link.start()

        site = Site(url, fleet, self._device_broker, lambda: self._admit(store))
        office = Office(store, site, signer.public, time.time, driver.news)
        scratch = self._data / "uploads"
        scratch.mkdir(exist_ok=True)
        app = make_app(office, self._token(), scratch, life=lambda: self._life(link, driver))
        ready = Ready(url, address.url, fleet, self._data)
        self._announce(ready)
        on_ready(ready)
        _serve_http(app, listener, self._ending)

    def _life(self, link: Link, driver: Driver) -> dict[str, bool]:
        found = {"link": link.alive, "driver": driver.alive}
        return found | ({"broker": self._supervised.alive} if self._supervised else {})

    def _listen(self) -> socket.socket:
        wanted = self._choice.port or self._kept.http_port
        family = socket.AF_INET6 if ":" in self._choice.host else socket.AF_INET
        listener = socket.socket(family)
        self._stack.callback(listener.close)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._choice.host, wanted))
        except OSError as error:
            if self._choice.port or not wanted:
                raise SetupError(
                    "H11", f"{self._choice.host}:{wanted}: {error.strerror}"
                ) from error
            listener.bind((self._choice.host, 0))
        listener.listen(1024)
        return listener

    def _open_store(self) -> Store:
        keys = self._data / "keys"
        keys.mkdir(exist_ok=True)
        store = Store(Database(self._data / "fleet.sqlite"), Depot(self._data / "depot", keys))
        self._stack.callback(store.close)
        return store

    # --- the broker ---------------------------------------------------------------------

    def _start_broker(self, store: Store) -> BrokerAddress:
        if self._choice.broker not in _ENGINES:
            return BrokerAddress.from_url(self._choice.broker)
        engine = find_engine(self._choice.broker)
        port = _pick_port(self._choice.host, self._kept.broker_port)
        self._kept = replace(self._kept, broker_port=port)
        broker = Supervised(engine, self._data.absolute() / "broker", self._choice.host, port)
        self._supervised = broker
        self._admit(store)
        self._stack.callback(broker.stop)
        broker.start()
        return replace(
            broker.address, username=SERVER, password=self._accounts([]).password(SERVER)
        )

    def _accounts(self, devices: list[str]) -> Accounts:
        path = self._data / "broker.secret"
        if not path.exists():
            write_durably(path, secrets.token_bytes(32), mode=0o600)
        return Accounts(path.read_bytes(), self._kept.fleet, devices)

    def _admit(self, store: Store) -> None:
        if not self._supervised:
            return
        with self._admitting:  # else a shorter list, read before, may be written last
            self._supervised.write(self._accounts([row.device for row in store.devices()]))

    def _device_broker(self, device: str) -> str:
        """The broker's URL for a device; another's accounts are not ours to make."""
        if not self._supervised:
            return BrokerAddress.from_url(self._choice.broker).url
        address = replace(self._supervised.address, host=_name(self._choice.host))
        return with_credentials(address.url, device, self._accounts([]).password(device))

    # --- what commands look for ---------------------------------------------------------

    def _token(self) -> str:
        path = self._data / "token"
        if not path.exists():
            write_durably(path, secrets.token_hex(32).encode(), mode=0o600)
        return path.read_text().strip()

    def _announce(self, ready: Ready) -> None:
        document = {
            "schema": "wherry/server/1",
            "url": ready.url,
            "broker": ready.broker,
            "fleet": ready.fleet,
            "pid": os.getpid(),
        }
        path = self._data / "server.json"
        self._stack.callback(path.unlink, missing_ok=True)  # first: the end may come at once
        write_durably(path, json.dumps(document).encode())


def _name(host: str) -> str:
    """What devices connect to: this machine's name where it listens on every address."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _pick_port(host: str, last: int) -> int:
    """The port of last time, or a free one if somebody else has it now."""
    end = time.monotonic() + _PORT_PATIENCE_SECONDS
    while last and time.monotonic() < end:
        if found := _try_port(host, last):
            return found
        time.sleep(0.05)
    return _try_port(host, 0)


def _try_port(host: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if port:
                return 0
            raise SetupError("H08", f"{host}: {error.strerror}", cure="check --host") from error
        return int(probe.getsockname()[1])


def _serve_http(app: Any, listener: socket.socket, ending: _Ending) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_HTTP_STOP_SECONDS,
        server_header=False,
    )
    server = uvicorn.Server(config)
    ending.serving(server)
    # uvicorn handles both signals while it runs and raises them again when it has ended
    server.run(sockets=[listener])


def set_up_logging(*, verbose: bool) -> None:
    """Say on stderr what the server does; each line with its time."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
