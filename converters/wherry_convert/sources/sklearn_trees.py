"""Tree models of scikit-learn as a `Forest`, with cuts that are exact in the raw value.

Trees, forests and GradientBoosting cast their input to float32 themselves, as the encoder
does: for a column without a scaler the threshold is the largest float32 at or below
theirs, and nothing else is needed. HistGradientBoosting compares doubles, and behind a
scaler the compared value is not the one that is sent: there the encoder ranks the raw
double among the model's own cuts (design, section 9). An encoder, or a number that stands
for a gap, makes a column fall and rise: its raw values fall into classes that no question
tells apart, the encoder sends the class, and each question is a row of answers (`Sets`).
Whatever fills a gap decides where the gap goes at each node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import MAX_EDGES, Step
from wherry_contract.errors import ConvertError
from wherry_contract.features import LARGEST, Feature
from wherry_convert.forest import MAX_NODES, Doubles, Sets, Tree, below_or_at, ranks, raw_cuts

from .base import Lowered
from .sklearn_column import Column, Columns, Fill
from .sklearn_growers import GROWERS, Bools, Grown

MAX_ALL_EDGES: Final = 100_000  # about 2 MB of the manifest's 4
MAX_ANSWERS: Final = 16_000_000  # bytes of the graph
_HALF: Final = 0.5


@dataclass(frozen=True)
class _Questions:
    """What nodes ask; nodes that ask the same share it. All arrays have one cell for each."""

    column: NDArray[np.int64]
    cut: Doubles
    missing_left: Bools
    of_set: Bools

    def of(self, chosen: NDArray[np.int64]) -> _Questions:
        """Some of them."""
        return _Questions(
            self.column[chosen], self.cut[chosen], self.missing_left[chosen], self.of_set[chosen]
        )


@dataclass(frozen=True)
class _Plan:
    """How one feature is prepared, and what each question about it becomes."""

    steps: tuple[Step, ...]
    cells: Doubles  # the cut in the tensor
    edges: Doubles  # raw values where decisions change
    missing_left: Bools
    right: Bools | None = None  # (codes, questions), if the feature is coded


def lower_trees(model: Any, columns: Columns, order: Sequence[str]) -> Lowered:
    """The neutral form of a tree model behind its preprocessing.

    Args:
        model: a fitted estimator of a class in `GROWERS`.
        columns: what reaches it.
        order: the features' names, in the order of the tensor.

    Raises:
        ConvertError: K01, K02 or K07.
    """
    return lower_grown(GROWERS[type(model).__name__](model, columns), order)


def lower_grown(grown: Grown, order: Sequence[str]) -> Lowered:
    """Likewise, of trees that are read.

    Raises:
        ConvertError: K01, K02 or K07.
    """
    trees = grown.forest.trees
    if sum(len(tree.left) for tree in trees) > MAX_NODES:
        raise ConvertError("K01", f"the model has more than {MAX_NODES} nodes; use fewer trees")
    asked, numbers = _questions(grown)
    slots, cells = np.zeros(len(asked.cut), np.int64), np.zeros(len(asked.cut))
    missing_left = asked.missing_left.copy()
    steps: list[Step] = []
    sets: list[Sets] = []
    edges: dict[str, Doubles] = {}
    free = len(order)
    for place, feature in _features(grown.columns, order):
        mine = [n for n, c in enumerate(grown.columns) if c.feature.name == feature.name]
        chosen = np.flatnonzero(np.isin(asked.column, mine))
        if not len(chosen):
            continue
        plan = _plan(grown, feature, asked.of(chosen))
        slots[chosen], cells[chosen] = place, plan.cells
        missing_left[chosen] = plan.missing_left
        if plan.right is not None:
            slots[chosen] = free + np.arange(len(chosen))
            free += len(chosen)
            sets.append(Sets(place, plan.right))
        steps += plan.steps
        edges[feature.name] = plan.edges
    _check_size(steps, sets)
    placed = tuple(
        _placed(tree, number, slots, cells, missing_left)
        for tree, number in zip(trees, numbers, strict=True)
    )
    forest = replace(grown.forest, trees=placed, sets=tuple(sets))
    return Lowered(tuple(steps), forest, edges, _notes(steps))


def _features(columns: Columns, order: Sequence[str]) -> list[tuple[int, Feature]]:
    found = {column.feature.name: column.feature for column in columns}
    return [(place, found[name]) for place, name in enumerate(order) if name in found]


def _questions(grown: Grown) -> tuple[_Questions, list[NDArray[np.int64]]]:
    """All questions, and for each tree the number of each inner node's."""
    rows, sizes = [], []
    for place, tree in enumerate(grown.forest.trees):
        inner = tree.inner
        is_set = grown.asks_set[place] if grown.asks_set else np.zeros(len(inner), np.bool_)
        parts = (tree.feature, tree.cut, tree.missing_left, is_set)
        rows.append(np.stack([np.asarray(part, np.float64)[inner] for part in parts], axis=1))
        sizes.append(int(inner.sum()))
    # without the sign of zero, which numpy.unique would keep apart
    found, where = np.unique(np.concatenate(rows) + 0.0, axis=0, return_inverse=True)
    numbers = np.split(np.ravel(where), np.cumsum(sizes)[:-1])
    column, cut, missing, of_set = found.T
    asked = _Questions(column.astype(np.int64), cut, missing.astype(bool), of_set.astype(bool))
    return asked, numbers


def _plan(grown: Grown, feature: Feature, asked: _Questions) -> _Plan:
    if feature.dtype == "category":
        return _by_name(grown, feature, asked)
    columns = [grown.columns[place] for place in np.unique(asked.column)]
    if asked.of_set.any() or any(column.points for column in columns):
        return _by_interval(grown, feature, asked)
    return _by_order(grown, feature, asked, columns)


def _goes_left(grown: Grown, asked: _Questions, raw: Doubles) -> Bools:
    """The source's answers: raw values (rows,) to bool (rows, questions)."""
    left = np.empty((len(raw), len(asked.cut)), np.bool_)
    for place in np.unique(asked.column):
        mine = asked.column == place
        with np.errstate(over="ignore", invalid="ignore"):
            column = grown.columns[place]
            compared = column.compared(column.mapped(raw))
        answers = compared[:, None] <= asked.cut[mine]
        for slot in np.flatnonzero(asked.of_set[mine]):
            members = list(grown.sets[int(asked.cut[mine][slot])])
            answers[:, slot] = np.isin(compared, members)
        left[:, mine] = np.where(np.isnan(compared)[:, None], asked.missing_left[mine], answers)
    return left


def _by_order(grown: Grown, feature: Feature, asked: _Questions, columns: list[Column]) -> _Plan:
    """Cuts in the raw value, or ranks of them; a gap goes where its filling goes."""
    gap = _goes_left(grown, asked, np.array([np.nan]))[0]
    raw = np.empty(len(asked.cut))
    for place in np.unique(asked.column):
        mine = np.flatnonzero(asked.column == place)
        raw[mine] = _raw_cuts(grown.columns[place], asked.cut[mine])
    edges = np.unique(raw[np.isfinite(raw)])
    if all(c.single and isinstance(step, Fill) for c in columns for step in (*c.maps, Fill(0.0))):
        return _Plan((), below_or_at(asked.cut).astype(np.float64), edges, gap)
    step = Step("rank", feature.name, {"edges": edges.tolist()})
    return _Plan((step,), ranks(raw, edges), edges, gap)


def _raw_cuts(column: Column, cuts: Doubles) -> Doubles:
    """The largest raw double that still goes left, for each threshold."""

    def goes_left(values: Doubles) -> NDArray[np.bool_]:
        with np.errstate(over="ignore", invalid="ignore"):
            mapped = column.smooth(values) if column.points else column.mapped(values)
        return np.asarray(column.compared(mapped) <= cuts)

    return raw_cuts(goes_left, len(cuts), LARGEST)


def _by_name(grown: Grown, feature: Feature, asked: _Questions) -> _Plan:
    codes = grown.columns[asked.column[0]].classes()
    _check_answers(len(codes) * len(asked.cut))
    right, classes = np.unique(~_goes_left(grown, asked, codes), axis=0, return_inverse=True)
    # rows of answers that only grow need no table: their order answers all questions
    right_of = right.sum(axis=1)
    order = np.argsort(right_of, kind="stable")
    right, rank = right[order], np.argsort(order)[np.ravel(classes)].astype(np.float64)
    cells = dict(zip(map(_key, codes.tolist()), rank.tolist(), strict=True))
    settings = {
        "values": [cells[code] for code in range(len(feature.categories))],
        "unseen": cells.get(-1, 0.0),
        "missing": cells.get(None, 0.0),
    }
    step = Step("codes", feature.name, settings)
    none, width = np.empty(0), len(asked.cut)
    if (right[:-1] <= right[1:]).all():
        return _Plan((step,), (~right).sum(axis=0) - 1.0, none, np.zeros(width, np.bool_))
    return _Plan((step,), np.full(width, _HALF), none, np.zeros(width, np.bool_), right)


def _key(code: float) -> int | None:
    return None if np.isnan(code) else int(code)


def _by_interval(grown: Grown, feature: Feature, asked: _Questions) -> _Plan:
    found = [np.empty(0)]
    for place in np.unique(asked.column):
        column, mine = grown.columns[place], asked.column == place
        found.append(np.array(column.points))
        if not column.flat:
            found.append(_raw_cuts(column, asked.cut[mine & ~asked.of_set]))
    edges = np.unique(np.concatenate(found))
    edges = edges[np.isfinite(edges)]
    _check_answers((len(edges) + 2) * len(asked.cut))
    values = np.array([*edges, LARGEST, np.nan])  # the last of each interval, and a gap
    answers = ~_goes_left(grown, asked, values)
    changes = (answers[:-2] != answers[1:-1]).any(axis=1)
    right = np.concatenate([answers[:-2][changes], answers[-2:]])
    edges = edges[changes]
    steps = (
        Step("rank", feature.name, {"edges": edges.tolist()}),
        Step("fill", feature.name, {"value": float(len(edges) + 1)}),
    )
    width = len(asked.cut)
    return _Plan(steps, np.full(width, _HALF), edges, np.zeros(width, np.bool_), right)


def _notes(steps: Sequence[Step]) -> tuple[str, ...]:
    ranked = sorted(step.feature for step in steps if step.op == "rank")
    if not ranked:
        return ()
    return (f"ranked among the model's own cuts in float64: {', '.join(ranked)}",)


def _check_size(steps: Sequence[Step], sets: Sequence[Sets]) -> None:
    sizes = [len(step.settings["edges"]) for step in steps if step.op == "rank"]
    if sum(sizes) > MAX_ALL_EDGES or max(sizes, default=0) > MAX_EDGES:
        raise ConvertError(
            "K02",
            f"a scaler stands before {sum(sizes)} thresholds, too many to rank",
            cure="leave the scaler out (trees do not need one), or grow fewer or smaller trees",
        )
    _check_answers(sum(item.right.size for item in sets))


def _check_answers(size: int) -> None:
    if size > MAX_ANSWERS:
        raise ConvertError(
            "K02",
            "the model asks too many questions about too many categories or single values",
            cure="train with fewer categories (rare ones as one), null for a gap, or fewer trees",
        )


def _placed(
    tree: Tree,
    number: NDArray[np.int64],
    slots: NDArray[np.int64],
    cells: Doubles,
    missing_left: Bools,
) -> Tree:
    """The tree with cuts and columns of the encoder's tensor."""
    inner = np.flatnonzero(tree.inner)
    feature, cut, missing = tree.feature.copy(), tree.cut.copy(), tree.missing_left.copy()
    feature[inner], cut[inner] = slots[number], cells[number]
    missing[inner] = missing_left[number]
    return replace(tree, feature=feature, cut=cut, missing_left=missing)
