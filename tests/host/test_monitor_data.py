"""The judgement on data that others made, with known truth."""

from __future__ import annotations

import sys
import tomllib

import numpy as np
import pytest
from support import ROOT
from support_monitor import (
    BUNDLE,
    Fleet,
    alerts,
    scores,
)

from wherry.monitor import Reference, judge
from wherry_contract.features import InputContract
from wherry_contract.profile import build_profile


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
