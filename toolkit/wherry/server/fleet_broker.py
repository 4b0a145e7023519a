"""The broker that the fleet meets at: one of ours, supervised, or the user's, by its URL."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from wherry.broker import Supervised, find_engine
from wherry.broker_settings import SERVER, Accounts
from wherry.files import write_durably
from wherry_contract.address import BrokerAddress

from .office import with_credentials
from .premises import Premises
from .store import Store

_ENGINES: Final = ("auto", "mosquitto", "nats")


class FleetBroker:
    """Starts a broker of our own where one is wanted, and tells it who may come."""

    def __init__(self, wanted: str, data: Path, fleet: str, premises: Premises | None) -> None:
        """Nothing runs yet.

        Args:
            wanted: ``auto``, ``mosquitto`` or ``nats`` for one of our own, or a URL.
            data: the server's data folder.
            fleet: its name.
            premises: authority and revocations; nothing where there is no TLS.
        """
        self._wanted = wanted
        self._data = data
        self._fleet = fleet
        self._premises = premises
        self._supervised: Supervised | None = None
        self._admitting = threading.Lock()

    @property
    def is_ours(self) -> bool:
        """Whether the broker is one that this server starts."""
        return self._wanted in _ENGINES

    @property
    def alive(self) -> bool:
        """Whether a broker of our own runs; another's is not ours to watch."""
        return self._supervised.alive if self._supervised else True

    def start(
        self, host: str, port: int, pick_port: Callable[[str, str, int], int], store: Store
    ) -> BrokerAddress:
        """Start a broker of our own; returns where the server itself reaches the broker.

        Args:
            host: where devices come.
            port: 0 for the one of last time, or a free one.
            pick_port: name, host and wanted port to a port that is free.
            store: knows the devices that may come.

        Raises:
            SetupError: H04 no broker is installed, H05 it does not start, H11 a port is taken.
        """
        if not self.is_ours:
            return BrokerAddress.from_url(self._wanted)
        engine = find_engine(self._wanted)
        port = pick_port("broker", host, port)
        tls = None
        if self._premises:
            tls = self._premises.for_broker(pick_port("loopback", "127.0.0.1", 0))
        self._supervised = Supervised(engine, self._data.absolute() / "broker", host, port, tls)
        self.admit(store)
        self._supervised.start()
        return self._inner(self._supervised)

    def stop(self) -> None:
        """End a broker of our own."""
        if self._supervised:
            self._supervised.stop()

    def admit(self, store: Store) -> None:
        """Tell a broker of our own which devices there are now."""
        if not self._supervised:
            return
        with self._admitting:  # else a shorter list, read before, may be written last
            self._supervised.write(self._accounts([row.device for row in store.devices()]))

    @property
    def plain_inner(self) -> BrokerAddress | None:
        """Where a broker of our own is reached without TLS; nothing if it cannot be."""
        if not self._supervised or self._supervised.inner.tls:
            return None
        return self._inner(self._supervised)

    def url(self, told_host: str) -> str:
        """The URL that devices are told, without an account."""
        if not self._supervised:
            return BrokerAddress.from_url(self._wanted).url
        return replace(self._supervised.address, host=told_host).url

    def url_for(self, device: str, told_host: str) -> str:
        """The broker's URL for a device; another's accounts are not ours to make."""
        url = self.url(told_host)
        if not self._supervised or self._premises:
            return url
        return with_credentials(url, device, self._accounts([]).password(device))

    def _inner(self, broker: Supervised) -> BrokerAddress:
        """The broker as the server itself reaches it: with its account, or its certificate."""
        address = broker.inner
        if address.tls:
            return address
        return replace(address, username=SERVER, password=self._accounts([]).password(SERVER))

    def _accounts(self, devices: list[str]) -> Accounts:
        path = self._data / "broker.secret"
        if not path.exists():
            write_durably(path, secrets.token_bytes(32), mode=0o600)
        revoked = self._premises.revocations() if self._premises else ((), b"")
        return Accounts(path.read_bytes(), self._fleet, devices, *revoked)
