"""The text form of a LightGBM model as `Grown`.

Facts of the format (LightGBM, src/io/tree.cpp and include/LightGBM/tree.h, v4): bit 0 of a
decision says that it is about a set, bit 1 where a gap goes, bits 2 and 3 what a gap is:
nothing (NaN counts as 0), zero (and NaN), or NaN. A row goes left if its double is at or
below the threshold, or if its integer part is a member of the set; a gap is no member.
Before all that, values of a size up to 1e-35 (as a float32) count as zero.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from wherry_contract.errors import ConvertError
from wherry_contract.manifest import MAX_CLASSES
from wherry_convert.forest import LEAF, Doubles, Forest, Tree

from .boosted_model import Grown, Planter, Question, Rules
from .lightgbm_clean import MAX_COLUMNS, clean_text, floats, numbers, set_words

ZERO: Final = float(np.float32(1e-35))
# objective -> what lies between the sum of leaves and the score
LINKS: Final = {
    "binary": "logistic",
    "cross_entropy": "logistic",
    "regression": "identity",
    "regression_l1": "identity",
    "huber": "identity",
    "fair": "identity",
    "quantile": "identity",
    "mape": "identity",
    "lambdarank": "identity",
    "rank_xendcg": "identity",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "multiclass": "softmax",
    "multiclassova": "logistic",
}
CURE: Final = "train a classifier of two classes, with objective binary"
_CURE: Final = CURE
_MULTI: Final = ("multiclass", "multiclassova")
_GAP_NONE, _GAP_ZERO = 0, 1


def _zeroed(values: Doubles) -> Doubles:
    return np.where(np.abs(values) <= ZERO, 0.0, values)


# -1 is no member of any set, which is also what its tables make of names that they do not know
RULES: Final = Rules(
    compared=_zeroed,
    single=False,
    members_left=True,
    lowest=math.nextafter(-1.0, 0.0),
    unseen=-1.0,
)


@dataclass(frozen=True)
class _Objective:
    link: str
    factor: float
    text: str  # as LightGBM writes one with the same output
    classes: int  # that it tells apart; 0 for a regressor


def read_model(text: str) -> tuple[Grown, str, int]:
    """Read a model, as its trees, as a text anew for LightGBM to read, and its classes.

    Raises:
        ConvertError: K01 or K02.
        IndexError, KeyError, TypeError, ValueError: it is malformed.
    """
    head, *blocks = _blocks(text)
    objective = _objective(head)
    planter = Planter()
    trees = tuple(_tree(planter, block, objective.factor) for block in blocks)
    if not trees:
        raise ConvertError("K01", "the model has no trees", cure="train at least one round")
    each = int(head["num_tree_per_iteration"])
    if len(trees) % each:
        raise ValueError(f"{len(trees)} trees for {each} classes")
    trees = tuple(replace(tree, target=place % each) for place, tree in enumerate(trees))
    averaged = "average_output" in head
    names = tuple(head["feature_names"].split())
    count = int(head["max_feature_idx"]) + 1
    if len(names) != count or count > MAX_COLUMNS:
        raise ValueError(f"{len(names)} names of {count} columns")
    grown = Grown(
        Forest(
            trees,
            divisor=float(len(trees) // each) if averaged else 1.0,
            link=objective.link,
            bases=(0.0,) * each if each > 1 else (),
        ),
        planter.questions,
        RULES,
        count=count,
        names=() if all(re.fullmatch(r"Column_\d+", name) for name in names) else names,
        categories=_categories(text, head),
    )
    grown.check()  # before the rest is written: it says more of what is wrong
    clean = clean_text(
        blocks, columns=count, objective=objective.text, averaged=averaged, each=each
    )
    return grown, clean, objective.classes


def _blocks(text: str) -> Iterator[dict[str, str]]:
    """The head and each tree, as their settings."""
    body, end, _ = text.partition("\nend of trees")
    if not end or not body.startswith("tree\n"):
        raise ValueError("it does not begin or end as a model does")
    for block in re.split(r"\nTree=\d+\n", body):
        yield {
            name: value.strip()
            for name, _, value in (line.partition("=") for line in block.splitlines())
            if name
        }


def _objective(head: Mapping[str, str]) -> _Objective:
    classes = int(head["num_class"])
    if not 1 <= classes <= MAX_CLASSES or int(head["num_tree_per_iteration"]) != classes:
        raise ConvertError("K01", "it has more than one output", cure=_CURE)
    name, *settings = head.get("objective", "").split() or [""]
    if not name:
        raise ConvertError("K01", "it has an objective of its own, no probability", cure=_CURE)
    if name not in LINKS or "sqrt" in settings:
        detail = f"objective {' '.join([name, *settings])} gives no probability"
        raise ConvertError("K01", detail, cure=_CURE)
    found = dict(item.partition(":")[::2] for item in settings)
    if (classes > 1) != (name in _MULTI):
        raise ConvertError("K01", f"objective {name} has {classes} outputs", cure=_CURE)
    scaled = name in {"binary", "multiclassova"}
    factor = float(found.get("sigmoid", 1.0)) if scaled else 1.0
    if not 0 < factor < math.inf:
        raise ValueError(f"sigmoid is {factor}")
    if name == "multiclass":
        return _Objective("softmax", factor, f"multiclass num_class:{classes}", classes)
    if name == "multiclassova":
        text = f"multiclassova num_class:{classes} sigmoid:{factor!r}"
        return _Objective("logistic", factor, text, classes)
    if LINKS[name] == "logistic":
        return _Objective("logistic", factor, f"binary sigmoid:{factor!r}", 2)
    text = "regression" if LINKS[name] == "identity" else "poisson"
    return _Objective(LINKS[name], factor, text, 0)


def _categories(text: str, head: Mapping[str, str]) -> dict[int, tuple[str, ...]]:
    """Names of codes, where it was trained on tables with names."""
    found = re.search(r"^pandas_categorical:(.*)$", text, re.MULTILINE)
    lists = json.loads(found[1]) if found else None
    if not lists:
        return {}
    # a column with codes has them listed as 1:2:0, others have [low:high] or none
    setting = re.search(r"^\[categorical_feature: ([\d,]*)\]$", text, re.MULTILINE)
    if setting and setting[1]:
        columns = sorted(map(int, setting[1].split(",")))
    else:
        infos = enumerate(head["feature_infos"].split())
        columns = [place for place, info in infos if not info.startswith("[") and info != "none"]
    if len(columns) != len(lists):
        raise ConvertError(
            "K02",
            f"it has {len(columns)} columns of categories and names for {len(lists)}",
            cure="train with every category as a pandas category, or every one as integer codes",
        )
    return {column: tuple(map(str, names)) for column, names in zip(columns, lists, strict=True)}


def _tree(planter: Planter, block: Mapping[str, str], factor: float) -> Tree:
    if block.get("is_linear", "0") != "0":
        raise ConvertError(
            "K01", "its leaves are linear models", cure="train it without linear_tree"
        )
    leaves = int(block["num_leaves"])
    inner = leaves - 1
    values = [factor * value for value in floats(block, "leaf_value", leaves)]
    asked: list[Question | None] = [*_questions(block, inner), *[None] * leaves]

    def children(side: str) -> list[int]:
        # leaves are counted down from -1; here they come after the inner nodes
        ids = numbers(block, side, inner)
        return [place if place >= 0 else inner - 1 - place for place in ids] + [LEAF] * leaves

    return planter.tree(
        children("left_child"), children("right_child"), asked, [0.0] * inner + values
    )


def _questions(block: Mapping[str, str], inner: int) -> Iterator[Question]:
    sets = [_members(words) for words in set_words(block)]
    rows = zip(
        numbers(block, "split_feature", inner),
        # inf is a threshold of LightGBM's own: every value that is there goes left
        floats(block, "threshold", inner, infinite=True),
        numbers(block, "decision_type", inner),
        strict=True,
    )
    for column, cut, kind in rows:
        if kind & 1:
            yield Question(column, 0.0, sets[int(cut)], missing_left=False)
            continue
        gap, left = kind >> 2 & 3, bool(kind & 2)
        if gap == _GAP_NONE:
            left = cut >= 0
        yield Question(column, cut, None, missing_left=left, zero_missing=gap == _GAP_ZERO)


def _members(words: list[int]) -> frozenset[int]:
    return frozenset(
        32 * place + bit for place, word in enumerate(words) for bit in range(32) if word >> bit & 1
    )
