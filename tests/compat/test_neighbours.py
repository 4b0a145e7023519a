"""The previous version against today's: host and agent, and one device's folder under both."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import wait_for
from support_agent import Made, make_bundle
from support_compat import TODAY, Agent, Host, Version, previous

FIRST = make_bundle("1.0.0")
SECOND = make_bundle("2.0.0", bias=-2.9, counter=2)
NAME = "till-1"


@pytest.fixture(scope="module")
def before() -> Version:
    return previous()


def _push(host: Host, agent: Agent, made: Made) -> None:
    """Roll a bundle out, bring payments, and wait until the host knows it committed."""
    path = host.data / f"{made.parts.manifest.version}.wherry"
    path.write_bytes(made.to_tar())
    host.run("push", str(path), "--yes")
    wait_for(lambda: _runs(host, made, "unproven"), seconds=40, what=lambda: _log(agent, host))
    agent.ask(5)
    wait_for(lambda: _runs(host, made, "good"), seconds=40, what=lambda: _log(agent, host))
    wait_for(lambda: _ended(host), seconds=40, what=lambda: _log(agent, host))


def _runs(host: Host, made: Made, trust: str) -> bool:
    state = host.device(NAME)["state"]
    return bool(state) and (state["bundle"], state["trust"]) == (made.digest, trust)


def _ended(host: Host) -> bool:
    return all(item["state"] == "done" for item in host.client.get("rollouts")["rollouts"])


def _log(agent: Agent, host: Host) -> str:
    return (agent.folder / "log").read_text() + (host.data / "log").read_text()


@pytest.mark.slow
def test_todays_agent_with_the_previous_host(before: Version, tmp_path: Path) -> None:
    host = Host(before, tmp_path / "fleet")
    try:
        agent = Agent(tmp_path / "device", NAME, host, TODAY)
        with agent.running(TODAY):
            _push(host, agent, FIRST)
            assert host.device(NAME)["lost_messages"] == 0
        assert agent.status(TODAY)["outbox"]["waiting"] == 0
    finally:
        host.close()


@pytest.mark.slow
def test_one_folder_under_the_previous_agent_todays_and_the_previous_again(
    before: Version, tmp_path: Path
) -> None:
    """Today's host; the device is upgraded, and taken back."""
    host = Host(TODAY, tmp_path / "fleet")
    try:
        agent = Agent(tmp_path / "device", NAME, host, before)
        with agent.running(before):
            _push(host, agent, FIRST)
        with agent.running(TODAY):
            assert agent.ask()["parameters"]["bundle"] == FIRST.digest
            _push(host, agent, SECOND)
        spool = host.device(NAME)["state"]["sequences"]
        with agent.running(before):
            assert agent.ask()["parameters"]["bundle"] == SECOND.digest
            _push(host, agent, FIRST)
        assert host.device(NAME)["state"]["sequences"] != spool
        assert host.device(NAME)["lost_messages"] == 0
        assert host.device(NAME)["incidents"] == []
        for version in (before, TODAY):
            found = agent.status(version)
            assert found["outbox"]["waiting"] == 0
            assert found["slots"][found["active"]]["digest"] == FIRST.digest
    finally:
        host.close()
