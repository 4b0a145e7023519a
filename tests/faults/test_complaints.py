"""What hurt the users of other update systems, each with the test that would see it here.

`COMPLAINTS` is the list: whose, what happened, and the test. Those that no other file
covers are tested below, named after the thread they come from.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from support_agent import (
    Depot,
    Faults,
    keys,
    make_bundle,
    order_for,
    running_depot,
    signed_order,
)
from support_device import Device, HandClock, Power, PowerCut

from wherry.deltas import offer_deltas
from wherry_contract.delta import read_deltas, write_deltas

HERE = "faults/test_complaints.py"
UPDATE, NETWORK = "agent/test_update_io.py", "agent/test_networks.py"

# whose, what happened, file, test
COMPLAINTS: list[tuple[str, str, str, str]] = [
    # false success
    ("hawkbit#3185", "in sync, while the old image runs", "host/test_rollout.py", "test_what_a_device_means"),
    ("rauc-hawkbit-updater#161", "success before the new slot is verified", HERE, "test_rauc_hawkbit_updater_161_success_comes_after_the_soak"),
    ("zephyr#71750", "success after falling back", UPDATE, "test_a_bad_update_leaves_the_old_model_serving"),
    ("zephyr PR#89265", "the same broken update is offered again", UPDATE, "test_what_failed_here_is_not_tried_again_in_the_same_rollout"),
    ("iot-hub-device-update#625", "replayed desired state runs it again", UPDATE, "test_the_retained_order_again_and_again_is_taken_once"),
    ("iot-hub-device-update#435", "after a restart it is downloaded again, for ever", HERE, "test_iot_hub_device_update_435_a_restart_downloads_nothing_again"),
    # stuck for ever
    ("hawkbit#693", "a device that dies is running for ever", "host/test_rollout.py", "test_what_a_device_means"),
    ("greengrass#807", "one stuck deployment blocks all later ones", UPDATE, "test_a_newer_order_replaces_the_one_under_way"),
    ("balena-supervisor#1758", "a stale lock of a dead agent", "agent/test_store.py", "test_a_killed_agent_holds_nothing"),
    ("balena-supervisor#2261", "a stale lock of a dead application", NETWORK, "test_an_update_waits_while_the_application_asks_for_quiet"),
    ("sedna#381", "the second update never starts", HERE, "test_sedna_381_the_second_and_third_update_work_too"),
    # retry storms and data bills
    ("rauc-hawkbit-updater#158", "404: retries without a pause or an end", HERE, "test_rauc_hawkbit_updater_158_a_missing_blob_is_no_storm"),
    ("rauc-hawkbit-updater#158", "and no way to stop them", HERE, "test_rauc_hawkbit_updater_158_a_newer_order_ends_the_retries"),
    ("rauc-hawkbit-updater#223", "falls back to the whole without a word", NETWORK, "test_a_delta_that_fails"),
    ("rauc#1517", "cut at 80 %, and from the start again", NETWORK, "test_a_line_that_is_cut_brings_no_byte_twice"),
    ("nats-server#1368", "a herd that comes back at once", NETWORK, "test_a_busy_depot_is_waited_for_and_costs_no_retry"),
    # away for weeks
    ("rauc-hawkbit-updater#203", "every cancelled order is gone through first", HERE, "test_rauc_hawkbit_updater_203_only_the_last_order_is_fetched"),
    ("aktualizr#1185", "expired while away, and stuck until a reboot", HERE, "test_aktualizr_1185_what_expired_while_away_does_not_block"),
    ("aktualizr PR#1548", "expired between install and reboot", HERE, "test_aktualizr_1548_expiry_after_the_switch_changes_nothing"),
    # clocks
    ("rauc#353", "no valid time at a USB install", "agent/test_tuf_time.py", "test_a_board_in_1970_is_told_the_time_once"),
    ("rauc#781", "expired: can never be updated again", "agent/test_tuf_attacks.py", "test_an_expired_list_refuses_installs_and_still_brings_the_newer_root"),
    ("uptane-standard#169", "a clock too far ahead bricks it", "agent/test_tuf_time.py", "test_a_new_board_a_year_ahead_is_told_the_time"),
    # power, disk, state
    ("greengrass#1410", "a log that a power cut emptied", "agent/test_store.py", "test_damage_to_either_file_costs_one_generation_at_most"),
    ("greengrass PR#1488", "damaged metadata: a boot loop", UPDATE, "test_with_both_state_files_damaged_the_device_serves_what_is_on_disk"),
    ("mender PR#810", "the loop detector fires on harmless retries", "agent/test_updater.py", "test_a_depot_that_is_away_costs_no_retry"),
    ("mender PR#823", "rolled back after the commit, since the report failed", HERE, "test_mender_823_a_report_that_fails_takes_nothing_back"),
    ("balena-supervisor#674", "a full disk kills the agent", UPDATE, "test_a_full_disk_halts_an_update_and_costs_no_model"),
    ("balena-os#125", "full after three updates", HERE, "test_balena_os_125_ten_updates_leave_two_bundles"),
    ("balena-supervisor#1054", "a delta from what the device does not have", HERE, "test_balena_supervisor_1054_a_delta_from_elsewhere"),
    # windows and health
    ("hawkbit#2026", "a maintenance window that is never open", "agent/test_pace.py", "test_window"),
    # the rest of what applies
    ("hawkbit#1770", "a rollout to nobody, and no reason shown", "host/test_fleet.py", "test_pushes_that_make_no_sense"),
    ("zephyr#89530", "a cancel that fails blocks the device", UPDATE, "test_a_withdrawn_order_leaves_the_old_model"),
    ("fleetdm/fleet#3271", "a herd of reconnects echoes", "agent/test_mqtt.py", "test_waits_have_full_jitter_between_a_second_and_the_ceiling"),
    ("python-tuf#2359", "no install without a network", "host/test_export.py", "test_a_stick_for_many_devices_installs_on_each_once"),
    ("sigstore-python#1175", "an offline list is years old, and nobody says so", "host/test_export.py", "test_a_stick_stays_fresh_for_90_days"),
    ("rauc-hawkbit-updater#17", "a USB install that the server never hears of", "e2e/test_same_by_every_way.py", "test_it_ends_in_the_same_state_and_the_same_history"),
    ("rauc#460", "what has expired cannot be signed again", "host/test_publish.py", "test_withdrawing_a_floor_a_renewal_and_forgetting"),
    ("meta-lmp PR#836", "started before the time was known", "agent/test_tuf_time.py", "test_a_board_in_1970_is_told_the_time_once"),
    ("ruuvi.gateway_esp.c#1059", "the first look fails on dates", "agent/test_tuf_time.py", "test_a_board_in_1970_is_told_the_time_once"),
    ("aws-cli#6185", "no room, and it is not told", UPDATE, "test_a_disk_without_room_is_found_out_before_anything_is_fetched"),
    ("hawkbit#1208", "a wave waits for stragglers", "host/test_fleet.py", "test_who_is_away_does_not_hold_a_wave_up_and_converges_later"),
    ("hawkbit#1086", "a whole wave behind one uplink", "host/test_rollout.py", "test_every_beginning_has_its_share_of_every_board_site_and_group"),
    ("hawkbit PR#2161", "two failures in one pass undo the stop", "host/test_rollout.py", "test_what_follows"),
    ("mender-docs, deployment", "a newer rollout blocks an older one for ever", "host/test_fleet.py", "test_two_rollouts_on_the_same_devices"),
    ("nerves_hub_web#419", "nothing stops a bad bundle", "host/test_fleet.py", "test_a_bad_bundle_ends_at_the_canary"),
    ("aktualizr#1422", "boots, but does not work", UPDATE, "test_a_bad_update_leaves_the_old_model_serving"),
]  # fmt: skip

BUNDLES = [make_bundle(f"{version}.0.0", bias=-3.0 + version / 10) for version in range(1, 12)]
FIRST, SECOND, THIRD = BUNDLES[:3]


@cache
def _tests_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {item.name for item in ast.walk(tree) if isinstance(item, ast.FunctionDef)}


@pytest.mark.parametrize(
    ("file", "test"),
    sorted({row[2:] for row in COMPLAINTS}),
    ids=[row[1] for row in sorted({row[2:] for row in COMPLAINTS})],
)
def test_each_complaint_has_its_test(file: str, test: str) -> None:
    assert test in _tests_in(file)


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with running_depot(tmp_path / "depot", *BUNDLES) as running:
        yield running


@pytest.fixture
def device(tmp_path: Path, depot: Depot) -> Iterator[Device]:
    """It serves FIRST, committed."""
    with Device(tmp_path / "device", depot=depot.url) as made:
        made.updater.start()
        order(made, 1)
        made.settle()
        assert made.serves == FIRST.digest
        depot.requests.clear()
        yield made


def order(device: Device, sequence: int, **changes: Any) -> None:
    """Order the bundle of a sequence."""
    made = BUNDLES[sequence - 1]
    device.updater.offer(signed_order(order_for(made.digest, sequence, **changes)))


def ends(device: Device, sequence: int) -> list[str]:
    return [outcome for rollout, outcome, _ in device.outcomes() if rollout == f"r{sequence}"]


def test_rauc_hawkbit_updater_161_success_comes_after_the_soak(device: Device) -> None:
    order(device, 2)
    device.step_to("soak")
    for _ in range(5):
        device.step()
    assert ends(device, 2) == []
    assert device.updater.record.serving.trust == "unproven"
    device.pay()
    device.settle()
    assert ends(device, 2) == ["committed"]


def test_iot_hub_device_update_435_a_restart_downloads_nothing_again(
    device: Device, depot: Depot, tmp_path: Path
) -> None:
    order(device, 2)
    device.settle()
    device.outbox.close()
    depot.requests.clear()
    for _ in range(3):
        with Device(tmp_path / "device", depot=depot.url) as again:
            again.updater.start()
            order(again, 2)
            again.settle()
            assert again.serves == SECOND.digest
            assert ends(again, 2) == ["committed"]
    assert depot.requests == []


def test_sedna_381_the_second_and_third_update_work_too(device: Device) -> None:
    for sequence in (2, 3, 4):
        order(device, sequence)
        device.settle()
        assert device.serves == BUNDLES[sequence - 1].digest
        assert ends(device, sequence) == ["committed"]


@pytest.mark.parametrize("status", [404, 500, 502])
def test_rauc_hawkbit_updater_158_a_missing_blob_is_no_storm(
    device: Device, depot: Depot, status: int
) -> None:
    depot.faults = Faults(status=status)
    order(device, 2)
    waits = []
    while not ends(device, 2):
        waits.append(device.step())
    assert ends(device, 2) == ["refused"]
    assert len(depot.requests) <= 11
    assert sum(waits) > 60  # a doubling ceiling, with jitter below it


def test_rauc_hawkbit_updater_158_a_newer_order_ends_the_retries(
    device: Device, depot: Depot
) -> None:
    depot.faults = Faults(status=500)
    order(device, 2)
    for _ in range(4):
        device.step()
    depot.faults = Faults()
    order(device, 3)
    device.settle()
    assert (ends(device, 2), ends(device, 3)) == (["refused"], ["committed"])


def test_rauc_hawkbit_updater_203_only_the_last_order_is_fetched(
    device: Device, depot: Depot
) -> None:
    """Five orders were replaced while it was away: the broker keeps one, and so does it."""
    for sequence in range(2, 8):
        order(device, sequence)
    device.settle()
    assert device.serves == BUNDLES[6].digest
    models = {path for path, _ in depot.requests}
    skipped = {digest[7:] for made in BUNDLES[1:6] for digest in (made.digest,)}
    assert not any(digest in path for path in models for digest in skipped)


def test_aktualizr_1185_what_expired_while_away_does_not_block(device: Device) -> None:
    order(device, 2, expires=device.clock.wall + 3600)
    device.step()
    device.clock.pass_by(60 * 86_400)
    device.settle()
    assert ends(device, 2) == ["refused"]
    assert device.serves == FIRST.digest
    order(device, 3)
    device.settle()
    assert device.serves == THIRD.digest


def test_aktualizr_1548_expiry_after_the_switch_changes_nothing(
    device: Device, depot: Depot, tmp_path: Path
) -> None:
    order(device, 2, expires=device.clock.wall + 3600)
    device.step_to("soak")
    device.outbox.close()
    later = HandClock(device.clock.wall + 90 * 86_400)
    with Device(tmp_path / "device", depot=depot.url, clock=later) as again:
        again.updater.start()
        assert again.serves == SECOND.digest
        again.settle()
        assert ends(again, 2) == ["committed"]


def test_mender_823_a_report_that_fails_takes_nothing_back(
    device: Device, depot: Depot, tmp_path: Path
) -> None:
    """The power goes at each write from the commit on; the model stays, the report comes."""
    order(device, 2)
    device.step_to("soak")
    device.pay()
    device.step_to("commit")
    device.outbox.close()
    for cut in range(1, 8):
        again = Device(tmp_path / "device", depot=depot.url, power=Power(cut))
        try:
            again.updater.start()
            again.settle()
        except PowerCut:
            pass
        finally:
            again.outbox.close()
        assert again.serves == SECOND.digest
    with Device(tmp_path / "device", depot=depot.url) as last:
        last.updater.start()
        last.settle()
        assert last.serves == SECOND.digest
        assert ends(last, 2) == ["committed"]


def test_balena_os_125_ten_updates_leave_two_bundles(device: Device, tmp_path: Path) -> None:
    def size() -> int:
        blobs = (tmp_path / "device" / "state" / "blobs").rglob("*")
        return sum(path.stat().st_size for path in blobs if path.is_file())

    order(device, 2)
    device.settle()
    two = size()
    for sequence in range(3, 11):
        order(device, sequence)
        device.settle()
        assert device.serves == BUNDLES[sequence - 1].digest
        assert size() < 1.1 * two


def test_balena_supervisor_1054_a_delta_from_elsewhere(tmp_path: Path) -> None:
    """The list offers a delta from a blob that is not here: it is not even asked for."""
    card = random.Random(3).randbytes(40_000).hex().encode()
    old, new = (make_bundle(f"{v}.0.0", card=card + b"%d" % v) for v in (1, 2))
    with running_depot(tmp_path / "depot", old, new) as depot:
        offer_deltas(depot.folder, new.digest, [old.digest])
        listed = depot.folder / "deltas" / f"{new.digest[7:]}.json"
        (row,) = read_deltas(listed.read_bytes())
        listed.write_bytes(write_deltas([row]))
        with Device(tmp_path / "device", depot=depot.url) as device:
            device.updater.start()
            device.updater.offer(signed_order(order_for(new.digest, 1)))
            device.settle()
            assert device.serves == new.digest
            assert keys().order.public_key.keyid in device.updater.record.sequences
        assert not any(row.digest[7:] in path for path, _ in depot.requests)
