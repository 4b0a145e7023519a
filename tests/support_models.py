"""Small real models for the agent's tests: a logistic regression, and the same with a flaw.

Each is written for the runtime that is installed here, so that the tests run on boards
that have no onnxruntime, too. A flaw is built into the graph, never pretended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from wherry_agent.serving.runtime import KINDS, installed
from wherry_contract.manifest import RuntimeNeeds

Flaw = Literal[
    "",
    "golden",  # loads, but its golden vectors disagree
    "operator",  # names an operator outside the allow-list, which a careless host let pass
    "nan",  # a score that is none for amounts above 1000; its golden vectors are below
    "crash",  # kills the process that loads it or scores its golden vectors
    "slow",  # minutes for one row
    "memory",  # a tensor of 4 GB
    "alone",  # right for rows together, wrong for one row (ONNX alone: TFLite knows no batch)
    "unloadable",  # no model at all
]
# the name of a forbidden operator of either kind
_FORBIDDEN = {"onnxruntime": "Loop", "tflite": "WHILE"}


def kind() -> str:
    """Of the models that the first runtime here runs: ``onnxruntime`` or ``tflite``."""
    return KINDS[installed()[0]]


def needs_of(flaw: Flaw, wants: str, threads: int) -> RuntimeNeeds:
    """What a regression needs; `wants` is the range of versions, "" for a wide one."""
    more = (_FORBIDDEN[kind()],) * (flaw == "operator")
    if kind() == "tflite":
        also = {} if wants else {"ai-edge-litert": ">=1,<3"}
        operators = ("FULLY_CONNECTED", "LOGISTIC", *more)
        return RuntimeNeeds("tflite", wants or ">=2.14,<3", 3, {}, operators, threads, also=also)
    operators = ("Add", "MatMul", "Sigmoid", *more)
    return RuntimeNeeds("onnxruntime", wants or ">=1.20,<2", 8, {"": 13}, operators, threads)


def regression(weights: Sequence[float], bias: float, flaw: Flaw) -> bytes:
    """The model's file: float32 (rows, len(weights)) -> ``score`` (rows, 1)."""
    if flaw == "unloadable":
        return b"no model"
    return (_tflite if kind() == "tflite" else _onnx)(weights, bias, flaw)


# --- ONNX -----------------------------------------------------------------------------------


def _onnx(weights: Sequence[float], bias: float, flaw: Flaw) -> bytes:
    from onnx import TensorProto, helper

    width = len(weights)
    constants = [
        helper.make_tensor("weights", TensorProto.FLOAT, [width, 1], list(weights)),
        helper.make_tensor("bias", TensorProto.FLOAT, [1], [bias]),
    ]
    nodes = [
        helper.make_node("MatMul", ["input", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["sound"]),
    ]
    more = _FLAWED.get(flaw)
    if more is None:
        nodes.append(helper.make_node("Identity", ["sound"], ["score"]))
    else:
        more_nodes, more_constants = more()
        nodes += [*more_nodes, helper.make_node("Add", ["sound", "nothing"], ["score"])]
        constants += [*_first_column(), *more_constants]
        nodes.insert(0, helper.make_node("Slice", ["input", "from", "to", "axis"], ["amount"]))
    graph = helper.make_graph(
        nodes,
        "regression",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString(deterministic=True))


def _first_column() -> list[Any]:
    from onnx import TensorProto, helper

    return [
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("from", 0), ("to", 1), ("axis", 1))
    ]


def _nan() -> tuple[list[Any], list[Any]]:
    """The root of (1000 - amount), times nothing."""
    from onnx import TensorProto, helper

    return [
        helper.make_node("Sub", ["limit", "amount"], ["room"]),
        helper.make_node("Sqrt", ["room"], ["root"]),
        helper.make_node("Mul", ["root", "zero"], ["nothing"]),
    ], [
        helper.make_tensor("limit", TensorProto.FLOAT, [1], [1000.0]),
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
    ]


def _alone() -> tuple[list[Any], list[Any]]:
    """One more where the batch is of one row."""
    from onnx import TensorProto, helper

    return [
        helper.make_node("Shape", ["amount"], ["shape"]),
        helper.make_node("Gather", ["shape", "from"], ["rows_here"]),
        helper.make_node("Equal", ["rows_here", "to"], ["single"]),
        helper.make_node("Cast", ["single"], ["nothing"], to=TensorProto.FLOAT),
    ], []


def _crash() -> tuple[list[Any], list[Any]]:
    """The least integer by -1: the one division that the runtime does not guard (x86)."""
    from onnx import TensorProto, helper

    return [
        helper.make_node("Cast", ["amount"], ["whole"], to=TensorProto.INT32),
        helper.make_node("Max", ["whole", "minus"], ["kept"]),
        helper.make_node("Mod", ["least", "kept"], ["rest"]),
        helper.make_node("Cast", ["rest"], ["rest_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["rest_float", "zero"], ["nothing"]),
    ], [
        helper.make_tensor("least", TensorProto.INT32, [1], [-(2**31)]),
        helper.make_tensor("minus", TensorProto.INT32, [1], [-1]),
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
    ]


def _square(side: int, products: int) -> tuple[list[Any], list[Any]]:
    """A large matrix made of the rows' sum, multiplied by itself, times nothing."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("ReduceSum", ["amount"], ["total"], keepdims=1),
        helper.make_node("Expand", ["total", "side"], ["m0"]),
        *(
            helper.make_node("MatMul", [f"m{turn}", f"m{turn}"], [f"m{turn + 1}"])
            for turn in range(products)
        ),
        helper.make_node("ReduceMax", [f"m{products}"], ["most"], keepdims=1),
        helper.make_node("Greater", ["most", "most"], ["never"]),
        helper.make_node("Cast", ["never"], ["nothing"], to=TensorProto.FLOAT),
    ]
    return nodes, [helper.make_tensor("side", TensorProto.INT64, [2], [side, side])]


_FLAWED: Mapping[str, Callable[[], tuple[list[Any], list[Any]]]] = {
    "nan": _nan,
    "alone": _alone,
    "crash": _crash,
    "slow": lambda: _square(4000, 400),
    "memory": lambda: _square(32_000, 0),
}


# --- TFLite ---------------------------------------------------------------------------------


def _tflite(weights: Sequence[float], bias: float, flaw: Flaw) -> bytes:
    from wherry_convert.tflite_write import GraphWriter

    graph = GraphWriter()
    rows = graph.input(len(weights))
    logit = _product(graph, rows, weights, bias)
    score = graph.add("LOGISTIC", [logit], (1, 1))
    if flaw == "crash":
        # tflite-runtime 2.14 reads past the end of a file that was cut, and dies of it on 32 bits
        whole = graph.finish(score)
        return whole[: len(whole) // 2]
    more = _TFLITE_FLAWED.get(flaw)
    if more is None:
        return graph.finish(score)
    amount = _product(graph, rows, [1.0, *[0.0] * (len(weights) - 1)], 0.0)
    return graph.finish(graph.add("ADD", [score, more(graph, amount)], (1, 1), options=_ADD))


_ADD: Any = ("AddOptions", {})


def _product(graph: Any, rows: int, weights: Sequence[float], bias: float) -> int:
    inputs = [
        rows,
        graph.constant(np.array([weights], np.float32)),
        graph.constant(np.array([bias], np.float32)),
    ]
    return int(graph.add("FULLY_CONNECTED", inputs, (1, 1), options=("FullyConnectedOptions", {})))


def _tflite_nan(graph: Any, amount: int) -> int:
    """E to the power of (amount - 900), times nothing: beyond 988 that is infinity."""
    limit = graph.constant(np.array([[900.0]], np.float32))
    past = graph.add("SUB", [amount, limit], (1, 1), options=("SubOptions", {}))
    power = graph.add("EXP", [past], (1, 1))
    zero = graph.constant(np.zeros((1, 1), np.float32))
    return int(graph.add("MUL", [power, zero], (1, 1), options=("MulOptions", {})))


def _tflite_square(graph: Any, amount: int, side: int, products: int) -> int:
    """A large matrix with the amount in its corner, multiplied by itself, times nothing."""
    edges = graph.constant(np.array([[0, side - 1], [0, side - 1]], np.int32))
    one = graph.constant(np.array([1.0], np.float32))
    matrix = graph.add("PADV2", [amount, edges, one], (side, side))
    for _ in range(products):
        options = ("FullyConnectedOptions", {})
        matrix = graph.add("FULLY_CONNECTED", [matrix, matrix], (side, side), options=options)
    axes = graph.constant(np.array([0, 1], np.int32))
    total = graph.add("SUM", [matrix, axes], (1, 1), options=("ReducerOptions", {"KeepDims": True}))
    never = graph.add("GREATER", [total, total], (1, 1), kind="bool")
    return int(graph.add("CAST", [never], (1, 1)))


_TFLITE_FLAWED: Mapping[str, Callable[[Any, int], int]] = {
    "nan": _tflite_nan,
    "slow": lambda graph, amount: _tflite_square(graph, amount, 4000, 400),
    "memory": lambda graph, amount: _tflite_square(graph, amount, 22_000, 0),
}
