"""Rows of a table, batch by batch: what a device would have been asked, when, and which device."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry.data import table_matrix
from wherry_contract.errors import SetupError
from wherry_contract.extras import how_to_install
from wherry_contract.features import UNSEEN, InputContract, RawMatrix

BATCH_ROWS: Final = 16_384
_DAY: Final = 86_400.0
_ALONE: Final = "history"
_BEGIN: Final = 1_577_836_800.0  # 2020-01-01; where rows have no time, they are counted from here


@dataclass(frozen=True)
class History:
    """A table of past rows.

    Attributes:
        path: Parquet, or CSV.
        time: the column that says when: a time, a date, ISO text, or Unix seconds; "" for none.
        rows_per_day: how many rows make a day, where no column says when.
        device: the column that says where; "" if all was at one place.
    """

    path: Path
    time: str = ""
    rows_per_day: int = 0
    device: str = ""


@dataclass(frozen=True)
class Batch:
    """Some rows, in their order.

    Attributes:
        raw: float64, shape (rows, features).
        refused: for each row the code by which a device would have refused it, or "".
        times: float64, shape (rows,), Unix seconds.
        devices: for each row its device's id.
    """

    raw: RawMatrix
    refused: NDArray[np.str_]
    times: NDArray[np.float64]
    devices: NDArray[np.str_]


def count_rows(history: History) -> int:
    """How many rows there are; 0 if that shows only by reading them.

    Raises:
        SetupError: H02, H06 or H10.
    """
    if history.path.suffix == ".csv":
        return 0
    with _opened(history.path) as file:
        return int(file.metadata.num_rows)


def batches(history: History, contract: InputContract) -> Iterator[Batch]:
    """Read a table, so many rows at a time that memory does not depend on its length.

    Raises:
        SetupError: H02 it cannot be read, H06 pyarrow is missing, H10 a column is not there,
            or holds what it may not.
    """
    names = _Names()
    seen = 0
    # what a contract refuses, a device refuses row by row: it is counted, and no error here
    lenient = replace(
        contract,
        features=tuple(replace(f, missing="allow", unseen="allow") for f in contract.features),
    )
    columns = [*contract.names, *filter(None, (history.time, history.device))]
    for table in _tables(history.path, columns, contract):
        raw = table_matrix(history.path, table, lenient)
        times = _times(history, table, seen)
        devices = names.of(_column(history.path, table, history.device)) if history.device else None
        yield Batch(
            raw=raw,
            refused=_refusals(raw, contract),
            times=times,
            devices=np.full(len(raw), _ALONE) if devices is None else devices,
        )
        seen += len(raw)


def _refusals(raw: RawMatrix, contract: InputContract) -> NDArray[np.str_]:
    found = np.full(len(raw), "", "U3")
    for place, feature in reversed(list(enumerate(contract.features))):
        if feature.dtype == "category" and feature.unseen == "refuse":
            found[raw[:, place] == UNSEEN] = "C05"
        if feature.missing == "refuse":
            found[np.isnan(raw[:, place])] = "C02"
    return found


def _opened(path: Path) -> Any:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise SetupError("H06", how_to_install("host")) from error
    try:
        return parquet.ParquetFile(path)
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise SetupError("H10", f"{path.name}: {str(error).splitlines()[0][:300]}") from error


def _tables(path: Path, columns: Sequence[str], contract: InputContract) -> Iterator[Any]:
    import pyarrow as pa

    if path.suffix == ".csv":
        yield from _csv_tables(path, contract)
        return
    with _opened(path) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(BATCH_ROWS, columns=there):
            yield pa.Table.from_batches([batch])


def _csv_tables(path: Path, contract: InputContract) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import csv

    types = {
        feature.name: pa.string() if feature.dtype == "category" else pa.float64()
        for feature in contract.features
    }
    options = csv.ConvertOptions(column_types=types, strings_can_be_null=True)
    try:
        with csv.open_csv(path, convert_options=options) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise SetupError("H10", f"{path.name}: {str(error).splitlines()[0][:300]}") from error


def _column(path: Path, table: Any, name: str) -> Any:
    if table.column_names.count(name) != 1:
        held = ", ".join(table.column_names[:20])
        raise SetupError("H10", f"{path.name}: column {name!r} is not there; it has {held}")
    column = table.column(name).combine_chunks()
    if column.null_count:
        raise SetupError("H10", f"{path.name}: column {name!r} has gaps")
    return column


def _times(history: History, table: Any, seen: int) -> NDArray[np.float64]:
    import pyarrow as pa

    if not history.time:
        return _BEGIN + (seen + np.arange(table.num_rows)) * (_DAY / history.rows_per_day)
    column = _column(history.path, table, history.time)
    try:
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
        stamps = column.cast(pa.timestamp("ms"), safe=False).to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        detail = f"{history.path.name}: column {history.time!r} should hold times: {error}"
        raise SetupError("H10", detail.splitlines()[0][:300]) from error
    return np.asarray(stamps.astype("datetime64[ms]").astype(np.int64) / 1000, np.float64)


class _Names:
    """Ids of devices, made of whatever a column holds."""

    def __init__(self) -> None:
        self._ids: dict[Any, str] = {}
        self._taken: set[str] = set()

    def of(self, column: Any) -> NDArray[np.str_]:
        """The id of each row."""
        coded = column if hasattr(column, "indices") else column.dictionary_encode()
        ids = np.array([self._id(value) for value in coded.dictionary.to_pylist()], "U63")
        return np.asarray(ids[coded.indices.to_numpy(zero_copy_only=False)], np.str_)

    def _id(self, value: object) -> str:
        if value not in self._ids:
            plain = re.sub(r"[^a-z0-9]+", "-", str(value).lower()).strip("-")[:56] or "device"
            found, number = plain, 2
            while found in self._taken:
                found, number = f"{plain}-{number}", number + 1
            self._taken.add(found)
            self._ids[value] = found
        return self._ids[value]
