"""Layers of a TFLite graph with weights of their own, and operator versions that tell the truth."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from wherry_contract.errors import ConvertError
from wherry_contract.extras import how_to_install

from .quantize_graph import LEAST_WEIGHTS

PRODUCTS: Final = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "BATCH_MATMUL")
CARRIERS: Final = ("RESHAPE", "MAX_POOL_2D", "AVERAGE_POOL_2D", "TRANSPOSE", "PAD")
# from this version on FULLY_CONNECTED takes float rows and int8 weights of many scales
_BY_CHANNEL_VERSION: Final = 12


@dataclass(frozen=True)
class Layer:
    """An operator, by the name of what it computes.

    Attributes:
        name: of its output, which is the only one.
        kind: the operator, as ``FULLY_CONNECTED``.
    """

    name: str
    kind: str


def layers_of(model: bytes, least: int = LEAST_WEIGHTS) -> list[Layer]:
    """The operators that multiply by at least so many float32 constants, in order.

    Raises:
        ConvertError: K02, two of them compute tensors of one name.
    """
    schema, tree, graph = _opened(model)
    found = []
    for kind, operator in _operators(schema, tree, graph):
        if kind in PRODUCTS and operator.InputsLength() > 1:
            weight = graph.Tensors(operator.Inputs(1))
            is_float = weight.Type() == schema.TensorType.FLOAT32
            constant = tree.Buffers(weight.Buffer()).DataLength() > 0
            if is_float and constant and int(np.prod(weight.ShapeAsNumpy())) >= least:
                found.append(Layer(_output(graph, operator), kind))
    names = [layer.name for layer in found]
    if len(set(names)) != len(names) or "" in names:
        raise ConvertError("K02", "tensors of the TFLite file share a name, or have none")
    return found


def carriers_of(model: bytes, layers: Collection[Layer]) -> list[Layer]:
    """Operators that only pass on what these layers compute, so that it stays integer."""
    schema, tree, graph = _opened(model)
    inside, found = {layer.name for layer in layers}, []
    for kind, operator in _operators(schema, tree, graph):
        if kind in CARRIERS and _name(graph, operator.Inputs(0)) in inside:
            found.append(Layer(_output(graph, operator), kind))
            inside.add(found[-1].name)
    return found


def hybrid_scales(model: bytes) -> list[int]:
    """How many scales the weights have of each product of float rows and integer weights.

    Such an operator quantizes each row when it runs; there are 0 where the file does not say.
    """
    schema, tree, graph = _opened(model)
    narrow = {schema.TensorType.INT8, schema.TensorType.INT4}
    found = []
    for kind, operator in _operators(schema, tree, graph):
        if kind in PRODUCTS and operator.InputsLength() > 1:
            entry, weight = (graph.Tensors(operator.Inputs(place)) for place in (0, 1))
            if entry.Type() == schema.TensorType.FLOAT32 and weight.Type() in narrow:
                about = weight.Quantization()
                found.append(about.ScaleLength() if about is not None else 0)
    return found


def _opened(model: bytes) -> tuple[Any, Any, Any]:
    try:
        import tflite
    except ImportError as error:
        raise ConvertError("K06", how_to_install("tflite")) from error
    tree = tflite.Model.GetRootAs(model, 0)
    return tflite, tree, tree.Subgraphs(0)


def _operators(schema: Any, tree: Any, graph: Any) -> Iterator[tuple[str, Any]]:
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    for place in range(graph.OperatorsLength()):
        operator = graph.Operators(place)
        code = tree.OperatorCodes(operator.OpcodeIndex())
        yield names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), ""), operator


def _output(graph: Any, operator: Any) -> str:
    return _name(graph, operator.Outputs(0))


def _name(graph: Any, place: int) -> str:
    return (graph.Tensors(place).Name() or b"").decode()


def tidied(model: bytes) -> bytes:
    """A file of ai-edge-quantizer's as older runtimes read it right, or refuse it.

    Large constants that it leaves behind the table go into it. FULLY_CONNECTED gets the
    version that knows scales by channel, if it needs it: it is written as version 1, so that
    older kernels, as those of tflite-runtime 2.14, take one scale for all and give wrong
    numbers without an error.
    """
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromPackedBuf(bytearray(model), 0)
    for buffer in tree.buffers:
        if buffer.offset:
            end = buffer.offset + buffer.size
            buffer.data = np.frombuffer(model[buffer.offset : end], np.uint8)
            buffer.offset = buffer.size = 0
    wanted = schema.BuiltinOperator.FULLY_CONNECTED
    for graph in tree.subgraphs:
        for operator in graph.operators:
            code = tree.operatorCodes[operator.opcodeIndex]
            if code.builtinCode == wanted and _is_by_channel(schema, graph, operator):
                code.version = max(code.version, _BY_CHANNEL_VERSION)
    return _packed(tree, len(model))


def _is_by_channel(schema: Any, graph: Any, operator: Any) -> bool:
    """Whether each row is quantized at run time, for weights of many scales."""
    entry, weight = (graph.tensors[place] for place in operator.inputs[:2])
    scale = weight.quantization.scale if weight.quantization is not None else None
    narrow = weight.type in {schema.TensorType.INT8, schema.TensorType.INT4}
    if entry.type != schema.TensorType.FLOAT32 or not narrow:
        return False
    return scale is not None and len(scale) > 1


def _packed(tree: Any, size: int) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(size)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())
