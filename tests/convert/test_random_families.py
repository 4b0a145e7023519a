"""Every family of trees, trained on random tables that hurt: ONNX and TFLite agree row by row.

Beside the crafted trees of test_xgboost, test_lightgbm and test_exact, these are what the
libraries themselves grow: dart's weights, bags, native categories, few and repeated values,
gaps, huge and tiny numbers. Infinities never reach a tree: the contract refuses them (C04).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier
from support_boosted import POOL, TO, need
from support_convert import fitted, numbers, scored, through_skops
from support_corpus import library, lightgbm_source, xgboost_source

from wherry_contract.errors import ConvertError, InputError
from wherry_contract.features import InputContract
from wherry_convert.parity import steps_around
from wherry_convert.sources import SourceModel

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


def _xgboost(**more: Any) -> Callable[..., SourceModel]:
    def grow(raw: Any, label: Any, seed: int) -> SourceModel:
        kinds = ["float", "float", "c"]
        model = library("xgboost").XGBClassifier(
            **{"n_estimators": 6, "max_depth": 5, "min_child_weight": 0, "n_jobs": 1}
            | {"random_state": seed, "feature_types": kinds, "enable_categorical": True}
            | {"max_cat_to_onehot": 3}
            | more
        )
        return xgboost_source(model, raw, label)

    return grow


def _lightgbm(**more: Any) -> Callable[..., SourceModel]:
    def grow(raw: Any, label: Any, seed: int) -> SourceModel:
        model = library("lightgbm").LGBMClassifier(
            **{"n_estimators": 6, "min_child_samples": 2, "n_jobs": 1, "verbose": -1}
            | {
                "random_state": seed,
                "min_data_per_group": 2,
                "cat_smooth": 1.0,
                "min_data_in_bin": 1,
            }
            | more
        )
        return lightgbm_source(model, raw, label, categorical_feature=[2])

    return grow


def _sklearn(model: Any, **more: Any) -> Callable[..., SourceModel]:
    def grow(raw: Any, label: Any, seed: int) -> SourceModel:
        return through_skops(fitted(model(random_state=seed, **more), raw, label))

    return grow


BAGS = {"subsample": 0.6, "subsample_freq": 1}
FAMILIES: dict[str, tuple[Callable[..., SourceModel], InputContract]] = {
    "xgboost": (_xgboost(), CODES),
    "xgboost dart": (_xgboost(booster="dart", rate_drop=0.5, one_drop=True), CODES),
    "xgboost bags": (_xgboost(num_parallel_tree=3, subsample=0.6), CODES),
    "lightgbm": (_lightgbm(), CODES),
    "lightgbm dart": (_lightgbm(boosting_type="dart", drop_rate=0.5), CODES),
    "lightgbm forest": (_lightgbm(boosting_type="rf", **BAGS), CODES),
    "lightgbm extra trees": (_lightgbm(extra_trees=True), CODES),
    "hist with categories": (
        _sklearn(
            HistGradientBoostingClassifier,
            max_iter=5,
            min_samples_leaf=2,
            categorical_features=[2],
        ),
        GAPS,
    ),
    "forest": (_sklearn(RandomForestClassifier, n_estimators=6), GAPS),
    "extra trees": (_sklearn(ExtraTreesClassifier, n_estimators=6), GAPS),
    "bagging": (_sklearn(BaggingClassifier, n_estimators=4), GAPS),
    "ada": (
        lambda raw, label, seed: _sklearn(
            AdaBoostClassifier, estimator=DecisionTreeClassifier(max_depth=3), n_estimators=4
        )(np.nan_to_num(raw, nan=0.5), label, seed),
        numbers(3),
    ),
}


def _rows(make: np.random.Generator, count: int, pool: Any, *, gaps: bool) -> Any:
    raw = np.c_[make.choice(pool, (count, 2)), make.integers(0, 12, count)]
    raw[:, 1] = np.where(make.random(count) < 0.5, make.choice(pool[:4], count), raw[:, 1])
    if gaps:
        raw[make.random(raw.shape) < 0.1] = np.nan
    return raw


@pytest.mark.parametrize("runtime", sorted(TO))
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16), gaps=st.booleans())
def test_row_by_row(family: str, runtime: str, seed: int, *, gaps: bool) -> None:
    need(runtime)
    grow, contract = FAMILIES[family]
    make = np.random.default_rng(seed)
    refused = contract.features[0].missing == "refuse"
    raw = _rows(make, 120, POOL, gaps=gaps and not refused)
    label = (make.random(120) < 0.4) * 1
    label[:4] = 0, 1, 0, 1
    source = grow(raw, label, seed)
    converted = TO[runtime](source, contract)
    around = [np.clip(steps_around(cuts), -1e37, 1e37) for cuts in converted.cuts.values()]
    made = _rows(make, 200, np.concatenate([POOL, *around]), gaps=not refused)
    rows = np.concatenate([raw, made])
    largest = np.abs(source.scores(rows, contract) - scored(converted).scores(rows)).max()
    assert largest < 1e-6


def test_infinities_are_refused_before_any_tree() -> None:
    for value in (np.inf, -np.inf):
        with pytest.raises(InputError, match="C04"):
            GAPS.matrix([{"f0": value, "f1": 0.0, "f2": 0.0}])


def test_the_tables_make_trees_that_ask_everything() -> None:
    """Categories, gaps and repeated thresholds are in what is grown, so that the test can fail."""
    make = np.random.default_rng(1)
    raw, label = _rows(make, 120, POOL, gaps=True), (make.random(120) < 0.4) * 1
    asked = set()
    for family in ("xgboost dart", "lightgbm dart"):
        source = FAMILIES[family][0](raw, label, 1)
        questions = source.grown.questions  # type: ignore[attr-defined]
        assert any(question.members for question in questions)
        asked |= {question.column for question in questions}
    assert asked == {0, 1, 2}
    with pytest.raises(ConvertError, match="K07"):
        TO["onnx"](source, numbers(2))
