"""Drift that happened: car loans with known truth, and ten years of loans to small businesses.

The extracts in `data/` run everywhere; the whole tables where the shared data lie.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from scipy import stats
from support_loans import DAY, EXTRACTS, MONTH, History, loans_by_month
from support_monitor import alerts

from wherry.monitor import ALERTS, FleetView, Policy, Tally, Watch, judge
from wherry_contract.features import Feature, InputContract, RawMatrix

CAR = ("car_value", "loan_length", "debt_to_income_ratio", "driver_tenure")


# --- NannyML's synthetic car loans ----------------------------------------------------------


def _car(folder: Path, prefix: str) -> tuple[History, int]:
    before, after = (
        parquet.read_table(folder / f"{prefix}car_loan_{part}.parquet")
        for part in ("reference", "analysis")
    )
    raw = [np.column_stack([t[name].to_numpy() for name in CAR]) for t in (before, after)]
    scores = [t["y_pred_proba"].to_numpy() for t in (before, after)]
    contract = InputContract("loan", 1, tuple(Feature(name) for name in CAR))
    found = History(contract, raw[0].astype(float), scores[0])
    size = len(raw[1]) // 10
    for day in range(10):
        part = slice(size * day, size * (day + 1))
        start = 1_532_304_000 + day * DAY
        found.send(start + 1000, start + 80_000, raw[1][part].astype(float), scores[1][part])
    return found, size


def _check_car(loans: History) -> None:
    """From the sixth of ten windows on, three columns shift; the other two never do."""
    for days in (1, 3, 5):
        view = judge(loans.references, loans.windows[:days])
        assert {cell.decision for cell in view.current} <= {"stable", "no baseline yet"}
    for days in (7, 8, 10):
        view = judge(loans.references, loans.windows[:days])
        raised = {subject for _, subject, _ in alerts(view)} - {"flagged"}
        assert raised == {"car_value", "loan_length", "score"}
    (score,) = [c for c in view.alerts if c.subject == "score" and not c.device]
    assert set(score.explained_by[:2]) == {"car_value", "loan_length"}


def test_car_loans() -> None:
    loans, size = _car(EXTRACTS, "")
    assert size == 2500
    _check_car(loans)


def test_all_car_loans(shared: Path) -> None:
    loans, size = _car(shared / "drift", "nannyml_synthetic_")
    assert size == 5000
    _check_car(loans)


def test_what_alarms_has_moved_in_the_raw_rows_and_nothing_else(shared: Path) -> None:
    """All seven columns: two beside the announced ones have moved as well, says an independent test."""
    tables = [
        parquet.read_table(shared / "drift" / f"nannyml_synthetic_car_loan_{part}.parquet")
        for part in ("reference", "analysis")
    ]
    kinds = ("salary_range", "repaid_loan_on_prev_car")
    names = (*CAR, "size_of_downpayment", *kinds)
    words = [
        [t[name].cast("string").to_numpy(zero_copy_only=False) for name in names] for t in tables
    ]
    levels = {name: tuple(sorted(set(words[0][names.index(name)]))) for name in names[4:]}
    features = [Feature(name) for name in CAR]
    features += [Feature(name, "category", categories=levels[name]) for name in levels]
    raw = []
    for table, texts in zip(tables, words, strict=True):
        columns = [table[name].to_numpy().astype(float) for name in CAR]
        columns += [np.searchsorted(levels[n], texts[names.index(n)]).astype(float) for n in levels]
        raw.append(np.column_stack(columns))
    scores = [table["y_pred_proba"].to_numpy() for table in tables]
    loans = History(InputContract("loan", 1, tuple(features)), raw[0], scores[0])
    for day in range(10):
        part, start = slice(5000 * day, 5000 * (day + 1)), 1_532_304_000 + day * DAY
        loans.send(start + 1000, start + 80_000, raw[1][part], scores[1][part])
    found = {subject for _, subject, _ in alerts(judge(loans.references, loans.windows))}
    moved = {
        name for place, name in enumerate(names) if _moved(raw[0][:, place], raw[1][25_000:, place])
    }
    assert found - {"score"} == moved == {"car_value", "loan_length", *kinds}
    still = [_moved(raw[0][:, place], raw[1][:25_000, place]) for place in range(len(names))]
    assert not any(still)


def _moved(before: RawMatrix, after: RawMatrix) -> bool:
    """By tests of scipy's on the rows themselves, far beyond chance."""
    values = np.unique(before)
    if len(values) > 20:
        return bool(stats.ks_2samp(before, after).pvalue < 1e-6)
    counts = [[(rows == value).sum() for value in values] for rows in (before, after)]
    return bool(stats.chi2_contingency(counts).pvalue < 1e-6)


# --- loans to small businesses --------------------------------------------------------------


def _business(path: Path) -> FleetView:
    loans = loans_by_month(path)
    tally = Tally(loans.references, MONTH)
    tally.add(loans.windows)
    return Watch(loans.references, tally, Policy(bucket_seconds=MONTH)).look(brief=True)


def _alarms(view: FleetView, subject: str) -> tuple[float, float]:
    """Years in which its alerts began first and stood last."""
    found = [
        cell.closed
        for cell in view.cells
        if cell.subject == subject and not cell.device and cell.kind == "shape" and cell.decision in ALERTS
    ]  # fmt: skip
    return 1970 + min(found) / (365.25 * DAY), 1970 + max(found) / (365.25 * DAY)


def _check_business(view: FleetView, first: tuple[float, float]) -> None:
    begun, ended = _alarms(view, "default")
    assert first[0] < begun < first[1], "11 % of defaults when the model was made, 25 % in 2005"
    assert 2008.3 < ended < 2009.5, "43 % in 2007, and back below 14 % by 2010"
    assert _alarms(view, "LowDoc")[0] == pytest.approx(2005.9, abs=0.2), "LowDoc ended that autumn"
    assert _alarms(view, "RevLineCr")[1] > 2010.5
    for subject, kind in (("default", "missing"), ("Term", "missing"), ("NoEmp", "missing")):
        kinds = [c for c in view.cells if (c.subject, c.kind) == (subject, kind) and not c.device]
        assert not [cell for cell in kinds if cell.decision in ALERTS]


def test_loans_to_small_businesses() -> None:
    """Every twelfth loan, some 350 in four weeks: the decay is seen from the end of 2005 on."""
    _check_business(_business(EXTRACTS / "sba_loans.parquet"), (2005.4, 2006.5))


def test_all_loans_to_small_businesses(shared: Path) -> None:
    """Some 4,000 in four weeks: it is seen from the summer of 2005 on."""
    _check_business(
        _business(shared / "credit" / "sba_loans_fy1997_fy2010.parquet"), (2005.2, 2005.7)
    )
