"""What a server is told at its start, and what it tells once it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .metrics_api import MOST_DEVICES
from .teller import Telling


@dataclass(frozen=True)
class Choice:
    """What `wherry serve` was told.

    Attributes:
        data: the data folder.
        host: where devices come.
        port: of operators' HTTP; 0 for the one of last time, or a free one.
        broker: ``auto``, ``mosquitto`` or ``nats`` for a broker of our own, or a URL.
        fleet: its name; "" for that of last time.
        names: more names and addresses by which devices know this server; the first is
            what they are told.
        ports: of the devices' depot, enrolment and broker; each as `port`.
        plain: no TLS and no identities, but passwords: for trying things out alone.
        pinned: devices pin keys instead of a TUF root: for a laboratory; stays as it was.
        windows: the form in which devices that enrol send windows; "" for that of last time.
        metrics_devices: a larger fleet has no metrics of single devices.
        registry: where devices that enrol fetch bundles, as ``https://host/namespace``;
            ``none`` for the depot, "" for that of last time.
        member: its name, as one of several servers of the data folder; "" for the first.
        store: URL of a PostgreSQL database, ``sqlite`` for a file in the data folder, "" for
            that of last time.
        telling: whose hooks the server itself tells.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 0
    broker: str = "auto"
    fleet: str = ""
    names: tuple[str, ...] = ()
    ports: tuple[int, int, int] = (0, 0, 0)
    plain: bool = False
    pinned: bool = False
    windows: str = ""
    metrics_devices: int = MOST_DEVICES
    registry: str = ""
    store: str = ""
    member: str = ""
    telling: Telling = field(default_factory=Telling)

    @property
    def own(self) -> Path:
        """The folder of what is this server's alone."""
        return self.data / "members" / self.member if self.member else self.data


@dataclass(frozen=True)
class Ready:
    """The server as it runs.

    Attributes:
        url: of operators' HTTP.
        broker: where anybody on this machine may listen, or where devices go.
        devices: where devices go: ``broker``, ``depot``, ``enrol``; "" for what is not there.
    """

    url: str
    broker: str
    devices: Mapping[str, str]
    fleet: str
    data: Path
