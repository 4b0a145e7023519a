"""Puts the server together: broker, link, driver and HTTP, started in order, ended in reverse."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from wherry.broker_settings import is_loopback
from wherry.files import write_durably
from wherry.repository.lab import OFFLINE, hold_ceremony
from wherry.repository.repository import Repository
from wherry_contract.address import BrokerAddress
from wherry_contract.errors import SetupError
from wherry_contract.messages import Presence
from wherry_contract.wire import SLUG

from .api import make_app
from .asker import Asker
from .choice import Choice, Ready
from .database import Database
from .depot import Depot
from .driver import Driver, Radio
from .duty import Duty
from .ending import SIGNALS, Ending, Interrupted, locked, restore, serve_http
from .fleet_broker import FleetBroker
from .ingest import Ingest
from .kept import Kept, bare_host, known_registry, listen, pick_port, url_host
from .link import LOG, Link
from .notary import Notary
from .office import Office, Site
from .orders import AssignmentSigner, ListedSigner
from .place import keep_place, open_patiently
from .premises import Premises
from .registrar import Registrar
from .round_trip import self_test, shares
from .sharing import Sharing
from .store import Store
from .teller import Teller
from .watching import Watching

_DEFAULT_FLEET: Final = "fleet"


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
        choice.own.mkdir(parents=True, exist_ok=True, mode=0o700)
        stack.enter_context(locked(choice.own / "lock"))
        ending = Ending()
        previous = {which: signal.signal(which, ending) for which in SIGNALS}
        stack.callback(restore, previous)
        _Server(choice, stack, ending).run(on_ready)


class _Server:
    """The parts while they run; each is ended by the stack, the last started first."""

    def __init__(self, choice: Choice, stack: ExitStack, ending: Ending) -> None:
        self._choice = choice
        self._ending = ending
        self._stack = stack
        self._data = choice.data  # of the fleet
        self._own = choice.own  # of this server
        self._kept = self._keep()
        self._premises: Premises | None = None

    def _keep(self) -> Kept:
        self._check_member()
        kept = Kept.read(self._own / "settings.json")
        if self._choice.member and not kept.fleet:
            kept = replace(Kept.read(self._data / "settings.json"), ports={})
        wanted = self._choice.fleet or kept.fleet or _DEFAULT_FLEET
        if kept.fleet and wanted != kept.fleet:
            raise SetupError(
                "H08",
                f"this data folder is of fleet {kept.fleet}",
                cure="leave --fleet out, or choose another folder with --data",
            )
        if self._choice.pinned and not kept.pinned and Repository(self._data).exists:
            cure = "leave --pinned out, or choose another folder with --data"
            raise SetupError("H08", "the devices of this data folder have a root", cure=cure)
        return replace(
            kept,
            fleet=wanted,
            pinned=kept.pinned or self._choice.pinned,
            windows=self._choice.windows or kept.windows,
            registry=known_registry(self._choice.registry or kept.registry),
        )

    def _check_member(self) -> None:
        choice = self._choice
        if not choice.member:
            return
        if not re.fullmatch(SLUG, choice.member):
            raise SetupError("H08", f"--member {choice.member[:40]!r}", cure=f"name it like {SLUG}")
        if "://" not in choice.broker:
            cure = "give --broker the URL of the one where all devices meet"
            raise SetupError("H08", "a further server has no broker of its own", cure=cure)

    def run(self, on_ready: Callable[[Ready], None]) -> None:
        """Start everything, serve, end everything."""
        try:
            self._run(on_ready)
        except Interrupted:
            LOG.info("interrupted")

    def _run(self, on_ready: Callable[[Ready], None]) -> None:
        listener = self._listen("http", self._own_host, self._choice.port)
        url = f"http://{url_host(self._own_host)}:{listener.getsockname()[1]}"
        database = self._open_database()
        repository = self._open_repository(database)
        store = Store(database, Depot(self._data / "depot", self._keys, repository))
        signer = self._open_signer(repository)
        doors = self._open_premises()
        broker = FleetBroker(self._choice.broker, self._data, self._kept.fleet, self._premises)
        self._stack.callback(broker.stop)
        address = broker.start(self._choice.host, self._choice.ports[2], self._pick_port, store)
        self._kept.write(self._own / "settings.json")
        context = self._premises.client if self._premises and address.tls else None
        self_test(address, self._kept.fleet, context=context)

        fleet = self._kept.fleet
        asker = Asker(store, signer, self._key_of, self._is_out)
        driver = Driver(store, signer, key_of=self._key_of, asker=asker)
        asker.news = driver.news
        ingest = Ingest(store, fleet, time.time, driver.news, lambda: driver.leads)
        sharing = self._sharing(store, address, context)
        link = Link(address, fleet, ingest, driver.connected, context, sharing=sharing)
        self._stack.callback(driver.stop)
        driver.start(Radio(lambda: link.listening_since, link.publish))
        self._stack.callback(link.stop)
        link.start()

        depot, enrol = self._places(url, doors)
        site = Site(
            depot,
            fleet,
            lambda device: broker.url_for(device, self._told_host),
            lambda: broker.admit(store),
            enrol,
            broker.is_ours,
            self._kept.windows,
            self._kept.registry,
        )
        root = repository.root_file if repository else None
        office = Office(store, site, signer.public, time.time, driver.news, root)
        registrar = self._open_doors(office, doors, signer, link, broker)
        scratch = self._own / "uploads"
        scratch.mkdir(exist_ok=True)
        watching = Watching(store)
        teller = Teller(self._choice.telling, watching, self._data)
        self._stack.callback(teller.stop)
        teller.start()
        app = make_app(
            office,
            self._token("token"),
            scratch,
            registrar,
            asker,
            life=lambda: self._life(link, driver, broker, teller),
            scraper=self._token("metrics.token"),
            most_devices=self._choice.metrics_devices,
            data=self._data,
            watching=watching,
        )
        told = {"broker": broker.url(self._told_host), "depot": f"{depot}/depot", "enrol": enrol}
        ready = Ready(url, address.url, told, fleet, self._data)
        self._announce(ready)
        on_ready(ready)
        serve_http(app, listener, self._ending)

    @property
    def _own_host(self) -> str:
        """Where operators come: over plain HTTP nowhere but on this machine, unless told so."""
        host = self._choice.host
        return host if self._choice.plain or is_loopback(host) else "127.0.0.1"

    def _life(
        self, link: Link, driver: Driver, broker: FleetBroker, teller: Teller
    ) -> dict[str, bool]:
        found = {"link": link.alive, "driver": driver.alive}
        found |= {} if teller.idle else {"hooks": teller.alive}
        found |= {"doors": self._premises.doors.alive} if self._premises else {}
        return found | ({"broker": broker.alive} if broker.is_ours else {})

    def _listen(self, name: str, host: str, port: int) -> socket.socket:
        listener = listen(host, port, self._kept.ports.get(name, 0))
        self._stack.callback(listener.close)
        self._kept = self._kept.with_port(name, listener.getsockname()[1])
        return listener

    @property
    def _keys(self) -> Path:
        return self._data / "keys"

    def _open_repository(self, database: Database) -> Repository | None:
        """The repository, after a laboratory's ceremony if nobody held one; none with pinned keys."""
        repository = Repository(self._data)
        if not repository.exists and self._kept.pinned:
            return None
        if not repository.exists:
            hold_ceremony(repository, self._keys)
            LOG.warning(
                "every key of this fleet was made in %s: take %s away before it is more than"
                " a trial (docs/security.md)",
                self._keys,
                ", ".join(OFFLINE),
            )
        notary = Notary(repository, self._keys, Duty(database, "notary"))
        self._stack.callback(notary.stop)
        notary.start()
        return repository

    def _open_signer(self, repository: Repository | None) -> AssignmentSigner:
        return ListedSigner(self._keys, repository) if repository else AssignmentSigner(self._data)

    def _open_database(self) -> Database:
        self._keys.mkdir(exist_ok=True)
        keep_place(self._data, self._choice.store)
        self._database = open_patiently(self._data)
        self._stack.callback(self._database.close)
        if self._choice.member and not self._database.shared:
            cure = "give --store the URL of a PostgreSQL database"
            raise SetupError("H08", "several servers cannot share a file", cure=cure)
        return self._database

    def _sharing(
        self, store: Store, address: BrokerAddress, context: ssl.SSLContext | None
    ) -> Sharing:
        if not store.shared:
            return Sharing()
        if shares(address, self._kept.fleet, context=context):
            return Sharing(by_broker=True)
        LOG.info("the broker shares nothing out: servers divide the devices")
        return Sharing(shards=store.shards())

    # --- TLS ----------------------------------------------------------------------------

    def _open_premises(self) -> tuple[socket.socket, socket.socket] | None:
        if self._choice.plain:
            return None
        host = self._choice.host
        names = {bare_host(host), "localhost", "127.0.0.1", *self._choice.names}
        self._premises = Premises(self._data / "identity", names, self._database)
        depot, enrol, _ = self._choice.ports
        return self._listen("depot", host, depot), self._listen("enrol", host, enrol)

    def _places(self, url: str, doors: tuple[socket.socket, socket.socket] | None) -> list[str]:
        """Base URL of the depot, and URL of enrolment."""
        if doors is None:
            return [url, ""]
        depot, enrol = (f"https://{self._told_host}:{door.getsockname()[1]}" for door in doors)
        return [depot, f"{enrol}/enrol"]

    def _key_of(self, device: str) -> str:
        """The fingerprint of a device's key, so that no other device obeys."""
        held = self._premises.registry.identity(device) if self._premises else None
        return held.fingerprint if held else ""

    def _is_out(self, device: str) -> bool:
        held = self._premises.registry.identity(device) if self._premises else None
        return bool(held and held.revoked_at)

    @property
    def _told_host(self) -> str:
        """What devices are told to connect to."""
        return url_host(self._choice.names[0] if self._choice.names else self._choice.host)

    def _open_doors(
        self,
        office: Office,
        doors: tuple[socket.socket, socket.socket] | None,
        signer: AssignmentSigner,
        link: Link,
        broker: FleetBroker,
    ) -> Registrar | None:
        premises = self._premises
        if premises is None or doors is None:
            return None

        def changed(device: str) -> None:
            broker.admit(office.store)
            premises.cut(device, broker.plain_inner)
            row = office.store.device(device)
            if row.online:  # the broker did not take its will, for it may write nothing
                link.publish(device, "presence", Presence(device, False, row.session).to_bytes())

        authority, registry = premises.authority, premises.registry
        registrar = Registrar(office, registry, authority, time.time, changed)
        self._stack.callback(premises.doors.stop)
        depot = office.store.depot
        premises.open(doors, registrar, depot, lambda nonce: signer.tell_time(nonce, time.time()))
        return registrar

    def _pick_port(self, name: str, host: str, port: int) -> int:
        found = pick_port(host, port or self._kept.ports.get(name, 0))
        if port and found != port:
            raise SetupError("H11", f"{host}:{port}")
        self._kept = self._kept.with_port(name, found)
        return found

    # --- what commands look for ---------------------------------------------------------

    def _token(self, name: str) -> str:
        path = self._data / name
        if not path.exists():
            write_durably(path, secrets.token_hex(32).encode(), mode=0o600)
        return path.read_text().strip()

    def _announce(self, ready: Ready) -> None:
        document = {
            "schema": "wherry/server/1",
            "url": ready.url,
            "broker": ready.broker,
            "devices": dict(ready.devices),
            "fleet": ready.fleet,
            "pid": os.getpid(),
        }
        path = self._own / "server.json"
        self._stack.callback(path.unlink, missing_ok=True)  # first: the end may come at once
        write_durably(path, json.dumps(document).encode())


def set_up_logging(*, verbose: bool) -> None:
    """Say on stderr what the server does; each line with its time."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
