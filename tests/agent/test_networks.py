"""Networks as rows: a whole update over lines that are slow, lossy, cut, busy or not there.

The inside of the agent runs over real files; between it and a real depot stands a proxy.
"""

from __future__ import annotations

import bz2
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support_agent import Depot, Faults, Made, make_bundle, order_for, running_depot, signed_order
from support_device import Device
from support_line import bad_line

from wherry.deltas import offer_deltas
from wherry_agent.store import BlobStore
from wherry_agent.update.fetch import Depot as Client
from wherry_agent.update.pace import Pace
from wherry_agent.update.transfer import Later
from wherry_contract.assignment import FetchPolicy, MaintenanceWindow
from wherry_contract.delta import read_deltas
from wherry_contract.errors import LinkError
from wherry_contract.oci import Descriptor, OciManifest, blob_path

CARD = random.Random(7).randbytes(150_000).hex().encode()  # 300,000 bytes that shrink by half only
OLD = make_bundle("1.0.0", card=CARD)
NEW = make_bundle("2.0.0", bias=-2.9, counter=2, card=CARD[:1000] + b"rewritten" + CARD[1009:])
(LARGE,) = [
    blob
    for blob in OciManifest.from_bytes(NEW.layout.manifest).blobs
    if blob.file_name == "model-card.md"
]


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with running_depot(tmp_path / "depot", OLD, NEW) as running:
        yield running


def carry_out(device: Device, made: Made, sequence: int, **changes: Any) -> list[str]:
    """Order a bundle, go on until the device rests; returns the codes and outcomes of reports."""
    order = order_for(made.digest, sequence, **changes)
    device.updater.offer(signed_order(order))
    device.settle(steps=400)
    return [f"{item[1]} {item[2]}" for item in device.outcomes() if item[0] == f"r{sequence}"]


def started(folder: Path, url: str, **limits: Any) -> Device:
    device = Device(folder, depot=url, **limits)
    device.updater.start()
    return device


LINES: list[tuple[str, dict[str, float]]] = [
    ("one segment in ten comes late", {"loss": 0.1, "late_seconds": 0.02}),
    (
        "2G: 150 kB a second at a fifth of a second",
        {"bytes_per_second": 150e3, "delay_seconds": 0.2},
    ),
]


@pytest.mark.parametrize("faults", [row[1] for row in LINES], ids=[row[0] for row in LINES])
def test_a_poor_line_brings_the_update(
    tmp_path: Path, depot: Depot, faults: dict[str, float]
) -> None:
    with bad_line(depot.port, **faults) as line, started(tmp_path / "d", line.url) as device:
        assert carry_out(device, NEW, 1) == ["committed update.committed"]
        assert device.serves == NEW.digest


@pytest.mark.parametrize("percent", range(10, 100, 10))
def test_a_line_that_is_cut_brings_no_byte_twice(
    tmp_path: Path, depot: Depot, percent: int
) -> None:
    """The first connection for the large part ends at so many per cent; the agent restarts."""
    depot.faults = Faults(cut_after=LARGE.size * percent // 100, only=LARGE.digest[7:], times=1)
    with started(tmp_path / "d", depot.url) as device:
        device.updater.offer(signed_order(order_for(NEW.digest, 1)))
        part = device.blobs.part(LARGE.digest)
        for _ in range(20):
            device.step()
            if part.exists():
                break
        here = part.stat().st_size
        assert here == LARGE.size * percent // 100
    with started(tmp_path / "d", depot.url) as device:
        device.settle()
        assert device.serves == NEW.digest
    asked = [span for path, span in depot.requests if LARGE.digest[7:] in path]
    assert asked == ["", f"bytes={here}-"]


def test_a_line_that_is_cut_every_tenth_brings_all_of_it(tmp_path: Path, depot: Depot) -> None:
    with bad_line(depot.port, cut_after=LARGE.size // 10) as line:
        with started(tmp_path / "d", line.url) as device:
            assert carry_out(device, NEW, 1) == ["committed update.committed"]
        assert line.carried < 1.2 * LARGE.size + 50_000


def test_a_captive_portal_for_a_while(tmp_path: Path, depot: Depot) -> None:
    depot.faults = Faults(portal=True, times=6)
    with started(tmp_path / "d", depot.url) as device:
        assert carry_out(device, NEW, 1) == ["committed update.committed"]
        assert "L06" in [event.code for event in device.events()]


def test_an_order_that_is_delivered_twice_is_carried_out_once(tmp_path: Path, depot: Depot) -> None:
    with started(tmp_path / "d", depot.url) as device:
        order = signed_order(order_for(NEW.digest, 1))
        for _ in range(3):
            device.updater.offer(order)
            device.step()
            device.updater.offer(order)
        device.settle()
        device.updater.offer(order)
        device.settle()
        assert [item[1] for item in device.outcomes()] == ["committed"]


def test_a_depot_that_has_used_up_an_updates_bytes(tmp_path: Path, depot: Depot) -> None:
    """It knows no Range and is cut just before the end, again and again."""
    depot.faults = Faults(ignore_range=True, cut_after=LARGE.size - 10, only=LARGE.digest[7:])
    with started(tmp_path / "d", depot.url) as device:
        assert carry_out(device, NEW, 1) == ["refused U13"]
        spent = sum(LARGE.size - 10 for path, _ in depot.requests if LARGE.digest[7:] in path)
        assert spent < 3 * LARGE.size + LARGE.size + (1 << 20)
        depot.faults = Faults()
        assert carry_out(device, NEW, 2) == ["committed update.committed"]


def test_bytes_are_counted_over_restarts(tmp_path: Path, depot: Depot) -> None:
    depot.faults = Faults(ignore_range=True, cut_after=LARGE.size - 10, only=LARGE.digest[7:])
    ended = False
    with started(tmp_path / "d", depot.url) as device:
        device.updater.offer(signed_order(order_for(NEW.digest, 1)))
    starts = 0
    while not ended and starts < 40:
        starts += 1
        with started(tmp_path / "d", depot.url) as device:
            device.updater.offer(signed_order(order_for(NEW.digest, 1)))
            for _ in range(6):
                device.step()
            ended = ("r1", "refused", "U13") in device.outcomes()
    assert ended
    assert starts > 1


# --- busy and hostile servers ---------------------------------------------------------------


def test_a_busy_depot_is_waited_for_and_costs_no_retry(tmp_path: Path, depot: Depot) -> None:
    depot.faults = Faults(status=503, retry_after="120")
    with started(tmp_path / "d", depot.url) as device:
        device.updater.offer(signed_order(order_for(NEW.digest, 1)))
        device.step_to("admit")
        waits = [device.step() for _ in range(15)]
        assert device.state == "admit"
        assert all(120 <= wait <= 900 for wait in waits)
        assert len(set(waits)) > 1  # a whole fleet does not come back in one second
        depot.faults = Faults()
        device.settle()
        assert device.serves == NEW.digest


# header, seconds that are waited; none: it counts as a failure
AFTER: list[tuple[str, float]] = [
    ("120", 120),
    ("999999999999", 3600),
    ("Fri, 31 Dec 2100 23:59:59 GMT", 3600),
    ("Mon, 01 Jan 2024 00:00:00 GMT", 0),
    ("soon", 0),
    ("-5", 0),
    ("", 0),
]


@pytest.mark.parametrize(("header", "seconds"), AFTER)
def test_retry_after(tmp_path: Path, depot: Depot, header: str, seconds: float) -> None:
    depot.faults = Faults(status=503, retry_after=header)
    with pytest.raises(LinkError) as caught:
        Client(depot.url).blob(NEW.digest, 100_000)
    if seconds:
        assert isinstance(caught.value, Later)
        assert caught.value.wait_seconds == seconds
    else:
        assert caught.value.code == "L05"


def test_a_head_that_drips_is_cut_off(depot: Depot) -> None:
    """Each byte comes in time, and all of them never would."""
    depot.faults = Faults(slow_head=0.05)
    began = time.monotonic()
    with pytest.raises(LinkError, match="L04"):
        Client(depot.url, seconds=0.3).blob(NEW.digest, 100_000)
    assert time.monotonic() - began < 10  # and not the 8 minutes of all its bytes


def test_a_bandwidth_limit_is_kept(tmp_path: Path, depot: Depot) -> None:
    began = time.monotonic()
    blobs = BlobStore(tmp_path / "state")
    assert Client(depot.url).fetch(LARGE, blobs, lambda: False, Pace(most=400_000))
    took = time.monotonic() - began
    assert took > 0.9 * LARGE.size / 400_000


def test_a_pause_for_the_bandwidth_can_be_interrupted(tmp_path: Path, depot: Depot) -> None:
    looks = iter([False] * 3 + [True] * 100)
    blobs = BlobStore(tmp_path / "state")
    began = time.monotonic()
    assert not Client(depot.url).fetch(LARGE, blobs, lambda: next(looks), Pace(most=1000))
    assert time.monotonic() - began < 30
    assert 0 < blobs.part(LARGE.digest).stat().st_size < 5000


# --- not now --------------------------------------------------------------------------------


def test_an_update_waits_while_the_application_asks_for_quiet(tmp_path: Path, depot: Depot) -> None:
    with started(tmp_path / "d", depot.url) as device:
        assert device.updater.hold(60) == 60
        device.updater.offer(signed_order(order_for(NEW.digest, 1)))
        for _ in range(5):
            assert device.step() > 0
        assert device.state == "offered"
        assert depot.requests == []
        assert "update.waits" in [event.code for event in device.events()]
        device.clock.pass_by(61)  # the application died: its lease ends
        device.settle()
        assert device.serves == NEW.digest


def test_quiet_stops_a_download_and_a_probe(tmp_path: Path, depot: Depot) -> None:
    with started(tmp_path / "d", depot.url) as device:
        device.updater.offer(signed_order(order_for(NEW.digest, 1)))
        device.step_to("fetch")
        device.updater.hold(1e9)
        requests = len(depot.requests)
        for _ in range(3):
            device.step()
        assert (device.state, len(depot.requests)) == ("fetch", requests)
        device.updater.hold(0)
        device.step_to("probe")
        device.updater.hold(60)
        device.step()
        assert device.state == "probe"
        device.updater.hold(0)
        device.settle()
        assert device.serves == NEW.digest


def test_the_longest_quiet_is_bounded(tmp_path: Path) -> None:
    with Device(tmp_path) as device:
        assert device.updater.hold(1e9) == 900


def test_an_order_waits_for_its_window(tmp_path: Path, depot: Depot) -> None:
    window = MaintenanceWindow("02:00", "03:00")
    with started(tmp_path / "d", depot.url) as device:
        device.clock.wall = 20_000 * 86_400.0
        device.updater.offer(signed_order(order_for(NEW.digest, 1, window=window)))
        for _ in range(3):
            device.step()
        assert device.state == "offered"
        device.clock.pass_by(2.5 * 3600)
        device.settle()
        assert device.serves == NEW.digest


def test_a_metered_link_waits_where_the_order_says_so(tmp_path: Path, depot: Depot) -> None:
    with started(tmp_path / "d", depot.url) as device:
        device.updater._config = replace(device.config, metered=True)
        device.updater.offer(
            signed_order(order_for(NEW.digest, 1, policy=FetchPolicy(meter="free")))
        )
        for _ in range(3):
            device.step()
        assert device.state == "offered"


# --- deltas ---------------------------------------------------------------------------------


@pytest.fixture
def device(tmp_path: Path, depot: Depot) -> Iterator[Device]:
    """It runs OLD, and the depot has a delta to NEW."""
    verdicts = offer_deltas(depot.folder, NEW.digest, [OLD.digest, "sha256:" + "9" * 64])
    assert [(item.name, item.kept) for item in verdicts] == [("model-card.md", True)]
    with ExitStack() as stack:
        made = stack.enter_context(started(tmp_path / "d", depot.url))
        assert carry_out(made, OLD, 1) == ["committed update.committed"]
        depot.requests.clear()
        yield made


def whole_was_fetched(depot: Depot) -> bool:
    return any(LARGE.digest[7:] in path and "blobs" in path for path, _ in depot.requests)


def the_delta(depot: Depot) -> Path:
    (row,) = read_deltas((depot.folder / "deltas" / f"{NEW.digest[7:]}.json").read_bytes())
    return depot.folder / blob_path(row.digest)


def test_a_delta_takes_the_place_of_the_whole(device: Device, depot: Depot) -> None:
    assert carry_out(device, NEW, 2) == ["committed update.committed"]
    assert not whole_was_fetched(depot)
    assert device.blobs.read_whole(LARGE.digest).startswith(CARD[:1000] + b"rewritten")
    assert not device.blobs.has("sha256:" + the_delta(depot).name)  # it is not kept


@pytest.mark.parametrize("policy", ["prefer", "only"])
@pytest.mark.parametrize(
    "damage", ["gone", "garbage", "another delta", "other bytes", "list is garbage", "no list"]
)
def test_a_delta_that_fails(device: Device, depot: Depot, policy: str, damage: str) -> None:
    """By the order's policy the whole follows, or nothing does; either way it is told."""
    place = the_delta(depot)
    listed = depot.folder / "deltas" / f"{NEW.digest[7:]}.json"
    if damage == "gone":
        place.unlink()
    elif damage == "no list":
        listed.unlink()
    elif damage == "list is garbage":
        listed.write_bytes(b"<html>")
    elif damage == "other bytes":
        place.write_bytes(place.read_bytes()[:-1] + b"x")
    else:
        text = listed.read_text()
        junk = b"junk" if damage == "garbage" else in_place(LARGE.size)
        made = Descriptor.for_file(junk, "application/octet-stream", "delta")
        depot.put(blob_path(made.digest), junk)
        (row,) = read_deltas(text.encode())
        text = text.replace(row.digest, made.digest).replace(f":{row.size}", f":{made.size}")
        listed.write_text(text)
    reports = carry_out(device, NEW, 2, policy=FetchPolicy(delta=policy))
    codes = [event.code for event in device.events()]
    if (policy, damage) == ("only", "other bytes"):
        assert reports == ["refused U03"]
        assert not whole_was_fetched(depot)
    elif policy == "only" and damage != "list is garbage":
        assert reports == ["refused U14"]
        assert not whole_was_fetched(depot)
        assert device.serves == OLD.digest
    elif damage != "list is garbage":
        assert reports == ["committed update.committed"]
        assert whole_was_fetched(depot)
        assert "update.whole" in codes
    else:  # what stands in between may be a portal: tried again, and given up
        assert reports == ["refused U03"]
        assert not whole_was_fetched(depot)


def in_place(size: int) -> bytes:
    """A delta that fits, and makes nothing but zeros out of the old bytes."""
    number = lambda value: value.to_bytes(8, "little")  # noqa: E731 - said once
    parts = [bz2.compress(number(0) + number(size) + number(0)), bz2.compress(b"")]
    head = b"BSDIFF40" + number(len(parts[0])) + number(len(parts[1])) + number(size)
    return head + b"".join(parts) + bz2.compress(bytes(size))


def test_no_delta_where_the_order_wants_none(device: Device, depot: Depot) -> None:
    carry_out(device, NEW, 2, policy=FetchPolicy(delta="never"))
    assert device.serves == NEW.digest
    assert whole_was_fetched(depot)


def test_a_whole_that_was_begun_is_gone_on_with(device: Device, depot: Depot) -> None:
    data = NEW.layout.blobs[LARGE.digest]
    device.blobs.part(LARGE.digest).write_bytes(data[: len(data) // 2])
    assert carry_out(device, NEW, 2) == ["committed update.committed"]
    assert [span for path, span in depot.requests if LARGE.digest[7:] in path] == [
        f"bytes={len(data) // 2}-"
    ]


def test_a_delta_that_does_not_pay_is_not_offered(tmp_path: Path) -> None:
    other = make_bundle("3.0.0", card=random.Random(8).randbytes(150_000).hex().encode())
    with running_depot(tmp_path / "other", OLD, other) as depot:
        (verdict,) = offer_deltas(depot.folder, other.digest, [OLD.digest])
        assert not verdict.kept
        assert "not worth it" in str(verdict)
        listed = (depot.folder / "deltas" / f"{other.digest[7:]}.json").read_bytes()
        assert read_deltas(listed) == []
