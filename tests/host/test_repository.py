"""The TUF repository: who must sign what, what is published, and that no interruption hurts."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support_agent import FAMILY, Made, make_bundle
from support_repository import (
    PEOPLE,
    Client,
    Stopped,
    StoppingDisk,
    begun,
    ceremony,
    newcomer,
    online,
    public,
    publics,
    sign,
)
from support_tuf import DAY, START, signer

from wherry.repository.lab import hold_ceremony, online_signers
from wherry.repository.repository import Repository
from wherry.repository.state import Disk, served_name
from wherry_agent.trust.tuf_fetch import FolderReader
from wherry_agent.trust.tuf_store import MetadataStore
from wherry_agent.trust.tuf_verify import Verifier
from wherry_contract.bundle import Bundle, open_bundle
from wherry_contract.errors import SetupError, StoreError, TrustError, WherryError

MODELS = f"models/{FAMILY}"
EVERYBODY = tuple(name for names in PEOPLE.values() for name in names)


@dataclass
class Clock:
    """A clock that a test sets."""

    now: float = START

    def __call__(self) -> float:
        """Unix seconds."""
        return self.now


@pytest.fixture(scope="module")
def made() -> Made:
    return make_bundle()


@pytest.fixture(scope="module")
def second() -> Made:
    return make_bundle("1.1.0")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, made: Made) -> Path:
    """A repository with one released bundle; tests take a copy."""
    folder = tmp_path_factory.mktemp("template")
    repository = begun(Repository(folder, Clock()))
    repository.stage_bundle(opened(made))
    sign(repository, *EVERYBODY)
    repository.finish(online())
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "data", symlinks=True))


def opened(made: Made) -> Bundle:
    return open_bundle(io.BytesIO(made.to_tar()))


def target(made: Made) -> str:
    return f"{MODELS}/{made.digest.partition(':')[2]}"


def device(folder: Path, root: bytes, memory: Path, now: float = START) -> Verifier:
    """The device's own verifier over the depot's folder."""
    return Verifier(root, MetadataStore(memory), FolderReader(folder / "depot"), now=now)


def admit(verifier: Verifier, made: Made) -> str:
    request = {"family": FAMILY, "digest": made.digest, "size": 0, "keyid": "", "issued_at": 0.0}
    try:
        verifier.admit(request)
    except WherryError as error:
        return error.code
    return "listed"


# --- releases -------------------------------------------------------------------------------


def test_a_released_bundle_is_listed_for_tufs_client_and_for_the_device(
    folder: Path, made: Made, tmp_path: Path
) -> None:
    repository = Repository(folder, Clock())
    found = newcomer(repository.depot, repository.root_file(), target(made))
    total = sum(len(data) for data in made.layout.blobs.values())
    says = {"name": "fraud", "version": "1.0.0", "counter": 1, "total": total}
    assert found == {
        "length": len(made.layout.manifest),
        "hashes": {"sha256": made.digest.partition(":")[2]},
        "custom": {"wherry": says},
    }
    assert admit(device(folder, repository.root_file(), tmp_path / "m"), made) == "listed"
    assert repository.listed(made.digest) == (FAMILY, says)
    keys = repository.fleet_keys()
    assert [item.keyid for item in keys.assignment_keys] == [public("order").keyid]
    assert [item.keyid for item in keys.time_keys] == [public("time").keyid]


def test_counters_only_grow_and_the_same_bundle_keeps_its_own(
    folder: Path, made: Made, second: Made
) -> None:
    repository = Repository(folder, Clock())
    assert repository.stage_bundle(opened(made)) == 1
    with pytest.raises(TrustError, match="T07"):
        repository.stage_bundle(opened(second), 1)
    assert repository.stage_bundle(opened(second)) == 2


def test_withdrawing_is_revocation_and_the_floor_refuses_what_is_older(
    folder: Path, made: Made, second: Made, tmp_path: Path
) -> None:
    repository = Repository(folder, Clock())
    root, memory = repository.root_file(), tmp_path / "memory"
    repository.stage_bundle(opened(second))
    sign(repository, *EVERYBODY)
    repository.finish(online())
    assert admit(device(folder, root, memory), made) == "listed"  # going back needs no signature
    repository.stage_floor(FAMILY, 2)
    sign(repository, *EVERYBODY)
    repository.finish(online())
    assert admit(device(folder, root, memory), made) == "T07"
    with pytest.raises(TrustError, match="T07"):
        repository.stage_floor(FAMILY, 1)
    assert repository.stage_withdrawal(second.digest) == MODELS
    sign(repository, *EVERYBODY)
    repository.finish(online())
    assert admit(device(folder, root, memory), second) == "T12"
    with pytest.raises(TrustError, match="T12"):
        repository.stage_withdrawal(second.digest)


# --- whose signatures -----------------------------------------------------------------------

# role, who signs, what is missing afterwards
SIGNERS = [
    ("root", (), 2),
    ("root", ("root-1",), 1),
    ("root", ("root-3", "root-2"), 0),
    ("targets", ("targets-1",), 1),
    ("targets", ("targets-1", "targets-2"), 0),
    (MODELS, ("models-2",), 1),
    (MODELS, ("models-1", "models-2"), 0),
]


@pytest.mark.parametrize(("role", "names", "missing"), SIGNERS, ids=str)
def test_enough_people_must_sign(
    tmp_path: Path, role: str, names: tuple[str, ...], missing: int
) -> None:
    repository = Repository(tmp_path, Clock())
    repository.begin(ceremony())
    for name in names:
        repository.sign(role, signer(name))
    found = {item.role: item for item in repository.status()}[role]
    assert (found.missing, len(found.signed)) == (missing, len(names))
    assert public("online").keyid not in found.may
    with pytest.raises(TrustError, match="T02"):
        repository.finish(online())
    assert not repository.exists


@pytest.mark.parametrize("role", ["root", "targets", MODELS])
@pytest.mark.parametrize("name", ["online", "order", "stranger", "root-1", "models-1"])
def test_a_key_signs_only_where_it_has_a_part(tmp_path: Path, role: str, name: str) -> None:
    repository = Repository(tmp_path, Clock())
    repository.begin(ceremony())
    if name in PEOPLE[role.partition("/")[0]]:
        repository.sign(role, signer(name))
        with pytest.raises(TrustError, match="T09"):
            repository.sign(role, signer(name))  # one person is one voice
    else:
        with pytest.raises(TrustError, match="T02"):
            repository.sign(role, signer(name))


def test_a_changed_document_begins_its_signatures_anew(folder: Path, second: Made) -> None:
    repository = Repository(folder, Clock())
    repository.stage_bundle(opened(second))
    repository.sign(MODELS, signer("models-1"))
    repository.stage_floor(FAMILY, 1)
    assert [len(item.signed) for item in repository.status()] == [0]
    repository.drop()
    assert repository.status() == []
    assert repository.finish(online()) == ()


@pytest.mark.parametrize("role", ["root", "targets", "models"])
def test_a_ceremony_with_too_few_keys_is_refused(tmp_path: Path, role: str) -> None:
    with pytest.raises(TrustError, match="T10"):
        Repository(tmp_path, Clock()).begin(ceremony(**{role: 4}))
    with pytest.raises(TrustError, match="T10"):
        begun(Repository(tmp_path, Clock())).stage_family("other", publics("models-1", "models-1"))


def test_a_second_ceremony_and_an_unknown_family_are_refused(folder: Path, made: Made) -> None:
    repository = Repository(folder, Clock())
    with pytest.raises(SetupError, match="H03"):
        repository.begin(ceremony())
    with pytest.raises(TrustError, match="T06"):
        repository.stage_bundle(opened(make_bundle(family="other")))
    with pytest.raises(TrustError, match="T06"):
        repository.sign("snapshot", signer("online"))
    with pytest.raises(TrustError, match=r"T06: there is no such role here: .*known: root, "):
        repository.state.document("models/mistyped")


def test_a_family_is_added_by_the_targets_keys(folder: Path) -> None:
    other = make_bundle(family="other")
    repository = Repository(folder, Clock())
    repository.stage_family("other", publics("models-1", "a"))
    repository.stage_bundle(opened(other))
    sign(repository, *EVERYBODY, "a")
    repository.finish(online())
    path = f"models/other/{other.digest.partition(':')[2]}"
    assert newcomer(repository.depot, repository.root_file(), path)


# --- other keys -----------------------------------------------------------------------------

# role, who goes, who signs beside those that stay; which roles must be signed again
EXCHANGES = [
    ("root", "root-1", ("root-2", "root-3", "new"), ["root"]),
    ("targets", "targets-2", ("root-1", "root-2", "targets-1", "new"), ["root", "targets"]),
    ("snapshot", "online", ("root-1", "root-3"), ["root"]),
    ("timestamp", "online", ("root-1", "root-3"), ["root"]),
    (MODELS, "models-1", ("targets-1", "targets-2", "models-2", "new"), ["targets", MODELS]),
    ("assignment", "order", ("targets-1", "targets-2"), ["targets"]),
    ("time", "time", ("targets-1", "targets-2"), ["targets"]),
]


@pytest.mark.parametrize(
    ("role", "old", "signers", "again"), EXCHANGES, ids=[r[0] for r in EXCHANGES]
)
def test_each_key_can_be_exchanged_and_clients_follow(  # noqa: PLR0917 - fixtures, and a row
    folder: Path,
    made: Made,
    tmp_path: Path,
    role: str,
    old: str,
    signers: tuple[str, ...],
    again: list[str],
) -> None:
    clock = Clock()
    repository = Repository(folder, clock)
    root = repository.root_file()
    client = Client(repository.depot, root, tmp_path / "client")
    assert client.sees(target(made))
    repository.stage_exchange(role, public(old).keyid, public("new"))
    assert list(repository.staged()) == again
    sign(repository, *signers)
    repository.finish(online("online", "new"))
    assert client.sees(target(made))
    assert newcomer(repository.depot, root, target(made))
    assert admit(device(folder, root, tmp_path / "memory"), made) == "listed"
    keys = repository.fleet_keys()
    held = [item.keyid for item in (*keys.assignment_keys, *keys.time_keys)]
    tables: list[Any] = [
        repository.state.root.signed,
        repository.state.targets.signed.delegations,
    ]
    for table in tables:
        held += table.roles[role].keyids if role in table.roles else []
    assert public("new").keyid in held
    assert public(old).keyid not in held


@pytest.mark.parametrize("role", ["root", "targets", MODELS, "assignment"])
def test_a_key_is_taken_away_only_where_enough_are_left(folder: Path, role: str) -> None:
    repository = Repository(folder, Clock())
    old = {"assignment": "order"}.get(role, f"{role.partition('/')[0]}-1")
    if role == "root":
        repository.stage_exchange(role, public(old).keyid, None)
        assert repository.staged() == ("root",)
    else:
        with pytest.raises(TrustError, match="T10"):
            repository.stage_exchange(role, public(old).keyid, None)
    with pytest.raises(TrustError, match="T02"):
        repository.stage_exchange(role, public("stranger").keyid, public("new"))


def test_a_new_root_needs_the_former_keepers_too(folder: Path) -> None:
    repository = Repository(folder, Clock())
    repository.stage_exchange("root", public("root-1").keyid, public("new"))
    sign(repository, "new", "root-2")
    assert [item.missing for item in repository.status()] == [1]  # of the former, one has signed
    sign(repository, "root-3")
    assert [item.missing for item in repository.status()] == [0]


def test_after_400_days_and_two_new_roots_a_device_comes_back(
    folder: Path, made: Made, tmp_path: Path
) -> None:
    clock = Clock()
    repository = Repository(folder, clock)
    root, memory = repository.root_file(), tmp_path / "memory"
    assert admit(device(folder, root, memory), made) == "listed"
    for turn, (old, new) in enumerate([("root-1", "new-1"), ("root-2", "new-2")]):
        clock.now += 200 * DAY
        repository.stage_exchange("root", public(old).keyid, public(new))
        repository.stage_exchange(
            "timestamp", public("online" if not turn else "later-0").keyid, public(f"later-{turn}")
        )
        for role in ("targets", MODELS):
            repository.stage_renewal(role)
        sign(repository, *EVERYBODY, "new-1", "new-2")
        repository.finish(online("online", "later-0", "later-1"))
    assert [*sorted(repository.depot.glob("tuf/*.root.json"))][-1].name == "3.root.json"
    assert newcomer(repository.depot, root, target(made))
    assert admit(device(folder, root, memory, clock.now), made) == "listed"


# --- the server's part ----------------------------------------------------------------------


def test_the_timestamp_is_signed_twice_a_day_and_the_snapshot_once_a_fortnight(
    folder: Path, made: Made, tmp_path: Path
) -> None:
    clock = Clock()
    repository = Repository(folder, clock)
    seen = []
    for _ in range(36):  # 18 days
        clock.now += DAY / 2
        seen.append(repository.refresh_online(online()))
        assert repository.refresh_online(online()) == ()
    assert seen.count(("timestamp",)) == 35
    assert seen.count(("snapshot", "timestamp")) == 1
    assert (
        admit(device(folder, repository.root_file(), tmp_path / "m", clock.now), made) == "listed"
    )
    clock.now += DAY
    with pytest.raises(TrustError, match="T10"):
        repository.refresh_online(online("stranger"))


def test_a_stage_that_waits_does_not_keep_the_server_from_signing(
    folder: Path, made: Made, second: Made
) -> None:
    clock = Clock()
    repository = Repository(folder, clock)
    repository.stage_bundle(opened(second))
    repository.stage_family("other", publics("models-1", "models-2"))
    clock.now += 20 * DAY
    assert repository.refresh_online(online()) == ("snapshot", "timestamp")
    root = repository.root_file()
    assert newcomer(repository.depot, root, target(made))
    assert newcomer(repository.depot, root, target(second)) is None


# --- interruptions --------------------------------------------------------------------------


def release(repository: Repository, second: Made) -> None:
    repository.stage_bundle(opened(second))
    sign(repository, *EVERYBODY)
    repository.finish(online())


def rotate(role: str, old: str) -> Callable[[Repository, Made], None]:
    def act(repository: Repository, _: Made) -> None:
        with suppress(TrustError):  # T02 where it was staged, or published, before the cut
            repository.stage_exchange(role, public(old).keyid, public("new"))
        sign(repository, *EVERYBODY, "new")
        with suppress(TrustError):  # T02 where what must be signed again was not staged yet
            repository.finish(online("online", "new"))
        sign(repository, *EVERYBODY, "new")
        repository.finish(online("online", "new"))

    return act


def serve(repository: Repository, _: Made) -> None:
    repository.clock.now += 20 * DAY  # type: ignore[attr-defined]  # ours
    repository.refresh_online(online())


ACTS = {
    "release": release,
    "root": rotate("root", "root-1"),
    "targets": rotate("targets", "targets-1"),
    "timestamp": rotate("timestamp", "online"),
    "models": rotate(MODELS, "models-2"),
    "assignment": rotate("assignment", "order"),
    "serve": serve,
}


@pytest.mark.parametrize("name", ACTS)
def test_cut_off_after_any_write_the_repository_is_the_old_or_the_new_one(
    template: Path, made: Made, second: Made, tmp_path: Path, name: str
) -> None:
    """TUF's client, newly born and one that was there before, refreshes after each cut."""
    total = _run(template, tmp_path / "whole", name, second, None)
    for left in range(total):
        folder = tmp_path / str(left)
        _run(template, folder, name, second, left)
        repository = Repository(folder, Clock(START))
        root = (template / "depot" / "tuf" / "1.root.json").read_bytes()
        client = Client(repository.depot, root, tmp_path / f"client-{left}")
        assert client.sees(target(made)), f"after {left} of {total} writes"
        ACTS[name](repository, second)  # whoever does it again succeeds
        assert client.sees(target(made)), f"after {left} of {total} writes, and again"
        assert newcomer(repository.depot, root, target(made))
    assert total > 1


def _run(template: Path, folder: Path, name: str, second: Made, left: int | None) -> int:
    shutil.copytree(template, folder, symlinks=True)
    disk = StoppingDisk(left)
    try:
        ACTS[name](Repository(folder, Clock(START), disk), second)
    except Stopped:
        assert left is not None
    return disk.done


def test_a_ceremony_that_is_cut_off_goes_on(tmp_path: Path) -> None:
    left, done = 0, False
    while not done:
        folder = tmp_path / "data"
        try:
            hold_ceremony(
                Repository(folder, Clock(), StoppingDisk(left)), tmp_path / "keys", [FAMILY]
            )
            done = True
        except Stopped:
            left += 1
    repository = Repository(folder, Clock())
    assert newcomer(repository.depot, repository.root_file(), "fleet/keys.json")
    assert repository.refresh_online(online_signers(tmp_path / "keys")) == ()


# --- files ----------------------------------------------------------------------------------

NAMES = [
    ("tuf/1.root.json", "tuf/1.root.json"),
    ("tuf/timestamp.json", "tuf/timestamp.json"),
    ("tuf/3.models/fraud.json", "tuf/3.models%2Ffraud.json"),
    ("tuf/3.models%2Ffraud.json", "tuf/3.models%2Ffraud.json"),
    ("tuf/3.models%252Ffraud.json", "tuf/3.models%2Ffraud.json"),
    (f"targets/fleet/{'a' * 64}.keys.json", f"targets/fleet/{'a' * 64}.keys.json"),
    ("tuf/../keys/root-1.json", ""),
    ("tuf/3.models/../x.json", ""),
    ("tuf/", ""),
    ("generations/1/1.root.json", ""),
    ("tuf/.new-x.json", ""),
    ("targets/fleet/keys.json", ""),
]


@pytest.mark.parametrize(("asked", "file"), NAMES, ids=[row[0] for row in NAMES])
def test_names_in_requests(asked: str, file: str) -> None:
    assert served_name(asked) == file


def test_a_disk_error_is_told_and_harmless(folder: Path, made: Made, second: Made) -> None:
    class Full(Disk):
        def put(self, path: Path, data: bytes) -> None:  # noqa: ARG002 - nothing fits
            raise StoreError("D01", path.name)

    repository = Repository(folder, Clock(), Full())
    with pytest.raises(StoreError, match="D01"):
        repository.stage_bundle(opened(second))
    assert newcomer(repository.depot, repository.root_file(), target(made))


def test_the_dates_are_those_that_were_agreed(folder: Path) -> None:
    state = Repository(folder, Clock()).state
    days = {
        role: round((state.document(role).signed.expires.timestamp() - START) / DAY)
        for role in ("root", "targets", MODELS, "snapshot", "timestamp")
    }
    assert days == {"root": 730, "targets": 365, MODELS: 365, "snapshot": 30, "timestamp": 14}
