"""The whole agent where there is no onnxruntime: Python with tflite-runtime 2.14 and numpy 1.

A bundle is built here, installed and served there by the agent's own process, and asked over
its port; what onnxruntime would run is refused.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT, wait_for
from support_agent import keys, write_agent_config
from support_build import write_project, write_shop
from support_tflite import old_runtime

from wherry.build import build
from wherry.data import read_rows
from wherry.project import Project, load_project
from wherry_contract.bundle import read_bundle
from wherry_convert.sources import load_source

pytest.importorskip("ai_edge_litert", reason="the extra tflite is absent; make test-frameworks")
pytest.importorskip("tflite", reason="likewise")

TFLITE = '[target]\nruntime = "tflite"\n[soak]\nrows = 0\nseconds = 0\n'


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop"))


def built(shop: Path, model: str, more: str, out: Path) -> Project:
    """A signed bundle, and the project that it is from."""
    project = load_project(write_project(shop, model=model, more=more))
    build(project, out=out, signers=[keys().bundle])
    return project


def agent(*arguments: object) -> list[str]:
    return [str(item) for item in (old_runtime(), "-W", "error", "-m", "wherry_agent", *arguments)]


def settings() -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / part) for part in ("contract", "device_agent"))
    return {"PYTHONPATH": path, "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


def run(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        agent(*arguments), env=settings(), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def ask(address: str, rows: list[list[Any]], names: tuple[str, ...]) -> Any:
    """Scores and flags of rows, over the Open Inference Protocol."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    kinds = ["BYTES" if isinstance(column[0], str) else "FP64" for column in columns]
    inputs = [
        {"name": name, "datatype": kind, "shape": [len(rows)], "data": column}
        for name, kind, column in zip(names, kinds, columns, strict=True)
    ]
    body = json.dumps({"inputs": inputs}).encode()
    url = f"http://{address}/v2/models/till/infer"
    with urllib.request.urlopen(url, body, timeout=20) as answer:
        outputs = json.loads(answer.read())["outputs"]
    return {item["name"]: item["data"] for item in outputs}


@pytest.mark.parametrize("model", ["trees", "net"])
def test_build_install_serve(model: str, shop: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "till.wherry"
    project = built(shop, model, TFLITE, bundle)
    config = write_agent_config(tmp_path / "device", family="till", root=keys().root("till"))
    code, said = run("install", "--config", config, bundle)
    assert code == 0, said
    assert "installed till 1.0.0" in said
    rows = read_rows(project.data.check, project.input, project.data).raw[:300]
    wanted = load_source("sklearn", project.source.path).scores(rows, project.input)
    values = [
        [
            row[0],
            None if np.isnan(row[1]) else row[1],
            project.input.features[2].categories[int(row[2])],
        ]
        for row in rows.tolist()
    ]
    with subprocess.Popen(
        agent("run", "--config", config), env=settings(), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            where = tmp_path / "device" / "state" / "listening"
            place = wait_for(lambda: where if where.exists() else None, seconds=30)
            found = ask(place.read_text().strip(), values, project.input.names)
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    scores = np.array(found["score"])
    assert np.abs(scores - wanted).max() < 3e-6
    threshold = read_bundle(bundle).manifest.output.threshold
    assert np.array_equal(scores >= threshold, wanted >= threshold)


def test_what_wants_onnxruntime_is_refused(shop: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "till.wherry"
    built(shop, "trees", "", bundle)
    config = write_agent_config(tmp_path / "device", family="till", root=keys().root("till"))
    code, said = run("install", "--config", config, bundle)
    assert code != 0
    assert "M06" in said
    assert "here is tflite-runtime 2.14.0" in said
    assert "Traceback" not in said
