"""Linear models and multilayer perceptrons of scikit-learn.

Only the perceptron itself goes through skl2onnx. A scaler before it is split: the part that
needs double precision, x minus its centre, is the encoder's; the factor that is left is
one multiplication in the graph. So a column of epoch seconds keeps its last digit. The last
sigmoid is in double precision, since the fused one of linear classifiers and the float32
one lose small probabilities (microsoft/onnxruntime#26281).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from wherry_contract.encoder import Step
from wherry_contract.errors import ConvertError
from wherry_convert.forest import OPSETS

from .base import Lowered, Network
from .sklearn_columns import Column, Columns, shared_steps

FAMILIES: Final = {"MLPClassifier": "neural", "LogisticRegression": "linear"}
EXACT_INTEGERS: Final = 2.0**24  # above it float32 leaves out integers


def lower_dense(model: Any, columns: Columns, order: tuple[str, ...]) -> Lowered:
    """The neutral form of a dense model behind its preprocessing.

    Args:
        model: a fitted estimator of a class in `FAMILIES`.
        columns: what reaches it.
        order: the features' names, in the order of the tensor.

    Raises:
        ConvertError: K01, K02 or K06.
    """
    pairs = [_offset_and_factor(column) for column in columns]
    offsets: dict[str, float] = {}
    for column, (offset, _) in zip(columns, pairs, strict=True):
        if offsets.setdefault(column.feature.name, offset) != offset:
            detail = f"{column.feature.name} is used twice, with two scalers"
            raise ConvertError("K01", detail)
        _check_magnitude(column, offset)
    steps = shared_steps(columns) + tuple(
        Step("offset", name, {"value": value}) for name, value in offsets.items() if value
    )
    proto, tensor = _BUILDERS[type(model).__name__](model)
    slots = [order.index(column.feature.name) for column in columns]
    _put_before(proto, slots, [factor for _, factor in pairs], len(order))
    return Lowered(steps, Network(proto.SerializeToString(), tensor, -1))


def _offset_and_factor(column: Column) -> tuple[float, float]:
    """Numbers with maps(x) = factor * (x - offset), of a column's linear maps."""
    factor, shift = 1.0, 0.0
    for item in column.maps:
        if item.op == "clip":
            raise ConvertError(
                "K01",
                f"{column.feature.name} is clipped by its scaler before a {'/'.join(FAMILIES)}",
                cure="use a scaler with clip=False",
            )
        if item.op in {"sub", "add"}:
            shift += item.value if item.op == "add" else -item.value
        else:
            value = item.value if item.op == "mul" else 1.0 / item.value
            factor, shift = factor * value, shift * value
    return (-shift / factor if shift else 0.0), factor


def _check_magnitude(column: Column, offset: float) -> None:
    feature = column.feature
    ends = [abs(end - offset) for end in (feature.minimum, feature.maximum) if end is not None]
    if max(ends, default=0.0) > EXACT_INTEGERS and not column.maps:
        raise ConvertError(
            "K02",
            f"{feature.name} reaches {max(ends):.0f}, which float32 cannot hold to the unit",
            cure="put a StandardScaler before the model and fit it again",
        )


def _perceptron(model: Any) -> tuple[Any, str]:
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError as error:
        raise ConvertError("K06", "pip install 'wherry[sklearn]'") from error
    proto = to_onnx(
        model,
        initial_types=[("input", FloatTensorType([None, model.n_features_in_]))],
        target_opset=dict(OPSETS),
        options={id(model): {"zipmap": False}},
    )
    return proto, _widen_the_sigmoid(proto.graph)


def _widen_the_sigmoid(graph: Any) -> str:
    """Put the last sigmoid into double precision and make it the one output."""
    from onnx import TensorProto, helper

    last = [node for node in graph.node if node.op_type == "Sigmoid"][-1]
    place = list(graph.node).index(last)
    wide = helper.make_node("Cast", [last.input[0]], ["wherry_wide"], to=TensorProto.DOUBLE)
    graph.node.insert(place, wide)
    last.input[0] = "wherry_wide"
    tensor = str(last.output[0])
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.DOUBLE, [None, 1]))
    return tensor


def _logistic(model: Any) -> tuple[Any, str]:
    from onnx import TensorProto, helper, numpy_helper

    constants = [
        numpy_helper.from_array(model.coef_.T.astype(np.float32), "weights"),
        numpy_helper.from_array(model.intercept_.astype(np.float64), "intercept"),
    ]
    nodes = [
        helper.make_node("MatMul", ["input", "weights"], ["product"]),
        helper.make_node("Cast", ["product"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["wide", "intercept"], ["decision"]),
        helper.make_node("Sigmoid", ["decision"], ["probability"]),
    ]
    features = model.n_features_in_
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, features])]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.DOUBLE, [None, 1])]
    graph = helper.make_graph(nodes, "wherry", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", OPSETS[""])]
    return helper.make_model(graph, opset_imports=opsets), "probability"


_BUILDERS: Final[dict[str, Callable[[Any], tuple[Any, str]]]] = {
    "MLPClassifier": _perceptron,
    "LogisticRegression": _logistic,
}


def _put_before(proto: Any, slots: list[int], factors: list[float], features: int) -> None:
    """Choose the columns, then multiply each by its factor, before the graph's first node."""
    from onnx import helper, numpy_helper

    graph = proto.graph
    nodes, last = [], "input"
    if slots != list(range(features)):
        graph.initializer.append(numpy_helper.from_array(np.array(slots), "wherry_columns"))
        nodes.append(helper.make_node("Gather", [last, "wherry_columns"], ["wherry_x"], axis=1))
        last = "wherry_x"
    if any(factor != 1.0 for factor in factors):
        row = np.array([factors], np.float32)
        graph.initializer.append(numpy_helper.from_array(row, "wherry_factors"))
        nodes.append(helper.make_node("Mul", [last, "wherry_factors"], ["wherry_z"]))
        last = "wherry_z"
    for node in graph.node:
        node.input[:] = [last if name == "input" else name for name in node.input]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes + rest)
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = features
