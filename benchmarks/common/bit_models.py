"""Models for the table of bit equality: trees, a net and a convolution, in float and in int8.

All are seeded. The same trees and the same weights are written as ONNX and as TFLite.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import Encoder, Tensor
from wherry_contract.features import Feature, InputContract
from wherry_convert.quantize_methods import OnnxWorkshop
from wherry_convert.sources.sklearn_file import load
from wherry_convert.tflite_convert import convert_tflite, tflite_needs
from wherry_convert.tflite_quant import TfliteWorkshop
from wherry_convert.tflite_write import GraphWriter
from wherry_convert.to_onnx import SCORE, Converted, convert, runtime_needs

ROWS: Final = 1000
_TRAINED: Final = 4000
_COLUMNS: Final = 24


@dataclass(frozen=True)
class Case:
    """A model and what it is asked.

    Attributes:
        name: for the table.
        kind: ``onnxruntime`` or ``tflite``.
        made: the model.
        rows: float32, shape (`ROWS`, 24).
    """

    name: str
    kind: str
    made: Converted
    rows: Tensor


def cases() -> Iterator[Case]:
    """Every model of the table, as ONNX and as TFLite."""
    make = np.random.default_rng(5)
    raw = make.normal(0, 1, (_TRAINED, _COLUMNS))
    label = (raw[:, 0] * raw[:, 1] + raw[:, 2] + make.normal(0, 0.3, _TRAINED) > 1).astype(int)
    contract = InputContract("bits", 1, tuple(Feature(f"f{k}") for k in range(_COLUMNS)))
    rows = raw[:ROWS].astype(np.float32)
    for name, source in _sources(raw, label):
        onnx, lite = convert(source, contract), convert_tflite(source, contract)
        yield from _each(name, onnx, lite, rows)
    yield from _each("convolution", _onnx_convolution(contract), _convolution(contract), rows)


def _each(name: str, onnx: Converted, lite: Converted, rows: Tensor) -> Iterator[Case]:
    given = onnx.encoder.encode(rows.astype(np.float64))
    yield Case(f"{name}, float32" if onnx.family != "trees" else name, "onnxruntime", onnx, given)
    yield Case(f"{name}, float32" if onnx.family != "trees" else name, "tflite", lite, given)
    if onnx.family == "trees":
        return
    workshop = OnnxWorkshop(onnx, given)
    for method, words in (("int8", "int8"), ("int8-signed", "int8, signed activations")):
        yield Case(f"{name}, {words}", "onnxruntime", workshop.make(method, ()), given)
    small = TfliteWorkshop(lite, given, None).make("int8", ())
    yield Case(f"{name}, int8", "tflite", small, given)


def _sources(raw: NDArray[Any], label: NDArray[Any]) -> Iterator[tuple[str, Any]]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.neural_network import MLPClassifier
    from skops.io import dumps

    models = {
        "trees": HistGradientBoostingClassifier(max_iter=60, random_state=0),
        "net": MLPClassifier((64, 32), max_iter=40, random_state=0),
    }
    for name, model in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a net that has not converged is good enough here
            model.fit(raw, label)
        yield name, load(dumps(model), (), trust_pickle=False)


def _weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A kernel, 16 filters of 2 by 3 over 4 by 6, and the layer behind: 192 to 1."""
    make = np.random.default_rng(3)
    kernel = make.normal(0, 0.4, (16, 2, 3, 1)).astype(np.float32)
    return kernel, make.normal(0, 0.2, (1, 192)).astype(np.float32)


def _convolution(contract: InputContract) -> Converted:
    kernel, dense = _weights()
    writer = GraphWriter()
    last = writer.input(_COLUMNS)
    last = writer.add(
        "RESHAPE", [last, writer.constant(np.array([1, 4, 6, 1], np.int32))], (1, 4, 6, 1)
    )
    bias = writer.constant(np.zeros(16, np.float32))
    options = {
        "StrideW": 1, "StrideH": 1, "Padding": 1, "DilationWFactor": 1, "DilationHFactor": 1,
        "FusedActivationFunction": 1,
    }  # fmt: skip
    inputs = [last, writer.constant(kernel), bias]
    last = writer.add("CONV_2D", inputs, (1, 3, 4, 16), options=("Conv2DOptions", options))
    flat = writer.constant(np.array([1, 192], np.int32))
    last = writer.add("RESHAPE", [last, flat], (1, 192))
    inputs = [last, writer.constant(dense), writer.constant(np.zeros(1, np.float32))]
    last = writer.add("FULLY_CONNECTED", inputs, (1, 1), options=("FullyConnectedOptions", {}))
    file = writer.finish(writer.add("LOGISTIC", [last], (1, 1)))
    return Converted(file, tflite_needs(file), Encoder(contract, ()), SCORE, -1, "neural")


def _onnx_convolution(contract: InputContract) -> Converted:
    from onnx import TensorProto, helper, numpy_helper

    kernel, dense = _weights()
    constants = {
        "image": np.array([-1, 1, 4, 6], np.int64),
        "kernel": np.transpose(kernel, (0, 3, 1, 2)).copy(),  # filters, channels, height, width
        "flat": np.array([-1, 192], np.int64),
        "dense": dense.T.copy(),
    }
    nodes = [
        helper.make_node("Reshape", ["input", "image"], ["i"], "n0"),
        helper.make_node("Conv", ["i", "kernel"], ["c"], "n1"),
        helper.make_node("Relu", ["c"], ["r"], "n2"),
        helper.make_node("Reshape", ["r", "flat"], ["f"], "n3"),
        helper.make_node("MatMul", ["f", "dense"], ["m"], "n4"),
        helper.make_node("Sigmoid", ["m"], [SCORE], "n5"),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", _COLUMNS])],
        [helper.make_tensor_value_info(SCORE, TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file = model.SerializeToString(deterministic=True)
    return Converted(file, runtime_needs(file), Encoder(contract, ()), SCORE, -1, "neural")
