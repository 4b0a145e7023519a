"""Rows of a project: Parquet or CSV in, raw matrix, labels, cards and days out.

Nothing is rounded on the way: numbers become double precision, categories stay strings
until the input contract gives them a code, and what is missing stays missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.errors import SetupError
from wherry_contract.extras import how_to_install
from wherry_contract.features import LARGEST, UNSEEN, Feature, InputContract, RawMatrix
from wherry_contract.wire import sha256_digest
from wherry_convert.sources.outputs import ONE_PROBABILITY, Wanted, class_names

from .project import Data

LIMIT_BYTES: Final = 4 * 2**30
_EXACT: Final = 2**53  # the largest integer below which a double holds every integer


@dataclass(frozen=True)
class Rows:
    """A table of a project.

    Attributes:
        raw: float64, shape (rows, features), as the input contract lays it out.
        labels: shape (rows,), or None if no label is named: bool; strings where the decision
            is between classes; float64 where it is about a value.
        cards: int64, shape (rows,), a number for each card; None if no card is named.
        days: int64, shape (rows,), days since 1970; None if no time is named.
        digest: of the file.
    """

    raw: RawMatrix
    labels: NDArray[Any] | None
    cards: NDArray[np.int64] | None
    days: NDArray[np.int64] | None
    digest: str

    def __len__(self) -> int:
        return len(self.raw)


def read_rows(
    path: Path, contract: InputContract, data: Data, wanted: Wanted = ONE_PROBABILITY
) -> Rows:
    """Read a Parquet or CSV file.

    Args:
        path: its ending says which of the two it is.
        contract: which columns are features, and what they may hold.
        data: names of the columns beside the features.
        wanted: what is decided, which says what a label is.

    Raises:
        SetupError: H02 it cannot be read, H06 pyarrow is missing, H10 it is no table, or
            lacks a column, or a column holds what it may not.
    """
    source = _Table(path, _load(path, contract, data))
    if not source.table.num_rows:
        raise SetupError("H10", f"{path.name} has no rows")
    return Rows(
        raw=table_matrix(path, source.table, contract),
        labels=source.label(data.label, wanted) if data.label else None,
        cards=source.cards(data.card) if data.card else None,
        days=source.days(data.time) if data.time else None,
        digest=_digest(path),
    )


def table_matrix(path: Path, table: Any, contract: InputContract) -> RawMatrix:
    """The raw matrix of some rows of a table.

    Args:
        path: of its file, for the error.
        table: of pyarrow.
        contract: which columns are features, and what they may hold.

    Returns:
        float64, shape (rows, features).

    Raises:
        SetupError: H10.
    """
    source = _Table(path, table)
    raw = np.empty((table.num_rows, len(contract.features)))
    for place, feature in enumerate(contract.features):
        raw[:, place] = source.feature(feature)
    return raw


def refuse_unknown_classes(rows: Rows, data: Data, classes: Sequence[str]) -> None:
    """Refuse labels that no column of the model stands for: they would all count as mistakes.

    Args:
        rows: the check rows.
        data: their file, and the label's name.
        classes: names of the columns, if the decision is between them; empty else.

    Raises:
        SetupError: H10.
    """
    if not classes or rows.labels is None:
        return
    unknown = ~np.isin(rows.labels.astype(str), classes)
    if unknown.any():
        row = int(unknown.argmax())
        raise SetupError(
            "H10",
            f"{data.check.name}: column {data.label!r} holds {rows.labels[row]!r} in row {row}, and"
            f" the model's classes are {', '.join(classes[:20])}",
            cure="name the model's columns, in order, with [output] classes, or leave such rows out",
        )


def _digest(path: Path) -> str:
    return sha256_digest(path.read_bytes())


def _load(path: Path, contract: InputContract, data: Data) -> Any:
    try:
        import pyarrow as pa
        from pyarrow import csv, parquet
    except ImportError as error:
        raise SetupError("H06", how_to_install("host")) from error
    wanted = [*contract.names, *filter(None, (data.label, data.time, data.card))]
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise SetupError("H10", f"{path.name} has more than {LIMIT_BYTES} bytes")
        if path.suffix == ".csv":
            # codes like 007 must stay strings, and a number must not be guessed from a few rows
            types = {
                feature.name: pa.string() if feature.dtype == "category" else pa.float64()
                for feature in contract.features
            }
            options = csv.ConvertOptions(column_types=types, strings_can_be_null=True)
            return csv.read_csv(path, convert_options=options)
        names = parquet.ParquetFile(path).schema_arrow.names
        return parquet.read_table(path, columns=[name for name in wanted if name in names])
    except OSError as error:
        if isinstance(error, pa.ArrowException) or not error.strerror:
            raise SetupError("H10", f"{path.name}: {_first_line(error)}") from error
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    except pa.ArrowException as error:
        raise SetupError("H10", f"{path.name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]


class _Table:
    """Takes typed columns out of a table; errors name file, column and first bad row."""

    def __init__(self, path: Path, table: Any) -> None:
        self._path = path
        self.table = table

    def error(self, name: str, what: str) -> SetupError:
        """The error for a column."""
        return SetupError("H10", f"{self._path.name}: column {name!r} {what}")

    def column(self, name: str) -> Any:
        """A column, as one array."""
        places = [place for place, other in enumerate(self.table.column_names) if other == name]
        if len(places) != 1:
            held = ", ".join(self.table.column_names[:20])
            raise self.error(name, f"is not there; it has {held}" if not places else "occurs twice")
        return self.table.column(places[0]).combine_chunks()

    def feature(self, feature: Feature) -> NDArray[np.float64]:
        """A feature's column of the raw matrix."""
        read = self._category if feature.dtype == "category" else self._number
        found = read(feature)
        gaps = np.isnan(found)
        if feature.missing == "refuse" and gaps.any():
            detail = f"is missing in row {int(gaps.argmax())}, and [input] refuses that"
            raise self.error(feature.name, detail)
        return found

    def _number(self, feature: Feature) -> NDArray[np.float64]:
        import pyarrow as pa

        column, name = self.column(feature.name), feature.name
        kinds = pa.types
        if kinds.is_integer(column.type):
            _refuse_inexact(self, column, name)
        elif not (
            kinds.is_floating(column.type)
            or kinds.is_boolean(column.type)
            or kinds.is_decimal(column.type)
            or kinds.is_null(column.type)
        ):
            raise self.error(name, f"should hold numbers, it holds {column.type}")
        if kinds.is_boolean(column.type):
            column = column.cast(pa.int8())
        found = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        found = np.asarray(found, np.float64)
        bad = np.abs(np.nan_to_num(found, nan=0.0, posinf=np.inf, neginf=-np.inf)) > LARGEST
        if bad.any():
            row = int(bad.argmax())
            raise self.error(name, f"is infinite or larger than float32 holds in row {row}")
        return found

    def _category(self, feature: Feature) -> NDArray[np.float64]:
        import pyarrow as pa
        from pyarrow import compute

        column = self._strings(feature.name)
        codes = compute.index_in(column, pa.array(feature.categories, column.type))
        unseen = compute.and_(compute.is_null(codes), compute.is_valid(column))
        unlisted = np.asarray(unseen.to_numpy(zero_copy_only=False), np.bool_)
        if feature.unseen == "refuse" and unlisted.any():
            row = int(unlisted.argmax())
            detail = f"holds a category in row {row} that [input] does not list"
            raise self.error(feature.name, detail)
        found = np.asarray(codes.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
        return np.where(unlisted, UNSEEN, found)

    def _strings(self, name: str) -> Any:
        import pyarrow as pa

        column = self.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kinds = pa.types
        if kinds.is_integer(column.type) or kinds.is_null(column.type):
            return column.cast(pa.string())
        if not (kinds.is_string(column.type) or kinds.is_large_string(column.type)):
            raise self.error(name, f"should hold strings or integers, it holds {column.type}")
        return column

    def label(self, name: str, wanted: Wanted) -> NDArray[Any]:
        """The label, as what is decided wants it."""
        if wanted.decision == "value":
            return self._varied(name, self._whole(name))
        if wanted.decision == "class":
            return self._varied(name, self._classes(name))
        if wanted.positive:
            found = np.asarray(self._classes(name) == wanted.positive, np.bool_)
            if found.all() or not found.any():
                often = "always" if found.all() else "never"
                detail = f"is {often} {wanted.positive!r}, so nothing can be measured"
                raise self.error(name, detail)
            return found
        return self.labels(name)

    def _whole(self, name: str) -> NDArray[np.float64]:
        found = self._number(Feature(name))
        if np.isnan(found).any():
            raise self.error(name, f"is missing in row {int(np.isnan(found).argmax())}")
        return found

    def _classes(self, name: str) -> NDArray[Any]:
        values = self.column(name).to_pylist()
        for row, value in enumerate(values):
            if value is None or value != value:  # noqa: PLR0124 - NaN
                raise self.error(name, f"is missing in row {row}")
        return np.array(class_names(values), object)

    def _varied(self, name: str, found: NDArray[Any]) -> NDArray[Any]:
        if len(set(found.tolist())) < 2:
            raise self.error(name, f"is {found[0]} in every row, so nothing can be measured")
        return found

    def labels(self, name: str) -> NDArray[np.bool_]:
        """The label: 0 or 1 in every row, and both somewhere."""
        found = self._number(Feature(name))
        odd = ~np.isin(found, (0.0, 1.0))
        if odd.any():
            raise self.error(name, f"should be 0 or 1; row {int(odd.argmax())} is not")
        if len(np.unique(found)) < 2:
            raise self.error(name, f"is {found[0]:.0f} in every row, so nothing can be measured")
        return np.asarray(found == 1)

    def cards(self, name: str) -> NDArray[np.int64]:
        """A number for each card, in the order of the cards' own names."""
        column = self.column(name)
        if column.null_count:
            raise self.error(name, "has gaps")
        values = column.to_numpy(zero_copy_only=False)
        try:
            return np.unique(values, return_inverse=True)[1].astype(np.int64)
        except TypeError as error:  # names that have no order, as lists
            raise self.error(name, f"should name cards, it holds {column.type}") from error

    def days(self, name: str) -> NDArray[np.int64]:
        """Days since 1970, in UTC where a zone is stated."""
        import pyarrow as pa

        column = self.column(name)
        if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
            raise self.error(name, f"should hold dates or times, it holds {column.type}")
        if column.null_count:
            raise self.error(name, "has gaps")
        stamps = column.cast(pa.timestamp("s"), safe=False).to_numpy(zero_copy_only=False)
        return np.asarray(stamps.astype("datetime64[D]").astype(np.int64))


def _refuse_inexact(source: _Table, column: Any, name: str) -> None:
    from pyarrow import compute

    ends = compute.min_max(column).as_py()
    if any(end is not None and abs(end) > _EXACT for end in ends.values()):
        raise source.error(name, "holds integers beyond 2**53, which no double holds exactly")
