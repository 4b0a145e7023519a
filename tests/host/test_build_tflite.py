"""`[target] runtime = "tflite"`: from a project file to an agent that decides as the source does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_build import wherry, write_project
from support_tflite import old_runtime, score_in

from wherry.build import build
from wherry.bundle_view import look
from wherry.data import read_rows
from wherry.pack import read_parts
from wherry.project import load_project
from wherry_agent.serving.inference import load_model
from wherry_contract.errors import ConvertError, ManifestError, SetupError
from wherry_convert.sources import load_source
from wherry_convert.tflite_inspect import inspect_tflite
from wherry_convert.tflite_write import GraphWriter, Options

pytest.importorskip("ai_edge_litert", reason="the extra tflite is absent; make test-frameworks")
pytest.importorskip("tflite", reason="likewise")

TARGET = '[target]\nruntime = "tflite"\n'
SMALL = TARGET + 'leaves = "int16"\n[gates]\nflips = 3\nedge_flips = 12\n'
BYTES = TARGET + 'weights = "int8"\n[gates]\nflips = 12\nedge_flips = 50\n'


@pytest.mark.parametrize(
    ("model", "more", "gap"),
    [
        pytest.param("trees", TARGET, 1e-6, id="trees"),
        pytest.param("trees", SMALL, 1e-3, id="16-bit leaves"),
        pytest.param("net", TARGET, 3e-6, id="net"),
        pytest.param("net", BYTES, 0.05, id="8-bit weights"),
    ],
)
def test_the_agent_decides_as_the_source(
    model: str, more: str, gap: float, shop: Path, tmp_path: Path
) -> None:
    project = load_project(write_project(shop, model=model, more=more))
    done = build(project, out=tmp_path / "a.wherry")
    again = build(project, out=tmp_path / "b.wherry")
    assert done.digest == again.digest
    parts = look(tmp_path / "a.wherry").parts
    check = read_rows(project.data.check, project.input, project.data).raw
    wanted = load_source("sklearn", project.source.path).scores(check, project.input)
    scores = load_model(done.digest, parts).scores(check)
    threshold = parts.manifest.output.threshold
    flips = ((scores >= threshold) != (wanted >= threshold)).sum()
    assert flips == done.report.flips
    assert flips <= project.gates.flips
    assert np.abs(scores - wanted).max() < gap
    # and with the interpreter of 32-bit boards, on the golden vectors
    golden = parts.golden
    rows = parts.manifest.encoder.encode(golden.matrix(parts.manifest.input))
    (old,) = score_in(old_runtime(), [(parts.model, rows)], tmp_path)
    golden.judge(old.ravel(), threshold)


def test_what_the_bundle_says(shop: Path, tmp_path: Path, capsys: Any) -> None:
    project = write_project(shop, more=TARGET)
    out = tmp_path / "a.wherry"
    assert wherry(capsys, "build", project, "--out", out, "--unsigned").code == 0
    said = json.loads(wherry(capsys, "bundle", "inspect", out, "--json").out)
    assert said["runtime"]["kind"] == "tflite"
    assert said["runtime"]["also"] == {"ai-edge-litert": ">=2.3,<2.4"}
    assert said["precision"] == "float32"
    assert "model.tflite" in {blob["name"] for blob in said["blobs"]}
    assert {"tflite", "ai-edge-litert"} <= said["provenance"]["tools"].keys()
    words = wherry(capsys, "bundle", "inspect", out).out
    assert "tflite-runtime >=2.14,<2.15 or ai-edge-litert >=2.3,<2.4, schema 3" in words
    assert wherry(capsys, "check", project, "--bundle", out).code == 0


@pytest.fixture(scope="module")
def parts_folder(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tflite")
    project = load_project(write_project(shop, more=TARGET))
    build(project, out=folder / "a.wherry", parts_folder=folder / "parts")
    return folder / "parts"


def test_parts_made_elsewhere_are_packed(parts_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(parts_folder, tmp_path / "parts")
    assert read_parts(folder).model == (parts_folder / "model.tflite").read_bytes()


def _says(folder: Path, **more: Any) -> None:
    path = folder / "wherry.json"
    document = json.loads(path.read_text())
    document["runtime"] |= more
    path.write_text(json.dumps(document))


BROKEN = [
    ("no model", lambda f: (f / "model.tflite").write_bytes(b"\xff" * 99), ConvertError, "K04"),
    ("half a model", lambda f: _halve(f / "model.tflite"), ConvertError, "K04"),
    ("an operator not told", lambda f: _says(f, operators=["GATHER"]), ManifestError, "M08"),
    ("another version", lambda f: _says(f, opsets={"GATHER": 4}), ManifestError, "M08"),
    ("the other kind", lambda f: _says(f, kind="onnxruntime"), SetupError, r"H02.*model\.onnx"),
    ("no file", lambda f: (f / "model.tflite").unlink(), SetupError, "H02"),
]


def _halve(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "error", "code"), [pytest.param(*row[1:], id=row[0]) for row in BROKEN]
)
def test_parts_that_do_not_belong_together(
    spoil: Any, error: type[Exception], code: str, parts_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(parts_folder, tmp_path / "parts")
    spoil(folder)
    with pytest.raises(error, match=code):
        read_parts(folder)


WRONG = [
    ("unknown runtime", '[target]\nruntime = "tensorrt"\n', "runtime"),
    ("weights of ONNX", '[target]\nweights = "int8"\n', "weights"),
    ("leaves of ONNX", '[target]\nleaves = "int16"\n', "leaves"),
    ("not for TFLite", TARGET + '[quantize]\nmethod = "int8-signed"\n', "quantize.method"),
    ("not for ONNX", '[quantize]\nmethod = "dynamic-channel"\n', "quantize.method"),
    ("weights twice", TARGET + 'weights = "int8"\n[quantize]\n', "written-int8"),
    ("unknown name", '[target]\nruntim = "tflite"\n', "runtim"),
]


@pytest.mark.parametrize(("more", "word"), [pytest.param(*row[1:], id=row[0]) for row in WRONG])
def test_a_wrong_target_is_refused(more: str, word: str, shop: Path) -> None:
    with pytest.raises(SetupError, match=rf"H01.*{word}"):
        load_project(write_project(shop, more=more))


ELSEWHERE = """
[project]
name = "net"
version = "1"
counter = 1

[source]
kind = "tflite"
path = "net.tflite"

[data]
reference = "rows.csv"
check = "rows.csv"
label = "label"

[input]
name = "numbers"
version = 1

[[input.features]]
name = "a"

[[input.features]]
name = "b"

[output]
threshold = 0.4
"""


def _dense(writer: GraphWriter, last: int, weights: Any) -> int:
    outputs = len(weights)
    inputs = [last, writer.constant(weights), writer.constant(np.zeros(outputs, np.float32))]
    options: Options = ("FullyConnectedOptions", {})
    return writer.add("FULLY_CONNECTED", inputs, (1, outputs), options=options)


def _net_of_two(folder: Path, *, hidden: int = 0) -> Any:
    """A file of 1 / (1 + exp(-(2 a - b))), or of a net with hidden layers, and rows beside it."""
    writer, make = GraphWriter(), np.random.default_rng(2)
    last, width = writer.input(2), 2
    for _ in range(2 if hidden else 0):
        weights = make.normal(0, width**-0.5, (hidden, width)).astype(np.float32)
        last, width = writer.add("RELU", [_dense(writer, last, weights)], (1, hidden)), hidden
    ends = make.normal(0, width**-0.5, (1, width)) if hidden else [[2, -1]]
    last = _dense(writer, last, np.array(ends, np.float32))
    (folder / "net.tflite").write_bytes(writer.finish(writer.add("LOGISTIC", [last], (1, 1))))
    rows = np.random.default_rng(0).normal(size=(500, 2))
    label = (2 * rows[:, 0] > rows[:, 1]) * 1
    lines = [f"{a!r},{b!r},{y}" for (a, b), y in zip(rows.tolist(), label, strict=True)]
    (folder / "rows.csv").write_text("a,b,label\n" + "\n".join(lines) + "\n")
    return rows


def test_a_file_from_elsewhere_is_checked_and_packed(tmp_path: Path, capsys: Any) -> None:
    rows, path = _net_of_two(tmp_path), tmp_path / "project.toml"
    path.write_text(ELSEWHERE)
    said = wherry(capsys, "build", path, "--unsigned")
    assert said.code == 3
    assert "[target]" in said.err
    path.write_text(ELSEWHERE + TARGET)
    out = tmp_path / "net.wherry"
    said = wherry(capsys, "build", path, "--unsigned", "--out", out)
    assert said.code == 0, said.err
    view = look(out)
    assert view.parts.model == (tmp_path / "net.tflite").read_bytes()
    scores = load_model(view.digest, view.parts).scores(rows)
    assert scores == pytest.approx(1 / (1 + np.exp(rows[:, 1] - 2 * rows[:, 0])), abs=1e-6)
    found = view.parts.manifest.provenance["measured"]
    assert (found["flips"], found["edge_flips"]) == (0, 0)


QUANTIZED = """
[quantize]
method = "{}"

[gates]
flips = 30
edge_flips = 90
metric_drop = 0.05
"""


@pytest.mark.parametrize(
    ("method", "precision"), [("search", "int8"), ("dynamic", "int8"), ("float16", "float16")]
)
def test_a_net_is_quantized_and_the_agent_decides_as_the_bundle_says(
    method: str, precision: str, shop: Path, tmp_path: Path, capsys: Any
) -> None:
    pytest.importorskip("ai_edge_quantizer", reason="the extra tflite-quant is absent")
    more = TARGET + QUANTIZED.format(method)
    path, out, page = write_project(shop, model="net", more=more), tmp_path / "q", tmp_path / "p"
    said = wherry(capsys, "build", path, "--unsigned", "--out", out, "--report", page)
    assert said.code == 0, said.err
    parts = look(out).parts
    assert inspect_tflite(parts.model).precision == precision
    project = load_project(path)
    check = read_rows(project.data.check, project.input, project.data).raw
    wanted = load_source("sklearn", project.source.path).scores(check, project.input)
    scores = load_model(look(out).digest, parts).scores(check)
    threshold = parts.manifest.output.threshold
    flips = int(((scores >= threshold) != (wanted >= threshold)).sum())
    assert flips == parts.manifest.provenance["measured"]["flips"] <= project.gates.flips
    # what is claimed of the interpreter of 32-bit boards is true
    if parts.manifest.runtime.takes("tflite-runtime", "2.14.0"):
        rows = parts.manifest.encoder.encode(parts.golden.matrix(parts.manifest.input))
        (old,) = score_in(old_runtime(), [(parts.model, rows)], tmp_path)
        parts.golden.judge(old.ravel(), threshold)
    else:
        assert any("not claimed" in note for note in parts.manifest.provenance["notes"])
    assert "Quantization" in page.read_text()


def test_a_float_file_from_elsewhere_is_quantized(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("ai_edge_quantizer", reason="the extra tflite-quant is absent")
    _net_of_two(tmp_path, hidden=40)
    path, out = tmp_path / "project.toml", tmp_path / "net.wherry"
    path.write_text(ELSEWHERE + TARGET + QUANTIZED.format("weights-int8"))
    said = wherry(capsys, "build", path, "--unsigned", "--out", out)
    assert said.code == 0, said.err
    before = (tmp_path / "net.tflite").read_bytes()
    assert len(look(out).parts.model) < len(before)
    made = tmp_path / "made.tflite"
    convert = ["convert", tmp_path / "net.tflite", "-o", made, "--input", path, "--kind", "tflite"]
    assert wherry(capsys, *convert).code == 0
    small = tmp_path / "small.tflite"
    quantize = ["quantize", made, "-o", small, "--data", tmp_path / "rows.csv", "--flips", "9"]
    said = wherry(capsys, *quantize, "--label", "label", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["bytes_after"] == small.stat().st_size < len(before)
    assert found["rows"] + found["calibration_rows"] == 500
    assert {item["method"] for item in found["variants"]} >= {"int8", "weights-int8"}
    wrong = wherry(capsys, *quantize, "--method", "int8-signed")
    assert (wrong.code, "K02" in wrong.err) == (3, True)
