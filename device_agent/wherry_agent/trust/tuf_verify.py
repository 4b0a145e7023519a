"""What the verifier's process does: refresh, then judge an order, a bundle or the time."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wherry_agent.identity.tls import Identity, Tls
from wherry_contract.errors import LinkError, TrustError
from wherry_contract.fleet_keys import LIMIT_BYTES, TARGET, FleetKeys
from wherry_contract.signature import BundleStatement
from wherry_contract.wire import TRUST, Fields, sha256_digest

from .tuf_fetch import METADATA_FOLDER, Below, FolderReader, HttpReader, NowhereReader, Reader
from .tuf_flow import FIELD, TufFlow, check_target, open_root
from .tuf_part import Part
from .tuf_store import ROOT_LIMIT_BYTES, MetadataStore

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile, Targets

_TARGETS_FOLDER: Final = "targets"


class Verifier:
    """One task of the verifier.

    Args:
        bootstrap: the root of the enrolment.
        store: what was verified before.
        reader: of the depot, or a stick.
        now: trusted time, Unix seconds.
    """

    def __init__(
        self, bootstrap: bytes, store: MetadataStore, reader: Reader, *, now: float
    ) -> None:
        self._bootstrap = bootstrap
        self._store = store
        self._reader = reader
        self._now = now

    @classmethod
    def open(cls, request: Mapping[str, Any]) -> Verifier:
        """The verifier that a request asks for.

        Raises:
            TrustError: T10, there is no root.
            StoreError: D01 or D06.
        """
        bootstrap = _read_root(Path(request["root"]))
        store = MetadataStore(Path(request["folder"]))
        return cls(bootstrap, store, _reader(request), now=float(request["now"]))

    @property
    def damaged(self) -> tuple[str, ...]:
        """Files of floors that were set aside."""
        return self._store.damaged

    def close(self) -> None:
        """Close the connection."""
        if isinstance(self._reader, HttpReader):
            self._reader.close()

    # --- tasks --------------------------------------------------------------------------

    def assignment(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Who ordered what: by fresh keys if they can be had, else by those verified last.

        Raises:
            TrustError: T01, T02, T08, T09; T11 or T13 where no keys were ever verified.
            LinkError: L04 to L06 likewise.
            StoreError: D01 or D06.
        """
        keys, trouble = self._keys_at_hand()
        order = keys.assignment(base64.b64decode(request["envelope"]))
        return {"payload": order.to_bytes().decode(), "keyid": order.keyid, "offline": trouble}

    def command(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Who asks what; likewise."""
        keys, trouble = self._keys_at_hand()
        command = keys.command(base64.b64decode(request["envelope"]))
        return {"payload": command.to_bytes().decode(), "keyid": command.keyid, "offline": trouble}

    def admit(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is listed of a bundle; nothing but fresh metadata will do.

        Raises:
            TrustError: T02, T03, T06 to T09, T11 to T13.
            LinkError: L04 to L06, L09 to L11.
            StoreError: D01 or D06.
        """
        flow = self._refreshed(self._now)
        keys = self._fleet_keys(flow)
        if request["keyid"]:  # none on a person's order
            listed = {key.keyid: key for key in keys.assignment_keys}
            if request["keyid"] not in listed:
                raise TrustError("T02", f"key {request['keyid'][:12]} was taken back")
            listed[request["keyid"]].check(request["issued_at"])
        statement = self._listed(flow, request["family"], request["digest"])
        if request["size"] not in (0, statement.size):
            raise TrustError("T03", f"listed are {statement.size} bytes, not {request['size']}")
        floor = self._store.floors.counters.get(statement.family, 0)
        if statement.counter < floor:
            raise TrustError("T07", f"release {statement.counter}, the floor is {floor}")
        return {"payload": statement.to_bytes().decode()}

    def time(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """What time it was when the nonce was sent.

        Raises:
            TrustError: T01 to T03, T08 or T09, T13.
            LinkError: L04 to L06.
            StoreError: D01 or D06.
        """
        data = self._store.read_fleet_keys()
        # a device that knows no keys cannot know what has expired either
        keys = FleetKeys.from_bytes(data) if data else self._fleet_keys(self._refreshed(0.0))
        told = keys.time(base64.b64decode(request["envelope"]), request["nonce"])
        self._store.save_floors(self._store.floors.told_at(told.at, told.keyid))
        return {"at": told.at}

    # --- keys ---------------------------------------------------------------------------

    def _keys_at_hand(self) -> tuple[FleetKeys, str]:
        try:
            return self._fleet_keys(self._refreshed(self._now)), ""
        except (LinkError, TrustError) as error:
            data = self._store.read_fleet_keys()
            if data is None:
                raise
            return FleetKeys.from_bytes(data), str(error)

    def _refreshed(self, now: float) -> TufFlow:
        metadata = Below(self._reader, METADATA_FOLDER)
        flow = TufFlow(self._bootstrap, self._store, metadata, now=now)
        flow.refresh()
        return flow

    def _fleet_keys(self, flow: TufFlow) -> FleetKeys:
        target = flow.trusted.targets.targets.get(TARGET)
        if target is None:
            raise TrustError("T13", f"{TARGET} is not listed")
        wanted = f"sha256:{target.hashes.get('sha256', '')}"
        data = self._store.read_fleet_keys()
        if data is None or sha256_digest(data) != wanted:
            data = self._newer_keys(flow, target)
        keys = FleetKeys.from_bytes(data)
        times = [key.keyid for key in keys.time_keys]
        self._store.save_floors(self._store.floors.without_teller(times))
        return keys

    def _newer_keys(self, flow: TufFlow, target: TargetFile) -> bytes:
        path = f"{_TARGETS_FOLDER}/{flow.target_path(target)}"
        data = self._reader.read(path, min(target.length, LIMIT_BYTES))
        if data is None:
            raise LinkError("L05", f"the repository has no {path}")
        check_target(target, data)
        FleetKeys.from_bytes(data)
        self._store.save_fleet_keys(data)
        return data

    # --- bundles ------------------------------------------------------------------------

    def _listed(self, flow: TufFlow, family: str, digest: str) -> BundleStatement:
        role, path = f"models/{family}", f"models/{family}/{digest.partition(':')[2]}"
        delegations = flow.trusted.targets.delegations
        roles = [name for name, _ in delegations.get_roles_for_target(path)] if delegations else []
        if role not in roles:
            raise TrustError("T06", f"nobody may release bundles of {family}")
        targets = flow.load_targets(role, "targets")
        least = _least_counter(targets, role)
        self._store.save_floors(self._store.floors.at_least(family, least))
        target = targets.targets.get(path)
        if target is None:
            raise TrustError("T12", f"{digest} is not in {role} {targets.version}")
        if target.hashes.get("sha256") != digest.partition(":")[2]:
            raise TrustError("T13", f"{path} is listed with another digest")
        return _statement(target, family, digest)


def look_at_root(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the root says that a device was born with, after its own signatures were verified.

    Raises:
        TrustError: T10 there is none, T13.
        LinkError: L06, it is no metadata.
    """
    root = open_root(_read_root(Path(request["root"]))).root
    signers = root.roles["root"]
    return {
        "version": root.version,
        "threshold": signers.threshold,
        "keys": len(signers.keyids),
    }


def _read_root(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(ROOT_LIMIT_BYTES)
    except OSError as error:
        raise TrustError("T10", f"{path}: {error.strerror}") from error


def _statement(target: TargetFile, family: str, digest: str) -> BundleStatement:
    custom = target.unrecognized_fields.get("custom")
    fields = Fields({"custom": custom}, target.path, TRUST).table("custom").table("wherry")
    return BundleStatement(
        family=family,
        name=fields.text("name", limit=63),
        version=fields.text("version", limit=64),
        digest=digest,
        size=target.length,
        counter=fields.integer("counter"),
    )


def _least_counter(targets: Targets, role: str) -> int:
    said = targets.unrecognized_fields.get(FIELD, {})
    return Fields({FIELD: said}, role, TRUST).table(FIELD).integer("min_counter", 0)


def _reader(request: Mapping[str, Any]) -> Reader:
    place, identity = request["place"], request["identity"]
    if "folder" in place:
        return FolderReader(Path(place["folder"]))
    if "url" not in place:
        return NowhereReader()
    tls = None
    if identity:
        files = {name: Path(identity[name]) for name in ("key", "certificate", "authority")}
        now = float(request["now"])
        # who asks for the time has none to hold certificates against
        dates = None if request["task"] == "time" else lambda: now
        tls = Tls(Identity(**files, enrol=identity["enrol"]), dates)
    return HttpReader(place["url"], tls, part=Part(Path(request["folder"]) / "part"))
