"""`agent.toml`: one dataclass, a unit in every name. Reference: docs/agent.md."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from wherry_contract.address import BrokerAddress
from wherry_contract.errors import SetupError
from wherry_contract.wire import SETTINGS, SLUG, Fields

from .identity.tls import Identity
from .link.reporting import Reporting

_LIMIT_BYTES: Final = 64 * 1024
_LARGEST: Final = 2**31
_LABEL: Final = r"[A-Za-z0-9][A-Za-z0-9 ._/-]{0,62}"

_REPOSITORY: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"  # one word of a repository's name


@dataclass(frozen=True)
class Limits:
    """What bounds the agent; the defaults suit a terminal with a few hundred MiB."""

    window_rows: int = 1000
    window_minutes: float = 60.0
    window_least_rows: int = 20  # a window of fewer waits for more
    window_longest_minutes: float = 360.0  # but not longer than this
    heartbeat_seconds: float = 300.0
    outbox_mib: float = 16.0
    outbox_days: float = 30.0
    acknowledge_seconds: float = 30.0  # a window that is not acknowledged is sent again
    reconnect_seconds: float = 300.0  # ceiling of the jittered wait for the broker
    probe_seconds: float = 30.0
    probe_mib: int = 256  # over what the runtime needs before the model
    shadow_cpu_percent: float = 25.0  # of one core; more for ten seconds ends a shadow
    shadow_mib: float = 128.0  # that the agent may grow by for a shadow
    reserve_mib: float = 8.0  # of disk that an update never uses
    fetch_bytes_per_second: int = _LARGEST  # the most; an order may ask for less
    fetch_least_bytes_per_second: float = 64.0  # a slower line is given up, and tried again
    fetch_hours: float = 24.0  # that the transfers of one update may take, waits not counted
    fetch_share: float = 3.0  # bytes of one update over those of its bundle
    request_bytes: int = 1 << 20
    request_rows: int = 1024
    request_seconds: float = 10.0  # from a request's first byte to its last
    connections: int = 64
    stuck_answer_seconds: float = 60.0  # a request that waits longer shows that scoring hangs
    stuck_update_seconds: float = 1200.0  # longer than any step of an update may take

    @classmethod
    def from_fields(cls, fields: Fields) -> Limits:
        """Read the limits; each must be positive."""
        found: dict[str, float] = {}
        for name, default in cls().__dict__.items():
            number = fields.number(name, default)
            found[name] = int(number) if isinstance(default, int) else number
            if found[name] <= 0 or number > _LARGEST:
                raise fields.error(name, f"above 0, and at most {_LARGEST}")
        _refuse_unknown(fields)
        return cls(**found)  # type: ignore[arg-type]  # int stays int, float stays float


@dataclass(frozen=True)
class RegistryPlace:
    """Where a registry is, as agent.toml says it.

    Attributes:
        url: ``https://host[:port][/namespace]``.
        credentials: a file of docker's form; nothing to come as anybody.
        authority: certificates that are trusted there, PEM; nothing for the system's.
        fallback: whether what the registry does not have comes from the depot.
    """

    url: str
    credentials: Path | None = None
    authority: Path | None = None
    fallback: bool = True


@dataclass(frozen=True)
class AgentConfig:
    """Everything the agent is told.

    Attributes:
        device: its id; unique in the fleet.
        family: the model family that it is pinned to.
        state_dir: where it keeps its memory; one folder for one agent.
        trust: path of trust.json.
        broker: nothing for an agent that only serves.
        depot: base URL of the blobs.
        registry: where bundles come from instead of the depot; nothing for the depot.
        metered: whether the link costs by the byte.
        reporting: in which form windows go up, and at what rate.
        listen: ``host:port`` or ``unix:/path``; loopback unless the operator says otherwise.
        labels: site, group and the like, for selectors.
        features: what the application declares that it supplies; empty if undeclared.
        identity: who it is, for TLS; nothing where it has a password, or none of this.
        broker_identity: whether the broker is our fleet's own, and takes that identity.
        file: where all this stands.
    """

    device: str
    fleet: str
    family: str
    state_dir: Path
    trust: Path
    broker: BrokerAddress | None
    depot: str
    listen: str
    labels: Mapping[str, str] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    limits: Limits = field(default_factory=Limits)
    identity: Identity | None = None
    broker_identity: bool = False
    metered: bool = False
    reporting: Reporting = field(default_factory=Reporting)
    registry: RegistryPlace | None = None
    file: Path = Path("agent.toml")


def load_config(path: Path) -> AgentConfig:
    """Read `agent.toml`; relative paths are taken from its folder.

    Raises:
        SetupError: H02 cannot be read, H08 wrong.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    if len(data) > _LIMIT_BYTES:
        raise SetupError("H08", f"{path} has more than {_LIMIT_BYTES} bytes")
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError("H08", f"{path}: {error}") from error
    # children work in another folder
    return _read(Fields(document, path.name, SETTINGS), path.absolute())


def _read(fields: Fields, path: Path) -> AgentConfig:
    folder = path.parent
    broker, depot = fields.table("broker", {}), fields.table("depot", {})
    serving, application = fields.table("serving", {}), fields.table("application", {})
    url = broker.text("url", "")
    identity = _identity(fields.table("identity", {}), folder)
    reporting = fields.table("reporting", {})
    config = AgentConfig(
        device=fields.text("device", pattern=SLUG),
        fleet=fields.text("fleet", pattern=SLUG),
        family=fields.text("family", pattern=SLUG),
        state_dir=folder / fields.text("state_dir", "state"),
        trust=folder / fields.text("trust", "trust.json"),
        broker=BrokerAddress.from_url(url) if url else None,
        depot=_depot_url(depot),
        listen=serving.text("listen", "127.0.0.1:8600"),
        labels=_labels(fields),
        features=frozenset(application.texts("features", [])),
        limits=Limits.from_fields(fields.table("limits", {})),
        identity=identity,
        metered=depot.flag("metered", default=False),
        reporting=Reporting.from_fields(reporting),
        registry=_registry(fields.table("registry", {}), folder),
        broker_identity=broker.flag("identity", default=identity is not None),
        file=path,
    )
    for part in (broker, depot, serving, application, reporting, fields):
        _refuse_unknown(part)
    return config


def _identity(fields: Fields, folder: Path) -> Identity | None:
    """Who we are; either all of it is there or nothing."""
    enrol = fields.text("enrol", "")
    if not enrol:
        _refuse_unknown(fields)
        return None
    if urlsplit(enrol).scheme != "https":
        raise fields.error("enrol", "like https://host:8444/enrol")
    identity = Identity(
        key=folder / fields.text("key"),
        certificate=folder / fields.text("certificate"),
        authority=folder / fields.text("authority"),
        enrol=enrol,
    )
    _refuse_unknown(fields)
    return identity


def _registry(fields: Fields, folder: Path) -> RegistryPlace | None:
    """Where a registry is; its password goes over HTTPS alone."""
    url = fields.text("url", "").rstrip("/")
    if not url:
        _refuse_unknown(fields)
        return None
    match = re.fullmatch(rf"(https?)://[A-Za-z0-9.:\[\]-]+((?:/{_REPOSITORY})*)", url)
    if not match or not _is_http(url):
        raise fields.error("url", "like https://host/namespace, in lower case")
    files = {name: fields.text(name, "") for name in ("credentials", "authority")}
    if files["credentials"] and match[1] != "https":
        raise fields.error("url", "https://, since there are credentials")
    paths = {name: folder / text for name, text in files.items() if text}
    place = RegistryPlace(url, **paths, fallback=fields.flag("fallback", default=True))
    _refuse_unknown(fields)
    return place


def _refuse_unknown(fields: Fields) -> None:
    if fields.rest():
        raise fields.error(min(fields.rest()), "spelled as docs/agent.md has it; it is unknown")


def _labels(fields: Fields) -> dict[str, str]:
    labels = fields.mapping("labels", {})
    for name, value in labels.items():
        right = isinstance(value, str) and re.fullmatch(_LABEL, value)
        if not right or not re.fullmatch(_LABEL, name):
            raise fields.error(f"labels.{name[:64]}", "a short word")
    return labels


def _depot_url(fields: Fields) -> str:
    url = fields.text("url", "").rstrip("/")
    if url and not _is_http(url):
        raise fields.error("url", "like http://host:8700/depot")
    return url


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
