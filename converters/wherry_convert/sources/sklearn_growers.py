"""Tree models of scikit-learn as a `Forest` that still asks as scikit-learn does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import ConvertError
from wherry_convert.forest import LEAF, Doubles, Forest, Tree

from .boosted_pipeline import lightgbm_forest, xgboost_forest
from .sklearn_column import Columns
from .sklearn_columns import only_checks, parts

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Grown:
    """A forest with the source's own thresholds, and how the source compares.

    Attributes:
        forest: its cuts are compared with columns; or name a set, see `asks_set`.
        columns: what the trees ask.
        asks_set: for each tree and node, whether its cut is the number of a set.
        sets: category codes that go left.
    """

    forest: Forest
    columns: Columns
    asks_set: tuple[Bools, ...] = ()
    sets: tuple[frozenset[int], ...] = ()


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
    shares = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True)
    return _tree(tree, shares[:, 1] if shares.shape[1] == 2 else shares)


def _noughts(model: Any) -> tuple[float, ...]:
    """Bases of a model of several classes whose leaves are shares; none of two classes."""
    classes = len(model.classes_)
    return (0.0,) * classes if classes > 2 else ()


def single(columns: Columns) -> Columns:
    """The columns of a model that casts them to float32 before it compares."""
    return tuple(replace(column, single=True) for column in columns)


def _single_tree(model: Any, columns: Columns) -> Grown:
    forest = Forest((_voting_tree(model.tree_),), bases=_noughts(model))
    return Grown(forest, single(columns))


def _averaged(model: Any, columns: Columns) -> Grown:
    trees = tuple(_voting_tree(member.tree_) for member in model.estimators_)
    forest = Forest(trees, divisor=float(len(trees)), bases=_noughts(model))
    return Grown(forest, single(columns))


def _mean_tree(tree: Any) -> Tree:
    return _tree(tree, tree.value[:, 0, 0])


def _regressed_tree(model: Any, columns: Columns) -> Grown:
    return Grown(Forest((_mean_tree(model.tree_),)), single(columns))


def _regressed_mean(model: Any, columns: Columns) -> Grown:
    trees = tuple(_mean_tree(member.tree_) for member in model.estimators_)
    return Grown(Forest(trees, divisor=float(len(trees))), single(columns))


def _regressed_sum(model: Any, columns: Columns) -> Grown:
    grown = _boosted(model, columns)
    return replace(grown, forest=replace(grown.forest, link="identity"))


def _regressed_hist(model: Any, columns: Columns) -> Grown:
    grown = _hist(model, columns)
    link = "exp" if model.loss in {"poisson", "gamma"} else "identity"
    return replace(grown, forest=replace(grown.forest, link=link))


def _boosted(model: Any, columns: Columns) -> Grown:
    plain = {"DummyClassifier", "DummyRegressor"}
    if not (isinstance(model.init_, str) or type(model.init_).__name__ in plain):
        kind = type(model.init_).__name__
        raise ConvertError("K01", f"GradientBoosting that starts from a {kind} (init) is not known")
    # the exponential loss has scores of 1 / (1 + exp(-2 raw))
    factor = 2.0 if model.loss == "exponential" else 1.0
    step = factor * model.learning_rate
    trees = tuple(
        replace(_tree(member.tree_, step * member.tree_.value[:, 0, 0]), target=target)
        for members in model.estimators_
        for target, member in enumerate(members)
    )
    starts = model._raw_predict_init(np.zeros((1, model.n_features_in_)))[0]  # noqa: SLF001 - it has no public name
    return Grown(_linked(trees, factor * starts), single(columns))


def _linked(trees: tuple[Tree, ...], starts: Any) -> Forest:
    """A forest of one logistic score, or of a softmax of several."""
    bases = tuple(np.ravel(starts).astype(float).tolist())
    if len(bases) == 1:
        return Forest(trees, base=bases[0], link="logistic")
    return Forest(trees, bases=bases, link="softmax")


def _hist(model: Any, columns: Columns) -> Grown:
    sets: list[frozenset[int]] = []
    trees, asks_set = [], []
    rounds = model._predictors  # noqa: SLF001 - it has no public name
    for target, predictor in (pair for members in rounds for pair in enumerate(members)):
        tree = replace(_hist_tree(predictor.nodes), target=target)
        asks = np.asarray(predictor.nodes["is_categorical"]).astype(np.bool_) & tree.inner
        for node in np.flatnonzero(asks):
            words = predictor.raw_left_cat_bitsets[predictor.nodes["bitset_idx"][node]]
            tree.cut[node] = len(sets)
            sets.append(_members(words))
        trees.append(tree)
        asks_set.append(asks)
    forest = _linked(tuple(trees), model._baseline_prediction)  # noqa: SLF001 - likewise
    return Grown(forest, columns, tuple(asks_set), tuple(sets))


def _members(words: Any) -> frozenset[int]:
    bits = np.unpackbits(np.asarray(words, "<u4").view(np.uint8), bitorder="little")
    return frozenset(np.flatnonzero(bits).tolist())


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


def _ada(model: Any, columns: Columns) -> Grown:
    if getattr(model, "algorithm", "SAMME") == "SAMME.R":
        raise ConvertError(
            "K01", "AdaBoost by SAMME.R is not known", cure="fit it with algorithm='SAMME'"
        )
    # SAMME: each tree votes with its weight; score = 1 / (1 + exp(-2 * mean vote))
    weights = np.asarray(model.estimator_weights_[: len(model.estimators_)], np.float64)
    trees = []
    for member, weight in zip(model.estimators_, weights, strict=True):
        _refuse_member(model, member)
        shares = member.tree_.value[:, 0, :]
        vote = np.where(np.argmax(shares, axis=1) == 1, 2.0, -2.0)
        trees.append(_tree(member.tree_, weight * vote))
    forest = Forest(tuple(trees), divisor=float(weights.sum()), link="logistic")
    return Grown(forest, single(columns))


def _bagged(model: Any, columns: Columns) -> Grown:
    trees = []
    for member, places in zip(model.estimators_, model.estimators_features_, strict=True):
        _refuse_member(model, member)
        tree = _voting_tree(member.tree_)
        asked = np.where(tree.inner, tree.feature, 0)
        trees.append(replace(tree, feature=np.asarray(places, np.int64)[asked]))
    forest = Forest(tuple(trees), divisor=float(len(trees)), bases=_noughts(model))
    return Grown(forest, single(columns))


def _xgboost(model: Any, columns: Columns) -> Grown:
    return Grown(xgboost_forest(model), single(columns))


def _lightgbm(model: Any, columns: Columns) -> Grown:
    return Grown(lightgbm_forest(model), columns)


def _refuse_member(model: Any, member: Any) -> None:
    name = type(member).__name__
    plain = name in {"DecisionTreeClassifier", "ExtraTreeClassifier"}
    if not plain or len(member.classes_) != len(model.classes_):
        kind = type(model).__name__
        raise ConvertError(
            "K01",
            f"{kind} of a {name} of {len(getattr(member, 'classes_', ()))} classes is not known",
            cure="use decision trees of all classes inside, or GradientBoostingClassifier",
        )


GROWERS: Final[dict[str, Callable[[Any, Columns], Grown]]] = {
    "DecisionTreeClassifier": _single_tree,
    "ExtraTreeClassifier": _single_tree,
    "RandomForestClassifier": _averaged,
    "ExtraTreesClassifier": _averaged,
    "GradientBoostingClassifier": _boosted,
    "HistGradientBoostingClassifier": _hist,
    "AdaBoostClassifier": _ada,
    "BaggingClassifier": _bagged,
    "DecisionTreeRegressor": _regressed_tree,
    "ExtraTreeRegressor": _regressed_tree,
    "RandomForestRegressor": _regressed_mean,
    "ExtraTreesRegressor": _regressed_mean,
    "GradientBoostingRegressor": _regressed_sum,
    "HistGradientBoostingRegressor": _regressed_hist,
    "XGBClassifier": _xgboost,
    "LGBMClassifier": _lightgbm,
    "XGBRegressor": _xgboost,
    "LGBMRegressor": _lightgbm,
}


REGRESSORS: Final = frozenset(name for name in GROWERS if name.endswith("Regressor"))


def check_trees(model: Any) -> tuple[float, float]:
    """Check that the trees of a file are ones; between what their one score lies.

    Raises:
        ValueError: a node asks or leads outside.
        ConvertError: K01.
    """
    for part, _ in parts(model):
        # a crafted file could have it call something else
        if not only_checks(getattr(part, "func", None)):
            raise ValueError("a model prepares its rows with a function of its own")
    grown = GROWERS[type(model).__name__](model, ())
    grown.forest.check(int(model.n_features_in_))
    return (0.0, 1.0) if grown.forest.bases else grown.forest.span
