"""What stays the same from start to start, because devices were told: the fleet's name, ports."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from wherry.files import write_durably
from wherry_contract.errors import SetupError
from wherry_contract.wire import SETTINGS, SLUG, Fields, parse_json

PORTS: Final = ("http", "broker", "loopback", "depot", "enrol")
_PORT_PATIENCE_SECONDS: Final = 2.0  # for a broker that is still ending
_SETTINGS_LIMIT_BYTES: Final = 4096


@dataclass(frozen=True)
class Kept:
    """What stays the same from start to start, because devices were told.

    Attributes:
        pinned: whether devices pin keys; so they did before there was a repository.
        windows: in which form devices that enrol are told to send windows.
        registry: where devices that enrol are told to fetch bundles; "" for the depot.
    """

    fleet: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)
    pinned: bool = False
    windows: str = "json"
    registry: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Kept:
        """Read the file; nothing is kept where there is none.

        Raises:
            SetupError: H08.
        """
        if not path.exists():
            return cls()
        data = path.read_bytes()
        document = parse_json(data, limit=_SETTINGS_LIMIT_BYTES, what=path.name, domain=SETTINGS)
        fields = Fields(document, path.name, SETTINGS)
        return cls(
            fleet=fields.text("fleet", pattern=SLUG),
            ports={name: fields.integer(f"{name}_port", 0, high=65_535) for name in PORTS},
            pinned=fields.flag("pinned", default=True),
            windows=fields.choice("windows", ("json", "compact"), "json"),
            registry=fields.text("registry", ""),
            extra=fields.rest(),
        )

    def with_port(self, name: str, port: int) -> Kept:
        """The same with another port."""
        return replace(self, ports={**self.ports, name: port})

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            StoreError: D01 or D06.
        """
        ports = {f"{name}_port": self.ports.get(name, 0) for name in PORTS}
        known: dict[str, Any] = {"fleet": self.fleet, "pinned": self.pinned}
        known |= {"windows": self.windows, "registry": self.registry}
        write_durably(path, json.dumps(self.extra | known | ports).encode())


def known_registry(url: str) -> str:
    """A registry's address as it may stand in a device's agent.toml; "" for none.

    Raises:
        SetupError: H08.
    """
    if url in ("", "none"):
        return ""
    if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+(?:/[a-z0-9._-]+)*/?", url):
        cure = "write it like https://registry.example:5000/models; a login stands on devices"
        raise SetupError("H08", f"--registry {url[:80]!r}", cure=cure)
    return url.rstrip("/")


def bare_host(host: str) -> str:
    """What devices connect to: this machine's name where it listens on every address."""
    return socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound


def url_host(host: str) -> str:
    """The same as it stands in a URL."""
    bare = bare_host(host)
    return f"[{bare}]" if ":" in bare else bare


def listen(host: str, wanted: int, last: int) -> socket.socket:
    """Listen on the wanted port, or on that of last time, or on a free one.

    Args:
        host: where.
        wanted: 0 for any.
        last: of last time; 0 for none.

    Raises:
        SetupError: H11, it is taken.
    """
    port = wanted or last
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            if wanted or not last:
                raise SetupError("H11", f"{host}:{port}: {error.strerror}") from error
            listener.bind((host, 0))
        listener.listen(1024)
    except BaseException:  # whatever it was, nobody else would close it
        listener.close()
        raise
    return listener


def pick_port(host: str, last: int) -> int:
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
