"""The table of sources, cell by cell: build, bundle, agent, same decisions.

Each row trains a model on a small shop's payments (a number, a number with gaps, a string),
builds its bundle for one runtime as the command does, and holds what the agent scores
against what the framework itself makes of the same payments. PyTorch's rows are in
test_net_build, real tables in test_real_tables.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from support_boosted import need
from support_build import MODES, payments, wherry, write_project
from support_convert import fitted
from support_corpus import library

from wherry.bundle_view import look
from wherry.data import read_rows
from wherry.project import load_project
from wherry_agent.serving.inference import load_model

Scores = Callable[[Any], Any]
Train = Callable[[Any, Any, Path], tuple[str, str, Scores]]
BOTH = ("onnxruntime", "tflite")
ONNX = ("onnxruntime",)
FILLED = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())


def coded(words: Any, numbers: Any, model: Any) -> Any:
    """A ColumnTransformer before a model."""
    parts = [("numbers", numbers, [0, 1]), ("words", words, [2])]
    return make_pipeline(ColumnTransformer(parts, sparse_threshold=0), model)


def ordinal(model: Any, numbers: Any = "passthrough") -> Any:
    return coded(OrdinalEncoder(categories=[list(MODES)]), numbers, model)


def one_hot(model: Any) -> Any:
    return coded(OneHotEncoder(handle_unknown="ignore"), FILLED, model)


def sklearn(model: Any) -> Train:
    """Through a skops file; a regressor's prediction is its score."""

    def train(cells: Any, label: Any, folder: Path) -> tuple[str, str, Scores]:
        from skops.io import dump

        made = fitted(model, cells, label)
        dump(made, folder / "model.skops")
        if hasattr(made, "predict_proba"):
            return "sklearn", "model.skops", lambda rows: made.predict_proba(rows)[:, 1]
        return "sklearn", "model.skops", made.predict

    return train


def places(cells: Any) -> Any:
    """The string as its place in the contract's list."""
    codes = [float(MODES.index(name)) for name in cells[:, 2]]
    return np.c_[cells[:, :2].astype(float), codes]


def booster(kind: str, **settings: Any) -> Train:
    """Through the library's own file."""

    def train(cells: Any, label: Any, folder: Path) -> tuple[str, str, Scores]:
        module, raw = library(kind), places(cells)
        if kind == "xgboost":
            model = module.XGBClassifier(
                **{"n_estimators": 20, "max_depth": 4, "n_jobs": 1, "enable_categorical": True}
                | {"feature_types": ["float", "float", "c"]}
                | settings
            ).fit(raw, label)
            model.save_model(folder / "model.ubj")
            return kind, "model.ubj", lambda rows: model.predict_proba(places(rows))[:, 1]
        model = module.LGBMClassifier(
            **{"n_estimators": 20, "n_jobs": 1, "verbose": -1} | settings
        ).fit(raw, label, categorical_feature=[2])
        model.booster_.save_model(folder / "model.txt")
        return kind, "model.txt", lambda rows: model.predict_proba(places(rows))[:, 1]

    return train


def a_file(kind: str) -> Train:
    """A net that somebody else exported, over amount, risk and place."""

    def train(cells: Any, label: Any, folder: Path) -> tuple[str, str, Scores]:
        from support_convert import numbers, through_skops

        from wherry_convert.tflite_convert import convert_tflite
        from wherry_convert.to_onnx import convert

        raw = places(cells)
        net = fitted(MLPClassifier((8,), max_iter=30, random_state=0), raw, label)
        to = convert if kind == "onnx" else convert_tflite
        made = to(through_skops(net), numbers(3))
        assert not made.encoder.steps, "the file alone is the model"
        (folder / f"model.{kind}").write_bytes(made.model)
        return kind, f"model.{kind}", lambda rows: net.predict_proba(places(rows))[:, 1]

    return train


SEED = {"random_state": 0}
FOREST = RandomForestClassifier(10, max_depth=7, **SEED)
ROWS: dict[str, tuple[Train, tuple[str, ...]]] = {
    "linear, numbers": (sklearn(ordinal(LogisticRegression(), FILLED)), BOTH),
    "perceptron, numbers": (
        sklearn(ordinal(MLPClassifier((16,), max_iter=20, **SEED), FILLED)),
        BOTH,
    ),
    "linear, one-hot strings": (sklearn(one_hot(LogisticRegression())), ONNX),
    "perceptron, one-hot strings": (
        sklearn(one_hot(MLPClassifier((16,), max_iter=20, **SEED))),
        ONNX,
    ),
    "tree": (sklearn(ordinal(DecisionTreeClassifier(max_depth=6, **SEED))), BOTH),
    "forest with gaps": (sklearn(ordinal(FOREST)), BOTH),
    "forest, one-hot strings": (sklearn(one_hot(FOREST)), BOTH),
    "extra trees": (sklearn(ordinal(ExtraTreesClassifier(10, max_depth=7, **SEED))), BOTH),
    "gradient boosting": (
        sklearn(ordinal(GradientBoostingClassifier(n_estimators=20, **SEED), FILLED)),
        BOTH,
    ),
    "HistGradientBoosting with gaps": (
        sklearn(ordinal(HistGradientBoostingClassifier(max_iter=20, **SEED))),
        BOTH,
    ),
    "HistGradientBoosting, native categories": (
        sklearn(HistGradientBoostingClassifier(max_iter=20, categorical_features=[2], **SEED)),
        BOTH,
    ),
    "AdaBoost": (
        sklearn(ordinal(AdaBoostClassifier(DecisionTreeClassifier(max_depth=2), **SEED), FILLED)),
        BOTH,
    ),
    "bagging": (sklearn(ordinal(BaggingClassifier(n_estimators=5, **SEED))), BOTH),
    "forest, isotonic": (
        sklearn(one_hot(CalibratedClassifierCV(FOREST, method="isotonic", cv=2))),
        ONNX,
    ),
    "linear, sigmoid": (
        sklearn(one_hot(CalibratedClassifierCV(LogisticRegression(), method="sigmoid", cv=2))),
        ONNX,
    ),
    "regressor": (sklearn(ordinal(RandomForestRegressor(10, max_depth=6, **SEED))), BOTH),
    "XGBoost": (booster("xgboost"), BOTH),
    "XGBoost, base_score": (booster("xgboost", base_score=0.2), BOTH),
    "XGBoost, dart": (booster("xgboost", booster="dart", rate_drop=0.4), BOTH),
    "LightGBM": (booster("lightgbm"), BOTH),
    "LightGBM, dart": (booster("lightgbm", boosting_type="dart"), BOTH),
    "LightGBM, zeros are gaps": (booster("lightgbm", zero_as_missing=True), BOTH),
    "an ONNX file": (a_file("onnx"), ONNX),
    "a TFLite file": (a_file("tflite"), ("tflite",)),
}
CELLS = [(row, runtime) for row, (_, runtimes) in ROWS.items() for runtime in runtimes]


def cells_of(table: Any) -> Any:
    """Rows as scikit-learn takes them."""
    found = np.column_stack(
        [np.asarray(table[name].to_pylist(), object) for name in ("amount", "risk", "mode")]
    )
    found[found[:, 1] == None, 1] = np.nan  # noqa: E711 - element by element
    return found


@pytest.mark.parametrize(("row", "runtime"), CELLS, ids=lambda value: value)
def test_the_agent_decides_as_the_framework(
    row: str, runtime: str, tmp_path: Path, capsys: Any
) -> None:
    need(runtime)
    reference, check = payments(1500, 1), payments(1200, 2)
    whole = "file" in row
    if whole:  # a file from elsewhere has no answer to gaps
        reference, check = (t.filter(t["risk"].is_valid()) for t in (reference, check))
    parquet.write_table(reference, tmp_path / "reference.parquet")
    parquet.write_table(check, tmp_path / "check.parquet")
    label = reference["fraud"].to_numpy()
    kind, file, predict = ROWS[row][0](cells_of(reference), label, tmp_path)
    swaps = [('kind = "sklearn"', f'kind = "{kind}"'), ("trees.skops", file)]
    swaps += [('name = "risk"\nmissing = "allow"', 'name = "risk"')] if whole else []
    path = write_project(tmp_path, more=f'[target]\nruntime = "{runtime}"\n', swaps=swaps)
    done = wherry(capsys, "build", path, "--out", tmp_path / "a.wherry", "--unsigned")
    assert done.code == 0, done.err
    view, project = look(tmp_path / "a.wherry"), load_project(path)
    raw = read_rows(project.data.check, project.input, project.data).raw
    scores = load_model(view.digest, view.parts).scores(raw)
    wanted = predict(cells_of(check))
    threshold = view.parts.manifest.output.threshold
    assert np.array_equal(scores >= threshold, wanted >= threshold)
    assert 0 < (scores >= threshold).sum() < len(scores)
    assert np.abs(scores - wanted).max() < 3e-6
    measured = view.parts.manifest.provenance["measured"]
    assert (measured["flips"], measured["edge_flips"]) == (0, 0)
