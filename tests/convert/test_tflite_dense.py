"""Linear models and nets as TFLite: the source's decisions, and refusals with a cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from support_convert import differences, fitted, numbers, scored, table, through_skops
from support_tflite import old_runtime, score_in

from wherry_contract.errors import ConvertError
from wherry_convert.environments import MARK, folder_of
from wherry_convert.sources import load_source
from wherry_convert.sources.base import Network
from wherry_convert.tflite_convert import convert_tflite
from wherry_convert.tflite_dense import network_tflite
from wherry_convert.tflite_inspect import inspect_tflite
from wherry_convert.tflite_scoring import TfliteRunner

pytest.importorskip("ai_edge_litert", reason="the extra tflite is absent; make test-frameworks")
pytest.importorskip("tflite", reason="likewise")


def mlp(activation: str = "relu", layers: Any = (24, 12)) -> MLPClassifier:
    return MLPClassifier(layers, activation=activation, max_iter=15, random_state=0)


ROWS = [
    ("relu", make_pipeline(StandardScaler(), mlp()), 0),
    ("tanh", make_pipeline(StandardScaler(), mlp("tanh")), 0),
    ("logistic", make_pipeline(StandardScaler(), mlp("logistic")), 0),
    ("no bend", make_pipeline(StandardScaler(), mlp("identity")), 0),
    ("one layer", make_pipeline(StandardScaler(), mlp(layers=(7,))), 0),
    ("imputer, min-max", make_pipeline(SimpleImputer(), MinMaxScaler(), mlp()), 0.05),
    ("chosen columns", make_pipeline(StandardScaler(), SelectKBest(k=3), mlp()), 0),
    (
        "logistic regression",
        make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
        0.05,
    ),
]


@pytest.mark.parametrize(
    ("model", "gaps"), [pytest.param(model, gaps, id=name) for name, model, gaps in ROWS]
)
def test_same_decisions(model: Any, gaps: float, tmp_path: Path) -> None:
    raw, label = table(gaps=gaps)
    contract = numbers(5, missing="allow" if gaps else "refuse")
    source = through_skops(fitted(model, raw, label))
    converted = convert_tflite(source, contract)
    assert converted.model == convert_tflite(source, contract).model
    found = differences(source, converted, raw[:400], contract)
    assert {name: d.flips for name, d in found.items() if d.flips} == {}
    assert max(d.largest for d in found.values()) < 3e-6
    rows = raw[:200]
    (old,) = score_in(old_runtime(), [(converted.model, converted.encoder.encode(rows))], tmp_path)
    assert np.abs(old.ravel() - source.scores(rows, contract)).max() < 3e-6


def test_a_layer_is_one_operator() -> None:
    raw, label = table(500)
    source = through_skops(fitted(make_pipeline(StandardScaler(), mlp()), raw, label))
    facts = inspect_tflite(convert_tflite(source, numbers(5)).model)
    assert facts.versions == {"FULLY_CONNECTED": 1, "LOGISTIC": 1, "MUL": 1}
    assert [item.name for item in facts.inputs + facts.outputs] == ["input", "score"]


def network(nodes: list[Any], constants: dict[str, Any], opset: int = 13) -> Network:
    """A graph as a framework would bring it; its output is y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(v), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return Network(model.SerializeToString(), "y", -1)


W = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def node(kind: str, *names: str, **more: Any) -> Any:
    return helper.make_node(kind, list(names[:-1]), [names[-1]], **more)


KNOWN = [
    ("gemm", [node("Gemm", "x", "w", "b", "y", transB=1)], {"w": W.T, "b": W[0]}, [10, 14, 18]),
    (
        "gemm with factors",
        [node("Gemm", "x", "w", "b", "y", alpha=2.0, beta=0.5)],
        {"w": W, "b": W[0]},
        [18.5, 25, 31.5],
    ),
    (
        "relu between",
        [node("MatMul", "x", "w", "p"), node("Relu", "p", "q"), node("MatMul", "q", "v", "y")],
        {"w": -W, "v": W.T},
        [0, 0],
    ),
    (
        "batch normalization",
        [node("BatchNormalization", "x", "s", "b", "m", "v", "y", epsilon=0.0)],
        {"s": W[0, :2], "b": W[1, :2], "m": 0 * W[0, :2], "v": 4 * W[0, :2] ** 2},
        [4.5, 6],
    ),
    (
        "leaky relu",
        [node("MatMul", "x", "w", "p"), node("LeakyRelu", "p", "y", alpha=0.5)],
        {"w": -W},
        [-4.5, -6, -7.5],
    ),
    (
        "elu",
        [node("Sub", "x", "b", "p"), node("Elu", "p", "y")],
        {"b": W[0, :2] * 2},
        [-0.63212, -0.86466],
    ),
    ("softmax", [node("MatMul", "x", "w", "p"), node("Softmax", "p", "y")], {"w": W * 0}, [1 / 3]),
    (
        "scaled and moved",
        [node("Sub", "x", "b", "p"), node("Div", "p", "b", "q"), node("Add", "b", "q", "y")],
        {"b": 2 * W[0, :2]},
        [1.5, 3.5],
    ),
]


@pytest.mark.parametrize(
    ("nodes", "constants", "wanted"), [pytest.param(*row[1:], id=row[0]) for row in KNOWN]
)
def test_known_by_hand(nodes: Any, constants: Any, wanted: Any) -> None:
    runner = TfliteRunner(network_tflite(network(nodes, constants), 2), 1, "score")
    found = runner.run(np.array([[1, 2]], np.float32))[0]
    if len(wanted) == 1:
        wanted = wanted * len(found)
    # 1 * (1, 2, 3) + 2 * (4, 5, 6) = (9, 12, 15)
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_onnxs(approximate: str, tmp_path: Path) -> None:
    """PyTorch's exporter writes it; both runtimes know it."""
    nodes = [node("MatMul", "x", "w", "p"), node("Gelu", "p", "y", approximate=approximate)]
    chain = network(nodes, {"w": W}, opset=20)
    rows = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    model = network_tflite(chain, 2)
    (wanted,) = ReferenceEvaluator(onnx.load_model_from_string(chain.model)).run(None, {"x": rows})
    assert TfliteRunner(model, 1, "score").run(rows) == pytest.approx(wanted, abs=1e-5)
    (old,) = score_in(old_runtime(), [(model, rows)], tmp_path)
    assert old == pytest.approx(wanted, abs=1e-5)


REFUSED = [
    ("branches", [node("Relu", "x", "a"), node("Add", "x", "a", "y")], {}),
    ("unknown", [node("Erf", "x", "y")], {}),
    ("constant first", [node("MatMul", "w", "x", "y")], {"w": W}),
    ("does not fit", [node("MatMul", "x", "w", "y")], {"w": W.T}),
    ("bias that does not fit", [node("Gemm", "x", "w", "b", "y")], {"w": W, "b": W[0, :2]}),
    ("turned input", [node("Gemm", "x", "w", "y", transA=1)], {"w": W}),
]


@pytest.mark.parametrize(
    ("nodes", "constants"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED]
)
def test_anything_but_a_chain_is_refused(nodes: Any, constants: Any) -> None:
    with pytest.raises(ConvertError, match=r"K01.*no chain") as caught:
        network_tflite(network(nodes, constants), 2)
    assert "onnxruntime" in caught.value.cure


def test_leaves_are_for_trees() -> None:
    raw, label = table(500)
    source = through_skops(fitted(make_pipeline(StandardScaler(), mlp()), raw, label))
    with pytest.raises(ConvertError, match="K02"):
        convert_tflite(source, numbers(5), leaves="int16")


@pytest.mark.skipif(
    not (folder_of("torch") / MARK).exists(), reason="run: wherry doctor --install torch"
)
@pytest.mark.slow
def test_a_module_of_pytorch(tmp_path: Path) -> None:
    source = load_source("torch", Path(__file__).parent / "data" / "net.pt2")
    raw = np.random.default_rng(3).normal(size=(500, 5))
    converted = convert_tflite(source, numbers(5))
    wanted = source.scores(raw, numbers(5))
    assert np.abs(scored(converted).scores(raw) - wanted).max() < 1e-6
    (old,) = score_in(old_runtime(), [(converted.model, converted.encoder.encode(raw))], tmp_path)
    assert np.abs(old.ravel() - wanted).max() < 1e-6


@pytest.mark.parametrize(("weights", "times", "gap"), [("float16", 1.7, 1e-3), ("int8", 2.5, 0.02)])
def test_smaller_weights(weights: str, times: float, gap: float, tmp_path: Path) -> None:
    """Widened once when it is loaded: whichever board computes, it computes in float32."""
    raw, label = table()
    net = make_pipeline(StandardScaler(), mlp(layers=(128, 64)))
    source = through_skops(fitted(net, raw, label))
    full = convert_tflite(source, numbers(5))
    small = convert_tflite(source, numbers(5), weights=weights)
    assert small.model == convert_tflite(source, numbers(5), weights=weights).model
    assert len(small.model) * times < len(full.model)
    assert inspect_tflite(small.model).quantization == f"{weights} weights"
    found = scored(small).scores(raw)
    wanted = source.scores(raw, numbers(5))
    assert 0 < np.abs(found - wanted).max() < gap
    (old,) = score_in(old_runtime(), [(small.model, small.encoder.encode(raw))], tmp_path)
    assert np.abs(old.ravel() - found).max() < 1e-6


def test_weights_are_for_nets() -> None:
    raw, label = table(500)
    source = through_skops(fitted(LogisticRegression(), (raw - raw.mean(0)) / raw.std(0), label))
    with pytest.raises(ConvertError, match="K02"):
        convert_tflite(source, numbers(5), weights="int8")
