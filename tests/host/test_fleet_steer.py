"""Groups, plans, pauses, undo and explanations: the commands, a real server, a real broker."""

from __future__ import annotations

import json
from pathlib import Path

from support import wait_for
from support_agent import make_bundle
from support_fleet import Device, enrol, release, running_devices, running_server, wherry

FIRST, SECOND = make_bundle(), make_bundle("1.1.0")


def test_a_pilot_group_gets_it_is_paused_goes_on_and_is_undone(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        data = server.data
        tills = [Device(enrol(server, f"till-{n}", site="ab"[n % 2])) for n in range(1, 5)]
        with running_devices(*tills):

            def reported() -> bool:
                rows = server.client.get("devices")["devices"]
                return all(row["online"] and row["state"] for row in rows)

            wait_for(reported, what="reports")
            paths = []
            for made in (FIRST, SECOND):
                release(data, made)
                paths.append(tmp_path / f"{made.parts.manifest.version}.wherry")
                paths[-1].write_bytes(made.to_tar())

            wherry(data, "group", "create", "pilot")
            wherry(data, "group", "add", "pilot", "till-1", "--to", "site=a")
            assert wherry(data, "group", "list", "pilot").stdout.split() == [
                "till-1",
                "till-2",
                "till-4",
            ]
            wherry(data, "group", "remove", "pilot", "till-4")
            assert "pilot" in wherry(data, "group", "list").stdout

            to = ("--to", "group=pilot,device!=till-9")
            plan = wherry(data, "push", str(paths[0]), *to, "--dry-run", "--json").stdout
            found = json.loads(plan)
            assert sorted(name for wave in found["waves"] for name in wave) == ["till-1", "till-2"]
            assert [row["site"] for row in found["strata"]] == ["a", "b"]
            assert found["gates"] == {}  # two devices: no test can say anything
            assert json.loads(wherry(data, "rollout", "list", "--json").stdout)["rollouts"] == []
            text = wherry(data, "push", str(paths[0]), "--dry-run").stdout
            assert "no gates: failed, reverted and silent devices alone judge" in text

            wherry(data, "push", str(paths[0]), "--yes", "--soak", "0s", "--wait")
            for till in tills:
                till.behaviour.stays = "soak"
            name = wherry(data, "push", str(paths[1]), "--yes", *to).stdout.strip()
            wherry(data, "rollout", "pause", name, "--why", "sale weekend")
            rollout = f"rollouts/{name}"
            wait_for(lambda: server.client.get(rollout)["state"] == "paused", what="the pause")
            wherry(data, "rollout", "resume", name)
            wait_for(lambda: server.client.get(rollout)["state"] != "paused", what="going on")
            wherry(data, "rollout", "abort", name, "--why", "rather not", "--yes")
            for till in tills:
                till.behaviour.stays = ""
            wait_for(lambda: server.client.get(rollout)["state"] == "reverted", what="its end")

            name = wherry(data, "push", str(paths[1]), "--yes", *to, "--wait").stdout.strip()
            undone = wherry(data, "rollout", "undo", name, "--dry-run").stdout
            assert "1.0.0" in undone
            second = wherry(data, "rollout", "undo", name, "--yes").stdout.strip()
            assert server.client.get(f"rollouts/{second}")["bundle"] == FIRST.digest
            wait_for(
                lambda: server.client.get(f"rollouts/{second}")["state"] == "done", what="undo"
            )
            assert {till.bundle for till in tills} == {FIRST.digest}

            history = wherry(data, "rollout", "history", "r2-fraud-1-1-0").stdout
            assert "sale weekend" in history
            assert "an operator said: rather not" in history
            explained = wherry(data, "rollout", "explain", name).stdout
            assert explained.count("made again: the same") == 2
            assert "DIFFERENT" not in explained
