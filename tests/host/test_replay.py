"""`wherry drift replay`: history through the agent's counting and the server's ingest."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from support_agent import Made, make_bundle, reference_rows, statement_of
from support_build import wherry
from support_monitor import THRESHOLD

from wherry.replay import History, replay
from wherry.replay.devices import Devices
from wherry.replay.history import batches
from wherry_agent.serving.inference import load_model
from wherry_contract.bundle import assemble
from wherry_contract.profile import build_profile

DAY = 86_400
START = 1_532_304_000  # Monday, 23 July 2018


@dataclass
class Case:
    """A bundle with a reference of 8,000 rows, and eight days of two shops."""

    bundle: Made
    file: Path
    folder: Path

    def table(self, *, doubled: bool, rows: int = 900, days: int = 8) -> pa.Table:
        """Each day `rows` of either shop; from the fifth on one has twice the amounts."""
        inputs, parts = self.bundle.parts.manifest.input, []
        for day in range(days):
            for number, shop in enumerate(("Paris 1", "lyon-2")):
                raw = reference_rows(inputs, rows, seed=10 * day + number)
                if doubled and number and day >= 5:
                    raw[:, 0] *= 2
                columns = {name: raw[:, place] for place, name in enumerate(inputs.names)}
                times = START + day * DAY + np.linspace(8 * 3600, 20 * 3600, rows)
                parts.append(pa.table({**columns, "shop": [shop] * rows, "paid_at": times}))
        return pa.concat_tables(parts).sort_by("paid_at")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    made = make_bundle()
    inputs = made.parts.manifest.input
    raw = reference_rows(inputs, 8000, seed=99)
    scores = load_model("x", made.parts).scores(raw)
    layout = assemble(
        parts := replace(made.parts, profile=build_profile(inputs, raw, scores, THRESHOLD))
    )
    bundle = Made(layout, parts, statement_of(layout, parts.manifest))
    folder = tmp_path_factory.mktemp("replay")
    file = folder / "fraud.wherry"
    file.write_bytes(bundle.to_tar())
    return Case(bundle, file, folder)


def test_a_quiet_history_raises_nothing(case: Case, capsys: Any) -> None:
    data = case.folder / "quiet.parquet"
    parquet.write_table(case.table(doubled=False), data)
    done = wherry(capsys, "drift", "replay", data, "--model", case.file, "--time", "paid_at", "--device", "shop")  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert "14400 rows of 2 devices in " in done.out
    assert "nothing would have been raised" in done.out


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_what_would_have_been_raised_and_when(case: Case, ending: str, capsys: Any) -> None:
    data = case.folder / f"loud.{ending}"
    table = case.table(doubled=True)
    moments = [datetime.fromtimestamp(x, UTC) for x in table["paid_at"].to_pylist()]
    table = table.set_column(
        table.column_names.index("paid_at"), "paid_at", pa.array(moments, pa.timestamp("ms"))
    )
    (parquet.write_table if ending == "parquet" else csv.write_csv)(table, data)
    command = ("drift", "replay", data, "--model", case.file, "--time", "paid_at", "--device", "shop")  # fmt: skip
    plain = wherry(capsys, *command)
    assert plain.code == 1
    assert "error[Q03]" in plain.err
    assert "AMOUNT" in plain.err
    done = wherry(capsys, *command, "--json")
    assert done.code == 1
    found = json.loads(done.out)
    assert (found["schema"], found["rows"], found["devices"]) == ("wherry/drift-replay/1", 14400, 2)
    amount = [a for a in found["alarms"] if (a["cell"]["subject"], a["cell"]["device"]) == ("AMOUNT", "lyon-2")]  # fmt: skip
    (alarm,) = amount[:1]
    assert alarm["at"] == "2018-07-30T00:00:00.000Z", "the second of the doubled days is over"
    assert alarm["until"] is None
    assert alarm["cell"]["evidence"]["n"] == 900
    assert {a["cell"]["device"] for a in found["alarms"]} <= {"", "lyon-2"}
    assert alarm["cell"]["explained_by"]


def test_every_row_is_counted_as_a_device_counts_it(case: Case) -> None:
    """The sum of the windows is the direct count; each ends by rows or by time."""
    data = case.folder / "sum.parquet"
    table = case.table(doubled=False, rows=700, days=3)
    parquet.write_table(table, data)
    parts = case.bundle.parts
    history = History(data, time="paid_at", device="shop")
    devices = Devices(case.bundle.digest, parts, 200, 120.0)
    for batch in batches(history, parts.manifest.input):
        devices.play(batch)
    devices.stop()
    inputs = parts.manifest.input
    counter = parts.profile.counter(inputs)
    direct = counter.zeros()
    counter.add(direct, np.column_stack([table[name].to_numpy() for name in inputs.names]))
    names = [item.name for item in parts.profile.features]
    sums = [sum((w.features[name] for w in devices.sent[1:]), devices.sent[0].features[name]) for name in names]  # fmt: skip
    assert tuple(sums) == counter.split(direct)
    assert max(w.rows for w in devices.sent) <= 200
    assert max(w.closed - w.opened for w in devices.sent) <= 120 * 60
    assert {w.place.device for w in devices.sent} == {"paris-1", "lyon-2"}


def test_rows_that_a_device_refuses_are_told(case: Case) -> None:
    table = case.table(doubled=False, rows=400, days=2)
    amounts = table["AMOUNT"].to_pylist()
    amounts[5] = amounts[77] = None
    data = case.folder / "gaps.parquet"
    parquet.write_table(table.set_column(0, "AMOUNT", pa.array(amounts, pa.float64())), data)
    found = replay(History(data, time="paid_at"), case.bundle.digest, case.bundle.parts)
    assert found.refused == {"C02": 2}
    assert found.rows == 1598


def test_memory_does_not_grow_with_rows(case: Case) -> None:
    """Eight times the rows of the same days take no more than one batch's memory more."""
    peaks = []
    for rows in (4000, 32_000):
        data = case.folder / "long.parquet"
        parquet.write_table(case.table(doubled=False, rows=rows, days=2), data, row_group_size=4096)
        tracemalloc.start()
        found = replay(History(data, time="paid_at"), case.bundle.digest, case.bundle.parts)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.rows == 4 * rows
    assert peaks[1] < peaks[0] + 8 * 2**20


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param([], 2, "--time and --rows-per-day", id="no time"),
        pytest.param(["--time", "when"], 3, "'when' is not there", id="no such column"),
        pytest.param(["--time", "paid_at", "--device", "x"], 3, "'x' is not there", id="no device"),
        pytest.param(["--rows-per-day", "9", "--bucket", "5d"], 3, "R06", id="a bucket of 5 days"),
        pytest.param(["--time", "shuffled"], 3, "order of time", id="not sorted"),
    ],
)
def test_what_cannot_be_replayed(
    case: Case, arguments: list[str], code: int, said: str, capsys: Any
) -> None:
    table = case.table(doubled=False, rows=9000, days=2)
    shuffled = np.random.default_rng(1).permutation(table["paid_at"].to_numpy())
    data = case.folder / "odd.parquet"
    parquet.write_table(table.append_column("shuffled", pa.array(shuffled)), data)
    done = wherry(capsys, "drift", "replay", data, "--model", case.file, *arguments)
    assert (done.code, said in done.out + done.err) == (code, True), done.err
