"""Records what this version leaves on a device's and a server's disk, to be read by all later ones.

    PYTHONPATH=tests python tests/compat/record.py     writes tests/compat/golden/<version>

`test_golden.py` then holds every later version to it. A folder that is there is left alone:
what a release wrote does not change. Only the folder of a version that is not released yet may
be removed and recorded anew.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from support_agent import make_bundle, order_for, running_depot, signed_order
from support_device import Device
from support_fleet import event as an_event
from support_fleet import open_store, window
from support_fleet import state as a_state

from wherry import __version__
from wherry.rows import Exposure, RolloutRow
from wherry.server import views
from wherry.server.ingest import Arrival, Ingest
from wherry.server.store import Store
from wherry_contract.topics import Topic
from wherry_contract.wire import sha256_digest

HERE = Path(__file__).resolve().parent
NAMES = ("till-1", "till-2")


def device_facts(device: Device) -> dict[str, Any]:
    """What a device's folder must say."""
    messages = device.outbox.after(0, 1000)
    return {
        "record": device.updater.record.to_dict(),
        "serves": device.serves,
        "messages": [[item.seq, item.kind, sha256_digest(item.payload)] for item in messages],
    }


def server_facts(store: Store) -> dict[str, Any]:
    """What a server's folder must say."""
    return {
        "devices": [views.device_view(row) for row in store.devices()],
        "rollouts": [views.rollout_view(row) for row in store.rollouts()],
        "events": [views.event_view(row) for row in store.events(limit=100)],
        "incidents": [views.incident_view(row) for row in store.incidents()],
        "windows": sorted(
            [item.window.place.device, item.window.place.seq, item.window.rows]
            for item in store.windows()
        ),
        "lost": {name: store.lost(name) for name in NAMES},
    }


def _record_device(folder: Path) -> dict[str, Any]:
    """One bundle good, another under way, an order behind it, and things to say."""
    first, second = make_bundle("1.0.0"), make_bundle("2.0.0", bias=-2.9, counter=2)
    with running_depot(folder.parent / "depot", first, second) as depot:
        with Device(folder, depot=depot.url) as device:
            device.updater.start()
            device.updater.offer(signed_order(order_for(first.digest, 1)))
            device.settle()
            device.pay(20)
            device.updater.offer(signed_order(order_for(second.digest, 2)))
            device.step_to("soak")
            device.scorer.stop()
            device.spool.flush()
        with Device(folder, depot=depot.url) as device:
            device.updater.start()
            device.spool.flush()
            return device_facts(device)


def _record_server(folder: Path) -> dict[str, Any]:
    with open_store(folder, *NAMES) as store:
        ingest = Ingest(store, "f", lambda: 1.8e9, lambda: None)
        said = [
            ("till-1", "state", a_state("till-1", bundle="sha256:" + "b" * 64, trust="good")),
            ("till-1", "window", window("till-1", 1)),
            ("till-1", "window", window("till-1", 3, oldest=3)),
            ("till-1", "event", an_event("till-1", 4, outcome="committed", rollout="r-1")),
            ("till-2", "window", window("till-2", 1)),
        ]
        arrivals = [
            Arrival(str(Topic("f", name, channel)), item.to_bytes()) for name, channel, item in said
        ]
        ingest.take([*arrivals, Arrival(str(Topic("f", "till-2", "window")), b"{}")])
        store.ledger.create(_rollout())
        return server_facts(store)


def _rollout() -> RolloutRow:
    return RolloutRow(
        id="r-1",
        bundle="sha256:" + "b" * 64,
        name="fraud",
        version="1",
        family="fraud",
        state="canary",
        wave=0,
        waves=1,
        select={"site": "paris"},
        policy={"shares": ["100%"]},
        created_at=1.0,
        changed_at=2.0,
        devices=tuple(Exposure(name, 0, offered_at=2.0, sequence=7) for name in NAMES),
    )


def record(out: Path) -> None:
    """Write a folder of golden data."""
    half = out.with_name(f"{out.name}.new")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    facts = {
        "version": __version__,
        "device": _record_device(half / "device"),
        "server": _record_server(half / "server"),
    }
    shutil.rmtree(half / "depot")
    (half / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    half.rename(out)


if __name__ == "__main__":
    place = HERE / "golden" / __version__
    if place.exists():
        sys.exit(f"{place} is there, and stays as it is")
    record(place)
    sys.stdout.write(f"written: {place}\n")
