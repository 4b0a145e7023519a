"""ONNX files from elsewhere: looked into, held against what a board takes, and kept as they are.

The source model is the file itself, run by onnxruntime on float32 rows. It must take one
float32 tensor (rows, features), or one of more axes whose sizes are fixed, and give
probabilities of classes, or a value; what else is asked for is refused with what to export
instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import Encoder, Tensor
from wherry_contract.errors import ConvertError
from wherry_contract.extras import how_to_install
from wherry_contract.features import InputContract, RawMatrix
from wherry_contract.wire import sha256_digest
from wherry_convert.graph import parse, seal

from .base import Lowered, Network, Scores
from .onnx_rows import flatten, one_input
from .outputs import (
    ONE_PROBABILITY,
    Picked,
    Wanted,
    class_names,
    pick_class,
    pick_value,
)

# what onnxruntime 1.27 loads, the oldest that a bundle allows
CEILINGS: Final = {"": 26, "ai.onnx": 26, "ai.onnx.ml": 5}
IR_CEILING: Final = 13
_LIBRARIES: Final = ("onnx", "onnxruntime", "numpy")
_TREES: Final = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
_PRODUCTS: Final = ("MatMul", "Gemm", "Conv", "LSTM", "GRU", "RNN")
_FILLS_GAPS: Final = ("Imputer", "IsNaN", *_TREES)


@dataclass(frozen=True)
class OnnxModel:
    """A file that gives probabilities of classes, or one number.

    Attributes:
        file: its bytes, which score.
        sealed: the same graph, written canonically.
        output: name of the file's output that holds probabilities.
        picked: what of that output is looked at; `column` is -1 if there is just the one.
        features: columns that the input takes; 0 if the file does not say.
        operators: types of its nodes.
        cuts: thresholds of trees on raw columns, by place.
        family: ``trees``, ``neural`` or ``linear``.
        digest: ``sha256:...`` of the file.
        versions: of the libraries that read it.
        value: whether the one number is no probability.
    """

    file: bytes
    sealed: bytes
    output: str
    picked: Picked
    features: int
    operators: frozenset[str]
    cuts: Mapping[int, NDArray[np.float64]]
    family: str
    digest: str
    versions: Mapping[str, str] = field(default_factory=dict)
    value: bool = False

    @property
    def column(self) -> int:
        """The column of the score; -1 if there is just the one, or classes."""
        return self.picked.column

    def scores(self, raw: RawMatrix, contract: InputContract) -> Scores:
        """The scores, by the file itself under onnxruntime.

        Args:
            raw: float64, shape (rows, features).
            contract: says which columns are categories; one is its place in their list.

        Returns:
            float64, shape (rows,), or (rows, classes).

        Raises:
            ConvertError: K04 onnxruntime cannot run it, K07 the model does not take these
                rows, K01 what it gives are no probabilities.
        """
        self.check(contract)
        if not len(raw):
            return self.picked.of(np.empty(0))
        table = _run(self.file, self.output, Encoder(contract, ()).encode(raw))
        return self.looked_at(table, f"its output {self.output}")

    def looked_at(self, table: NDArray[np.float64], what: str) -> Scores:
        """The scores in an output's table.

        Args:
            table: float64, shape (rows, columns).
            what: where it comes from, in words.

        Raises:
            ConvertError: K01, what should be probabilities is none.
        """
        found = self.picked.of(table)
        if not self.value:
            refuse_other_than_probabilities(found, what)
        return found

    def lower(self, contract: InputContract) -> Lowered:
        """The neutral form: the graph as it is.

        Raises:
            ConvertError: K07, the contract does not fit.
        """
        self.check(contract)
        cuts = {contract.names[place]: edges for place, edges in self.cuts.items()}
        notes = ("the graph is the file's own; names and what no score needs are left out",)
        body = Network(self.sealed, "score", self.column)
        return Lowered((), body, cuts, notes, self.picked)

    def check(self, contract: InputContract) -> None:
        """Refuse a contract that does not fit.

        Raises:
            ConvertError: K07.
        """
        names = contract.names
        if self.features and self.features != len(names):
            detail = f"the file takes {self.features} columns, the contract has {len(names)}"
            raise ConvertError("K07", detail)
        gaps = [item.name for item in contract.features if item.missing == "allow"]
        if gaps and not self.operators & set(_FILLS_GAPS):
            raise ConvertError(
                "K07",
                f"the contract allows {gaps[0]} to be missing, and the graph has no answer",
                cure="let the contract refuse it, or put an Imputer into the graph",
            )


def refuse_other_than_probabilities(found: Scores, what: str) -> None:
    """Refuse logits and the like.

    Args:
        found: float64, shape (rows,) or (rows, classes).
        what: where they come from, in words.

    Raises:
        ConvertError: K01.
    """
    known = found[np.isfinite(found)]
    if len(known) and (known.min() < -1e-6 or known.max() > 1 + 1e-6):
        raise ConvertError(
            "K01",
            f"{what} goes from {known.min():.4g} to {known.max():.4g}",
            cure="end the graph with a Sigmoid or a Softmax, so that it gives probabilities; or,"
            ' if it is a regressor, say [output] decision = "value"',
        )


def load(
    data: bytes,
    trusted: tuple[str, ...],
    *,
    trust_pickle: bool,
    wanted: Wanted = ONE_PROBABILITY,
) -> OnnxModel:
    """Read an ONNX file.

    Args:
        data: the file.
        trusted: not used: nothing in a graph runs but operators.
        trust_pickle: likewise.
        wanted: what the project decides by.

    Raises:
        ConvertError: K01 operators, inputs or outputs that no bundle may hold, K02 a part
            would change decisions, K04 unreadable, K06 a library is missing.
    """
    del trusted, trust_pickle
    try:
        import onnx  # noqa: F401 - asked for by name, so that its absence has its own error
    except ImportError as error:
        raise ConvertError("K06", how_to_install("host")) from error
    model = parse(data)
    _check_parts(model)
    _check_versions(model)
    entry, features, fixed = one_input(model.graph)
    output, tensor = _score_output(model.graph)
    opened = type(model).FromString(data)
    flatten(opened, entry)
    _open_batch(opened, output, tensor)
    # a ZipMap answers in the order of the names, and not in that of the columns
    runs = bytes(opened.SerializeToString()) if fixed or output != tensor else data
    sealed = _sealed(opened, tensor)
    operators = frozenset(node.op_type for node in parse(sealed).graph.node)
    return OnnxModel(
        file=runs,
        sealed=sealed,
        output=tensor,
        picked=_picked(sealed, output, features, wanted, _labels(model.graph)),
        value=wanted.decision == "value",
        features=features,
        operators=operators,
        cuts=_cuts(model.graph, entry),
        family=_family(operators),
        digest=sha256_digest(data),
        versions={library: version(library) for library in _LIBRARIES},
    )


def _sealed(model: Any, tensor: str) -> bytes:
    try:
        return seal(model, tensor)
    except (IndexError, KeyError, ValueError) as error:
        detail = f"its nodes name tensors or versions that are not there: {error}"
        raise ConvertError("K04", detail[:300]) from error


def _check_parts(model: Any) -> None:
    from onnx import TensorProto

    graph = model.graph
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in graph.initializer):
        raise ConvertError(
            "K04",
            "its weights lie in another file",
            cure="save it with onnx.save_model(model, path, save_as_external_data=False)",
        )
    if len(graph.sparse_initializer):
        raise ConvertError("K01", "it holds sparse weights", cure="save them as dense ones")


def _check_versions(model: Any) -> None:
    for item in model.opset_import:
        most = CEILINGS.get(item.domain)
        if most is not None and item.version > most:
            name = item.domain or "ai.onnx"
            raise ConvertError(
                "K01",
                f"it wants operator set {name} {item.version}; boards take up to {most}",
                cure=f"export it with operator set {most} or lower",
            )
    if model.ir_version > IR_CEILING:
        detail = f"it has IR version {model.ir_version}; boards take up to {IR_CEILING}"
        raise ConvertError("K01", detail, cure="export it with an older onnx")


def _score_output(graph: Any) -> tuple[str, str]:
    """The output with probabilities, and the tensor behind it."""
    from onnx import TensorProto

    producers = {name: node for node in graph.node for name in node.output}
    found = []
    for item in graph.output:
        node = producers.get(item.name)
        if node is not None and node.op_type == "ZipMap":
            found.append((str(item.name), str(node.input[0])))
        elif item.type.tensor_type.elem_type in {TensorProto.FLOAT, TensorProto.DOUBLE}:
            found.append((str(item.name), str(item.name)))
    if len(found) != 1:
        listed = ", ".join(name for name, _ in found) or "none"
        raise ConvertError(
            "K01",
            f"it has {len(found)} outputs of numbers: {listed}",
            cure="export it with one output, the probabilities",
        )
    return found[0]


def _open_batch(model: Any, output: str, tensor: str) -> None:
    """Let the first axis be any number of rows; name the tensor behind a ZipMap as the output."""
    from onnx import TensorProto, helper

    graph = model.graph
    constants = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in constants]
    kept = [type(item).FromString(item.SerializeToString()) for item in inputs]
    del graph.input[:]
    graph.input.extend(kept)
    if output != tensor:
        graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["rows", 2]))
    for item in (*graph.input, *graph.output):
        if len(item.type.tensor_type.shape.dim):
            item.type.tensor_type.shape.dim[0].dim_param = "rows"


def _family(operators: frozenset[str]) -> str:
    if operators & set(_TREES):
        return "trees"
    relu_like = operators - {"Cast", "Identity", "Add", "Mul", "Sub", "Div"}
    products = operators & set(_PRODUCTS)
    # one product and a link is a line; anything between makes it a net
    return "neural" if products and len(relu_like) > 2 else "linear"


def _cuts(graph: Any, entry: str) -> dict[int, NDArray[np.float64]]:
    found: dict[int, list[float]] = {}
    for node in graph.node:
        if node.op_type in _TREES and node.input[0] == entry:
            values = {item.name: item for item in node.attribute}
            for mode, place, cut in zip(
                values["nodes_modes"].strings,
                values["nodes_featureids"].ints,
                values["nodes_values"].floats,
                strict=True,
            ):
                if mode != b"LEAF":
                    found.setdefault(int(place), []).append(float(cut))
    return {place: np.unique(np.array(cuts)) for place, cuts in sorted(found.items())}


def _labels(graph: Any) -> tuple[str, ...]:
    """Names of classes, as a ZipMap has them; none without."""
    for node in graph.node:
        if node.op_type == "ZipMap":
            values = [*node.attribute[0].strings, *node.attribute[0].ints]
            return tuple(v.decode() if isinstance(v, bytes) else str(v) for v in values)
    return ()


def _picked(
    sealed: bytes, output: str, features: int, wanted: Wanted, labels: tuple[str, ...]
) -> Picked:
    """What is looked at, found by running a few rows."""
    rows = np.random.default_rng(0).normal(size=(3, max(1, features))).astype(np.float32)
    together = _run(sealed, "score", rows)
    width = together.size // len(rows)
    picked = pick_column(wanted, width, f"its output {output}", labels)
    alone = np.concatenate([_run(sealed, "score", rows[place : place + 1]) for place in range(3)])
    if alone.shape != together.shape or not np.allclose(
        together, alone, rtol=0, atol=1e-5, equal_nan=True
    ):
        raise ConvertError(
            "K02",
            "a row's score depends on the rows beside it",
            cure="export it in inference mode, with a first axis of any length",
        )
    return picked


def pick_column(wanted: Wanted, width: int, what: str, labels: tuple[str, ...] = ()) -> Picked:
    """What is looked at of a file's output.

    Args:
        wanted: what the project decides by.
        width: columns of the output.
        what: the output, in words.
        labels: names of the columns, if the file has them.

    Raises:
        ConvertError: K01.
    """
    if width == 1:
        return pick_value(wanted, (0.0, 1.0), what)  # rows will tell whether it is right
    if wanted.decision == "threshold" and not wanted.positive and width > 2:
        raise ConvertError(
            "K01",
            f"{what} has {width} columns, and a decision is between two classes",
            cure='say [output] decision = "class", or which one counts with positive_class,'
            " or export it with the probability of one class",
        )
    names = labels if len(labels) == width else class_names(range(width))
    if wanted.positive and wanted.positive not in names and not wanted.classes:
        detail = f"{what} has columns {', '.join(names[:20])}, and none is {wanted.positive!r}"
        raise ConvertError("K01", detail, cure="name its columns, in order, with [output] classes")
    return pick_class(wanted, names, what)


def _run(model: bytes, output: str, rows: Tensor) -> Scores:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (found,) = session.run([output], {session.get_inputs()[0].name: rows})
    except Exception as error:  # its exceptions share no base class but this
        detail = f"onnxruntime cannot run it on {len(rows)} rows: {error}"
        raise ConvertError(
            "K04",
            " ".join(detail.split())[:300],
            cure="export it again, with a first axis of any length",
        ) from error
    return np.asarray(found, np.float64).reshape(len(found), -1)
