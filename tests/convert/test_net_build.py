"""Nets from elsewhere, the whole road: project file, search, gate, bundle, the agent's answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.neural_network import MLPClassifier
from support_convert import fitted, numbers
from support_frameworks import needs_framework

from wherry.cli import run
from wherry_agent.serving.inference import Answers, load_model
from wherry_contract.bundle import read_bundle
from wherry_convert.sources import load_source

DATA = Path(__file__).parent / "data"
NETS = {"torch": DATA / "net.pt2", "keras": DATA / "perceptron.keras"}
PROJECT = """
[project]
name = "net"
version = "1.0.0"
counter = 1
[source]
kind = "{kind}"
path = "{model}"
[data]
reference = "reference.parquet"
check = "check.parquet"
label = "label"
[output]
flag_share = 0.1
[quantize]
{quantize}
[gates]
flips = 9
edge_flips = 9
metric_drop = 0.1
[input]
name = "five"
version = 1
"""


def rows(seed: int) -> Any:
    """Five columns and a label."""
    make = np.random.default_rng(seed)
    raw = make.normal(size=(1500, 5))
    return raw, (raw[:, 0] + raw[:, 1] ** 2 + make.normal(0, 0.5, 1500) > 1).astype(np.int64)


def project(folder: Path, kind: str, model: str, quantize: str) -> Path:
    """A project on such rows."""
    for name, seed in (("reference", 1), ("check", 2)):
        raw, label = rows(seed)
        columns = {f"f{place}": raw[:, place] for place in range(5)} | {"label": label}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    features = "".join(f'[[input.features]]\nname = "f{place}"\n' for place in range(5))
    path = folder / "project.toml"
    path.write_text(PROJECT.format(kind=kind, model=model, quantize=quantize) + features)
    return path


def exported(folder: Path) -> str:
    """A net as an ONNX file, Softmax and labels as skl2onnx writes them."""
    raw, label = rows(0)
    net = MLPClassifier((64, 48), max_iter=30, random_state=0)
    model = fitted(net, raw.astype(np.float32), label)
    kinds = [("rows", FloatTensorType([None, 5]))]
    done = to_onnx(model, initial_types=kinds, options={id(model): {"zipmap": False}})
    (folder / "m.onnx").write_bytes(done.SerializeToString())
    return "m.onnx"


def built(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, Any, str]:
    """Exit code, answer and talk of `wherry build`."""
    capsys.readouterr()
    out = str(path.with_name("net.wherry"))
    code = run(["build", str(path), "--out", out, "--unsigned", "--json", *more])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else None, said.err


@pytest.mark.parametrize(
    "kind",
    [
        "onnx",
        *(
            pytest.param(name, marks=[needs_framework(home), pytest.mark.slow])
            for name, home in (("torch", "torch"), ("keras", "tensorflow"))
        ),
    ],
)
def test_the_agent_decides_as_the_source(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exported(tmp_path) if kind == "onnx" else str(NETS[kind])
    path = project(tmp_path, kind, model, "flips = 2")
    code, answer, error = built(path, capsys)
    assert code == 0, error
    assert answer["quantized"]["bytes_after"] * 2 < answer["quantized"]["bytes_before"]
    parts = read_bundle(tmp_path / "net.wherry")
    raw, _ = rows(3)
    found = load_model(answer["digest"], parts).answer(raw)
    assert isinstance(found, Answers), found
    source = load_source(kind, tmp_path / model)
    flags = source.scores(raw, numbers(5)) >= parts.manifest.output.threshold
    assert 0 < flags.sum() < 400
    assert (found.flagged != flags).sum() <= 9
    if kind != "onnx":
        return  # frameworks are slow, and what follows is the same for all
    first = (tmp_path / "net.wherry").read_bytes()
    assert built(path, capsys)[0] == 0
    assert (tmp_path / "net.wherry").read_bytes() == first, "time for one row decides nothing"


@needs_framework("tensorflow")
@pytest.mark.slow
def test_keras_for_boards_without_onnxruntime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file that TensorFlow's converter wrote is the bundle's, and the agent scores it."""
    pytest.importorskip("ai_edge_litert")
    path = project(tmp_path, "keras", str(NETS["keras"]), "")
    words = path.read_text().replace("[quantize]", '[target]\nruntime = "tflite"')
    path.write_text(words)
    code, answer, error = built(path, capsys)
    assert code == 0, error
    parts = read_bundle(tmp_path / "net.wherry")
    raw, _ = rows(3)
    found = load_model(answer["digest"], parts).answer(raw)
    assert isinstance(found, Answers), found
    scores = load_source("keras", NETS["keras"]).scores(raw, numbers(5))
    assert np.array_equal(found.flagged, scores >= parts.manifest.output.threshold)
    assert 0 < found.flagged.sum() < 400


def test_budgets_that_nothing_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project(tmp_path, "onnx", exported(tmp_path), 'method = "int8"\nbytes = 10')
    code, answer, error = built(path, capsys)
    assert (code, answer["bundle"]) == (1, None)
    assert answer["quantized"]["bytes_after"] is None
    assert all("budget 10" in item["lost"] for item in answer["quantized"]["variants"])
    assert "error[Q01]" in error
    assert not (tmp_path / "net.wherry").exists()


def test_a_search_whose_choice_the_gate_refuses_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project(tmp_path, "onnx", exported(tmp_path), 'method = "weights-int4"')
    path.write_text(path.read_text().replace("flips = 9", "flips = 0", 1))
    code, answer, error = built(path, capsys)
    assert (code, answer["bundle"], "error[Q01]" in error) == (1, None, True)
    assert "decisions flip" in answer["gate"]["failures"][0]
    assert "name a [quantize] method" in error
    assert [item["kept"] for item in answer["quantized"]["variants"]].count(True) == 1


BAD = [
    ('method = "int3"', "quantize.method"),
    ("flip = 3", "did you mean 'flips'"),
    ("flips = -1", "quantize.flips"),
    ('bytes = "small"', "quantize.bytes"),
]


@pytest.mark.parametrize(("quantize", "says"), BAD)
def test_settings_that_are_none(
    quantize: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = built(project(tmp_path, "onnx", "m.onnx", quantize), capsys)
    assert (code, "error[H01]" in error, says in error) == (3, True, True)
