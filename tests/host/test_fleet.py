"""Rollouts from end to end: a real server, a real broker, the commands, and light devices."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import wait_for
from support_agent import Made, make_bundle
from support_fleet import (
    Behaviour,
    Device,
    Server,
    enrol,
    release,
    running_devices,
    running_server,
    wherry,
    window,
)

from wherry.client import find_client
from wherry_contract.errors import SetupError

GOOD, BETTER, BAD = make_bundle(), make_bundle("1.1.0"), make_bundle("2.0.0", bias=-2.0)


@dataclass
class Fleet:
    """A server and its devices, at work."""

    server: Server
    devices: list[Device]

    def push(self, made: Made, *arguments: str, ok: int = 0) -> str:
        """Push a bundle; returns the rollout's id."""
        release(self.server.data, made)
        path = self.server.data.parent / f"{made.parts.manifest.version}.wherry"
        path.write_bytes(made.to_tar())
        found = wherry(self.server.data, "push", str(path), "--yes", *arguments, ok=ok)
        return found.stdout.strip()

    def rollout(self, name: str) -> dict[str, Any]:
        """A rollout as the server tells it."""
        return self.server.client.get(f"rollouts/{name}")

    def await_state(self, name: str, state: str) -> dict[str, Any]:
        """Wait for a rollout's state."""
        wait_for(lambda: self.rollout(name)["state"] == state, what=f"{name} {state}")
        return self.rollout(name)

    def outcomes(self, name: str) -> dict[str, str]:
        """Outcomes by device."""
        return {item["device"]: item["outcome"] for item in self.rollout(name)["devices"]}

    def canary(self, name: str) -> Device:
        """The device that went first."""
        first = self.rollout(name)["devices"][0]["device"]
        return next(item for item in self.devices if item.config.device == first)

    def await_reports(self) -> None:
        """Wait until every device has reported."""

        def reported() -> bool:
            rows = self.server.client.get("devices")["devices"]
            return all(row["online"] and row["state"] for row in rows)

        wait_for(reported, what="reports")

    def seen(self, name: str) -> dict[str, Any]:
        """A device as the server knows it."""
        return self.server.client.get(f"devices/{name}")


@contextmanager
def fleet(folder: Path, *arguments: str, devices: int = 3) -> Iterator[Fleet]:
    """A fleet for the length of a block."""
    with running_server(folder / "data", *arguments) as server:
        found = [
            Device(enrol(server, f"till-{place}", site="a" if place % 2 else "b"))
            for place in range(1, devices + 1)
        ]
        with running_devices(*found):
            made = Fleet(server, found)
            made.await_reports()
            yield made


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_a_rollout_and_what_commands_say_of_it(tmp_path: Path, kind: str) -> None:
    with fleet(tmp_path, "--broker", kind) as found:
        data = found.server.data
        name = found.push(GOOD, "--wait", "--soak", "0s")
        assert name == "r1-fraud-1-0-0"
        assert found.outcomes(name) == dict.fromkeys(("till-1", "till-2", "till-3"), "committed")
        steps = found.rollout(name)["decisions"]
        assert [(step["before"], step["after"]) for step in steps] == [
            ("canary", "wave"),
            ("wave", "done"),
        ]
        assert steps[0]["figures"]["committed"] == 1
        assert {device.bundle for device in found.devices} == {GOOD.digest}
        assert {device.taken[0].soak_seconds for device in found.devices} == {0}
        # the canary alone had the order until it had committed
        offered = {item["device"]: item["offered_at"] for item in found.rollout(name)["devices"]}
        settled = found.rollout(name)["devices"][0]["settled_at"]
        later = [moment for device, moment in offered.items() if device != canary_of(found, name)]
        assert all(moment >= settled for moment in later)

        text = wherry(data, "rollout", "list").stdout
        assert re.search(r"r1-fraud-1-0-0 +done +2/2 +3 +3 +0 ", text)
        status = json.loads(wherry(data, "rollout", "status", name, "--json").stdout)
        assert status["schema"] == "wherry/rollout/1"
        assert status["state"] == "done"
        assert "1 committed and healthy" in wherry(data, "rollout", "status").stdout
        listed = json.loads(wherry(data, "device", "list", "--json", "--select", "site=a").stdout)
        assert [row["device"] for row in listed["devices"]] == ["till-1", "till-3"]
        assert "update.committed" in wherry(data, "device", "show", "till-2").stdout
        again = wherry(data, "rollout", "abort", name, "--yes", ok=3)
        assert "R09" in again.stderr


def canary_of(found: Fleet, name: str) -> str:
    """Id of the device that went first."""
    return found.canary(name).config.device


@pytest.mark.parametrize("end", ["refused", "reverted"])
def test_a_bad_bundle_ends_at_the_canary(tmp_path: Path, end: str) -> None:
    with fleet(tmp_path) as found:
        found.push(GOOD, "--wait")
        for device in found.devices:
            device.behaviour.ends[BAD.digest] = end
        name = found.push(BAD, "--wait", ok=1)
        assert name == "r2-fraud-2-0-0"
        states = [step["after"] for step in found.rollout(name)["decisions"]]
        assert states == ["aborted", "reverting", "reverted"]
        assert sorted(found.outcomes(name).values()) == ["", "", end]
        assert {device.bundle for device in found.devices} == {GOOD.digest}
        canary = found.canary(name)
        # whatever it was last heard of in, it is told what to serve
        assert [order.digest for order in canary.taken[1:]] == [BAD.digest, GOOD.digest]
        untouched = [device for device in found.devices if device is not canary]
        assert all(len(device.taken) == 1 for device in untouched)


def test_an_operator_takes_everybody_back_the_last_one_first(tmp_path: Path) -> None:
    with fleet(tmp_path) as found:
        found.push(GOOD, "--wait")
        for device in found.devices[:-1]:
            device.behaviour.stays = "soak"
        name = found.push(BETTER, "--waves", "100%")
        wait_for(lambda: all(device.bundle == BETTER.digest for device in found.devices))
        wait_for(lambda: "committed" in found.outcomes(name).values())
        for device in found.devices:
            device.behaviour.stays = ""
        asked = wherry(found.server.data, "rollout", "abort", name, "--why", "wrong file", "--yes")
        assert "3 of 3 devices have the order" in asked.stderr
        ended = found.await_state(name, "reverted")
        assert "wrong file" in ended["decisions"][0]["reason"]
        wait_for(lambda: all(device.bundle == GOOD.digest for device in found.devices))
        orders = {device.config.device: device.taken[-1] for device in found.devices}
        assert {order.digest for order in orders.values()} == {GOOD.digest}
        assert {order.soak_rows for order in orders.values()} == {0}  # it has soaked before
        found.await_state(name, "reverted")
        followed = wherry(found.server.data, "rollout", "status", name, "--watch", ok=1)
        assert "Q02" in followed.stderr


def test_who_committed_without_a_chance_to_say_so_goes_back_as_well(tmp_path: Path) -> None:
    with fleet(tmp_path) as found:
        found.push(GOOD, "--wait")
        for device in found.devices:
            device.mute = True
        name = found.push(BETTER, "--waves", "100%")
        wait_for(lambda: {device.proven_bundle for device in found.devices} == {BETTER.digest})
        wherry(found.server.data, "rollout", "abort", name, "--yes")
        wait_for(lambda: {device.proven_bundle for device in found.devices} == {GOOD.digest})
        assert found.rollout(name)["state"] == "reverting"
        for device in found.devices:
            device.mute = False
            device.report_soon()
        ended = found.await_state(name, "reverted")
        assert ended["decisions"][-1]["figures"]["back"] == 3


def test_the_first_bundle_of_all_has_nothing_before_it(tmp_path: Path) -> None:
    with fleet(tmp_path) as found:
        for device in found.devices:
            device.behaviour.stays = "fetch"
        name = found.push(GOOD)
        wait_for(lambda: found.canary(name).phase == "fetch")
        finish(found.canary(name), GOOD)
        wait_for(lambda: all(device.phase == "fetch" or device.bundle for device in found.devices))
        asked = wherry(found.server.data, "rollout", "abort", name, "--yes")
        assert "3 of them ran no other bundle" in asked.stderr
        last = found.await_state(name, "reverted")["decisions"][-1]
        assert (last["figures"]["back"], last["figures"]["kept"]) == (2, 1)
        assert "1 still serve it, with no bundle to go back to or unable to: " in last["reason"]
        assert canary_of(found, name) in last["reason"]
        shown = wherry(found.server.data, "rollout", "status", name).stdout
        assert "1 still on it, 2 taken back" in shown
        assert found.canary(name).bundle == GOOD.digest


def test_without_consent_nothing_changes(tmp_path: Path) -> None:
    with fleet(tmp_path, devices=1) as found:
        release(found.server.data, GOOD)
        path = tmp_path / "x.wherry"
        path.write_bytes(GOOD.to_tar())
        refused = wherry(found.server.data, "push", str(path), ok=3)
        assert "H09" in refused.stderr
        assert "canary: 1: till-1" in refused.stderr
        assert found.server.client.get("rollouts")["rollouts"] == []
        assert found.devices[0].heard == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["--select", "site=nowhere"], "R02", id="no device matches"),
        pytest.param(["--waves", "5,2"], "R06", id="waves that shrink"),
        pytest.param(["--waves", "0%"], "R06", id="a wave of nobody"),
    ],
)
def test_pushes_that_make_no_sense(tmp_path: Path, arguments: list[str], code: str) -> None:
    with running_server(tmp_path / "data") as server:
        enrol(server, "till-1")
        enrol(server, "till-2")
        release(server.data, GOOD)
        path = tmp_path / "x.wherry"
        path.write_bytes(GOOD.to_tar())
        found = wherry(server.data, "push", str(path), "--yes", *arguments, ok=3)
        assert f"error[{code}]" in found.stderr


def test_two_rollouts_on_the_same_devices(tmp_path: Path) -> None:
    with fleet(tmp_path) as found:
        for device in found.devices:
            device.behaviour.stays = "soak"
        first = found.push(GOOD, "--select", "site=a")
        release(found.server.data, BETTER)
        path = tmp_path / "1.1.0.wherry"
        path.write_bytes(BETTER.to_tar())
        refused = wherry(found.server.data, "push", str(path), "--yes", ok=3)
        assert "R03" in refused.stderr
        assert first in refused.stderr
        found.devices[1].behaviour.stays = ""
        assert found.push(BETTER, "--select", "site=b", "--wait") == "r2-fraud-1-1-0"


def test_who_is_away_does_not_hold_a_wave_up_and_converges_later(tmp_path: Path) -> None:
    with fleet(tmp_path) as found:
        late = found.devices[2]
        late.cut()
        wait_for(lambda: not found.seen("till-3")["online"])
        found.push(GOOD, "--wait", "--waves", "100%")
        name = found.push(BETTER, "--wait", "--waves", "100%")
        assert found.outcomes(name)["till-3"] == ""
        back = Device(late.config.trust.parent / "agent.toml")
        with running_devices(back):
            wait_for(lambda: back.bundle == BETTER.digest)
            assert [order.digest for order in back.taken] == [BETTER.digest]  # the latest alone
            wait_for(lambda: found.outcomes(name)["till-3"] == "committed")
            assert found.rollout(name)["state"] == "done"


def test_silence_after_the_switch_is_a_failure(tmp_path: Path) -> None:
    with fleet(tmp_path) as found:
        found.push(GOOD, "--wait")
        for device in found.devices:
            device.behaviour = Behaviour(vanishes="soak")
        release(found.server.data, BETTER)
        path = tmp_path / "1.1.0.wherry"
        path.write_bytes(BETTER.to_tar())
        with path.open("rb") as stream:
            found.server.client.upload("bundles", stream, path.stat().st_size)
        order = {"bundle": BETTER.digest, "waves": ["1", "100%"], "silent_seconds": 1.0}
        name = found.server.client.post("rollouts", order)["id"]
        ended = found.await_state(name, "reverted")
        assert sorted(found.outcomes(name).values()) == ["", "", "silent"]
        assert ended["decisions"][-1]["figures"]["away"] == 1
        # when it is back, its order back waits for it
        gone = found.canary(name)
        back = Device(gone.config.trust.parent / "agent.toml")
        back.bundle, back.proven, back.sequences = BETTER.digest, "unproven", gone.sequences
        with running_devices(back):
            wait_for(lambda: back.bundle == GOOD.digest)


def test_killed_at_every_step_nothing_is_lost_and_nothing_runs_twice(tmp_path: Path) -> None:
    with fleet(tmp_path) as found:
        found.push(GOOD, "--wait")
        for device in found.devices:
            device.behaviour.stays = "soak"
        name = found.push(BETTER, "--waves", "1,2,100%")
        for exposed in (1, 2, 3):
            wait_for(
                lambda n=exposed: sum(d.bundle == BETTER.digest for d in found.devices) == n,
                what=f"{exposed} in their soak",
            )
            found.server.kill()
            found.server.start()
            assert found.rollout(name)["wave"] == exposed - 1
            for device in found.devices:
                if device.phase == "soak":
                    finish(device)
        ended = found.await_state(name, "done")
        assert [step["event"] for step in ended["decisions"]] == ["passed", "passed", "finished"]
        assert set(found.outcomes(name).values()) == {"committed"}
        for device in found.devices:
            assert [order.digest for order in device.taken] == [GOOD.digest, BETTER.digest]
            assert [order.sequence for order in device.taken] == [1, 2]
            wait_for(lambda d=device: not d.outbox, what="acknowledgements")


def finish(device: Device, made: Made | None = None) -> None:
    """Let a device that soaks commit, or one that stays somewhere before."""
    device.bundle = made.digest if made else device.bundle
    device.proven = "good"
    device._end(device.taken[-1], "committed")


def test_windows_wait_for_a_server_that_was_killed(tmp_path: Path) -> None:
    with fleet(tmp_path, devices=1) as found:
        device = found.devices[0]
        found.server.kill()
        for _ in range(30):
            place = device.place()
            made = window(device.config.device, place.seq, spool=device.spool)
            device.send("window", made.to_bytes(), place.seq)
        place = device.place()
        bad = window(device.config.device, place.seq, spool=device.spool, rows=7)
        device.send("window", bad.to_bytes(), place.seq)
        assert len(device.outbox) == 31
        found.server.start()
        wait_for(lambda: not device.outbox, what="acknowledgements")
        assert device.refused == {31: "G01"}
        counters = found.server.client.get("events")["counters"]
        assert counters["windows"] == 30
        shown = wherry(found.server.data, "device", "show", "till-1").stdout
        assert "messages lost before they arrived: 0" in shown
        assert "G01" in shown


def test_interrupted_a_push_leaves_the_rollout_to_the_server(tmp_path: Path) -> None:
    """`--wait` only looks on: Ctrl-C ends the command, not the rollout."""
    with fleet(tmp_path, devices=1) as found:
        device = found.devices[0]
        device.behaviour.stays = "soak"
        release(found.server.data, GOOD)
        path = tmp_path / "x.wherry"
        path.write_bytes(GOOD.to_tar())
        words = ["push", str(path), "--yes", "--wait", "--server", found.server.facts["url"]]
        token = ["--token-file", str(found.server.data / "token")]
        command = subprocess.Popen(
            [sys.executable, "-m", "wherry", *words, *token], stderr=subprocess.PIPE
        )
        wait_for(lambda: device.phase == "soak")
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=20)
        assert command.returncode == 130, said
        finish(device)
        found.await_state("r1-fraud-1-0-0", "done")


def test_where_commands_look_for_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERRY_HOME", str(tmp_path))
    monkeypatch.delenv("WHERRY_SERVER", raising=False)
    for wanted in ("H07", "H02"):
        with pytest.raises(SetupError) as caught:
            find_client()
        assert caught.value.code == wanted
        (tmp_path / "server.json").write_text('{"url": "http://here:1"}')
    (tmp_path / "token").write_text("secret\n")
    assert find_client().url == "http://here:1"
    monkeypatch.setenv("WHERRY_SERVER", "http://there:2/")
    assert find_client().url == "http://there:2"
    assert find_client("http://said:3").url == "http://said:3"
    with pytest.raises(SetupError):
        find_client("http://said:3", tmp_path / "none")
