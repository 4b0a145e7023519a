"""`wherry publish`, `sign`, `key` and `export`: killed, unplugged, or on a disk that fails, at each call.

Whatever is left: a client that comes for the first time sees what
was there before or all of the new, one that came before goes on, no key is lost, and
the same command, run again, ends it. `make test` takes a seeded sample of the crashes
(``WHERRY_CRASH_SEED``), the tests marked `long` take all of them.
"""

from __future__ import annotations

import copy
import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support_medium import WAYS, Medium, Replayed, look, replay
from support_release import (
    COMMANDS,
    Command,
    View,
    act,
    copied,
    filled,
    make_fleet,
    sequences,
    view,
)
from support_shim import Call, Page, quick_folder
from support_victim import KILLED, Ended, Victims

SEED = int(os.environ.get("WHERRY_CRASH_SEED", "20261201"))
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, 0)  # 0: a short write
SAMPLE = 2  # crashes of each command in `make test`


@dataclass
class Scene:
    """A fleet before a command, and what clients see of it before and after."""

    victims: Victims
    memory: Path
    command: Command
    fleet: Path
    root: bytes
    old: View
    new: View
    before: Medium
    calls: list[Call]

    @property
    def changes(self) -> list[Call]:
        """All but syncs: who is killed after a sync leaves what it left before it."""
        return [call for call in self.calls if call.kind != "S"]

    @property
    def data(self) -> Path:
        """Where copies of the fleet are acted on."""
        return self.memory / "data"

    @property
    def client(self) -> Path:
        """The memory of a client that came before."""
        return self.memory / "client"

    def kill(self, place: int) -> Ended:
        """Run it on a copy, and kill it after so many of its changes."""
        data = copied(self.fleet, self.data)
        return self.victims.run(filled(data, self.command.words), data, kill_at=place)

    def check(self) -> None:
        """Look at what a crash left; then run it again to its end."""
        for path in (self.fleet / "keys").iterdir():
            assert (self.data / "keys" / path.name).read_bytes() == path.read_bytes()
        seen = view(self.data, self.root)
        assert seen in (self.old, self.new)
        came = view(self.data, self.root, copied(self.client, self.memory / "came"))
        assert (came, came.stepped) == (seen, seen.stepped)
        used = sequences(self.data / "out")
        codes = self.command.again if self.command.code == 0 else (*self.command.again, 0)
        said = act(self.data, self.command.words, codes)
        for words in self.command.ends:
            act(self.data, words, (0, 1))
        assert view(self.data, self.root) == self.new, said
        assert min(sequences(self.data / "out"), default=1) > max(used, default=0)
        view(self.data, self.root, self.memory / "came")


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    with quick_folder() as folder:
        make_fleet(folder / "fleet")
        yield folder


@pytest.fixture(params=COMMANDS)
def scene(request: pytest.FixtureRequest, memory: Path, victims: Victims) -> Scene:
    command = COMMANDS[request.param]
    fleet, data = copied(memory / "fleet", memory / "base"), memory / "data"
    for words, code in command.before:
        act(fleet, words, (code,))
    root = (fleet / "depot" / "tuf" / "1.root.json").read_bytes()
    shutil.rmtree(memory / "client", ignore_errors=True)
    old = view(fleet, root, memory / "client")
    data = copied(fleet, data)
    before = Medium(data)
    ended = victims.run(filled(data, command.words), data)
    assert ended.code == command.code, ended.said
    calls = victims.calls()
    assert len(calls) == ended.count
    after = copy.deepcopy(before)
    for call in calls:
        after.apply(call)
    assert after.contents() == look(data), "a write went by unseen"
    for words in command.ends:
        act(data, words)
    return Scene(victims, memory, command, fleet, root, old, view(data, root), before, calls)


def _try(scene: Scene, place: int) -> None:
    try:
        scene.check()
    except Exception as error:
        call = scene.changes[place - 1]
        raise AssertionError(f"killed after change {place}, {call.kind} {call.path}") from error


def _kill_at(scene: Scene, places: Iterable[int]) -> int:
    """Kill it after these of its changes; returns how often it was killed."""
    killed = 0
    for place in places:
        ended = scene.kill(place)
        assert ended.code in (KILLED, scene.command.code), ended.said
        killed += ended.code == KILLED
        _try(scene, place)
    return killed


def _pull_plugs(scene: Scene, wanted: Callable[[int, str], bool] = lambda *_: True) -> Replayed:
    """Look at what a pulled plug leaves after each call, or some."""
    return replay(scene.before, scene.calls, scene.data, lambda _: scene.check(), wanted=wanted)


def test_killed_or_unplugged_anywhere_it_can_be_run_again(scene: Scene) -> None:
    """A sample: some kills, and some plugs."""
    chance = random.Random(f"{SEED} {scene.command.words}")
    places = range(1, len(scene.calls) + 1)
    some = sorted(chance.sample(range(1, len(scene.changes) + 1), SAMPLE))
    assert _kill_at(scene, some) == SAMPLE
    plugs = {(chance.choice(places), chance.choice(WAYS[1:])) for _ in range(SAMPLE)}
    looked = _pull_plugs(scene, lambda place, way: (place, way) in plugs)
    assert looked.crashes == len(plugs)


@pytest.mark.long
def test_killed_after_every_call(
    scene: Scene, record_property: Callable[[str, object], None]
) -> None:
    began, n = time.monotonic(), len(scene.changes)
    assert _kill_at(scene, range(1, n + 1)) == n
    took = time.monotonic() - began
    record_property("figure", f"n = {n} kills, 0 failures, {took:.0f} s")


@pytest.mark.long
def test_unplugged_after_every_call_each_way(
    scene: Scene, record_property: Callable[[str, object], None]
) -> None:
    began, n = time.monotonic(), len(scene.calls)
    looked = _pull_plugs(scene)
    took = time.monotonic() - began
    record_property("figure", f"n = {n} calls, {looked}, {took:.0f} s")


# --- a disk that fails ----------------------------------------------------------------------


def _fail(scene: Scene, **fault: int) -> Ended:
    """Run it on a disk that fails: it says so, or has done it; then the disk is well again."""
    data = copied(scene.fleet, scene.data)
    ended = scene.victims.run(filled(data, scene.command.words), data, **fault)
    try:
        assert ended.code in (0, 1, 3), ended.said
        assert "should not have happened" not in ended.said, ended.said
        if ended.code == 0 and not scene.command.ends:
            assert view(data, scene.root) == scene.new, f"it lied: {ended.said}"
        scene.check()
    except Exception as error:
        raise AssertionError(f"{fault}: {ended}") from error
    return ended


def _at(place: int, error: int) -> dict[str, int]:
    return {"fail_at": place, "fail_errno": error, "fail_times": 1 + 5 * (error == errno.ENOSPC)}


def test_a_disk_that_fails_is_told_and_costs_a_second_try(scene: Scene) -> None:
    chance = random.Random(f"{SEED} fails {scene.command.words}")
    place = chance.randint(1, len(scene.calls))
    assert _fail(scene, **_at(place, chance.choice(ERRORS))).failed
    _fail(scene, seed=chance.randint(1, 10_000), per_million=30_000, reads=1)


@pytest.mark.long
def test_every_call_fails_with_every_error(
    scene: Scene, record_property: Callable[[str, object], None]
) -> None:
    began, runs, n = time.monotonic(), 0, 0
    for place in itertools.count(1):
        ends = [_fail(scene, **_at(place, error)) for error in ERRORS]
        if not ends[0].failed:
            break
        runs, n = runs + len(ends), place
    assert n >= len(scene.calls)
    took = time.monotonic() - began
    record_property("figure", f"n = {n} calls, {runs} runs, 0 failures, {took:.0f} s")


@pytest.mark.long
def test_calls_fail_at_random(scene: Scene, record_property: Callable[[str, object], None]) -> None:
    began, seeds = time.monotonic(), range(200)
    failed = sum(
        _fail(
            scene, seed=seed, per_million=(5_000, 20_000, 80_000)[seed % 3], reads=seed % 2
        ).failed
        for seed in seeds
    )
    took = time.monotonic() - began
    told = f"seeds 0 to 199 at p = 0.005, 0.02 and 0.08: {failed} calls failed"
    record_property("figure", f"{told}, 0 failures, {took:.0f} s")


# --- and one that is no fork ----------------------------------------------------------------


def test_the_program_itself_is_killed_too(memory: Path) -> None:
    """The others are forks of one process; this is what a person starts."""
    data = copied(memory / "fleet", memory / "data")
    page = Page(memory / "page", data)
    page.set(armed=1, kill_at=30)
    words = filled(data, COMMANDS["publish"].words)
    done = subprocess.run(
        [sys.executable, "-m", "wherry", *words],
        env=os.environ | page.environment(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, page.get("begun")) == (KILLED, 30)
    root = (data / "depot" / "tuf" / "1.root.json").read_bytes()
    before = view(data, root)
    act(data, COMMANDS["publish"].words)
    assert view(data, root) != before
