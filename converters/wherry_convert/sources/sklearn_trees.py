"""Tree models of scikit-learn as a `Forest`, with cuts that are exact in the raw value.

Two kinds of source. Trees, forests and GradientBoosting cast their input to float32
themselves, as the encoder does: for a column without a scaler the threshold is the
largest float32 at or below theirs, and nothing else is needed. HistGradientBoosting
compares doubles, and behind a scaler the compared value is not the one that is sent: there
the encoder ranks the raw double among the model's own cuts (design, section 9).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.encoder import MAX_EDGES, Step
from wherry_contract.errors import ConvertError
from wherry_contract.features import LARGEST
from wherry_convert.forest import (
    LEAF,
    MAX_NODES,
    Doubles,
    Forest,
    Tree,
    below_or_at,
    ranks,
    raw_cuts,
)

from .base import Lowered
from .sklearn_columns import Column, Columns, shared_steps

MAX_ALL_EDGES: Final = 100_000  # about 2 MB of the manifest's 4


@dataclass(frozen=True)
class _Grown:
    """A forest with the source's own thresholds, and how the source compares."""

    forest: Forest
    single: bool  # it casts to float32 before it compares


def _tree(tree: Any, leaf: Doubles) -> Tree:
    missing = getattr(tree, "missing_go_to_left", np.zeros(tree.node_count))
    return Tree(
        feature=tree.feature.astype(np.int64),
        cut=tree.threshold.astype(np.float64),
        left=tree.children_left.astype(np.int64),
        right=tree.children_right.astype(np.int64),
        missing_left=np.asarray(missing).astype(np.bool_),
        value=leaf,
    )


def _voting_tree(tree: Any) -> Tree:
    shares = tree.value[:, 0, :]
    return _tree(tree, shares[:, 1] / shares.sum(axis=1))


def _single_tree(model: Any) -> _Grown:
    return _Grown(Forest((_voting_tree(model.tree_),)), single=True)


def _averaged(model: Any) -> _Grown:
    trees = tuple(_voting_tree(member.tree_) for member in model.estimators_)
    return _Grown(Forest(trees, divisor=float(len(trees))), single=True)


def _boosted(model: Any) -> _Grown:
    if not (isinstance(model.init_, str) or type(model.init_).__name__ == "DummyClassifier"):
        kind = type(model.init_).__name__
        raise ConvertError("K01", f"GradientBoosting that starts from a {kind} (init) is not known")
    # the exponential loss has scores of 1 / (1 + exp(-2 raw))
    factor = 2.0 if model.loss == "exponential" else 1.0
    step = factor * model.learning_rate
    trees = tuple(
        _tree(member.tree_, step * member.tree_.value[:, 0, 0]) for (member,) in model.estimators_
    )
    start = float(model._raw_predict_init(np.zeros((1, model.n_features_in_)))[0, 0])  # noqa: SLF001 - it has no public name
    return _Grown(Forest(trees, base=factor * start, link="logistic"), single=True)


def _hist(model: Any) -> _Grown:
    if getattr(model, "is_categorical_", None) is not None and any(model.is_categorical_):
        raise ConvertError(
            "K02",
            "native categories of HistGradientBoosting (categorical_features) convert wrongly",
            cure="code the categories with OrdinalEncoder and fit without categorical_features",
        )
    trees = tuple(_hist_tree(predictor.nodes) for (predictor,) in model._predictors)  # noqa: SLF001 - it has no public name
    start = float(np.ravel(model._baseline_prediction)[0])  # noqa: SLF001 - likewise
    return _Grown(Forest(trees, base=start, link="logistic"), single=False)


def _hist_tree(nodes: Any) -> Tree:
    leaf = nodes["is_leaf"].astype(bool)
    return Tree(
        feature=nodes["feature_idx"].astype(np.int64),
        cut=nodes["num_threshold"].astype(np.float64),
        left=np.where(leaf, LEAF, nodes["left"].astype(np.int64)),
        right=np.where(leaf, LEAF, nodes["right"].astype(np.int64)),
        missing_left=nodes["missing_go_to_left"].astype(np.bool_),
        value=nodes["value"].astype(np.float64),
    )


GROWERS: Final[dict[str, Callable[[Any], _Grown]]] = {
    "DecisionTreeClassifier": _single_tree,
    "ExtraTreeClassifier": _single_tree,
    "RandomForestClassifier": _averaged,
    "ExtraTreesClassifier": _averaged,
    "GradientBoostingClassifier": _boosted,
    "HistGradientBoostingClassifier": _hist,
}


def lower_trees(model: Any, columns: Columns, order: Sequence[str]) -> Lowered:
    """The neutral form of a tree model behind its preprocessing.

    Args:
        model: a fitted estimator of a class in `GROWERS`.
        columns: what reaches it.
        order: the features' names, in the order of the tensor.

    Raises:
        ConvertError: K01 or K02.
    """
    grown = GROWERS[type(model).__name__](model)
    if sum(len(tree.left) for tree in grown.forest.trees) > MAX_NODES:
        raise ConvertError("K01", f"the model has more than {MAX_NODES} nodes; use fewer trees")
    thresholds = _thresholds(grown.forest.trees, len(columns))
    cuts = [
        _cuts(column, values, single=grown.single)
        for column, values in zip(columns, thresholds, strict=True)
    ]
    edges = _edges(columns, cuts)
    ranked = _ranked(columns, thresholds, single=grown.single)
    _check_edges({name: edges[name] for name in ranked})
    cells = [
        ranks(found, edges[column.feature.name])
        if column.feature.name in ranked
        else below_or_at(values).astype(np.float64)
        for column, values, found in zip(columns, thresholds, cuts, strict=True)
    ]
    slots = [order.index(column.feature.name) for column in columns]
    trees = tuple(_placed(tree, slots, thresholds, cells) for tree in grown.forest.trees)
    steps = shared_steps(columns) + tuple(
        Step("rank", name, {"edges": edges[name].tolist()}) for name in order if name in ranked
    )
    return Lowered(steps, replace(grown.forest, trees=trees), edges, _notes(ranked))


def _notes(ranked: frozenset[str]) -> tuple[str, ...]:
    if not ranked:
        return ()
    return (f"ranked among the model's own cuts in float64: {', '.join(sorted(ranked))}",)


def _thresholds(trees: Sequence[Tree], count: int) -> list[Doubles]:
    features = np.concatenate([tree.feature[tree.inner] for tree in trees])
    cuts = np.concatenate([tree.cut[tree.inner] for tree in trees])
    return [np.unique(cuts[features == place]) for place in range(count)]


def _cuts(column: Column, thresholds: Doubles, *, single: bool) -> Doubles:
    """The largest raw double that still goes left, for each threshold."""

    def goes_left(values: Doubles) -> NDArray[np.bool_]:
        with np.errstate(over="ignore", invalid="ignore"):
            mapped = column.mapped(values)
            compared = mapped.astype(np.float32).astype(np.float64) if single else mapped
        return np.asarray(compared <= thresholds)

    return raw_cuts(goes_left, len(thresholds), LARGEST)


def _edges(columns: Columns, cuts: Sequence[Doubles]) -> dict[str, Doubles]:
    found: dict[str, Doubles] = {}
    for column, values in zip(columns, cuts, strict=True):
        name = column.feature.name
        finite = values[np.isfinite(values)]
        found[name] = np.union1d(found.get(name, np.empty(0)), finite)
    return found


def _ranked(columns: Columns, thresholds: list[Doubles], *, single: bool) -> frozenset[str]:
    scaled = {c.feature.name for c in columns if c.maps or not single}
    asked = {c.feature.name for c, cuts in zip(columns, thresholds, strict=True) if len(cuts)}
    return frozenset(scaled & asked)


def _check_edges(edges: dict[str, Doubles]) -> None:
    total = sum(map(len, edges.values()))
    if total > MAX_ALL_EDGES or any(len(values) > MAX_EDGES for values in edges.values()):
        raise ConvertError(
            "K02",
            f"a scaler stands before {total} thresholds, too many to rank",
            cure="leave the scaler out (trees do not need one), or grow fewer or smaller trees",
        )


def _placed(
    tree: Tree, slots: Sequence[int], thresholds: list[Doubles], cells: list[Doubles]
) -> Tree:
    """The tree with cuts and columns of the encoder's tensor."""
    cut, feature = tree.cut.copy(), tree.feature.copy()
    for place in np.unique(tree.feature[tree.inner]):
        here = tree.inner & (tree.feature == place)
        cut[here] = cells[place][np.searchsorted(thresholds[place], tree.cut[here])]
        feature[here] = slots[place]
    return replace(tree, cut=cut, feature=feature)
