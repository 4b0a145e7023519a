"""Trees of several classes and of values, grown on random tables that hurt: the same, row by row.

As test_random_families, for scores that are not one probability: ONNX and TFLite agree with the
source on every row, on one float step beside every threshold, and on the class that is decided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from skops.io import dumps
from support_boosted import POOL, TO, need
from support_convert import fitted, numbers, scored
from support_corpus import library

from wherry_contract.decision import TIE, decide
from wherry_contract.features import InputContract
from wherry_convert.parity import steps_around
from wherry_convert.sources import SourceModel, Wanted
from wherry_convert.sources.sklearn_file import load as load_sklearn

GAPS = numbers(3, missing="allow")
CODES = InputContract.from_dict(
    {
        "name": "test",
        "version": 1,
        "features": [
            {"name": "f0", "missing": "allow"},
            {"name": "f1", "missing": "allow"},
            {"name": "f2", "dtype": "category", "missing": "allow", "unseen": "allow"}
            | {"categories": [f"c{code}" for code in range(12)]},
        ],
    }
)
CLASS, VALUE = Wanted("class"), Wanted("value")
Grow = Callable[[Any, Any, int], SourceModel]


def _xgboost(objective: str, wanted: Wanted, **more: Any) -> Grow:
    def grow(raw: Any, label: Any, seed: int) -> SourceModel:
        from wherry_convert.sources.xgboost_file import load

        xgboost = library("xgboost")
        matrix = xgboost.DMatrix(
            raw, label, feature_types=["float", "float", "c"], enable_categorical=True
        )
        told = {"objective": objective, "max_depth": 4, "min_child_weight": 0, "nthread": 1}
        several = {"num_class": 4} if wanted is CLASS else {}
        told |= {"seed": seed, "max_cat_to_onehot": 3} | several | more
        data = bytes(xgboost.train(told, matrix, 5).save_raw("ubj"))
        return load(data, (), trust_pickle=False, wanted=wanted)

    return grow


def _lightgbm(objective: str, wanted: Wanted, **more: Any) -> Grow:
    def grow(raw: Any, label: Any, seed: int) -> SourceModel:
        from wherry_convert.sources.lightgbm_file import load

        lightgbm = library("lightgbm")
        told = {"objective": objective, "verbose": -1, "num_threads": 1, "min_data_in_leaf": 2}
        several = {"num_class": 4} if wanted is CLASS else {}
        told |= {"seed": seed, "min_data_per_group": 2, "cat_smooth": 1.0} | several | more
        rows = lightgbm.Dataset(raw, label, categorical_feature=[2])
        data = lightgbm.train(told, rows, 5).model_to_string().encode()
        return load(data, (), trust_pickle=False, wanted=wanted)

    return grow


def _sklearn(model: Any, wanted: Wanted, **more: Any) -> Grow:
    def grow(raw: Any, label: Any, seed: int) -> SourceModel:
        made = fitted(model(random_state=seed, **more), raw, label)
        return load_sklearn(dumps(made), (), trust_pickle=False, wanted=wanted)

    return grow


BAGS = {"boosting": "rf", "bagging_fraction": 0.6, "bagging_freq": 1}
HIST = {"max_iter": 4, "min_samples_leaf": 2, "categorical_features": [2]}
FAMILIES: dict[str, tuple[Grow, InputContract, Wanted]] = {
    "xgboost": (_xgboost("multi:softprob", CLASS), CODES, CLASS),
    "xgboost dart": (_xgboost("multi:softmax", CLASS, booster="dart", rate_drop=0.5), CODES, CLASS),
    "xgboost bags": (_xgboost("multi:softprob", CLASS, num_parallel_tree=3, subsample=0.6), CODES, CLASS),
    "lightgbm": (_lightgbm("multiclass", CLASS), CODES, CLASS),
    "lightgbm one against all": (_lightgbm("multiclassova", CLASS, sigmoid=0.7), CODES, CLASS),
    "lightgbm forest": (_lightgbm("multiclass", CLASS, **BAGS), CODES, CLASS),
    "hist": (_sklearn(HistGradientBoostingClassifier, CLASS, **HIST), GAPS, CLASS),
    "forest": (_sklearn(RandomForestClassifier, CLASS, n_estimators=6), GAPS, CLASS),
    "extra trees": (_sklearn(ExtraTreesClassifier, CLASS, n_estimators=70), GAPS, CLASS),
    "xgboost values": (_xgboost("reg:squarederror", VALUE), CODES, VALUE),
    "xgboost gamma": (_xgboost("reg:gamma", VALUE), CODES, VALUE),
    "lightgbm values": (_lightgbm("regression", VALUE), CODES, VALUE),
    "lightgbm tweedie": (_lightgbm("tweedie", VALUE), CODES, VALUE),
    "hist values": (_sklearn(HistGradientBoostingRegressor, VALUE, **HIST), GAPS, VALUE),
    "extra trees values": (_sklearn(ExtraTreesRegressor, VALUE, n_estimators=6), GAPS, VALUE),
}  # fmt: skip


def _rows(make: np.random.Generator, count: int, pool: Any) -> Any:
    raw = np.c_[make.choice(pool, (count, 2)), make.integers(0, 12, count)]
    raw[:, 1] = np.where(make.random(count) < 0.5, make.choice(pool[:4], count), raw[:, 1])
    raw[make.random(raw.shape) < 0.1] = np.nan
    return raw


def _labels(make: np.random.Generator, count: int, wanted: Wanted) -> Any:
    if wanted is VALUE:
        return make.lognormal(2, 1, count)
    label = make.integers(0, 4, count)
    label[:8] = [0, 1, 2, 3] * 2
    return label


def _clear(scores: Any) -> Any:
    """Rows whose classes are tied or apart by more than sums of float32 differ."""
    gaps = scores.max(axis=1, keepdims=True) - scores
    return (np.abs(gaps - TIE) > 5e-7).all(axis=1)


@pytest.mark.parametrize("runtime", sorted(TO))
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_row_by_row(family: str, runtime: str, seed: int) -> None:
    need(runtime)
    grow, contract, wanted = FAMILIES[family]
    make = np.random.default_rng(seed)
    raw = _rows(make, 120, POOL)
    source = grow(raw, _labels(make, 120, wanted), seed)
    converted = TO[runtime](source, contract)
    around = [np.clip(steps_around(cuts), -1e37, 1e37) for cuts in converted.cuts.values()]
    rows = np.concatenate([raw, _rows(make, 200, np.concatenate([POOL, *around]))])
    expected, found = source.scores(rows, contract), scored(converted).scores(rows)
    assert found.shape == ((320, 4) if wanted is CLASS else (320,))
    assert found == pytest.approx(expected, rel=2e-6, abs=2e-6)
    if wanted is CLASS:
        clear = _clear(expected)
        assert clear.mean() > 0.9
        assert (decide(found, 0.0) == decide(expected, 0.0))[clear].all()
