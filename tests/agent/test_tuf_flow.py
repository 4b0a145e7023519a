"""TUF's client workflow: what tuf-conformance asks, on small repositories of our own.

The suite itself (github.com/theupdateframework/tuf-conformance) runs `wherry-tuf-client`;
CONTRIBUTING.md says how. These rows are its behaviours without its processes.
"""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support_agent import FAMILY, make_bundle, running_depot
from support_tuf import DAY, TufRepository

from wherry_agent.trust.tuf_fetch import Below, FolderReader
from wherry_agent.trust.tuf_flow import TufFlow
from wherry_agent.trust.tuf_store import MetadataStore
from wherry_contract.errors import WherryError
from wherry_contract.fleet_keys import TARGET

ONE, TWO = make_bundle("1.0.0"), make_bundle("2.0.0")


class Client:
    """A device's metadata folder and a repository beside it."""

    def __init__(self, folder: Path) -> None:
        self.repository = TufRepository(folder / "depot")
        self.repository.release(ONE, 1)
        self.repository.publish()
        self.embedded = self.repository.root_file()
        self.folder = folder / "trust"

    def flow(self) -> TufFlow:
        """A pass over what is served now."""
        reader = Below(FolderReader(self.repository.folder), "tuf")
        return TufFlow(
            self.embedded, MetadataStore(self.folder), reader, now=self.repository.now + 60
        )

    def refresh(self) -> TufFlow:
        """A pass, done."""
        flow = self.flow()
        flow.refresh()
        return flow

    def version(self, role: str) -> int:
        """Of what is kept."""
        document = json.loads((self.folder / f"{role}.json").read_bytes())
        return int(document["signed"]["version"])

    def versions(self) -> tuple[int, ...]:
        """Of the four."""
        return tuple(map(self.version, ("root", "timestamp", "snapshot", "targets")))


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


def test_a_first_refresh_keeps_the_four_and_finds_targets(client: Client) -> None:
    flow = client.refresh()
    assert client.versions() == (1, 1, 1, 1)
    target = flow.find(client.repository.path_of(ONE))
    assert target
    assert target.length == len(ONE.layout.manifest)
    assert flow.find(TARGET)
    assert flow.find(client.repository.path_of(TWO)) is None


def test_the_bytes_are_kept_as_they_came(client: Client) -> None:
    client.refresh()
    name = client.repository.file("timestamp")
    assert (client.folder / "timestamp.json").read_bytes() == name.read_bytes()


def rotate(role: str) -> Callable[[TufRepository], None]:
    """New keys for a role, in a new root, and everything signed with them."""

    def change(repository: TufRepository) -> None:
        repository.roles[role] = tuple(f"{name}-new" for name in repository.roles[role])
        repository.sign_root()
        repository.publish()

    return change


def several_roots(repository: TufRepository) -> None:
    for turn in range(3):
        repository.roles["root"] = tuple(f"root-{turn}-{place}" for place in range(3))
        repository.sign_root()
    repository.publish()


def an_expired_root_between(repository: TufRepository) -> None:
    repository.now -= 1000 * DAY
    repository.sign_root()
    repository.now += 1000 * DAY
    repository.sign_root()
    repository.publish()


def only_a_timestamp(repository: TufRepository) -> None:
    repository.sign_timestamp()


def a_fast_forward_taken_back(role: str) -> Callable[[TufRepository], None]:
    """A stolen online key ran ahead and was seen; its successor starts low again."""

    def change(repository: TufRepository) -> None:
        for name in ("snapshot", "timestamp"):
            repository.roles[name] = ("online-new",)
        repository.sign_root()
        repository.versions[role] = 0
        if role == "targets":
            repository.sign_targets()
        repository.sign_online()

    return change


def ahead(role: str) -> Callable[[TufRepository], None]:
    def change(repository: TufRepository) -> None:
        repository.versions[role] = 1000
        repository.publish()

    return change


GOOD: list[tuple[str, list[Callable[[TufRepository], None]], tuple[int, ...]]] = [
    ("everything anew", [TufRepository.publish], (1, 2, 2, 2)),
    ("a timestamp alone", [only_a_timestamp], (1, 2, 1, 1)),
    ("new timestamp keys", [rotate("timestamp")], (2, 2, 2, 2)),
    ("new snapshot keys", [rotate("snapshot")], (2, 2, 2, 2)),
    ("new targets keys", [rotate("targets")], (2, 2, 2, 2)),
    ("new root keys", [rotate("root")], (2, 2, 2, 2)),
    ("three roots at once", [several_roots], (4, 2, 2, 2)),
    ("an expired root between", [an_expired_root_between], (3, 2, 2, 2)),
    (
        "a timestamp that ran ahead",
        [ahead("timestamp"), a_fast_forward_taken_back("timestamp")],
        (2, 1, 3, 2),
    ),
    (
        "a snapshot that ran ahead",
        [ahead("snapshot"), a_fast_forward_taken_back("snapshot")],
        (2, 3, 1, 2),
    ),
    (
        "targets that ran ahead",
        [ahead("targets"), a_fast_forward_taken_back("targets")],
        (2, 3, 3, 1),
    ),
]


@pytest.mark.parametrize("cache", ["kept", "lost"])
@pytest.mark.parametrize(
    ("changes", "expected"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD]
)
def test_what_is_taken(
    client: Client,
    changes: list[Callable[[TufRepository], None]],
    expected: tuple[int, ...],
    cache: str,
) -> None:
    client.refresh()
    for change in changes:
        change(client.repository)
        if cache == "lost":
            lose_cache(client.folder)
        client.refresh()
    assert client.versions() == expected


def lose_cache(folder: Path) -> None:
    """Truncate every cached document, as a pulled plug does to what was not synced."""
    for path in folder.rglob("*.json"):
        path.write_bytes(b"")


def rolled_back(role: str) -> Callable[[TufRepository], None]:
    """The role in its first version again, and what lists it signed anew."""

    def change(repository: TufRepository) -> None:
        repository.versions[role] = 0
        if role == "targets":
            repository.sign_targets()
        elif role.startswith("models"):
            repository.sign_models(FAMILY)
        if role == "timestamp":
            repository.sign_timestamp()
        else:
            repository.sign_online()

    return change


def a_role_removed(repository: TufRepository) -> None:
    repository.families = ()
    repository.sign_targets()
    repository.sign_online()


def unsigned(role: str, signers: tuple[str, ...] = ()) -> Callable[[TufRepository], None]:
    """A new version signed by strangers, or by too few."""

    def change(repository: TufRepository) -> None:
        repository.roles[role] = signers or ("stranger-1", "stranger-2")
        repository.thresholds[role] = len(repository.roles[role])
        if role == "root":
            repository._signers_of_root = ()
            repository.sign_root()
        repository.publish()

    return change


def expired(role: str) -> Callable[[TufRepository], None]:
    def change(repository: TufRepository) -> None:
        repository.now -= 1000 * DAY
        {
            "root": repository.sign_root,
            "timestamp": repository.sign_timestamp,
            "snapshot": repository.sign_online,
            "targets": repository.publish,
        }[role]()
        repository.now += 1000 * DAY
        if role == "snapshot":
            repository.sign_timestamp()
        if role == "targets":
            repository.sign_online()

    return change


def named(role: str, other: str) -> Callable[[TufRepository], None]:
    """A file that holds another document than its name says."""

    def change(repository: TufRepository) -> None:
        repository.publish()
        repository.file(role).write_bytes(repository.file(other).read_bytes())

    return change


def garbled(role: str) -> Callable[[TufRepository], None]:
    def change(repository: TufRepository) -> None:
        repository.publish()
        repository.file(role).write_bytes(b"<html>please log in</html>")

    return change


def missing(role: str) -> Callable[[TufRepository], None]:
    def change(repository: TufRepository) -> None:
        repository.publish()
        repository.file(role).unlink()

    return change


def too_large(role: str) -> Callable[[TufRepository], None]:
    def change(repository: TufRepository) -> None:
        repository.publish()
        path = repository.file(role)
        path.write_bytes(path.read_bytes() + b" " * 17_000)

    return change


def a_root_skipped(repository: TufRepository) -> None:
    repository.sign_root()
    repository.file("2.root").write_bytes(repository.file("1.root").read_bytes())


BAD: list[tuple[str, Callable[[TufRepository], None], str]] = [
    ("an older timestamp", rolled_back("timestamp"), "T13"),
    ("an older snapshot", rolled_back("snapshot"), "T13"),
    ("older targets", rolled_back("targets"), "T13"),
    ("older models", rolled_back(f"models/{FAMILY}"), "T13"),
    ("a role taken out of the snapshot", a_role_removed, "T13"),
    ("a root by strangers", unsigned("root"), "T13"),
    ("a timestamp by strangers", unsigned("timestamp"), "T13"),
    ("a snapshot by strangers", unsigned("snapshot"), "T13"),
    ("targets by strangers", unsigned("targets"), "T13"),
    ("targets by one of two", unsigned("targets", ("targets-1",)), "T13"),
    ("targets by one key twice", unsigned("targets", ("targets-1", "targets-1")), "T13"),
    ("an expired root", expired("root"), "T11"),
    ("an expired timestamp", expired("timestamp"), "T11"),
    ("an expired snapshot", expired("snapshot"), "T11"),
    ("expired targets", expired("targets"), "T11"),
    ("a timestamp that is a snapshot", named("timestamp", "3.snapshot"), "T13"),
    ("an older snapshot under a newer name", named("3.snapshot", "2.snapshot"), "T13"),
    ("older targets under a newer name", named("3.targets", "2.targets"), "T13"),
    ("a root whose version is not its name's", a_root_skipped, "T13"),
    ("a portal's page for a timestamp", garbled("timestamp"), "L06"),
    ("a portal's page for a snapshot", garbled("3.snapshot"), "L06"),
    ("a portal's page for a root", garbled("2.root"), "L06"),
    ("no snapshot", missing("3.snapshot"), "L05"),
    ("no targets", missing("3.targets"), "L05"),
    ("a timestamp larger than its cap", too_large("timestamp"), "L06"),
]


@pytest.mark.parametrize("cache", ["kept", "lost"])
@pytest.mark.parametrize(("change", "code"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_refused(
    client: Client, change: Callable[[TufRepository], None], code: str, cache: str
) -> None:
    client.repository.publish()
    client.refresh()
    floors = MetadataStore(client.folder).floors
    change(client.repository)
    if cache == "lost":
        lose_cache(client.folder)
    with pytest.raises(WherryError) as caught:
        client.refresh()
    assert caught.value.code == code, caught.value
    after = MetadataStore(client.folder).floors
    assert all(after.versions[role].least >= old.least for role, old in floors.versions.items())


def test_a_newer_root_is_kept_whatever_comes_after_it(client: Client) -> None:
    client.refresh()
    client.repository.sign_root()
    expired("timestamp")(client.repository)
    with pytest.raises(WherryError, match="T11"):
        client.refresh()
    assert client.version("root") == 2


def test_a_root_that_has_ended_is_named_where_nothing_new_is_to_be_had(client: Client) -> None:
    client.refresh()
    client.repository.now += 1000 * DAY
    for path in client.repository.folder.rglob("*.json"):
        path.unlink()
    with pytest.raises(WherryError, match=r"T11.*root has expired"):
        client.refresh()


def test_without_its_roots_a_device_cannot_be_led_back_to_the_embedded_one(client: Client) -> None:
    old = client.repository.keep("old")
    # with other keys above them, floors of the other roles say nothing of the old state
    for role in ("root", "timestamp", "snapshot"):
        rotate(role)(client.repository)
    client.refresh()
    lose_cache(client.folder)
    client.repository.serve_again(old)
    with pytest.raises(WherryError, match="T13"):
        client.refresh()


def test_lost_floors_are_made_again_from_the_cache(client: Client) -> None:
    client.repository.publish()
    client.refresh()
    for path in client.folder.glob("floors.*"):
        path.write_bytes(b"torn")
    client.refresh()
    assert MetadataStore(client.folder).floors.versions["timestamp"].least == 2


def test_what_needs_no_refresh_is_not_fetched_again(client: Client) -> None:
    client.refresh()
    for name in ("1.snapshot", "1.targets"):
        client.repository.file(name).unlink()
    client.repository.sign_timestamp()
    client.refresh()
    assert client.versions() == (1, 2, 1, 1)


def test_python_tufs_private_class_is_what_we_build_on() -> None:
    """It has no public name; a version that moves or changes it must not pass unseen."""
    module = importlib.import_module("tuf.ngclient._internal.trusted_metadata_set")
    parameters = inspect.signature(module.TrustedMetadataSet).parameters
    assert list(parameters) == ["root_data", "envelope_type"]
    expected = {
        "update_root": ["self", "data"],
        "update_timestamp": ["self", "data"],
        "update_snapshot": ["self", "data", "trusted"],
        "update_delegated_targets": ["self", "data", "role_name", "delegator_name"],
        "contains": ["self", "role", "delegator"],
        "_check_final_timestamp": ["self"],
    }
    for name, names in expected.items():
        assert list(inspect.signature(getattr(module.TrustedMetadataSet, name)).parameters) == names


def run(*arguments: str | Path) -> int:
    program = [sys.executable, "-m", "wherry_agent.trust.tuf_client", *map(str, arguments)]
    return subprocess.run(program, check=False, timeout=60, capture_output=True).returncode


def test_the_command_that_tuf_conformance_calls(tmp_path: Path) -> None:
    import time

    with running_depot(tmp_path / "depot") as depot:
        repository = TufRepository(tmp_path / "depot", now=time.time())
        repository.publish()
        (tmp_path / "root.json").write_bytes(repository.root_file())
        common = ("--metadata-dir", tmp_path / "d")
        assert run(*common, "init", tmp_path / "root.json") == 0
        assert run(*common, "--metadata-url", f"{depot.url}/tuf", "refresh") == 0
        targets = ("--target-base-url", f"{depot.url}/targets", "--target-dir", tmp_path / "t")
        online = (*common, "--metadata-url", f"{depot.url}/tuf", *targets)
        assert run(*online, "--target-name", TARGET, "download") == 0
        got = (tmp_path / "t" / "fleet%2Fkeys.json").read_bytes()
        assert got == repository.fleet_keys().to_bytes()
        assert run(*online, "--target-name", "models/none", "download") == 1
        repository.file("timestamp").write_bytes(b"{}")
        assert run(*common, "--metadata-url", f"{depot.url}/tuf", "refresh") == 1
