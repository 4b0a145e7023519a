"""What other converters get silently wrong, each row converted right.

Every row is scored as it comes, with each gap that the contract allows, and one float64
and one float32 step to either side of the model's own thresholds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier
from support_convert import colored, converted_from, differences, fitted, numbers, scored, table

from wherry_convert.graph import inspect_graph

FLOAT32_SUM = 3e-6  # of a hundred leaves


def gb(**more: Any) -> GradientBoostingClassifier:
    return GradientBoostingClassifier(n_estimators=25, random_state=0, **more)


def hist(**more: Any) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(max_iter=25, random_state=0, **more)


def forest(**more: Any) -> RandomForestClassifier:
    return RandomForestClassifier(20, min_samples_leaf=3, random_state=0, n_jobs=2, **more)


def mlp() -> MLPClassifier:
    return MLPClassifier((24, 12), max_iter=15, random_state=0)


def twice() -> ColumnTransformer:
    """A column both as it is and scaled, one dropped, the order turned round."""
    return ColumnTransformer(
        [
            ("scaled", StandardScaler(), [4, 2, 0]),
            ("raw", "passthrough", [0, 1]),
            ("gone", "drop", [3]),
        ]
    )


ROWS = [
    # facts-convert 2a: a scaler before trees moved scores by 1e-2, HistGB by 1e-1
    ("scaler before a forest", make_pipeline(StandardScaler(), forest()), 0),
    ("scaler before extra trees", make_pipeline(StandardScaler(), ExtraTreesClassifier(20)), 0),
    ("scaler before boosting", make_pipeline(StandardScaler(), gb()), 0),
    ("scaler before HistGB", make_pipeline(StandardScaler(), hist()), 0),
    ("min-max before HistGB", make_pipeline(MinMaxScaler(clip=True), hist()), 0),
    ("robust scaler before boosting", make_pipeline(RobustScaler(), gb()), 0),
    ("max-abs before a tree", make_pipeline(MaxAbsScaler(), DecisionTreeClassifier()), 0),
    ("a column raw and scaled", make_pipeline(twice(), hist()), 0),
    ("selected columns", make_pipeline(SelectKBest(k=3), gb()), 0),
    ("no scaler", gb(), 0),
    ("deep boosting", gb(max_depth=6), 0),
    ("exponential loss", gb(loss="exponential"), 0),
    ("boosting from zero", gb(init="zero"), 0),
    # microsoft/onnxruntime#27533: a fused link was skipped where trees are leaves only
    ("leaves only", gb(min_samples_leaf=1400), 0),
    ("a forest of leaves", forest(max_depth=1, min_impurity_decrease=1.0), 0),
    # onnx/sklearn-onnx#1253: forests lost the way of missing values
    ("forest with gaps", forest(), 0.05),
    ("tree with gaps", DecisionTreeClassifier(max_depth=8, random_state=0), 0.05),
    ("HistGB with gaps", hist(), 0.05),
    ("scaler before HistGB with gaps", make_pipeline(StandardScaler(), hist()), 0.05),
    ("imputer before boosting", make_pipeline(SimpleImputer(strategy="median"), gb()), 0.05),
    (
        "imputer, scaler, forest",
        make_pipeline(SimpleImputer(), FunctionTransformer(), StandardScaler(), forest()),
        0.05,
    ),
    # a scaler's float32 arithmetic lost the seconds of an epoch
    ("scaler before a net", make_pipeline(StandardScaler(), mlp()), 0),
    ("imputer, scaler, net", make_pipeline(SimpleImputer(), MinMaxScaler(), mlp()), 0.05),
    ("net on chosen columns", make_pipeline(StandardScaler(), SelectKBest(k=3), mlp()), 0),
    (
        "logistic regression",
        make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
        0.05,
    ),
]


@pytest.mark.parametrize(
    ("model", "gaps"), [pytest.param(model, gaps, id=name) for name, model, gaps in ROWS]
)
def test_same_decisions(model: Any, gaps: float) -> None:
    raw, label = table(gaps=gaps)
    contract = numbers(5, missing="allow" if gaps else "refuse")
    source, converted = converted_from(fitted(model, raw, label), contract)
    found = differences(source, converted, raw, contract)
    assert {name: d.flips for name, d in found.items() if d.flips} == {}
    assert max(d.largest for d in found.values()) < FLOAT32_SUM
    if source.family == "trees" and any(map(len, converted.cuts.values())):
        assert any(name.startswith("near a threshold") for name in found)
    if gaps:
        assert any(name.startswith("missing f2") for name in found)


def test_the_table_can_fail() -> None:
    """The same model without its ranks: plain float32 thresholds, as others write them."""
    from dataclasses import replace

    from wherry_contract.encoder import Encoder

    raw, label = table()
    contract = numbers(5)
    source, converted = converted_from(fitted(hist(), raw, label), contract)
    naive = replace(converted, encoder=Encoder(contract))
    assert sum(d.flips for d in differences(source, naive, raw, contract).values()) > 0


def test_float32_trees_need_no_ranks_and_doubles_do() -> None:
    raw, label = table(1000)
    _, plain = converted_from(fitted(gb(), raw, label), numbers(5))
    _, ranked = converted_from(fitted(hist(), raw, label), numbers(5))
    assert plain.encoder.steps == ()
    assert {step.op for step in ranked.encoder.steps} == {"rank"}
    assert ranked.notes


def test_strings_become_codes() -> None:
    make = np.random.default_rng(1)
    amount, color = make.normal(size=2000), make.integers(0, 3, 2000).astype(float)
    names = np.array(["red", "green", "blue"], object)[color.astype(int)]
    gaps = make.random(2000) < 0.1
    names[gaps], color[gaps] = np.nan, np.nan
    label = ((color == 1) | (amount > 1) | gaps).astype(int)
    coder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    model = make_pipeline(
        ColumnTransformer([("color", coder, [1]), ("rest", "passthrough", [0])]), hist()
    )
    fitted(model, np.c_[amount.astype(object), names], label)
    contract = colored(missing="allow", unseen="allow")
    source, converted = converted_from(model, contract)
    found = differences(source, converted, np.c_[amount, color], contract)
    assert all(d.flips == 0 and d.largest < FLOAT32_SUM for d in found.values())
    assert {"missing color", "unseen color"} <= {name.partition(" at ")[0] for name in found}
    rows = contract.matrix([{"f0": 0.1, "color": "green"}, {"f0": 0.1, "color": None}])
    assert source.scores(rows, contract)[0] > 0.9


def test_a_missing_string_takes_the_imputed_one() -> None:
    names = np.array([["red"], ["green"], ["blue"], ["green"], [np.nan]] * 40, object)
    label = np.array([0, 1, 0, 1, 1] * 40)
    raw = np.array([[0.0, 0], [0, 1], [0, 2], [0, 1], [0, np.nan]] * 40)
    words = make_pipeline(SimpleImputer(strategy="most_frequent"), OrdinalEncoder())
    model = make_pipeline(
        ColumnTransformer([("color", words, [1]), ("f", SimpleImputer(), [0])]), gb()
    )
    fitted(model, np.c_[raw[:, :1].astype(object), names], label)
    contract = colored(missing="allow")
    source, converted = converted_from(model, contract)
    found = differences(source, converted, raw, contract)
    assert all(d.flips == 0 and d.largest < FLOAT32_SUM for d in found.values())


def test_small_probabilities_keep_their_digits() -> None:
    """microsoft/onnxruntime#26281: they became 0."""
    make = np.random.default_rng(2)
    raw = make.normal(size=(2000, 2)) * 10
    model = fitted(LogisticRegression(C=100), raw, (raw[:, 0] + make.normal(size=2000) > 5) * 1)
    source, converted = converted_from(model, numbers(2))
    rows = np.c_[np.linspace(-12, 0, 500), np.zeros(500)]
    reference = source.scores(rows, numbers(2))
    small = (reference > 1e-10) & (reference < 1e-6)
    assert small.any()
    ratio = scored(converted).scores(rows)[small] / reference[small]
    assert np.abs(ratio - 1).max() < 1e-4


def test_columns_go_by_name_where_the_model_has_names() -> None:
    raw, label = table(1000)
    model = fitted(gb(), raw, label)
    wanted = model.predict_proba(raw)[:, 1]
    model.feature_names_in_ = np.array(["f4", "f3", "f2", "f1", "f0"], object)
    source, converted = converted_from(model, numbers(5))
    assert np.array_equal(source.scores(raw[:, ::-1], numbers(5)), wanted)
    found = differences(source, converted, raw[:, ::-1], numbers(5))
    assert all(d.flips == 0 for d in found.values())


@pytest.mark.parametrize("model", [gb(), hist(), mlp()], ids=["gb", "hist", "mlp"])
def test_the_graph_is_lean_and_old_enough(model: Any) -> None:
    raw, label = table(500)
    _, converted = converted_from(
        fitted(model, (raw - raw.mean(0)) / raw.std(0), label), numbers(5)
    )
    facts = inspect_graph(converted.model)
    assert (facts.inputs, facts.outputs) == (("input",), ("score",))
    assert facts.ir == 7
    assert facts.opsets[""] == 13
    assert facts.opsets.get("ai.onnx.ml", 1) == 1
    assert "ai.onnx.ml:ZipMap" not in facts.operators
    assert converted.needs.operators == facts.operators
