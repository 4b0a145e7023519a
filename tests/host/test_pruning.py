"""Old metadata goes, and only what nobody can need: a table over real files and TUF's own client."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from support_agent import FAMILY, make_bundle
from support_repository import (
    PEOPLE,
    Client,
    Stopped,
    StoppingDisk,
    begun,
    newcomer,
    online,
    publics,
    sign,
)

from wherry.repository.pruning import GRACE_SECONDS
from wherry.repository.repository import Repository
from wherry.repository.state import GENERATIONS
from wherry_contract.bundle import open_bundle

FILE = make_bundle("1.0.0")
MODELS = PEOPLE["models"]
TARGET = f"models/{FAMILY}/{FILE.digest.partition(':')[2]}"
DAY = 86_400


def release(repository: Repository) -> None:
    """Publish the same list again, as every release does."""
    repository.stage_renewal(f"models/{FAMILY}")
    sign(repository, *MODELS)
    repository.finish(online())


def renew(repository: Repository, role: str, *names: str) -> None:
    repository.stage_renewal(role)
    sign(repository, *names)
    repository.finish(online())


def age(depot: Path, days: float) -> None:
    """Let everything in a depot lie for so long."""
    for path in [*depot.rglob("*"), *(p for p in depot.iterdir() if p.is_symlink())]:
        found = path.lstat()
        moved = found.st_mtime - days * DAY
        os.utime(path, (moved, moved), follow_symlinks=False)


def files(depot: Path) -> set[str]:
    return {
        str(path.relative_to(depot))
        for path in depot.rglob("*")
        if path.is_file() and "blobs" not in path.parts
    }


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one bundle, after five releases."""
    folder = tmp_path_factory.mktemp("repository")
    repository = begun(Repository(folder))
    repository.stage_bundle(open_bundle(BytesIO(FILE.to_tar())))
    sign(repository, *MODELS)
    repository.finish(online())
    for _ in range(4):
        release(repository)
    return folder


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Repository:
    return Repository(Path(shutil.copytree(template, tmp_path / "data", symlinks=True)))


def names(depot: Path, role: str) -> list[int]:
    return sorted(int(p.name.partition(".")[0]) for p in (depot / "tuf").glob(f"*.{role}.json"))


def test_within_a_day_everything_stays(repository: Repository) -> None:
    assert names(repository.depot, "snapshot") == [1, 2, 3, 4, 5, 6]
    assert names(repository.depot, f"models%2F{FAMILY}") == [1, 2, 3, 4, 5, 6]
    before = files(repository.depot)
    age(repository.depot, 0.9)
    release(repository)
    assert before < files(repository.depot)


def test_after_a_day_what_was_replaced_goes_and_no_root(repository: Repository) -> None:
    root = repository.root_file()
    for _ in range(2):
        renew(repository, "root", "root-1", "root-2")
    age(repository.depot, 1.1)
    release(repository)
    depot = repository.depot
    # 6 was in force until just now, and somebody may be in the middle of it
    assert names(depot, "snapshot")[-2:] == names(depot, "snapshot")
    assert names(depot, f"models%2F{FAMILY}") == [6, 7]
    assert names(depot, "targets") == [1]
    assert names(depot, "root") == [1, 2, 3]
    assert [path.name for path in (depot / GENERATIONS).iterdir()] == ["3"]
    assert newcomer(depot, root, TARGET)


def test_a_client_in_the_middle_goes_on(repository: Repository, tmp_path: Path) -> None:
    """It has read the timestamp, and comes back for what that leads to after a release."""
    depot = repository.depot
    client = Client(depot, repository.root_file(), tmp_path / "client")
    assert client.sees(TARGET)
    old = (depot / "tuf/timestamp.json").read_bytes()
    age(depot, 5)
    for _ in range(3):
        release(repository)
    elsewhere = Path(shutil.copytree(depot, tmp_path / "elsewhere", symlinks=True))
    (elsewhere / "tuf/timestamp.json").write_bytes(old)  # what a cache still gives out
    late = Client(elsewhere, repository.root_file(), tmp_path / "late")
    assert late.sees(TARGET)
    assert client.sees(TARGET)


def test_a_generation_stays_a_day_after_another_took_its_place(repository: Repository) -> None:
    depot = repository.depot
    age(depot, 30)
    renew(repository, "root", "root-1", "root-2")
    release(repository)
    assert sorted(p.name for p in (depot / GENERATIONS).iterdir()) == ["1", "2"]
    age(depot, 1.1)
    repository.refresh_online(online())  # not due: nothing happens
    assert sorted(p.name for p in (depot / GENERATIONS).iterdir()) == ["1", "2"]
    release(repository)
    assert sorted(p.name for p in (depot / GENERATIONS).iterdir()) == ["2"]


def test_keys_that_are_staged_or_named_stay(repository: Repository) -> None:
    depot = repository.depot
    (first,) = (depot / "targets/fleet").iterdir()
    renewed = publics("other")[0]
    repository.stage_exchange("assignment", publics("order")[0].keyid, renewed)
    age(depot, 40)
    assert repository.prune() == ()  # nothing was published since
    os.utime(depot / "tuf/timestamp.json")
    gone = repository.prune()
    assert not [name for name in gone if "fleet" in name]
    sign(repository, *PEOPLE["targets"])
    repository.finish(online())
    assert len(list((depot / "targets/fleet").iterdir())) == 2
    age(depot, 2)
    release(repository)
    (left,) = (depot / "targets/fleet").iterdir()
    assert left.name != first.name
    assert repository.fleet_keys().assignment_keys[0].keyid == renewed.keyid


def test_what_a_cut_off_write_left_goes_and_nothing_unknown(repository: Repository) -> None:
    depot = repository.depot
    for name in ("tuf/.new-abc", "blobs/sha256/.new-x", "tuf/note.txt", "tuf/9999.targets.json"):
        (depot / name).write_bytes(b"{}" if name.endswith("txt") else b"")
    (depot / "tuf/9999.targets.json").write_bytes((depot / "tuf/1.targets.json").read_bytes())
    age(depot, 3)
    release(repository)
    here = files(depot)
    assert "generations/1/.new-abc" not in here
    assert not (depot / "blobs/sha256/.new-x").exists()
    # one above the present version may be a publication that is to go on
    assert {"generations/1/note.txt", "generations/1/9999.targets.json"} <= here


def test_cut_off_while_it_prunes_it_goes_on_the_next_time(template: Path, tmp_path: Path) -> None:
    """Cuts before these changes: tests/host/test_repository.py and tests/faults."""
    data = Path(shutil.copytree(template, tmp_path / "aged", symlinks=True))
    old = Repository(data)
    root = old.root_file()
    renew(old, "root", "root-1", "root-3")
    age(old.depot, 3)
    total, removed = act(data, tmp_path / "whole", None)
    assert removed >= 10
    for left in range(total - removed, total, 3):
        folder = tmp_path / str(left)
        act(data, folder, left)
        again = Repository(folder)
        assert newcomer(again.depot, root, TARGET), f"after {left} of {total} changes"
        again.prune()
        assert files(again.depot) == files(tmp_path / "whole" / "depot")
        assert newcomer(again.depot, root, TARGET)


def act(data: Path, folder: Path, left: int | None) -> tuple[int, int]:
    """A release in a copy, with so many changes; returns how many it did, and how many files went."""
    shutil.copytree(data, folder, symlinks=True)
    before, disk = files(folder / "depot"), StoppingDisk(left)
    with suppress(Stopped):
        release(Repository(folder, disk=disk))
    return disk.done, len(before - files(folder / "depot"))


def test_a_day_is_more_than_any_update_of_a_list_takes() -> None:
    """`tuf_fetch.HttpReader` gives up after 300 s, its process after 420."""
    assert GRACE_SECONDS > 100 * 420
