"""`wherry serve` itself, killed after each call that changes a file.

It is killed while it starts, takes a bundle, enrols and revokes a device, rolls out and
stores windows; each time it is started again and goes on. Nothing that it answered is lost,
nothing is there twice, each rollout is reported once, the list of releases is good for a
client that comes for the first time. `make test` takes a seeded sample
(``WHERRY_CRASH_SEED``), the tests marked `long` take every call.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support_release import copied
from support_serve import Shop, Victim, check, make_data, running_shop, survives
from support_victim import KILLED, Victims

from wherry.repository.repository import Repository

SEED = int(os.environ.get("WHERRY_CRASH_SEED", "20261201"))
CALLS = {"take": 7, "enrol": 28, "revoke": 17, "roll": 28, "tell": 8}
"""What the server does, and about how many changes that takes: what a sample is drawn from."""


@pytest.fixture
def shop(memory: Path, victims: Victims, tmp_path: Path) -> Iterator[Shop]:
    with running_shop(victims, memory / f"data-{time.monotonic_ns()}", tmp_path) as running:
        yield running


def kill_at(shop: Shop, what: str, number: int, place: int) -> bool:
    """Kill the server at a call of its work, and look; false if the work takes fewer calls."""
    if what == "revoke":
        shop.enrol(number)
    work: Callable[[int], Any] = getattr(shop, what)
    answers: list[Any] = []
    killed = survives(shop, lambda: answers.append(work(number)), place)
    check(shop, answers[-1:] if what == "roll" else ())
    return killed


def test_a_killed_server_has_lost_nothing(shop: Shop) -> None:
    """Killed once in each kind of work."""
    chance = random.Random(SEED)
    for number, (what, calls) in enumerate(CALLS.items(), 1):
        assert kill_at(shop, what, number, chance.randint(1, calls)), what


@pytest.mark.long
@pytest.mark.parametrize("what", CALLS)
def test_killed_at_every_call(
    shop: Shop, what: str, record_property: Callable[[str, object], None]
) -> None:
    began, place = time.monotonic(), 1
    while kill_at(shop, what, place, place):
        place += 1
    assert place > CALLS[what] / 2
    took = time.monotonic() - began
    record_property("figure", f"n = {place - 1} kills, 0 failures, {took:.0f} s")


# --- starts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """A start of a server: the very first, which makes keys, or one whose list is old."""

    victims: Victims
    base: Path
    data: Path

    def kill_at(self, place: int) -> bool:
        """Kill it after so many calls, and start it again; false if it takes fewer."""
        server = Victim(copied(self.base, self.data), self.victims)
        if server.begin(kill_at=place):
            server.kill()
            return False
        assert server.bury() == KILLED, server.said()
        kept = keys_in(self.data)
        server.start()
        try:
            assert server.client.get("devices")["devices"] == []
            assert {name: data for name, data in keys_in(self.data).items() if name in kept} == kept
            assert signed_lately(self.data)
            root = self.base / "depot" / "tuf" / "1.root.json"
            first = root.read_bytes() if root.exists() else Repository(self.data).root_file()
            Shop(server, self.data, first).check_list()
            assert "Traceback" not in server.said()
        finally:
            server.kill()
        return True


def keys_in(data: Path) -> dict[str, bytes]:
    """The private keys in a data folder, and the certificate that devices know the fleet by."""
    files = [*data.glob("keys/*.key"), *data.glob("identity/fleet-ca.key")]
    return {path.name: path.read_bytes() for path in files}


def signed_lately(data: Path) -> bool:
    """Whether snapshot and timestamp were signed anew."""
    state = Repository(data).state
    left = [
        item.signed.expires.timestamp() - time.time() for item in (state.snapshot, state.timestamp)
    ]
    return left[0] > 29 * 86_400 and left[1] > 13 * 86_400


@pytest.fixture(params=["first", "later"])
def start(request: pytest.FixtureRequest, memory: Path, victims: Victims) -> Start:
    base = memory / "start"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    if request.param == "later":
        make_data(base)
    return Start(victims, base, memory / "started")


def test_a_start_that_was_killed_goes_on(start: Start) -> None:
    assert start.kill_at(random.Random(SEED).randint(1, 100))


@pytest.mark.long
@pytest.mark.parametrize("part", range(2))
def test_a_start_killed_at_every_call(
    start: Start, part: int, record_property: Callable[[str, object], None]
) -> None:
    """Each part takes every other call, so that they can run side by side."""
    began, place, killed = time.monotonic(), 1 + part, 0
    while start.kill_at(place):
        place, killed = place + 2, killed + 1
    assert killed > 40
    took = time.monotonic() - began
    record_property("figure", f"n = {killed} kills, at every other call: 0 failures, {took:.0f} s")
