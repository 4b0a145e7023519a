"""TFLite in the agent: scores, refusals, threads, and a self-test that is not fooled by an import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT
from support_tflite import old_runtime, random_tree, walk

from wherry_agent.selftest import tiny_bundle
from wherry_agent.serving.probe import probe
from wherry_agent.serving.runtime import open_session
from wherry_agent.store import BlobStore
from wherry_agent.update.intake import Board
from wherry_contract.bundle import assemble
from wherry_contract.errors import ManifestError, ProbeError
from wherry_contract.manifest import Output, RuntimeNeeds
from wherry_convert.forest import Forest, Tree
from wherry_convert.tflite_inspect import inspect_tflite
from wherry_convert.tflite_trees import forest_tflite
from wherry_convert.tflite_write import GraphWriter

if not any(map(find_spec, ("ai_edge_litert", "tflite_runtime"))):
    pytest.skip("the extra tflite is absent; make test-frameworks", allow_module_level=True)
pytest.importorskip("tflite", reason="likewise")

NEEDS = RuntimeNeeds("tflite", ">=2.14,<2.15", 3, {}, (), also={"ai-edge-litert": ">=2.3,<2.4"})
SCORE = Output("score", -1, 0.5)


def a_forest() -> tuple[Forest, Any]:
    make = np.random.default_rng(1)
    trees = tuple(random_tree(make, 9, 3, (0.0, 1.0, 2.0)) for _ in range(5))
    return Forest(trees), make.choice([0, 1, 2, 3, np.nan], (60, 3)).astype(np.float32)


def of_columns(count: int) -> bytes:
    """A file that takes two numbers and gives `count`."""
    writer = GraphWriter()
    weights = np.arange(2.0 * count, dtype=np.float32).reshape(count, 2)
    inputs = [
        writer.input(2),
        writer.constant(weights),
        writer.constant(np.zeros(count, np.float32)),
    ]
    options = ("FullyConnectedOptions", {})
    return writer.finish(writer.add("FULLY_CONNECTED", inputs, (1, count), options=options))


def test_rows_alone_and_together() -> None:
    forest, rows = a_forest()
    session = open_session(forest_tflite(forest, 3), NEEDS, SCORE)
    together = session.score(rows)
    assert together.dtype == np.float64
    assert np.array_equal(together, walk(forest, rows))
    alone = [float(session.score(row[np.newaxis])[0]) for row in rows]
    assert alone == together.tolist()
    assert session.score(rows[:0]).shape == (0,)


def test_the_column_of_the_positive_class() -> None:
    session = open_session(of_columns(3), NEEDS, Output("score", 2, 0.5))
    assert session.score(np.array([[1, 10], [0, 1]], np.float32)).tolist() == [54.0, 5.0]


def test_threads_do_not_mix_their_rows() -> None:
    forest, rows = a_forest()
    session = open_session(forest_tflite(forest, 3), NEEDS, SCORE)
    wanted, wrong = walk(forest, rows), []

    def ask(start: int) -> None:
        for turn in range(200):
            place = (start + turn) % len(rows)
            if session.score(rows[place : place + 1])[0] != wanted[place]:
                wrong.append(place)

    threads = [threading.Thread(target=ask, args=(k * 7,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


GOOD = of_columns(1)
BAD = [
    ("nothing", b"", SCORE),
    ("no model", b"\xff" * 200, SCORE),
    ("half of it", GOOD[: len(GOOD) // 2], SCORE),
    ("another output", GOOD, Output("probability", -1, 0.5)),
    ("a column too far", GOOD, Output("score", 1, 0.5)),
    ("which of three columns", of_columns(3), SCORE),
]


@pytest.mark.parametrize(("model", "output"), [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_refused(model: bytes, output: Output) -> None:
    with pytest.raises(ProbeError, match="P04"):
        open_session(model, NEEDS, output)


@pytest.mark.parametrize(
    ("board", "kind", "runs"),
    [
        (Board("armv7l", "tflite-runtime", "2.14.0"), "tflite", "tflite-runtime 2.14.0"),
        (Board("armv7l", "tflite-runtime", "2.14.0"), "onnxruntime", ""),
        (Board("x86_64", "onnxruntime", "1.28.0"), "onnxruntime", "onnxruntime 1.28.0"),
        (Board("x86_64", "onnxruntime", "1.28.0"), "tflite", ""),
        (
            Board("x86_64", "onnxruntime", "1.28.0", {"ai-edge-litert": "2.3.0"}),
            "tflite",
            "ai-edge-litert 2.3.0",
        ),
        (Board("x86_64", "onnxruntime", "1.28.0", {"ai-edge-litert": "1.0.0"}), "tflite", ""),
    ],
)
def test_the_manifest_chooses_the_runtime(board: Board, kind: str, runs: str) -> None:
    manifest = tiny_bundle(kind).manifest
    if kind == "tflite":
        manifest = replace(manifest, runtime=NEEDS)
    runtime, version = board.runtime_for(manifest.runtime)
    if runs:
        manifest.check_fits(runtime=runtime, version=version, architecture=board.architecture)
        assert f"{runtime} {version}" == runs
        return
    with pytest.raises(ManifestError, match="M06"):
        manifest.check_fits(runtime=runtime, version=version, architecture=board.architecture)


def stored(folder: Path) -> str:
    layout = assemble(tiny_bundle("tflite"))
    store = BlobStore(folder)
    for digest, data in {layout.digest: layout.manifest, **layout.blobs}.items():
        store.put(digest, data)
    return layout.digest


def test_the_probe_runs_it_in_a_child(tmp_path: Path) -> None:
    found = probe(tmp_path, stored(tmp_path), seconds=30, mib=64)
    assert found["largest_gap"] < 1e-6
    assert found["p50_us"] < 1e6


def test_the_file_that_travels_with_us_is_ours() -> None:
    def stump(column: int, cut: float, left: float, right: float) -> Tree:
        return Tree(
            np.array([column, 0, 0]), np.array([cut, 0, 0]), np.array([1, -1, -1]),
            np.array([2, -1, -1]), np.zeros(3, bool), np.array([0.0, left, right]),
        )  # fmt: skip

    forest = Forest((stump(0, 100, -1, 2), stump(1, 3, -0.5, 0.5)), base=-1.0, link="logistic")
    parts = tiny_bundle("tflite")
    assert parts.model == forest_tflite(forest, 2)
    assert parts.manifest.runtime.operators == inspect_tflite(parts.model).operators


def self_test(python: Path | str, path: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """What `wherry-agent self-test` says, by check."""
    done = subprocess.run(
        [python, "-m", "wherry_agent", "self-test", "--json"],
        env={"PYTHONPATH": path, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(done.stdout)
    return done.returncode, {item["name"]: item for item in document["checks"]}


def test_self_test_in_the_old_runtime() -> None:
    path = os.pathsep.join(str(ROOT / part) for part in ("contract", "device_agent"))
    code, checks = self_test(old_runtime(), path)
    assert code == 0, checks
    assert "tflite-runtime 2.14.0 gives the right scores" in checks["model"]["detail"]


def test_self_test_finds_an_interpreter_that_imports_and_does_not_work(tmp_path: Path) -> None:
    """tflite-runtime beside numpy 2: pip is content, the import works, the first use dies."""
    (packages,) = (old_runtime().parent.parent / "lib").glob("python3*/site-packages")
    for name in ("tflite_runtime", "tflite_runtime-2.14.0.dist-info"):
        (tmp_path / name).symlink_to(packages / name)
    code, checks = self_test(sys.executable, str(tmp_path))
    found = checks["model in tflite-runtime"]
    assert code == 1
    assert (found["well"], found["code"]) == (False, "P04")
    assert "numpy 2" in found["detail"]
    assert "pip install 'numpy<2'" in found["detail"]
