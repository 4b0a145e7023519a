"""Encoders, imputers and native categories of scikit-learn, each row converted right.

Strings with dirty codes, numbers that are categories, gaps that are filled in several ways:
what other converters refuse or get silently wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from support_convert import converted_from, differences, fitted, numbers, scored, table

from wherry_contract.features import InputContract

FLOAT32_SUM = 3e-6
CODES = ("Y", "N", "0", "T", "R", "1", "`", ",")  # of RevLineCr in the SBA loans, as published


def gb(**more: Any) -> GradientBoostingClassifier:
    return GradientBoostingClassifier(n_estimators=20, random_state=0, **more)


def hist(**more: Any) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(max_iter=20, min_samples_leaf=5, random_state=0, **more)


def forest() -> RandomForestClassifier:
    return RandomForestClassifier(15, min_samples_leaf=2, random_state=0)


def mlp() -> MLPClassifier:
    return MLPClassifier((16, 8), max_iter=12, random_state=0)


def logistic() -> LogisticRegression:
    return LogisticRegression(max_iter=300)


def agree(model: Any, raw: Any, contract: InputContract) -> None:
    """No flip on any class of rows, and scores as near as sums of float32 are."""
    source, converted = converted_from(model, contract)
    found = differences(source, converted, raw, contract)
    assert {name: d.flips for name, d in found.items() if d.flips} == {}
    assert max(d.largest for d in found.values()) < FLOAT32_SUM


# numbers alone: f1 holds 0 to 8, all may be missing
NUMBER_ROWS = [
    ("imputed after scaling, trees", make_pipeline(StandardScaler(), SimpleImputer(), gb())),
    ("imputed after scaling, net", make_pipeline(StandardScaler(), SimpleImputer(), mlp())),
    ("missing indicator, trees", make_pipeline(SimpleImputer(add_indicator=True), forest())),
    (
        "missing indicator, net",
        make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), mlp()),
    ),
    ("clip before a net", make_pipeline(SimpleImputer(), MinMaxScaler(clip=True), mlp())),
    (
        "filled in two ways, trees",
        ColumnTransformer(
            [
                ("mean", SimpleImputer(), [0, 1, 2, 3, 4]),
                ("zero", SimpleImputer(strategy="constant", fill_value=-1.0), [2, 0]),
                ("raw", "passthrough", [3]),
            ]
        ),
        hist(),
    ),
    (
        "filled in two ways, net",
        ColumnTransformer(
            [
                ("mean", make_pipeline(StandardScaler(), SimpleImputer()), [0, 1, 2, 3, 4]),
                (
                    "zero",
                    make_pipeline(StandardScaler(), SimpleImputer(strategy="median")),
                    [3, 0],
                ),
            ]
        ),
        mlp(),
    ),
    ("native categories of HistGB", hist(categorical_features=[1])),
    (
        "weighted parts",
        ColumnTransformer(
            [("a", SimpleImputer(), [0, 1]), ("b", StandardScaler(), [2, 3])],
            transformer_weights={"a": 0.3, "b": 7.0},
        ),
        hist(),
    ),
    (
        "one-hot numbers, trees",
        ColumnTransformer(
            [
                ("codes", OneHotEncoder(handle_unknown="ignore"), [1]),
                ("raw", "passthrough", [0, 1, 2]),
            ],
            sparse_threshold=0,
        ),
        hist(),
    ),
    (
        "one-hot numbers behind an imputer, linear",
        ColumnTransformer(
            [
                (
                    "codes",
                    make_pipeline(
                        SimpleImputer(strategy="most_frequent"),
                        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                        StandardScaler(),
                    ),
                    [1],
                ),
                ("rest", make_pipeline(SimpleImputer(), StandardScaler()), slice(2, 5)),
            ]
        ),
        logistic(),
    ),
    (
        "ordinal codes of numbers",
        ColumnTransformer(
            [
                ("codes", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), [1]),
            ],
            remainder="passthrough",
        ),
        hist(),
    ),
]  # fmt: skip


@pytest.mark.parametrize("parts", [pytest.param(row[1:], id=row[0]) for row in NUMBER_ROWS])
def test_numbers(parts: tuple[Any, ...]) -> None:
    raw, label = table(gaps=0.05)
    agree(fitted(make_pipeline(*parts), raw, label), raw, numbers(5, missing="allow"))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(AdaBoostClassifier(n_estimators=15, random_state=0), id="adaboost"),
        pytest.param(
            AdaBoostClassifier(DecisionTreeClassifier(max_depth=3), n_estimators=10), id="adaboost, deep"
        ),
        pytest.param(
            BaggingClassifier(
                DecisionTreeClassifier(max_depth=5), 8, max_features=0.7, random_state=0
            ),
            id="bagging",
        ),
        pytest.param(make_pipeline(StandardScaler(), BaggingClassifier(random_state=0)), id="scaled"),
        pytest.param(
            make_pipeline(SimpleImputer(missing_values=3.0), StandardScaler(), gb()),
            id="a number that stands for a gap",
        ),
        pytest.param(RandomForestRegressor(12, min_samples_leaf=3, random_state=0), id="a forest of shares"),
        pytest.param(make_pipeline(StandardScaler(), DecisionTreeRegressor(max_depth=5)), id="a tree of shares"),
        pytest.param(HistGradientBoostingRegressor(max_iter=1, min_samples_leaf=5), id="one step of regression"),
    ],
)  # fmt: skip
def test_whole_numbers(model: Any) -> None:
    raw, label = table()
    agree(fitted(model, raw, label), raw, numbers(5))


def payments(**more: Any) -> InputContract:
    """A number, a string with dirty codes, a string of few values, and a small integer."""
    features = [
        {"name": "amount", "missing": "allow"},
        {"name": "code", "dtype": "category", "categories": list(CODES), "missing": "allow"} | more,
        {"name": "mode", "dtype": "category", "categories": ["chip", "stripe"]},
        {"name": "count", "missing": "allow"},
    ]
    return InputContract.from_dict({"name": "test", "version": 1, "features": features})


def payment_rows(rows: int = 1500) -> tuple[Any, Any, Any]:
    """The raw matrix, the same as an array of objects, and labels."""
    make = np.random.default_rng(3)
    amount = make.lognormal(3, 1, rows)
    shares = [0.3, 0.4, 0.2, 0.05, 0.02, 0.01, 0.01, 0.01]
    code = make.choice(len(CODES), rows, p=shares).astype(float)
    mode = make.integers(0, 2, rows).astype(float)
    count = make.integers(0, 5, rows).astype(float)
    logit = np.log(amount) - 3 + np.isin(code, [0, 3, 6]) - mode + (count == 2)
    for column in (amount, code, count):
        column[make.random(rows) < 0.05] = np.nan
    label = (logit + np.isnan(code) + make.normal(0, 0.5, rows) > 1) * 1
    raw = np.c_[amount, code, mode, count]
    names = raw.astype(object)
    names[:, 1] = np.array([*CODES, np.nan], object)[np.where(np.isnan(code), -1, code).astype(int)]
    names[:, 2] = np.array(["chip", "stripe"], object)[mode.astype(int)]
    return raw, names, label


def prepared(words: Any, model: Any, *, frame: bool = False) -> Pipeline:
    """Strings through `words`, numbers filled and scaled, then the model."""
    strings, rest = (["code", "mode"], ["amount", "count"]) if frame else ([1, 2], [0, 3])
    filled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    both = ColumnTransformer(
        [("words", words, strings), ("numbers", filled, rest)], sparse_threshold=0
    )
    return make_pipeline(both, model)


ONE_HOT = {"handle_unknown": "ignore", "sparse_output": False}
WORD_ROWS = [
    ("ignore", OneHotEncoder(**ONE_HOT)),
    ("drop the first", OneHotEncoder(drop="first", **ONE_HOT)),
    ("drop if binary", OneHotEncoder(drop="if_binary", **ONE_HOT)),
    (
        "infrequent",
        OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=40, sparse_output=False),
    ),
    ("few", OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=4)),
    (
        "imputed",
        make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(**ONE_HOT)),
    ),
    (
        "a word for gaps",
        make_pipeline(
            SimpleImputer(strategy="constant", fill_value="none"), OneHotEncoder(**ONE_HOT)
        ),
    ),
    (
        "dirty codes as gaps",
        make_pipeline(
            SimpleImputer(strategy="most_frequent"),
            SimpleImputer(missing_values="`", strategy="constant", fill_value="Y"),
            OneHotEncoder(**ONE_HOT),
        ),
    ),
    (
        "ordinal, then one-hot",
        make_pipeline(
            OrdinalEncoder(
                handle_unknown="use_encoded_value", unknown_value=-2, encoded_missing_value=-1
            ),
            OneHotEncoder(**ONE_HOT),
        ),
    ),
    (
        "ordinal",
        OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=-2, encoded_missing_value=-1
        ),
    ),
    (
        "ordinal, rare as one",
        OrdinalEncoder(
            handle_unknown="use_encoded_value",
            unknown_value=50,
            encoded_missing_value=-1,
            min_frequency=40,
        ),
    ),
    ("target means", TargetEncoder(random_state=0)),
]


@pytest.mark.parametrize("model", [gb(), mlp()], ids=["trees", "net"])
@pytest.mark.parametrize("words", [pytest.param(words, id=name) for name, words in WORD_ROWS])
def test_strings(words: Any, model: Any) -> None:
    raw, names, label = payment_rows()
    agree(fitted(prepared(words, model), names, label), raw, payments(unseen="allow"))


def test_forests_of_one_hot_strings_take_cuts_between_0_and_1() -> None:
    raw, names, label = payment_rows()
    for model in (forest(), ExtraTreesClassifier(15, random_state=0)):
        fitted(prepared(OneHotEncoder(**ONE_HOT), model), names, label)
        agree(prepared(OneHotEncoder(**ONE_HOT), model).fit(names, label), raw, payments())


def test_native_categories_of_strings() -> None:
    """facts-convert 2a: exported as an order, 669 of 10,000 decisions flipped."""
    raw, names, label = payment_rows()
    model = fitted(hist(categorical_features=[1, 2, 3]), names, label)
    nodes = np.concatenate([predictor.nodes for (predictor,) in model._predictors])
    assert nodes["is_categorical"].any()
    agree(model, raw, payments(unseen="allow"))


def test_refused_values_need_no_answer() -> None:
    """The default, handle_unknown='error', where the contract refuses the same values."""
    raw, names, label = payment_rows()
    agree(fitted(prepared(OneHotEncoder(), gb()), names, label), raw, payments())


def frame_of(names: Any) -> Any:
    pandas = pytest.importorskip("pandas")
    kinds = {"amount": float, "count": float}
    return pandas.DataFrame(names, columns=["amount", "code", "mode", "count"]).astype(kinds)


@pytest.mark.parametrize("model", [hist(), mlp()], ids=["trees", "net"])
def test_columns_by_name(model: Any) -> None:
    raw, names, label = payment_rows()
    built = prepared(OneHotEncoder(**ONE_HOT), model, frame=True)
    agree(fitted(built, frame_of(names), label), raw, payments(unseen="allow"))


def test_columns_by_kind_and_the_rest_dropped_or_kept() -> None:
    raw, names, label = payment_rows()
    words = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(**ONE_HOT))
    chosen = make_column_selector(dtype_exclude="number")
    for rest in ("drop", "passthrough", SimpleImputer()):
        both = ColumnTransformer([("words", words, chosen)], remainder=rest)
        model = fitted(make_pipeline(both, hist()), frame_of(names), label)
        agree(model, raw, payments(unseen="allow"))


def test_data_frames_with_categories_of_their_own() -> None:
    """HistGradientBoosting takes the dtype `category` by itself."""
    raw, names, label = payment_rows()
    frame = frame_of(names).astype({"code": "category", "mode": "category"})
    model = fitted(hist(), frame, label)
    assert model.is_categorical_.any()
    agree(model, raw, payments(unseen="allow"))


def test_a_row_by_hand() -> None:
    _, names, label = payment_rows()
    model = fitted(prepared(OneHotEncoder(**ONE_HOT), gb()), names, label)
    source, converted = converted_from(model, payments(unseen="allow"))
    row = {"amount": 80.0, "code": "`", "mode": "chip", "count": None}
    rows = payments(unseen="allow").matrix([row])
    wanted = model.predict_proba(np.array([[80.0, "`", "chip", np.nan]], object))[0, 1]
    assert source.scores(rows, converted.encoder.contract)[0] == wanted
    assert scored(converted).scores(rows)[0] == pytest.approx(wanted, abs=1e-6)


INSIDE = {
    "forest": forest(),
    "hist": hist(),
    "boosting behind a scaler": make_pipeline(SimpleImputer(), StandardScaler(), gb()),
    "tree": DecisionTreeClassifier(max_depth=6, random_state=0),
}


@pytest.mark.parametrize("ensemble", [True, False], ids=["folds", "one"])
@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
@pytest.mark.parametrize("inside", INSIDE)
def test_calibrated(inside: str, method: str, *, ensemble: bool) -> None:
    """onnx/sklearn-onnx#1151: 96 of 10,000 rows of a forest off by more than 1e-4."""
    raw, label = table(gaps=0.05)
    model = CalibratedClassifierCV(clone(INSIDE[inside]), method=method, cv=3, ensemble=ensemble)
    agree(fitted(model, raw, label), raw, numbers(5, missing="allow"))


def test_calibrated_after_training_and_behind_encoders() -> None:
    raw, names, label = payment_rows()
    frozen = FrozenEstimator(
        fitted(prepared(OneHotEncoder(**ONE_HOT), forest()), names[:700], label[:700])
    )
    model = CalibratedClassifierCV(frozen, method="isotonic")
    agree(fitted(model, names[700:], label[700:]), raw, payments(unseen="allow"))
    behind = prepared(
        OneHotEncoder(**ONE_HOT), CalibratedClassifierCV(hist(), method="isotonic", cv=2)
    )
    agree(fitted(behind, names, label), raw, payments(unseen="allow"))


@pytest.mark.parametrize("ensemble", [True, False], ids=["folds", "one"])
def test_calibrated_linear(*, ensemble: bool) -> None:
    raw, names, label = payment_rows()
    inside = CalibratedClassifierCV(logistic(), cv=3, ensemble=ensemble)
    model = fitted(prepared(OneHotEncoder(**ONE_HOT), inside), names, label)
    agree(model, raw, payments(unseen="allow"))


def test_a_step_of_a_calibration_is_as_steep_as_it_was_fitted() -> None:
    """Rows at the very scores where the staircase was fitted, which float32 cannot tell apart."""
    raw, label = table(800)
    model = fitted(CalibratedClassifierCV(forest(), method="isotonic", cv=2), raw, label)
    source, converted = converted_from(model, numbers(5))
    assert np.abs(source.scores(raw, numbers(5)) - scored(converted).scores(raw)).max() < 1e-9


def test_votes() -> None:
    raw, label = table(gaps=0.05)
    votes = [("a", forest()), ("b", hist()), ("c", make_pipeline(SimpleImputer(), gb()))]
    for weights in (None, [1, 3, 0.5]):
        model = fitted(VotingClassifier(votes, voting="soft", weights=weights), raw, label)
        agree(model, raw, numbers(5, missing="allow"))
