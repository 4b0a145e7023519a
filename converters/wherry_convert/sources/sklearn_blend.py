"""Several tree models whose scores are calibrated or averaged: calibration and soft votes.

An isotonic calibration is a staircase with steep steps at the very scores of its training
rows, so that a sum of float32 leaves falls off a step (onnx/sklearn-onnx#1151). Here each
leaf is split into parts on grids of powers of two, so wide that float32 adds each of them
without rounding; what is put together in double precision is the sum to its last digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import ConvertError
from wherry_convert.forest import OPSETS, Doubles, Forest, Tree, node_attributes, set_columns

from .base import Lowered, Network
from .sklearn_column import Columns
from .sklearn_columns import before, check_columns, final_of, trace
from .sklearn_growers import GROWERS, REGRESSORS, Grown
from .sklearn_trees import lower_grown

BLENDS: Final = ("CalibratedClassifierCV", "VotingClassifier")
_FLOAT32: Final = ("XGBClassifier",)
_PARTS: Final = 3  # of 23 bits each, more than a double has
_BITS: Final = 23
_TOLERATED: Final = 1e-6


@dataclass(frozen=True)
class _Member:
    """One model of a blend: weight * curve(base + sum / divisor).

    Attributes:
        grown: its trees.
        weight: its share.
        link: ``logistic`` or ``identity``, before the curve.
        slope: with `shift`, a sigmoid calibration: 1 / (1 + exp(slope * score + shift)).
        shift: see `slope`; both None for none.
        knots: x and y of an isotonic calibration, or None.
        single: whether the source sums and links in float32.
    """

    grown: Grown
    weight: float = 1.0
    link: str = "identity"
    slope: float | None = None
    shift: float | None = None
    knots: tuple[Doubles, Doubles] | None = None
    single: bool = False


def models_in(blend: Any) -> list[Any]:
    """The models of a blend, each as it was fitted, with its preprocessing.

    Raises:
        ConvertError: K01, it is put together in a way that is not known.
    """
    if type(blend).__name__ == "CalibratedClassifierCV":
        return [member.estimator for member in blend.calibrated_classifiers_]
    if blend.voting != "soft":
        raise ConvertError(
            "K01", "a VotingClassifier that counts votes has no scores", cure="use voting='soft'"
        )
    return list(blend.estimators_)


def lower_blend(blend: Any, columns: Columns, order: Sequence[str]) -> Lowered:
    """The neutral form of a blend of tree models behind its preprocessing.

    Args:
        blend: a fitted estimator of a class in `BLENDS`.
        columns: what reaches it.
        order: the features' names, in the order of the tensor.

    Raises:
        ConvertError: K01, K02 or K07.
    """
    grown = [_grown(blend, model, columns) for model in models_in(blend)]
    make = _calibrated if type(blend).__name__ == "CalibratedClassifierCV" else _voted
    members = make(blend, grown)
    for member in members:
        _check_steps(member)
    lowered = lower_grown(_joined(grown), order)
    if not isinstance(lowered.body, Forest):
        raise TypeError(type(lowered.body).__name__)
    graph = _graph(lowered.body, members, len(order))
    return replace(lowered, body=Network(graph.SerializeToString(), "score", -1))


def _grown(blend: Any, model: Any, columns: Columns) -> Grown:
    final = final_of(model)
    name = type(final).__name__
    if name not in GROWERS or name in REGRESSORS:
        raise ConvertError(
            "K01",
            f"{type(blend).__name__} of a {name} is not known",
            cure=f"use one of {', '.join(GROWERS)} inside, or ship the model that is inside",
        )
    reached = trace(before(model), columns)
    check_columns(final, reached)
    return GROWERS[name](final, reached)


def _calibrated(blend: Any, grown: list[Grown]) -> list[_Member]:
    found = []
    for part, member in zip(blend.calibrated_classifiers_, grown, strict=True):
        if part.method not in {"sigmoid", "isotonic"}:
            raise ConvertError("K01", f"calibration by {part.method} is not known")
        if getattr(final_of(part.estimator), "loss", "") == "exponential":
            raise ConvertError("K01", "calibration of an exponential loss is not known")
        final = final_of(part.estimator)
        # boosters of others give no decision_function: their probabilities are calibrated
        direct = hasattr(final, "decision_function")
        link = "identity" if direct else member.forest.link
        single = type(final).__name__ in _FLOAT32
        (curve,) = part.calibrators
        if part.method == "sigmoid":
            slope, shift = float(curve.a_), float(curve.b_)
            found.append(_Member(member, link=link, slope=slope, shift=shift))
        else:
            knots = (curve.X_thresholds_.astype(float), curve.y_thresholds_.astype(float))
            found.append(_Member(member, link=link, knots=knots, single=single))
    return found


def _voted(blend: Any, grown: list[Grown]) -> list[_Member]:
    weights = [1.0] * len(grown)
    if blend.weights is not None:
        pairs = zip(blend.estimators, blend.weights, strict=True)
        weights = [float(weight) for (_, model), weight in pairs if not isinstance(model, str)]
    return [
        _Member(member, weight=weight, link=member.forest.link)
        for member, weight in zip(grown, weights, strict=True)
    ]


def _check_steps(member: _Member) -> None:
    """A step that is as steep as the source's own rounding is high decides by chance."""
    if member.knots is None or len(member.knots[0]) == 1:
        return
    forest = member.grown.forest
    size = sum(float(np.abs(tree.value).max()) for tree in forest.trees) / forest.divisor
    unit = 2.0**-23 if member.single else 2.0**-52
    rounding = len(forest.trees) * (size + abs(forest.base)) * unit
    if member.link == "logistic":
        rounding = rounding / 4 + unit  # a sigmoid is nowhere steeper
    steepest = float((np.diff(member.knots[1]) / np.diff(member.knots[0])).max())
    if steepest * rounding > _TOLERATED:
        raise ConvertError(
            "K02",
            "the isotonic calibration has steps that are steeper than sums of doubles tell apart",
            cure="calibrate with method='sigmoid', or on more rows",
        )


def _joined(grown: Sequence[Grown]) -> Grown:
    """All trees as one forest, each asking columns of its own model."""
    columns: Columns = ()
    sets: tuple[frozenset[int], ...] = ()
    trees: list[Tree] = []
    asks_set = []
    for item in grown:
        for place, tree in enumerate(item.forest.trees):
            asks = item.asks_set[place] if item.asks_set else np.zeros(len(tree.cut), np.bool_)
            cut = np.where(asks, tree.cut + len(sets), tree.cut)
            trees.append(replace(tree, feature=tree.feature + len(columns), cut=cut))
            asks_set.append(asks)
        columns += item.columns
        sets += item.sets
    return Grown(Forest(tuple(trees)), columns, tuple(asks_set), sets)


def _split(trees: Sequence[Tree]) -> list[list[NDArray[np.float64]]]:
    """For each part and tree, its leaves' share: float32 adds up one part without rounding."""
    rest = [np.where(tree.inner, 0.0, tree.value) for tree in trees]
    parts = []
    for _ in range(_PARTS):
        bound = sum(float(np.abs(values).max()) for values in rest)
        if not bound:
            break
        unit = 2.0 ** (math.ceil(math.log2(bound)) - _BITS)
        part = [np.round(values / unit) * unit for values in rest]
        rest = [values - taken for values, taken in zip(rest, part, strict=True)]
        parts.append(part)
    return parts or [rest]


def _leaf_attributes(trees: Sequence[Tree], counts: Sequence[int]) -> tuple[dict[str, Any], int]:
    found: dict[str, list[Any]] = {
        name: [] for name in ("target_treeids", "target_nodeids", "target_ids", "target_weights")
    }
    start = target = 0
    owners = []
    for member, count in enumerate(counts):
        mine = trees[start : start + count]
        for part in _split(mine):
            for place, (tree, values) in enumerate(zip(mine, part, strict=True)):
                leaves = np.flatnonzero(~tree.inner)
                found["target_treeids"] += [start + place] * len(leaves)
                found["target_nodeids"] += leaves.tolist()
                found["target_ids"] += [target] * len(leaves)
                found["target_weights"] += values[leaves].tolist()
            owners.append(member)
            target += 1
        start += count
    return found | {"owners": owners}, target


class _Writer:
    """Collects nodes and their constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        """A node; an input that is no name becomes a constant. Returns the output's name."""
        from onnx import helper, numpy_helper

        names = []
        for item in inputs:
            if not isinstance(item, str):
                name = f"constant{len(self.constants)}"
                self.constants.append(numpy_helper.from_array(np.asarray(item), name))
                item = name  # noqa: PLW2901 - the name stands for the value from here on
            names.append(item)
        output = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output


def _graph(forest: Forest, members: Sequence[_Member], features: int) -> Any:
    from onnx import TensorProto, helper

    table, nodes, constants = set_columns(forest.sets)
    leaves, targets = _leaf_attributes(forest.trees, [len(m.grown.forest.trees) for m in members])
    owners = leaves.pop("owners")
    write = _Writer()
    write.nodes += nodes
    write.constants += constants
    sums = write.add(
        "TreeEnsembleRegressor",
        table,
        domain="ai.onnx.ml",
        n_targets=targets,
        aggregate_function="SUM",
        post_transform="NONE",
        **node_attributes(forest.trees),
        **leaves,
    )
    wide = write.add("Cast", sums, to=TensorProto.DOUBLE)
    scores = [_score(write, wide, owners, place, m) for place, m in enumerate(members)]
    together = write.add("Concat", *scores, axis=1) if len(scores) > 1 else scores[0]
    weights = np.array([[member.weight for member in members]])
    total = write.add("ReduceSum", write.add("Mul", together, weights), np.array([1]), keepdims=1)
    write.add("Div", total, weights.sum())
    write.nodes[-1].output[0] = "score"
    graph = helper.make_graph(
        write.nodes,
        "wherry",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info("score", TensorProto.DOUBLE, [None, 1])],
        write.constants,
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    return helper.make_model(graph, opset_imports=opsets)


def _score(write: _Writer, wide: str, owners: list[int], place: int, member: _Member) -> str:
    forest = member.grown.forest
    mine = np.array([target for target, owner in enumerate(owners) if owner == place])
    parts = write.add("Gather", wide, mine, axis=1)
    found = write.add("ReduceSum", parts, np.array([1]), keepdims=1) if len(mine) > 1 else parts
    found = write.add("Div", found, np.array(forest.divisor))
    found = write.add("Add", found, np.array(forest.base))
    if member.link == "logistic":
        found = write.add("Sigmoid", found)
    if member.slope is not None and member.shift is not None:
        moved = write.add("Mul", found, np.array(-member.slope))
        return write.add("Sigmoid", write.add("Add", moved, np.array(-member.shift)))
    if member.knots is not None:
        return _interpolated(write, found, *member.knots)
    return found


def _interpolated(write: _Writer, found: str, x: Doubles, y: Doubles) -> str:
    """Y at x, on straight lines between the knots, as numpy.interp has it."""
    from onnx import TensorProto

    if len(x) == 1:
        return write.add("Add", write.add("Mul", found, np.array(0.0)), np.array(y[0]))
    inside = write.add("Clip", found, np.array(x[0]), np.array(x[-1]))
    above = write.add("Greater", inside, x[None, 1:-1])
    passed = write.add("Cast", above, to=TensorProto.INT64)
    place = write.add("ReduceSum", passed, np.array([1]), keepdims=1)
    start, low = (write.add("Gather", values[:-1], place, axis=0) for values in (x, y))
    slope = write.add("Gather", np.diff(y) / np.diff(x), place, axis=0)
    rise = write.add("Mul", slope, write.add("Sub", inside, start))
    return write.add("Add", low, rise)
