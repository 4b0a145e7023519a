"""The server's ingest and rollouts at work, under the shim: says what it promised after which call.

Started by test_killed_server.py: reads one JSON request, prints one JSON line for each promise.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support_fleet import BUNDLE, FAMILY, open_store, window
from support_shim import Page

from wherry.rows import Exposure, Order, RolloutRow
from wherry.server.ingest import Arrival, Ingest
from wherry.server.ledger import Change
from wherry.server.store import Store
from wherry_contract.topics import Topic

BATCHES = 4
DEVICES = ("a", "b")


def arrivals(batch: int) -> list[Arrival]:
    """Three windows of each device."""
    return [
        Arrival(str(Topic("f", device, "window")), window(device, seq).to_bytes())
        for device in DEVICES
        for seq in range(3 * batch + 1, 3 * batch + 4)
    ]


def rollout(name: str) -> RolloutRow:
    """A rollout to both."""
    return RolloutRow(
        id=name,
        bundle=BUNDLE,
        name="fraud",
        version="1",
        family=FAMILY,
        state="canary",
        wave=0,
        waves=1,
        select={},
        policy={"shares": ["100%"]},
        created_at=1.0,
        changed_at=1.0,
        devices=tuple(Exposure(device, 0) for device in DEVICES),
    )


def offer(store: Store, name: str, sequence: int) -> None:
    """One look of the driver's: both are offered it."""
    parts = tuple(Exposure(item, 0, offered_at=2.0, sequence=sequence) for item in DEVICES)
    orders = tuple(
        Order(item, "k", sequence, name, BUNDLE, 1.8e9, b"%d" % sequence) for item in DEVICES
    )
    store.ledger.apply(name, Change(4.0, "canary", 0, None, parts, orders))


def take(store: Store, batch: int) -> list[tuple[str, int, int]]:
    """What the ingest acknowledges of a batch: device, first and last."""
    takes = Ingest(store, "f", lambda: 1000.0, lambda: None)
    acks = takes.take(arrivals(batch))
    return [(device, *pair) for device, ack in acks for pair in ack.stored]


def main() -> None:
    """Work, and say what is promised."""
    folder = Path(json.load(sys.stdin)["folder"])
    page = Page.of_this_process()

    def say(**promise: Any) -> None:
        print(json.dumps(promise | {"calls": page.get("count")}), flush=True)  # noqa: T201

    page.set(armed=1)
    with open_store(folder) as store:
        name = store.ledger.create(rollout("fraud-1"))
        say(rollout=name)
        for batch in range(BATCHES):
            say(stored=take(store, batch))
            offer(store, name, batch + 1)
            say(sequence=batch + 1)


if __name__ == "__main__":
    main()
