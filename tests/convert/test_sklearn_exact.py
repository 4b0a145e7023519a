"""Random tables through random encoders and tree models agree with their source row by row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from support_convert import converted_from, fitted, scored

from wherry_contract.features import InputContract
from wherry_convert.parity import steps_around

WORDS = ("Y", "N", "0", " ", "ÿ", "NaN", "none", "?")
POOL = np.array(
    [0.0, -0.0, 1.0, 0.1, np.float32(0.1), -3.5, 1.7e9, 1.7e9 + 1, 2.0**53, 1e30, 1e-30]
)

ENCODERS = {
    "one-hot": OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    "rare as one": OneHotEncoder(
        handle_unknown="infrequent_if_exist", min_frequency=12, sparse_output=False
    ),
    "one less": OneHotEncoder(handle_unknown="ignore", drop="first", sparse_output=False),
    "ordinal": OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=-9, encoded_missing_value=-5
    ),
    "filled": make_pipeline(
        SimpleImputer(strategy="most_frequent"),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
        StandardScaler(),
    ),
}
NUMBERS = {
    "raw": "passthrough",
    "filled": SimpleImputer(strategy="median"),
    "scaled, filled": make_pipeline(StandardScaler(), SimpleImputer(add_indicator=True)),
    "clipped": make_pipeline(SimpleImputer(), MinMaxScaler(clip=True)),
}
MODELS = {
    "tree": lambda seed: DecisionTreeClassifier(max_depth=6, random_state=seed),
    "extra": lambda seed: ExtraTreesClassifier(5, random_state=seed),
    "hist": lambda seed: HistGradientBoostingClassifier(
        max_iter=3, min_samples_leaf=2, random_state=seed
    ),
    "bag": lambda seed: BaggingClassifier(n_estimators=4, max_features=0.7, random_state=seed),
    "ada": lambda seed: AdaBoostClassifier(
        DecisionTreeClassifier(max_depth=2), n_estimators=4, random_state=seed
    ),
    "calibrated": lambda seed: CalibratedClassifierCV(
        DecisionTreeClassifier(max_depth=4, random_state=seed), method="isotonic", cv=2
    ),
}


def contract() -> InputContract:
    features = [
        {"name": "word", "dtype": "category", "categories": list(WORDS), "missing": "allow"}
        | {"unseen": "allow"},
        {"name": "code", "missing": "allow"},
        {"name": "number", "missing": "allow"},
    ]
    return InputContract.from_dict({"name": "test", "version": 1, "features": features})


def rows_of(make: np.random.Generator, count: int, numbers: Any, codes: Any) -> Any:
    raw = np.c_[
        make.integers(0, len(WORDS), count), make.choice(codes, count), make.choice(numbers, count)
    ]
    raw[make.random(raw.shape) < 0.1] = np.nan
    return raw


def objects(raw: Any) -> Any:
    table = raw.astype(object)
    names = np.array([*WORDS, math.nan], object)
    table[:, 0] = names[np.where(np.isnan(raw[:, 0]), -1, raw[:, 0]).astype(int)]
    return table


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    word=st.sampled_from(sorted(ENCODERS)),
    code=st.sampled_from(sorted(ENCODERS)),
    number=st.sampled_from(sorted(NUMBERS)),
)
def test_every_path_is_the_sources(
    model: str, seed: int, word: str, code: str, number: str
) -> None:
    make = np.random.default_rng(seed)
    raw = rows_of(make, 90, POOL, [-2.0, 0.0, 1.0, 3.0])
    label = (make.random(90) < 0.4) * 1
    label[:4] = 0, 1, 0, 1
    if MODELS[model](0).__class__ is AdaBoostClassifier and number == "raw":
        number = "filled"  # it takes no gaps
    parts = [("w", ENCODERS[word], [0]), ("c", ENCODERS[code], [1]), ("n", NUMBERS[number], [2])]
    built = make_pipeline(ColumnTransformer(parts, sparse_threshold=0), MODELS[model](seed))
    _agree(fitted(built, objects(raw), label), make)


def _agree(model: Any, make: np.random.Generator) -> None:
    source, converted = converted_from(model, contract())
    around = [np.clip(steps_around(cuts), -1e37, 1e37) for cuts in converted.cuts.values()]
    values = np.concatenate([POOL, *around])
    rows = rows_of(make, 300, values, [-2.0, 0.0, 1.0, 3.0, 0.5, *values[:20]])
    rows[make.random(300) < 0.1, 0] = -1.0
    largest = np.abs(source.scores(rows, contract()) - scored(converted).scores(rows)).max()
    assert largest < 1e-6


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    word=st.sampled_from(sorted(ENCODERS)),
    number=st.sampled_from(sorted(set(NUMBERS) - {"raw"})),
)
def test_dense_models_see_the_same_columns(seed: int, word: str, number: str) -> None:
    make = np.random.default_rng(seed)
    raw = rows_of(make, 90, [-1.0, 0.5, 2.0, 40.0], [-2.0, 0.0, 1.0, 3.0])
    label = (make.random(90) < 0.4) * 1
    label[:4] = 0, 1, 0, 1
    parts = [
        ("w", ENCODERS[word], [0]),
        ("c", ENCODERS["one-hot"], [1]),
        ("n", NUMBERS[number], [2]),
    ]
    built = make_pipeline(ColumnTransformer(parts, sparse_threshold=0), LogisticRegression())
    source, converted = converted_from(fitted(built, objects(raw), label), contract())
    rows = rows_of(make, 200, [-1.0, 0.5, 7.0], [-2.0, 0.0, np.nextafter(1, 2), 1.0])
    rows[make.random(200) < 0.1, 0] = -1.0
    largest = np.abs(source.scores(rows, contract()) - scored(converted).scores(rows)).max()
    assert largest < 1e-5
