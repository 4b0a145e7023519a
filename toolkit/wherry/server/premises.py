"""What mutual TLS needs on the server's side: authority, ports, listeners, revocation."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from wherry.broker_settings import Tls
from wherry.identity.authority import Authority
from wherry_contract.address import BrokerAddress
from wherry_contract.errors import LinkError

from .answers import error_response
from .api import depot_response
from .database import Database
from .depot import Depot
from .doors import Doors, Open, client_context, depot_app, enrol_app, server_context
from .registrar import Registrar
from .registry import Registry
from .round_trip import take_over
from .turnstile import Turnstile


class Premises:
    """The fleet's authority, and the doors that devices come through."""

    def __init__(self, folder: Path, names: Iterable[str], database: Database) -> None:
        """Open the authority, and certify this server for these names.

        Args:
            folder: where the authority lies.
            names: host names and addresses by which devices know this server.
            database: remembers who is who.

        Raises:
            SetupError: H02, the authority's key cannot be opened.
            StoreError: D01 or D06.
        """
        self.authority = Authority(folder)
        self.registry = Registry(database)
        self.opened = Open()
        self.doors = Doors(self.opened)
        self._certificate, self._key = self.authority.serve_as(names, time.time())

    def for_broker(self, loopback: int) -> Tls:
        """What the broker is told."""
        return Tls(self.authority.file, self._certificate, self._key, loopback)

    @property
    def client(self) -> ssl.SSLContext:
        """TLS for the server's own link."""
        return client_context(self._certificate, self._key, self.authority.file)

    def revocations(self) -> tuple[tuple[str, ...], bytes]:
        """Devices that were revoked, and the list of certificates that were (PEM)."""
        found = self.registry.revoked()
        return found.devices, self.authority.revocations(found.serials, found.number)

    def open(
        self,
        listeners: tuple[socket.socket, socket.socket],
        registrar: Registrar,
        depot: Depot,
        tell: Callable[[str], bytes],
    ) -> None:
        """Let devices come.

        Args:
            listeners: of the depot, and of enrolment.
            registrar: lets them in.
            depot: what they read.
            tell: the signed time for a nonce.

        Raises:
            SetupError: H05.
        """
        known = server_context(self._certificate, self._key, self.authority.file)
        anybody = server_context(self._certificate, self._key, None)
        blobs = depot_app(registrar, lambda name: depot_response(depot, name), error_response)
        self.doors.add(blobs, listeners[0], known)
        claims = enrol_app(registrar, tell, error_response)
        self.doors.add(claims, listeners[1], anybody, Turnstile())
        self.doors.start()

    def cut(self, device: str, broker: BrokerAddress | None) -> None:
        """Cut what a device has open, after the broker was told that it is revoked.

        Args:
            device: its id, which is the name of its connection at our mosquitto.
            broker: where that listens without TLS; nothing for a broker that cuts by itself.
        """
        self.opened.cut(device)
        if broker:
            with suppress(LinkError):  # it is down: nobody is connected
                take_over(broker, device)
