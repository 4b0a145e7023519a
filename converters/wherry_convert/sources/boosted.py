"""Boosted trees whose questions may be about sets, as a `Forest` that is exact in the raw value.

XGBoost and LightGBM ask more than whether a value is at or below a cut: whether a category
is in a set, and where a gap goes, or a zero that stands for one. A column that is only asked
by order keeps its order: XGBoost casts it to float32 as the encoder does, LightGBM compares
doubles, so its columns are ranked (design, section 9). Any other column is coded: its raw
values fall into classes that no question tells apart, the encoder sends the class, and each
question is a row of answers (`Sets`). The answers are the source's own arithmetic, run here
on one value of each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import MAX_EDGES, Step
from wherry_contract.errors import ConvertError
from wherry_contract.features import LARGEST, Feature, InputContract, RawMatrix
from wherry_convert.forest import Doubles, Sets, Tree, ranks

from .base import Lowered
from .boosted_model import Bools, Grown, Question, Rules

MAX_ALL_EDGES: Final = 100_000  # about 2 MB of the manifest's 4
MAX_ANSWERS: Final = 16_000_000  # bytes of the graph
_HALF: Final = 0.5


def features_of(grown: Grown, contract: InputContract) -> tuple[Feature, ...]:
    """The contract's features in the order of the model's columns.

    Raises:
        ConvertError: K07, they differ.
    """
    features = contract.features
    if len(features) != grown.count:
        detail = f"the model takes {grown.count} features, not {len(features)}"
        raise ConvertError("K07", detail)
    if grown.names:
        differ = sorted(set(grown.names) ^ set(contract.names))
        if differ:
            raise ConvertError("K07", f"model and contract differ in {', '.join(differ[:8])}")
        places = {feature.name: feature for feature in features}
        features = tuple(places[name] for name in grown.names)
    for column, feature in enumerate(features):
        _check_kind(grown, column, feature)
    return features


def _check_kind(grown: Grown, column: int, feature: Feature) -> None:
    name = feature.name
    if feature.dtype == "category":
        if any(grown.questions[n].members is None for n in grown.asked.get(column, ())):
            raise ConvertError(
                "K07",
                f"the model compares the category {name} as a number",
                cure="train it with categories, or let the contract have the number",
            )
    elif column in grown.categories:
        raise ConvertError(
            "K07",
            f"the model was trained on names of {name}, the contract has a number",
            cure='let the contract have dtype = "category" with these names',
        )


def model_codes(grown: Grown, column: int, feature: Feature) -> list[float]:
    """The model's code of each category of the contract, then of a gap, then of unseen ones."""
    known = grown.categories.get(column)
    names = feature.categories if known is None else known
    codes = {name: float(code) for code, name in enumerate(names)}
    listed = [codes.get(name, grown.rules.unseen) for name in feature.categories]
    return [*listed, np.nan, grown.rules.unseen]


def model_table(grown: Grown, raw: RawMatrix, contract: InputContract) -> RawMatrix:
    """Raw rows as the source takes them: float64 (rows, columns), categories as its codes.

    Raises:
        ConvertError: K07.
    """
    table = np.empty((len(raw), grown.count))
    for column, feature in enumerate(features_of(grown, contract)):
        values = raw[:, contract.names.index(feature.name)]
        if feature.dtype == "category":
            cells = np.array(model_codes(grown, column, feature))
            # -1, a category that is not listed, reads the last cell, a gap the one before
            gap = np.isnan(values)
            values = cells[np.where(gap, len(cells) - 2, values).astype(np.int64)]
        table[:, column] = values
    return table


@dataclass(frozen=True)
class _Plan:
    """How one column is prepared, and what each of its questions becomes."""

    steps: tuple[Step, ...]
    cells: Doubles  # for each question: the cut in the tensor
    edges: Doubles  # raw values where decisions change
    right: Bools | None = None  # (codes, questions), if the column is coded


def lower_boosted(grown: Grown, contract: InputContract) -> Lowered:
    """The neutral form.

    Raises:
        ConvertError: K02 or K07.
    """
    slots = np.zeros(len(grown.questions), np.int64)
    cells = np.zeros(len(grown.questions))
    steps: list[Step] = []
    sets: list[Sets] = []
    edges: dict[str, Doubles] = {}
    free = len(contract.names)
    for column, feature in enumerate(features_of(grown, contract)):
        numbers = grown.asked.get(column)
        if not numbers:
            continue
        plan = _plan(grown, column, feature, [grown.questions[n] for n in numbers])
        place = contract.names.index(feature.name)
        cells[numbers], slots[numbers] = plan.cells, place
        if plan.right is not None:
            slots[numbers] = free + np.arange(len(numbers))
            free += len(numbers)
            sets.append(Sets(place, plan.right))
        steps += plan.steps
        edges[feature.name] = plan.edges
    _check_size(steps, sets)
    trees = tuple(_placed(tree, slots, cells) for tree in grown.forest.trees)
    forest = replace(grown.forest, trees=trees, sets=tuple(sets))
    order = {name: place for place, name in enumerate(contract.names)}
    steps.sort(key=lambda step: order[step.feature])  # stable: a column's steps keep their order
    return Lowered(tuple(steps), forest, edges, (*grown.notes, *_notes(steps)))


def _plan(grown: Grown, column: int, feature: Feature, asked: Sequence[Question]) -> _Plan:
    if feature.dtype == "category":
        return _by_name(grown, column, feature, asked)
    if not all(question.ordered for question in asked):
        return _by_interval(grown.rules, feature, asked)
    cuts = np.array([question.cut for question in asked])
    raw = grown.rules.cuts(cuts)
    edges = np.unique(raw[np.isfinite(raw)])
    if grown.rules.single:
        return _Plan((), cuts, edges)
    step = Step("rank", feature.name, {"edges": edges.tolist()})
    return _Plan((step,), ranks(raw, edges), edges)


def _by_name(grown: Grown, column: int, feature: Feature, asked: Sequence[Question]) -> _Plan:
    codes = np.array(model_codes(grown, column, feature))
    answers = np.stack([~grown.rules.goes_left(question, codes) for question in asked], axis=1)
    right, classes = np.unique(answers, axis=0, return_inverse=True)
    *values, missing, unseen = np.ravel(classes).astype(float).tolist()
    settings = {"values": values, "unseen": unseen, "missing": missing}
    step = Step("codes", feature.name, settings)
    return _Plan((step,), np.full(len(asked), _HALF), np.empty(0), right)


def _by_interval(rules: Rules, feature: Feature, asked: Sequence[Question]) -> _Plan:
    edges = rules.edges(asked)
    values = np.array([*edges, LARGEST, np.nan])  # the last of each interval, and a gap
    answers = np.stack([~rules.goes_left(question, values) for question in asked], axis=1)
    changes = (answers[:-2] != answers[1:-1]).any(axis=1)
    right = np.concatenate([answers[:-2][changes], answers[-2:]])
    edges = edges[changes]
    steps = (
        Step("rank", feature.name, {"edges": edges.tolist()}),
        Step("fill", feature.name, {"value": float(len(edges) + 1)}),
    )
    return _Plan(steps, np.full(len(asked), _HALF), edges, right)


def _check_size(steps: Sequence[Step], sets: Sequence[Sets]) -> None:
    sizes = [len(step.settings["edges"]) for step in steps if step.op == "rank"]
    if sum(sizes) > MAX_ALL_EDGES or max(sizes, default=0) > MAX_EDGES:
        raise ConvertError(
            "K02",
            f"the model asks about {sum(sizes)} thresholds, too many to rank",
            cure="train with fewer bins (max_bin) or fewer trees",
        )
    if sum(item.right.size for item in sets) > MAX_ANSWERS:
        raise ConvertError(
            "K02",
            "the model asks about too many sets of too many categories",
            cure="train with fewer categories (rare ones as one) or fewer trees",
        )


def _placed(tree: Tree, slots: NDArray[np.int64], cells: Doubles) -> Tree:
    number = np.where(tree.inner, tree.cut, 0).astype(np.int64)
    if not len(cells):
        return replace(tree, cut=np.zeros(len(tree.cut)))
    return replace(tree, feature=slots[number], cut=cells[number])


def _notes(steps: Sequence[Step]) -> tuple[str, ...]:
    ranked = sorted(step.feature for step in steps if step.op == "rank")
    if not ranked:
        return ()
    return (f"ranked among the model's own cuts in float64: {', '.join(ranked)}",)
