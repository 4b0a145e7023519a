"""Rows of a project: what is read, exactly, and what is refused."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from support_build import payments, write_project

from wherry.data import Rows, read_rows
from wherry.project import load_project
from wherry_contract.errors import SetupError

GOOD: dict[str, Any] = {
    "at": pa.array([0, 86_399, 86_400], pa.timestamp("s")),
    "card": [7, 3, 7],
    "amount": [0.1, 2.0, 1e300 / 1e270],
    "risk": pa.array([0.5, None, float("nan")]),
    "mode": ["chip", "stripe", "chip"],
    "fraud": [0, 1, 0],
}


def _read(folder: Path, columns: dict[str, Any], *, unseen: str = "refuse") -> Rows:
    swaps = [('"stripe"]', f'"stripe"]\nunseen = "{unseen}"')]
    project = load_project(write_project(folder, swaps=swaps))
    path = folder / "rows.parquet"
    parquet.write_table(pa.table(columns), path)
    return read_rows(path, project.input, project.data)


def test_rows_are_laid_out_by_the_contract(tmp_path: Path) -> None:
    rows = _read(tmp_path, GOOD)
    wanted = [[0.1, 0.5, 0], [2.0, np.nan, 2], [1e300 / 1e270, np.nan, 0]]
    np.testing.assert_array_equal(rows.raw, np.array(wanted))
    assert rows.labels is not None
    assert rows.cards is not None
    assert rows.days is not None
    assert rows.labels.tolist() == [False, True, False]
    assert rows.cards.tolist() == [1, 0, 1]
    assert rows.days.tolist() == [0, 0, 1]


SAME = [
    pytest.param("amount", pa.array([1, 2, 3], pa.int64()), [1.0, 2.0, 3.0], id="integers"),
    pytest.param("amount", pa.array([True, False, True]), [1.0, 0.0, 1.0], id="flags"),
    pytest.param("amount", pa.array([0.1, 0.2, 0.3], pa.float32()),
                 [float(np.float32(x)) for x in (0.1, 0.2, 0.3)], id="float32"),
    pytest.param("amount", pa.array([Decimal("1.5")] * 3), [1.5] * 3, id="decimals"),
    pytest.param("amount", [2**53, 0, -(2**53)], [2.0**53, 0.0, -(2.0**53)], id="2**53"),
    pytest.param("risk", pa.nulls(3), [np.nan] * 3, id="nothing but gaps"),
    pytest.param("mode", pa.array(["chip", "stripe", "chip"]).dictionary_encode(),
                 [0.0, 2.0, 0.0], id="dictionary"),
    pytest.param("mode", pa.array(["chip"] * 3, pa.large_string()), [0.0] * 3, id="large strings"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "column", "wanted"), SAME)
def test_kinds_of_columns(tmp_path: Path, name: str, column: Any, wanted: list[float]) -> None:
    rows = _read(tmp_path, GOOD | {name: column})
    place = ("amount", "risk", "mode").index(name)
    np.testing.assert_array_equal(rows.raw[:, place], wanted)


def test_unlisted_categories_where_they_are_allowed(tmp_path: Path) -> None:
    rows = _read(tmp_path, GOOD | {"mode": ["chip", "dial-up", "7"]}, unseen="allow")
    assert rows.raw[:, 2].tolist() == [0, -1, -1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([dt.date(1970, 1, 1)] * 2 + [dt.date(1970, 1, 2)]),
        pa.array([0, 86_399_999_999, 86_400_000_000], pa.timestamp("us", "UTC")),
    ],
    ids=["dates", "with a zone"],
)
def test_days(tmp_path: Path, column: Any) -> None:
    rows = _read(tmp_path, GOOD | {"at": column})
    assert rows.days is not None
    assert rows.days.tolist() == [0, 0, 1]


def _without(name: str) -> dict[str, Any]:
    return {other: column for other, column in GOOD.items() if other != name}


BAD = [
    pytest.param(_without("amount"), "column 'amount' is not there; it has", id="no feature"),
    pytest.param(_without("fraud"), "column 'fraud' is not there", id="no label"),
    pytest.param(_without("at"), "column 'at' is not there", id="no time"),
    pytest.param(_without("card"), "column 'card' is not there", id="no card"),
    pytest.param(GOOD | {"amount": ["1", "2", "3"]}, "should hold numbers", id="strings"),
    pytest.param(GOOD | {"amount": [1.0, None, 2.0]}, "missing in row 1", id="gap"),
    pytest.param(GOOD | {"amount": [1.0, 2.0, np.nan]}, "missing in row 2", id="NaN"),
    pytest.param(GOOD | {"amount": [1.0, np.inf, 2.0]}, "infinite", id="infinite"),
    pytest.param(GOOD | {"amount": [1.0, 2.0, -1e39]}, "larger than float32", id="beyond float32"),
    pytest.param(GOOD | {"amount": [2**53 + 1, 0, 0]}, "2**53", id="integer without a double"),
    pytest.param(GOOD | {"mode": ["chip", None, "chip"]}, "missing in row 1", id="no category"),
    pytest.param(GOOD | {"mode": ["chip", "chip", "dial-up"]}, "row 2", id="unlisted category"),
    pytest.param(GOOD | {"mode": [0.5, 1.0, 2.0]}, "strings or integers", id="number as category"),
    pytest.param(GOOD | {"fraud": [0, 0, 0]}, "is 0 in every row", id="one class"),
    pytest.param(GOOD | {"fraud": [1, 1, 1]}, "is 1 in every row", id="the other class alone"),
    pytest.param(GOOD | {"fraud": [0, 2, 1]}, "0 or 1; row 1", id="three classes"),
    pytest.param(GOOD | {"fraud": [0, None, 1]}, "0 or 1; row 1", id="label with a gap"),
    pytest.param(GOOD | {"at": [1, 2, 3]}, "dates or times", id="time as a number"),
    pytest.param(
        GOOD | {"at": pa.array([None, 0, 0], pa.timestamp("s"))}, "has gaps", id="time with a gap"
    ),
    pytest.param(GOOD | {"card": [1, None, 2]}, "has gaps", id="card with a gap"),
    pytest.param({n: pa.array(c)[:0] for n, c in GOOD.items()}, "no rows", id="no rows"),
]


@pytest.mark.parametrize(("columns", "words"), BAD)
def test_wrong_columns_are_refused(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    with pytest.raises(SetupError) as caught:
        _read(tmp_path, columns)
    assert caught.value.code == "H10"
    assert words in caught.value.detail
    assert "rows.parquet" in caught.value.detail


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("absent.parquet", None, "H02"),
        ("absent.csv", None, "H02"),
        ("broken.parquet", b"PAR1 and then nothing", "H10"),
        ("empty.parquet", b"", "H10"),
        ("empty.csv", b"", "H10"),
        ("ragged.csv", b"amount,risk\n1,2,3\n", "H10"),
        ("words.csv", b"amount,risk,mode,fraud,at,card\nmuch,0,chip,0,2018-07-01,1\n", "H10"),
    ],
)
def test_files_that_are_no_table(
    tmp_path: Path, name: str, content: bytes | None, code: str
) -> None:
    project = load_project(write_project(tmp_path))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SetupError) as caught:
        read_rows(tmp_path / name, project.input, project.data)
    assert caught.value.code == code


def test_csv_reads_as_parquet_does(tmp_path: Path) -> None:
    project = load_project(write_project(tmp_path))
    table = payments(500, 3)
    parquet.write_table(table, tmp_path / "rows.parquet")
    csv.write_csv(table, tmp_path / "rows.csv")
    one = read_rows(tmp_path / "rows.parquet", project.input, project.data)
    other = read_rows(tmp_path / "rows.csv", project.input, project.data)
    np.testing.assert_array_equal(one.raw, other.raw)
    for name in ("labels", "cards", "days"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.digest != other.digest


def test_codes_in_csv_stay_strings(tmp_path: Path) -> None:
    swaps = [('["chip", "contactless", "stripe"]', '["007", "7"]')]
    project = load_project(write_project(tmp_path, swaps=swaps))
    lines = ["amount,risk,mode,fraud,at,card", "1,,7,0,2018-07-01,1", "1,,007,1,2018-07-01,1"]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    rows = read_rows(tmp_path / "rows.csv", project.input, project.data)
    assert rows.raw[:, 2].tolist() == [1, 0]
    assert np.isnan(rows.raw[:, 1]).all()
