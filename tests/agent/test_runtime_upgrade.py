"""The board's runtime changes under the agent: golden vectors come before the first row.

Real versions of onnxruntime, each before the others on the path of modules, as after an
upgrade of a package. The wrong one is 1.21, which cannot load a model of today's format.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from support import Mosquitto, wait_for
from support_agent import Made, make_bundle, order_for, running_depot, signed_order, statement_of
from support_app import ROW, AgentProcess, Fleet, agent_process
from support_frameworks import REQUIRED
from support_tflite import ENVIRONMENTS

from wherry.runtimes import RUNTIMES
from wherry_contract.bundle import assemble
from wherry_convert.environments import MARK


def _modern() -> Made:
    """A bundle whose model says a newer format than onnxruntime 1.21 loads."""
    made = make_bundle("2.0.0", bias=-2.9, counter=2)
    model = onnx.load_from_string(made.parts.model)
    model.ir_version = 12
    manifest = replace(made.parts.manifest, runtime=replace(made.parts.manifest.runtime, ir=12))
    parts = replace(made.parts, manifest=manifest, model=model.SerializeToString())
    layout = assemble(parts)
    return Made(layout, parts, statement_of(layout, manifest, 2))


FIRST, MODERN = make_bundle("1.0.0"), _modern()


def _released(version: str) -> str:
    """The modules of a runtime's own environment."""
    (item,) = [one for one in RUNTIMES if (one.name, one.version) == ("onnxruntime", version)]
    if not (item.folder / MARK).exists() and not REQUIRED:
        pytest.skip("run: wherry doctor --install runtimes")
    (modules,) = item.folder.glob("lib/python3*/site-packages")
    return str(modules)


def _ancient() -> str:
    """An onnxruntime 1.21.0 and nothing else, made once."""
    folder = ENVIRONMENTS / f"onnxruntime-1.21.0-{sys.implementation.cache_tag}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".done").exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
            made = subprocess.run(
                [*pip, folder, "onnxruntime==1.21.0"], capture_output=True, text=True, check=False
            )
            if made.returncode and not REQUIRED:
                pytest.skip(f"onnxruntime 1.21.0 cannot be had here: {made.stderr[-200:]}")
            assert made.returncode == 0, made.stderr
            (folder / ".done").touch()
    return str(folder)


@pytest.fixture
def agent(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[AgentProcess]:
    with (
        running_depot(tmp_path / "depot", FIRST, MODERN) as depot,
        agent_process(tmp_path / "agent", broker=mosquitto.url, depot=depot.url) as made,
    ):
        yield made


def _start(agent: AgentProcess, modules: str) -> None:
    path = os.pathsep.join(filter(None, [modules, os.environ.get("PYTHONPATH", "")]))
    agent.start(environment={"PYTHONPATH": path})


def _install(agent: AgentProcess, fleet: Fleet, made: Made, sequence: int) -> None:
    fleet.order(signed_order(order_for(made.digest, sequence)))
    wait_for(lambda: agent.phase == "soak", what=agent.log)
    agent.ask(*[ROW] * 5)
    wait_for(lambda: (agent.phase, agent.serving) == ("idle", made.digest), what=agent.log)


@pytest.mark.slow
def test_an_upgrade_is_probed_first_and_a_wrong_one_falls_back(
    agent: AgentProcess, mosquitto: Mosquitto
) -> None:
    with Fleet(mosquitto) as fleet:
        _start(agent, _released("1.27.0"))
        _install(agent, fleet, FIRST, 1)
        _install(agent, fleet, MODERN, 2)
        assert agent.status()["runtime"].startswith("onnxruntime 1.27.0")
        assert agent.stop() == 0

        # right: the same bundle goes on, probed under the new version before the port opens
        _start(agent, _released("1.28.0"))
        assert agent.ask()[1]["parameters"]["bundle"] == MODERN.digest
        assert agent.status()["runtime"].startswith("onnxruntime 1.28.0")
        log = agent.log().rpartition("stopped")[2]
        assert "onnxruntime 1.27.0" in log.partition("serving on")[0]
        assert agent.stop() == 0

        # wrong: what it cannot load is never asked; the other slot answers from the first row on
        _start(agent, _ancient())
        assert agent.ask()[1]["parameters"] == {"bundle": FIRST.digest, "source": "model"}
        wait_for(lambda: "P04" in fleet.codes(), what=agent.log)
        assert fleet.codes().count("agent.runtime") == 2
        wait_for(lambda: fleet.states[-1].runtime_version == "1.21.0", what="its report")
        assert fleet.states[-1].bundle == FIRST.digest
        assert agent.stop() == 0
