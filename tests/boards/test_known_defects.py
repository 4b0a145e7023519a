"""Defects of real runtimes on real boards' CPUs, each stopped by the agent itself."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier
from skops.io import dumps
from support import ROOT
from support_agent import keys, may_trace, statement_of, strace_program, write_agent_config
from support_boards import board_named, need_boards
from support_build import wherry
from support_convert import numbers

from wherry.boards.agent import lay_out_agent
from wherry.boards.emulator import Place, run_python
from wherry.boards.overlay import Pin, overlay, pins_of
from wherry.boards.recipe import Recipe, recipe_of
from wherry.boards.root import create, mirror
from wherry.boards.verify import WRONG
from wherry_contract.bundle import Parts, assemble
from wherry_contract.golden import GoldenVectors
from wherry_contract.manifest import BoardNeeds, Manifest, Output, Soak
from wherry_contract.profile import build_profile
from wherry_convert.quantize_methods import OnnxWorkshop
from wherry_convert.sources.sklearn_file import load
from wherry_convert.to_onnx import Converted, convert

DEBIAN_13 = "pos-armv7-debian13"
COLUMNS = 24


def environment(name: str) -> tuple[Place, Recipe]:
    need_boards()
    recipe = recipe_of(board_named(name), mirror())
    return create(recipe, print).place, recipe


def net(method: str) -> tuple[Converted, np.ndarray]:
    """A small net in int8, and rows."""
    make = np.random.default_rng(5)
    raw = make.normal(0, 1, (1500, COLUMNS))
    label = (raw[:, 0] * raw[:, 1] + raw[:, 2] > 1).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a net that has not converged is good enough here
        model = MLPClassifier((64, 32), max_iter=20, random_state=0).fit(raw, label)
    converted = convert(load(dumps(model), (), trust_pickle=False), numbers(COLUMNS))
    return OnnxWorkshop(converted, raw.astype(np.float32)).make(method, ()), raw


def packed(method: str, path: Path) -> Path:
    """A signed bundle of it that claims Debian 13's onnxruntime, as a careless host would."""
    from wherry_agent.serving.inference import open_session

    made, raw = net(method)
    output = Output(made.tensor, made.column, 0.5)
    scores = open_session(made.model, made.needs, output).score(made.encoder.encode(raw))
    output = replace(output, threshold=float(np.median(scores)))
    contract = made.encoder.contract
    manifest = Manifest(
        name="net",
        version="1.0.0",
        family="fraud",
        runtime=replace(made.needs, version=">=1.20,<1.29"),
        board=BoardNeeds(),
        input=contract,
        encoder=made.encoder,
        output=output,
        soak=Soak(rows=0, seconds=0),
        fallback=None,
        provenance={},
    )
    golden = GoldenVectors(
        contract.names, tuple(map(tuple, raw[:50].tolist())), tuple(scores[:50].tolist()), 1e-6
    )
    profile = build_profile(contract, raw, scores, output.threshold)
    layout = assemble(Parts(manifest, made.model, profile, golden))
    path.write_bytes(layout.to_tar(statement_of(layout, manifest)))
    return path


@pytest.mark.slow
def test_signed_activations_on_debian_13_for_32_bits_never_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Onnxruntime 1.21.0 for armhf: its fused QGemm is wrong, without any error."""
    place, recipe = environment(DEBIAN_13)
    bundles = {method: packed(method, tmp_path / f"{method}.wherry") for method in METHODS}
    agent = tmp_path / "agent"
    lay_out_agent(agent)
    overlays = [overlay(pins_of(board_named(DEBIAN_13))[0], recipe, print), agent]
    config = write_agent_config(tmp_path / "device", root=keys().root())
    for method, refused in METHODS.items():
        command = ["-m", "wherry_agent", "install", "--config", str(config), str(bundles[method])]
        done = run_python(place, command, overlays=overlays)
        said = (done.stdout + done.stderr).decode()
        assert bool(done.returncode) == refused, said
        assert ("P01" in said) == refused, said
    status = run_python(
        place,
        ["-m", "wherry_agent", "status", "--config", str(config), "--json"],
        overlays=overlays,
    )
    slots = json.loads(status.stdout)["slots"]
    served = [slot["digest"] for slot in slots.values() if slot["digest"]]
    assert len(served) == 1  # the one with unsigned activations
    found = wherry(capsys, "verify", "--board", DEBIAN_13, bundles["int8-signed"], "--json")
    assert found.code == 1
    (verdict,) = json.loads(found.out)["verdicts"]
    assert (verdict["verdict"], "P01" in verdict["detail"]) == (WRONG, True)


# how activations are quantized -> whether the agent refuses the bundle
METHODS = {"int8-signed": True, "int8": False}


@pytest.mark.slow
def test_no_telemetry_leaves_a_board(tmp_path: Path) -> None:
    """Onnxruntime from 1.29 on reports home unless it is told not to: the agent tells it.

    The kernel's word: strace watches the emulator, whose calls are the board's.
    """
    place, recipe = environment("pi3")
    if not may_trace():
        pytest.skip("this machine does not let strace trace")
    agent, trace, home = tmp_path / "agent", tmp_path / "trace", tmp_path / "home"
    lay_out_agent(agent)
    home.mkdir()
    overlays = [overlay(Pin("onnxruntime", TALKATIVE), recipe, print), agent]
    settings = place.environment(overlays) | {"HOME": str(home)}
    del settings["ORT_DISABLE_TELEMETRY"]  # the environment's; the agent has to do it itself
    watch = [strace_program(), "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace)]

    def watched(*arguments: str) -> list[str]:
        command = [*watch, str(place.python), *arguments]
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return [line for line in trace.read_text().splitlines() if "AF_INET" in line]

    assert watched("-m", "wherry_agent", "self-test") == []
    assert not list(home.rglob("*"))
    with socket.create_server(("127.0.0.1", 0)) as server:  # and it would have been seen
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        assert len(watched("-c", code)) == 1


TALKATIVE = "1.32.0"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pi3", "pos-armv7"])
def test_a_board_does_without_compiled_cryptography(tmp_path: Path, name: str) -> None:
    """No wheel of cryptography or cffi is there: signatures are verified in plain Python."""
    place, recipe = environment(name)
    agent = tmp_path / "agent"
    lay_out_agent(agent)
    overlays = [overlay(pins_of(board_named(name))[0], recipe, print), agent]
    code = (
        "import importlib.util as u, json\n"
        "found = [n for n in ('cryptography', 'cffi', '_cffi_backend', 'nacl') if u.find_spec(n)]\n"
        "print(json.dumps(found))"
    )
    assert json.loads(run_python(place, ["-c", code], overlays=overlays).stdout) == []
    done = run_python(place, ["-m", "wherry_agent", "self-test", "--json"], overlays=overlays)
    checks = {item["name"]: item for item in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0, checks
    assert "a forged one is refused" in checks["signatures"]["detail"]


@pytest.mark.slow
def test_a_runtime_that_imports_and_does_not_work_fails_the_self_test(tmp_path: Path) -> None:
    """tflite-runtime 2.14 beside numpy 2 on a 64-bit board: it imports, and its first use dies."""
    place, recipe = environment("pi3")
    agent, mixed = tmp_path / "agent", tmp_path / "mixed"
    lay_out_agent(agent)
    old = overlay(Pin("tflite-runtime", "2.14.0"), recipe, print)
    new = overlay(Pin("ai-edge-litert", "2.3.0"), recipe, print)  # it has numpy 2 beside it
    mixed.mkdir()
    for path in new.iterdir():
        if path.name.startswith("numpy"):
            shutil.copytree(path, mixed / path.name, symlinks=True)
    command = ["-m", "wherry_agent", "self-test", "--json"]
    done = run_python(place, command, overlays=[mixed, old, agent])
    assert done.returncode == 1, done.stderr.decode()
    checks = {item["name"]: item for item in json.loads(done.stdout)["checks"]}
    assert (checks["model"]["well"], checks["model"]["code"]) == (False, "P04")
    assert "pip install 'numpy<2'" in checks["model"]["detail"]


PIP = """
import runpy, sys
sys.executable = sys.argv.pop(1)  # pip reads its header: which ARM is it?
runpy.run_module("pip", run_name="__main__")
"""


@pytest.mark.slow
def test_what_pip_brings_a_32_bit_board(tmp_path: Path) -> None:
    """No wheel of numpy, cffi or onnxruntime is for it: numpy is Debian's, the runtime TFLite's."""
    place, _recipe = environment("pos-armv7")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
    ]
    subprocess.run([*pip, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("wherry-*.whl")
    (home,) = find_spec("pip").submodule_search_locations  # type: ignore[union-attr]
    shutil.copytree(home, tmp_path / "modules" / "pip")
    report = tmp_path / "report.json"
    python = place.root / "usr/bin" / f"python{place.version}"
    asked = ["install", "--dry-run", "--break-system-packages", "--only-binary=:all:"]
    done = run_python(
        place,
        ["-c", PIP, str(python), *asked, "--report", str(report), f"{wheel}[agent-tflite]"],
        overlays=[tmp_path / "modules"],
        settings={name: value for name, value in os.environ.items() if name.startswith("PIP_")},
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found = json.loads(report.read_text())["install"]
    names = {item["metadata"]["name"]: item["metadata"]["version"] for item in found}
    assert names.keys() == {"tflite-runtime", "wherry"}  # what else it wants, its Debian has
    assert names["tflite-runtime"].startswith("2.14")


SUBNORMAL = """
import threading, wherry_agent.serving.runtime_tflite
small, half, found = 2.0**-1060, 0.5, []
thread = threading.Thread(target=lambda: found.append(small * half))
thread.start(), thread.join()
print(small * half, *found)
"""


@pytest.mark.slow
def test_a_runtime_does_not_change_what_numbers_are(tmp_path: Path) -> None:
    """tflite-runtime for 32-bit ARM has the CPU flush subnormals as soon as it is loaded."""
    place, recipe = environment("pos-armv7")
    lay_out_agent(tmp_path / "agent")
    runtime = overlay(pins_of(board_named("pos-armv7"))[0], recipe, print)
    alone = SUBNORMAL.replace("wherry_agent.serving.runtime_tflite", "tflite_runtime.interpreter")
    number = str(2.0**-1061)
    for code, said in ((alone, "0.0 0.0"), (SUBNORMAL, f"{number} {number}")):
        done = run_python(place, ["-c", code], overlays=[runtime, tmp_path / "agent"])
        assert done.stdout.decode().strip() == said, done.stderr.decode()
