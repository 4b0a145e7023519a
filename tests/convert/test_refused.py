"""What would convert wrongly, or not at all, is refused with its code and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder, StandardScaler
from support_convert import colored, fitted, numbers, table, through_skops

from wherry_contract.errors import ConvertError
from wherry_contract.features import InputContract
from wherry_convert.to_onnx import check_protobuf, convert


def gb(**more: Any) -> GradientBoostingClassifier:
    return GradientBoostingClassifier(n_estimators=5, **more)


def hist(**more: Any) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(max_iter=5, **more)


FIVE = numbers(5)
GAPS = numbers(5, missing="allow")
WIDE = numbers(5, minimum=0, maximum=2e9)

ROWS: list[tuple[str, Any, InputContract, str, str]] = [
    # facts-convert 2a
    ("float32 cannot hold seconds", MLPClassifier((4,), max_iter=5), WIDE, "K02", "StandardScaler"),
    ("codes of numbers", make_pipeline(OrdinalEncoder(), gb()), FIVE, "K07", "handle_unknown"),
    ("adaboost of nets", AdaBoostClassifier(LogisticRegression()), FIVE, "K01", "trees"),
    ("mixed columns", make_pipeline(PCA(2), gb()), FIVE, "K01", "StandardScaler"),
    ("a function", make_pipeline(FunctionTransformer(np.log1p), gb()), FIVE, "K01", ""),
    ("boosting from a model", gb(init=LogisticRegression()), FIVE, "K01", ""),
    ("a regressor", GradientBoostingRegressor(), FIVE, "K01", "GradientBoostingClassifier"),
    ("gaps that the model refuses", gb(), GAPS, "K07", "SimpleImputer"),
    ("too few features", gb(), numbers(4), "K07", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "contract", "code", "cure"), [pytest.param(*row[1:], id=row[0]) for row in ROWS]
)
def test_refused(model: Any, contract: InputContract, code: str, cure: str) -> None:
    raw, label = table(400)
    fitted(model, np.round(raw, 1), label)
    with pytest.raises(ConvertError) as caught:
        convert(_wrapped(model), contract)
    assert caught.value.code == code
    assert cure in caught.value.cure


def _wrapped(model: Any) -> Any:
    """Not through a file: some of these hold types that skops asks about."""
    from wherry_convert.sources.sklearn_model import SklearnModel

    return SklearnModel.wrap(model, "sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("label", "code"),
    [
        pytest.param(lambda y: np.arange(len(y)) % 3, "K01", id="three classes"),
        pytest.param(lambda y: y * 0, "K01", id="one class"),
    ],
)
def test_two_classes_are_wanted(label: Any, code: str) -> None:
    raw, y = table(300)
    with pytest.raises(ConvertError) as caught:
        through_skops(fitted(RandomForestClassifier(3), raw, label(y)))
    assert caught.value.code == code


def test_a_model_that_was_never_fitted() -> None:
    with pytest.raises(ConvertError) as caught:
        through_skops(gb())
    assert caught.value.code in {"K01", "K04"}


def test_names_that_differ() -> None:
    raw, label = table(300)
    model = fitted(gb(), raw, label)
    model.feature_names_in_ = np.array(["f0", "f1", "f2", "f3", "amount"], object)
    with pytest.raises(ConvertError, match="differ in amount, f4"):
        convert(through_skops(model), FIVE)


def test_too_many_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    import wherry_convert.sources.sklearn_trees as module

    raw, label = table(300)
    model = fitted(make_pipeline(StandardScaler(), RandomForestClassifier(10)), raw, label)
    monkeypatch.setattr(module, "MAX_ALL_EDGES", 100)  # a limit of ours, reached with less work
    with pytest.raises(ConvertError) as caught:
        convert(through_skops(model), FIVE)
    assert caught.value.code == "K02"
    assert "scaler" in caught.value.cure


COLOR_ROWS = [
    ("uncoded", {}, "passthrough", "K07", "OrdinalEncoder"),
    ("unseen", {"unseen": "allow"}, OrdinalEncoder(), "K07", "handle_unknown"),
    ("unlisted", {"categories": ["red", "green", "blue", "mud"]}, OrdinalEncoder(), "K07", "list"),
    ("no gap seen", {"missing": "allow"}, OrdinalEncoder(), "K07", ""),
    ("scaled", {}, StandardScaler(), "K07", ""),
]


@pytest.mark.parametrize(
    ("settings", "step", "code", "cure"), [pytest.param(*row[1:], id=row[0]) for row in COLOR_ROWS]
)
def test_categories(settings: dict[str, Any], step: Any, code: str, cure: str) -> None:
    contract = colored(**settings)
    make = np.random.default_rng(0)
    code_of = make.integers(0, 3, 200)
    names = np.array(["red", "green", "blue"], object)[code_of]
    raw = np.c_[make.normal(size=200).astype(object), names]
    coded = np.c_[raw[:, 0].astype(float), code_of]
    fit_on = raw if isinstance(step, OrdinalEncoder) else coded
    places = [("color", step, [1]), ("rest", "passthrough", [0])]
    model = fitted(make_pipeline(ColumnTransformer(places), hist()), fit_on, (code_of == 1) * 1)
    with pytest.raises(ConvertError) as caught:
        convert(through_skops(model), contract)
    assert caught.value.code == code
    assert cure in caught.value.cure


def test_rows_that_the_source_refuses_are_a_coded_error() -> None:
    raw, label = table(300)
    source = through_skops(fitted(gb(), raw, label))
    raw[0, 0] = np.nan
    with pytest.raises(ConvertError, match="K07"):
        source.scores(raw, FIVE)


def test_a_protobuf_that_breaks_conversions() -> None:
    check_protobuf("6.33.6")
    with pytest.raises(ConvertError, match="K06") as caught:
        check_protobuf("7.36.2")
    assert "protobuf<7" in caught.value.cure
