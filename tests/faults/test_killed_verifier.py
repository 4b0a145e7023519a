"""The verifier's process, cut off after each call that changes a file: no floor ever falls.

A device has seen the second state of a repository and takes in the third: a new root, new
keys of the fleet, a higher floor. Whatever a pulled plug leaves, it must refuse the first
state, and it must still take the third.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support_agent import FAMILY, make_bundle
from support_medium import Medium, Replayed, replay
from support_shim import Call, Page, read_log
from support_tuf import START, TufRepository

from wherry_agent.trust.tuf_fetch import FolderReader
from wherry_agent.trust.tuf_store import MetadataStore, peek_floors
from wherry_agent.trust.tuf_verify import Verifier
from wherry_contract.errors import LinkError, TrustError

ONE, TWO, THREE = make_bundle("1.0.0"), make_bundle("2.0.0"), make_bundle("3.0.0")


class Scene:
    """Three states of a repository, and a device that has seen the second."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = TufRepository(folder / "depot")
        self.states: list[Path] = []
        self._move(ONE, 1)
        (folder / "root.json").write_bytes(self.repository.root_file())
        self._move(TWO, 2)
        self.device = folder / "trust"
        self.admit(self.device, 1, TWO.digest)
        self.repository.sign_root()
        self.repository.order_keys = ("order-2",)
        self._move(THREE, 3)

    def _move(self, made: Any, counter: int) -> None:
        self.repository.release(made, counter)
        self.repository.floors[FAMILY] = counter
        self.repository.publish()
        copied = self.folder / f"state-{counter}"
        shutil.copytree(self.repository.folder, copied)
        self.states.append(copied)

    def request(self, folder: Path, state: int, digest: str) -> dict[str, Any]:
        """What the agent asks the verifier's process."""
        return {
            "task": "admit",
            "family": FAMILY,
            "digest": digest,
            "size": 0,
            "keyid": "",
            "issued_at": START,
            "root": str(self.folder / "root.json"),
            "folder": str(folder),
            "now": START + 60,
            "place": {"folder": str(self.states[state])},
            "identity": None,
            "parent": os.getpid(),
        }

    def admit(self, folder: Path, state: int, digest: str) -> None:
        """The same in this process."""
        request = self.request(folder, state, digest)
        root, store = Path(request["root"]).read_bytes(), MetadataStore(folder)
        reader = FolderReader(self.states[state])
        Verifier(root, store, reader, now=START + 60).admit(request)

    def run(self, page: Page) -> dict[str, Any]:
        """The third state, through the real process under the shim."""
        request = self.request(self.device, 2, THREE.digest)
        done = subprocess.run(
            [sys.executable, "-m", "wherry_agent.trust.tuf_trust"],
            input=json.dumps(request).encode(),
            capture_output=True,
            env=os.environ | page.environment(),
            timeout=60,
            check=False,
        )
        assert not done.returncode, done.stderr.decode()
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("verifier"))


@pytest.fixture(scope="module")
def recorded(scene: Scene) -> tuple[Medium, list[Call]]:
    before = Medium(scene.device)
    log = scene.folder / "calls"
    page = Page(scene.folder / "page", scene.device, log=log)
    page.set(armed=1)
    assert json.loads(scene.run(page)["payload"])["counter"] == 3
    calls = read_log(log)
    assert page.get("count") == len(calls)
    return before, calls


def check(scene: Scene, folder: Path) -> None:
    """The first state is refused, and the third is taken."""
    floors, least = peek_floors(folder), peek_floors(scene.folder / "seen")
    for role, floor in least.versions.items():
        assert floors.versions[role].least >= floor.least
    assert floors.counters[FAMILY] >= least.counters[FAMILY] == 2
    with pytest.raises((TrustError, LinkError)) as caught:
        scene.admit(folder, 0, ONE.digest)
    assert caught.value.code in ("T07", "T13")
    scene.admit(folder, 2, THREE.digest)
    assert peek_floors(folder).counters[FAMILY] == 3


def check_all(scene: Scene, before: Medium, calls: list[Call], folder: Path) -> Replayed:
    """Check every crash."""
    return replay(before, calls, folder, lambda _: check(scene, folder))


def test_what_a_pulled_plug_leaves(
    scene: Scene,
    recorded: tuple[Medium, list[Call]],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    before, calls = recorded
    before.leave("kept", scene.folder / "seen")
    looked = check_all(scene, before, calls, tmp_path / "left")
    assert looked.different > len(calls) / 4 > 10
    record_property("figure", f"n = {len(calls)} calls, {looked}")


def test_careless_writes_would_show(
    scene: Scene, recorded: tuple[Medium, list[Call]], tmp_path: Path
) -> None:
    """The same calls without their syncs do lose the floors: the check can fail."""
    before, calls = recorded
    before.leave("kept", scene.folder / "seen")
    careless = [call for call in calls if call.kind != "S"]
    with pytest.raises(AssertionError):
        check_all(scene, before, careless, tmp_path / "left")
