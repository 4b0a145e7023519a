"""The real agent, killed after each call that changes a file; and what a pulled plug may leave.

`make test` kills in every state and looks at each crash in one of four ways; the tests
marked `long` kill at every call and look at each crash in all four. Run them with
``make test-long``, which prints the figures.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import wait_for
from support_app import AgentProcess
from support_crash import (
    NEW,
    OLD,
    STATES,
    Scene,
    calls_of,
    carry_out,
    check_blobs,
    check_left,
    generation,
    promised,
    record_of,
    running_scene,
    shim_page,
    told,
    until_quiet,
)
from support_medium import WAYS, Medium, Replayed, replay
from support_shim import Call, quick_folder

SEQUENCE = 2
PARTS = 4


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running_scene(tmp_path_factory.mktemp("scene")) as running:
        yield running


@dataclass(frozen=True)
class Recorded:
    """A whole update: the medium before it, its calls, and where that was."""

    before: Medium
    calls: list[Call]
    root: Path


@pytest.fixture(scope="module")
def recorded(scene: Scene) -> Recorded:
    with scene.device("recorded") as agent:
        before = Medium(agent.state_dir)
        page = shim_page(scene, agent)
        rollout = scene.order(SEQUENCE)
        agent.start(environment=page.environment())
        assert carry_out(agent, NEW)
        wait_for(lambda: scene.reports(rollout))
        until_quiet(agent)
        assert agent.stop() == 0
        calls = calls_of(scene)
        medium = copy.deepcopy(before)
        for call in calls:
            medium.apply(call)
        assert medium.contents() == _contents(agent.state_dir), "a write went by unseen"
        assert page.get("count") == len(calls)
        return Recorded(before, calls, agent.state_dir)


def _contents(folder: Path) -> dict[Path, bytes | None]:
    paths = (path for path in folder.rglob("*") if not path.name.endswith("-shm"))
    return {
        path.relative_to(folder): None if path.is_dir() else path.read_bytes() for path in paths
    }


# --- pulled plugs ---------------------------------------------------------------------------


def _replay(
    recorded: Recorded, scene: Scene, wanted: Callable[[int, str], bool] = lambda *_: True
) -> Replayed:
    """Look at what a crash after each call leaves."""
    promises = promised(recorded.calls, recorded.root)
    with quick_folder() as memory:
        left = memory / "left"

        def check(place: int) -> None:
            check_left(left, scene, SEQUENCE, promises[place])
            shutil.rmtree(left)

        return replay(
            recorded.before,
            recorded.calls,
            left / "state",
            check,
            wanted=wanted,
            promised=promises.__getitem__,
        )


def test_what_a_pulled_plug_leaves(recorded: Recorded, scene: Scene) -> None:
    """Each call in one of the four ways, in turn."""
    looked = _replay(recorded, scene, lambda place, way: WAYS[place % len(WAYS)] == way)
    assert looked.crashes == len(recorded.calls) + 1 > 150


@pytest.mark.long
def test_what_a_pulled_plug_leaves_each_call_each_way(
    recorded: Recorded,
    scene: Scene,
    record_property: Callable[[str, object], None],
) -> None:
    began = time.monotonic()
    looked = _replay(recorded, scene)
    took = time.monotonic() - began
    n = len(recorded.calls)
    record_property("figure", f"n = {n} calls, {looked}, {took:.0f} s")


def test_the_model_of_the_medium_would_see_a_missing_sync(
    recorded: Recorded, scene: Scene, tmp_path: Path
) -> None:
    """Without its syncs the same update does lose what it promised: the check can fail."""
    careless = [call for call in recorded.calls if call.kind != "S"]
    medium = copy.deepcopy(recorded.before)
    for call in careless:
        medium.apply(call)
    medium.leave("truncated", tmp_path / "left" / "state")
    assert generation(tmp_path / "left" / "state") < promised(recorded.calls, recorded.root)[-1]


# --- kills ----------------------------------------------------------------------------------


def _kill_and_go_on(scene: Scene, agent: AgentProcess, sequence: int, **page: int) -> bool:
    """One start that is killed where the page says; false if the update ended before that."""
    shared = shim_page(scene, agent, **page)
    agent.start(environment=shared.environment(), ready=False)
    if carry_out(agent, NEW):
        process = agent.process
        assert process
        wait_for(lambda: scene.reports(f"r{sequence}") or process.poll() is not None)
        if agent.stop() == 0:
            return False
    agent.kill()
    promise = max(promised(calls_of(scene), agent.state_dir))
    assert generation(agent.state_dir) >= promise
    return True


def _check_after(scene: Scene, agent: AgentProcess, sequence: int) -> None:
    floors = record_of(agent.state_dir).get("sequences", {})
    agent.start()
    status, answer = agent.ask()
    assert status == 200
    assert answer["parameters"]["bundle"] in (OLD.digest, NEW.digest)
    assert carry_out(agent, NEW)
    found = record_of(agent.state_dir)["sequences"]
    assert all(found[keyid] >= floor for keyid, floor in floors.items())
    wait_for(lambda: scene.reports(f"r{sequence}"), what=agent.log)
    until_quiet(agent)
    assert scene.reports(f"r{sequence}") == [("committed", NEW.digest)]
    assert told(agent.state_dir, f"report:r{sequence}:{sequence}") == 1
    check_blobs(agent.state_dir)
    assert "Traceback" not in agent.log()


def test_one_update_is_killed_in_every_state(scene: Scene) -> None:
    """Each start dies at one of the calls that follow the record of its state."""
    sequence = 100
    scene.order(sequence)
    killed = set()
    with scene.device("states") as agent:
        for turn, state in enumerate(STATES):
            page = shim_page(scene, agent, kill_at=1 + turn % 4)
            page.watch(agent.state_dir, f'"state":"{state}"'.encode())
            agent.start(environment=page.environment(), ready=False)
            if carry_out(agent, NEW):
                agent.kill()
                break
            agent.kill()
            killed.add(state)
            assert generation(agent.state_dir) >= max(promised(calls_of(scene), agent.state_dir))
        assert killed >= set(STATES[:-1])
        _check_after(scene, agent, sequence)


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_the_agent_is_killed_after_every_call(
    scene: Scene, part: int, record_property: Callable[[str, object], None]
) -> None:
    """Each part takes every fourth call, so that they can run side by side."""
    began = time.monotonic()
    place, kills = part + 1, 0
    while True:
        sequence = 1000 + place
        scene.order(sequence)
        with scene.device("killed") as agent:
            if not _kill_and_go_on(scene, agent, sequence, kill_at=place):
                break
            _check_after(scene, agent, sequence)
        place += PARTS
        kills += 1
    assert kills > 25
    took = time.monotonic() - began
    told = f"n = {kills} kills, at calls {part + 1}, {part + 1 + PARTS}, ... {place - PARTS}"
    record_property("figure", f"{told}: 0 failures, {took:.0f} s")
