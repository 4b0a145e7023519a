"""One update of one device, seen by the shim: what was promised when, and what must hold after.

A device serves OLD, committed; an order for NEW waits on the broker. Wherever the power
goes, the next start serves one of the two whole, goes on, and ends with NEW committed and
reported once.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import PATIENCE, Mosquitto, running_mosquitto, wait_for
from support_agent import Depot, Made, keys, make_bundle, order_for, running_depot, signed_order
from support_app import AgentProcess, Fleet, agent_process
from support_device import Device
from support_shim import Call, Page, read_log

from wherry_agent.store import StatePair
from wherry_contract.manifest import Soak
from wherry_contract.states import SlotTrust

SOAK = Soak(rows=5, seconds=0, longest_seconds=3600, error_share=0.01)  # never for want of rows
OLD = make_bundle("1.0.0", soak=SOAK)
NEW = make_bundle("2.0.0", bias=-2.9, counter=2, soak=SOAK)
STATES = ("offered", "admit", "fetch", "verify", "stage", "probe", "switch", "soak", "commit")
"""On the way from OLD to NEW; ``report`` and ``idle`` follow within one step of the last."""


@dataclass
class Scene:
    """A broker, a depot, the fleet's end, and a device that serves OLD."""

    folder: Path
    broker: Mosquitto
    depot: Depot
    fleet: Fleet

    @property
    def base(self) -> Path:
        """The device's folder, to be copied."""
        return self.folder / "base"

    @contextmanager
    def device(self, name: str) -> Iterator[AgentProcess]:
        """A copy of the device; it is gone at the end of the block."""
        place = self.folder / name
        shutil.copytree(self.base, place)
        try:
            with agent_process(place, broker=self.broker.url, depot=self.depot.url) as agent:
                yield agent
        finally:
            shutil.rmtree(place)

    def order(self, sequence: int) -> str:
        """Put the order for NEW there; returns its rollout."""
        order = order_for(NEW.digest, sequence)
        self.fleet.order(signed_order(order))
        return order.rollout

    def reports(self, rollout: str) -> list[tuple[str, str]]:
        """(outcome, bundle) of the reports of a rollout."""
        events = list(self.fleet.events.values())
        return [
            (item.outcome, item.bundle)
            for item in events
            if item.rollout == rollout and item.outcome
        ]


@contextmanager
def running_scene(folder: Path) -> Iterator[Scene]:
    """Everything of a `Scene`."""
    with (
        running_mosquitto(folder / "broker") as broker,
        running_depot(folder / "depot", OLD, NEW) as depot,
        Fleet(broker) as fleet,
    ):
        scene = Scene(folder, broker, depot, fleet)
        with agent_process(scene.base, broker=broker.url, depot=depot.url) as agent:
            agent.start()
            fleet.order(signed_order(order_for(OLD.digest, 1)))
            assert carry_out(agent, OLD)
            until_quiet(agent)
            assert agent.stop() == 0
        yield scene


def record_of(folder: Path) -> dict[str, Any]:
    """The device's record, read without touching it."""
    return StatePair(folder).peek() or {}


def carry_out(agent: AgentProcess, made: Made) -> bool:
    """Bring payments while it soaks, until a bundle is committed; false if the agent died."""
    assert agent.process
    end = time.monotonic() + 60 * PATIENCE
    while time.monotonic() < end:
        record = record_of(agent.state_dir)
        state = record.get("state", "")
        if agent.process.poll() is not None:
            return False
        if state == "soak":
            pay(agent)
        slot = record.get("slots", {}).get(record.get("active", ""), {})
        if (state, slot.get("digest"), slot.get("trust")) == ("idle", made.digest, "good"):
            return True
        time.sleep(0.01)
    raise AssertionError(f"never committed: {record_of(agent.state_dir)}\n{agent.log()}")


def pay(agent: AgentProcess) -> None:
    """One payment; an agent that is killed meanwhile does not answer."""
    try:
        status, answer = agent.ask()
    except (OSError, ValueError):
        return
    assert status == 200, answer


def until_quiet(agent: AgentProcess) -> None:
    """Wait until everything it had to say was acknowledged."""
    wait_for(lambda: not agent.status()["outbox"]["waiting"], what=agent.log)


# --- what was promised ----------------------------------------------------------------------


def generation(folder: Path) -> int:
    """Of the newest whole record in a state folder."""
    return max((_generation(path.read_bytes()) for path in folder.glob("state.?")), default=0)


def _generation(text: bytes) -> int:
    try:
        return int(json.loads(text.partition(b"\n")[2])["generation"])
    except (ValueError, KeyError):
        return 0


def promised(calls: Sequence[Call], root: Path) -> list[int]:
    """For each number of calls, the generation whose save had returned by then."""
    written, renamed, safe = 0, 0, 0
    found = [0]
    for call in calls:
        if call.kind == "W" and call.path.name.startswith(".state."):
            written = _generation(call.data)
        elif call.kind == "R" and call.other.name.startswith("state."):
            renamed = written
        elif call.kind == "S" and call.path == root.resolve():
            safe = max(safe, renamed)
        found.append(safe)
    return found


# --- what must hold -------------------------------------------------------------------------


def check_left(folder: Path, scene: Scene, sequence: int, promise: int) -> None:
    """Start the agent's inside on what a crash left, and let it end the update.

    Args:
        folder: with ``state`` in it.
        scene: whose depot it fetches from.
        sequence: of the order.
        promise: the generation that must not have been lost.
    """
    assert generation(folder / "state") >= promise, "a record that was saved is gone"
    floor = record_of(folder / "state").get("sequences", {})
    with Device(folder, depot=scene.depot.url) as device:
        device.updater.start()
        assert device.serves in (OLD.digest, NEW.digest), "no whole model serves"
        assert not device.outbox.damaged
        for keyid, number in floor.items():
            assert device.updater.record.sequences[keyid] >= number
        device.updater.offer(signed_order(order_for(NEW.digest, sequence)))
        device.settle()
        assert device.serves == NEW.digest
        assert device.updater.record.serving.trust == SlotTrust.GOOD
        assert device.updater.record.sequences[keys().order.public_key.keyid] == sequence
        reports = [item for item in device.outcomes() if item[0] == f"r{sequence}"]
        assert reports in ([], [(f"r{sequence}", "committed", "update.committed")])
    assert told(folder / "state", f"report:r{sequence}:{sequence}") == 1
    check_blobs(folder / "state")


def told(folder: Path, key: str) -> int:
    """How often something with a key was said."""
    with closing(sqlite3.connect(folder / "outbox.db")) as database:
        return int(
            database.execute("SELECT count(*) FROM told WHERE key = ?", (key,)).fetchone()[0]
        )


def check_blobs(folder: Path) -> None:
    """Both bundles lie there whole, and nothing else does."""
    wanted = {digest.rpartition(":")[2] for made in (OLD, NEW) for digest in every_blob(made)}
    assert {path.name for path in (folder / "blobs" / "sha256").iterdir()} == wanted


def every_blob(made: Made) -> dict[str, bytes]:
    """The blobs of a bundle by digest, its list of parts among them."""
    return {made.digest: made.layout.manifest, **made.layout.blobs}


def shim_page(scene: Scene, agent: AgentProcess, **values: int) -> Page:
    """A page for one start of an agent, with a log of its own."""
    log = scene.folder / "calls"
    log.unlink(missing_ok=True)
    page = Page(scene.folder / "page", agent.state_dir, log=log)
    page.set(armed=1, **values)
    return page


def calls_of(scene: Scene) -> list[Call]:
    """What the last start under a page did."""
    return read_log(scene.folder / "calls")
