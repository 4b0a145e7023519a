"""What tests of drift that happened share: windows of a table, and ten years of loans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from support_monitor import BUNDLE

from wherry.monitor import Reference
from wherry.rows import StoredWindow
from wherry_contract.features import Feature, InputContract, RawMatrix
from wherry_contract.histograms import LATENCY_BINS, SCORE_BINS, score_bins
from wherry_contract.messages import Place
from wherry_contract.profile import build_profile
from wherry_contract.when import to_seconds
from wherry_contract.window import Window

EXTRACTS = Path(__file__).parent / "host" / "data"
DAY = 86_400.0
MONTH = 28 * DAY


class History:
    """Windows of a table, counted by the real counter."""

    def __init__(self, contract: InputContract, raw: RawMatrix, scores: Any) -> None:
        self.contract = contract
        self.profile = build_profile(contract, raw, scores, 0.5)
        self.counter = self.profile.counter(contract)
        self.references = {BUNDLE: Reference(self.profile, contract)}
        self.windows: list[StoredWindow] = []

    def send(self, opened: float, closed: float, raw: RawMatrix, scores: Any) -> None:
        """One window."""
        slots = self.counter.zeros()
        self.counter.add(slots, raw)
        names = self.contract.names
        window = Window(
            place=Place("bank", "0" * 16, len(self.windows) + 1, 1),
            bundle=BUNDLE,
            edges=self.profile.edges_id,
            opened=opened,
            closed=closed,
            rows=len(raw),
            flagged=int((scores >= 0.5).sum()),
            fallback=0,
            errors={},
            features=dict(zip(names, self.counter.split(slots), strict=True)),
            scores=tuple(np.bincount(score_bins(scores), minlength=SCORE_BINS).tolist()),
            latency=(0,) * LATENCY_BINS,
            reason="time",
        )
        self.windows.append(StoredWindow("bank", {}, closed, window))


LOAN = ("Term", "NoEmp", "GrAppv", "default")
CODES = {"RevLineCr": ("0", "N", "T", "Y"), "LowDoc": ("N", "Y")}


def _codes(values: Sequence[str | None], names: Sequence[str]) -> Any:
    place = {name: float(code) for code, name in enumerate(names)}
    return np.array([np.nan if v is None else place.get(v, -1.0) for v in values])


def loans_by_month(path: Path) -> History:
    """Loans approved from October 2001 on, by four weeks; the reference ends in September 2004.

    Whether a loan defaulted is a column like the others here: it is known years later, and its
    counts add up as they do.
    """
    table = parquet.read_table(path, columns=["ApprovalDate", *LOAN, *CODES])
    times = table["ApprovalDate"].cast(pa.timestamp("s")).to_numpy().astype("int64").astype(float)
    kept = np.flatnonzero(times >= to_seconds("2001-10-01T00:00:00Z"))
    numbers = [table[name].to_numpy(zero_copy_only=False).astype(float) for name in LOAN]
    codes = [_codes(table[name].to_pylist(), names) for name, names in CODES.items()]
    raw, times = np.column_stack([*numbers, *codes])[kept], times[kept]
    contract = InputContract(
        "business",
        1,
        (
            *(Feature(name, missing="allow") for name in LOAN),
            *(Feature(n, "category", categories=c, missing="allow", unseen="allow") for n, c in CODES.items()),
        ),
    )  # fmt: skip
    scores = np.full(len(raw), 0.1)
    early = times < to_seconds("2004-10-01T00:00:00Z")
    loans = History(contract, raw[early], scores[early])
    months = times // MONTH
    for month in np.unique(months):
        mine = months == month
        loans.send(float(times[mine].min()), float(times[mine].max()), raw[mine], scores[mine])
    return loans
