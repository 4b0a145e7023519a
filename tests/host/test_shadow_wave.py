"""A shadow wave from end to end: a real server, a real broker, a real agent under load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import wait_for
from support_agent import Made, make_bundle
from support_app import AgentProcess, Traffic
from support_fleet import Server, enrol, release, running_server, wherry

LIVE, SAME, WRONG = make_bundle(), make_bundle("1.1.0"), make_bundle("2.0.0", bias=-0.5)
QUICK = "\n[limits]\nwindow_rows = 20\nheartbeat_seconds = 5\nacknowledge_seconds = 1\n"


@contextmanager
def terminal(server: Server) -> Iterator[AgentProcess]:
    """A real agent with the settings that the server gave it, and small windows."""
    config = enrol(server, "till-1", site="a")
    config.write_text(config.read_text() + QUICK)
    agent = AgentProcess(config.parent, fresh=False)
    try:
        yield agent.start()
    finally:
        agent.kill()


def push(server: Server, made: Made, *arguments: str) -> str:
    release(server.data, made)
    path = server.data.parent / f"{made.parts.manifest.version}.wherry"
    path.write_bytes(made.to_tar())
    return wherry(server.data, "push", str(path), "--yes", *arguments).stdout.strip()


def rollout(server: Server, name: str) -> dict[str, Any]:
    return server.client.get(f"rollouts/{name}")


def test_an_identical_model_passes_its_shadow_and_a_wrong_one_is_seen(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server, terminal(server) as agent:
        data = server.data

        def state_of(name: str, state: str) -> None:
            wait_for(lambda: rollout(server, name)["state"] == state, seconds=90, what=agent.log)

        first = push(server, LIVE, "--soak", "0s")
        wait_for(lambda: agent.ask()[0] == 200, seconds=90, what=agent.log)
        with Traffic(agent) as till:
            state_of(first, "done")
            same = push(server, SAME, "--soak", "0s", "--shadow", "40tx,2s")
            state_of(same, "done")
            steps = [(step["before"], step["after"]) for step in rollout(server, same)["decisions"]]
            assert steps == [("shadow", "canary"), ("canary", "done")]
            assert rollout(server, same)["shadow"]["differing"] == 0

            wrong = push(server, WRONG, "--soak", "0s", "--shadow", "100000tx,0s")

            def differing() -> int:
                return int(rollout(server, wrong).get("shadow", {}).get("differing", 0))

            wait_for(lambda: differing() > 20, seconds=90, what=agent.log)
            shown = wherry(data, "rollout", "status", wrong).stdout
            page = server.client.get(f"rollouts/{wrong}")["shadow"]
            assert "rows on 1 devices decided otherwise" in shown
            assert 0 < page["low"] < page["share"] <= page["high"]
            wherry(data, "rollout", "abort", wrong, "--yes", "--why", "it flags too many")
            state_of(wrong, "reverted")
            wait_for(lambda: agent.phase == "idle", seconds=60, what=agent.log)
        assert agent.serving == SAME.digest
        assert till.failures == []
        assert WRONG.digest not in till.bundles
        exposed = rollout(server, wrong)["devices"][0]
        assert (exposed["offered_at"], exposed["previous"]) == (None, "")
