"""Whole updates over real files and a real depot: what comes of them, and of a pulled plug."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support_agent import (
    Depot,
    Faults,
    Flaw,
    Made,
    keys,
    make_bundle,
    order_for,
    running_depot,
    signed_order,
)
from support_device import Device, HandClock, Power, PowerCut

from wherry_agent.store import StatePair
from wherry_agent.update.updater import BOOT_BUDGET, RETRY_BUDGET
from wherry_contract.assignment import ShadowPlan
from wherry_contract.manifest import Soak
from wherry_contract.states import SlotTrust

OLD = make_bundle("1.0.0")
NEW = make_bundle("2.0.0", bias=-2.5)
SHORT = Soak(rows=5, seconds=0, longest_seconds=60)


@pytest.fixture(scope="module")
def depot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Depot]:
    with running_depot(tmp_path_factory.mktemp("depot"), OLD, NEW) as running:
        yield running


@pytest.fixture
def device(tmp_path: Path, depot: Depot) -> Iterator[Device]:
    """A device that serves OLD, committed under sequence 1."""
    depot.faults = Faults()
    with Device(tmp_path, depot=depot.url) as started:
        install(started, OLD, 1)
        yield started


def install(device: Device, made: Made, sequence: int, **changes: Any) -> None:
    device.updater.start()
    device.updater.offer(signed_order(order_for(made.digest, sequence, **changes)))
    device.settle()


def ends_with_old(device: Device, outcome: str, code: str) -> None:
    assert device.serves == OLD.digest
    assert device.updater.record.serving.digest == OLD.digest
    assert device.outcomes()[-1][1:] == (outcome, code)


# --- how updates end ------------------------------------------------------------------------


def test_a_good_bundle_is_committed(device: Device) -> None:
    device.updater.offer(signed_order(order_for(NEW.digest, 2)))
    device.settle()
    record = device.updater.record
    assert device.serves == NEW.digest
    assert (record.serving.digest, record.serving.trust) == (NEW.digest, SlotTrust.GOOD)
    assert device.outcomes() == [
        ("r1", "committed", "update.committed"),
        ("r2", "committed", "update.committed"),
    ]


REFUSED = [
    ("golden vectors disagree", {"flaw": "golden"}, {}, "refused", "P01"),
    ("a forbidden operator", {"flaw": "operator"}, {}, "refused", "M05"),
    ("no model", {"flaw": "unloadable"}, {}, "refused", "P04"),
    ("scores that are none, in the soak", {"flaw": "nan"}, {}, "reverted", "U06"),
    ("another family, ordered as ours", {"family": "churn"}, {}, "refused", "T06"),
    ("another family, ordered as such", {"family": "churn"}, {"family": "churn"}, "refused", "T06"),
    (
        "signed by a stranger",
        {"version": "2.1.0", "signer": keys("stranger").bundle},
        {},
        "refused",
        "T02",
    ),
    ("another runtime", {"wants": ">=99"}, {}, "refused", "M06"),
    ("another board", {"architectures": ("vax",)}, {}, "refused", "M07"),
    ("an expired order", {"version": "4"}, {"expires": 1.7e9}, "refused", "T05"),
    ("a mode from the future", {"version": "5"}, {"mode": "turbo"}, "refused", "U12"),
]


@pytest.mark.parametrize(
    ("bundle", "order", "ends"),
    [(*row[1:3], row[3:]) for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
def test_a_bad_update_leaves_the_old_model_serving(
    device: Device,
    depot: Depot,
    bundle: dict[str, Any],
    order: dict[str, Any],
    ends: tuple[str, str],
) -> None:
    made = make_bundle(**bundle)
    depot.publish(made)
    device.updater.offer(signed_order(order_for(made.digest, 2, **order)))
    device.settle(amount=5000.0)
    ends_with_old(device, *ends)


def test_what_failed_here_is_not_tried_again_in_the_same_rollout(
    device: Device, depot: Depot
) -> None:
    made = make_bundle(flaw="golden")
    depot.publish(made)
    for sequence in (2, 3):
        order = order_for(made.digest, sequence, rollout="again")
        device.updater.offer(signed_order(order))
        device.settle()
    assert [item[2] for item in device.outcomes()[1:]] == ["P01", "U09"]


def test_an_application_that_lacks_a_feature_keeps_its_model(tmp_path: Path, depot: Depot) -> None:
    wide = make_bundle("6.0.0", features=4)
    depot.publish(wide)
    names = OLD.parts.manifest.input.names
    with Device(tmp_path, depot=depot.url, features=names) as device:
        install(device, OLD, 1)
        device.updater.offer(signed_order(order_for(wide.digest, 2)))
        device.settle()
        ends_with_old(device, "refused", "U07")


def test_a_disk_without_room_is_found_out_before_anything_is_fetched(
    tmp_path: Path, depot: Depot
) -> None:
    with Device(tmp_path, depot=depot.url, reserve_mib=2.0**30) as device:
        install(device, OLD, 1)
        assert device.outcomes()[-1][1:] == ("refused", "U01")
        assert not device.serves


def test_going_back_to_the_former_bundle_fetches_nothing(device: Device, depot: Depot) -> None:
    device.updater.offer(signed_order(order_for(NEW.digest, 2)))
    device.settle()
    depot.requests.clear()
    device.updater.offer(signed_order(order_for(OLD.digest, 3)))
    device.settle()
    assert device.serves == OLD.digest
    assert [path for path, _ in depot.requests if "/blobs/" in path] == []


def test_a_blob_that_went_bad_on_disk_is_fetched_again(device: Device) -> None:
    shared = next(layer for layer in NEW.layout.blobs if layer in OLD.layout.blobs)
    path = device.blobs.path(shared)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    device.updater.offer(signed_order(order_for(NEW.digest, 2)))
    device.settle()
    assert device.serves == NEW.digest


# --- orders ---------------------------------------------------------------------------------

BAD_ORDERS = [
    ("no JSON", lambda: b"\xff\x00{", "G01"),
    ("another schema", lambda: b'{"schema":"wherry/ack/1+json"}', "G01"),
    ("from the future", lambda: b'{"schema":"wherry/assignment/9+dsse","envelope":{}}', "G03"),
    ("huge", lambda: b'{"schema":"' + b"x" * 300_000 + b'"}', "G02"),
    ("an envelope that is none", lambda: b'{"schema":"wherry/assignment/1+dsse","envelope":{}}', "T09"),
    ("a stranger's", lambda: signed_order(order_for(NEW.digest, 9), keys("x").order), "T02"),
    ("for another device", lambda: signed_order(order_for(NEW.digest, 9, device="shop-2")), "T03"),
    ("replayed", lambda: signed_order(order_for(NEW.digest, 0 + 1, rollout="old")), "T04"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "code"), [row[1:] for row in BAD_ORDERS], ids=[row[0] for row in BAD_ORDERS]
)
def test_a_bad_order_is_told_and_changes_nothing(device: Device, make: Any, code: str) -> None:
    device.updater.offer(signed_order(order_for(OLD.digest, 5)))
    device.settle()
    before = device.updater.record
    device.updater.offer(make())
    device.settle()
    assert device.updater.record == before
    assert device.events()[-1].code == code
    assert device.serves == OLD.digest


def test_garbage_behind_an_order_does_not_hide_it(device: Device) -> None:
    device.updater.offer(signed_order(order_for(NEW.digest, 2)))
    device.updater.offer(b"garbage")
    device.settle()
    assert device.serves == NEW.digest


def test_the_retained_order_again_and_again_is_taken_once(device: Device) -> None:
    payload = signed_order(order_for(NEW.digest, 2))
    for _ in range(3):
        device.updater.offer(payload)
        device.settle()
    assert len(device.outcomes()) == 2


def test_an_order_that_a_failing_disk_had_given_up_is_taken_when_it_is_repeated(
    tmp_path: Path,
) -> None:
    """The server repeats the same bytes until the order is echoed."""
    with Device(tmp_path) as device:
        device.updater.start()
        in_the_way = [tmp_path / "state" / f".state.{turn}.new" for turn in (0, 1)]
        for path in in_the_way:
            path.mkdir()
        payload = signed_order(order_for(NEW.digest, 2))
        device.updater.offer(payload)
        for _ in range(RETRY_BUDGET + 1):
            device.step()
        assert not device.updater._offers  # it blocks no other
        assert device.updater.record.sequences == {}
        for path in in_the_way:
            path.rmdir()
        device.updater.offer(payload)
        device.step()
        assert list(device.updater.record.sequences.values()) == [2]


STATES = ["admit", "fetch", "verify", "stage", "probe", "switch", "soak"]


@pytest.mark.parametrize("state", STATES)
def test_a_newer_order_replaces_the_one_under_way(device: Device, depot: Depot, state: str) -> None:
    third = make_bundle("3.0.0", bias=-2.0)
    depot.publish(third)
    device.updater.offer(signed_order(order_for(NEW.digest, 2)))
    device.step_to(state)
    device.updater.offer(signed_order(order_for(third.digest, 3)))
    device.settle()
    assert device.serves == third.digest
    outcomes = [(rollout, outcome) for rollout, outcome, _ in device.outcomes()]
    superseded = ("r2", "reverted" if state in ("switch", "soak") else "refused")
    assert outcomes == [("r1", "committed"), superseded, ("r3", "committed")]


@pytest.mark.parametrize("state", [*STATES, "idle"])
def test_another_order_for_the_same_bundle_costs_no_slot(
    device: Device, depot: Depot, state: str
) -> None:
    """A stick's order, then the server's: the bundle to go back to stays, and nothing comes twice."""
    device.updater.offer(signed_order(order_for(NEW.digest, 2, rollout="stick")))
    device.step()
    if state == "idle":
        device.settle()
    device.step_to(state)
    before = device.updater.record
    depot.requests.clear()
    served = {device.serves}
    device.updater.offer(signed_order(order_for(NEW.digest, 3, rollout="server")))
    while device.step() == 0 or device.state != "idle":
        served.add(device.serves)
        device.pay()
        device.clock.pass_by(1)
    record = device.updater.record
    assert (record.serving.digest, record.serving.trust) == (NEW.digest, SlotTrust.GOOD)
    standby = record.slots["b" if record.active == "a" else "a"]
    assert (standby.digest, standby.trust) == (OLD.digest, SlotTrust.GOOD)
    assert device.outcomes()[-1][:2] == ("server", "committed")
    if state in ("switch", "soak", "idle"):
        assert record.active == before.active
        assert not {path for path, _ in depot.requests if "/blobs/" in path}
    if state in ("soak", "idle"):
        assert served == {NEW.digest}
    if state == "idle":
        assert record.slots == before.slots
        assert depot.requests == []


@pytest.mark.parametrize("state", STATES)
def test_who_goes_back_and_is_called_off_can_still_go_back(device: Device, state: str) -> None:
    device.updater.offer(signed_order(order_for(NEW.digest, 2)))
    device.settle()
    device.updater.offer(signed_order(order_for(OLD.digest, 3)))
    device.step_to(state)
    device.updater.offer(signed_order(order_for("", 4, rollout="off")))
    device.settle()
    record = device.updater.record
    assert device.serves == NEW.digest
    standby = record.slots["b" if record.active == "a" else "a"]
    after = SlotTrust.UNPROVEN if state in ("switch", "soak") else SlotTrust.GOOD
    assert (standby.digest, standby.trust) == (OLD.digest, after)


@pytest.mark.parametrize("state", STATES)
def test_a_withdrawn_order_leaves_the_old_model(device: Device, state: str) -> None:
    device.updater.offer(signed_order(order_for(NEW.digest, 2)))
    device.step_to(state)
    device.updater.offer(signed_order(order_for("", 3, rollout="r2")))
    device.settle()
    ends_with_old(device, "withdrawn", "update.withdrawn")


# --- the soak -------------------------------------------------------------------------------


def soaking(device: Device, depot: Depot, soak: Soak, flaw: Any = "") -> None:
    made = make_bundle("7.0.0", bias=-2.2, soak=soak, flaw=flaw)
    depot.publish(made)
    device.updater.offer(signed_order(order_for(made.digest, 2)))
    device.step_to("soak")


def test_a_soak_needs_its_rows_and_its_time(device: Device, depot: Depot) -> None:
    soaking(device, depot, Soak(rows=10, seconds=100, longest_seconds=1000))
    device.pay(9)
    device.clock.pass_by(200)
    device.step()
    assert device.state == "soak"
    device.pay(1)
    device.step()
    assert device.state == "commit"


@pytest.mark.parametrize("jump", [-1e9, 1e9], ids=["back", "ahead"])
def test_a_jump_of_the_wall_clock_is_no_soak(device: Device, depot: Depot, jump: float) -> None:
    soaking(device, depot, Soak(rows=1, seconds=100, longest_seconds=1000))
    device.pay(5)
    device.clock.wall += jump
    device.step()
    assert device.state == "soak"
    device.clock.pass_by(101)
    device.step()
    assert device.state == "commit"


def test_too_little_traffic_is_told_once_and_not_committed(device: Device, depot: Depot) -> None:
    soaking(device, depot, Soak(rows=10, seconds=0, longest_seconds=100))
    for _ in range(5):
        device.clock.pass_by(150)
        device.step()
    assert device.state == "soak"
    assert [event.code for event in device.events()].count("U10") == 1
    device.pay(10)
    device.settle()
    assert device.outcomes()[-1][1] == "committed"


def test_a_look_that_changes_nothing_writes_nothing(device: Device, depot: Depot) -> None:
    soaking(device, depot, Soak(rows=10**6, seconds=10**6, longest_seconds=10**7))
    device.step()
    writes = device.power.writes
    for _ in range(50):
        device.clock.pass_by(1)
        device.step()
    assert device.power.writes == writes


def test_one_odd_row_among_many_ends_no_soak(device: Device, depot: Depot) -> None:
    soaking(device, depot, Soak(rows=30, seconds=0, longest_seconds=1000), flaw="nan")
    device.pay(1, amount=5000.0)
    device.pay(29)
    device.settle()
    assert device.outcomes()[-1][1] == "committed"


# --- restarts and pulled plugs --------------------------------------------------------------


AHEAD = {"mode": "shadow", "shadow": ShadowPlan(5, 0, "switch")}


@pytest.mark.parametrize(
    ("flaw", "how", "outcome"),
    [
        pytest.param("", {}, "committed", id="good"),
        pytest.param("golden", {}, "refused", id="disagrees"),
        pytest.param("nan", {}, "reverted", id="fails rows"),
        pytest.param("", AHEAD, "committed", id="good, as a shadow first"),
        pytest.param("nan", AHEAD, "refused", id="fails rows as a shadow"),
    ],
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_pulled_plug_at_any_write(
    tmp_path: Path, depot: Depot, flaw: Any, how: dict[str, Any], outcome: str, *, after: bool
) -> None:
    """The process dies at the nth durable write, for each n; the next start converges."""
    made = make_bundle("8.0.0", bias=-2.1, flaw=flaw)
    depot.publish(made)
    with Device(tmp_path / "first", depot=depot.url) as device:
        install(device, OLD, 1)
    wanted = made.digest if outcome == "committed" else OLD.digest
    cuts = 0
    while True:
        folder = tmp_path / f"cut-{cuts}"
        shutil.copytree(tmp_path / "first", folder)
        if not _run_until_cut(folder, depot, made, how, Power(cuts + 1, after=after)):
            break
        cuts += 1
        with Device(folder, depot=depot.url) as device:
            device.updater.start()
            assert device.serves in (OLD.digest, made.digest)
            device.updater.offer(signed_order(order_for(made.digest, 2, **how)))
            device.settle(amount=5000.0)
            assert device.serves == wanted
            assert device.updater.record.serving.digest == wanted
            assert device.updater.record.serving.trust == SlotTrust.GOOD
            assert [item[1] for item in device.outcomes() if item[0] == "r2"] == [outcome]
        shutil.rmtree(folder)
    assert cuts >= 15


def _run_until_cut(
    folder: Path, depot: Depot, made: Made, how: dict[str, Any], power: Power
) -> bool:
    device = Device(folder, depot=depot.url, power=power)
    try:
        device.updater.start()
        device.updater.offer(signed_order(order_for(made.digest, 2, **how)))
        device.settle(amount=5000.0)
    except PowerCut:
        return True
    finally:
        device.outbox.close()
    return False


@pytest.mark.parametrize("state", STATES)
def test_a_restart_in_any_state_goes_on(tmp_path: Path, depot: Depot, state: str) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        install(device, OLD, 1)
        device.updater.offer(signed_order(order_for(NEW.digest, 2)))
        device.step_to(state)
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        assert device.serves == (NEW.digest if state in ("switch", "soak") else OLD.digest)
        device.settle()
        assert device.serves == NEW.digest


def test_a_model_that_crashes_the_agent_again_and_again_is_taken_back(
    tmp_path: Path, depot: Depot
) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        install(device, OLD, 1)
        soaking(device, depot, Soak(rows=10**6, seconds=0, longest_seconds=10**6))
    for _ in range(BOOT_BUDGET):
        with Device(tmp_path, depot=depot.url) as device:
            device.updater.start()
            assert device.state == "soak"
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        assert device.serves == OLD.digest
        device.settle()
        ends_with_old(device, "reverted", "U05")


def test_a_start_is_counted_before_the_model_is_loaded(tmp_path: Path, depot: Depot) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        install(device, OLD, 1)
        soaking(device, depot, SHORT)
    for boots in (1, 2):
        with Device(tmp_path, depot=depot.url, power=Power(1, after=True)) as device:
            with pytest.raises(PowerCut):
                device.updater.start()
            assert not device.serves
        with Device(tmp_path, depot=depot.url, power=Power(1)) as device:
            with pytest.raises(PowerCut):
                device.updater.start()
            assert device.updater.record.update is not None
            assert device.updater.record.update.boots == boots


# --- damage ---------------------------------------------------------------------------------

DAMAGE = [
    ("one byte", lambda data: data[:70] + b"\x00" + data[71:]),
    ("empty", lambda _: b""),
    ("half", lambda data: data[: len(data) // 2]),
]


@pytest.mark.parametrize("damage", [row[1] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_with_both_state_files_damaged_the_device_serves_what_is_on_disk(
    tmp_path: Path, depot: Depot, damage: Any
) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        install(device, OLD, 1)
    for path in (tmp_path / "state").glob("state.?"):
        path.write_bytes(damage(path.read_bytes()))
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        assert device.serves == OLD.digest
        device.spool.flush()
        assert [event.code for event in device.events()].count("D02") == 2
        device.updater.offer(signed_order(order_for(NEW.digest, 2)))
        device.settle()
        assert device.serves == NEW.digest


def test_with_the_record_and_the_model_gone_nothing_serves_and_the_next_order_heals(
    tmp_path: Path, depot: Depot
) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        install(device, OLD, 1)
    for path in [*(tmp_path / "state").glob("state.?"), *(tmp_path / "state" / "blobs").rglob("*")]:
        if path.is_file():
            path.write_bytes(b"gone")
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        assert device.scorer.served is None
        device.updater.offer(signed_order(order_for(NEW.digest, 2)))
        device.settle()
        assert device.serves == NEW.digest


def test_a_record_of_a_foreign_form_is_as_good_as_none(tmp_path: Path, depot: Depot) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        install(device, OLD, 1)
        device.updater._kept._pair.save({"slots": {"a": {"digest": 7}}})
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        assert device.serves == OLD.digest


def test_an_update_of_a_newer_agent_costs_no_slot(tmp_path: Path, depot: Depot) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        install(device, OLD, 1)
        pair = StatePair(device.config.state_dir)
        document = pair.load() or {}
        pair.save(document | {"state": "of-tomorrow", "update": {"from": "the future"}, "more": 1})
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        assert (device.state, device.serves) == ("idle", OLD.digest)
        assert device.updater.record.extra == {"more": 1}


def test_an_active_model_that_is_gone_gives_way_to_the_other_slot(
    tmp_path: Path, depot: Depot
) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        install(device, OLD, 1)
        device.updater.offer(signed_order(order_for(NEW.digest, 2)))
        device.settle()
        device.blobs.path(_model_of(NEW)).unlink()
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        assert device.serves == OLD.digest
        assert device.updater.record.serving.digest == OLD.digest


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """A folder in the place of a file: the medium gives an error and no bytes."""
    away = path.with_name("away")
    path.rename(away)
    path.mkdir()
    yield
    path.rmdir()
    away.rename(path)


@pytest.mark.parametrize("what", ["manifest", "model"])
@pytest.mark.parametrize("standby", [False, True])
def test_a_transient_read_error_at_start_condemns_no_slot(
    tmp_path: Path, depot: Depot, what: str, *, standby: bool
) -> None:
    """What stands in serves for now, and the slot serves again when it can be read."""
    with Device(tmp_path, depot=depot.url) as device:
        if standby:
            install(device, OLD, 1)
        install(device, NEW, 2)
        path = device.blobs.path(NEW.digest if what == "manifest" else _model_of(NEW))
        before = device.updater.record
    with Device(tmp_path, depot=depot.url) as device:
        with unreadable(path):
            device.updater.start()
            device.clock.pass_by(60)
            device.step()
            assert device.serves == (OLD.digest if standby else "")
            assert device.updater.record.serving == before.serving
        device.clock.pass_by(60)
        device.step()
        assert device.serves == NEW.digest
        assert device.updater.record == before
        codes = [event.code for event in device.events()]
        assert codes.count("D06") == 1
        assert ("U08" in codes) == (not standby)


def test_a_transient_read_error_ends_no_soak(tmp_path: Path, depot: Depot) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        install(device, OLD, 1)
        device.updater.offer(signed_order(order_for(NEW.digest, 2)))
        device.step_to("soak")
        path = device.blobs.path(_model_of(NEW))
    with Device(tmp_path, depot=depot.url) as device:
        with unreadable(path):
            device.updater.start()
            assert device.step() > 0
            assert (device.state, device.serves) == ("soak", OLD.digest)
        device.clock.pass_by(60)
        device.settle()
        assert (device.serves, device.outcomes()[-1][1]) == (NEW.digest, "committed")


def test_a_blob_that_cannot_be_read_now_is_not_removed(tmp_path: Path, depot: Depot) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        install(device, OLD, 1)
        path = device.blobs.path(_model_of(OLD))
        with unreadable(path):
            assert not device.blobs.is_whole(_model_of(OLD))
            assert path.is_dir()
        assert device.blobs.is_whole(_model_of(OLD))


def test_a_standby_whose_manifest_rotted_stops_no_update(tmp_path: Path, depot: Depot) -> None:
    """Which blobs it needs is unknown then, so none are removed; nothing ends over it."""
    with Device(tmp_path, depot=depot.url) as device:
        install(device, OLD, 1)
        device.updater.offer(signed_order(order_for(NEW.digest, 2)))
        device.step_to("soak")
        device.blobs.path(OLD.digest).write_bytes(b"rotten")
        device.settle()
        assert device.outcomes()[-1][1] == "committed"
        assert device.serves == NEW.digest


@pytest.mark.parametrize("flaw", ["golden", "nan"], ids=["refused", "reverted"])
def test_two_orders_that_meet_on_a_new_device_leave_it_a_model(tmp_path: Path, flaw: Flaw) -> None:
    bad = make_bundle("2.0.0", flaw=flaw)
    with (
        running_depot(tmp_path / "depot", OLD, bad) as depot,
        Device(tmp_path / "device", depot=depot.url) as device,
    ):
        device.updater.start()
        device.updater.offer(signed_order(order_for(OLD.digest, 1)))
        device.step_to("soak")
        device.updater.offer(signed_order(order_for(bad.digest, 2)))
        device.settle(amount=5000.0)  # from there on the flawed model's scores are none
        assert device.outcomes()[-1][1] in ("refused", "reverted")
        assert device.serves == OLD.digest


def test_with_no_model_left_the_rule_answers(tmp_path: Path, depot: Depot) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        install(device, OLD, 1)
        device.blobs.path(_model_of(OLD)).unlink()
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        assert device.scorer.served is not None
        assert not device.serves
        device.pay(3, amount=500.0)
        device.scorer.stop()
        device.spool.flush()
        assert "U08" in {event.code for event in device.events()}


def _model_of(made: Made) -> str:
    return next(digest for digest, data in made.layout.blobs.items() if data == made.parts.model)


# --- a disk and a depot that fail for a while -----------------------------------------------


def test_a_full_disk_halts_an_update_and_costs_no_model(device: Device, tmp_path: Path) -> None:
    """A folder in the place of the temporary file is a disk that takes no write."""
    device.updater.offer(signed_order(order_for(NEW.digest, 2)))
    device.step_to("soak")
    obstacles = [tmp_path / "state" / f".state.{turn}.new" for turn in (0, 1)]
    for obstacle in obstacles:
        obstacle.mkdir()
    device.pay(10)
    for _ in range(40):
        device.step()
        device.clock.pass_by(20)
    assert (device.state, device.serves) == ("soak", NEW.digest)
    assert "D06" in {event.code for event in device.events()}
    for obstacle in obstacles:
        obstacle.rmdir()
    device.settle()
    assert device.updater.record.serving.digest == NEW.digest


def test_an_order_that_could_not_be_saved_is_not_lost(device: Device, tmp_path: Path) -> None:
    obstacles = [tmp_path / "state" / f".state.{turn}.new" for turn in (0, 1)]
    for obstacle in obstacles:
        obstacle.mkdir()
    device.updater.offer(signed_order(order_for(NEW.digest, 2)))
    assert 0 < device.step() < 60
    assert device.state == "idle"
    for obstacle in obstacles:
        obstacle.rmdir()
    device.settle()
    assert device.serves == NEW.digest


DEPOT = [
    ("away for a while", Faults(status=503, times=4), "committed"),
    ("cut off again and again", Faults(cut_after=300, times=12), "committed"),
    ("a captive portal for a while", Faults(portal=True, times=4), "committed"),
    ("a redirect for a while", Faults(redirect=True, times=4), "committed"),
    ("wrong bytes for a while", Faults(other_bytes=True, times=3), "committed"),
    ("wrong bytes for ever", Faults(other_bytes=True, only="/blobs/"), "refused"),
    ("not found for ever", Faults(status=404), "refused"),
]


@pytest.mark.parametrize(
    ("faults", "outcome"), [row[1:] for row in DEPOT], ids=[row[0] for row in DEPOT]
)
def test_a_depot_that_fails(device: Device, depot: Depot, faults: Faults, outcome: str) -> None:
    made = make_bundle("9.0.0", bias=-2.3)
    depot.publish(made)
    depot.faults = Faults(**faults.__dict__)
    device.updater.offer(signed_order(order_for(made.digest, 2)))
    device.settle()
    if outcome == "refused":
        ends_with_old(device, "refused", "U03")
    else:
        assert device.serves == made.digest


def test_an_hour_away_costs_patience_only(device: Device, depot: Depot) -> None:
    depot.faults = Faults(cut_after=0)
    device.updater.offer(signed_order(order_for(NEW.digest, 2)))
    for _ in range(60):
        device.step()
        device.clock.pass_by(60)
    assert (device.state, device.serves) == ("admit", OLD.digest)
    depot.faults = Faults()
    device.settle()
    assert device.serves == NEW.digest


# --- with real child processes --------------------------------------------------------------


def test_the_whole_road_with_real_children(tmp_path: Path, depot: Depot) -> None:
    """Signatures and golden vectors judged in the processes that judge them in production."""
    bad = make_bundle(flaw="crash")
    depot.publish(bad)
    with Device(tmp_path, depot=depot.url, real_children=True, clock=HandClock()) as device:
        install(device, OLD, 1)
        device.updater.check_active()
        device.updater.offer(signed_order(order_for(bad.digest, 2)))
        device.settle()
        ends_with_old(device, "refused", "P02")


def test_an_upgraded_runtime_is_probed_before_it_serves(tmp_path: Path, depot: Depot) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        install(device, OLD, 1)
        record = device.updater.record
        document = record.to_dict() | {"runtime": "onnxruntime 0.1"}
        slots = document["slots"]
        bad = make_bundle(flaw="golden")
        for digest, data in {bad.digest: bad.layout.manifest, **bad.layout.blobs}.items():
            device.blobs.put(digest, data)
        slots["b"] = slots[record.active] | {"digest": bad.digest}
        device.updater._kept._pair.save(document | {"active": "b"})
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        assert device.serves == OLD.digest
