"""Real credit tables through real pipelines: strings, dirty codes and gaps as published.

Each model is trained on a sample in a few seconds; the bundle's scores are held against what
scikit-learn itself makes of the table's own cells, not of our reading of them.
"""

from __future__ import annotations

from pathlib import Path
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
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from support_convert import converted_from, differences, fitted, scored

from wherry_contract.features import InputContract
from wherry_convert.parity import between_scores, compare

ROWS = 3000
FLOAT32_SUM = 3e-6
# by table: its file, its label (1 for a default), columns that are strings or codes, numbers
TABLES: dict[str, tuple[str, Any, tuple[str, ...], tuple[str, ...]]] = {
    "sba": (
        "sba_loans_fy1997_fy2010",
        lambda t: t["MIS_Status"] == "CHGOFF",
        ("State", "BankState", "RevLineCr", "LowDoc", "NewExist", "UrbanRural"),
        ("NAICS", "Term", "NoEmp", "CreateJob", "RetainedJob", "DisbursementGross", "SBA_Appv"),
    ),
    "uci": (
        "uci_default_credit_card_clients",
        lambda t: t["Y"] == 1,
        ("X2", "X3", "X4", "X6"),
        ("X1", "X5", "X12", "X13", "X18", "X19", "X23"),
    ),
    "german": (
        "uci_german_credit",
        lambda t: t["creditability"] == "bad",
        (
            "status_of_existing_checking_account",
            "credit_history",
            "purpose",
            "savings_account_and_bonds",
            "housing",
            "installment_rate_in_percentage_of_disposable_income",
        ),
        ("duration_in_month", "credit_amount", "age_in_years"),
    ),
}


def columns_of(path: Path, names: Any) -> dict[str, Any]:
    """Numbers as float64, strings as objects; a gap is NaN."""
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(path, columns=list(names))
    found = {}
    for name in names:
        if pa.types.is_large_string(table.schema.field(name).type):
            cells = np.array(table[name].to_pylist(), object)
            cells[[cell is None for cell in cells]] = np.nan
            found[name] = cells
        else:
            found[name] = np.array(table[name].to_pylist(), np.float64)
    return found


def contract_of(columns: dict[str, Any]) -> InputContract:
    """What training rows hold; all may be missing, and strings may be new."""
    features: list[dict[str, Any]] = []
    for name, cells in columns.items():
        feature = {"name": name, "missing": "allow"}
        if cells.dtype == object:
            known = sorted({cell for cell in cells if isinstance(cell, str)})
            feature |= {"dtype": "category", "categories": known, "unseen": "allow"}
        features.append(feature)
    return InputContract.from_dict({"name": "test", "version": 1, "features": features})


def load(shared: Path, table: str) -> tuple[InputContract, Any, Any, Any]:
    """A contract of the older half; its rows and labels; rows of the newer half."""
    file, label_of, codes, measures = TABLES[table]
    path = shared / "credit" / f"{file}.parquet"
    extra = {"sba": ("MIS_Status",), "uci": ("Y",), "german": ("creditability",)}[table]
    whole = columns_of(path, (*codes, *measures, *extra))
    label = label_of(whole).astype(int)
    count, half = len(label), len(label) // 2
    gaps = np.zeros(count, np.bool_)
    for cells in whole.values():
        gaps |= cells != cells  # noqa: PLR0124 - true for NaN, among strings as well
    few = np.flatnonzero(gaps)[:: max(1, int(gaps.sum()) // 200)]
    even = np.linspace(0, count - 1, min(2 * ROWS, count)).astype(int)
    picked = np.union1d(even, few)
    old, new = picked[picked < half], picked[picked >= half]
    columns = {name: whole[name] for name in (*codes, *measures)}
    table_of = np.stack([cells.astype(object) for cells in columns.values()], axis=1)
    contract = contract_of({name: cells[old] for name, cells in columns.items()})
    return contract, table_of[old], label[old], table_of[new]


def one_hot(table: str, model: Any, *, min_frequency: int | None = 20) -> Any:
    """Codes one-hot, rare ones as one; numbers filled and scaled."""
    codes = list(range(len(TABLES[table][2])))
    measures = list(range(len(codes), len(codes) + len(TABLES[table][3])))
    encoder = OneHotEncoder(
        handle_unknown="infrequent_if_exist", min_frequency=min_frequency, sparse_output=False
    )
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    both = ColumnTransformer([("codes", encoder, codes), ("numbers", numbers, measures)])
    return make_pipeline(both, model)


def ordinal(table: str, model: Any) -> Any:
    """Codes in alphabetical order, numbers as they are, gaps included."""
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    codes = list(range(len(TABLES[table][2])))
    return make_pipeline(
        ColumnTransformer([("codes", encoder, codes)], remainder="passthrough"), model
    )


def native(table: str, model: Any) -> Any:
    """Codes as the model's own categories."""
    return model.set_params(categorical_features=list(range(len(TABLES[table][2]))))


def hist() -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(max_iter=30, random_state=0)


MODELS = {
    "native categories": lambda t: native(t, hist()),
    "ordinal HistGB": lambda t: ordinal(t, hist()),
    "ordinal forest": lambda t: ordinal(t, RandomForestClassifier(15, random_state=0)),
    "one-hot boosting": lambda t: one_hot(t, GradientBoostingClassifier(n_estimators=20)),
    "one-hot extra trees": lambda t: one_hot(t, ExtraTreesClassifier(10, max_depth=10)),
    "one-hot logistic": lambda t: one_hot(t, LogisticRegression(max_iter=500)),
    "one-hot net": lambda t: one_hot(t, MLPClassifier((24,), max_iter=15, random_state=0)),
}


def cell(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("table", TABLES)
def test_no_flip_on_rows_as_published(shared: Path, table: str, model: str) -> None:
    contract, rows, label, new = load(shared, table)
    trained = fitted(MODELS[model](table), rows, label)
    source, converted = converted_from(trained, contract)
    for seen in (rows, new):
        reference = trained.predict_proba(seen)[:, 1]
        raw = contract.columns(
            {name: list(map(cell, seen[:, place])) for place, name in enumerate(contract.names)}
        )
        found = scored(converted).scores(raw)
        for wanted in (0.05, 0.2, 0.5):
            threshold = between_scores(reference, wanted)
            difference = compare(reference, found, threshold)
            assert difference.flips == 0
            assert difference.largest < FLOAT32_SUM
    made = differences(source, converted, raw[:300], contract)
    assert {name: d.flips for name, d in made.items() if d.flips} == {}


def test_the_tables_hurt(shared: Path) -> None:
    """Dirty codes, gaps, and strings in the newer half that the older one does not hold."""
    contract, rows, _, new = load(shared, "sba")
    dirty = {cell for cell in rows[:, contract.names.index("RevLineCr")] if isinstance(cell, str)}
    assert dirty - {"Y", "N"}
    assert any(isinstance(value, float) and np.isnan(value) for value in np.ravel(rows))
    names = contract.features[0].categories, contract.features[3].categories
    fresh = [
        set(map(str, new[:, place])) - set(known)
        for place, known in zip((0, 3), names, strict=True)
    ]
    assert any(fresh)
