"""The judgement on data that others made, with known truth."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT
from support_monitor import (
    BUNDLE,
    Fleet,
    alerts,
    cells,
    scores,
)

from wherry.monitor import Reference, judge
from wherry_contract.features import Feature, InputContract
from wherry_contract.profile import build_profile


def test_car_loans_raise_exactly_the_columns_that_shift(shared: Path) -> None:
    """NannyML's synthetic car loans: from row 25,000 on three columns shift, the rest do not."""
    from pyarrow import parquet

    names = ("car_value", "loan_length", "debt_to_income_ratio", "driver_tenure")
    tables = [
        parquet.read_table(shared / f"drift/nannyml_synthetic_car_loan_{part}.parquet")
        for part in ("reference", "analysis")
    ]
    before, after = (np.column_stack([t[name].to_numpy() for name in names]) for t in tables)
    first, then = (table["y_pred_proba"].to_numpy() for table in tables)
    contract = InputContract("loan", 1, tuple(Feature(name) for name in names))
    fleet = Fleet()
    fleet.contract, fleet.profile = contract, build_profile(contract, before, first, 0.5)
    fleet.counter = fleet.profile.counter(contract)
    for day in range(10):
        part = slice(5000 * day, 5000 * (day + 1))
        marks = np.bincount(_bins(then[part]), minlength=64)
        more = {"scores": tuple(marks.tolist()), "flagged": int((then[part] >= 0.5).sum())}
        fleet.send("bank", day, after[part], **more)
    known = {BUNDLE: Reference(fleet.profile, contract)}
    assert not alerts(judge(known, fleet.windows[:5]))
    shifted = {"car_value", "loan_length", "score"}
    for days in (7, 10):
        view = judge(known, fleet.windows[:days])
        assert {cell.subject for cell in view.alerts} - {"flagged"} == shifted
    psi = {name: cells(view, name)[-1].evidence for name in names}
    assert all(psi.values())
    assert 1.7 < psi["car_value"].value < 1.95  # type: ignore[union-attr]  # as their README says
    assert psi["driver_tenure"].value < 0.006  # type: ignore[union-attr]


def _bins(found: Any) -> Any:
    from wherry_contract.histograms import score_bins

    return score_bins(found)


def test_leva_at_one_chain_are_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's real stream: from 28 July on one chain's amounts are in another currency."""
    example = ROOT / "examples" / "fraud_terminals"
    monkeypatch.syspath_prepend(str(example))
    import stream  # type: ignore[import-not-found]
    from pyarrow import parquet

    contract = InputContract.from_dict(
        tomllib.loads((example / "project.toml").read_text())["input"]
    )
    table = parquet.read_table(example / "data" / "train.parquet")
    train = np.column_stack([table[name].to_numpy() for name in contract.names])
    fleet = Fleet()
    fleet.contract = contract
    fleet.profile = build_profile(contract, train, scores(train), 0.5)
    fleet.counter = fleet.profile.counter(contract)
    known = {BUNDLE: Reference(fleet.profile, contract)}
    for moved in (False, True):
        payments = stream.payments()
        fleet.windows.clear()
        for chain, mine in stream.by_chain(
            stream.shifted(payments, chain="birch") if moved else payments
        ).items():
            for start in range(0, len(mine), 200):
                part = mine[start : start + 200]
                times = {"opened": part[0].at, "closed": part[-1].at}
                fleet.send(chain, 0, contract.matrix([item.row for item in part]), **times)
        found = {x for x in alerts(judge(known, fleet.windows)) if x[1] not in ("score", "flagged")}
        at_birch = {subject for device, subject, _ in found if device}
        assert at_birch == ({"TX_AMOUNT", "CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW"} if moved else set())
        assert {device for device, _, _ in found} <= {"birch", ""}
    sys.modules.pop("stream", None)
