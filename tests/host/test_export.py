"""A stick: what `wherry export` writes is what `wherry-agent install` carries out."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest
from support_agent import DEVICE, FAMILY, agent_config, make_bundle
from support_device import HandClock
from support_repository import Client

from wherry.cli import run
from wherry.deltas import bundle_file
from wherry.repository.lab import hold_ceremony, online_signers
from wherry.repository.repository import Repository
from wherry.rows import DeviceRow
from wherry.server.database import Database
from wherry.server.depot import Depot
from wherry.server.drop import export
from wherry.server.orders import ListedSigner
from wherry.server.store import Store
from wherry_agent.config import AgentConfig
from wherry_agent.status import read_status
from wherry_agent.update.install import install_folder
from wherry_contract.errors import RolloutError, SetupError, TrustError, WherryError

CARD = random.Random(7).randbytes(40_000).hex().encode()
MADE, LATER = make_bundle("1.0.0", card=CARD), make_bundle("2.0.0")
NEAR = make_bundle("1.1.0", card=CARD[:500] + b"rewritten" + CARD[509:])
DAY = 86_400.0
DEVICES = (DEVICE, "till-8", "till-9")
KEYS = [w for name in ("models-1", "models-2", "targets-1", "targets-2") for w in ("--key", name)]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet of three devices, with one bundle released."""
    data = tmp_path_factory.mktemp("fleet")
    hold_ceremony(Repository(data), data / "keys")
    (data / "fraud.wherry").write_bytes(MADE.to_tar())
    assert run(["publish", str(data / "fraud.wherry"), *KEYS, "--data", str(data)]) == 0
    store = Store(Database(data / "fleet.sqlite"), Depot(data / "depot", data / "keys"))
    for name in DEVICES:
        store.enrol(DeviceRow(name, FAMILY, {"site": name}, 1.0))
    store.enrol(DeviceRow("other", "other", {}, 1.0))
    store.close()
    return data


@pytest.fixture
def data(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "data", symlinks=True))


@pytest.fixture
def device(data: Path, tmp_path: Path) -> AgentConfig:
    config = agent_config(tmp_path / "device")
    config.trust.write_bytes(Repository(data).root_file())
    return config


def install(config: AgentConfig, stick: Path, days: float = 0.0) -> str:
    """The state it ends in, or the code of the error."""
    try:
        return install_folder(config, stick, HandClock(time.time() + days * DAY)).state
    except WherryError as error:
        return error.code


def test_a_stick_for_many_devices_installs_on_each_once(
    data: Path, device: AgentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stick, bundle = tmp_path / "stick", data / "fraud.wherry"
    assert run(["export", str(stick), str(bundle), "--data", str(data), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["devices"] == sorted(DEVICES)
    assert sorted(path.stem for path in (stick / "assignments").iterdir()) == sorted(DEVICES)
    assert (stick / "fraud.wherry").read_bytes() == bundle.read_bytes()
    assert install(device, stick) == "soak"
    assert install(device, stick) == "T04"  # one order is carried out once
    again = tmp_path / "again"
    export(data, again, bundle)
    assert install(device, again) != "T04"  # a newer one is heard


AGES = [(1, "soak"), (80, "soak"), (92, "T11")]


@pytest.mark.parametrize(("days", "ends"), AGES, ids=[f"{row[0]} days" for row in AGES])
def test_a_stick_stays_fresh_for_90_days(
    data: Path, device: AgentConfig, tmp_path: Path, days: int, ends: str
) -> None:
    export(data, tmp_path / "stick", data / "fraud.wherry", days=90)
    found = install(device, tmp_path / "stick", days)
    assert found == ends


def test_only_a_released_bundle_and_devices_of_its_family(data: Path, tmp_path: Path) -> None:
    (tmp_path / "later.wherry").write_bytes(LATER.to_tar())
    with pytest.raises(TrustError, match="T12"):
        export(data, tmp_path / "stick", tmp_path / "later.wherry")
    with pytest.raises(RolloutError, match="R02"):
        export(data, tmp_path / "stick", data / "fraud.wherry", ["other"])
    with pytest.raises(RolloutError, match="R02"):
        export(data, tmp_path / "stick", data / "fraud.wherry", (), {"site": "nowhere"})
    found = export(data, tmp_path / "stick", data / "fraud.wherry", ["till-8"])
    assert found.devices == ("till-8",)


def test_another_devices_order_is_not_carried_out(
    data: Path, device: AgentConfig, tmp_path: Path
) -> None:
    stick = tmp_path / "stick"
    export(data, stick, data / "fraud.wherry", ["till-8"])
    assert install(device, stick) == "H02"
    (stick / "assignments" / "till-8.json").rename(stick / "assignments" / f"{DEVICE}.json")
    assert install(device, stick) == "T03"


def test_who_met_the_stick_goes_on_to_the_depot_and_the_other_way_round(
    data: Path, tmp_path: Path
) -> None:
    repository = Repository(data)
    root = repository.root_file()
    client = Client(repository.depot, root, tmp_path / "client")
    path = f"models/{FAMILY}/{MADE.digest.partition(':')[2]}"
    for turn in range(3):
        export(data, tmp_path / f"stick-{turn}", data / "fraud.wherry")
        versions = []
        for depot in (tmp_path / f"stick-{turn}", repository.depot):
            client.depot = depot
            assert client.sees(path)
            document = json.loads((depot / "tuf" / "timestamp.json").read_text())
            versions.append(document["signed"]["version"])
        assert versions[1] == versions[0] + 1


def test_orders_of_server_and_stick_are_signed_by_different_keys(data: Path) -> None:
    repository = Repository(data)
    server = ListedSigner(data / "keys", repository)
    stick = ListedSigner(data / "keys", repository, drop=True)
    listed = [key.keyid for key in repository.fleet_keys().assignment_keys]
    assert sorted(listed) == sorted([server.public.keyid, stick.public.keyid])
    # an exchanged key is used without a restart
    assert run(["key", "generate", "assignment-2", "--data", str(data)]) == 0
    words = ["--old", "assignment", "--new", "assignment-2", "--data", str(data)]
    assert run(["key", "rotate", "assignment", *words, *KEYS[4:]]) == 0
    assert server.public.keyid not in listed
    (data / "keys" / "assignment-2.key").unlink()
    with pytest.raises(TrustError, match="T10"):
        ListedSigner(data / "keys", repository)
    assert repository.refresh_online(online_signers(data / "keys")) == ()


# --- with deltas ----------------------------------------------------------------------------


@pytest.fixture
def near(data: Path) -> Path:
    """A release that differs little from the one before."""
    path = data / "near.wherry"
    path.write_bytes(NEAR.to_tar())
    assert run(["publish", str(path), *KEYS[:4], "--data", str(data)]) == 0
    return path


def test_a_thin_stick_brings_only_what_a_device_lacks(
    data: Path,
    near: Path,
    device: AgentConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export(data, tmp_path / "first", data / "fraud.wherry")
    assert install(device, tmp_path / "first") == "soak"
    words = ["--from", str(data / "fraud.wherry"), "--thin", "--data", str(data), "--json"]
    capsys.readouterr()
    assert run(["export", str(tmp_path / "thin"), str(near), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [item["kept"] for item in told["deltas"]] == [True]
    sizes = [path.stat().st_size for path in (tmp_path / "thin" / "blobs").rglob("*")]
    files = [size for size in sizes if size]
    assert told["bytes"] < 0.2 * near.stat().st_size
    assert not list((tmp_path / "thin").glob("*.wherry"))
    assert len(files) >= 3
    thick = tmp_path / "thick"
    export(data, thick, near, olds=[bundle_file(data / "fraud.wherry")])
    assert (thick / "near.wherry").read_bytes() == near.read_bytes()
    listed = f"deltas/{NEAR.digest[7:]}.json"
    assert (thick / listed).read_bytes() == (tmp_path / "thin" / listed).read_bytes()
    assert install(device, tmp_path / "thin") == "soak"
    status = read_status(device)
    assert status["slots"][status["active"]]["digest"] == NEAR.digest


def test_a_thin_stick_is_nothing_for_a_device_without_the_bundle_before(
    data: Path, near: Path, device: AgentConfig, tmp_path: Path
) -> None:
    export(data, tmp_path / "thin", near, olds=[bundle_file(data / "fraud.wherry")], thin=True)
    assert install(device, tmp_path / "thin") == "U14"
    with pytest.raises(SetupError, match="H08"):
        export(data, tmp_path / "none", near, thin=True)
