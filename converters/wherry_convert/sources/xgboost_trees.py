"""The JSON form of an XGBoost model as `Grown`.

Facts of the format (xgboost, doc/model.schema and src/common/categorical.h): a row goes
left if its float32 value is below the condition, or is no member of the node's set; a gap
goes left if `default_left`; `base_score` is a probability for logistic objectives; dart
scales each tree by `weight_drop`. `predict` uses all rounds, scikit-learn's wrapper only
those up to `best_iteration`: so do we, wherever the file says it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np

from wherry_contract.errors import ConvertError
from wherry_convert.forest import Doubles, Forest, Tree

from .boosted_model import Grown, Planter, Question, Rules
from .xgboost_clean import (
    base_scores,
    clean_model,
    number_of_classes,
    round_starts,
    tree_classes,
)

# what lies between the sum of leaves and the score
LINKS: Final = {
    "binary:logistic": "logistic",
    "binary:logitraw": "logistic",
    "reg:logistic": "logistic",
    "reg:squarederror": "identity",
    "reg:absoluteerror": "identity",
    "reg:pseudohubererror": "identity",
    "reg:squaredlogerror": "identity",
    "rank:ndcg": "identity",
    "rank:map": "identity",
    "rank:pairwise": "identity",
    "count:poisson": "exp",
    "reg:gamma": "exp",
    "reg:tweedie": "exp",
    "multi:softprob": "softmax",
    "multi:softmax": "softmax",
}
# objectives with settings of their own, and one with the same output
_OUTPUTS: Final = {
    "reg:absoluteerror": "reg:squarederror",
    "reg:pseudohubererror": "reg:squarederror",
    "reg:squaredlogerror": "reg:squarederror",
    "rank:ndcg": "reg:squarederror",
    "rank:map": "reg:squarederror",
    "rank:pairwise": "reg:squarederror",
    "count:poisson": "reg:gamma",
    "reg:tweedie": "reg:gamma",
    "multi:softmax": "multi:softprob",
}
_AS_PROBABILITY: Final = frozenset({"binary:logistic", "reg:logistic"})  # how base_score stands
CURE: Final = "train a classifier of two classes, with objective binary:logistic"
_CURE: Final = CURE
_UNSEEN: Final = float(2**24 - 1)  # the largest code that it takes; larger than any in a set


def _single(values: Doubles) -> Doubles:
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(np.float64)


RULES: Final = Rules(compared=_single, single=True, members_left=False, lowest=0.0, unseen=_UNSEEN)


@dataclass(frozen=True)
class Facts:
    """What the source needs to score by itself.

    Attributes:
        objective: its name.
        rounds: how many rounds count.
        kinds: of the columns, as the file has them; ``c`` is a category.
        clean: the model anew, for XGBoost to read.
        classes: that it tells apart; 0 for a regressor.
    """

    objective: str
    rounds: int
    kinds: tuple[str, ...]
    clean: bytes
    classes: int = 0


def read_model(document: Mapping[str, Any]) -> tuple[Grown, Facts]:
    """Read a parsed model.

    Raises:
        ConvertError: K01 or K02.
        AttributeError, IndexError, KeyError, TypeError, ValueError: it is malformed.
    """
    learner = document["learner"]
    objective = str(learner["objective"]["name"])
    _check_kind(learner, objective)
    booster = learner["gradient_booster"]
    weights = booster.get("weight_drop")
    model = (booster["gbtree"] if weights is not None else booster)["model"]
    facts = _facts(learner, model, objective)
    planter = Planter()
    starts = round_starts(model)
    count = starts[facts.rounds]
    trees = tuple(_tree(planter, tree) for tree in model["trees"][:count])
    if weights is not None:
        trees = tuple(_weighed(t, w) for t, w in zip(trees, weights[:count], strict=True))
    classes = number_of_classes(learner)
    bases = _bases(learner, objective, classes)
    if classes:
        targets = tree_classes(model, classes)[:count]
        trees = tuple(replace(t, target=k) for t, k in zip(trees, targets, strict=True))
    grown = Grown(
        Forest(
            trees,
            base=0.0 if classes else bases[0],
            link=LINKS[objective],
            bases=bases if classes else (),
        ),
        planter.questions,
        RULES,
        count=int(learner["learner_model_param"]["num_feature"]),
        names=tuple(map(str, learner.get("feature_names", ()))),
        categories=_categories(model.get("cats")),
        notes=_notes(objective, facts.rounds, len(starts) - 1),
    )
    grown.check()  # before the rest is written: it says more of what is wrong
    return grown, replace(facts, clean=clean_model(document, _OUTPUTS.get(objective, objective)))


def _check_kind(learner: Mapping[str, Any], objective: str) -> None:
    booster = learner["gradient_booster"]["name"]
    if booster not in {"gbtree", "dart"}:
        detail = f"booster {booster} is not known"
        raise ConvertError("K01", detail, cure="train it with booster gbtree or dart")
    if objective not in LINKS:
        raise ConvertError("K01", f"objective {objective} gives no probability", cure=_CURE)
    several = number_of_classes(learner) > 0
    if int(learner["learner_model_param"].get("num_target", 1)) > 1 or several != (
        LINKS[objective] == "softmax"
    ):
        raise ConvertError("K01", "it has more than one output", cure=_CURE)


def _facts(learner: Mapping[str, Any], model: Mapping[str, Any], objective: str) -> Facts:
    rounds = len(round_starts(model)) - 1
    best = learner.get("attributes", {}).get("best_iteration")
    if best is not None:
        rounds = min(rounds, int(best) + 1)
    if rounds < 1:
        raise ConvertError("K01", "the model has no trees", cure="train at least one round")
    return Facts(
        objective,
        rounds,
        tuple(map(str, learner.get("feature_types", ()))),
        b"",
        number_of_classes(learner) or 2 * objective.startswith("binary:"),
    )


def _notes(objective: str, used: int, rounds: int) -> tuple[str, ...]:
    found = []
    if used < rounds:
        found.append(f"{used} of {rounds} rounds, up to best_iteration")
    if objective == "binary:logitraw":
        found.append("binary:logitraw: the score is the logistic function of its output")
    return tuple(found)


def _bases(learner: Mapping[str, Any], objective: str, classes: int) -> tuple[float, ...]:
    """What is added to the sums of leaves: one number, or one for each class."""
    return tuple(_base(number, objective) for number in base_scores(learner, classes))


def _base(number: float, objective: str) -> float:
    base = np.float32(number)
    if LINKS[objective] == "exp":
        if not base > 0:
            raise ValueError(f"base_score {base} is no mean")
        return float(np.log(base))
    if objective not in _AS_PROBABILITY:
        return float(base)
    if not 0 < base < 1:
        raise ValueError(f"base_score {base} is no probability")
    one = np.float32(1)
    return float(-np.log(one / base - one))


def _categories(cats: Any) -> dict[int, tuple[str, ...]]:
    # models from tables with names hold them; others hold just the codes
    columns = (cats or {}).get("enc", ())
    return {column: tuple(names) for column, item in enumerate(columns) if (names := _labels(item))}


def _labels(item: Mapping[str, Any]) -> list[str]:
    values = item.get("values", ())
    if "offsets" not in item:
        return [str(value) for value in values]
    ends = item["offsets"]
    data = bytes(value & 255 for value in values)
    return [data[a:b].decode() for a, b in pairwise(ends)]


def _tree(planter: Planter, tree: Mapping[str, Any]) -> Tree:
    if str(tree["tree_param"].get("size_leaf_vector", "1")) not in {"0", "1"}:
        raise ConvertError("K01", "its leaves are vectors", cure=_CURE)
    left, right = list(map(int, tree["left_children"])), list(map(int, tree["right_children"]))
    with np.errstate(over="ignore"):  # below the lowest float32 is minus infinity
        conditions = np.array(tree["split_conditions"], np.float64).astype(np.float32)
        below = np.nextafter(conditions, np.float32(-np.inf)).astype(np.float64)
    columns, defaults = tree["split_indices"], tree["default_left"]
    kinds = tree.get("split_type") or [0] * len(left)
    sets = _sets(tree)
    asked = [
        None
        if left[node] < 0
        else Question(
            int(columns[node]),
            0.0 if kinds[node] else float(below[node]),
            sets[node] if kinds[node] else None,
            missing_left=bool(defaults[node]),
        )
        for node in range(len(left))
    ]
    return planter.tree(left, right, asked, conditions.astype(np.float64).tolist())


def _sets(tree: Mapping[str, Any]) -> dict[int, frozenset[int]]:
    codes: Sequence[int] = tree.get("categories", ())
    parts = zip(
        tree.get("categories_nodes", ()),
        tree.get("categories_segments", ()),
        tree.get("categories_sizes", ()),
        strict=True,
    )
    return {int(node): frozenset(map(int, codes[a : a + size])) for node, a, size in parts}


def _weighed(tree: Tree, weight: float) -> Tree:
    scaled = tree.value.astype(np.float32) * np.float32(weight)
    return replace(tree, value=scaled.astype(np.float64))
