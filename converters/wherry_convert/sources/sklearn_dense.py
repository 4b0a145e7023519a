"""Linear models and multilayer perceptrons of scikit-learn.

Only the perceptron itself goes through skl2onnx. A scaler before it is split: the part that
needs double precision, x minus its centre, is the encoder's; the factor that is left is
one multiplication in the graph. So a column of epoch seconds keeps its last digit. What an
encoder makes of a value, and scalers of that, is one row of a table in the graph. The last
sigmoid is in double precision, since the fused one of linear classifiers and the float32
one lose small probabilities (microsoft/onnxruntime#26281).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from wherry_contract.errors import ConvertError
from wherry_contract.extras import how_to_install
from wherry_convert.forest import OPSETS

from .base import Lowered, Network
from .sklearn_column import Columns
from .sklearn_columns import before, final_of
from .sklearn_layout import lay_out, put_before

LINEAR_REGRESSORS: Final = frozenset(
    {"LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV"}
)
DENSE_REGRESSORS: Final = LINEAR_REGRESSORS | {"MLPRegressor"}
FAMILIES: Final = {"MLPClassifier": "neural", "LogisticRegression": "linear"} | {
    name: "neural" if name == "MLPRegressor" else "linear" for name in DENSE_REGRESSORS
}
_ACTIVATIONS: Final = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}
_ENDS: Final = {"softmax": "Softmax", "identity": "Identity", "exp": "Exp"}


def lower_dense(model: Any, columns: Columns, order: tuple[str, ...]) -> Lowered:
    """The neutral form of a dense model behind its preprocessing.

    Args:
        model: a fitted estimator of a class in `FAMILIES`, or a calibration of some.
        columns: what reaches it.
        order: the features' names, in the order of the tensor.

    Raises:
        ConvertError: K01, K02, K06 or K07.
    """
    steps, layout, edges = lay_out(columns, order)
    proto, tensor = _BUILDERS[type(model).__name__](model)
    put_before(proto, layout, len(order))
    return Lowered(tuple(steps), Network(proto.SerializeToString(), tensor, -1), edges)


def _perceptron(model: Any) -> tuple[Any, str]:
    if model.out_activation_ != "logistic":
        layers = list(zip(model.coefs_, model.intercepts_, strict=True))
        return _chain(layers, _ACTIVATIONS.get(model.activation, ""), _ENDS[model.out_activation_])
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError as error:
        raise ConvertError("K06", how_to_install("sklearn")) from error
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


def _chain(layers: Sequence[tuple[Any, Any]], bend: str, link: str) -> tuple[Any, str]:
    """Products and biases with an activation between them; the last sum and link are double.

    Args:
        layers: float64 weights (inputs, outputs) and biases (outputs,) of each.
        bend: the operator between them; "" for none.
        link: the operator at the end.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, last = [], [], "input"
    for place, (weights, bias) in enumerate(layers):
        final = place == len(layers) - 1
        kind = np.float64 if final else np.float32
        for name, values in (("w", weights.astype(np.float32)), ("b", bias.astype(kind))):
            constants.append(numpy_helper.from_array(values, f"{name}{place}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{place}"], [f"product{place}"]))
        last = f"product{place}"
        if final:
            nodes.append(helper.make_node("Cast", [last], ["wide"], to=TensorProto.DOUBLE))
            last = "wide"
        nodes.append(helper.make_node("Add", [last, f"b{place}"], [f"sum{place}"]))
        last = f"sum{place}"
        if bend and not final:
            nodes.append(helper.make_node(bend, [last], [f"bent{place}"]))
            last = f"bent{place}"
    axis: dict[str, Any] = {"axis": 1} if link == "Softmax" else {}
    nodes.append(helper.make_node(link, [last], ["scores"], **axis))
    ends = (layers[0][0].shape[0], layers[-1][0].shape[1])
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, ends[0]])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.DOUBLE, [None, ends[1]])]
    graph = helper.make_graph(nodes, "wherry", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", OPSETS[""])]
    return helper.make_model(graph, opset_imports=opsets), "scores"


def _straight(model: Any) -> tuple[Any, str]:
    weights = np.asarray(model.coef_, np.float64).reshape(1, -1).T
    bias = np.asarray(model.intercept_, np.float64).reshape(-1)
    return _chain([(weights, np.broadcast_to(bias, (1,)))], "", "Identity")


def _logistic(model: Any) -> tuple[Any, str]:
    if len(model.classes_) > 2:
        if model.solver == "liblinear" or getattr(model, "multi_class", "auto") == "ovr":
            raise ConvertError(
                "K01",
                "one LogisticRegression for each class is not known",
                cure="fit it with solver='lbfgs', which weighs all classes together",
            )
        return _chain([(model.coef_.T, model.intercept_)], "", "Softmax")
    return _logistic_mean(model.coef_, model.intercept_)


def _calibrated_logistic(model: Any) -> tuple[Any, str]:
    """A sigmoid of a linear score is linear inside: only the weights change."""
    weights, intercepts = [], []
    for part in model.calibrated_classifiers_:
        inside = final_of(part.estimator)
        if type(inside).__name__ != "LogisticRegression" or any(before(part.estimator)):
            raise ConvertError(
                "K01",
                f"calibration of a {type(inside).__name__} behind steps of its own is not known",
                cure="calibrate a LogisticRegression alone, in a pipeline behind those steps",
            )
        if part.method != "sigmoid":
            raise ConvertError(
                "K02",
                f"calibration by {part.method} of a linear model has steps that float32 misses",
                cure="calibrate with method='sigmoid'",
            )
        (curve,) = part.calibrators
        weights.append(-curve.a_ * inside.coef_[0])
        intercepts.append(-curve.a_ * inside.intercept_[0] - curve.b_)
    return _logistic_mean(np.stack(weights), np.array(intercepts))


def _logistic_mean(weights: Any, intercepts: Any) -> tuple[Any, str]:
    """The mean of logistic scores: float64 weights (scores, features), intercepts (scores,)."""
    from onnx import TensorProto, helper, numpy_helper

    constants = [
        numpy_helper.from_array(weights.T.astype(np.float32), "weights"),
        numpy_helper.from_array(intercepts.astype(np.float64), "intercept"),
    ]
    nodes = [
        helper.make_node("MatMul", ["input", "weights"], ["product"]),
        helper.make_node("Cast", ["product"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["wide", "intercept"], ["decision"]),
        helper.make_node("Sigmoid", ["decision"], ["probability"]),
    ]
    output = "probability"
    if len(weights) > 1:
        nodes.append(helper.make_node("ReduceMean", [output], ["mean"], axes=[1], keepdims=1))
        output = "mean"
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, weights.shape[1]])]
    outputs = [helper.make_tensor_value_info(output, TensorProto.DOUBLE, [None, 1])]
    graph = helper.make_graph(nodes, "wherry", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", OPSETS[""])]
    return helper.make_model(graph, opset_imports=opsets), output


_BUILDERS: Final[dict[str, Callable[[Any], tuple[Any, str]]]] = {
    "MLPClassifier": _perceptron,
    "LogisticRegression": _logistic,
    "CalibratedClassifierCV": _calibrated_logistic,
    "MLPRegressor": _perceptron,
} | dict.fromkeys(LINEAR_REGRESSORS, _straight)
