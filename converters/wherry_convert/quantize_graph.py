"""Nets as a quantizer wants them, and weights alone in fewer bits.

Weights in 16, 8 or 4 bits are stored so and widened in the graph, so that arithmetic stays
float32 and one file decides the same on every board. The nodes are written here:
onnxruntime's 4-bit quantizer passes over Gemm without a word and emits an operator of its
own domain, which no bundle may hold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import ConvertError

LAYERS: Final = ("MatMul", "Conv")
TREES: Final = ("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble")
BLOCK: Final = 32  # most weights that share one 4-bit scale
FOUR_BIT_OPSET: Final = 21  # the first one with 4-bit and 16-bit integers in QuantizeLinear
LEAST_WEIGHTS: Final = 64  # below it a scale and a node cost more than they save
# onnx.TensorProto's number of a dtype -> its name; other dtypes are no weights
_PRECISIONS: Final = {
    1: "float32", 2: "int8", 3: "int8", 10: "float16", 11: "float64", 16: "bfloat16", 21: "int4",
    22: "int4",
}  # fmt: skip
_HALF_MAX: Final = 65_504.0
_SHRINKS: Final = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)

Weights = NDArray[np.float32]


def layers_of(model: Any, least: int = 1) -> list[str]:
    """Names of the nodes that multiply by a float32 constant of at least so many weights."""
    sizes = _float_weights(model)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in LAYERS and sizes.get(node.input[1], 0) >= least
    ]


def _float_weights(model: Any) -> dict[str, int]:
    from onnx import TensorProto

    return {
        tensor.name: int(np.prod(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2
    }


def precision_of(model: Any) -> str:
    """The dtype of most weights, as ModelPack names it; ``float32`` for trees."""
    # their leaves are attributes, so that the tensors are tables of codes and no weights
    if any(node.op_type in TREES for node in model.graph.node):
        return "float32"
    counts: dict[str, int] = {}
    for tensor in model.graph.initializer:
        name = _PRECISIONS.get(tensor.data_type)
        if name:
            counts[name] = counts.get(name, 0) + int(np.prod(tensor.dims))
    return max(counts, key=lambda name: counts[name], default="float32")


def without_gemm(model: Any) -> Any:
    """A copy in which each Gemm is a MatMul of the same name, and an Add.

    onnxruntime's quantizers do this too, under other names, so that a list of layers to
    leave out no longer fits; one of them skips Gemm. Gemms with factors, or without a
    constant weight, stay as they are.
    """
    from onnx import ModelProto, helper

    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type != "Gemm" or not _is_plain(node, constants):
            nodes.append(node)
            continue
        weight, product = _upright(node, constants, graph), f"{node.output[0]}_product"
        outputs = [product] if len(node.input) > 2 else list(node.output)
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], outputs, name=node.name))
        if len(node.input) > 2:
            addends = [product, node.input[2]]
            nodes.append(helper.make_node("Add", addends, list(node.output), f"{node.name}_add"))
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    used = {name for node in copies for name in node.input}
    for tensor in [item for item in graph.initializer if item.name not in used]:
        graph.initializer.remove(tensor)
    return copy


def _is_plain(node: Any, constants: Collection[str]) -> bool:
    values = {item.name: item for item in node.attribute}
    factors = [values[name].f for name in ("alpha", "beta") if name in values]
    turned = "transA" in values and values["transA"].i
    return node.input[1] in constants and not turned and all(value == 1.0 for value in factors)


def _upright(node: Any, constants: dict[str, Any], graph: Any) -> str:
    from onnx import numpy_helper

    name = str(node.input[1])
    if not any(item.name == "transB" and item.i for item in node.attribute):
        return name
    array = numpy_helper.to_array(constants[name])
    graph.initializer.append(numpy_helper.from_array(array.T.copy(), f"{name}_turned"))
    return f"{name}_turned"


def to_opset(model: Any, wanted: int) -> Any:
    """The model in at least this version of the default operator set.

    Raises:
        ConvertError: K02, onnx cannot rewrite it.
    """
    from onnx import version_converter

    now = max((item.version for item in model.opset_import if not item.domain), default=1)
    if now >= wanted:
        return model
    try:
        return version_converter.convert_version(model, wanted)
    except Exception as error:  # its exceptions share no base class but this
        detail = f"onnx cannot rewrite it for operator set {wanted}: {error}"
        raise ConvertError("K02", " ".join(detail.split())[:300]) from error


def narrow_weights(model: Any, bits: int, floats: Collection[str]) -> Any:
    """Store the weights of all layers in 16 (float), 8 or 4 bits (integers).

    Integers are symmetric; 8 bits have a scale for each output, 4 bits one for at most
    `BLOCK` inputs of each output.

    Args:
        model: as `without_gemm` gives it.
        bits: 16, 8 or 4.
        floats: names of the layers to leave in float.

    Returns:
        The model; the argument is changed.

    Raises:
        ConvertError: K02, a weight does not fit.
    """
    from onnx import numpy_helper

    if bits == 4:
        model = to_opset(model, FOUR_BIT_OPSET)
    graph = model.graph
    names = set(layers_of(model, LEAST_WEIGHTS)) - set(floats)
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    made: dict[str, str] = {}
    nodes: list[Any] = []
    for node in graph.node:
        if node.name in names:
            weight = str(node.input[1])
            if weight not in made:
                made[weight] = f"{weight}_wide"
                axis = 0 if node.op_type == "Conv" else arrays[weight].ndim - 1
                nodes += _NARROW[bits](graph, weight, arrays[weight], axis)
            node.input[1] = made[weight]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes + rest)
    return model


def _half(graph: Any, name: str, weight: Weights, _axis: int) -> list[Any]:
    from onnx import TensorProto, helper, numpy_helper

    if np.abs(weight).max() > _HALF_MAX:
        raise ConvertError("K02", f"a weight of {np.abs(weight).max():.3g} does not fit float16")
    graph.initializer.append(numpy_helper.from_array(weight.astype(np.float16), f"{name}_half"))
    return [helper.make_node("Cast", [f"{name}_half"], [f"{name}_wide"], to=TensorProto.FLOAT)]


def _eight(graph: Any, name: str, weight: Weights, axis: int) -> list[Any]:
    from onnx import numpy_helper

    others = tuple(place for place in range(weight.ndim) if place != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    codes = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
    graph.initializer.append(numpy_helper.from_array(codes, f"{name}_codes"))
    return _widened(graph, name, scale, f"{name}_wide")


def _widened(graph: Any, name: str, scale: Weights, output: str) -> list[Any]:
    """Cast and multiply: a runtime does both once, at loading; DequantizeLinear it does each time."""
    from onnx import TensorProto, helper, numpy_helper

    graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
    return [
        helper.make_node("Cast", [f"{name}_codes"], [f"{name}_whole"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_whole", f"{name}_scale"], [output]),
    ]


def _four(graph: Any, name: str, weight: Weights, axis: int) -> list[Any]:
    from onnx import TensorProto, helper, numpy_helper

    # blocks run along the inputs: the axis before the outputs' of a matrix, after it in Conv
    along = 1 if axis == 0 else axis - 1
    length = weight.shape[along]
    count = -(-length // BLOCK)
    block = -(-length // count)  # as even as they can be, so that little is padding
    short = [(0, count * block - length if place == along else 0) for place in range(weight.ndim)]
    before, after = weight.shape[:along], weight.shape[along + 1 :]
    blocks = np.pad(weight, short).reshape(*before, count, block, *after)
    scale, codes = _best_four(blocks, along + 1)
    stored = helper.make_tensor(
        f"{name}_codes", TensorProto.INT4, codes.shape, _pack(codes), raw=True
    )
    graph.initializer.append(stored)
    padded = count * block > length
    settings = {"shape": np.array([*before, count * block, *after], np.int64)}
    if padded:
        settings |= {"start": np.array([0]), "end": np.array([length]), "axis": np.array([along])}
    for suffix, values in settings.items():
        graph.initializer.append(numpy_helper.from_array(values, f"{name}_{suffix}"))
    last = f"{name}_long" if padded else f"{name}_wide"
    nodes = [
        *_widened(graph, name, scale, f"{name}_blocks"),
        helper.make_node("Reshape", [f"{name}_blocks", f"{name}_shape"], [last]),
    ]
    if padded:
        cut = [f"{name}_{suffix}" for suffix in ("long", "start", "end", "axis")]
        nodes.append(helper.make_node("Slice", cut, [f"{name}_wide"]))
    return nodes


def _best_four(blocks: Weights, axis: int) -> tuple[Weights, NDArray[np.int8]]:
    """Scales and codes with the least squared error among a few cuts of each block's range."""
    largest = np.abs(blocks).max(axis=axis, keepdims=True)
    best = np.full(largest.shape, np.inf)
    scale = np.ones(largest.shape, np.float32)
    codes = np.zeros(blocks.shape, np.int8)
    for shrink in _SHRINKS:
        tried = np.where(largest > 0, largest * np.float32(shrink / 7), 1).astype(np.float32)
        found = np.clip(np.rint(blocks / tried), -8, 7)
        error = ((found * tried - blocks) ** 2).sum(axis=axis, keepdims=True)
        better = error < best
        best, scale = np.where(better, error, best), np.where(better, tried, scale)
        codes = np.where(better, found.astype(np.int8), codes)
    return scale, codes


def _pack(codes: NDArray[np.int8]) -> bytes:
    """Two codes a byte, the first one low, as ONNX stores INT4."""
    flat = codes.reshape(-1)
    even = np.zeros(len(flat) + len(flat) % 2, np.int8)
    even[: len(flat)] = flat
    nibbles = even.astype(np.uint8) & 0xF
    return (nibbles[0::2] | (nibbles[1::2] << 4)).tobytes()


_NARROW: Final[dict[int, Callable[[Any, str, Weights, int], list[Any]]]] = {
    16: _half,
    8: _eight,
    4: _four,
}
