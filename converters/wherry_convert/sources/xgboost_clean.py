"""An XGBoost model written anew from what was checked, for XGBoost to read.

Its own reader trusts a file's lengths and numbers, and a damaged file ends the process. So
it gets a document in which every array has its length and every number its kind: the same
conditions, directions, sets and leaves, and nothing that scoring does not need.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from wherry_contract.manifest import MAX_CLASSES

MAX_COLUMNS: Final = 65_536
MAX_CODE: Final = 2**24  # codes of categories are below
_ROOT: Final = 2**31 - 1  # the parent of a root


def clean_model(document: Mapping[str, Any], objective: str) -> bytes:
    """The document as XGBoost's own JSON.

    Args:
        document: a parsed model, whose trees are known to be ones.
        objective: the objective to write; of its kind is the output.

    Raises:
        IndexError, KeyError, TypeError, ValueError: a part is missing or has another form.
    """
    learner = document["learner"]
    booster = learner["gradient_booster"]
    weights = booster.get("weight_drop")
    inner = (booster["gbtree"] if weights is not None else booster)["model"]
    settings = learner["learner_model_param"]
    columns = _whole(settings["num_feature"], 1, MAX_COLUMNS)
    trees = [_tree(tree, number, columns) for number, tree in enumerate(inner["trees"])]
    classes = number_of_classes(learner)
    model: dict[str, Any] = {
        "name": "gbtree",
        "model": {
            "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
            "iteration_indptr": round_starts(inner),
            "tree_info": tree_classes(inner, classes),
            "trees": trees,
        },
    }
    if weights is not None:
        model = {"name": "dart", "gbtree": model, "weight_drop": _floats(weights, len(trees))}
    kinds = [str(kind) for kind in learner.get("feature_types", ())]
    cleaned = {
        "attributes": {},
        "feature_names": [],
        "feature_types": kinds if len(kinds) == columns else [],
        "gradient_booster": model,
        "learner_model_param": {
            "base_score": json.dumps(list(map(_float, base_scores(learner, classes)))),
            "boost_from_average": "1",
            "num_class": str(classes),
            "num_feature": str(columns),
            "num_target": "1",
        },
        "objective": {"name": objective, "reg_loss_param": {"scale_pos_weight": "1"}}
        | ({"softmax_multiclass_param": {"num_class": str(classes)}} if classes else {}),
    }
    return json.dumps({"learner": cleaned, "version": [3, 2, 0]}).encode()


def number_of_classes(learner: Mapping[str, Any]) -> int:
    """How many classes it tells apart; 0 if it has one output.

    Raises:
        KeyError, TypeError, ValueError: it does not say, or says what cannot be.
    """
    found = _whole(learner["learner_model_param"]["num_class"], 0, MAX_CLASSES)
    return found if found > 1 else 0


def tree_classes(model: Mapping[str, Any], classes: int) -> list[int]:
    """The class that each tree adds to; 0 if there are none.

    Raises:
        KeyError, TypeError, ValueError: they do not cover the trees.
    """
    count = len(model["trees"])
    return _wholes(model["tree_info"], count, 0, classes - 1) if classes else [0] * count


def base_scores(learner: Mapping[str, Any], classes: int) -> list[float]:
    """What is added to the sums: one number, or one for each class.

    Raises:
        KeyError, ValueError: they are none.
    """
    text = str(learner["learner_model_param"]["base_score"]).strip("[]")
    found = [float(part) for part in text.split(",")]
    if len(found) == 1:
        return found * max(1, classes)
    if len(found) != classes:
        raise ValueError(f"{len(found)} base scores for {classes} classes")
    return found


def round_starts(model: Mapping[str, Any]) -> list[int]:
    """Where each round's trees begin, and where the last one's end.

    Raises:
        KeyError, TypeError, ValueError: they do not cover the trees.
    """
    total = len(model["trees"])
    starts = model.get("iteration_indptr")
    if starts is None:  # files of before 2.1 say only how many trees each round has
        each = max(1, int(model["gbtree_model_param"].get("num_parallel_tree", 1)))
        starts = range(0, total + 1, each)
    found = _wholes(starts, len(starts), 0, total)
    if not found or found[0] != 0 or found[-1] != total or found != sorted(found):
        raise ValueError("the rounds do not cover the trees")
    return found


def _whole(value: Any, low: int, high: int) -> int:
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"{number} is not from {low} to {high}")
    return number


def _wholes(values: Any, count: int, low: int, high: int) -> list[int]:
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers, not {count}")
    return [_whole(value, low, high) for value in values]


def _float(value: Any) -> float:
    # the shortest text that is this float32, as XGBoost writes it
    number = float(str(np.float32(value)))
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number


def _floats(values: Sequence[Any], count: int) -> list[float]:
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers, not {count}")
    return [_float(value) for value in values]


def _splits(values: Sequence[Any], left: Sequence[int]) -> list[float]:
    """Thresholds and leaves; XGBoost itself writes an infinite threshold above the largest values."""
    if len(values) != len(left):
        raise ValueError(f"{len(values)} numbers, not {len(left)}")
    return [
        float(value) if child >= 0 and abs(value) == math.inf else _float(value)
        for value, child in zip(values, left, strict=True)
    ]


def _tree(tree: Mapping[str, Any], number: int, columns: int) -> dict[str, Any]:
    count = len(tree["left_children"])
    left, right = (
        _wholes(tree[f"{side}_children"], count, -1, count - 1) for side in ("left", "right")
    )
    if not count or any((a < 0) != (b < 0) for a, b in zip(left, right, strict=True)):
        raise ValueError("a node has one child")
    parents = [_ROOT] * count
    for side in (left, right):
        for node, child in enumerate(side):
            if child >= 0:
                parents[child] = node
    nought = [0.0] * count
    return {
        "base_weights": nought,
        "default_left": _wholes(tree["default_left"], count, 0, 1),
        "id": number,
        "left_children": left,
        "loss_changes": nought,
        "parents": parents,
        "right_children": right,
        "split_conditions": _splits(tree["split_conditions"], left),
        "split_indices": _wholes(tree["split_indices"], count, 0, columns - 1),
        "split_type": _wholes(tree.get("split_type") or [0] * count, count, 0, 1),
        "sum_hessian": nought,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(columns),
            "num_nodes": str(count),
            "size_leaf_vector": "1",
        },
    } | _sets(tree, count)


def _sets(tree: Mapping[str, Any], count: int) -> dict[str, list[int]]:
    codes = tree.get("categories", ())
    nodes = tree.get("categories_nodes", ())
    found = {
        "categories": _wholes(codes, len(codes), 0, MAX_CODE - 1),
        "categories_nodes": _wholes(nodes, len(nodes), 0, count - 1),
        "categories_segments": _wholes(
            tree.get("categories_segments", ()), len(nodes), 0, len(codes)
        ),
        "categories_sizes": _wholes(tree.get("categories_sizes", ()), len(nodes), 1, len(codes)),
    }
    start = 0
    for segment, size in zip(found["categories_segments"], found["categories_sizes"], strict=True):
        if segment != start:
            raise ValueError("the sets do not follow each other")
        start += size
    asked = [node for node, kind in enumerate(tree.get("split_type") or ()) if kind]
    if start != len(codes) or found["categories_nodes"] != asked:
        raise ValueError("a question about a set has none")
    return found
