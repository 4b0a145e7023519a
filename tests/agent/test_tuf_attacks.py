"""Attacks, as rows: what a thief of the broker, the depot or a key can make a device do.

Each row is a story told to a device that trusts a TUF root, through the real verifier's
process: the order as it comes, then the bundle (contract/SPEC-trust.md).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support_agent import DEVICE, FAMILY, Depot, keys, make_bundle, order_for, running_depot, sign
from support_device import HandClock
from support_tuf import DAY, START, TufRepository, signer

from wherry_agent.clock import TrustedClock
from wherry_agent.trust.tuf_store import MetadataStore
from wherry_agent.trust.tuf_trust import FOLDER, TufTrust, floor_of
from wherry_agent.update.fetch import Depot as Source
from wherry_agent.update.record import DeviceRecord
from wherry_agent.update.updater import accept, is_new, judge_offer
from wherry_contract.assignment import PAYLOAD_TYPE, Assignment
from wherry_contract.errors import WherryError
from wherry_contract.signature import BundleStatement

ONE, TWO = make_bundle("1.0.0"), make_bundle("2.0.0")
CHURN = make_bundle("1.0.0", family="churn")


class World:
    """A depot, what is published in it, and one device."""

    def __init__(self, folder: Path, depot: Depot) -> None:
        self.folder = folder
        self.depot = depot
        self.repository = TufRepository(depot.folder, families=(FAMILY, "churn"))
        self.repository.release(ONE, 1)
        self.repository.release(TWO, 2)
        self.repository.release(CHURN, 9, "churn")
        self.repository.publish()
        (folder / "root.json").write_bytes(self.repository.root_file())
        self.board = HandClock(START + 60)
        self.record = DeviceRecord()
        self.start()

    def start(self) -> None:
        """Start the device's agent anew: only its disk and its board's clock are left."""
        self.clock = TrustedClock(self.board, floor_of(self.folder / FOLDER))
        self.source = Source(self.depot.url, seconds=5)
        self.trust = TufTrust(self.folder / "root.json", self.folder, self.clock, self.source)

    def pass_days(self, days: float) -> None:
        """Time goes by, for everybody."""
        self.repository.now += days * DAY
        self.board.wall += days * DAY

    def order(self, digest: str = ONE.digest, sequence: int = 1, **changes: Any) -> Assignment:
        """A plain order of now."""
        at = self.repository.now
        plain = order_for(digest, sequence, issued_at=at, expires=at + 30 * DAY)
        return replace(plain, **changes)

    def obey(self, order: Assignment | None = None, key: str = "order") -> BundleStatement:
        """Everything that stands between an order on the topic and the first byte of a bundle."""
        envelope = sign((order or self.order()).to_bytes(), PAYLOAD_TYPE, signer(key))
        found = self.trust.assignment(envelope)
        is_new(found, self.record, DEVICE)
        self.record = accept(self.record, found)
        judge_offer(found, self.record, family=FAMILY, now=self.clock.now())
        return self.trust.admit(found, self.source)

    @property
    def floors(self) -> dict[str, float]:
        """Everything that must never fall."""
        floors = MetadataStore(self.folder / FOLDER).floors
        return {role: floor.least for role, floor in floors.versions.items()} | floors.counters


@pytest.fixture
def world(tmp_path: Path) -> Any:
    with running_depot(tmp_path / "depot") as depot:
        yield World(tmp_path, depot)


def test_what_both_agree_on_is_admitted(world: World) -> None:
    said = world.obey()
    assert (said.digest, said.counter, said.family) == (ONE.digest, 1, FAMILY)
    assert (said.name, said.version, said.size) == ("fraud", "1.0.0", len(ONE.layout.manifest))


# --- a stolen assignment key, a stolen broker -----------------------------------------------


def numbered(sequence: int) -> Callable[[World], None]:
    return lambda world: _obey(world, sequence=sequence)


def _obey(world: World, key: str = "order", **changes: Any) -> None:
    world.obey(world.order(**changes), key)


def dated_2099(world: World) -> None:
    world.repository.validity = (START - DAY, START + 365 * DAY)
    world.repository.publish()
    _obey(world, issued_at=4_070_908_800.0)


def after_a_rotation(world: World) -> None:
    world.obey()
    world.repository.order_keys = ("order-2",)
    world.repository.publish()
    _obey(world, "order", sequence=2)


def key_taken_back_meanwhile(world: World) -> None:
    """The order was accepted; the key is taken back before the bundle is admitted."""
    envelope = sign(world.order().to_bytes(), PAYLOAD_TYPE, signer("order"))
    order = world.trust.assignment(envelope)
    world.repository.order_keys = ("order-2",)
    world.repository.publish()
    world.trust.admit(order, world.source)


def key_s_validity_ended_meanwhile(world: World) -> None:
    """The key is listed still, but to a day before the order."""
    envelope = sign(world.order().to_bytes(), PAYLOAD_TYPE, signer("order"))
    order = world.trust.assignment(envelope)
    world.repository.validity = (START - 99 * DAY, START - DAY)
    world.repository.publish()
    world.trust.admit(order, world.source)


def replayed(world: World) -> None:
    old = world.order(sequence=1)
    world.obey(old)
    world.obey(world.order(TWO.digest, sequence=2))
    world.obey(old)


def by_a_revoked_key_while_the_depot_is_cut(world: World) -> None:
    """Known keys judge while the depot is away; admission needs it, and finds the key gone."""
    world.obey()
    world.repository.order_keys = ("order-2",)
    world.repository.publish()
    world.depot.faults.status = 503
    envelope = sign(world.order(sequence=2).to_bytes(), PAYLOAD_TYPE, signer("order"))
    order = world.trust.assignment(envelope)
    world.depot.faults.status = 0
    world.trust.admit(order, world.source)


def by_a_time_key(world: World) -> None:
    _obey(world, "time")


ORDERS: list[tuple[str, Callable[[World], None], str]] = [
    ("sequence 2^63", numbered(2**63), "T09"),
    ("sequence just below 2^53", numbered(2**53 - 1), "T14"),
    ("a million and one ahead", numbered(1_000_001), "T14"),
    ("issued in 2099", dated_2099, "T02"),
    ("issued in two days", lambda w: _obey(w, issued_at=START + 2 * DAY), "T14"),
    ("issued before the key was valid", lambda w: _obey(w, issued_at=1e9), "T02"),
    ("expired", lambda w: _obey(w, issued_at=START - 9, expires=START - 1), "T05"),
    ("a foreign family's genuine bundle", lambda w: _obey(w, digest=CHURN.digest), "T12"),
    (
        "a genuine family that is not ours",
        lambda w: _obey(w, digest=CHURN.digest, family="churn"),
        "T06",
    ),
    ("a bundle that nobody released", lambda w: _obey(w, digest="sha256:" + "0" * 64), "T12"),
    ("replayed after the key was rotated", after_a_rotation, "T02"),
    ("the key taken back meanwhile", key_taken_back_meanwhile, "T02"),
    ("the key's validity ended meanwhile", key_s_validity_ended_meanwhile, "T02"),
    ("a revoked key while the depot is cut", by_a_revoked_key_while_the_depot_is_cut, "T02"),
    ("an older order replayed", replayed, "T04"),
    ("another device's order", lambda w: _obey(w, device="shop-2"), "T03"),
    ("another device's key under our name", lambda w: _obey(w, device_key="a" * 64), "T03"),
    ("another manifest's size", lambda w: _obey(w, size=7), "T03"),
    ("signed by a time key", by_a_time_key, "T02"),
    ("signed by a model team", lambda w: _obey(w, "models-1"), "T02"),
    ("signed by a stranger", lambda w: _obey(w, "stranger"), "T02"),
]


@pytest.mark.parametrize(("attack", "code"), [r[1:] for r in ORDERS], ids=[r[0] for r in ORDERS])
def test_orders_that_are_refused(world: World, attack: Callable[[World], None], code: str) -> None:
    with pytest.raises(WherryError) as caught:
        attack(world)
    assert caught.value.code == code, caught.value


# --- a stolen depot, a stolen key of the repository -----------------------------------------


def below_the_floor(world: World) -> None:
    world.obey(world.order(TWO.digest))
    world.repository.floors[FAMILY] = 2
    world.repository.publish()
    _obey(world, sequence=2)


def floor_forgotten(world: World) -> None:
    """A family's later metadata names no floor: the one that was signed stands."""
    world.repository.floors[FAMILY] = 2
    world.repository.publish()
    world.obey(world.order(TWO.digest))
    world.repository.floors.clear()
    world.repository.publish()
    _obey(world, sequence=2)


def family_that_nobody_releases(world: World) -> None:
    world.repository.families = ("churn",)
    world.repository.publish()
    _obey(world)


def delisted(world: World) -> None:
    world.obey()
    world.repository.delist(ONE)
    world.repository.publish()
    _obey(world, sequence=2)


def rolled_back_whole(world: World) -> None:
    old = world.repository.keep("old")
    world.repository.publish()
    world.obey()
    world.repository.serve_again(old)
    _obey(world, sequence=2)


def mixed(world: World) -> None:
    """The newest timestamp and snapshot, and a family's metadata from before the delisting."""
    role = f"models/{FAMILY}"
    old = world.repository.file(f"1.{role}").read_bytes()
    world.repository.delist(ONE)
    world.repository.publish()
    world.repository.file(f"2.{role}").write_bytes(old)
    _obey(world)


def frozen(world: World) -> None:
    """The depot shows the same list for ever, so that no delisting is seen."""
    world.obey()
    world.board.wall += 15 * DAY
    _obey(world, sequence=2, issued_at=world.board.wall)


def truncated(world: World) -> None:
    """A pulled plug has left empty files, and the depot shows an older list."""
    old = world.repository.keep("old")
    world.repository.publish()
    world.obey()
    for path in (world.folder / FOLDER).rglob("*.json"):
        path.write_bytes(b"")
    (world.folder / FOLDER / "floors.1").write_bytes(b"torn")
    world.repository.serve_again(old)
    world.start()
    _obey(world, sequence=2)


def signed_by_thieves(role: str, *names: str) -> Callable[[World], None]:
    def attack(world: World) -> None:
        world.repository.roles[role] = names
        world.repository.thresholds[role] = len(names)
        world.repository.sign_models(FAMILY)
        if role == "targets":
            world.repository.sign_targets()
        world.repository.sign_online()
        _obey(world)

    return attack


def by_a_revoked_model_key(world: World) -> None:
    """The family's keys were exchanged; the thief of an old one lists on."""
    world.obey()
    world.repository.roles["models"] = ("models-3", "models-4")
    world.repository.sign_targets()
    world.repository.roles["models"] = ("models-1", "models-2")
    world.repository.sign_models(FAMILY)
    world.repository.sign_online()
    _obey(world, sequence=2)


def dated_beyond_its_end(world: World) -> None:
    """A thief of the timestamp's key tries to push the device's clock ahead."""
    world.repository.sign_timestamp(dated=START + 15 * DAY)
    _obey(world)


def expired_family_in_1970(world: World) -> None:
    """A board without the time judges by the timestamp's: this family's list ended before it."""
    world.repository.now -= 400 * DAY
    world.repository.sign_models(FAMILY)
    world.repository.now += 400 * DAY
    world.repository.sign_online()
    world.board.wall = 17.0
    world.start()
    _obey(world)


def another_digest_at_its_path(world: World) -> None:
    target = world.repository.listed[FAMILY][world.repository.path_of(ONE)]
    target.hashes["sha256"] = TWO.digest.partition(":")[2]
    world.repository.publish()
    _obey(world)


def other_fleet_keys(world: World) -> None:
    """The depot serves keys of its own under the listed name, of the very same size."""
    ours = world.repository.fleet_keys().to_bytes()
    world.repository.order_keys = ("thief",)
    theirs = world.repository.fleet_keys().to_bytes()
    assert len(ours) == len(theirs)
    for path in (world.depot.folder / "targets" / "fleet").iterdir():
        path.write_bytes(theirs)
    _obey(world, "thief")


def endless(world: World) -> None:
    world.repository.file("timestamp").write_bytes(b" " * 300_000)
    _obey(world)


def endless_fleet_keys(world: World) -> None:
    for path in (world.depot.folder / "targets" / "fleet").iterdir():
        path.write_bytes(path.read_bytes() + b" " * 300_000)
    _obey(world)


LARGEST = 5 * 2**20  # bytes of a family's metadata that are read


def served_as_a_family(world: World, data: bytes) -> None:
    version = world.repository.versions[f"models/{FAMILY}"]
    world.repository.file(f"{version}.models/{FAMILY}").write_bytes(data)
    _obey(world)


def nested_a_million_times(world: World) -> None:
    served_as_a_family(world, b"[" * LARGEST)


def portal(world: World) -> None:
    world.depot.faults.portal = True
    _obey(world)


def redirected(world: World) -> None:
    world.depot.faults.redirect = True
    _obey(world)


LISTS: list[tuple[str, Callable[[World], None], str]] = [
    ("an older bundle, below the floor", below_the_floor, "T07"),
    ("a floor that later metadata forgets", floor_forgotten, "T07"),
    ("a family that nobody may release", family_that_nobody_releases, "T06"),
    ("a bundle that was taken back", delisted, "T12"),
    ("the whole list rolled back", rolled_back_whole, "T13"),
    ("metadata mixed from two times", mixed, "T13"),
    ("a frozen list", frozen, "T11"),
    ("truncated local state and an older list", truncated, "T13"),
    ("a family signed by one of two", signed_by_thieves("models", "models-1"), "T13"),
    ("a family signed by strangers", signed_by_thieves("models", "x", "y"), "T13"),
    ("targets signed by one of two", signed_by_thieves("targets", "targets-1"), "T13"),
    ("a list signed by a revoked key", by_a_revoked_model_key, "T13"),
    ("a timestamp dated beyond its end", dated_beyond_its_end, "T13"),
    ("an expired family and a clock at 1970", expired_family_in_1970, "T11"),
    ("another digest at a bundle's path", another_digest_at_its_path, "T13"),
    ("the fleet's keys exchanged for a thief's", other_fleet_keys, "L06"),
    ("endless data for a timestamp", endless, "L06"),
    ("endless data for the fleet's keys", endless_fleet_keys, "L06"),
    ("metadata nested a million times", nested_a_million_times, "L06"),
    ("a captive portal", portal, "L06"),
    ("a redirect to elsewhere", redirected, "L06"),
]


@pytest.mark.parametrize(("attack", "code"), [r[1:] for r in LISTS], ids=[r[0] for r in LISTS])
def test_lists_that_are_refused(world: World, attack: Callable[[World], None], code: str) -> None:
    seen: list[dict[str, float]] = []
    admit = world.obey

    def watched(*arguments: Any) -> BundleStatement:
        try:
            return admit(*arguments)
        finally:
            seen.append(world.floors)

    world.obey = watched  # type: ignore[method-assign]
    with pytest.raises(WherryError) as caught:
        attack(world)
    assert caught.value.code == code, caught.value
    for before, after in pairwise(seen):
        assert all(after[name] >= least for name, least in before.items())


def test_the_verifier_s_memory_is_bounded(world: World) -> None:
    """Hostile JSON takes forty times its bytes; the child ends with a code long before that."""
    module = "runpy.run_module('wherry_agent.trust.tuf_trust', run_name='__main__')"
    peak = "next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))"
    program = f"import runpy, sys\ntry:\n    {module}\nfinally:\n    print({peak}, file=sys.stderr)"
    objects = b"[" + b'{"":[]},' * (LARGEST // 8 - 8) + b"0]"
    world.repository.file(f"1.models/{FAMILY}").write_bytes(objects)
    request = {
        "task": "admit",
        "family": FAMILY,
        "digest": ONE.digest,
        "size": 0,
        "keyid": "",
        "issued_at": START,
        "root": str(world.folder / "root.json"),
        "folder": str(world.folder / FOLDER),
        "now": START + 60,
        "place": {"url": world.depot.url},
        "identity": None,
        "parent": os.getpid(),
    }
    asked = json.dumps(request).encode()
    done = subprocess.run(
        [sys.executable, "-c", program], input=asked, capture_output=True, check=True, timeout=60
    )
    assert json.loads(done.stdout)["refused"][0] == "L06"
    assert int(done.stderr.split()[1]) < 160 * 1024  # without a bound it is 227 MiB


# --- what the device tells ------------------------------------------------------------------


def test_damaged_version_floors_are_told(world: World) -> None:
    world.obey()
    told: list[str] = []
    world.trust.tell = lambda fact: told.append(f"{fact.code} {fact.text}")
    damaged = world.folder / FOLDER / "floors.0"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    for sequence in (2, 3):
        order = world.order(sequence=sequence)
        world.trust.assignment(sign(order.to_bytes(), PAYLOAD_TYPE, signer("order")))
    assert [text.partition("floors.0.")[0] for text in told] == [f"D02 {FOLDER}/"]


def test_damaged_version_floors_are_told_of_a_refused_order_too(world: World) -> None:
    world.obey()
    told: list[str] = []
    world.trust.tell = lambda fact: told.append(fact.code)
    for turn in (0, 1):
        (world.folder / FOLDER / f"floors.{turn}").write_bytes(b"damage")
    with pytest.raises(WherryError, match="T02"):
        _obey(world, "thief", sequence=2)
    assert told == ["D02", "D02"]


# --- what must go on ------------------------------------------------------------------------


def back_to_the_one_before(world: World) -> None:
    """Reverting needs nobody's offline key: the older one is listed and above the floor."""
    world.obey(world.order(TWO.digest))
    world.obey(world.order(ONE.digest, sequence=2))


def after_400_days(world: World) -> None:
    """Off for 400 days: three roots with new keys for everything, all of them missed."""
    world.obey()
    world.pass_days(400)
    for turn in range(3):
        for role in ("root", "targets", "snapshot", "timestamp"):
            old = world.repository.roles[role]
            world.repository.roles[role] = tuple(f"{role}-{turn}-{n}" for n in range(len(old)))
        world.repository.sign_root()
    world.repository.order_keys = ("order-2",)
    world.repository.publish()
    world.start()
    world.obey(world.order(TWO.digest), "order-2")


def a_clock_of_1970(world: World) -> None:
    """A board without a battery, new: the list itself says what time it is at least."""
    world.board.wall = 17.0
    world.start()
    world.obey()
    assert world.clock.now() >= START


def a_clock_of_1970_again(world: World) -> None:
    world.obey()
    world.board.wall = 17.0
    world.start()
    world.obey(world.order(sequence=2))
    assert world.clock.now() >= START


def ten_years_ahead(world: World) -> None:
    """It is not believed: time goes on from what was signed."""
    world.obey()
    world.board.wall += 3653 * DAY
    world.start()
    world.obey(world.order(sequence=2))
    assert world.clock.now() < START + DAY


def back_in_the_middle(world: World) -> None:
    """Between the order and its admission the board loses the time."""
    envelope = sign(world.order().to_bytes(), PAYLOAD_TYPE, signer("order"))
    order = world.trust.assignment(envelope)
    floor = world.clock.now()
    world.board.wall = 17.0
    world.trust.admit(order, world.source)
    assert world.clock.now() >= min(floor, START)


def a_stolen_time(world: World) -> None:
    """A stolen timestamp key had pushed the clock ahead; new keys take that back."""
    world.repository.sign_timestamp(dated=START + 13 * DAY)
    world.obey()
    assert world.clock.now() >= START + 13 * DAY
    world.repository.roles["timestamp"] = ("online-2",)
    world.repository.sign_root()
    world.repository.publish()
    world.start()
    world.obey(world.order(sequence=2))
    assert floor_of(world.folder / FOLDER) == START


def without_a_depot_known_keys_do(world: World) -> None:
    """An order can be judged while the depot is away, by the keys verified last."""
    world.obey()
    world.depot.faults.status = 503
    envelope = sign(world.order(sequence=2).to_bytes(), PAYLOAD_TYPE, signer("order"))
    assert world.trust.assignment(envelope).sequence == 2


STORIES: list[tuple[str, Callable[[World], None]]] = [
    ("back to the release before", back_to_the_one_before),
    ("root rotation after 400 days offline", after_400_days),
    ("a clock at 1970", a_clock_of_1970),
    ("a clock back at 1970 after a start", a_clock_of_1970_again),
    ("a clock ten years ahead", ten_years_ahead),
    ("a clock that jumps back in the middle", back_in_the_middle),
    ("a clock that a thief had pushed ahead", a_stolen_time),
    ("a depot that is away", without_a_depot_known_keys_do),
]


@pytest.mark.parametrize("story", [row[1] for row in STORIES], ids=[row[0] for row in STORIES])
def test_what_must_go_on(world: World, story: Callable[[World], None]) -> None:
    story(world)


def test_a_device_that_knows_nothing_yet_waits_for_the_depot(world: World) -> None:
    """That is no refusal: the same order is judged again later."""
    world.depot.faults.status = 503
    with pytest.raises(WherryError, match="L05"):
        world.obey()
    world.depot.faults.status = 0
    world.obey()


def test_an_order_that_looks_early_waits_where_the_time_may_be_ours_to_blame(world: World) -> None:
    """With the depot away nothing says what time it is: no refusal, which would be for good."""
    world.obey()
    world.board.wall = 17.0
    world.start()
    world.depot.faults.status = 503
    late = world.order(sequence=2, issued_at=START + 3 * DAY)
    with pytest.raises(WherryError, match="L04"):
        world.obey(late)
    world.depot.faults.status = 0
    world.repository.now += 3 * DAY
    world.repository.sign_online()
    world.obey(late)


def test_kept_fleet_keys_are_held_against_what_was_verified(world: World) -> None:
    world.obey()
    world.repository.order_keys = ("thief",)
    kept = world.folder / FOLDER / "fleet-keys"
    kept.write_bytes(world.repository.fleet_keys().to_bytes())
    world.depot.faults.status = 503
    with pytest.raises(WherryError, match="L05"):
        world.obey(world.order(sequence=2), "thief")
    world.depot.faults.status = 0
    world.obey(world.order(sequence=2))


def test_an_expired_list_refuses_installs_and_still_brings_the_newer_root(world: World) -> None:
    world.obey()
    world.repository.sign_root()
    world.board.wall += 20 * DAY
    with pytest.raises(WherryError, match="T11"):
        world.obey(world.order(sequence=2, issued_at=world.board.wall))
    assert world.floors["root"] == 2


def test_who_pinned_keys_is_not_asked_for_a_list(world: World) -> None:
    """Which trust it is stands in the enrolment's file, and nothing in the network changes it."""
    from support_agent import agent_config

    from wherry_agent.trust.seam import PinnedTrust
    from wherry_agent.trust.tuf_trust import open_trust

    config = agent_config(world.folder / "pinned", root=keys().root())
    assert isinstance(open_trust(config, world.clock, world.source), PinnedTrust)
    config.trust.write_bytes(world.repository.root_file())
    assert isinstance(open_trust(config, world.clock, world.source), TufTrust)
