"""Every parser of bytes that come from outside, each with real documents to begin from."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from support import ROOT
from support_agent import keys, make_bundle, order_for, sign, signed_order

from wherry_contract.assignment import PAYLOAD_TYPE, Assignment, open_assignment
from wherry_contract.bundle import open_bundle
from wherry_contract.command import Command
from wherry_contract.compact import read_window, split_windows
from wherry_contract.delta import Delta, apply_delta, read_deltas, write_deltas
from wherry_contract.fleet_keys import FleetKeys
from wherry_contract.golden import GoldenVectors
from wherry_contract.identity import EnrolRequest, Papers, RenewRequest
from wherry_contract.manifest import Manifest
from wherry_contract.messages import Ack, Event, Presence, State, unwrap_assignment
from wherry_contract.oci import OciManifest
from wherry_contract.profile import ReferenceProfile
from wherry_contract.signature import BundleStatement, TrustRoot
from wherry_contract.told_time import ToldTime
from wherry_contract.window import Window

VECTORS = ROOT / "contract" / "vectors"
HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**400, 1e308, 0.5, "", "\u0000", "\ud800", "x" * 70_000,
    [], {}, [[]], "../../etc/passwd", "9999-12-31T23:59:59Z", float("nan"),
)  # fmt: skip


def _bundle(data: bytes) -> None:
    bundle = open_bundle(io.BytesIO(data))
    bundle.parts()
    bundle.to_tar() if hasattr(bundle, "to_tar") else None


def _order(data: bytes) -> None:
    open_assignment(unwrap_assignment(data), keys().root())


def _batch(data: bytes) -> None:
    known = ReferenceProfile.from_bytes((VECTORS / "compact/standard-profile.json").read_bytes())
    for body in split_windows(data):
        read_window(body, "shop-1", lambda first: (f"sha256:{first.hex():0<64}", known))


PARSERS: Mapping[str, Callable[[bytes], Any]] = {
    "bundle": _bundle,
    "oci": OciManifest.from_bytes,
    "manifest": Manifest.from_bytes,
    "profile": ReferenceProfile.from_bytes,
    "golden": GoldenVectors.from_bytes,
    "order": _order,
    "assignment": Assignment.from_bytes,
    "command": Command.from_bytes,
    "fleet-keys": FleetKeys.from_bytes,
    "trust-root": TrustRoot.from_bytes,
    "statement": BundleStatement.from_bytes,
    "told-time": ToldTime.from_bytes,
    "enrol": EnrolRequest.from_bytes,
    "renew": RenewRequest.from_bytes,
    "papers": Papers.from_bytes,
    "window": Window.from_bytes,
    "batch": _batch,
    "event": Event.from_bytes,
    "state": State.from_bytes,
    "presence": Presence.from_bytes,
    "ack": Ack.from_bytes,
    "deltas": read_deltas,
    "delta": lambda data: apply_delta(b"old bytes" * 20, data, 200),
}


@cache
def seeds(name: str) -> tuple[bytes, ...]:
    """Real documents of a parser; where there is none, a bare schema."""
    made = make_bundle(category=True)
    order = order_for(made.digest, 7)
    digest = "sha256:" + "a" * 64
    found: dict[str, list[bytes]] = {
        "bundle": [made.to_tar(), (VECTORS / "fraud-mini.wherry").read_bytes()],
        "oci": [made.layout.manifest],
        "manifest": [made.parts.manifest.to_bytes()],
        "profile": [made.parts.profile.to_bytes()],
        "golden": [made.parts.golden.to_bytes()],
        "order": [signed_order(order), sign(order.to_bytes(), PAYLOAD_TYPE, keys().order)],
        "assignment": [order.to_bytes()],
        "command": [Command("shop-1", "logs", 7, 1.7e9, 1.8e9, "a" * 64, 50).to_bytes()],
        "trust-root": [keys().root().to_bytes(), (VECTORS / "trust.json").read_bytes()],
        "deltas": [write_deltas([Delta(digest, digest, digest, 9)])],
        "delta": [b"BSDIFF40" + bytes(24)],
        "batch": [(VECTORS / "compact/standard-1000.bin").read_bytes()],
    }
    messages = VECTORS / "messages"
    found |= {
        path.stem: [path.read_bytes(), *found.get(path.stem, [])]
        for path in messages.glob("*.json")
        if path.stem in PARSERS
    }
    return tuple(found.get(name, [json.dumps({"schema": f"wherry/{name}/1"}).encode()]))


def spoil(data: bytes, chance: random.Random) -> bytes:
    """A document with something wrong: in its structure if it is JSON, else in its bytes."""
    if chance.random() < 0.6:
        try:
            document = json.loads(data)
        except ValueError:
            return _spoil_bytes(data, chance)
        for _ in range(chance.randint(1, 3)):
            _spoil_node(document, chance)
        return json.dumps(document).encode()
    return _spoil_bytes(data, chance)


def _spoil_node(document: Any, chance: random.Random) -> None:
    node = document
    while True:
        places: list[Any] = (
            list(node)
            if isinstance(node, dict)
            else list(range(len(node)))
            if isinstance(node, list)
            else []
        )
        if not places:
            return
        place = chance.choice(places)
        if isinstance(node[place], dict | list) and node[place] and chance.random() < 0.7:
            node = node[place]
            continue
        if chance.random() < 0.2:
            del node[place]
        else:
            node[place] = chance.choice(HOSTILE)
        return


def _spoil_bytes(data: bytes, chance: random.Random) -> bytes:
    spoiled = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(spoiled) + 1)
        step = chance.randrange(5)
        if step == 0:
            del spoiled[at : at + chance.choice((1, 4, 512))]
        elif step == 1:
            spoiled[at:at] = chance.randbytes(chance.choice((1, 4, 64)))
        elif step == 2:
            spoiled[at : at + 1] = chance.randbytes(1)
        elif step == 3:
            spoiled[at:at] = spoiled[at : at + 100]
        else:
            del spoiled[at:]
    return bytes(spoiled)
