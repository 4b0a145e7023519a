"""The driver's looks, with clocks in the hand: what it drops, and when it does not dare to."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from support_fleet import BUNDLE, FAMILY, event, open_store, state, window

from wherry.rows import BundleRow, Exposure, Order, RolloutRow
from wherry.server.driver import Driver, Radio
from wherry.server.intake import Batch
from wherry.server.ledger import Change
from wherry.server.orders import AssignmentSigner
from wherry.server.store import Store
from wherry_contract.assignment import Assignment
from wherry_contract.messages import unwrap_assignment
from wherry_contract.when import to_seconds

HOUR, DAY = 3600.0, 86_400.0
TODAY = to_seconds("2026-11-24T12:00:00Z")


class Clock:
    """Two clocks: one that may be set, and one that may not."""

    def __init__(self, wall: float = TODAY) -> None:
        self.wall, self.steady = wall, 50.0

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.steady += seconds


def driver(store: Store, folder: Path, clock: Clock) -> Driver:
    """A driver that is asked to look by hand."""
    signer = AssignmentSigner(folder)
    return Driver(store, signer, clock=lambda: clock.wall, steady=lambda: clock.steady)


def received(store: Store, *moments: float) -> None:
    """Windows that came at these moments."""
    for seq, at in enumerate(moments, 1):
        item = window("a", seq)
        store.add(Batch(at, [(item, item.to_bytes())]))


def test_what_is_old_goes_once_the_clock_has_gone_well_for_an_hour(tmp_path: Path) -> None:
    clock = Clock(TODAY + 500 * DAY)
    with open_store(tmp_path, "a") as store:
        received(store, TODAY, TODAY + 499 * DAY)
        looks = driver(store, tmp_path, clock)
        looks.look()
        assert len(store.windows()) == 2  # it may be the clock that is wrong
        clock.wait(HOUR)
        looks.look()
        assert [item.received_at for item in store.windows()] == [TODAY + 499 * DAY]


def test_a_clock_that_jumps_takes_nothing_away(tmp_path: Path) -> None:
    clock = Clock()
    with open_store(tmp_path, "a") as store:
        received(store, TODAY)
        looks = driver(store, tmp_path, clock)
        for _ in range(3):
            clock.wait(HOUR - 1)
            clock.wall += 1000 * DAY
            looks.look()
            clock.wall -= 1000 * DAY  # and is put right
            looks.look()
        assert len(store.windows()) == 1


@pytest.mark.parametrize("at", [0.0, to_seconds("2020-01-01T00:00:00Z")], ids=["1970", "2020"])
def test_what_a_clock_that_was_not_set_has_stamped_stays(tmp_path: Path, at: float) -> None:
    clock = Clock()
    with open_store(tmp_path, "a") as store:
        received(store, at)
        looks = driver(store, tmp_path, clock)
        clock.wait(HOUR)
        looks.look()
        assert len(store.windows()) == 1


# --- devices that are late ------------------------------------------------------------------


def ended(store: Store, at: str = "done") -> str:
    """A rollout that has ended while device `a` was away, with its order waiting for it."""
    row = RolloutRow(
        id="fraud-1",
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
        devices=(Exposure("a", 0), Exposure("b", 0)),
    )
    name = store.ledger.create(row)
    parts = (
        Exposure("a", 0, offered_at=2.0, sequence=1),
        Exposure("b", 0, offered_at=2.0, sequence=1, outcome="committed", settled_at=3.0),
    )
    orders = (Order("a", "k", 1, name, BUNDLE, TODAY, b""),)
    store.ledger.apply(name, Change(4.0, at, 0, None, parts, orders))
    return name


def says(store: Store, rollout: str, seq: int, outcome: str) -> None:
    """What `a` reports."""
    item = event("a", seq, rollout=rollout, bundle=BUNDLE, outcome=outcome, code="U06")
    store.add(Batch(TODAY, events=[(item, item.to_bytes())]))


def test_how_a_late_device_fared_is_recorded_and_the_rollout_stays_done(tmp_path: Path) -> None:
    clock = Clock()
    with open_store(tmp_path, "a", "b") as store:
        name = ended(store)
        looks = driver(store, tmp_path, clock)
        looks.look()
        assert store.ledger.rollout(name).devices[0].outcome == ""
        says(store, name, 1, "reverted")
        looks.look()  # too soon to look at what is done
        clock.wait(10)
        looks.look()
        found = store.ledger.rollout(name)
        assert (found.state, found.changed_at, found.decisions) == ("done", 4.0, ())
        late = found.devices[0]
        assert (late.outcome, late.code, late.settled_at) == ("reverted", "U06", clock.wall)
        assert store.ledger.late() == []


def test_a_late_device_that_does_well_is_recorded_too(tmp_path: Path) -> None:
    clock = Clock()
    with open_store(tmp_path, "a", "b") as store:
        name = ended(store)
        store.add(Batch(TODAY, states={"a": state("a", bundle=BUNDLE, trust="good")}))
        driver(store, tmp_path, clock).look()
        assert store.ledger.rollout(name).devices[0].outcome == "committed"


def test_an_order_that_was_replaced_is_awaited_no_more(tmp_path: Path) -> None:
    with open_store(tmp_path, "a", "b") as store:
        ended(store)
        assert len(store.ledger.late()) == 1
        second = ended(store)
        assert [row.id for row in store.ledger.late()] == [second]


def test_an_order_follows_its_device_to_another_key(tmp_path: Path) -> None:
    """A device with a new key obeys no order that names its old one."""
    clock, said = Clock(), []
    old, new = "1" * 64, "2" * 64
    with open_store(tmp_path, "a", "b") as store:
        name = ended(store, "canary")
        store.add_bundle(BundleRow(BUNDLE, "fraud", "1", FAMILY, 1, 700, 9, "e", TODAY))
        signer = AssignmentSigner(tmp_path)
        order = Assignment("a", name, FAMILY, BUNDLE, 700, 1, TODAY, TODAY + DAY, device_key=old)
        kept = Order("a", signer.public.keyid, 1, name, BUNDLE, TODAY, signer.sign(order))
        store.ledger.apply(name, Change(5.0, "done", 0, None, (), (kept,)))
        keys = {"a": old}
        looks = Driver(
            store,
            signer,
            key_of=lambda device: keys[device],
            clock=lambda: clock.wall,
            steady=lambda: clock.steady,
        )
        looks._radio = Radio(lambda: 1.0, lambda *message: said.append(message))
        looks.look()
        keys["a"] = new
        looks.look()
        first, second = (json.loads(unwrap_assignment(payload)) for _, _, payload in said)
        orders = [
            Assignment.from_bytes(base64.b64decode(envelope["payload"]))
            for envelope in (first, second)
        ]
        assert [(order.sequence, order.device_key) for order in orders] == [(1, old), (2, new)]


def test_events_are_read_once(tmp_path: Path) -> None:
    with open_store(tmp_path, "a") as store:
        last, found = store.events_after("r1", 0)
        assert (last, found) == (0, [])
        says(store, "r1", 1, "reverted")
        says(store, "r2", 2, "reverted")
        last, found = store.events_after("r1", last)
        assert [item.event.place.seq for item in found] == [1]
        assert store.events_after("r1", last) == (last, [])
        says(store, "r1", 3, "refused")
        assert [item.event.place.seq for item in store.events_after("r1", last)[1]] == [3]
