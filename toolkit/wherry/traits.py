"""Traits of a model file that decide where it may run: how its numbers are kept and computed."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from wherry_convert.graph import parse
from wherry_convert.tflite_graph import hybrid_scales
from wherry_convert.tflite_inspect import inspect_tflite

SIGNED: Final = "signed int8 activations"
UNSIGNED: Final = "unsigned int8 activations"
WIDE: Final = "int16 activations"
DYNAMIC: Final = "dynamic int8"
SINGLE: Final = "dynamic int8, one scale for each layer"
INTEGER: Final = "integer arithmetic"
WEIGHTS: Final = "int8 weights"
FOUR: Final = "int4 weights"
HALF: Final = "float16 weights"
LOWEST: Final = "int8 weight of -128"
EVERY: Final = frozenset(
    {SIGNED, UNSIGNED, WIDE, DYNAMIC, SINGLE, INTEGER, WEIGHTS, FOUR, HALF, LOWEST}
)  # fmt: skip
_PRODUCTS: Final = {"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "BATCH_MATMUL"}


def traits(model: bytes, kind: str) -> frozenset[str]:
    """The traits of a model.

    Args:
        model: the file.
        kind: ``onnxruntime`` or ``tflite``.

    Returns:
        Some of `EVERY`.

    Raises:
        ConvertError: K04, it cannot be read.
    """
    found = _of_tflite(model) if kind == "tflite" else _of_onnx(model)
    if found & {SIGNED, UNSIGNED, WIDE, DYNAMIC, SINGLE}:
        found.add(INTEGER)
    return frozenset(found)


def _of_onnx(model: bytes) -> set[str]:
    from onnx import TensorProto

    graph = parse(model).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    activations = {TensorProto.INT8: SIGNED, TensorProto.INT16: WIDE, TensorProto.UINT16: WIDE}
    weights = {
        TensorProto.INT8: WEIGHTS,
        TensorProto.UINT8: WEIGHTS,
        TensorProto.INT4: FOUR,
        TensorProto.UINT4: FOUR,
    }
    found = {HALF for tensor in constants.values() if tensor.data_type == TensorProto.FLOAT16}
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            found.add(DYNAMIC)
        elif node.op_type == "QuantizeLinear":
            zero = constants.get(node.input[2]) if len(node.input) > 2 else None
            found.add(activations.get(zero.data_type, UNSIGNED) if zero else UNSIGNED)
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            tensor = constants[node.input[0]]
            found |= {weights[tensor.data_type]} if tensor.data_type in weights else set()
            found |= {LOWEST} if _has_lowest(tensor) else set()
    return found


def _has_lowest(tensor: Any) -> bool:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type != TensorProto.INT8:
        return False
    values = numpy_helper.to_array(tensor)
    return bool(values.size and values.min() == np.iinfo(np.int8).min)


def _of_tflite(model: bytes) -> set[str]:
    facts = inspect_tflite(model)
    found = set()
    for dtype, word in (("int8", WEIGHTS), ("int4", FOUR), ("float16", HALF)):
        if dtype in facts.weights:
            found.add(word)
    if not _PRODUCTS & set(facts.operators):
        return found  # integers in trees are places and ranks
    for dtype, word in (("int8", SIGNED), ("uint8", UNSIGNED), ("int16", WIDE)):
        if dtype in facts.activations:
            found.add(word)
    # float rows and integer weights that nothing widens first: the kernel quantizes each row
    scales = hybrid_scales(model)
    if scales:
        found.add(SINGLE if set(scales) == {1} else DYNAMIC)
    return found
