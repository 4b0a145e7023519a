"""`wherry serve` with a repository: what devices are given, what is served, what is taken."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from support_agent import FAMILY, make_bundle
from support_fleet import Server, running_server, wherry

from wherry.repository.repository import Repository
from wherry.server.kept import Kept
from wherry_contract.fleet_keys import FleetKeys

MADE = make_bundle()
KEYS = [w for name in ("models-1", "models-2", "targets-1", "targets-2") for w in ("--key", name)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("root") / "data") as found:
        yield found


@pytest.fixture(scope="module")
def bundle(server: Server) -> Path:
    path = server.data / "fraud.wherry"
    path.write_bytes(MADE.to_tar())
    return path


def read(server: Server, name: str) -> tuple[bytes, str]:
    with urlopen(f"{server.facts['url']}/depot/{name}", timeout=10) as answer:  # noqa: S310 - our own
        return answer.read(), answer.headers["Cache-Control"]


def test_a_device_is_born_with_the_root_and_no_pinned_keys(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "till-1"
    wherry(server.data, "device", "add", "till-1", "--family", FAMILY, "--out", str(out))
    assert tomllib.loads((out / "agent.toml").read_text())["trust"] == "root.json"
    assert (out / "root.json").read_bytes() == Repository(server.data).root_file()
    assert not (out / "trust.json").exists()


def test_only_what_was_released_is_taken(server: Server, bundle: Path) -> None:
    said = wherry(server.data, "push", str(bundle), "--yes", ok=1).stderr
    assert "T12" in said
    wherry(server.data, "publish", str(bundle), *KEYS)
    with bundle.open("rb") as stream:
        taken = server.client.upload("bundles", stream, bundle.stat().st_size)
    assert (taken["digest"], taken["counter"]) == (MADE.digest, 1)
    wherry(server.data, "publish", "--withdraw", MADE.digest, *KEYS[:4])
    assert "T12" in wherry(server.data, "push", str(bundle), "--yes", ok=1).stderr


def test_metadata_is_served_and_never_kept_by_caches(server: Server) -> None:
    state = Repository(server.data).state
    for name in (
        "tuf/1.root.json",
        "tuf/timestamp.json",
        f"tuf/{state.snapshot.signed.version}.snapshot.json",
    ):
        data, cached = read(server, name)
        assert json.loads(data)["signatures"], name
        assert cached == "no-cache"
    listed = state.targets.signed.targets["fleet/keys.json"].hashes["sha256"]
    keys = FleetKeys.from_bytes(read(server, f"targets/fleet/{listed}.keys.json")[0])
    assert len(keys.assignment_keys) == 2


def test_a_fleet_with_a_root_does_not_become_one_with_pinned_keys(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_server(data):
        pass
    assert "H08" in wherry(data, "serve", "--data", str(data), "--pinned", ok=3).stderr


def test_a_fleet_with_pinned_keys_keeps_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_server(data, pinned=True):
        pass
    assert Kept.read(data / "settings.json").pinned
    with running_server(data):
        assert not Repository(data).exists
    older = json.loads((data / "settings.json").read_text())
    del older["pinned"]  # as before there was a repository
    (data / "settings.json").write_text(json.dumps(older))
    assert Kept.read(data / "settings.json").pinned
