"""A stick's result and a first start: what was done without a network is told once there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Mosquitto, wait_for
from support_agent import make_bundle
from support_app import ROW, AgentProcess, Fleet, agent_process, run_agent_command

from wherry_agent.identity.first_start import read_claim
from wherry_contract.errors import SetupError

FIRST = make_bundle("1.0.0")
BAD = make_bundle("2.0.0", flaw="golden", counter=2)


@pytest.fixture
def agent(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[AgentProcess]:
    mosquitto.kill()
    with agent_process(tmp_path / "agent", broker=mosquitto.url) as made:
        yield made


def _stick(folder: Path, data: bytes) -> str:
    path = folder / "stick.wherry"
    path.write_bytes(data)
    return str(path)


def _until_told(agent: AgentProcess, mosquitto: Mosquitto) -> list[tuple[str, str]]:
    """Bring the broker, wait until nothing is left to say, and let the agent start once more."""
    mosquitto.start()
    with Fleet(mosquitto) as fleet:
        wait_for(fleet.outcomes, what=agent.log)
        wait_for(lambda: not agent.status()["outbox"]["waiting"], what=agent.log)
        assert agent.stop() == 0
        agent.start()
        wait_for(lambda: not agent.status()["outbox"]["waiting"], what=agent.log)
        assert agent.stop() == 0
        return fleet.outcomes()


def test_what_a_stick_installed_is_reported_later_and_once(
    agent: AgentProcess, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    path = _stick(tmp_path, FIRST.to_tar())
    done = run_agent_command("install", path, "--config", str(agent.config))
    assert done.returncode == 0, done.stderr
    agent.start()
    agent.ask(*[ROW] * 5)
    wait_for(lambda: agent.phase == "idle", what=agent.log)
    agent.kill()  # as a plug is pulled, with the report on the medium
    agent.start()
    assert agent.ask()[1]["parameters"]["bundle"] == FIRST.digest
    assert _until_told(agent, mosquitto) == [("committed", FIRST.digest)]


def test_what_a_stick_could_not_install_is_reported_too(
    agent: AgentProcess, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    path = _stick(tmp_path, BAD.to_tar())
    done = run_agent_command("install", path, "--config", str(agent.config))
    assert (done.returncode, "P01" in done.stderr) == (1, True)
    agent.start()
    assert _until_told(agent, mosquitto) == [("refused", BAD.digest)]


def _flashed(agent: AgentProcess, data: bytes) -> Path:
    first = agent.folder / "first"
    first.mkdir()
    (first / "fraud.wherry").write_bytes(data)
    return first


def test_the_first_bundle_of_a_flashed_board_is_installed_at_its_first_start(
    agent: AgentProcess, mosquitto: Mosquitto
) -> None:
    first = _flashed(agent, FIRST.to_tar())
    agent.start()
    assert agent.ask(*[ROW] * 5)[1]["parameters"]["bundle"] == FIRST.digest
    assert not first.exists()
    wait_for(lambda: agent.phase == "idle", what=agent.log)
    assert _until_told(agent, mosquitto) == [("committed", FIRST.digest)]


def test_a_first_bundle_that_fails_is_tried_once(agent: AgentProcess, mosquitto: Mosquitto) -> None:
    first = _flashed(agent, BAD.to_tar())
    agent.start()
    assert agent.stop() == 0
    agent.start()  # the folder is still there, and what is in it is known to be bad
    assert first.exists()
    assert _until_told(agent, mosquitto) == [("refused", BAD.digest)]


CLAIMS: dict[str, tuple[str, str]] = {
    "no TOML": ("url = ", "H08"),
    "no code": ('url = "https://h/enrol"\n', "H08"),
    "too long": ("#" * 20_000, "H08"),
}


@pytest.mark.parametrize(("text", "code"), CLAIMS.values(), ids=CLAIMS.keys())
def test_a_claim_that_is_none(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "claim.toml"
    path.write_text(text)
    with pytest.raises(SetupError, match=code):
        read_claim(path)
