"""An agent with a TUF root: a stick installs what the list on it allows, and status tells it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from support_agent import (
    FAMILY,
    agent_config,
    make_bundle,
    order_for,
    running_depot,
    signed_order,
    write_agent_config,
)
from support_device import HandClock
from support_tuf import DAY, START, TufRepository, key_of, signer

from wherry_agent.config import AgentConfig
from wherry_agent.core import build_core, open_outbox
from wherry_agent.selftest import self_test
from wherry_agent.status import read_status, status_lines
from wherry_agent.store import folder_lock
from wherry_agent.trust.tuf_trust import open_clock
from wherry_agent.update.fetch import Depot
from wherry_agent.update.install import install_file
from wherry_contract.errors import WherryError

ONE, TWO = make_bundle("1.0.0", counter=0), make_bundle("2.0.0", counter=0)


class Stick:
    """What `wherry export` leaves on a stick, and a device to put it into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "stick"
        self.repository = TufRepository(self.folder)
        self.repository.release(ONE, 1)
        self.repository.release(TWO, 2)
        self.repository.publish()
        self.device = folder / "device"
        self.config: AgentConfig = agent_config(self.device)
        self.config.trust.write_bytes(self.repository.root_file())
        self.clock = HandClock(START + DAY)

    def install(self, version: str = "1.0.0") -> str:
        """Install one of the two; returns the state it ends in."""
        made = {"1.0.0": ONE, "2.0.0": TWO}[version]
        path = self.folder / f"fraud-{version}.wherry"
        path.write_bytes(made.layout.to_tar())  # no statement: the list on the stick says it all
        return install_file(self.config, path, self.clock).state


@pytest.fixture
def stick(tmp_path: Path) -> Stick:
    return Stick(tmp_path)


def test_a_stick_installs_what_its_list_allows(stick: Stick) -> None:
    assert stick.install() == "soak"


def test_one_that_was_taken_back_is_refused(stick: Stick) -> None:
    stick.repository.delist(ONE)
    stick.repository.publish()
    with pytest.raises(WherryError, match="T12"):
        stick.install()


def test_one_below_the_floor_is_refused(stick: Stick) -> None:
    stick.repository.floors[FAMILY] = 2
    stick.repository.publish()
    with pytest.raises(WherryError, match="T07"):
        stick.install()
    assert stick.install("2.0.0") == "soak"


def test_a_list_that_is_stale_installs_nothing_and_denies_nothing(stick: Stick) -> None:
    stick.clock.wall += 20 * DAY
    with pytest.raises(WherryError, match="T11"):
        stick.install()
    stick.repository.now += 20 * DAY
    stick.repository.sign_online()
    assert stick.install() == "soak"


def test_a_file_alone_is_judged_by_the_list_seen_last(stick: Stick) -> None:
    stick.install()
    (stick.folder / "tuf").rename(stick.folder / "elsewhere")
    assert stick.install("2.0.0") == "soak"
    stick.clock.wall += 20 * DAY
    with pytest.raises(WherryError, match="T11"):
        stick.install()


def test_a_file_alone_is_nothing_to_a_new_device(stick: Stick) -> None:
    (stick.folder / "tuf").rename(stick.folder / "elsewhere")
    with pytest.raises(WherryError):
        stick.install()


def test_an_order_that_came_before_the_depot_is_judged_when_that_comes_back(
    tmp_path: Path,
) -> None:
    """A device that never saw a list has no keys to judge by: that is no refusal of the order."""
    with running_depot(tmp_path / "depot", ONE) as depot:
        repository = TufRepository(depot.folder)
        repository.release(ONE, 1)
        repository.publish()
        config = agent_config(tmp_path / "device", depot=depot.url)
        config.trust.write_bytes(repository.root_file())
        clock = open_clock(config, HandClock(START + 60))
        with folder_lock(config.state_dir), closing(open_outbox(config)) as outbox:
            updater = build_core(config, outbox, clock, Depot(depot.url)).updater
            updater.start()
            order = order_for(ONE.digest, 1, issued_at=START, expires=START + DAY)
            updater.offer(signed_order(order, signer("order")))
            depot.faults.status = 503
            assert updater.run_once() >= 1
            assert updater.record.state == "idle"
            depot.faults.status = 0
            while updater.record.state != "soak":
                assert updater.run_once() == 0
            assert updater.record.serving.digest == ONE.digest
            assert updater.record.sequences == {key_of("order").keyid: 1}


def test_status_tells_digest_keys_versions_and_floors(stick: Stick) -> None:
    stick.repository.floors[FAMILY] = 1
    stick.repository.sign_root()
    stick.repository.publish()
    stick.install()
    trust = read_status(stick.config)["trust"]
    assert (trust["kind"], trust["embedded_root"]) == ("tuf", 1)
    versions = {role: about["version"] for role, about in trust["metadata"].items()}
    assert versions == {"root": 2, "timestamp": 2, "snapshot": 2, "targets": 2, "models/fraud": 2}
    assert trust["keys"]["models/fraud"]["threshold"] == 2
    assert trust["keys"]["timestamp"]["keyids"] == [key_of("online").keyid]
    assert [key["keyid"] for key in trust["fleet_keys"]["assignment"]] == [key_of("order").keyid]
    assert trust["floors"]["versions"]["root"]["least"] == 2
    assert trust["floors"]["counters"] == {FAMILY: 1}


def test_status_for_a_person(stick: Stick) -> None:
    stick.install()
    text = "\n".join(status_lines(read_status(stick.config)))
    for words in (
        ONE.digest,
        "TUF, born with root 1",
        "models/fraud 1, expires 20",
        f"assignment keys: {key_of('order').keyid[:12]}",
        "floor of timestamp: version 1",
        "floor of the clock, signed: 20",
    ):
        assert words in text


def test_status_of_a_device_that_has_seen_nothing(stick: Stick) -> None:
    text = "\n".join(status_lines(read_status(stick.config)))
    assert "assignment keys: none known yet" in text
    assert key_of("root-1").keyid[:12] in text


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff" * 100, b'{"signed":1}'])
def test_status_of_damaged_metadata_is_a_status(stick: Stick, damage: bytes) -> None:
    stick.install()
    for path in (stick.config.state_dir / "trust").glob("*"):
        if path.is_file():
            path.write_bytes(damage)
    assert "TUF, born with root 1" in "\n".join(status_lines(read_status(stick.config)))


def test_the_command_prints_it(tmp_path: Path) -> None:
    path = write_agent_config(tmp_path)
    program = [sys.executable, "-m", "wherry_agent", "status", "--config", str(path), "--json"]
    done = subprocess.run(program, check=True, capture_output=True, timeout=60)
    trust = json.loads(done.stdout)["trust"]
    assert trust["kind"] == "pinned"
    assert set(trust["keys"]) == {FAMILY, "assignment"}


def test_the_self_test_looks_at_the_root(stick: Stick) -> None:
    check = self_test(stick.device / "agent.toml")[2]
    assert (check.name, check.well) == ("trust.json", True)
    assert check.detail == "root 1, 2 of 3 keys sign the next"
    root = json.loads(stick.config.trust.read_bytes())
    root["signed"]["version"] = 2
    stick.config.trust.write_text(json.dumps(root))
    check = self_test(stick.device / "agent.toml")[2]
    assert (check.well, check.code) == (False, "T13")


def test_the_resident_agent_carries_no_verifier() -> None:
    """Nor do the status and the pinned keys: TUF and cryptography live in the child alone."""
    code = (
        "import sys, wherry_agent.app, wherry_agent.status, wherry_agent.update.install\n"
        "bad = {'tuf', 'securesystemslib', 'cryptography', 'urllib3'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
