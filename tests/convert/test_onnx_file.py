"""ONNX files from elsewhere: taken as they are, or refused with what to export instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from support_convert import differences, fitted, numbers, scored, table

from wherry_contract.errors import WherryError
from wherry_contract.features import InputContract
from wherry_convert.quantize import METHODS, Budgets, quantize
from wherry_convert.sources import load_source
from wherry_convert.sources.outputs import Wanted
from wherry_convert.to_onnx import convert


def written(model: Any, path: Path) -> Path:
    """A ModelProto as a file."""
    path.write_bytes(model.SerializeToString())
    return path


def exported(model: Any, *, zipmap: bool = False, width: int = 2) -> Any:
    """What skl2onnx makes of a model that is fitted to `width` columns of the table."""
    raw, label = table(600)
    model = fitted(model, raw[:, :width].astype(np.float32), label)
    kinds = [("rows", FloatTensorType([None, width]))]
    return to_onnx(model, initial_types=kinds, options={id(model): {"zipmap": zipmap}})


def graph_of(
    *nodes: Any, kind: int = TensorProto.FLOAT, shape: Any = (None, 2), out: Any = (None, 1)
) -> Any:
    """A model of these nodes, from x to y."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(out))],
        [
            numpy_helper.from_array(np.array([[0.5], [-0.25]], np.float32), "w"),
            numpy_helper.from_array(np.array([0, 1]), "places"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


PRODUCT = helper.make_node("MatMul", ["x", "w"], ["z"])
LINK = helper.make_node("Sigmoid", ["z"], ["y"])


@pytest.mark.parametrize("zipmap", [False, True])
@pytest.mark.parametrize(
    ("model", "family"),
    [
        (RandomForestClassifier(8, max_depth=4, random_state=0), "trees"),
        (LogisticRegression(), "linear"),
        (MLPClassifier((9, 7), max_iter=9, random_state=0), "neural"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_taken_as_it_is(model: Any, family: str, zipmap: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter of the table
    path = written(exported(model, zipmap=zipmap), tmp_path / "m.onnx")
    source = load_source("onnx", path)
    contract = numbers(2)
    raw, _ = table(600)
    expected = model.predict_proba(raw[:, :2].astype(np.float32))[:, 1]
    assert np.abs(source.scores(raw[:, :2], contract) - expected).max() < 1e-5
    converted = convert(source, contract)
    assert (source.family, converted.family) == (family, family)
    found = differences(source, converted, raw[:, :2], contract)
    assert all(item.flips == 0 and item.largest < 1e-6 for item in found.values())
    assert ("near a threshold at" in " ".join(found)) == (family == "trees")
    assert convert(load_source("onnx", path), contract).model == converted.model


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted("class"), [0.0900, 0.2447, 0.6652]),
        (Wanted(positive="low"), 0.0900),
        (Wanted(positive="high"), 0.6652),
    ],
    ids=["all", "first", "last"],
)
def test_names_of_a_zip_map_that_are_in_no_order(
    wanted: Wanted, expected: Any, tmp_path: Path
) -> None:
    """The runtime's dictionary has its keys in order: high, low, mid."""
    names = ["low", "mid", "high"]
    nodes = [
        helper.make_node("Softmax", ["x"], ["y"], axis=1),
        helper.make_node("ZipMap", ["y"], ["m"], domain="ai.onnx.ml", classlabels_strings=names),
    ]
    model = graph_of(*nodes, shape=(None, 3))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    column = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    rows = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.STRING, column))
    model.graph.output[0].CopyFrom(helper.make_value_info("m", rows))
    source = load_source("onnx", written(model, tmp_path / "m.onnx"), wanted=wanted)
    raw = np.array([[1.0, 2.0, 3.0]])
    for found in (source.scores(raw, numbers(3)), scored(convert(source, numbers(3))).scores(raw)):
        assert found[0] == pytest.approx(expected, abs=1e-4)


def test_a_fixed_batch_of_one_is_opened(tmp_path: Path) -> None:
    model = graph_of(PRODUCT, LINK, shape=(1, 2), out=(1, 1))
    source = load_source("onnx", written(model, tmp_path / "m.onnx"))
    raw = np.array([[1.0, 2.0], [3.0, 4.0], [9.0, 0.0]])
    expected = 1 / (1 + np.exp(-(raw @ [0.5, -0.25])))
    assert source.scores(raw, numbers(2)) == pytest.approx(expected, abs=1e-6)
    converted = convert(source, numbers(2))
    assert scored(converted).scores(raw) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rows", [None, 1])
def test_more_axes_are_laid_out_flat(rows: int | None, tmp_path: Path) -> None:
    """Row by row, the last axis fastest: what the graph transposes tells the order."""
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
            helper.make_node("Flatten", ["t"], ["f"], axis=1),
            helper.make_node("MatMul", ["f", "w"], ["z"]),
            LINK,
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 1])],
        [numpy_helper.from_array(np.arange(6, dtype=np.float32)[:, None] / 9, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    source = load_source("onnx", written(model, tmp_path / "m.onnx"))
    raw = np.random.default_rng(0).normal(size=(7, 6))
    logit = raw.reshape(7, 2, 3).transpose(0, 2, 1).reshape(7, 6) @ (np.arange(6) / 9)
    expected = 1 / (1 + np.exp(-logit))
    assert source.scores(raw, numbers(6)) == pytest.approx(expected, abs=1e-6)
    assert scored(convert(source, numbers(6))).scores(raw) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(WherryError, match=r"K07.*6 columns"):
        convert(source, numbers(5))


def test_it_is_quantized_like_any_other(tmp_path: Path) -> None:
    model = exported(MLPClassifier((64, 48), max_iter=20, random_state=0), width=2)
    source = load_source("onnx", written(model, tmp_path / "m.onnx"))
    converted = convert(source, numbers(2))
    raw, _ = table(600)
    done = quantize(
        converted,
        converted.encoder.encode(raw[:, :2]),
        methods=tuple(METHODS),
        budgets=Budgets(flips=2),
    )
    assert done.bytes_after * 2 < done.bytes_before


def _dynamic_opset(model: Any, domain: str, version: int) -> Any:
    for item in model.opset_import:
        if item.domain == domain:
            item.version = version
    return model


def _ir(model: Any, version: int) -> Any:
    model.ir_version = version
    return model


def _with(model: Any, *, inputs: int = 0, outputs: int = 0) -> Any:
    for place in range(inputs):
        more = helper.make_tensor_value_info(f"state{place}", TensorProto.FLOAT, [None, 2])
        model.graph.input.append(more)
    for _ in range(outputs):
        model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None, 1]))
    return model


def _external(model: Any) -> Any:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    return model


def _plain() -> Any:
    return graph_of(PRODUCT, LINK)


REFUSED: list[tuple[str, Callable[[], Any], str, str]] = [
    ("several inputs", lambda: _with(_plain(), inputs=2), "K01", "3 inputs: x, state0"),
    ("several outputs", lambda: _with(_plain(), outputs=1), "K01", "2 outputs"),
    ("doubles", lambda: graph_of(PRODUCT, LINK, kind=TensorProto.DOUBLE), "K02", "float64"),
    ("strings", lambda: graph_of(PRODUCT, LINK, kind=TensorProto.STRING), "K01", "STRING"),
    ("integers", lambda: graph_of(PRODUCT, LINK, kind=TensorProto.INT64), "K01", "INT64"),
    ("an image", lambda: graph_of(PRODUCT, LINK, shape=(None, 3, 32, 32)), "K01", "3,072 values"),
    ("any image", lambda: graph_of(PRODUCT, LINK, shape=(None, 3, None, 2)), "K01", "(?, 3, ?, 2)"),
    ("no rows", lambda: graph_of(PRODUCT, LINK, shape=(2,)), "K01", "(2)"),
    ("three classes", lambda: graph_of(helper.make_node("Concat", ["x", "x"], ["z"], axis=1), helper.make_node("Softmax", ["z"], ["y"]), out=(None, 4)), "K01", "4 columns"),
    ("rows that mix", lambda: graph_of(PRODUCT, helper.make_node("Softmax", ["z"], ["y"], axis=0)), "K02", "beside it"),
    ("an operator of nobody", lambda: graph_of(PRODUCT, helper.make_node("RandomNormalLike", ["z"], ["y"])), "K01", "RandomNormalLike"),
    ("another domain", lambda: graph_of(PRODUCT, helper.make_node("Run", ["z"], ["y"], domain="my.code")), "K01", "my.code:Run"),
    ("a later operator set", lambda: _dynamic_opset(_plain(), "", 27), "K01", "27"),
    ("a later IR", lambda: _ir(_plain(), 14), "K01", "IR version 14"),
    ("weights elsewhere", lambda: _external(_plain()), "K04", "another file"),
    ("a graph that fails", lambda: graph_of(helper.make_node("MatMul", ["w", "x"], ["z"]), LINK), "K04", "onnxruntime"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "code", "says"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED]
)
def test_refused(make: Callable[[], Any], code: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(WherryError) as caught:
        load_source("onnx", written(make(), tmp_path / "m.onnx"))
    assert caught.value.code == code
    assert says in caught.value.detail
    assert caught.value.cure


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x07\x12", bytes(range(256))])
def test_no_model_at_all(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(WherryError, match="K04"):
        load_source("onnx", path)


def test_bits_that_flipped(tmp_path: Path) -> None:
    """Every damaged file is refused with a code, or is a model all the same."""
    good = exported(LogisticRegression()).SerializeToString()
    make = np.random.default_rng(3)
    path = tmp_path / "m.onnx"
    for _ in range(60):
        bad = bytearray(good)
        for place in make.integers(0, len(good), 3):
            bad[place] ^= 1 << int(make.integers(8))
        path.write_bytes(bad)
        try:
            load_source("onnx", path)
        except WherryError as error:
            assert error.code in {"K01", "K02", "K04"}  # noqa: PT017 - it may also be taken


def test_logits_are_no_probabilities(tmp_path: Path) -> None:
    model = graph_of(helper.make_node("MatMul", ["x", "w"], ["y"]))
    source = load_source("onnx", written(model, tmp_path / "m.onnx"))
    with pytest.raises(WherryError, match="K01") as caught:
        source.scores(np.array([[9.0, 0.0]]), numbers(2))
    assert "Sigmoid" in caught.value.cure


@pytest.mark.parametrize(
    ("contract", "says"),
    [(numbers(3), "2 columns"), (numbers(2, missing="allow"), "missing")],
)
def test_a_contract_that_does_not_fit(contract: InputContract, says: str, tmp_path: Path) -> None:
    source = load_source("onnx", written(_plain(), tmp_path / "m.onnx"))
    for ask in (source.lower, lambda c: source.scores(np.zeros((1, len(c.names))), c)):
        with pytest.raises(WherryError, match="K07") as caught:
            ask(contract)
        assert says in caught.value.detail


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("silero_vad_16k_op15.onnx", "K01", "3 inputs: input, state, sr"),
        ("ch_ppocr_mobile_v2.0_cls_infer.onnx", "K01", "shape (?, 3, ?, ?)"),
    ],
)
def test_models_of_others(name: str, code: str, says: str, shared: Path) -> None:
    """A recurrent one and one for images: no rows of named values, and said so."""
    path = shared / "models" / "onnx" / name
    assert onnx.load(path).graph.node
    with pytest.raises(WherryError) as caught:
        load_source("onnx", path)
    assert (caught.value.code, says in caught.value.detail) == (code, True)
