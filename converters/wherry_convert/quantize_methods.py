"""The ways to quantize a net, as a table: name, what it is, how it is made.

What needs integer arithmetic is onnxruntime's quantizer at work; what only stores weights
is `quantize_graph`. Whoever makes a file here gets what was asked for or an error: a layer
that a quantizer passed over in silence is counted.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from wherry_contract.encoder import Tensor
from wherry_contract.errors import ConvertError
from wherry_contract.extras import how_to_install

from .graph import parse, seal
from .quantize_graph import (
    FOUR_BIT_OPSET,
    LAYERS,
    LEAST_WEIGHTS,
    layers_of,
    narrow_weights,
    to_opset,
    without_gemm,
)
from .quantize_workshop import Method
from .to_onnx import SCORE, Converted, runtime_needs

# model without Gemm, calibration rows, layers that stay in float -> model
Make = Callable[[Any, Tensor, Collection[str]], Any]


class _Reader:
    """Hands rows to the calibrator, in the shape that it asks for."""

    def __init__(self, rows: Tensor, name: str) -> None:
        self._parts = iter([{name: rows}])

    def get_next(self) -> dict[str, Tensor] | None:
        """The next batch, or None at the end."""
        return next(self._parts, None)


def _static(kind: str) -> Make:
    def make(model: Any, rows: Tensor, floats: Collection[str]) -> Any:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        wide = kind == "QInt16"
        graph = to_opset(model, FOUR_BIT_OPSET) if wide else model
        # products of 8-bit values saturate on x86 without VNNI, so 8-bit weights use 7 bits
        return _written(
            lambda path: quantize_static(
                graph,
                path,
                _Reader(rows, model.graph.input[0].name),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(LAYERS),
                activation_type=QuantType[kind],
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=not wide,
                nodes_to_exclude=list(floats),
            )
        )

    return make


def _dynamic(model: Any, _rows: Tensor, floats: Collection[str]) -> Any:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    return _written(
        lambda path: quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],  # Conv by ConvInteger is several times slower
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=list(floats),
        )
    )


def _weights(bits: int) -> Make:
    return lambda model, _rows, floats: narrow_weights(model, bits, floats)


METHODS: Final[Mapping[str, Method]] = {
    "int8": Method("static int8, unsigned activations", _static("QUInt8"), refine=True),
    "int8-signed": Method(
        "static int8, signed activations",
        _static("QInt8"),
        careful="signed int8 activations are wrong on onnxruntime 1.21 for armhf",
    ),
    "int16": Method("static int16 activations, int8 weights", _static("QInt16"), refine=True),
    "dynamic": Method("dynamic int8", _dynamic, refine=True),
    "float16": Method("float16 weights", _weights(16), portable=True),
    "weights-int8": Method("int8 weights", _weights(8), refine=True, portable=True),
    "weights-int4": Method("int4 weights", _weights(4), refine=True, portable=True),
}


class OnnxWorkshop:
    """Quantizes an ONNX net; see `quantize_workshop.Workshop`.

    Args:
        converted: the float model.
        rows: float32, shape (rows, features), for the ranges of activations.

    Raises:
        ConvertError: K02, no layer is worth it.
    """

    methods = METHODS
    here = "onnxruntime"

    def __init__(self, converted: Converted, rows: Tensor) -> None:
        self._float, self._rows = converted, rows
        self._graph = without_gemm(parse(converted.model))
        self.layers = layers_of(self._graph)
        if not layers_of(self._graph, LEAST_WEIGHTS):
            raise nothing_to_quantize()

    def make(self, name: str, floats: Collection[str]) -> Converted:
        """A candidate; see `apply`."""
        return apply(self._float, self._graph, name, self._rows, floats)


def nothing_to_quantize() -> ConvertError:
    """K02: all layers are small, or none has weights of its own."""
    cure = "leave [quantize] out for this model"
    return ConvertError("K02", "it has no layer worth quantizing", cure=cure)


def apply(
    converted: Converted, graph: Any, name: str, rows: Tensor, floats: Collection[str]
) -> Converted:
    """Quantize by one method.

    Args:
        converted: the float model.
        graph: its ModelProto without Gemm; it is not changed.
        name: of the method.
        rows: float32, shape (rows, features), for the ranges of activations.
        floats: names of the layers that stay in float.

    Raises:
        ConvertError: K02, this method cannot quantize this model, or left out a layer.
    """
    copy = type(graph)()
    copy.CopyFrom(graph)
    made = METHODS[name].make(copy, rows, floats)
    wanted = set(floats)
    if name == "dynamic":
        wanted |= {node.name for node in graph.graph.node if node.op_type == "Conv"}
    left = set(layers_of(made, LEAST_WEIGHTS)) - wanted
    if left:
        detail = f"{METHODS[name].words}: {len(left)} layers stayed in float, first {min(left)}"
        raise ConvertError("K02", detail, cure="use another method")
    sealed = seal(made, SCORE)
    return replace(converted, model=sealed, needs=runtime_needs(sealed))


def _written(run: Callable[[Path], None]) -> Any:
    with tempfile.TemporaryDirectory(prefix="wherry-") as folder, _quiet():
        path = Path(folder) / "model.onnx"
        try:
            run(path)
        except ImportError as error:
            raise ConvertError("K06", how_to_install("host")) from error
        except Exception as error:  # the quantizer fails in any way that its passes can
            detail = f"onnxruntime cannot quantize it: {type(error).__name__}: {error}"
            raise ConvertError("K02", " ".join(detail.split())[:300]) from error
        return parse(path.read_bytes())


@contextmanager
def _quiet() -> Iterator[None]:
    # it advises on pre-processing through the root logger
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
