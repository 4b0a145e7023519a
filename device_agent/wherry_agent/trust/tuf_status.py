"""What `wherry-agent status` says of trust: key ids, metadata versions and floors.

Reads what the verifier left behind and verifies nothing: it is for people who compare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from wherry_agent.config import AgentConfig
from wherry_contract.errors import WherryError
from wherry_contract.fleet_keys import FleetKeys
from wherry_contract.signature import TrustRoot
from wherry_contract.when import to_text
from wherry_contract.wire import TRUST, Fields, parse_json

from .tuf_flow import TARGETS_LIMIT_BYTES
from .tuf_store import peek_floors
from .tuf_trust import FOLDER

_SHOWN: Final = 12  # digits of a key id, for a person


def read_trust(config: AgentConfig) -> dict[str, Any]:
    """What this device trusts, and what it has seen; a file that is not one of ours is left out.

    Raises:
        StoreError: D06.
    """
    document = _document(config.trust)
    if "signed" in document:
        return {"kind": "tuf", **_tuf(config.state_dir / FOLDER, document)}
    return {"kind": "pinned", "keys": _pinned(config.trust)}


def _tuf(folder: Path, embedded: Mapping[str, Any]) -> dict[str, Any]:
    root = _document(folder / "root.json") or embedded
    try:
        floors = peek_floors(folder).to_dict()
    except WherryError as error:
        floors = {"error": str(error)}
    delegations = _signed(_document(folder / "targets.json")).get("delegations") or {}
    roles = {
        **_signed(root).get("roles", {}),
        **{role.get("name", ""): role for role in delegations.get("roles", [])},
    }
    return {
        "embedded_root": _signed(embedded).get("version"),
        "metadata": dict(_versions(folder)),
        "keys": {
            name: {"threshold": role.get("threshold"), "keyids": role.get("keyids", [])}
            for name, role in roles.items()
        },
        "fleet_keys": _fleet_keys(folder / "fleet-keys"),
        "floors": floors,
    }


def _versions(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.glob("*.json")):
        signed = _signed(_document(path))
        if signed:
            about = {"version": signed.get("version"), "expires": signed.get("expires")}
            yield unquote(path.stem), about


def _signed(document: Mapping[str, Any]) -> dict[str, Any]:
    signed = document.get("signed")
    return signed if isinstance(signed, dict) else {}


def _document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(TARGETS_LIMIT_BYTES + 1)
        return parse_json(data, limit=TARGETS_LIMIT_BYTES, what=path.name, domain=TRUST)
    except (OSError, WherryError):
        return {}


def _fleet_keys(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        keys = FleetKeys.from_bytes(path.read_bytes())
    except (OSError, WherryError):
        return {"assignment": [], "time": []}
    return {
        "assignment": [key.to_dict() for key in keys.assignment_keys],
        "time": [key.to_dict() for key in keys.time_keys],
    }


def _pinned(path: Path) -> dict[str, Any]:
    try:
        root = TrustRoot.from_bytes(path.read_bytes())
    except (OSError, WherryError):
        return {}
    families = {
        name: {"threshold": family.threshold, "keyids": list(family.keys)}
        for name, family in root.families.items()
    }
    ordering = {"threshold": 1, "keyids": [key.keyid for key in root.assignment_keys]}
    return families | {"assignment": ordering}


def trust_lines(trust: Mapping[str, Any]) -> Iterator[str]:
    """The same for a person."""
    if trust["kind"] == "pinned":
        yield "  trust       pinned keys, for a laboratory"
    else:
        yield f"  trust       TUF, born with root {trust['embedded_root']}"
        for role, about in trust["metadata"].items():
            yield f"    {role} {about['version']}, expires {about['expires']}"
        for use, keys in trust["fleet_keys"].items():
            yield f"    {use} keys: {_short([key['keyid'] for key in keys]) or 'none known yet'}"
    for role, about in trust["keys"].items():
        yield f"    {role} is signed by {about['threshold']} of {_short(about['keyids'])}"
    yield from _floor_lines(trust.get("floors", {}))


def _short(keyids: list[str]) -> str:
    return ", ".join(keyid[:_SHOWN] for keyid in keyids)


def _floor_lines(document: Mapping[str, Any]) -> Iterator[str]:
    if "error" in document:
        yield f"    floors cannot be read: {document['error']}"
        return
    fields = Fields(document, "floors", TRUST)
    for role, floor in fields.mapping("versions", {}).items():
        yield f"    floor of {role}: version {floor['least']:.0f}"
    for family, counter in fields.mapping("counters", {}).items():
        yield f"    floor of {family}: release {counter}"
    for name in ("signed", "told"):
        least = fields.table(name, {}).number("least", 0.0)
        if least:
            yield f"    floor of the clock, {name}: {to_text(least)}"
