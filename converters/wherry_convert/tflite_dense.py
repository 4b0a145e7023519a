"""Linear models and multilayer perceptrons as a TFLite graph, layer by layer.

They come as the ONNX graph that their framework's file made: a chain in which each
operator takes the one before it, and constants. Anything else is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import ConvertError

from .graph import parse, seal
from .sources.base import Network
from .tflite_write import GraphWriter, Options

_RELU: Final = 1  # the schema's number of a fused activation
_PASSED: Final = ("Cast", "Identity", "Flatten", "Dropout", "Squeeze")  # all is float32 and flat
_ACTIVATIONS: Final = {
    "Relu": "RELU",
    "Sigmoid": "LOGISTIC",
    "Tanh": "TANH",
    "Softmax": "SOFTMAX",
    "Exp": "EXP",
}
_ARITHMETIC: Final = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV"}


def network_tflite(network: Network, features: int, *, weights: str = "float32") -> bytes:
    """The TFLite file of a chain of layers; its output ``score`` is float32.

    Args:
        network: of matrix products, biases, scaling and activations.
        features: columns of the encoder's tensor.
        weights: how matrices are kept: ``float32``, ``float16``, or ``int8`` with a scale for
            each column. The interpreter widens them once, when it loads them; arithmetic is
            float32, so that boards agree.

    Raises:
        ConvertError: K01, it is no such chain.
    """
    chain = _Chain(parse(seal(parse(network.model), network.tensor)).graph, weights)
    writer = GraphWriter()
    last = writer.input(features)
    for layer in chain.layers():
        last = layer(writer, last)
    return writer.finish(last)


Layer = Callable[[GraphWriter, int], int]


class _Chain:
    """Reads the nodes of an ONNX graph one after the other."""

    def __init__(self, graph: Any, weights: str) -> None:
        from onnx import numpy_helper

        self._weights = weights
        self._passed = {
            node.output[0]: node.input[0] for node in graph.node if node.op_type in _PASSED
        }
        self._constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer} | {
            node.output[0]: numpy_helper.to_array(node.attribute[0].t)
            for node in graph.node
            if node.op_type == "Constant" and node.attribute[0].name == "value"
        }
        self._nodes = [n for n in graph.node if n.op_type not in {*_PASSED, "Constant"}]
        self._last = graph.input[0].name

    def layers(self) -> list[Layer]:
        """What the nodes do, in order."""
        found: list[Layer] = []
        while self._nodes:
            found.append(self._layer(*self._take()))
        return found

    def _origin(self, name: str) -> str:
        while name in self._passed:
            name = self._passed[name]
        return name

    def _take(self) -> tuple[Any, list[NDArray[Any]]]:
        """The next node and its constants; its other operand must be the last output."""
        node = self._nodes.pop(0)
        names = [self._origin(name) for name in node.input]
        rest = [name for name in names if name != self._last]
        if len(names) != len(rest) + 1 or any(name not in self._constants for name in rest):
            raise _refused(f"{node.op_type} takes more than the layer before it")
        if names[0] != self._last and node.op_type not in {"Add", "Mul"}:
            raise _refused(f"{node.op_type} takes the layer before it second")
        self._last = node.output[0]
        return node, [self._constants[name] for name in rest]

    def _next_is(self, kind: str) -> bool:
        return bool(self._nodes) and self._nodes[0].op_type == kind

    def _layer(self, node: Any, constants: list[NDArray[Any]]) -> Layer:
        kind = node.op_type
        if kind in {"MatMul", "Gemm"}:
            return self._dense(node, constants)
        if kind in _ACTIVATIONS:
            return _activation(_ACTIVATIONS[kind])
        if kind in _BENDS:
            return _activation(*_BENDS[kind](node))
        if kind == "BatchNormalization":
            return _normalization(constants, _attribute(node, "epsilon", 1e-5))
        if kind in _ARITHMETIC:
            return _arithmetic(_ARITHMETIC[kind], constants[0])
        if kind == "Gather" and _attribute(node, "axis", 0) == 1 and constants[0].ndim == 1:
            return _gather(constants[0])
        raise _refused(f"{kind} is not known")

    def _dense(self, node: Any, constants: list[NDArray[Any]]) -> Layer:
        """A product, with the bias and the RELU that may follow it."""
        weights, bias = constants[0], np.zeros(1)
        if weights.ndim != 2:
            raise _refused("a product with something that is no matrix")
        if node.op_type == "Gemm":
            weights, bias = _gemm(node, constants)
        elif self._next_is("Add"):
            bias = self._take()[1][0]
        relu = self._next_is("Relu")
        if relu:
            self._take()
        if self._weights == "int8":
            return _product_of_bytes(weights, bias, relu=relu)
        return _product(weights, bias, relu=relu, kind=self._weights)


def _gemm(node: Any, constants: list[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    if _attribute(node, "transA", 0):
        raise _refused("Gemm turns its input around")
    weights = constants[0].T if _attribute(node, "transB", 0) else constants[0]
    bias = constants[1] if len(constants) > 1 else np.zeros(1)
    return weights * _attribute(node, "alpha", 1.0), bias * _attribute(node, "beta", 1.0)


def _refused(why: str) -> ConvertError:
    return ConvertError(
        "K01",
        f"its graph is no chain of dense layers: {why}",
        cure="build it for onnxruntime, or bring a TFLite file of it",
    )


def _attribute(node: Any, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return float(attribute.f if attribute.type == attribute.FLOAT else attribute.i)
    return default


def _product(
    weights: NDArray[Any], bias: NDArray[Any], *, relu: bool, kind: str = "float32"
) -> Layer:
    rows, columns = weights.shape
    if bias.size not in {1, columns}:
        raise _refused(f"a bias of shape {bias.shape}")
    full = np.broadcast_to(bias.reshape(-1), (columns,)).astype(np.float32)

    def layer(writer: GraphWriter, last: int) -> int:
        if writer.shape(last) != (1, rows):
            raise _refused(f"{rows} rows of weights for {writer.shape(last)[1]} columns")
        matrix = writer.constant(weights.T.astype(kind))
        if kind != "float32":
            matrix = writer.add("DEQUANTIZE", [matrix], (columns, rows))
        fused = {"FusedActivationFunction": _RELU} if relu else {}
        options: Options = ("FullyConnectedOptions", fused)
        inputs = [last, matrix, writer.constant(full)]
        return writer.add("FULLY_CONNECTED", inputs, (1, columns), options=options)

    return layer


def _product_of_bytes(weights: NDArray[Any], bias: NDArray[Any], *, relu: bool) -> Layer:
    """Whole numbers up to 127, then the scale of each column, then the bias."""
    largest = np.abs(weights).max(axis=0)
    scale = np.where(largest > 0, largest, 1.0) / np.iinfo(np.int8).max
    steps = np.round(weights / scale)
    product = _product(steps, np.zeros(1), relu=False, kind="int8")
    stretch = _arithmetic("MUL", scale)
    move = _arithmetic("ADD", np.broadcast_to(bias.reshape(-1), scale.shape))

    def layer(writer: GraphWriter, last: int) -> int:
        last = move(writer, stretch(writer, product(writer, last)))
        return writer.add("RELU", [last], writer.shape(last)) if relu else last

    return layer


def _activation(name: str, options: Options = ("", {})) -> Layer:
    if name == "SOFTMAX":
        options = ("SoftmaxOptions", {"Beta": 1.0})
    return lambda writer, last: writer.add(name, [last], writer.shape(last), options=options)


def _gelu(node: Any) -> tuple[str, Options]:
    about = any(item.name == "approximate" and item.s == b"tanh" for item in node.attribute)
    return "GELU", ("GeluOptions", {"Approximate": about})


def _leaky(node: Any) -> tuple[str, Options]:
    return "LEAKY_RELU", ("LeakyReluOptions", {"Alpha": _attribute(node, "alpha", 0.01)})


def _elu(node: Any) -> tuple[str, Options]:
    if _attribute(node, "alpha", 1.0) != 1.0:
        raise _refused("Elu with a factor of its own")
    return "ELU", ("", {})


# activations that have settings
_BENDS: Final[dict[str, Callable[[Any], tuple[str, Options]]]] = {
    "Elu": _elu,
    "Gelu": _gelu,
    "LeakyRelu": _leaky,
}


def _normalization(constants: list[NDArray[Any]], epsilon: float) -> Layer:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, as one factor and one summand."""
    scale, bias, mean, variance = (item.astype(np.float64) for item in constants)
    factor = scale / np.sqrt(variance + epsilon)
    stretch, move = _arithmetic("MUL", factor), _arithmetic("ADD", bias - mean * factor)
    return lambda writer, last: move(writer, stretch(writer, last))


def _arithmetic(name: str, values: NDArray[Any]) -> Layer:
    row = values.reshape(1, -1).astype(np.float32)

    def layer(writer: GraphWriter, last: int) -> int:
        shape = writer.shape(last)
        if row.size not in {1, shape[1]}:
            raise _refused(f"{name} of {row.size} numbers and {shape[1]} columns")
        options: Options = (f"{name.title()}Options", {})
        return writer.add(name, [last, writer.constant(row)], shape, options=options)

    return layer


def _gather(places: NDArray[Any]) -> Layer:
    chosen = places.astype(np.int32)
    options: Options = ("GatherOptions", {"Axis": 1, "BatchDims": 0})
    return lambda writer, last: writer.add(
        "GATHER", [last, writer.constant(chosen)], (1, len(chosen)), options=options
    )
