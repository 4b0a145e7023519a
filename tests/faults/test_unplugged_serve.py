"""What a pulled plug leaves of a server at work: nothing that it answered is taken back.

The real server's life is recorded under the shim, from its start on: a device enrols, windows
come, a rollout runs, a device is revoked. Each crash is then rebuilt from what was not
synced, in four ways, and looked at. `make test` takes a seeded sample (``WHERRY_CRASH_SEED``).
"""

from __future__ import annotations

import copy
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from support import wait_for
from support_fleet import Device
from support_medium import WAYS, Medium, Replayed, look, replay
from support_release import fetch
from support_serve import TILL, Shop, Victim, fleet_root, make_data
from support_shim import Call
from support_victim import Victims

from wherry.identity.authority import Authority
from wherry.repository.lab import online_signers
from wherry.repository.repository import Repository
from wherry.server.database import Database
from wherry.server.depot import Depot
from wherry.server.registry import Registry
from wherry.server.store import Store

SEED = int(os.environ.get("WHERRY_CRASH_SEED", "20261201"))


@dataclass(frozen=True)
class Story:
    """A server's life: the medium before it, its calls, and what it answered after which."""

    before: Medium
    calls: list[Call]
    answers: list[tuple[int, str, Any]]
    root: bytes
    authority: bytes
    left: Path

    def answered(self, place: int) -> list[tuple[int, str, Any]]:
        """What it had answered after so many calls."""
        return [item for item in self.answers if item[0] <= place]


@pytest.fixture(scope="module")
def story(memory: Path, victims: Victims, tmp_path_factory: pytest.TempPathFactory) -> Story:
    data, folder = memory / "story", tmp_path_factory.mktemp("story")
    root = make_data(data)
    server = Victim(data, victims)
    shop = Shop(server, folder, root)
    for number in (1, 2):
        shop.release(number)
    before = Medium(data, without=["broker"])
    server.start()
    answers: list[tuple[int, str, Any]] = []

    def answered(kind: str, value: Any) -> None:
        answers.append((victims.page.get("count"), kind, value))

    answered("started", server.facts)
    shop.till = Device(shop.enrol(0), root=fleet_root(data))
    answered("enrolled", TILL)
    shop.till.start()
    for number in (1, 2):
        answered("taken", shop.take(number).digest)
    shop.tell(0)
    answered("told", shop.till._seq)
    body = {"bundle": shop.made[1].digest, "select": {}, "waves": ["100%"], "soak_rows": 0}
    name = server.client.post("rollouts", body)["id"]
    answered("begun", name)
    shop.until(lambda: server.client.get(f"rollouts/{name}")["state"] == "done")
    wait_for(lambda: not shop.till.outbox if shop.till else True)
    answered("done", name)
    shop.enrol(1)
    answered("enrolled", "till-1")
    shop.revoke(1)
    answered("revoked", "till-1")
    shop.till.stop()
    victims.signal(signal.SIGTERM)
    assert victims.end().code == 0, server.said()
    calls = victims.calls()
    medium = copy.deepcopy(before)
    for call in calls:
        medium.apply(call)
    assert medium.contents() == look(data, ["broker"]), "a write went by unseen"
    authority = Authority(data / "identity").der
    return Story(before, calls, answers, root, authority, memory / "left")


def check_left(story: Story, place: int) -> None:
    """Open what a plug has left: what was answered holds, and the list can be signed on."""
    data, answers = story.left, story.answered(place)
    repository = Repository(data)
    with repository.locked():
        repository.refresh_online(online_signers(data / "keys"))
    with TemporaryDirectory() as memory:
        fetch(data / "depot", story.root, Path(memory))
    database = Database(data / "fleet.sqlite")
    store = Store(database, Depot(data / "depot", data / "keys", repository))
    try:
        for _, kind, value in answers:
            assert HOLDS[kind](data, store, Registry(database), value), (kind, value)
        assert not answers or Authority(data / "identity").der == story.authority
        windows = [item.window.place.seq for item in store.windows()]
        assert len(windows) == len(set(windows)) == store.counters().get("windows", 0)
        told = [item.event.rollout for item in store.events() if item.event.outcome]
        assert len(told) == len(set(told))
    finally:
        store.close()


HOLDS: dict[str, Callable[[Path, Store, Registry, Any], bool]] = {
    "started": lambda data, *_: (data / "token").exists() and (data / "settings.json").exists(),
    "enrolled": lambda _d, store, registry, name: bool(
        store.device(name) and registry.identity(name)
    ),
    "revoked": lambda _d, _s, registry, name: name in registry.revoked().devices,
    "taken": lambda _d, store, _r, digest: bool(store.bundle(digest)) and store.depot.holds(digest),
    "told": lambda _d, store, _r, last: len(store.windows()) == last,
    "begun": lambda _d, store, _r, name: bool(store.ledger.rollout(name)),
    "done": lambda _d, store, _r, name: (
        store.ledger.rollout(name).state == "done"
        and [item.event.rollout for item in store.events() if item.event.outcome] == [name]
    ),
}


def _pull_plugs(story: Story, wanted: Callable[[int, str], bool] = lambda *_: True) -> Replayed:
    return replay(
        story.before,
        story.calls,
        story.left,
        lambda place: check_left(story, place),
        wanted=wanted,
        promised=lambda place: len(story.answered(place)),
    )


def test_a_pulled_plug_takes_no_answer_back(story: Story) -> None:
    """A sample of the crashes."""
    chance = random.Random(SEED)
    wanted = {(chance.randint(0, len(story.calls)), chance.choice(WAYS)) for _ in range(25)}
    looked = _pull_plugs(story, lambda place, way: (place, way) in wanted)
    assert looked.crashes == len(wanted)


@pytest.mark.long
def test_a_pulled_plug_takes_no_answer_back_each_way(
    story: Story, record_property: Callable[[str, object], None]
) -> None:
    began, n = time.monotonic(), len(story.calls)
    looked = _pull_plugs(story)
    took = time.monotonic() - began
    record_property("figure", f"n = {n} calls, {looked}, {took:.0f} s")


@pytest.mark.long
def test_a_server_starts_on_what_a_pulled_plug_leaves(
    story: Story, victims: Victims, record_property: Callable[[str, object], None]
) -> None:
    """The program itself, on every 20th call in one of the ways."""
    began, started = time.monotonic(), 0
    medium = copy.deepcopy(story.before)
    for place, call in enumerate(story.calls, 1):
        medium.apply(call)
        if place % 20:
            continue
        medium.leave(WAYS[place // 20 % 4], story.left)
        server = Victim(story.left, victims)
        server.start()
        try:
            wanted = {name for _, kind, name in story.answered(place) if kind == "enrolled"}
            found = {row["device"] for row in server.client.get("devices")["devices"]}
            assert found >= wanted
            assert "Traceback" not in server.said()
        finally:
            server.kill()
        started += 1
    took = time.monotonic() - began
    record_property("figure", f"n = {len(story.calls)} calls, {started} starts, {took:.0f} s")
