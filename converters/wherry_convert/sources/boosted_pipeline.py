"""XGBClassifier and LGBMClassifier at the end of a pipeline of scikit-learn.

Behind a scaler or an encoder their trees are asked like scikit-learn's own: each column is a
function of one raw value (`sklearn_column`), and a question is whether it is at or below a
cut. What those cannot say (sets of categories, zeros that stand for gaps) is refused; the
booster's own file, without the pipeline, can.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, Final

import numpy as np

from wherry_contract.errors import ConvertError
from wherry_convert.forest import Forest

from . import lightgbm_text, xgboost_trees
from .boosted_model import Grown, Question
from .lightgbm_text import ZERO

_CURE: Final = "train and save the booster alone, with what the pipeline does left to the contract"


def xgboost_forest(model: Any) -> Forest:
    """The trees of an XGBClassifier; they compare float32.

    Raises:
        ConvertError: K01 or K02.
        AttributeError, IndexError, KeyError, TypeError, ValueError: it is malformed.
    """
    missing = model.missing
    if missing is not None and not math.isnan(missing):
        detail = f"XGBClassifier takes {missing!r} for missing"
        raise ConvertError("K02", detail, cure="send null instead, and leave `missing` out")
    grown, facts = xgboost_trees.read_model(json.loads(bytes(model.get_booster().save_raw("json"))))
    if facts.objective == "binary:logitraw":
        detail = f"objective {facts.objective} of an XGBClassifier gives no probability"
        raise ConvertError("K01", detail, cure="train it with objective binary:logistic")
    return _ordered(grown, lambda asked: asked.cut)


def lightgbm_forest(model: Any) -> Forest:
    """The trees of an LGBMClassifier; they compare doubles.

    Raises:
        ConvertError: K01 or K02.
        AttributeError, IndexError, KeyError, TypeError, ValueError: it is malformed.
    """
    grown, *_ = lightgbm_text.read_model(model.booster_.model_to_string())
    return _ordered(grown, _past_zero)


def _past_zero(asked: Question) -> float:
    """The cut in values of which the smallest count as zero."""
    if not -ZERO <= asked.cut < ZERO:
        return asked.cut
    return ZERO if asked.cut >= 0 else math.nextafter(-ZERO, -math.inf)


def _ordered(grown: Grown, cut_of: Any) -> Forest:
    if not all(asked.ordered for asked in grown.questions):
        detail = "a booster in a pipeline asks about categories, or takes zeros for missing"
        raise ConvertError("K01", detail, cure=_CURE)
    cuts = np.array([cut_of(asked) for asked in grown.questions] or [0.0])
    trees = tuple(
        replace(tree, cut=cuts[np.where(tree.inner, tree.cut, 0).astype(np.int64)])
        for tree in grown.forest.trees
    )
    return replace(grown.forest, trees=trees)
