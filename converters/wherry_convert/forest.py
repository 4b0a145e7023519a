"""Tree ensembles in a neutral form, and the graph that takes the same paths.

The graph is written here and not by a framework's converter. Those drop the routing of
missing values (onnx/sklearn-onnx#1253), round thresholds to the nearest float32, which
may be the wrong side, and end in a fused post-transform that some runtimes leave out or
round (microsoft/onnxruntime#27533, #26281). Here a threshold of the tensor is exact, a gap
goes where the source sends it, and the link is an operator of its own in double
precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
LEAF: Final = -1
OPSETS: Final = {"": 13, "ai.onnx.ml": 1}
MAX_NODES: Final = 4_000_000
_LINKS: Final = {
    "logistic": "Sigmoid",
    "identity": "Identity",
    "exp": "Exp",
    "softmax": "Softmax",
}
_KEY: Final = np.uint64(1 << 63)


@dataclass(frozen=True)
class Tree:
    """One tree, as arrays with one cell for each node; node 0 is the root.

    Attributes:
        feature: int64, the column that is asked; whatever in a leaf.
        cut: float64; a row goes left if its value is at or below it.
        left: int64, the left child, or `LEAF`.
        right: int64, the right child, or `LEAF`.
        missing_left: bool, whether a missing value goes left.
        value: float64, what a leaf adds; shape (nodes, scores) if it adds to each score.
        target: the score that it adds to, if there are several.
    """

    feature: NDArray[np.int64]
    cut: Doubles
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    value: Doubles
    target: int = 0

    @property
    def inner(self) -> NDArray[np.bool_]:
        """Which nodes are no leaves."""
        return np.asarray(self.left != LEAF)


@dataclass(frozen=True)
class Sets:
    """Questions about one column that no order answers: which of its codes go right.

    The trees ask them of further columns behind those of the encoder's tensor, one for
    each question, `Sets` after `Sets`: 1 where the row's code goes right, else 0.

    Attributes:
        feature: the column of the encoder's tensor; it holds codes 0, 1, ... and no gaps.
        right: bool, shape (codes, questions).
    """

    feature: int
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class Forest:
    """Trees whose leaves are summed: score = link(base + sum / divisor).

    With several scores, one for each class, each has its base and its sum.

    Attributes:
        trees: at least one.
        base: added to the sum, in double precision.
        divisor: the number of trees where leaves are averaged.
        link: ``logistic``, ``identity``, ``exp``, or over all scores ``softmax``.
        sets: further columns that trees may ask, behind those of the tensor.
        bases: one for each score, if there are several, instead of `base`.
    """

    trees: tuple[Tree, ...]
    base: float = 0.0
    divisor: float = 1.0
    link: str = "identity"
    sets: tuple[Sets, ...] = ()
    bases: tuple[float, ...] = ()

    @property
    def targets(self) -> int:
        """How many scores there are."""
        return len(self.bases) or 1

    @property
    def span(self) -> tuple[float, float]:
        """Between what the one score must lie."""
        if self.link != "identity":
            return 0.0, 1.0 if self.link == "logistic" else float("inf")
        leaves = [tree.value[~tree.inner] for tree in self.trees]
        low = self.base + sum(float(leaf.min()) for leaf in leaves) / self.divisor
        high = self.base + sum(float(leaf.max()) for leaf in leaves) / self.divisor
        return low, high

    @property
    def questions(self) -> int:
        """How many columns `sets` adds."""
        return sum(item.right.shape[1] for item in self.sets)

    def check(self, features: int) -> None:
        """Check that every node stays inside its tree and asks a column that exists.

        Raises:
            ValueError: it does not.
        """
        for tree in self.trees:
            inner, own = tree.inner, np.arange(len(tree.left))
            children = np.stack([tree.left, tree.right])[:, inner]
            # children come after their parent, so there is no way round in circles
            if not len(own) or (children <= own[inner]).any() or (children >= len(own)).any():
                raise ValueError("a tree points outside itself")
            asked = tree.feature[inner]
            if (asked < 0).any() or (asked >= features + self.questions).any():
                raise ValueError("a tree asks a column that does not exist")
            if np.isnan(tree.cut[inner]).any() or not np.isfinite(tree.value).all():
                raise ValueError("a tree holds a number that is none")
            if not 0 <= tree.target < self.targets:
                raise ValueError("a tree adds to a score that does not exist")
            if tree.value.ndim > 1 and tree.value.shape[1] != self.targets:
                raise ValueError("a leaf adds to other scores than there are")


def below_or_at(cuts: Doubles) -> NDArray[np.float32]:
    """The largest float32 at or below each cut: for float32 x, x <= cut is x <= that.

    Args:
        cuts: float64, any shape; infinite ones may become the nearest that fits.
    """
    with np.errstate(over="ignore"):
        near = cuts.astype(np.float32)
        below = np.nextafter(near, np.float32(-np.inf))
    return np.where(near.astype(np.float64) > cuts, below, near)


def _to_keys(values: Doubles) -> NDArray[np.uint64]:
    # a monotone numbering of all doubles: flip the sign bit, or all bits of a negative
    bits = values.view(np.uint64)
    return np.where(bits & _KEY, ~bits, bits | _KEY)


def _to_values(keys: NDArray[np.uint64]) -> Doubles:
    return np.where(keys & _KEY, keys ^ _KEY, ~keys).view(np.float64)


def raw_cuts(goes_left: Any, count: int, largest: float) -> Doubles:
    """For each of `count` monotone tests, the largest double that still passes.

    Found by bisection over the numbering of doubles, through the very arithmetic of the
    source, so that no rounding of ours can move a decision.

    Args:
        goes_left: takes float64 (count,), one value for each test, and returns bool
            (count,); true up to a point, then false.
        count: the number of tests.
        largest: values lie in [-largest, largest].

    Returns:
        float64, shape (count,); -inf where nothing passes, inf where all do.
    """
    low = _to_keys(np.full(count, -largest))
    high = _to_keys(np.full(count, largest))
    never = ~goes_left(_to_values(low))
    always = goes_left(_to_values(high))
    for _ in range(64):
        middle = low + (high - low) // np.uint64(2)
        left = goes_left(_to_values(middle))
        low = np.where(left, middle, low)
        high = np.where(left, high, middle)
    found = _to_values(low)
    return np.where(never, -np.inf, np.where(always, np.inf, found))


def ranks(cuts: Doubles, edges: Doubles) -> Doubles:
    """Cuts as ranks among `edges`: x <= cut exactly if the rank of x is at or below it.

    The rank of x is the number of edges below x (the encoder's step `rank`); so the
    lowest edge has rank 0, a cut of -inf is -1 and one of inf is above every rank.

    Args:
        cuts: float64, each an edge or infinite.
        edges: float64, ascending, finite.
    """
    return np.where(np.isposinf(cuts), len(edges), np.searchsorted(edges, cuts, side="right") - 1.0)


def _join(parts: Iterable[NDArray[Any]]) -> list[Any]:
    return [item for part in parts for item in part.tolist()]


def node_attributes(trees: Sequence[Tree]) -> dict[str, Any]:
    """What TreeEnsembleRegressor is told of all nodes."""
    inner = [tree.inner for tree in trees]
    mode = np.array([b"LEAF", b"BRANCH_LEQ"])
    return {
        "nodes_treeids": _join(np.full(len(t.left), k) for k, t in enumerate(trees)),
        "nodes_nodeids": _join(np.arange(len(t.left)) for t in trees),
        "nodes_featureids": _join(
            np.where(n, t.feature, 0) for n, t in zip(inner, trees, strict=True)
        ),
        "nodes_modes": _join(mode[n.astype(int)] for n in inner),
        "nodes_values": _join(np.where(n, t.cut, 0.0) for n, t in zip(inner, trees, strict=True)),
        "nodes_truenodeids": _join(
            np.where(n, t.left, 0) for n, t in zip(inner, trees, strict=True)
        ),
        "nodes_falsenodeids": _join(
            np.where(n, t.right, 0) for n, t in zip(inner, trees, strict=True)
        ),
        "nodes_missing_value_tracks_true": _join(
            (n & t.missing_left).astype(int) for n, t in zip(inner, trees, strict=True)
        ),
    }


def _leaf_attributes(trees: Sequence[Tree]) -> dict[str, Any]:
    leaves = [np.flatnonzero(~tree.inner) for tree in trees]
    adds = [t.value[leaf].reshape(len(leaf), -1) for leaf, t in zip(leaves, trees, strict=True)]
    widths = [values.shape[1] for values in adds]
    pairs = list(zip(leaves, widths, strict=True))
    return {
        "target_treeids": _join(np.full(len(leaf) * w, k) for k, (leaf, w) in enumerate(pairs)),
        "target_nodeids": _join(np.repeat(leaf, width) for leaf, width in pairs),
        "target_ids": _join(
            np.tile(tree.target + np.arange(width), len(leaf))
            for tree, (leaf, width) in zip(trees, pairs, strict=True)
        ),
        "target_weights": _join(values.ravel() for values in adds),
    }


def set_columns(sets: Sequence[Sets]) -> tuple[str, list[Any], list[Any]]:
    """What turns codes into the further columns: its output, its nodes, its constants."""
    from onnx import TensorProto, helper, numpy_helper

    if not sets:
        return "input", [], []
    nodes, constants, columns = [], [], ["input"]
    for place, item in enumerate(sets):
        # bytes in the file, floats only for the one row that is asked
        table = numpy_helper.from_array(item.right.astype(np.uint8), f"right{place}")
        constants += [numpy_helper.from_array(np.array(item.feature), f"column{place}"), table]
        code, row, last = f"code{place}", f"row{place}", f"asked{place}"
        nodes += [
            helper.make_node("Gather", ["input", f"column{place}"], [f"value{place}"], axis=1),
            helper.make_node("Cast", [f"value{place}"], [code], to=TensorProto.INT64),
            helper.make_node("Gather", [f"right{place}", code], [row], axis=0),
            helper.make_node("Cast", [row], [last], to=TensorProto.FLOAT),
        ]
        columns.append(last)
    nodes.append(helper.make_node("Concat", columns, ["table"], axis=1))
    return "table", nodes, constants


def forest_graph(forest: Forest, features: int) -> Any:
    """The ONNX model of a forest; its output ``score`` is double, shape (rows, scores).

    Leaves are summed in float32 by TreeEnsembleRegressor; division, base and link are in
    double precision, so that a forest of pure leaves has the source's scores to the bit.

    Args:
        forest: cuts must be float32 values of the encoder's tensor.
        features: columns of that tensor.
    """
    from onnx import TensorProto, helper, numpy_helper

    table, nodes, constants = set_columns(forest.sets)
    tree = helper.make_node(
        "TreeEnsembleRegressor",
        [table],
        ["sum"],
        domain="ai.onnx.ml",
        n_targets=forest.targets,
        aggregate_function="SUM",
        post_transform="NONE",
        **node_attributes(forest.trees),
        **_leaf_attributes(forest.trees),
    )
    nodes += [tree, helper.make_node("Cast", ["sum"], ["wide"], to=TensorProto.DOUBLE)]
    last = "wide"
    for name, value, neutral, operator in (
        ("divisor", forest.divisor, 1.0, "Div"),
        ("base", np.array([forest.bases]) if forest.bases else forest.base, 0.0, "Add"),
    ):
        if np.any(value != neutral):
            constants.append(numpy_helper.from_array(np.array(value), name))
            nodes.append(helper.make_node(operator, [last, name], [f"after_{name}"]))
            last = f"after_{name}"
    axis: dict[str, Any] = {"axis": 1} if forest.link == "softmax" else {}
    nodes.append(helper.make_node(_LINKS[forest.link], [last], ["score"], **axis))
    graph = helper.make_graph(
        nodes,
        "wherry",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info("score", TensorProto.DOUBLE, [None, forest.targets])],
        constants,
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    return helper.make_model(graph, opset_imports=opsets)
