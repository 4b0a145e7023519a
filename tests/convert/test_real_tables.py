"""Real tables through every booster to the agent: strings, dirty codes and gaps as published.

Each model is trained on the older half; the bundle is built from the cells of the file, and
the agent's decisions on the newer half are held against what the framework itself makes of
them, in its own data frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_boosted import need
from support_build import wherry
from support_convert import fitted

from wherry.bundle_view import look
from wherry_agent.serving.inference import load_model

pd = pytest.importorskip("pandas", reason="pandas is absent; make test-frameworks")
ROWS = 2400
TREES = 25


@dataclass(frozen=True)
class Real:
    """A table: how it is read, its label, columns that are words or codes, and numbers."""

    read: Callable[[Path], Any]
    label: Callable[[Any], Any]
    words: tuple[str, ...]
    numbers: tuple[str, ...]


def credit(name: str) -> Callable[[Path], Any]:
    return lambda shared: pd.read_parquet(shared / "credit" / f"{name}.parquet")


def handbook(shared: Path) -> Any:
    """The book's features of July beside the payments."""
    payments = pd.read_parquet(
        shared / "payments" / "fdh_transactions_2018-04_2018-07.parquet",
        columns=["TRANSACTION_ID", "TX_AMOUNT", "TX_FRAUD", "TX_TIME_SECONDS"],
    )
    features = pd.read_parquet(shared / "payments" / "fdh_features_2018-07.parquet")
    return features.merge(payments, on="TRANSACTION_ID").sort_values("TRANSACTION_ID")


TABLES = {
    "SBA loans": Real(
        credit("sba_loans_fy1997_fy2010"),
        lambda t: t["MIS_Status"] == "CHGOFF",
        ("State", "BankState", "RevLineCr", "LowDoc"),
        ("NAICS", "Term", "NoEmp", "NewExist", "CreateJob", "RetainedJob", "SBA_Appv"),
    ),
    "UCI credit default": Real(
        credit("uci_default_credit_card_clients"),
        lambda t: t["Y"] == 1,
        ("X2", "X3", "X4", "X6"),  # codes 0, 5, 6 and -2 are on no list of the authors
        ("X1", "X5", "X7", "X8", "X12", "X13", "X18", "X19", "X23"),
    ),
    "German credit": Real(
        credit("uci_german_credit"),
        lambda t: t["creditability"] == "bad",
        ("status_of_existing_checking_account", "credit_history", "purpose", "property", "job"),
        ("duration_in_month", "credit_amount", "age_in_years"),
    ),
    "Handbook payments": Real(
        handbook,
        lambda t: t["TX_FRAUD"] == 1,
        (),
        (
            "TX_AMOUNT", "TX_TIME_SECONDS", "TX_DURING_NIGHT", "TERMINAL_ID_RISK_1DAY_WINDOW",
            "TERMINAL_ID_RISK_7DAY_WINDOW", "TERMINAL_ID_NB_TX_7DAY_WINDOW",
            "CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW", "CUSTOMER_ID_NB_TX_1DAY_WINDOW",
        ),
    ),
}  # fmt: skip
PROJECT = """
[project]
name = "real"
version = "1.0.0"
counter = 1
[source]
kind = "{kind}"
path = "{path}"
[data]
reference = "old.parquet"
check = "new.parquet"
label = "bad"
[output]
flag_share = 0.1
{more}
[input]
name = "real"
version = 1
"""
CASES = [
    *((kind, "onnxruntime") for kind in ("xgboost", "lightgbm", "sklearn")),
    ("xgboost", "tflite"),
    ("lightgbm", "tflite"),
]


def cells(real: Real, shared: Path) -> tuple[Any, Any, int]:
    """Rows in the table's order, some with gaps among them; labels; where the newer half begins."""
    table = real.read(shared)
    label = real.label(table).to_numpy().astype(int)
    rare = np.flatnonzero(label)[:: max(1, int(label.sum()) // 300)]
    gaps = np.flatnonzero(table[[*real.words, *real.numbers]].isna().any(axis=1).to_numpy())
    even = np.linspace(0, len(table) - 1, min(ROWS, len(table))).astype(int)
    picked = np.unique(np.concatenate([even, rare, gaps[:: max(1, len(gaps) // 150)]]))
    frame = table.iloc[picked][[*real.words, *real.numbers]].reset_index(drop=True)
    for name in real.words:
        frame[name] = frame[name].map(lambda cell: cell if pd.isna(cell) else str(cell))
        frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    frame[[*real.numbers]] = frame[[*real.numbers]].astype(float)
    return frame, label[picked], len(picked) // 2


def known(real: Real, frame: Any, half: int) -> dict[str, list[str]]:
    """What the older half holds of each column of words."""
    return {name: sorted(set(frame[name][:half]) - {None}) for name in real.words}


def categorical(frame: Any, names: dict[str, list[str]]) -> Any:
    """The frame as XGBoost and LightGBM take it: a name that is not known is a gap."""
    made = frame.copy()
    for name, listed in names.items():
        made[name] = pd.Categorical(frame[name].where(frame[name].isin(listed)), categories=listed)
    return made


def train(kind: str, frame: Any, names: Any, label: Any, folder: Path) -> tuple[str, Any]:
    """Its file, and what it makes of cells."""
    if kind == "sklearn":
        from sklearn.ensemble import HistGradientBoostingClassifier
        from skops.io import dump

        def objects(rows: Any) -> Any:
            found = rows.to_numpy(object)
            found[found == None] = np.nan  # noqa: E711 - element by element
            return found

        model = HistGradientBoostingClassifier(
            max_iter=TREES, categorical_features=list(range(len(names))) or None, random_state=0
        )
        rows = objects(frame) if names else frame.to_numpy(float)
        dump(fitted(model, rows, label), folder / "model.skops")
        give = objects if names else lambda rows: rows.to_numpy(float)
        return "model.skops", lambda rows: model.predict_proba(give(rows))[:, 1]
    library = pytest.importorskip(kind, reason=f"the extra {kind} is absent; make test-frameworks")
    if kind == "xgboost":
        model = library.XGBClassifier(
            n_estimators=TREES, max_depth=5, enable_categorical=True, max_cat_to_onehot=4, n_jobs=1
        )
    else:
        model = library.LGBMClassifier(n_estimators=TREES, n_jobs=1, verbose=-1)
    model.fit(categorical(frame, names), label)
    file = {"xgboost": "model.ubj", "lightgbm": "model.txt"}[kind]
    getattr(model, "booster_", model).save_model(folder / file)
    return file, lambda rows: model.predict_proba(categorical(rows, names))[:, 1]


def features(real: Real, names: dict[str, list[str]]) -> str:
    found = [
        f'[[input.features]]\nname = "{name}"\nmissing = "allow"\ndtype = "category"\n'
        f'unseen = "allow"\ncategories = {json.dumps(listed)}\n'
        for name, listed in names.items()
    ]
    return "".join(
        [*found, *(f'[[input.features]]\nname = "{n}"\nmissing = "allow"\n' for n in real.numbers)]
    )


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("kind", "runtime"), CASES)
def test_the_agent_decides_as_the_framework(  # noqa: PLR0917 - pytest hands them in by name
    kind: str, runtime: str, table: str, shared: Path, tmp_path: Path, capsys: Any
) -> None:
    need(runtime)
    real = TABLES[table]
    frame, label, half = cells(real, shared)
    names = known(real, frame, half)
    file, predict = train(kind, frame[:half], names, label[:half], tmp_path)
    for name, rows in (("old", slice(0, half)), ("new", slice(half, None))):
        frame[rows].assign(bad=label[rows]).to_parquet(tmp_path / f"{name}.parquet")
    more = f'[target]\nruntime = "{runtime}"'
    path, out = tmp_path / "project.toml", tmp_path / "real.wherry"
    path.write_text(PROJECT.format(kind=kind, path=file, more=more) + features(real, names))
    done = wherry(capsys, "build", path, "--out", out, "--unsigned")
    assert done.code == 0, done.err
    view = look(out)
    newer = frame[half:].reset_index(drop=True)
    raw = view.parts.manifest.input.columns(
        {
            name: newer[name].astype(object).where(newer[name].notna(), None).tolist()
            for name in newer
        }
    )
    if kind == "xgboost":  # a code that is in no set is not what a gap in a frame is
        fit = (raw[:, : len(names)] != -1).all(axis=1)
        raw, newer = raw[fit], newer[fit]
    scores = load_model(view.digest, view.parts).scores(raw)
    wanted = predict(newer)
    threshold = view.parts.manifest.output.threshold
    assert np.array_equal(scores >= threshold, wanted >= threshold)
    assert 0 < (scores >= threshold).sum() < len(scores)
    assert np.abs(scores - wanted).max() < 3e-6
    measured = view.parts.manifest.provenance["measured"]
    assert (measured["flips"], measured["edge_flips"]) == (0, 0)


def test_the_tables_hurt(shared: Path) -> None:
    """Gaps, codes that nobody lists, and words in the newer half that the older one lacks."""
    frame, _, half = cells(TABLES["SBA loans"], shared)
    assert frame.isna().any(axis=1).sum() > 50
    assert set(frame["RevLineCr"]) >= {"Y", "N", "0", "T"}
    frame, _, half = cells(TABLES["UCI credit default"], shared)
    assert {"0", "5", "6"} <= set(frame["X3"])
    names = known(TABLES["German credit"], *cells(TABLES["German credit"], shared)[::2])
    assert all(listed for listed in names.values())
    frame, _, half = cells(TABLES["SBA loans"], shared)
    assert set(frame["BankState"][half:]) - set(frame["BankState"][:half])
