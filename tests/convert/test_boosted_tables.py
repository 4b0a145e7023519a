"""Real credit tables through XGBoost and LightGBM: strings, dirty codes and gaps as published.

The models are trained on data frames with categories; what the bundle makes of the raw rows
is held against what the framework itself makes of later rows of the frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_boosted import FLOAT32_SUM, assert_same
from support_convert import scored

from wherry_contract.features import InputContract
from wherry_convert.sources import load_source
from wherry_convert.to_onnx import convert

ROWS = 4000
TABLES: dict[str, tuple[str, Any, tuple[str, ...], tuple[str, ...]]] = {
    "sba": (
        "sba_loans_fy1997_fy2010",
        lambda t: t["MIS_Status"] == "CHGOFF",
        ("State", "BankState", "RevLineCr", "LowDoc"),
        ("NAICS", "Term", "NoEmp", "CreateJob", "DisbursementGross", "SBA_Appv"),
    ),
    "german": (
        "uci_german_credit",
        lambda t: t["creditability"] == "bad",
        ("status_of_existing_checking_account", "credit_history", "purpose", "housing", "job"),
        ("duration_in_month", "credit_amount", "age_in_years"),
    ),
}
FILES = {"xgboost": "model.ubj", "lightgbm": "model.txt"}


def _frame(shared: Path, name: str) -> tuple[Any, Any]:
    """Rows spread over the table in its order, and labels; its categories are those of the first half."""
    pd = pytest.importorskip("pandas", reason="pandas is absent; make test-frameworks")
    file, label_of, words, numbers = TABLES[name]
    table = pd.read_parquet(shared / "credit" / f"{file}.parquet")
    chosen = np.unique(np.linspace(0, len(table) - 1, ROWS).astype(int))
    table = table.iloc[chosen].reset_index(drop=True)
    label = label_of(table).to_numpy().astype(int)
    frame = table[[*words, *numbers]].copy()
    for column in words:
        known = sorted(frame[column][: len(frame) // 2].dropna().unique())
        sent = frame[column].astype(object)
        frame[f"{column} as sent"] = sent
        frame[column] = pd.Categorical(sent.where(sent.isin(known), None), categories=known)
    for column in numbers:
        frame[column] = frame[column].astype(float)
    return frame, label


def _train(kind: str, frame: Any, label: Any) -> Any:
    library = pytest.importorskip(kind, reason=f"the extra {kind} is absent; make test-frameworks")
    if kind == "xgboost":
        return library.XGBClassifier(
            n_estimators=60, max_depth=5, enable_categorical=True, max_cat_to_onehot=4, n_jobs=1
        ).fit(frame, label)
    settings: dict[str, Any] = {"n_estimators": 60, "n_jobs": 1, "verbose": -1}
    return library.LGBMClassifier(**settings).fit(frame, label)


@pytest.mark.parametrize("name", sorted(TABLES))
@pytest.mark.parametrize("kind", sorted(FILES))
def test_later_rows(kind: str, name: str, shared: Path, tmp_path: Path) -> None:
    frame, label = _frame(shared, name)
    words, numbers = TABLES[name][2:]
    half, features = len(frame) // 2, [*words, *numbers]
    model = _train(kind, frame[features][:half], label[:half])
    getattr(model, "booster_", model).save_model(tmp_path / FILES[kind])
    source = load_source(kind, tmp_path / FILES[kind])
    contract = InputContract.from_dict(
        {
            "name": name,
            "version": 1,
            "features": [
                # the lists hold what the first half has, in an order of their own
                {"name": word, "dtype": "category", "missing": "allow", "unseen": "allow"}
                | {"categories": list(frame[word].cat.categories)[::-1]}
                for word in words
            ]
            + [{"name": number, "missing": "allow"} for number in numbers],
        }
    )
    sent = frame[[*(f"{word} as sent" for word in words), *numbers]].astype(object)
    sent = sent.where(sent.notna(), None)
    rows = [dict(zip(features, row, strict=True)) for row in sent.itertuples(index=False)]
    raw = contract.matrix(rows)
    later = np.arange(half, len(frame))
    if kind == "xgboost":  # it refuses names that it has not seen, a frame holds them as gaps
        later = later[(raw[later, : len(words)] != -1).all(axis=1)]
    wanted = model.predict_proba(frame[features].iloc[later])[:, 1]
    assert np.abs(source.scores(raw[later], contract) - wanted).max() < 1e-12
    found = scored(convert(source, contract)).scores(raw[later])
    assert np.abs(found - wanted).max() < FLOAT32_SUM
    assert_same(source, raw, contract)
    assert any(question.members for question in source.grown.questions)  # type: ignore[attr-defined]
