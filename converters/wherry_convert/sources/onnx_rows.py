"""Inputs of ONNX files from elsewhere: rows of named values, laid out flat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from wherry_contract.errors import ConvertError
from wherry_contract.features import MAX_FEATURES

_ONE_TENSOR: Final = "export it with one float32 input of shape (rows, features)"
_NO_STATE: Final = (
    "a bundle scores each row by itself, so that state from call to call has no place"
)
_TOO_WIDE: Final = (
    "put what makes few features of it before the model; a bundle is no place for images or sound"
)


def one_input(graph: Any) -> tuple[str, int, bool]:
    """The one input of a graph.

    Args:
        graph: a GraphProto.

    Returns:
        Its name, values of a row (0 if it does not say), and whether the graph must be opened.

    Raises:
        ConvertError: K01 or K02.
    """
    from onnx import TensorProto

    constants = {tensor.name for tensor in graph.initializer}
    inputs = [item for item in graph.input if item.name not in constants]
    if len(inputs) != 1:
        listed = ", ".join(item.name for item in inputs[:6]) or "none"
        detail = f"it has {len(inputs)} inputs: {listed}"
        raise ConvertError("K01", detail, cure=f"{_ONE_TENSOR}; {_NO_STATE}")
    kind, name = inputs[0].type.tensor_type, inputs[0].name
    if kind.elem_type == TensorProto.DOUBLE:
        detail = f"its input {name} is float64, and a graph is given float32"
        raise ConvertError("K02", detail, cure=_ONE_TENSOR)
    if kind.elem_type != TensorProto.FLOAT:
        known = {number: word for word, number in TensorProto.DataType.items()}
        word = known.get(kind.elem_type, f"type {kind.elem_type}")
        detail = f"its input {name} holds {word}"
        cure = f"{_ONE_TENSOR}; a category is given as its place in the contract's list"
        raise ConvertError("K01", detail, cure=cure)
    sizes = [item.dim_value for item in kind.shape.dim]
    return str(name), _features(str(name), sizes), len(sizes) > 2 or sizes[0] > 0


def _features(name: str, sizes: Sequence[int]) -> int:
    """Values of a row; 0 if the file does not say. Further axes are laid out in a row's order."""
    shape = ", ".join(str(size) if size > 0 else "?" for size in sizes)
    if len(sizes) < 2 or (len(sizes) > 2 and min(sizes[1:]) < 1):
        detail = f"its input {name} has shape ({shape}), and a row is a list of named values"
        raise ConvertError("K01", detail, cure=f"{_ONE_TENSOR}, or fix all sizes but the first")
    return refuse_wide_rows(max(0, math.prod(sizes[1:])), f"its input {name} has shape ({shape})")


def refuse_wide_rows(features: int, what: str) -> int:
    """The same number of values, if a contract can name that many.

    Raises:
        ConvertError: K01.
    """
    if features > MAX_FEATURES:
        detail = f"{what}: {features:,} values, and a contract names at most {MAX_FEATURES:,}"
        raise ConvertError("K01", detail, cure=_TOO_WIDE)
    return features


def flatten(model: Any, entry: str) -> None:
    """Let rows be flat: where the graph wants more axes, a Reshape stands in front.

    Args:
        model: a ModelProto, which is changed.
        entry: name of its input.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    (item,) = (item for item in graph.input if item.name == entry)
    sizes = [axis.dim_value for axis in item.type.tensor_type.shape.dim]
    if len(sizes) < 3:
        return
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    shaped, shape = (_unused(f"{entry} {word}", names) for word in ("shaped", "shape"))
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == entry:
                node.input[place] = shaped
    graph.initializer.append(
        helper.make_tensor(shape, TensorProto.INT64, [len(sizes)], [-1, *sizes[1:]])
    )
    first = helper.make_node("Reshape", [entry, shape], [shaped])
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([first, *rest])
    flat = helper.make_tensor_value_info(entry, TensorProto.FLOAT, ["rows", math.prod(sizes[1:])])
    item.CopyFrom(flat)


def _unused(name: str, names: set[str]) -> str:
    while name in names:
        name += "'"
    return name
