"""Trees as a TFLite graph of built-in operators, so that 32-bit boards run them too.

All trees are walked at once, a level at a time. The nodes of a tree lie breadth first and
siblings side by side, so that a step is ``place += hop[place] + (x > cell[place])``; a leaf
hops nowhere, and asks a column that is always minus infinity. What a leaf adds lies in the
very cell that holds a threshold elsewhere. A gap is minus infinity in one copy of the
columns and infinity in the other: a node points into the copy whose side it sends gaps to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import MAX_EDGES, Step
from wherry_contract.errors import ConvertError

from .forest import LEAF, MAX_NODES, Doubles, Forest, Sets, Tree, ranks, raw_cuts
from .tflite_write import GraphWriter, Options

MAX_LEVELS: Final = 256  # each is ten operators
MAX_ALL_EDGES: Final = 100_000  # about 2 MB of the manifest's 4
LARGEST: Final = float(np.finfo(np.float32).max)
_LINKS: Final[Mapping[str, tuple[str, Options]]] = {
    "logistic": ("LOGISTIC", ("", {})),
    "exp": ("EXP", ("ExpOptions", {})),
    "softmax": ("SOFTMAX", ("SoftmaxOptions", {"Beta": 1.0})),
}
_EDGE_BYTES: Final = 20  # of the manifest, for each
_SUM_AT_ONCE: Final = 64


@dataclass(frozen=True)
class Tables:
    """A forest as arrays with one cell for each node, tree after tree.

    Attributes:
        hop: int64, from a node to its left child; 0 in a leaf.
        column: int64, which column is asked, of `width`; the last one in a leaf.
        cell: float64, the threshold, or what a leaf adds.
        leaf: bool.
        roots: int64, one for each tree.
        levels: how often a row steps.
        copies: which copies of the columns are asked, of ``left`` and ``right``, by where
            they send gaps.
        width: columns of the copies, and one more.
    """

    hop: NDArray[np.int64]
    column: NDArray[np.int64]
    cell: Doubles
    leaf: NDArray[np.bool_]
    roots: NDArray[np.int64]
    levels: int
    copies: tuple[str, ...]
    width: int


def lay_out(forest: Forest, features: int) -> Tables:
    """The tables of a forest.

    Args:
        forest: cuts are values of the encoder's tensor.
        features: columns of that tensor.

    Raises:
        ConvertError: K01, it is too deep or too large.
    """
    copies = _copies(forest.trees)
    places = {copy: place * features for place, copy in enumerate(copies)}
    width = len(copies) * features + 1
    parts: list[tuple[Any, ...]] = []
    levels = 1
    for tree in forest.trees:
        nodes, hop, depth = _breadth_first(tree)
        inner = tree.inner[nodes]
        offset = np.where(tree.missing_left[nodes], places.get("left", 0), places.get("right", 0))
        column = np.where(inner, tree.feature[nodes] + offset, width - 1)
        # a cut of infinity: whatever is there goes left, and a gap must not
        cut = np.clip(tree.cut[nodes], -LARGEST, LARGEST)
        cell = np.where(inner, np.where(np.isneginf(tree.cut[nodes]), -np.inf, cut), 0.0)
        cell[~inner] = tree.value[nodes][~inner]
        parts.append((hop, column, cell, ~inner))
        levels = max(levels, depth)
    sizes = [len(part[0]) for part in parts]
    if levels > MAX_LEVELS or sum(sizes) > MAX_NODES:
        raise ConvertError(
            "K01",
            f"trees of {levels} levels and {sum(sizes)} nodes in all are too many for TFLite"
            f" (at most {MAX_LEVELS} and {MAX_NODES})",
            cure="limit max_depth, or build for onnxruntime",
        )
    hop, column, cell, leaf = (np.concatenate(found) for found in zip(*parts, strict=True))
    roots = np.cumsum([0, *sizes[:-1]])
    return Tables(hop, column, cell, leaf, roots, levels, copies, width)


def _copies(trees: Sequence[Tree]) -> tuple[str, ...]:
    left = any(bool((tree.inner & tree.missing_left).any()) for tree in trees)
    right = any(bool((tree.inner & ~tree.missing_left).any()) for tree in trees)
    return ("left",) * left + ("right",) * (right or not left)


def _breadth_first(tree: Tree) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Nodes in the order of their places, hops, and how many steps the deepest leaf takes."""
    level = np.zeros(1, np.int64)
    nodes, hops = [], []
    start, depth = 0, -1
    while len(level) and start + len(level) <= MAX_NODES:
        inner = tree.left[level] != LEAF
        asked = level[inner]
        # the children of the k-th inner node of this level lie at 2k of the next
        hop = np.zeros(len(level), np.int64)
        hop[inner] = len(level) - np.flatnonzero(inner) + 2 * np.arange(len(asked))
        nodes.append(level)
        hops.append(hop)
        start += len(level)
        depth += 1
        level = np.stack([tree.left[asked], tree.right[asked]], axis=1).reshape(-1)
    return np.concatenate(nodes), np.concatenate(hops), depth


def rank_all(
    forest: Forest, names: Sequence[str], steps: Sequence[Step]
) -> tuple[Forest, tuple[Step, ...], tuple[str, ...]]:
    """Let the encoder rank every column that is asked, if that makes the bundle smaller.

    The rank of a value among the thresholds decides as the value itself does, for every
    double. Columns that the encoder ranks already stay as they are; those that are asked by
    their value cost bytes of the manifest for each threshold, and save some for each node.

    Args:
        forest: cuts are values of the encoder's tensor.
        names: of the tensor's columns.
        steps: the encoder's.

    Returns:
        Forest, steps, and the names that were ranked here; none if nothing is to gain.
    """
    ranked = {step.feature for step in steps if step.op == "rank"}
    found: dict[int, tuple[Doubles, Doubles]] = {}
    for place, name in enumerate(names):
        cuts = _cuts_of(forest, place)
        if len(cuts) and name not in ranked:
            found[place] = (cuts, _edges(cuts))
    total = sum(len(edges) for _, edges in found.values())
    longest = max((len(edges) for _, edges in found.values()), default=0)
    nodes = sum(len(tree.left) for tree in forest.trees)
    if not found or total > MAX_ALL_EDGES or longest > MAX_EDGES or total * _EDGE_BYTES > 2 * nodes:
        return forest, tuple(steps), ()
    more = tuple(
        Step("rank", names[place], {"edges": edges.tolist()}) for place, (_, edges) in found.items()
    )
    cells = {place: (cuts, ranks(_edge_of(cuts), edges)) for place, (cuts, edges) in found.items()}
    trees = tuple(_recut(tree, cells) for tree in forest.trees)
    return replace(forest, trees=trees), (*steps, *more), tuple(step.feature for step in more)


def _cuts_of(forest: Forest, place: int) -> Doubles:
    parts = [tree.cut[tree.inner & (tree.feature == place)] for tree in forest.trees]
    return np.unique(np.concatenate(parts))


def _edge_of(cuts: Doubles) -> Doubles:
    """The largest double that the cast to float32 leaves at or below each cut."""
    return raw_cuts(lambda values: values.astype(np.float32) <= cuts, len(cuts), LARGEST)


def _edges(cuts: Doubles) -> Doubles:
    found = _edge_of(cuts)
    return np.unique(found[np.isfinite(found)])


def _recut(tree: Tree, cells: Mapping[int, tuple[Doubles, Doubles]]) -> Tree:
    cut = tree.cut.copy()
    for place, (cuts, codes) in cells.items():
        here = tree.inner & (tree.feature == place)
        cut[here] = codes[np.searchsorted(cuts, tree.cut[here])]
    return replace(tree, cut=cut)


def forest_tflite(forest: Forest, features: int, *, half: bool = False) -> bytes:
    """The TFLite file of a forest; its output ``score`` is float32, shape (rows, scores).

    Args:
        forest: cuts are float32 values of the encoder's tensor.
        features: columns of that tensor.
        half: keep cells in 16 bits. Thresholds must be ranks below 32768; what leaves add
            is rounded to 32767ths of their tree's largest.

    Raises:
        ConvertError: K01, it is too deep or too large; K02, `half` and cuts that are no ranks.
    """
    shares = _shares(forest)
    if half and shares is not None:
        raise ConvertError(
            "K02",
            "16-bit leaves hold one number, and these one for each class",
            cure="leave [target] leaves out",
        )
    even = replace(forest, trees=_evened(_numbered(forest), forest.targets))
    walk = _Walk(lay_out(even, features + forest.questions), half=half)
    graph = walk.graph
    leaves = walk.leaves(walk.columns(_asked(graph, features, forest.sets)))
    if shares is not None:
        total = _total_of_shares(graph, leaves, shares)
    elif forest.targets > 1:
        total = _totals(graph, leaves, forest.targets)
    else:
        total = _total(graph, leaves, len(forest.trees))
    return graph.finish(_linked(graph, total, forest))


def _linked(graph: GraphWriter, total: int, forest: Forest) -> int:
    shape = (1, forest.targets)
    base = np.array(forest.bases or (forest.base,))
    for name, value, neutral in (("DIV", np.array([forest.divisor]), 1.0), ("ADD", base, 0.0)):
        if np.any(value != neutral):
            number = graph.constant(value[np.newaxis].astype(np.float32))
            total = graph.add(name, [total, number], shape, options=(f"{name.title()}Options", {}))
    if forest.link == "identity":
        return total
    if forest.link not in _LINKS:
        raise ConvertError("K01", f"a link of {forest.link} is not known")
    name, options = _LINKS[forest.link]
    return graph.add(name, [total], shape, options=options)


def _shares(forest: Forest) -> NDArray[np.float32] | None:
    """What leaves add to each score, one row for each leaf; None if each adds to one score."""
    if all(tree.value.ndim == 1 for tree in forest.trees):
        return None
    nothing = np.zeros((1, forest.targets))
    rows = [tree.value[~tree.inner] for tree in forest.trees]
    return np.concatenate([nothing, *rows]).astype(np.float32)


def _numbered(forest: Forest) -> tuple[Tree, ...]:
    """Trees whose leaves hold one number: of several, that of their row in `_shares`."""
    if all(tree.value.ndim == 1 for tree in forest.trees):
        return forest.trees
    found, start = [], 1
    for tree in forest.trees:
        value = np.zeros(len(tree.left))
        leaves = np.flatnonzero(~tree.inner)
        value[leaves] = start + np.arange(len(leaves))
        start += len(leaves)
        found.append(replace(tree, value=value))
    return tuple(found)


def _total_of_shares(graph: GraphWriter, rows: int, shares: NDArray[np.float32]) -> int:
    trees, scores = graph.shape(rows)[1], shares.shape[1]
    place = graph.add("CAST", [rows], (1, trees), kind="int32")
    inputs = [graph.constant(shares), place]
    found = graph.add("GATHER", inputs, (1, trees, scores), options=_gather(0, 0))
    return _sum(graph, found, 1, (1, scores), keep=False)


def _totals(graph: GraphWriter, leaves: int, scores: int) -> int:
    """The sums of each score's trees, which lie side by side, in two rounds if they are many."""
    each = graph.shape(leaves)[1] // scores
    inner = _inner_sum(each)
    shape = graph.constant(np.array([-1, scores, each // inner, inner], np.int32))
    found = graph.add("RESHAPE", [leaves, shape], (1, scores, each // inner, inner))
    found = _sum(graph, found, 3, (1, scores, each // inner), keep=False)
    return _sum(graph, found, 2, (1, scores), keep=False)


def _asked(graph: GraphWriter, features: int, sets: Sequence[Sets]) -> int:
    """The encoder's columns, and behind them the answers to questions about sets."""
    row = graph.input(features)
    parts = [row]
    for item in sets:
        code = graph.add(
            "GATHER", [row, graph.constant(np.array(item.feature, np.int32))], (1,),
            options=_gather(1, 0),
        )  # fmt: skip
        code = graph.add("CAST", [code], (1,), kind="int32")
        table = graph.constant(item.right.astype(np.uint8))
        answers = (1, item.right.shape[1])
        found = graph.add("GATHER", [table, code], answers, kind="uint8", options=_gather(0, 0))
        parts.append(graph.add("CAST", [found], answers))
    return _side_by_side(graph, parts)


def _side_by_side(graph: GraphWriter, parts: Sequence[int]) -> int:
    if len(parts) == 1:
        return parts[0]
    shape = (1, sum(graph.shape(part)[1] for part in parts))
    return graph.add("CONCATENATION", parts, shape, options=("ConcatenationOptions", {"Axis": 1}))


def _evened(trees: Sequence[Tree], scores: int = 1) -> tuple[Tree, ...]:
    """Trees enough for a sum in two rounds, filled up with leaves of nothing.

    With several scores the trees of each lie side by side, and are equally many.
    """
    one, nought = np.zeros(1, np.int64), np.zeros(1)
    nothing = Tree(one, nought, one + LEAF, one + LEAF, one.astype(np.bool_), nought)
    groups = [[tree for tree in trees if tree.target == score] for score in range(scores)]
    if not all(groups):  # leaves that add to every score
        return tuple(trees)
    most = max(map(len, groups))
    inner = _inner_sum(most)
    full = most + -most % inner
    return tuple(tree for group in groups for tree in (*group, *[nothing] * (full - len(group))))


def _inner_sum(count: int) -> int:
    return 1 if count <= _SUM_AT_ONCE else int(count**0.5)


def _total(graph: GraphWriter, values: int, trees: int) -> int:
    """The sum over trees, in two rounds if they are many: fewer roundings lie in a row."""
    inner = _inner_sum(trees)
    if inner > 1:
        outer = graph.shape(values)[1] // inner
        shape = graph.constant(np.array([-1, outer, inner], np.int32))
        values = graph.add("RESHAPE", [values, shape], (1, outer, inner))
        values = _sum(graph, values, 2, (1, outer), keep=False)
    return _sum(graph, values, 1, (1, 1), keep=True)


def _sum(graph: GraphWriter, values: int, axis: int, shape: Sequence[int], *, keep: bool) -> int:
    axes = graph.constant(np.array([axis], np.int32))
    return graph.add("SUM", [values, axes], shape, options=("ReducerOptions", {"KeepDims": keep}))


class _Walk:
    """Writes the steps of a row from the roots to its leaves."""

    def __init__(self, tables: Tables, *, half: bool) -> None:
        self.graph = GraphWriter()
        self._tables = tables
        self._trees = (1, len(tables.roots))
        self._cells: NDArray[Any] = tables.cell.astype(np.float32)
        self._scales: NDArray[np.float32] | None = None
        if half:
            self._cells, self._scales = _halved(tables)

    def columns(self, row: int) -> int:
        """The columns that nodes ask: copies of `row`, and minus infinity."""
        graph = self.graph
        shape = graph.shape(row)
        gaps = graph.add("NOT_EQUAL", [row, row], shape, kind="bool")
        copies = []
        for copy in self._tables.copies:
            end = graph.constant(np.array([[-np.inf if copy == "left" else np.inf]], np.float32))
            copies.append(graph.add("SELECT_V2", [gaps, end, row], shape))
        padding = graph.constant(np.array([[0, 0], [0, 1]], np.int32))
        lowest = graph.constant(np.array([-np.inf], np.float32))
        wide = _side_by_side(graph, copies)
        return graph.add("PADV2", [wide, padding, lowest], (1, self._tables.width))

    def leaves(self, columns: int) -> int:
        """What the leaf of each tree adds, float32 (rows, trees)."""
        graph, tables = self.graph, self._tables
        roots = tables.roots
        cell = graph.constant(self._cells)
        hop = graph.constant(_narrow(tables.hop))
        asked = graph.constant(_narrow(tables.column))
        # the first step starts from constants, and brings the rows in
        first = graph.constant(tables.column[roots].astype(np.int32))
        value = graph.add("GATHER", [columns, first], self._trees, options=_gather(1, 0))
        cut = graph.constant(self._cells[roots].astype(np.float32)[np.newaxis])
        start = graph.constant((roots + tables.hop[roots]).astype(np.int32)[np.newaxis])
        place = self._sum(start, self._right(value, cut))
        for _ in range(tables.levels - 1):
            column = self._look(asked, place, "int32")
            value = graph.add("GATHER", [columns, column], self._trees, options=_gather(1, 1))
            right = self._right(value, self._look(cell, place, "float32"))
            place = self._sum(self._sum(place, self._look(hop, place, "int32")), right)
        found = self._look(cell, place, "float32")
        if self._scales is None:
            return found
        scales = graph.constant(self._scales[np.newaxis])
        return graph.add("MUL", [found, scales], self._trees, options=("MulOptions", {}))

    def _look(self, table: int, place: int, kind: str) -> int:
        found = self.graph.add(
            "GATHER",
            [table, place],
            self._trees,
            kind=self.graph.kind(table),
            options=_gather(0, 0),
        )
        if self.graph.kind(table) == kind:
            return found
        return self.graph.add("CAST", [found], self._trees, kind=kind)

    def _right(self, value: int, cut: int) -> int:
        answer = self.graph.add("GREATER", [value, cut], self._trees, kind="bool")
        return self.graph.add("CAST", [answer], self._trees, kind="int32")

    def _sum(self, left: int, right: int) -> int:
        return self.graph.add(
            "ADD", [left, right], self._trees, kind="int32", options=("AddOptions", {})
        )


def _gather(axis: int, batch: int) -> tuple[str, Mapping[str, int]]:
    return "GatherOptions", {"Axis": axis, "BatchDims": batch}


def _narrow(values: NDArray[np.int64]) -> NDArray[Any]:
    """The same numbers in the smallest type that holds them."""
    most = int(values.max())
    return values.astype(np.uint8 if most < 2**8 else np.int16 if most < 2**15 else np.int32)


def _halved(tables: Tables) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    cuts = tables.cell[~tables.leaf]
    if len(cuts) and (
        np.any(cuts != np.round(cuts)) or np.abs(cuts).max() > np.iinfo(np.int16).max
    ):
        raise ConvertError(
            "K02",
            "16-bit leaves need thresholds that are ranks, and ranks of so many would cost more"
            " bytes of the manifest than they save",
            cure="leave [target] leaves out",
        )
    values = np.where(tables.leaf, np.abs(tables.cell), 0.0)
    largest = np.maximum.reduceat(values, tables.roots)
    scales = (np.where(largest > 0, largest, 1.0) / np.iinfo(np.int16).max).astype(np.float32)
    sizes = np.diff([*tables.roots, len(values)])
    scaled = np.round(tables.cell / np.repeat(scales.astype(np.float64), sizes))
    return np.where(tables.leaf, scaled, tables.cell).astype(np.int16), scales
