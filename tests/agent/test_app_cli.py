"""`wherry-agent`: exit codes, self-test, install from a file, status; the pages that tell of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, wait_for
from support_agent import keys, make_bundle, order_for, write_agent_config
from support_app import ROW, AgentProcess, agent_process, run_agent_command

from wherry_agent.config import AgentConfig, Limits, RegistryPlace, load_config
from wherry_agent.link.reporting import Reporting
from wherry_agent.selftest import self_test, tiny_bundle
from wherry_agent.store import StatePair
from wherry_agent.update.record import DeviceRecord
from wherry_agent.update.updater import accept
from wherry_contract.errors import StoreError

FIRST = make_bundle("1.0.0")
PAGE = (ROOT / "docs" / "agent.md").read_text()


def put(folder: Path, data: bytes) -> str:
    path = folder / "stick.wherry"
    path.write_bytes(data)
    return str(path)


# --- usage ------------------------------------------------------------------------------

USAGE: dict[str, tuple[list[str], int, str]] = {
    "help": (["--help"], 0, "exit codes"),
    "version": (["--version"], 0, "wherry "),
    "nothing": ([], 2, "COMMAND"),
    "an unknown command": (["fly"], 2, "fly"),
    "an unknown option": (["status", "--fast"], 2, "--config"),
    "no configuration": (["run"], 2, "--config"),
    "a configuration that is not there": (["run", "--config", "nowhere.toml"], 3, "error[H02]"),
    "no file": (["install", "--config", "agent.toml"], 2, "FILE"),
}


@pytest.mark.parametrize(("arguments", "code", "said"), USAGE.values(), ids=USAGE.keys())
def test_usage(arguments: list[str], code: int, said: str) -> None:
    done = run_agent_command(*arguments)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["run", "self-test", "install", "status"])
def test_every_command_has_an_example(command: str) -> None:
    done = run_agent_command(command, "--help")
    assert f"Example: wherry-agent {command}" in " ".join(done.stdout.split())


def test_a_wrong_configuration_says_where(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('device = "Till 1"\nfleet = "f"\nfamily = "f"\n')
    done = run_agent_command("status", "--config", str(path))
    assert done.returncode == 3
    assert "error[H08]" in done.stderr
    assert "device" in done.stderr
    assert "docs/agent.md" in done.stderr


# --- self-test --------------------------------------------------------------------------


def test_self_test_before_there_is_a_configuration() -> None:
    done = run_agent_command("self-test")
    assert done.returncode == 0, done.stdout
    assert "onnxruntime" in done.stdout
    assert "a forged one is refused" in done.stdout


def test_self_test_as_a_document(tmp_path: Path) -> None:
    path = write_agent_config(tmp_path, broker="mqtt://127.0.0.1:1", depot="http://127.0.0.1:1/d")
    done = run_agent_command("self-test", "--json", "--config", str(path))
    document = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert document["schema"] == "wherry/agent-self-test/1"
    assert document["well"] is True
    names = [check["name"].partition(" in ")[0] for check in document["checks"]]
    assert list(dict.fromkeys(names)) == [  # a model for each runtime that is here
        "agent",
        "configuration",
        "trust.json",
        "clock",
        "disk",
        "outbox",
        "signatures",
        "model",
    ]
    assert list((tmp_path / "state").iterdir()) == []  # it leaves nothing behind


def _no_trust(folder: Path) -> None:
    (folder / "trust.json").unlink()


def _garbled_trust(folder: Path) -> None:
    (folder / "trust.json").write_text("{")


def _other_family(folder: Path) -> None:
    (folder / "trust.json").write_bytes(keys().root("loans").to_bytes())


def _state_is_a_file(folder: Path) -> None:
    (folder / "state").write_text("")


def _no_time(folder: Path) -> None:
    path = folder / "agent.toml"
    path.write_text(path.read_text() + "probe_seconds = 0.01\n")


def _no_settings(folder: Path) -> None:
    (folder / "agent.toml").write_text("device = [\n")


BROKEN: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no trust.json": (_no_trust, "trust.json", "T10"),
    "a garbled trust.json": (_garbled_trust, "trust.json", "T09"),
    "no keys for the family": (_other_family, "trust.json", "T06"),
    "no state folder": (_state_is_a_file, "disk", "D06"),
    "no time for the probe": (_no_time, "model", "P03"),
    "a configuration that cannot be read": (_no_settings, "configuration", "H08"),
}


@pytest.mark.parametrize(("spoil", "name", "code"), BROKEN.values(), ids=BROKEN.keys())
def test_self_test_finds(
    tmp_path: Path, spoil: Callable[[Path], None], name: str, code: str
) -> None:
    path = write_agent_config(tmp_path)
    spoil(tmp_path)
    wrong = [check for check in self_test(path) if not check.well]
    assert {(check.name.partition(" in ")[0], check.code) for check in wrong} == {(name, code)}
    assert all(check.cure for check in wrong)


def test_self_test_says_no_with_exit_code_1(tmp_path: Path) -> None:
    path = write_agent_config(tmp_path)
    _no_trust(tmp_path)
    done = run_agent_command("self-test", "--config", str(path))
    assert done.returncode == 1
    assert "WRONG  trust.json: T10" in done.stdout
    assert "next: " in done.stdout


def test_the_model_that_travels_with_us_is_the_trees_that_we_say() -> None:
    import onnx

    parts = tiny_bundle()
    model = onnx.load_model_from_string(parts.model)
    onnx.checker.check_model(model)
    kinds = {f"{node.domain}:{node.op_type}".lstrip(":") for node in model.graph.node}
    assert kinds == set(parts.manifest.runtime.operators)
    # -1, then -1 or 2 by AMOUNT <= 100, then -0.5 or 0.5 by NIGHTS <= 3
    raw = np.array(parts.golden.rows)
    by_hand = -1 + np.where(raw[:, 0] <= 100, -1, 2) + np.where(raw[:, 1] <= 3, -0.5, 0.5)
    assert np.allclose(parts.golden.scores, 1 / (1 + np.exp(-by_hand)), atol=1e-12)


# --- install ----------------------------------------------------------------------------


def test_install_from_a_file_and_commit_on_live_traffic(tmp_path: Path) -> None:
    with agent_process(tmp_path / "agent") as agent:
        stick = put(tmp_path, FIRST.to_tar())
        done = run_agent_command("install", stick, "--config", str(agent.config))
        assert done.returncode == 0, done.stderr
        assert FIRST.digest in done.stdout
        assert (agent.serving, agent.trust, agent.phase) == (FIRST.digest, "unproven", "soak")
        agent.start()
        assert agent.ask(*[ROW] * 5)[0] == 200
        wait_for(lambda: agent.phase == "idle", what=agent.log)
        assert (agent.serving, agent.trust) == (FIRST.digest, "good")
        assert agent.stop() == 0
        # once more: there is nothing to do
        done = run_agent_command("install", stick, "--config", str(agent.config))
        assert done.returncode == 0, done.stderr
        assert "committed already" in done.stdout
        assert (agent.serving, agent.trust, agent.phase) == (FIRST.digest, "good", "idle")


def test_install_asks_for_the_agent_to_be_stopped(tmp_path: Path) -> None:
    with agent_process(tmp_path / "agent") as agent:
        agent.start()
        stick = put(tmp_path, FIRST.to_tar())
        done = run_agent_command("install", stick, "--config", str(agent.config))
        assert done.returncode == 3
        assert "error[D03]" in done.stderr


def test_install_gets_past_an_update_that_cannot_reach_its_depot(tmp_path: Path) -> None:
    """What the stick is for: a network update hangs, with many retries behind it."""
    with agent_process(tmp_path / "agent") as agent:
        config = load_config(agent.config)
        config.state_dir.mkdir(parents=True, exist_ok=True)
        stuck = accept(DeviceRecord(), order_for("sha256:" + "0" * 64, 1))
        stuck = replace(stuck, state="admit").with_update(retries=8)
        StatePair(config.state_dir).save(stuck.to_dict())
        stick = put(tmp_path, FIRST.to_tar())
        done = run_agent_command("install", stick, "--config", str(agent.config))
        assert done.returncode == 0, done.stderr
        assert (agent.serving, agent.phase) == (FIRST.digest, "soak")


_TAR = FIRST.to_tar()
FLIPPED = bytearray(_TAR)
FLIPPED[_TAR.index(FIRST.parts.model) + 20] ^= 1
FILES: dict[str, tuple[bytes, int, str]] = {
    "unsigned": (FIRST.layout.to_tar(), 1, "T02"),
    "signed by somebody else": (
        make_bundle("9.0.0", signer=keys("theirs").bundle).to_tar(),
        1,
        "T02",
    ),
    "with the signature of another bundle": (
        FIRST.layout.to_tar(make_bundle("9.0.1").statement),
        1,
        "T03",
    ),
    "of another family": (make_bundle("9.1.0", family="loans").to_tar(), 1, "T06"),
    "below the floor": (make_bundle("9.2.0", counter=0).to_tar(), 1, "T07"),
    "truncated": (_TAR[: len(_TAR) // 2], 3, "B"),
    "with a flipped bit": (bytes(FLIPPED), 3, "B04"),
    "no bundle at all": (b"a holiday picture", 3, "B"),
    "empty": (b"", 3, "B"),
    "whose golden vectors disagree": (make_bundle("9.3.0", flaw="golden").to_tar(), 1, "P01"),
    "that the runtime cannot load": (make_bundle("9.4.0", flaw="unloadable").to_tar(), 1, "P04"),
    "with an operator that is not allowed": (
        make_bundle("9.5.0", flaw="operator").to_tar(),
        3,
        "M05",
    ),
}


@pytest.mark.parametrize(("data", "exit_code", "code"), FILES.values(), ids=FILES.keys())
def test_install_refuses(tmp_path: Path, data: bytes, exit_code: int, code: str) -> None:
    config = write_agent_config(tmp_path, root=keys().root(min_counter=1))
    done = run_agent_command("install", put(tmp_path, data), "--config", str(config))
    assert (done.returncode, "Traceback" in done.stderr) == (exit_code, False)
    assert f"error[{code}" in done.stderr
    status = json.loads(run_agent_command("status", "--json", "--config", str(config)).stdout)
    assert (status["active"], status["phase"]) == ("", "idle")


def test_a_refused_file_leaves_what_serves_alone(tmp_path: Path) -> None:
    with agent_process(tmp_path / "agent") as agent:
        stick = put(tmp_path, FIRST.to_tar())
        run_agent_command("install", stick, "--config", str(agent.config))
        agent.start()
        agent.ask(*[ROW] * 5)
        wait_for(lambda: agent.phase == "idle")
        assert agent.stop() == 0
        bad = put(tmp_path, make_bundle("9.6.0", flaw="golden").to_tar())
        assert run_agent_command("install", bad, "--config", str(agent.config)).returncode == 1
        assert (agent.serving, agent.trust, agent.phase) == (FIRST.digest, "good", "idle")
        agent.start()
        assert agent.ask()[1]["parameters"]["bundle"] == FIRST.digest


def test_install_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    config = write_agent_config(tmp_path)
    done = run_agent_command("install", str(tmp_path / "gone"), "--config", str(config))
    assert done.returncode == 3
    assert "error[H02]" in done.stderr


# --- status -----------------------------------------------------------------------------


def test_status_touches_nothing(tmp_path: Path) -> None:
    config = write_agent_config(tmp_path)
    done = run_agent_command("status", "--config", str(config))
    assert done.returncode == 0
    assert "not running" in done.stdout
    assert not (tmp_path / "state").exists()


def test_status_of_a_running_agent(tmp_path: Path) -> None:
    with agent_process(tmp_path) as agent:
        agent.start()
        assert agent.process
        found = agent.status()
        assert found["running"] is True
        assert found["pid"] == agent.process.pid
        assert found["listening"] == "{}:{}".format(*agent.address)
        agent.kill()
        assert agent.status()["running"] is False


def test_status_of_a_damaged_record_leaves_it_to_the_agent(tmp_path: Path) -> None:
    with agent_process(tmp_path) as agent:
        stick = put(tmp_path, FIRST.to_tar())
        run_agent_command("install", stick, "--config", str(agent.config))
        newest = max(agent.state_dir.glob("state.?"), key=lambda path: path.stat().st_mtime_ns)
        newest.write_bytes(newest.read_bytes()[:-3])
        assert agent.serving == FIRST.digest  # the former record is whole
        assert newest.exists()


def test_status_of_an_outbox_that_is_none(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path)
    agent.state_dir.mkdir()
    (agent.state_dir / "outbox.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="D06"):
        agent.status()


# --- docs/agent.md ----------------------------------------------------------------------


def _table(heading: str) -> dict[str, list[str]]:
    """Rows of the table under a heading, by the name in their first cell."""
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("| `")]
    return {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in rows}


def test_the_page_has_every_setting() -> None:
    settings = {item.name for item in fields(AgentConfig)}
    tables = {"metered", "broker", "depot", "listen", "labels", "features", "limits", "identity"}
    tables |= {"registry", "reporting", "file"}
    told = {name.strip("` ") for row in _table("agent.toml") for name in row.split(",")}
    assert told == settings - tables - {"broker_identity"} | {
        "broker.url",
        "broker.identity",
        "identity.key",
        "identity.certificate",
        "identity.authority",
        "identity.enrol",
        "depot.url",
        "depot.metered",
        *(f"registry.{item.name}" for item in fields(RegistryPlace)),
        "serving.listen",
        "application.features",
        "labels",
    }


@pytest.mark.parametrize("item", fields(Limits), ids=lambda item: item.name)
def test_the_page_has_every_limit_with_its_default(item: object) -> None:
    name, default = item.name, item.default  # type: ignore[attr-defined]
    unit, told = _table("Limits")[name][:2]
    assert float(told.replace(",", "")) == default
    others = {"MiB", "connections", "bytes", "rows", "% of one core"}
    assert unit in name.replace("_", " ") or unit in others


def test_the_page_has_how_windows_go_up_with_its_defaults() -> None:
    told = {name: row[1].strip("`") for name, row in _table("Reporting").items()}
    assert told == {item.name: str(item.default).removesuffix(".0") for item in fields(Reporting)}


def test_the_pages_example_is_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0])
    config = load_config(tmp_path / "agent.toml")
    assert config.broker
    assert config.labels


def test_the_pages_examples_run(tmp_path: Path) -> None:
    """Each shell example of the section on the serving port, against a running agent."""
    part = PAGE.split("\n## The serving port\n")[1].split("\n## ")[0]
    examples = re.findall(r"```sh\n(.*?)```\n(?:\n?```json\n(.*?)```)?", part, re.DOTALL)
    assert len(examples) >= 4
    with agent_process(tmp_path / "agent") as agent:
        stick = put(tmp_path, FIRST.to_tar())
        run_agent_command("install", stick, "--config", str(agent.config))
        agent.start()
        for command, answer in examples:
            text = command.replace("127.0.0.1:8600", "{}:{}".format(*agent.address))
            done = subprocess.run(
                [shutil.which("sh") or "sh", "-ec", text],
                capture_output=True,
                text=True,
                check=True,
            )
            if answer:
                assert _shape(json.loads(done.stdout)) == _shape(json.loads(answer)), command


def _shape(document: object) -> object:
    """A document without what differs from run to run: ids, digests, versions, scores."""
    if isinstance(document, dict):
        return {name: _shape(value) for name, value in document.items()}
    if isinstance(document, list):
        return [_shape(item) for item in document]
    return type(document).__name__


@pytest.mark.parametrize("code", [0, 1, 2, 3, 130])
def test_the_page_has_every_exit_code(code: int) -> None:
    assert str(code) in _table("Commands and exit codes") or f"| {code} |" in PAGE


def test_the_page_has_every_file_of_the_state_folder(tmp_path: Path) -> None:
    with agent_process(tmp_path / "agent") as agent:
        stick = put(tmp_path, FIRST.to_tar())
        run_agent_command("install", stick, "--config", str(agent.config))
        agent.start()
        found = {path.name for path in agent.state_dir.iterdir()}
    told = set(_table("The state folder"))
    assert found - {"outbox.db-wal", "outbox.db-shm"} <= told | {"state.0", "state.1"}
