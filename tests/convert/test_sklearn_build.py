"""From loans as published to a bundle that the agent scores as scikit-learn does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from skops.io import dump
from support_build import wherry
from support_convert import fitted

from wherry.bundle_view import look
from wherry_agent.serving.inference import load_model

STRINGS = ("State", "RevLineCr", "LowDoc")
NUMBERS = ("Term", "NoEmp", "NewExist", "DisbursementGross", "SBA_Appv")
PROJECT = """
[project]
name = "loans"
version = "1.0.0"
counter = 1
[source]
kind = "sklearn"
path = "model.skops"
[data]
reference = "old.parquet"
check = "new.parquet"
label = "bad"
[output]
flag_share = 0.1
[input]
name = "loans"
version = 1
"""


def loans(path: Path) -> tuple[pa.Table, pa.Table]:
    """Loans of 1997 to 2003 and of later years, a few thousand of each."""
    table = parquet.read_table(path, columns=[*STRINGS, *NUMBERS, "default"])
    table = table.append_column("bad", table["default"].fill_null(0).cast(pa.int8()))
    half = len(table) // 2
    old, new = np.linspace(0, half - 1, 3000), np.linspace(half, len(table) - 1, 3000)
    return table.take(old.astype(int)), table.take(new.astype(int))


def cells(table: pa.Table) -> Any:
    """Rows as scikit-learn takes them."""
    columns = [np.array(table[name].to_pylist(), object) for name in (*STRINGS, *NUMBERS)]
    rows = np.stack(columns, axis=1)
    rows[rows == None] = np.nan  # noqa: E711 - element by element
    return rows


def features(table: pa.Table) -> str:
    """The input of the project file, from training rows."""
    found = []
    for name in STRINGS:
        known = sorted(set(table[name].to_pylist()) - {None})
        kind = f'dtype = "category"\nunseen = "allow"\ncategories = {json.dumps(known)}'
        found.append(f'[[input.features]]\nname = "{name}"\nmissing = "allow"\n{kind}\n')
    found += [f'[[input.features]]\nname = "{name}"\nmissing = "allow"\n' for name in NUMBERS]
    return "\n".join(found)


def prepared(words: Any, model: Any) -> Any:
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    both = ColumnTransformer(
        [("words", words, [0, 1, 2]), ("numbers", numbers, slice(3, None))], sparse_threshold=0
    )
    return make_pipeline(both, model)


ONE_HOT = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20)
FOREST = RandomForestClassifier(10, max_depth=8, random_state=0)
MODELS = {
    "native categories": HistGradientBoostingClassifier(
        max_iter=20, categorical_features=[0, 1, 2], random_state=0
    ),
    "one-hot forest": prepared(ONE_HOT, FOREST),
    "calibrated": prepared(ONE_HOT, CalibratedClassifierCV(FOREST, method="isotonic", cv=2)),
    "one-hot net": prepared(ONE_HOT, MLPClassifier((16,), max_iter=15, random_state=0)),
    "ordinal net": prepared(
        OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2
        ),
        MLPClassifier((16,), max_iter=15, random_state=0),
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_the_agent_decides_as_the_source(
    model: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = loans(shared / "credit" / "sba_loans_fy1997_fy2010.parquet")
    parquet.write_table(old, tmp_path / "old.parquet")
    parquet.write_table(new, tmp_path / "new.parquet")
    trained = fitted(MODELS[model], cells(old), old["bad"].to_numpy())
    dump(trained, tmp_path / "model.skops")
    path = tmp_path / "project.toml"
    path.write_text(PROJECT + features(old))
    bundle = tmp_path / "loans.wherry"
    done = wherry(capsys, "build", path, "--out", bundle, "--unsigned", "--json")
    assert done.code == 0, done.err
    view = look(bundle)
    contract = view.parts.manifest.input
    raw = contract.columns({name: new[name].to_pylist() for name in contract.names})
    scores = load_model(view.digest, view.parts).scores(raw)
    wanted = trained.predict_proba(cells(new))[:, 1]
    threshold = view.parts.manifest.output.threshold
    assert np.array_equal(scores >= threshold, wanted >= threshold)
    assert 0 < (scores >= threshold).sum() < len(scores)
    assert np.abs(scores - wanted).max() < 1e-5
    assert view.parts.manifest.provenance["measured"]["edge_flips"] == 0
