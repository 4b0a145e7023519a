"""What scikit-learn's encoders, calibrations and votes can hold and no bundle can say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    StandardScaler,
)
from support_convert import fitted, numbers, table

from wherry_contract.errors import ConvertError
from wherry_contract.features import InputContract
from wherry_convert.sources.sklearn_model import SklearnModel
from wherry_convert.to_onnx import convert


def gb() -> GradientBoostingClassifier:
    return GradientBoostingClassifier(n_estimators=3)


def mixed(*both: Any) -> ColumnTransformer:
    return ColumnTransformer([(str(n), part, [1]) for n, part in enumerate(both)])


def refusal(model: Any, contract: InputContract) -> ConvertError:
    with pytest.raises(ConvertError) as caught:
        convert(SklearnModel.wrap(model, "sha256:" + "0" * 64), contract)
    return caught.value


ONE_HOT = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
ROWS: list[tuple[str, Any, str, str]] = [
    ("one-hot numbers, unknown ones refused", make_pipeline(mixed(OneHotEncoder()), gb()), "K07", "ignore"),
    ("scaled and one-hot before a net", make_pipeline(mixed(ONE_HOT, StandardScaler()), LogisticRegression()), "K01", "two features"),
    ("a number that stands for a gap before a net", make_pipeline(SimpleImputer(missing_values=3.0), LogisticRegression()), "K01", "null"),
    ("calibrated linear model, isotonic", CalibratedClassifierCV(LogisticRegression(), method="isotonic", cv=2), "K02", "sigmoid"),
    ("calibrated linear model with a scaler inside", CalibratedClassifierCV(make_pipeline(StandardScaler(), LogisticRegression()), cv=2), "K01", "behind"),
    ("calibrated net", CalibratedClassifierCV(MLPClassifier((4,), max_iter=3), cv=2), "K01", "inside"),
    ("votes of linear models alone", VotingClassifier([("a", LogisticRegression())], voting="soft"), "K01", "inside"),
    ("calibrated by temperature", CalibratedClassifierCV(gb(), method="temperature", cv=2), "K01", ""),
    ("calibrated neighbours", CalibratedClassifierCV(KNeighborsClassifier(), cv=2), "K01", "RandomForest"),
    ("votes that are counted", VotingClassifier([("a", gb()), ("b", RandomForestClassifier(3))]), "K01", "soft"),
    ("votes of a linear model", VotingClassifier([("a", gb()), ("b", LogisticRegression())], voting="soft"), "K01", "inside"),
    ("a bag of linear models", BaggingClassifier(LogisticRegression(), 2), "K01", "trees"),
    ("scores outside [0, 1]", GradientBoostingRegressor(n_estimators=60), "K01", "classifier"),
    ("an exponential score", HistGradientBoostingRegressor(loss="poisson", max_iter=2), "K01", "classifier"),
    ("no probability", RidgeClassifier(), "K01", "classifier"),
    ("neighbours", KNeighborsClassifier(), "K01", "RandomForest"),
    ("products of columns", make_pipeline(PolynomialFeatures(), gb()), "K01", "SimpleImputer"),
    ("a function behind a selection", make_pipeline(SelectKBest(k=2), FunctionTransformer(np.abs), gb()), "K01", "before it is sent"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "code", "cure"), [pytest.param(*row[1:], id=row[0]) for row in ROWS]
)
def test_refused(model: Any, code: str, cure: str) -> None:
    raw, label = table(200)
    found = refusal(fitted(model, np.round(raw, 1), label), numbers(5))
    assert found.code == code
    assert cure in found.cure


def test_three_classes_need_one_against_the_others() -> None:
    raw, label = table(200)
    found = refusal(fitted(gb(), raw, label + (raw[:, 1] > 4)), numbers(5))
    assert (found.code, "3 classes" in found.detail) == ("K01", True)
    assert "against all others" in found.cure


def test_a_calibration_steeper_than_doubles() -> None:
    raw, label = table(200)
    model = fitted(
        CalibratedClassifierCV(RandomForestClassifier(5), method="isotonic", cv=2), raw, label
    )
    (curve,) = model.calibrated_classifiers_[1].calibrators
    curve.X_thresholds_ = np.array([0, 0.5, np.nextafter(0.5, 1), 1])
    curve.y_thresholds_ = np.array([0, 0.2, 0.8, 1])
    found = refusal(model, numbers(5))
    assert found.code == "K02"
    assert "sigmoid" in found.cure


def test_too_many_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import wherry_convert.sources.sklearn_trees as module

    raw, label = table(200)
    model = fitted(make_pipeline(SimpleImputer(missing_values=3.0), gb()), np.round(raw, 1), label)
    convert(SklearnModel.wrap(model, "sha256:" + "0" * 64), numbers(5))
    monkeypatch.setattr(module, "MAX_ANSWERS", 2)  # a limit of ours, reached with less work
    assert refusal(model, numbers(5)).code == "K02"


def words(known: Any, **more: Any) -> tuple[Any, InputContract]:
    """A model that knows some values of one column, and a contract that has it as told."""
    values = np.array([[cell] for cell in known] * 20, object)
    label = np.arange(len(values)) % 2
    model = fitted(make_pipeline(OrdinalEncoder(), gb()), values, label)
    feature = {"name": "color"} | more
    return model, InputContract.from_dict({"name": "t", "version": 1, "features": [feature]})


KINDS = [
    ("names, told as a number", ("red", "green"), {}, 'dtype = "category"'),
    ("numbers, told as names", (1, 2), {"dtype": "category", "categories": ["1", "2"]}, '"number"'),
    (
        "a name that the contract hides",
        ("red", "green"),
        {"dtype": "category", "categories": ["red"], "unseen": "allow"},
        "list them",
    ),
]


@pytest.mark.parametrize(
    ("known", "more", "cure"), [pytest.param(*row[1:], id=row[0]) for row in KINDS]
)
def test_kinds(known: Any, more: dict[str, Any], cure: str) -> None:
    found = refusal(*words(known, **more))
    assert found.code == "K07"
    assert cure in found.cure
